"""Connection: how to reach an object store: endpoint, credentials, certificates, and patience with its faults."""

import logging
import os
import random
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import certifi
import urllib3
from urllib3.exceptions import HTTPError, ProtocolError, SSLError
from urllib3.exceptions import TimeoutError as Timeout

if TYPE_CHECKING:
    from minio import Minio
    from minio.credentials.providers import Provider

SECRET = Path("/etc/croco/store")
"""Where a mounted Secret lies, with some of the files accesskey, secretkey, sessiontoken, endpoint, region, ca.crt."""
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN), the files accesskey and secretkey (sessiontoken) "
    f"in {SECRET}, the AWS credentials file, or the pod's identity"
)
PASSING = (ProtocolError, Timeout, SSLError)
"""Faults that may pass."""
_FRAMING = ("Content-Length", "Transfer-Encoding")
_BUSY = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds. All ours."""

    deadline: float = 120.0
    """From a request's first fault to giving up."""
    connect: float = 10.0
    read: float = 120.0
    """Without a single byte; a server may take a minute to copy what is large."""
    first_pause: float = 0.2
    """Doubles with every try; each pause is drawn between 0 and it (full jitter)."""
    longest_pause: float = 10.0


@dataclass(frozen=True)
class Settings:
    """How to reach an object store. Its repr holds no secret."""

    endpoint: str = "https://s3.amazonaws.com"
    region: str | None = None
    """None asks the server."""
    ca: str | None = None
    """A file of certificates to trust; None trusts the public ones."""
    access_key: str = field(default="", repr=False)
    """Empty leaves it to the AWS credentials file, then to the pod's identity."""
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)


def settings(environment: Mapping[str, str] | None = None, folder: Path = SECRET) -> Settings:
    """Settings from the environment, and what it lacks from the files of a mounted Secret.

    Credentials come whole from one of the two. Raises: ValueError if there is one of the two keys without the other.
    """
    variables = os.environ if environment is None else environment

    def variable(*names: str) -> str:
        return next(filter(None, (variables.get(name, "").strip() for name in names)), "")

    def file(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8").strip() if (folder / name).is_file() else ""

    keys = [variable(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")]
    if not any(keys[:2]):
        keys = [file(name) for name in ("accesskey", "secretkey", "sessiontoken")]
    if bool(keys[0]) != bool(keys[1]):
        raise ValueError(f"object store: found one of access key and secret key; expected both, as {CREDENTIALS}")
    return Settings(
        variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") or file("endpoint") or Settings.endpoint,
        variable("AWS_REGION", "AWS_DEFAULT_REGION") or file("region") or None,
        variable("AWS_CA_BUNDLE") or (str(folder / "ca.crt") if file("ca.crt") else None),
        *keys,
    )


class Trying:
    """The pauses between the tries of one request."""

    def __init__(self, where: str, patience: Patience) -> None:
        self.where, self.patience, self.tries, self.since = where, patience, 0, 0.0

    def restart(self) -> None:
        """Count tries and time anew, because there was progress."""
        self.tries = 0

    def pause(self, found: object) -> None:
        """Wait before the next try. Raises: ConnectionError once the deadline has passed."""
        if self.tries == 0:
            self.since = time.monotonic()
            logging.getLogger(__name__).warning(
                "%s: found %s; trying again for %g s", self.where, found, self.patience.deadline
            )
        left = self.since + self.patience.deadline - time.monotonic()
        if left <= 0:
            raise ConnectionError(
                f"{self.where}: found {found}, {self.tries + 1} times in {self.patience.deadline:g} s; expected an "
                "object store that answers; is this its endpoint (AWS_ENDPOINT_URL_S3), is it up, and has it room?"
            )
        longest = min(self.patience.first_pause * 2**self.tries, self.patience.longest_pause)
        time.sleep(min(random.uniform(0, longest), left))
        self.tries += 1


class _Patient(urllib3.PoolManager):
    """HTTP connections that try each request again."""

    def __init__(self, patience: Patience, ca: str | None = None) -> None:
        super().__init__(
            timeout=urllib3.Timeout(connect=patience.connect, read=patience.read),
            maxsize=10,
            ca_certs=ca or os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )
        self.patience = patience

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **request: Any
    ) -> urllib3.BaseHTTPResponse:
        where = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        trying = Trying(where, self.patience)
        while True:
            try:
                response = super().urlopen(method, url, redirect, **{**request, "retries": False})
            except PASSING as error:
                _refuse_untrusted(error, where)
                trying.pause(error)
                continue
            if not (fault := _fault(method, response)):
                return response
            response.drain_conn()
            trying.pause(fault)


def _fault(method: str, response: urllib3.BaseHTTPResponse) -> str | None:
    """What may pass and is wrong with an answer."""
    if response.status in _BUSY:
        return f"HTTP {response.status}"
    framed = response.version != 11 or any(name in response.headers for name in _FRAMING)
    if not framed and (response.status == 200 if method == "HEAD" else response.status not in (204, 304)):
        return "an answer cut short"  # Python's http.client takes half of a head for a whole one
    if method == "POST" and response.status == 200 and b"<Error>" in response.data[:500]:
        return "an error after HTTP 200"  # S3 may begin to answer the end of an upload before it knows
    return None


def _refuse_untrusted(error: Exception, where: str) -> None:
    """Raises: ConnectionError if it is a certificate that is not trusted, for that will not pass."""
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in error.args):
        raise ConnectionError(
            f"{where}: found a certificate that is not trusted ({error}); expected one of a known authority; "
            f"give the authority's own in AWS_CA_BUNDLE, or as {SECRET}/ca.crt"
        ) from error


def connect(given: Settings, patience: Patience) -> "Minio":
    """A client of the object store; asks it nothing yet.

    Raises: ValueError for an endpoint, region or file of certificates that cannot be.
    """
    from minio import Minio

    url = urlsplit(given.endpoint)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ValueError("object store: found an endpoint of another form; expected http://HOST:PORT or https://HOST")
    if given.ca and not Path(given.ca).is_file():
        raise ValueError(f"{given.ca}: found no file; expected the certificates to trust (AWS_CA_BUNDLE)")
    return Minio(
        url.netloc + url.path.rstrip("/"),
        secure=url.scheme == "https",
        region=given.region,
        http_client=_Patient(patience, given.ca),
        credentials=_provider(given),
    )


def _provider(given: Settings) -> "Provider":
    from minio.credentials import providers

    if given.access_key:
        return providers.StaticProvider(given.access_key, given.secret_key, given.session_token or None)

    class Found(providers.ChainedProvider):
        """The AWS credentials file or the pod's identity."""

        def retrieve(self) -> Any:
            try:
                return super().retrieve()
            except (ValueError, OSError, HTTPError):  # its text may hold a token
                raise PermissionError(f"object store: found no credentials; expected {CREDENTIALS}") from None

    short = Patience(deadline=5, connect=2, read=5)  # where there is no identity, nothing answers; ours
    identity = providers.IamAwsProvider(http_client=_Patient(short))
    return Found([providers.AWSConfigProvider(), identity])
