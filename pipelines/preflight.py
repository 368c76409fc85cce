"""Preflight from here: what a run would need, of Kubeflow, its namespace and the hub, before anything is sent.

Paths of the cluster's and the object store are for the first task of a run, which checks the same from within.
"""

import argparse
import base64
import contextlib
import functools
import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import yaml

from pipelines import server, submit
from pipelines.package import read_parameters
from pipelines.profiles import HF_SECRET, JUDGE_SECRET, STORE_SECRET

if TYPE_CHECKING:
    from croco.cluster import Kubernetes
    from croco.preflight import Finding

LAUNCHER = "kfp-launcher"
"""ConfigMap of Kubeflow's that says where a namespace's artifacts go."""
DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
DEFAULT_SECRET = "mlpipeline-minio-artifact"
DEFAULT_STORE = "seaweedfs.kubeflow:9000"
SECONDS = 8.0
"""How long an object store is tried from here, where it may well be out of reach. Ours."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit status: 0 nothing failed, 1 a check failed, or a mistake."
    submit.add_package_flags(parser)
    parser.add_argument("--service-account", default=submit.ACCOUNT, help=f"of the run (default {submit.ACCOUNT})")
    parser.add_argument("--context", help="kubectl's context (default: its current one)")
    server.add_flags(parser)


def main(flags: argparse.Namespace, screen: TextIO) -> int:
    """Check everything and print each finding; the exit status. Raises: as `read_parameters`."""
    from croco.cluster import from_config

    flags.allow_tags = True  # nothing is sent
    with contextlib.redirect_stderr(io.StringIO()), submit.packaged(flags) as package:
        given = package.task("preflight", read_parameters(flags.params, package))
    cluster = from_config(flags.context, flags.namespace or "kubeflow")
    failed = 0
    for finding in findings(flags, given, cluster):
        print(finding, file=screen, flush=True)
        failed += finding.state == "failed"
    print(f"{failed} checks failed" if failed else "nothing failed", file=screen)
    return int(failed > 0)


def findings(flags: argparse.Namespace, given: Mapping[str, Any], cluster: "Kubernetes | None") -> "Iterator[Finding]":
    """What came of each check, one after the other. Args: given: what the task `preflight` would be handed."""
    from croco.preflight import Checks, PreflightConfig, attempt

    yield attempt("Kubeflow", functools.partial(endpoint, flags))
    yield attempt("pipeline root", functools.partial(root, cluster))
    if flags.service_account:
        yield attempt("ServiceAccount", functools.partial(account, cluster, flags.service_account))
    hub = "models and data that are gated cannot be read"
    yield attempt(f"Secret {HF_SECRET}", functools.partial(secret, cluster, HF_SECRET, ("token",), hub))
    away = "the store is opened as whom the pods are" if given.get("store") else "no store is asked for"
    yield attempt(f"Secret {STORE_SECRET}", functools.partial(secret, cluster, STORE_SECRET, (), away))
    if given.get("judge_endpoint"):
        free = "the judge's endpoint is asked without a key"
        yield attempt(f"Secret {JUDGE_SECRET}", functools.partial(secret, cluster, JUDGE_SECRET, ("apikey",), free))
    yield from Checks(PreflightConfig(**given), here=False, look=cluster).findings()


def endpoint(flags: argparse.Namespace) -> str:
    """That Kubeflow answers, and lets us in. Raises: as `server.connect`."""
    return f"{server.connect(flags).host} answers"


def account(cluster: "Kubernetes | None", name: str) -> str:
    """That the ServiceAccount of the pods is there. Raises: FileNotFoundError."""
    from croco.preflight import Unknown

    if cluster is None:
        return Unknown("no cluster in reach of kubectl's configuration")
    try:
        cluster.account(name)
    except PermissionError as error:
        return Unknown(str(error))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; expected it; kubectl apply -k manifests/overlays/... makes it, or name one by --service-account"
        ) from error
    return f"{name}, in namespace {cluster.namespace}"


def secret(cluster: "Kubernetes | None", name: str, keys: tuple[str, ...], without: str) -> str:
    """That an optional Secret is there, with its keys. Raises: ValueError for one without."""
    from croco.preflight import Unknown

    if cluster is None:
        return Unknown("no cluster in reach of kubectl's configuration")
    try:
        found = cluster.secret(name)
    except PermissionError as error:
        return Unknown(str(error))
    except FileNotFoundError:
        return f"none in namespace {cluster.namespace}: {without}"
    if missing := [key for key in keys if not found.get(key)]:
        raise ValueError(
            f"found no key {missing[0]} in namespace {cluster.namespace}; expected one; kubectl create secret generic "
            f"{name} --from-file={missing[0]}=FILE"
        )
    return f"there, with {', '.join(sorted(found))}"


def root(cluster: "Kubernetes | None") -> str:
    """That the namespace's artifacts have a place that can be written. Raises: FileNotFoundError; as the store."""
    from croco.bucket import open_bucket
    from croco.connection import Patience
    from croco.preflight import Unknown, probe
    from croco.store import Store

    if cluster is None:
        return Unknown("no cluster in reach of kubectl's configuration; the first task of a run writes there")
    try:
        place, about = launcher(cluster)
        scheme, _, path = place.partition("://")
        if scheme not in ("minio", "s3"):
            return Unknown(f"{place}: its keys are the cluster's; the first task of a run writes there")
        reference = about.get("credentials", {}).get("secretRef", {})
        if not reference:
            return Unknown(f"{place}: opened as whom the pods are; the first task of a run writes there")
        settings = keys(cluster, about, reference)
    except PermissionError as error:
        return Unknown(str(error))
    quick = Patience(deadline=SECONDS, connect=SECONDS, read=SECONDS)
    try:
        return probe(Store(place, open_bucket(path, settings, quick)))
    except ConnectionError as error:
        return Unknown(f"{place}: not in reach from here ({error}); the first task of a run writes there")


