"""What networks do to a bucket: each fault is tried again to success, or is one clear error and nothing half-written.

A proxy stands in front of a real S3 server and makes the faults.
"""

import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from objectstore import S3, SECRET
from objectstore.proxy import FAULTS, Proxy, Request, first, sometimes

from croco import bucket, connection, store
from croco.connection import Patience
from croco.store import Store

QUICK = Patience(deadline=20, connect=5, read=5, first_pause=0.01, longest_pause=0.1)
BRIEF = Patience(deadline=0.2, connect=5, read=5, first_pause=0.01, longest_pause=0.1)
PART = 5 << 20

Open = Callable[..., Store]


@pytest.fixture
def proxy(s3: S3) -> Iterator[Proxy]:
    proxy = Proxy(s3.port)
    yield proxy
    proxy.close()


@pytest.fixture
def through(s3: S3, proxy: Proxy) -> Open:
    """through(patience, setting=...) -> the store as seen through the proxy."""

    def through(patience: Patience = QUICK, bucket_name: str = s3.bucket, **changes: str) -> Store:
        given = replace(connection.settings(), **{"endpoint": proxy.endpoint, **changes})
        location = f"{bucket_name}/croco"
        return Store(f"s3://{location}", bucket.open_bucket(location, given, patience, PART))

    return through


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of two parts."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(PART + 1))
    return path


def use(opened: Store, path: Path, copy: Path) -> None:
    """Everything a store can do, with a file of two parts."""
    sha256 = opened.keep(path)
    opened.write("shards/sample/k.json", {"file": sha256})
    assert opened.read("shards/sample/k.json") == {"file": sha256}
    opened.fetch(sha256, copy)
    assert copy.read_bytes() == path.read_bytes()
    opened.backend.touch("shards/sample/k.json")
    assert [entry.name for entry in opened.entries()] == [store.file_name(sha256), "shards/sample/k.json"]
    opened.remove("shards/sample/k.json")
    assert opened.read("shards/sample/k.json") is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_tried_again(through: Open, proxy: Proxy, large: Path, tmp_path: Path, fault: str) -> None:
    opened = through()
    proxy.plan = first(2, fault, "GET", "HEAD", "PUT", "POST", "DELETE")
    use(opened, large, tmp_path / "copy")
    assert set(proxy.faults) == {fault}
    assert len(proxy.faults) >= 9  # two of each method, but there may be one DELETE


@pytest.mark.parametrize("seed", range(2))
def test_a_bad_network_costs_only_time(
    through: Open, proxy: Proxy, s3: S3, large: Path, tmp_path: Path, seed: int
) -> None:
    opened = through()
    proxy.plan = sometimes(seed, share=0.4)
    for turn in range(2):
        use(opened, large, tmp_path / f"copy{turn}")
    for number in range(10):
        opened.write(f"shards/sample/{number}.json", {"number": number})
    direct = store.open_store(s3.location)
    assert [direct.read(f"shards/sample/{number}.json") for number in range(10)] == [
        {"number": number} for number in range(10)
    ]


def later() -> datetime:
    return datetime.now(UTC) + store.DAY


