"""How a bucket is reached: settings and their order, credentials that never show, certificates, the pod's identity."""

import json
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from objectstore import S3, SECRET
from objectstore.proxy import Proxy

from croco import bucket, connection, store
from croco.connection import Patience, Settings, settings

BRIEF = Patience(deadline=0.2, connect=5, read=5, first_pause=0.01)


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """The folder of a mounted Secret with everything in it."""
    folder = tmp_path / "secret"
    folder.mkdir()
    content = {"accesskey": "a", "secretkey": "b", "sessiontoken": "c", "endpoint": "http://s3:9000", "region": "de"}
    for name, text in content.items():
        (folder / name).write_text(text + "\n")
    (folder / "ca.crt").write_text("certificates")
    return folder


def test_a_mounted_secret_says_everything(mounted: Path) -> None:
    assert settings({}, mounted) == Settings("http://s3:9000", "de", str(mounted / "ca.crt"), "a", "b", "c")


def test_the_environment_comes_first(mounted: Path) -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_SESSION_TOKEN": "z",
        "AWS_ENDPOINT_URL": "http://other",
        "AWS_ENDPOINT_URL_S3": "http://s3.other",
        "AWS_DEFAULT_REGION": "fr",
        "AWS_CA_BUNDLE": "/certificates",
    }
    assert settings(environment, mounted) == Settings("http://s3.other", "fr", "/certificates", "x", "y", "z")
    del environment["AWS_ENDPOINT_URL_S3"]
    environment["AWS_REGION"] = "es"
    assert settings(environment, mounted).endpoint == "http://other"
    assert settings(environment, mounted).region == "es"


def test_credentials_of_two_sources_are_never_mixed(mounted: Path) -> None:
    given = settings({"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}, mounted)
    assert (given.access_key, given.secret_key, given.session_token) == ("x", "y", "")
    with pytest.raises(ValueError, match="one of access key and secret key; expected both"):
        settings({"AWS_ACCESS_KEY_ID": "x"}, mounted)


def test_without_settings_it_is_the_public_cloud(tmp_path: Path) -> None:
    assert settings({}, tmp_path) == Settings("https://s3.amazonaws.com", None, None, "", "", "")


def test_a_repr_shows_no_credentials(mounted: Path, s3: S3) -> None:
    given = Settings("http://s3:9000", "de", None, "access-key", "secret-key", "session-token")
    opened = store.open_store(s3.location)
    for shown in map(repr, (given, opened, opened.backend)):
        assert not any(secret in shown for secret in ("access-key", "secret-key", "session-token", SECRET))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Settings("seaweedfs:9000"), "expected http://HOST:PORT"),
        (Settings("http://s3:9000/path"), "path in endpoint is not allowed"),
        (Settings("http://s3:9000", ca="/no/such/file"), "/no/such/file: found no file; expected the certificates"),
        (Settings("http://s3:9000", region="de de"), "invalid region"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: Settings, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bucket.open_bucket("bucket", given, BRIEF)


def test_the_bucket_can_be_asked_for_its_region(s3: S3) -> None:
    proxy = Proxy(s3.port)
    given = Settings(proxy.endpoint, None, None, "croco:owner", SECRET)
    bucket.open_bucket(s3.bucket, given, BRIEF)
    assert proxy.requests[0].path == f"/{s3.bucket}?location="
    proxy.close()


def test_a_session_token_is_sent_and_signed(s3: S3) -> None:
    proxy = Proxy(s3.port)
    given = Settings(proxy.endpoint, "us-east-1", None, "croco:owner", SECRET, "session-token")
    bucket.open_bucket(s3.bucket, given, BRIEF)
    headers = proxy.requests[0].headers.lower()
    assert "x-amz-security-token: session-token" in headers
    assert "x-amz-security-token" in headers.split("signedheaders=")[1].split(",")[0]
    proxy.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and the certificate it signed itself, for 127.0.0.1."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return path


@pytest.fixture
def secure(s3: S3, certificate: Path) -> Iterator[Proxy]:
    proxy = Proxy(s3.port, str(certificate))
    yield proxy
    proxy.close()


def test_a_certificate_of_ones_own_is_trusted_by_name(
    s3: S3, secure: Proxy, certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", secure.endpoint)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    opened = store.open_store(s3.location)
    path = tmp_path / "file"
    path.write_bytes(b"over TLS")
    opened.fetch(opened.keep(path), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"over TLS"
    monkeypatch.delenv("AWS_CA_BUNDLE")
    (tmp_path / "ca.crt").write_bytes(certificate.read_bytes())
    bucket.open_bucket(s3.bucket, settings(folder=tmp_path))


def test_a_certificate_that_is_not_trusted_is_refused_at_once(
    s3: S3, secure: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", secure.endpoint)
    with pytest.raises(ConnectionError, match=r"a certificate that is not trusted .* in AWS_CA_BUNDLE"):
        store.open_store(s3.location)  # with two minutes of patience
    assert secure.requests == []


class Identity(BaseHTTPRequestHandler):
    """What a cluster answers to a pod that asks who it is; 404 to the wrong token."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "pod-token"
        self.send_response(200 if known else 404)
        self.end_headers()
        later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = {"AccessKeyId": "croco:owner", "SecretAccessKey": SECRET, "Token": "t", "Expiration": later}
        self.wfile.write(json.dumps(answer if known else {}).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def pod(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A pod without credentials of its own."""
    server = HTTPServer(("127.0.0.1", 0), Identity)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_port}/identity")
    yield monkeypatch
    server.shutdown()
    server.server_close()


def test_the_credentials_file_is_read(s3: S3, pod: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = croco:owner\naws_secret_access_key = {SECRET}\n"
    )
    store.open_store(s3.location).write("results/pair/k.json", {})


def test_a_pod_is_known_by_its_identity(s3: S3, pod: pytest.MonkeyPatch) -> None:
    pod.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token")
    store.open_store(s3.location).write("results/pair/k.json", {})


def test_no_credentials_are_said_with_every_place_to_put_them(s3: S3, pod: pytest.MonkeyPatch) -> None:
    pod.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "wrong-token")
    with pytest.raises(PermissionError, match=r"no credentials; expected AWS_ACCESS_KEY_ID .*identity") as caught:
        store.open_store(s3.location)
    assert "wrong-token" not in "".join(traceback.format_exception(caught.value))
    assert str(connection.SECRET) in str(caught.value)
