"""Writer: a finished result is put into the store under its key, and found there whole or not at all."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import DatasetOf

from croco import dataset
from croco.dataset import Count
from croco.store import open_store
from croco.writer import Writer, key_of

SCORE = {"prompt_id": "p", "language": "da", "sample_index": 0, "reward": 0.5}


@dataclass(frozen=True)
class Config:
    k: float = 2.0
    gpus: int = 1


def write(out: Path, store: Path | None, **about: Any) -> tuple[dataset.Manifest, bool]:
    """(the manifest, whether it was in the store)."""
    about = {"stage": "test", "version": 1, "config": Config(), "neutral": ["gpus"]} | about
    writer = Writer(out, "scores", store=store and str(store), **about)
    if writer.done:
        return writer.done, True
    writer.add([SCORE])
    writer.warn("said once")
    return writer.finish([Count("scores", "da", 1, 1)], metrics={"mean": 0.5}), False


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with pytest.warns(UserWarning, match="said once"):
        _, found = write(tmp_path / "first", tmp_path / "store")
    assert not found
    return tmp_path / "store"


def test_a_result_in_the_store_is_fetched_with_all_its_manifest_says(tmp_path: Path, store: Path) -> None:
    with pytest.warns(UserWarning, match="said once"):
        manifest, found = write(tmp_path / "second", store)

    assert found
    first, second = dataset.verify(tmp_path / "first"), dataset.verify(tmp_path / "second")
    assert second == manifest
    assert (second.digest, second.counts, second.metrics) == (first.digest, first.counts, first.metrics)
    assert second.warnings == ["said once"]
    assert dataset.read(tmp_path / "second", "scores").to_pylist() == [SCORE]


@pytest.mark.parametrize(
    "other",
    [
        {"config": Config(k=1.0)},
        {"version": 2},
        {"stage": "other"},
        {"models": {"reward": {"id": "org/model", "revision": "a"}}},
        {"also": "another source"},
    ],
)
@pytest.mark.filterwarnings("ignore:said once")
def test_what_a_result_depends_on_is_in_its_key(tmp_path: Path, store: Path, other: dict[str, Any]) -> None:
    assert write(tmp_path / "second", store, **other)[1] is False


@pytest.mark.filterwarnings("ignore:said once")
def test_a_whole_number_is_the_same_setting_with_a_point_and_without(tmp_path: Path, store: Path) -> None:
    assert write(tmp_path / "second", store, config=Config(k=2))[1] is True


@pytest.mark.filterwarnings("ignore:said once")
def test_a_neutral_setting_is_not_in_the_key(tmp_path: Path, store: Path) -> None:
    assert write(tmp_path / "second", store, config=Config(gpus=8))[1] is True


@pytest.mark.filterwarnings("ignore:said once")
def test_an_inputs_content_is_in_the_key_and_its_place_is_not(tmp_path: Path, dataset_of: DatasetOf) -> None:
    one, same, other = (
        dataset_of("scores", [SCORE | {"reward": reward}], name) for name, reward in [("a", 1), ("b", 1), ("c", 2)]
    )
    assert write(tmp_path / "1", tmp_path / "store", inputs=[one])[1] is False
    assert write(tmp_path / "2", tmp_path / "store", inputs=[same])[1] is True
    assert write(tmp_path / "3", tmp_path / "store", inputs=[other])[1] is False


@pytest.mark.parametrize("what", ["results", "files"])
@pytest.mark.parametrize("damage", ["removed", "changed"])
@pytest.mark.filterwarnings("ignore:said once")
def test_a_result_that_is_not_whole_is_made_again(tmp_path: Path, store: Path, what: str, damage: str) -> None:
    path = next(path for path in store.glob(f"{what}/**/*") if path.is_file())
    content = path.read_bytes()
    path.unlink() if damage == "removed" else path.write_bytes(content[:-9] + b"?" + content[-8:])

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert write(tmp_path / "second", store)[1] is False
    assert any("not whole" in str(warning.message) for warning in said) == ((what, damage) != ("results", "removed"))
    assert dataset.verify(tmp_path / "second").digest == dataset.verify(tmp_path / "first").digest
    manifest, found = write(tmp_path / "third", store)
    assert found, "it is whole again"
    assert manifest.warnings == ["said once"]


@pytest.mark.filterwarnings("ignore:said once")
def test_the_record_is_put_after_the_files_it_names(tmp_path: Path, store: Path) -> None:
    opened = open_store(store)
    (name,) = [entry.name for entry in opened.entries("results")]
    record = opened.read(name)
    assert record and [opened.check(file["sha256"]) for file in record["files"]] == [None]
    (file,) = store.glob("files/*/*")
    assert file.stat().st_mtime_ns <= (store / name).stat().st_mtime_ns


@pytest.mark.filterwarnings("ignore:said once")
def test_a_store_that_cannot_take_the_result_leaves_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where a folder is wanted")
    with pytest.raises(OSError):
        write(tmp_path / "out", tmp_path / "store")
    assert not (tmp_path / "out" / dataset.MANIFEST).exists()


def test_equal_things_have_equal_keys() -> None:
    assert key_of(Config(), {"b": 1, "a": (1, 2)}) == key_of(Config(), {"a": [1, 2], "b": 1})
    assert key_of(Config()) != key_of(Config(k=1.5))
    assert key_of("a", "bc") != key_of("ab", "c")


def left_by_a_kill(out: Path, instant: str) -> None:
    """What a stage leaves in `out` that is killed at that instant of starting over."""
    write(out, None)
    if instant == "before it said that it writes here":
        for path in out.iterdir():
            path.unlink()
        (out / "unfinished.json.partial").write_text('{"sta')
        return
    (out / "unfinished.json").write_text('{"stage": "test", "clear": true}')
    if instant == "while it cleared an earlier result":
        (out / "manifest.json").unlink()
        (out / "old").mkdir()
        (out / "old" / "weights").write_text("old")
    elif instant == "while it fetched a part":
        (out / "unfinished.json").write_text('{"stage": "test", "clear": false}')
        (out / "manifest.json").unlink()
        (out / ".part-00000.parquet.1f.partial").write_text("half")
        (out / "merged").mkdir()
        (out / "merged" / ".weights.2e.partial").write_text("half")


@pytest.mark.parametrize(
    "instant",
    [
        "before it said that it writes here",
        "before it removed an earlier manifest",
        "while it cleared an earlier result",
        "while it fetched a part",
    ],
)
@pytest.mark.filterwarnings("ignore:said once")
def test_a_stage_that_was_killed_as_it_began_can_begin_again(tmp_path: Path, instant: str) -> None:
    left_by_a_kill(tmp_path / "out", instant)
    write(tmp_path / "out", None)
    files = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"manifest.json", "part-00000.parquet"}


@pytest.mark.filterwarnings("ignore:said once")
def test_what_another_stage_left_unfinished_is_never_removed(tmp_path: Path) -> None:
    left_by_a_kill(tmp_path / "out", "while it fetched a part")
    with pytest.raises(ValueError, match=r"out: found test unfinished; expected a new directory, or one of other"):
        write(tmp_path / "out", None, stage="other")


def test_a_result_says_which_image_made_it_whoever_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.delenv("CROCO_IMAGE", raising=False)
    assert "image" not in write(tmp_path / "here", None)[0].libraries
    monkeypatch.setenv("CROCO_IMAGE", "croco-cpu:0.1.0@abc")
    assert write(tmp_path / "there", tmp_path / "kept")[0].libraries["image"] == "croco-cpu:0.1.0@abc"
    monkeypatch.setenv("CROCO_IMAGE", "croco-cpu:0.2.0@def")
    manifest, found = write(tmp_path / "again", tmp_path / "kept")
    assert found and manifest.libraries["image"] == "croco-cpu:0.1.0@abc"