@pytest.mark.parametrize("fault", ["reset-answer", "cut-answer", "stall"])
def test_a_body_that_breaks_off_is_read_on_from_there(
    through: Open, proxy: Proxy, large: Path, tmp_path: Path, fault: str
) -> None:
    opened = through(replace(QUICK, read=2))
    sha256 = opened.keep(large)
    proxy.requests.clear()
    proxy.plan = first(1, fault)
    opened.fetch(sha256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    begun, *resumed = [request.headers.lower() for request in proxy.requests]
    assert "range:" not in begun
    assert "range: bytes=" in resumed[-1]


def test_the_deadline_counts_from_the_last_progress(through: Open, proxy: Proxy, large: Path, tmp_path: Path) -> None:
    opened = through(Patience(deadline=0.05, first_pause=0.05))
    sha256 = opened.keep(large)
    proxy.plan = first(5, "cut-answer")  # five pauses are longer than that deadline
    opened.fetch(sha256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    assert proxy.faults == ["cut-answer"] * 5


@pytest.mark.parametrize("fault", ["reset", "busy", "reset-request"])
def test_what_does_not_pass_is_an_error_and_nothing_is_there(
    through: Open, proxy: Proxy, s3: S3, large: Path, fault: str
) -> None:
    opened = through(BRIEF)
    proxy.plan = first(10**6, fault, "PUT")
    for put in (lambda: opened.keep(large), lambda: opened.write("shards/sample/k.json", {})):
        with pytest.raises(
            ConnectionError, match=rf"{proxy.endpoint}: found .*; expected an object store that answers"
        ):
            put()
    assert list(store.open_store(s3.location).entries()) == []
    assert opened.backend.sweep(later(), delete=False) == [], "the upload was not given up"


def test_a_body_that_never_comes_leaves_no_file(through: Open, proxy: Proxy, large: Path, tmp_path: Path) -> None:
    opened = through(BRIEF)
    sha256 = opened.keep(large)
    proxy.plan = first(10**6, "503 SlowDown")
    with pytest.raises(ConnectionError, match="HTTP 503"):
        opened.fetch(sha256, tmp_path / "folder" / "copy")
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.engine)])
def test_an_outage_is_waited_out(through: Open, proxy: Proxy, large: Path, tmp_path: Path, seconds: float) -> None:
    opened = through(Patience())

    def plan(request: Request) -> str | None:
        if request.method != "PUT" or proxy.plan is not plan:
            return None
        proxy.plan = lambda request: None
        proxy.outage(seconds)
        return "reset-request"

    proxy.plan = plan
    use(opened, large, tmp_path / "copy")
    assert proxy.plan is not plan


def test_an_upload_whose_last_answer_was_lost_is_there(
    through: Open, proxy: Proxy, large: Path, tmp_path: Path
) -> None:
    opened = through()
    ends: list[str] = []

    def plan(request: Request) -> str | None:
        if request.method not in ("POST", "DELETE") or "uploadId=" not in request.path:
            return None
        ends.append(request.method)
        return "lose-answer" if len(ends) == 1 else "404 NoSuchUpload"  # as MinIO and AWS may say

    proxy.plan = plan
    opened.fetch(opened.keep(large), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    assert ends == ["POST", "POST", "DELETE"]


def test_an_upload_that_fails_after_ok_is_tried_again(through: Open, proxy: Proxy, large: Path, tmp_path: Path) -> None:
    opened = through()
    begun = first(1, "200 InternalError", "POST")
    proxy.plan = lambda request: begun(request) if "uploadId=" in request.path else None
    opened.fetch(opened.keep(large), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"secret_key": "wrong-and-secret"}, PermissionError, "SignatureDoesNotMatch; expected valid credentials"),
        ({"access_key": "croco:nobody"}, PermissionError, "SignatureDoesNotMatch; expected valid credentials"),
        ({"access_key": "croco:guest"}, PermissionError, "AccessDenied; expected credentials with the right to list"),
        ({"bucket_name": "no-such-bucket"}, OSError, "/no-such-bucket: found NoSuchBucket"),
        ({"region": "eu-central-7"}, PermissionError, "the bucket's own region in AWS_REGION"),
    ],
)
def test_what_is_refused_is_said_at_once(
    through: Open, proxy: Proxy, changes: dict[str, str], kind: type[OSError], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        through(**changes)
    assert not isinstance(caught.value, FileNotFoundError), "that would mean: no such record"
    assert len(proxy.requests) == 1
    written = "".join(traceback.format_exception(caught.value, limit=None))
    assert "wrong-and-secret" not in written
    assert SECRET not in written


def test_a_wrong_endpoint_is_named(through: Open, proxy: Proxy) -> None:
    proxy.close()
    with pytest.raises(ConnectionError, match=rf"{proxy.endpoint}: found .*refused.*is this its endpoint"):
        through(BRIEF)
    with pytest.raises(ConnectionError, match=r"http://nowhere\.invalid: found"):
        through(BRIEF, endpoint="http://nowhere.invalid")
    proxy.open()


def test_a_plain_endpoint_named_as_https_is_said(through: Open, s3: S3) -> None:
    with pytest.raises(ConnectionError, match=rf"https://127.0.0.1:{s3.port}: found .*SSL"):
        through(BRIEF, endpoint=f"https://127.0.0.1:{s3.port}")


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_a_web_server_that_is_no_object_store_is_said(through: Open, proxy: Proxy, status: str) -> None:
    proxy.plan = lambda request: f"{status}\n<p>Welcome!\n<p>" + "text " * 100
    with pytest.raises(OSError, match=r"found .*; expected an object store's answer; is this its address") as caught:
        through()
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400
