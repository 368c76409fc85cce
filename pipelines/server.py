"""Server: Kubeflow's API, as `submit`, `schedule` and `preflight` use it.

kfp.Client finds the address and the credentials. The calls are those of its generated part, for its own (2.17) have no
time limit, print links, take no description of a run, see one page of ten, wait on for a run that was cancelled, and
look up a pipeline in no namespace.
"""

import argparse
import contextlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines.package import Package

TIMEOUT = (10, 60)
"""Seconds to connect, and to wait for an answer. Ours."""
PAGE = 100
EXPERIMENT = "croco"
ENDPOINT, UI = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"
TOKEN, COOKIES = "KF_PIPELINES_SA_TOKEN_PATH", "KF_PIPELINES_COOKIES_PATH"
RENEW = "a token or cookie that is missing or expired is given anew by --token-file or --cookies-file"
FORWARD = "kubectl port-forward -n kubeflow service/ml-pipeline-ui 8080:80"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say where Kubeflow is, and who asks. A token goes by a file: a command line is seen by all."""
    add = parser.add_argument_group("Kubeflow").add_argument
    add("--host", default=os.environ.get(ENDPOINT), help=f"URL of Kubeflow Pipelines (default: ${ENDPOINT})")
    add("--ui", default=os.environ.get(UI), help=f"URL of its UI, for links (default: ${UI}, else the host)")
    add("--namespace", help="profile to run in, where Kubeflow has several users")
    add("--token-file", default=os.environ.get(TOKEN), help=f"file with a bearer token (default: ${TOKEN})")
    add("--cookies-file", default=os.environ.get(COOKIES), help=f"file with the gateway's cookie (default: ${COOKIES})")
    add("--ca", help="file of certificates to trust (default: $SSL_CERT_FILE)")


class Server:
    """A Kubeflow that answers. Every method raises as `call`."""

    def __init__(self, client: Any, host: str, ui: str, namespace: str | None) -> None:
        self.client, self.host, self.ui, self.namespace = client, host, ui.rstrip("/"), namespace

    def call(self, method: Callable[..., Any], **arguments: Any) -> Any:
        """A call's answer. Raises: PermissionError, FileNotFoundError, FileExistsError, ValueError or ConnectionError
        with one line of what the server said and what to do.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        with said(self.host):
            answer = method(**given, _request_timeout=TIMEOUT)
        kind = self.client.healthzs.api_client.last_response.getheader("Content-Type", "")
        if "json" not in kind:  # of which the client would make an empty answer
            raise PermissionError(
                f"{self.host}: found {kind or 'an answer of no type'}; expected JSON, as Kubeflow's API answers: is "
                f"this its address, and no page to log in at? {RENEW}"
            )
        return answer

    def pages(self, method: Callable[..., Any], field: str, **arguments: Any) -> Iterator[Any]:
        """Everything a list has, however many pages."""
        token = ""
        while True:
            answer = self.call(method, **arguments, page_size=PAGE, page_token=token)
            yield from getattr(answer, field) or []
            if not (token := answer.next_page_token):
                return

    def pipeline(self, name: str) -> str | None:
        """Id of the pipeline of this name; None if there is none."""
        known = self.pages(
            self.client.pipelines.pipeline_service_list_pipelines,
            "pipelines",
            namespace=self.namespace,
            filter=equals("display_name", name),
        )
        return next((pipeline.pipeline_id for pipeline in known if pipeline.display_name == name), None)

    def version(self, pipeline: str, name: str) -> str | None:
        """Id of a pipeline's version of this name; None if there is none."""
        known = self.pages(
            self.client.pipelines.pipeline_service_list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline
        )
        return next((version.pipeline_version_id for version in known if version.display_name == name), None)

    def publish(self, package: Package, name: str) -> tuple[str, str, bool]:
        """(id of the pipeline `name`, id of its version that is this package, whether that was uploaded now)."""
        models = self.client.api_models
        if (pipeline := self.pipeline(name)) is None:
            body = models.V2beta1Pipeline(name=name, display_name=name, namespace=self.namespace)
            create = self.client.pipelines.pipeline_service_create_pipeline
            pipeline = self.call(create, pipeline=body).pipeline_id
        if version := self.version(pipeline, package.version):
            return pipeline, version, False
        upload = self.client.pipeline_uploads.upload_pipeline_version
        said = f"sha256:{package.sha256}"
        made = self.call(
            upload, uploadfile=str(package.path), name=package.version, pipelineid=pipeline, description=said
        )
        return pipeline, made.pipeline_version_id, True

    def experiment(self, name: str) -> str | None:
        """Id of the experiment of this name; None if there is none."""
        known = self.pages(
            self.client.experiments.experiment_service_list_experiments,
            "experiments",
            namespace=self.namespace,
            filter=equals("display_name", name),
        )
        return next((experiment.experiment_id for experiment in known if experiment.display_name == name), None)

    def made_experiment(self, name: str) -> str:
        """Id of the experiment of this name, made if there is none."""
        if found := self.experiment(name):
            return found
        body = self.client.api_models.V2beta1Experiment(display_name=name, namespace=self.namespace)
        return str(
            self.call(self.client.experiments.experiment_service_create_experiment, experiment=body).experiment_id
        )

    def version_name(self, reference: Any) -> str:
        """Name of the version that a run or schedule refers to; `unknown` where it is no more."""
        if not reference or not reference.pipeline_version_id:
            return "unknown"
        get = self.client.pipelines.pipeline_service_get_pipeline_version
        try:
            found = self.call(get, pipeline_id=reference.pipeline_id, pipeline_version_id=reference.pipeline_version_id)
        except FileNotFoundError:
            return "unknown"
        return str(found.display_name)


