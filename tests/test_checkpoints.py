"""Checkpoints: which one a run goes on from, in its folder and in a store, and what is left there."""

from pathlib import Path

import pytest

from croco import checkpoints
from croco.store import Store, open_store
from croco.writer import key_of

RUN = {"run": "this"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def checkpoint(folder: Path, step: int, identity: dict[str, str] | None = RUN) -> Path:
    """A checkpoint of two files, one of which is the same at every step."""
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "weights").write_text(str(step))
    (made / "tokenizer").write_text("the same")
    if identity:
        checkpoints.seal(made, identity, seconds=step / 2)
    return made


def steps(store: Store) -> list[int]:
    names = [Path(entry.name) for entry in store.entries("checkpoints/") if entry.name.endswith(".json")]
    return sorted(int(name.stem) for name in names)


def files(store: Store) -> list[bytes]:
    """The contents of the files among the store's checkpoints."""
    found = [entry.name for entry in store.entries("checkpoints/") if not entry.name.endswith(".json")]
    return sorted(Path(store.location, name).read_bytes() for name in found)


def damage(store: Store, content: bytes) -> None:
    """Change the file with that content, and not its length."""
    [name] = [entry.name for entry in store.entries() if Path(store.location, entry.name).read_bytes() == content]
    Path(store.location, name).write_bytes(b"?" * len(content))


def test_the_newest_whole_one_of_the_same_run_is_chosen_and_the_others_are_removed(tmp_path: Path) -> None:
    for step, identity in [(5, RUN), (10, RUN), (15, RUN), (20, {"run": "other"}), (100, None)]:
        checkpoint(tmp_path, step, identity)
    (tmp_path / "checkpoint-15" / "weights").write_text("cut")
    assert checkpoints.newest(tmp_path, RUN) == tmp_path / "checkpoint-10"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert checkpoints.newest(tmp_path, None) is None
    assert not list(tmp_path.iterdir())


def test_a_store_has_the_newest_two_and_no_file_besides_theirs(tmp_path: Path, store: Store) -> None:
    for step in (5, 10, 15):
        checkpoints.keep(store, checkpoint(tmp_path / "a", step))
        assert steps(store) == {5: [5], 10: [5, 10], 15: [10, 15]}[step]
    assert files(store) == [b"10", b"15", b"the same"]


def test_what_a_killed_put_left_is_removed_by_the_next(tmp_path: Path, store: Store) -> None:
    checkpoints.keep(store, checkpoint(tmp_path / "a", 5))
    store.keep(checkpoint(tmp_path / "a", 10) / "weights", under=f"checkpoints/{key_of(RUN)}/files")
    assert files(store) == [b"10", b"5", b"the same"]
    checkpoints.keep(store, checkpoint(tmp_path / "a", 15))
    assert files(store) == [b"15", b"5", b"the same"]


def test_an_empty_folder_gets_the_newest_of_its_own_run(tmp_path: Path, store: Store) -> None:
    for step in (5, 10):
        checkpoints.keep(store, checkpoint(tmp_path / "a", step))
    checkpoints.keep(store, checkpoint(tmp_path / "b", 20, {"run": "other"}))
    assert checkpoints.fetch(store, tmp_path / "c", RUN) == tmp_path / "c" / "checkpoint-10"
    assert checkpoints.newest(tmp_path / "c", RUN) == tmp_path / "c" / "checkpoint-10"
    assert (tmp_path / "c" / "checkpoint-10" / "weights").read_text() == "10"
    manifests = [tmp_path / name / "checkpoint-10" / "manifest.json" for name in ("a", "c")]
    assert all('"seconds": 5.0' in manifest.read_text() for manifest in manifests)


def test_only_a_newer_one_than_the_folders_own_is_fetched(tmp_path: Path, store: Store) -> None:
    checkpoints.keep(store, checkpoint(tmp_path / "a", 10))
    assert checkpoints.fetch(store, tmp_path / "c", RUN, after=10) is None
    assert checkpoints.fetch(store, tmp_path / "c", RUN, after=9) is not None


def test_a_damaged_one_is_skipped_with_a_warning_and_put_anew_later(tmp_path: Path, store: Store) -> None:
    for step in (5, 10):
        checkpoints.keep(store, checkpoint(tmp_path / "a", step))
    damage(store, b"10")
    with pytest.warns(UserWarning, match="a stored checkpoint is not whole .*damaged.* an older one is taken"):
        assert checkpoints.fetch(store, tmp_path / "c", RUN) == tmp_path / "c" / "checkpoint-5"
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["checkpoint-5"]
    assert (steps(store), files(store)) == ([5], [b"5", b"the same"])
    checkpoints.keep(store, tmp_path / "a" / "checkpoint-10")
    assert checkpoints.fetch(store, tmp_path / "d", RUN) == tmp_path / "d" / "checkpoint-10"


def test_one_that_lacks_a_file_is_skipped_and_none_is_left_where_all_do(tmp_path: Path, store: Store) -> None:
    for step in (5, 10):
        checkpoints.keep(store, checkpoint(tmp_path / "a", step))
    [shared] = [entry.name for entry in store.entries() if Path(store.location, entry.name).read_bytes() == b"the same"]
    store.remove(shared)
    with pytest.warns(UserWarning, match="found no such file"):
        assert checkpoints.fetch(store, tmp_path / "c", RUN) is None
    assert not steps(store) and not list((tmp_path / "c").glob("*"))


def test_a_damaged_record_is_removed_with_a_warning(tmp_path: Path, store: Store) -> None:
    for step in (5, 10):
        checkpoints.keep(store, checkpoint(tmp_path / "a", step))
    [record] = [entry.name for entry in store.entries("checkpoints/") if entry.name.endswith("/10.json")]
    Path(store.location, record).write_text("{")
    with pytest.warns(UserWarning, match=r"10\.json: damaged"):
        assert checkpoints.fetch(store, tmp_path / "c", RUN) == tmp_path / "c" / "checkpoint-5"
    assert steps(store) == [5]


def test_nothing_of_a_finished_run_is_left_and_another_runs_stay(tmp_path: Path, store: Store) -> None:
    checkpoints.keep(store, checkpoint(tmp_path / "a", 5))
    checkpoints.keep(store, checkpoint(tmp_path / "b", 20, {"run": "other"}))
    checkpoints.remove(store, RUN)
    assert (steps(store), files(store)) == ([20], [b"20", b"the same"])
