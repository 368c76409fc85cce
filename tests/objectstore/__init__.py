"""A real object store on loopback, and a proxy that makes its connections bad."""

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PYTHON = Path(__file__).parents[2] / ".cache" / "objectstore" / "bin" / "python"
"""Of the environment that `make test` and `make test-fast` make from images/objectstore.lock."""
SECRET = "not-a-secret-but-nowhere-else"
_numbers = itertools.count()


@dataclass(frozen=True)
class S3:
    """A bucket of its own on a real server."""

    port: int
    bucket: str

    @property
    def location(self) -> str:
        return f"s3://{self.bucket}/croco"

    @property
    def environment(self) -> dict[str, str]:
        """What reaches it as its owner."""
        return {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "croco:owner",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The port of a server that is gone after the block, or when this process ends."""
    if not PYTHON.exists():
        raise FileNotFoundError(
            f"{PYTHON}: not found; `make {PYTHON.parents[1].relative_to(PYTHON.parents[3])}/installed`"
        )
    program = [PYTHON, "-W", "ignore", Path(__file__).with_name("swift_server.py"), folder, SECRET]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


def new_bucket(port: int) -> S3:
    from minio import Minio

    made = S3(port, f"croco-{next(_numbers)}")
    Minio(f"127.0.0.1:{port}", "croco:owner", SECRET, secure=False, region="us-east-1").make_bucket(made.bucket)
    return made
