"""A training job through the store: what a node refuses, and what of a result is taken."""

import json
from pathlib import Path
from typing import Any

import pytest

from croco import dataset, handoff, models, trainer
from croco.store import Store, open_store
from croco.writer import key_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def job_in(work: Path, **identity: Any) -> dict[str, Any]:
    """A job of three bytes for a model in `work`'s parent."""
    model = work.parent / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    work.mkdir()
    (work / "train.arrow").write_bytes(b"ids")
    return {
        "base": str(model),
        "splits": ["train"],
        "identity": {"base": models.identity(str(model)), "libraries": dataset.library_versions(), **identity},
    }


def test_a_node_gets_the_job_as_train_would_have_written_it(store: Store, tmp_path: Path) -> None:
    job = job_in(tmp_path / "a" / "work")
    handoff.send(store, "0123", tmp_path / "a" / "work", job)
    assert handoff.receive(store, "0123", tmp_path / "b") == job
    work = tmp_path / "b" / trainer.CHECKPOINTS
    assert (work / "train.arrow").read_bytes() == b"ids"
    assert json.loads((work / "job.json").read_text()) == job


def test_a_node_with_other_libraries_or_another_model_refuses(store: Store, tmp_path: Path) -> None:
    libraries = {**dataset.library_versions(), "croco": "0.0.1"}
    job = job_in(tmp_path / "a" / "work", libraries=libraries)
    handoff.send(store, "libraries", tmp_path / "a" / "work", job)
    with pytest.raises(ValueError, match=r"found other versions of croco than .* give both the same image"):
        handoff.receive(store, "libraries", tmp_path / "out")
    job = job_in(tmp_path / "b" / "work")
    handoff.send(store, "model", tmp_path / "b" / "work", job)
    (tmp_path / "b" / "model" / "weights").write_text("others")
    with pytest.raises(ValueError, match=r"model: found sha256 [0-9a-f]{12}; expected [0-9a-f]{12}"):
        handoff.receive(store, "model", tmp_path / "out")


def test_a_node_without_a_job_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="trainjobs/0123: found no job; expected what `train` puts there"):
        handoff.receive(store, "0123", tmp_path)


def result_in(out: Path) -> None:
    (out / "adapter").mkdir(parents=True)
    (out / trainer.CHECKPOINTS).mkdir()
    (out / "adapter" / "weights").write_text("tuned")
    (out / "metrics.jsonl").write_text("{}\n")
    (out / trainer.CHECKPOINTS / trainer.TRAFFIC).write_text('{"bytes_read": 5}')


def test_a_result_is_taken_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    assert handoff.take(store, "0123", tmp_path / "b") is None
    result_in(tmp_path / "a")
    handoff.give_back(store, "0123", tmp_path / "a", checkpoint=None, seconds=2.5)
    taken = handoff.take(store, "0123", tmp_path / "b")
    assert taken and (taken["seconds"], taken["traffic"]) == (2.5, {"bytes_read": 5})
    assert (tmp_path / "b" / "adapter" / "weights").read_text() == "tuned"
    [weights] = [path for path in Path(store.location).rglob("*") if path.is_file() and path.read_bytes() == b"tuned"]
    weights.write_bytes(b"other")
    with pytest.warns(UserWarning, match="what nodes gave back is not whole .*damaged.* it is made again"):
        assert handoff.take(store, "0123", tmp_path / "c") is None
    assert not list(store.entries("trainjobs/"))


def test_nothing_is_handed_off_where_the_result_is_there_and_nothing_of_it_is_left(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)  # to ask for nodes would fail
    job = job_in(tmp_path / "work")
    result_in(tmp_path / "a")
    handoff.give_back(store, key_of(job["identity"]), tmp_path / "a", checkpoint=None, seconds=2.5)
    done = handoff.run(store, tmp_path / "b", tmp_path / "work", job, None, "model")  # type: ignore[arg-type]
    assert done["seconds"] == 2.5
    handoff.remove(store, job["identity"])
    assert not list(store.entries("trainjobs/"))
