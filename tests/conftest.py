"""What every test may ask for: datasets made of literal rows, and the toy world, built once and cached."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import objectstore
import pytest

from croco import dataset
from croco.writer import Writer

TOY = Path(__file__).parent.parent / ".cache" / "toy"
"""Where `make toy` (and so `make run`) keeps the toy world."""

hypothesis.settings.register_profile("any machine", deadline=None)  # how long an example takes is no finding
hypothesis.settings.load_profile("any machine")

DatasetOf = Callable[..., Path]


@pytest.fixture
def dataset_of(tmp_path: Path) -> DatasetOf:
    """dataset_of(contract, rows, name=..., models=..., metrics=...) -> a finished dataset's directory."""

    def make(contract: str, data: Sequence[Mapping[str, Any]], name: str = "", **manifest: Any) -> Path:
        out = tmp_path / (name or contract)
        writer = Writer(out, contract, stage="test", version=1, config={})
        writer.add(data)
        language = "prompt_language" if contract == "pairs" else "language"
        by_language = Counter(str(row[language]) for row in data)
        writer.finish([dataset.Count(contract, code, n, n) for code, n in sorted(by_language.items())], **manifest)
        return out

    return make


@pytest.fixture(scope="session")
def toy() -> Path:
    """The built toy world. It is trained on first use (minutes) and cached for every later run."""
    from croco.toy import build

    build.run(out=TOY)
    return TOY


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real S3 server on loopback, which checks signatures."""
    with objectstore.serving(tmp_path_factory.mktemp("objectstore") / "swift") as port:
        yield port


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> objectstore.S3:
    """An empty bucket; `s3.location` opens it, here and in child processes, because the environment says how."""
    bucket = objectstore.new_bucket(s3_port)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return bucket