def launcher(cluster: "Kubernetes") -> tuple[str, Mapping[str, Any]]:
    """(pipeline root, how it is reached), of the namespace's ConfigMap, or as Kubeflow has it without one."""
    usual = {
        "endpoint": DEFAULT_STORE,
        "disableSSL": True,
        "credentials": {
            "secretRef": {
                "secretName": DEFAULT_SECRET, "accessKeyKey": "accesskey", "secretKeyKey": "secretkey",
            }
        },
    }  # fmt: skip
    try:
        found = cluster.config_map(LAUNCHER)
    except FileNotFoundError:
        return DEFAULT_ROOT, usual
    place = found.get("defaultPipelineRoot", DEFAULT_ROOT)
    providers = yaml.safe_load(found.get("providers", "")) or {}
    scheme = place.partition("://")[0]
    return place, providers.get(scheme, {}).get("default") or (usual if scheme == "minio" else {})


def keys(cluster: "Kubernetes", about: Mapping[str, Any], reference: Mapping[str, str]) -> Any:
    """How to reach the bucket, with the keys of its Secret. Raises: ValueError if that is not there or lacks one."""
    from croco.connection import Settings

    name = reference["secretName"]
    try:
        found = cluster.secret(name)
        access, private = (base64.b64decode(found[reference[key]]).decode() for key in ("accessKeyKey", "secretKeyKey"))
    except (FileNotFoundError, KeyError) as error:
        raise ValueError(
            f"found no Secret {name} with its two keys in namespace {cluster.namespace}; expected one, as "
            f"ConfigMap {LAUNCHER} says; without it no task can write what it makes"
        ) from error
    scheme = "http" if about.get("disableSSL") else "https"
    return Settings(f"{scheme}://{about['endpoint']}", about.get("region"), None, access, private)
