"""What every test may ask for: datasets made of literal rows, and the toy world, built once and cached."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from croco import dataset

TOY = Path(__file__).parent.parent / ".cache" / "toy"
"""Where `make toy` (and so `make run`) keeps the toy world."""

DatasetOf = Callable[..., Path]


@pytest.fixture
def dataset_of(tmp_path: Path) -> DatasetOf:
    """dataset_of(contract, rows, name=..., models=..., metrics=...) -> a finished dataset's directory."""

    def make(contract: str, data: Sequence[Mapping[str, Any]], name: str = "", **manifest: Any) -> Path:
        out = tmp_path / (name or contract)
        writer = dataset.Writer(out, contract, stage="test", version=1, config={})
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
