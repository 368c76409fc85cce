"""Bucket: a store's bytes in an S3 bucket (MinIO, SeaweedFS, Ceph, a cloud), through the `minio` client.

Every request is tried again until a deadline where the fault may pass: no connection, a reset, a timeout, a body cut
short, HTTP 408, 429 and 5xx. Where it cannot (credentials, permissions, no such bucket) the first answer is the error.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from xml.etree.ElementTree import ParseError

from croco.backend import Entry, Sink, is_name
from croco.connection import CREDENTIALS, PASSING, Patience, Settings, Trying, connect, settings

if TYPE_CHECKING:
    from minio import Minio

PART = 32 << 20
"""Bytes. What is larger goes up in parts of this size, three at a time; S3 takes 10,000 parts, so 335 GB. Ours."""
_T = TypeVar("_T")
_REFUSED = {
    "AccessDenied": "credentials with the right to list, read, write and delete there",
    "RequestTimeTooSkewed": "this machine's clock to be right",
    "AuthorizationHeaderMalformed": "the bucket's own region in AWS_REGION",
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"),
        f"valid credentials: {CREDENTIALS}",
    ),
}


class Bucket:
    """A store's bytes in an S3 bucket, under a prefix; `open_bucket` makes one."""

    def __init__(self, client: "Minio", endpoint: str, bucket: str, prefix: str, patience: Patience, part: int) -> None:
        self.client, self.bucket, self.prefix = client, bucket, f"{prefix}/" if prefix else ""
        self.where, self.patience, self.part = f"{endpoint}/{bucket}", patience, part

    def put(self, name: str, source: BinaryIO, size: int) -> None:
        try:
            with self._said():
                self.client.put_object(self.bucket, self.prefix + name, source, size, part_size=self.part)
        except FileNotFoundError:
            # Where the answer to the last request of an upload was lost, it is sent again, and the upload is no more.
            if not (found := self.find(name)) or found.bytes != size:
                raise

    def read(self, name: str) -> bytes:
        def whole() -> bytes:
            with closing(self.client.get_object(self.bucket, self.prefix + name)) as response:
                return response.read()

        return self._again(whole, Trying(self.where, self.patience))

    def get(self, name: str, target: Sink) -> None:
        trying = Trying(self.where, self.patience)

        def rest() -> None:
            start = target.tell()
            with closing(self.client.get_object(self.bucket, self.prefix + name, offset=start)) as response:
                for data in response.stream(1 << 16):  # what was read of a piece that breaks off is lost
                    target.write(data)
                    trying.restart()

        self._again(rest, trying)

    def find(self, name: str) -> Entry | None:
        try:
            with self._said():
                found = self.client.stat_object(self.bucket, self.prefix + name)
        except FileNotFoundError:
            return None
        return Entry(name, found.size or 0, _time(found.last_modified))

    def entries(self, prefix: str) -> Iterator[Entry]:
        with self._said():
            for found in self.client.list_objects(self.bucket, prefix=self.prefix + prefix, recursive=True):
                name = (found.object_name or "").removeprefix(self.prefix)
                if is_name(name):
                    yield Entry(name, found.size or 0, _time(found.last_modified))

    def touch(self, name: str) -> None:
        from minio.commonconfig import REPLACE, CopySource

        key = self.prefix + name
        with self._said():  # S3 copies an object onto itself only where its metadata are new
            self.client.copy_object(self.bucket, key, CopySource(self.bucket, key), metadata_directive=REPLACE)

    def remove(self, name: str) -> None:
        with self._said():
            self.client.remove_object(self.bucket, self.prefix + name)

    def sweep(self, before: datetime, delete: bool) -> list[Entry]:
        """Multipart uploads that were begun before `before` and not finished: their first thousand.

        Their bytes count as 0, for nobody says how many they are. The client has these two requests for its own use
        alone; its version is locked, and a test asks them of a real server.
        """
        from minio.datatypes import ListMultipartUploadsResult

        with self._said():
            answer = ListMultipartUploadsResult(
                self.client._execute("GET", self.bucket, query_params={"uploads": "", "prefix": self.prefix})
            )
            stale = [upload for upload in answer.uploads if _time(upload.initiated_time) < before]
            for upload in stale if delete else ():
                self.client._abort_multipart_upload(self.bucket, upload.object_name, upload.upload_id or "")
        return [
            Entry(upload.object_name.removeprefix(self.prefix), 0, _time(upload.initiated_time)) for upload in stale
        ]

    def _again(self, read: Callable[[], _T], trying: Trying) -> _T:
        """What `read` returns; tried again where a body breaks off."""
        while True:
            try:
                with self._said():
                    return read()
            except PASSING as error:
                trying.pause(error)

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Name what the server refuses, with the remedy.

        Raises: FileNotFoundError for no such object; PermissionError for what credentials, clock or region are to
            blame for; OSError for all else.
        """
        from minio.error import MinioException, S3Error

        try:
            yield
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchUpload"):
                raise FileNotFoundError(f"{self.where}: found {error.code} for {error.object_name}") from error
            if error.code in _REFUSED:
                raise PermissionError(f"{self.where}: found {error.code}; expected {_REFUSED[error.code]}") from error
            raise OSError(
                f"{self.where}: found {error.code} ({error.message}); expected a bucket that is there and takes "
                "requests; does the address name the right one?"
            ) from error
        except (MinioException, ParseError) as error:
            text = " ".join(str(error).split())[:200]  # it may quote a whole page
            raise OSError(
                f"{self.where}: found {text}; expected an object store's answer; is this its address?"
            ) from error


def _time(given: datetime | None) -> datetime:
    assert given, "S3 gives the time of every object and upload"
    return given


def open_bucket(path: str, given: Settings | None = None, patience: Patience = Patience(), part: int = PART) -> Bucket:
    """The bucket and prefix of `bucket/prefix`, after one request that shows that both can be read.

    Args:
        path: What follows `s3://`.
        given: Where and as whom; `settings()` by default.
        patience: How long to try.
        part: Bytes; what is larger goes up in parts. S3 takes no less than 5 MiB.

    Raises: ValueError for an address that cannot be; PermissionError, ConnectionError and OSError for a store that
        cannot be used.
    """
    given = given or settings()
    bucket, _, prefix = path.strip("/").partition("/")
    if prefix and not is_name(prefix):
        raise ValueError(f"s3://{path}: found the prefix {prefix!r}; expected letters, digits, `_`, `-`, `=` and `.`")
    found = Bucket(connect(given, patience), given.endpoint.rstrip("/"), bucket, prefix, patience, part)
    next(found.entries("."), None)
    return found