def equals(key: str, value: str) -> str:
    """A filter of a list."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "string_value": value}]})


def connect(flags: argparse.Namespace) -> Server:
    """The Kubeflow that the flags name, after one request that shows that it lets us in.

    Raises: ValueError for an address that is not Kubeflow's, or a profile that is needed; PermissionError for
        credentials; ConnectionError if nothing answers; FileNotFoundError for a file that is not there.
    """
    if not flags.host:
        raise ValueError(f"--host: found none; expected Kubeflow's URL, there or in ${ENDPOINT}; {FORWARD} makes one")
    host = flags.host if "://" in flags.host else f"https://{flags.host}"
    host = host.split("/#")[0].rstrip("/")
    client = _client(host, flags)
    server = Server(client, host, flags.ui or host, flags.namespace)
    health = server.call(client.healthzs.healthz_service_get_healthz)
    if health.multi_user and not flags.namespace:
        raise ValueError(f"{host}: found a Kubeflow of several users; expected --namespace, the profile to run in")
    server.experiment(EXPERIMENT)  # health is told to anyone
    return server


def _client(host: str, flags: argparse.Namespace) -> Any:
    import kfp
    from kfp.client import ServiceAccountTokenVolumeCredentials

    for flag, path in [("--token-file", flags.token_file), ("--cookies-file", flags.cookies_file), ("--ca", flags.ca)]:
        if path and not Path(path).is_file():
            raise FileNotFoundError(f"{flag}: found no file {path}; expected one")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it tells of each of its tries
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that it is of 2.x, always
        return kfp.Client(
            host,
            namespace=flags.namespace or "-",  # for none it would ask the server, five times, 5 s apart
            credentials=ServiceAccountTokenVolumeCredentials(flags.token_file) if flags.token_file else None,
            cookies=Path(flags.cookies_file).read_text(encoding="ascii").strip() if flags.cookies_file else None,
            ssl_ca_cert=flags.ca or os.environ.get("SSL_CERT_FILE"),
        )


@contextlib.contextmanager
def said(host: str) -> Iterator[None]:
    """Around a call of the API: one line instead of a traceback. Raises: as `Server.call`."""
    import urllib3
    from kfp_server_api.exceptions import ApiException

    try:
        yield
    except ApiException as error:
        raise _plain(error, host) from error
    except urllib3.exceptions.HTTPError as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split()).split(": ")[-1][:120]
        raise ConnectionError(
            f"{host}: found no answer ({reason}); expected Kubeflow Pipelines; is it up and the address right? "
            f"{FORWARD} brings it to http://localhost:8080"
        ) from error


def _plain(error: Any, host: str) -> OSError | ValueError:
    """What the server refused, as a built-in exception."""
    what = f"HTTP {error.status} ({_message(error)})"
    if error.status in (301, 302, 303, 307, 308, 401):
        return PermissionError(f"{host}: found {what}; expected credentials that are valid; {RENEW}")
    if error.status == 403:
        return PermissionError(
            f"{host}: found {what}; expected the right to use this profile; is --namespace yours, and may you edit it?"
        )
    if error.status == 404:
        return FileNotFoundError(f"{host}: found {what}; expected Kubeflow Pipelines 2.17 or newer, and what was named")
    if error.status == 409:
        return FileExistsError(f"{host}: found {what}; expected a name that is free")
    if error.status in (0, None) or error.status >= 500 or error.status == 429:
        return ConnectionError(
            f"{host}: found {what}; expected an answer; try again, and look at the log of ml-pipeline"
        )
    return ValueError(f"{host}: found {what}; expected a request that it takes")


def _message(error: Any) -> str:
    try:
        text = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        text = error.reason or "it said nothing"
    return " ".join(str(text).split())[:300]
