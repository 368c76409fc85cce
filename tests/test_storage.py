"""`python -m croco store`: what is there, is it whole, and what goes when nothing uses it any more."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tyro
from objectstore import S3

from croco import storage, store
from croco.backend import Entry, Folder
from croco.storage import Gc, Ls, Verify
from croco.store import Store

NOW = datetime.now(UTC)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def name_of(text: str) -> str:
    """Of the file with this text."""
    return store.file_name(sha256(text))


def put(opened: Store, tmp_path: Path, text: str, under: str = "files") -> dict[str, object]:
    """A file with this text; how a record names it."""
    path = tmp_path / "put"
    path.write_text(text)
    return {"path": "part-00000.parquet", "sha256": opened.keep(path, under), "bytes": len(text)}


def fill(opened: Store, tmp_path: Path) -> None:
    """Two results, one with a shard; a shard of no result; one without rows; a checkpoint; a file of no record."""
    shard = put(opened, tmp_path, "rows of a shard")
    opened.write("shards/sample/a.json", {"file": shard["sha256"]})
    opened.write("shards/sample/b.json", {"file": put(opened, tmp_path, "rows of another")["sha256"]})
    opened.write("shards/score/none.json", {"file": None})
    opened.write("results/sample/r.json", {"files": [shard], "shards": ["shards/sample/a.json"]})
    opened.write("results/pair/p.json", {"files": [put(opened, tmp_path, "pairs")], "shards": []})
    checkpoint = put(opened, tmp_path, "weights", under="checkpoints/k/files")
    opened.write("checkpoints/k/20.json", {"files": [checkpoint]})
    put(opened, tmp_path, "nobody's")


@pytest.fixture(params=["folder", "s3"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of either kind with something of each kind in it."""
    location = request.getfixturevalue("s3").location if request.param == "s3" else tmp_path / "store"
    opened = store.open_store(location)
    fill(opened, tmp_path)
    return opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of such a store, everything in it last used 40 days ago."""
    root = tmp_path / "store"
    fill(store.open_store(root), tmp_path)
    for file in root.rglob("*"):
        age(file, 40)
    return root


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def names(opened: Store) -> set[str]:
    return {entry.name for entry in opened.entries()}


def test_ls_counts_by_kind_and_stage(full: Store, capsys: pytest.CaptureFixture[str]) -> None:
    Ls(full.location).run(full)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    size = {entry.name: entry.bytes for entry in full.entries()}
    used = [line.pop() and line.pop() for line in lines[1:]]
    assert set(used) <= {NOW.strftime("%Y-%m-%d"), datetime.now(UTC).strftime("%Y-%m-%d")}
    assert lines[1:] == [
        ["checkpoints", "train", "1", "1", str(size["checkpoints/k/20.json"] + len("weights"))],
        ["results", "pair", "1", "1", str(size["results/pair/p.json"] + len("pairs"))],
        ["results", "sample", "1", "1", str(size["results/sample/r.json"] + len("rows of a shard"))],
        [
            *("shards", "sample", "2", "2"),
            str(
                size["shards/sample/a.json"]
                + size["shards/sample/b.json"]
                + len("rows of a shard")
                + len("rows of another")
            ),
        ],
        ["shards", "score", "1", "0", str(size["shards/score/none.json"])],
        ["unnamed", "0", "1", str(len("nobody's"))],
        ["all", "6", "5", f"{sum(size.values()):,}"],
    ]


def test_ls_of_an_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Ls("").run(store.open_store(tmp_path))
    assert capsys.readouterr().out.splitlines()[-1].split() == ["all", "0", "0", "0", "-"]


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_store_is_verified(full: Store, capsys: pytest.CaptureFixture[str], quick: bool) -> None:
    Verify(full.location, quick).run(full)
    how = "there" if quick else "whole"
    assert capsys.readouterr().out == f"6 records and 4 files are {how}\n"


def spoil(opened: Store, name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "spoilt").write_text(text)
    with (tmp_path / "spoilt").open("rb") as source:
        opened.backend.put(name, source, len(text))


def test_verify_names_what_is_damaged_or_missing(
    full: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(full, "results/pair/p.json", "{}", tmp_path)
    spoil(full, name_of("rows of a shard"), "rows of a sherd", tmp_path)
    spoil(full, store.file_name(sha256("weights"), "checkpoints/k/files"), "wei", tmp_path)
    full.remove(name_of("rows of another"))
    with pytest.raises(ValueError, match="found 4 damaged or missing among 3 files and 6 records"):
        Verify(full.location).run(full)
    faults = capsys.readouterr().out.splitlines()
    for name, what in (
        ("results/pair/p.json", "damaged: found 2 bytes that are no record"),
        (name_of("rows of a shard"), "damaged: found 15 bytes with sha256"),
        (store.file_name(sha256("weights"), "checkpoints/k/files"), "damaged: found 3 bytes with sha256"),
        (name_of("rows of another"), "found no such file"),
    ):
        assert sum(re.match(rf"{full.location}/{name}: {what}", fault) is not None for fault in faults) == 1, name
    assert len(faults) == 4


def test_verify_quick_sees_presence_and_size_alone(
    full: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(full, name_of("pairs"), "pears", tmp_path)
    Verify(full.location, quick=True).run(full)
    spoil(full, name_of("pairs"), "pair", tmp_path)
    full.remove(name_of("rows of another"))
    with pytest.raises(ValueError, match="found 2 damaged or missing"):
        Verify(full.location, quick=True).run(full)
    assert "found 4 bytes; expected 5" in capsys.readouterr().out


def test_gc_says_what_it_would_remove_and_removes_nothing(full: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(full)
    Gc(full.location).run(full, now=NOW + timedelta(days=40))
    size = sum(entry.bytes for entry in full.entries())
    said = f"would remove 6 records, 5 files and 0 half-written ones, {size} bytes; --delete does it\n"
    assert capsys.readouterr().out == said
    assert names(full) == before


def test_gc_removes_what_was_not_used(full: Store, capsys: pytest.CaptureFixture[str]) -> None:
    size = sum(entry.bytes for entry in full.entries())
    Gc(full.location, delete=True).run(full, now=NOW + timedelta(days=40))
    assert capsys.readouterr().out == f"removed 6 records, 5 files and 0 half-written ones, {size} bytes\n"
    assert names(full) == set()


def test_gc_leaves_what_is_young(full: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(full)
    Gc(full.location, days=2, delete=True).run(full)
    assert names(full) == before
    Gc(full.location, days=30, delete=True).run(full, now=NOW + timedelta(days=29))
    assert names(full) == before - {name_of("nobody's")}
    with pytest.raises(ValueError, match="days: found 1; expected 2 or more"):
        Gc(full.location, days=1).run(full)


def test_a_result_that_is_used_keeps_its_files_and_its_shards(folder: Path) -> None:
    age(folder / "results/sample/r.json", 10)
    opened = store.open_store(folder)
    Gc(str(folder), days=30, delete=True).run(opened)
    assert names(opened) == {"results/sample/r.json", "shards/sample/a.json", name_of("rows of a shard")}
    Verify(str(folder)).run(opened)


def test_a_shard_and_a_checkpoint_that_are_used_keep_their_files(folder: Path) -> None:
    age(folder / "shards/sample/b.json", 10)
    age(folder / "checkpoints/k/20.json", 10)
    opened = store.open_store(folder)
    Gc(str(folder), days=30, delete=True).run(opened)
    weights = store.file_name(sha256("weights"), "checkpoints/k/files")
    assert names(opened) == {"shards/sample/b.json", name_of("rows of another"), "checkpoints/k/20.json", weights}


def test_a_file_no_record_names_stays_while_its_record_may_be_on_its_way(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    age(folder / name_of("nobody's"), 1.9)
    opened = store.open_store(folder)
    Gc(str(folder), days=30).run(opened)
    assert capsys.readouterr().out.startswith("would remove 6 records, 4 files")
    Gc(str(folder), days=30, delete=True).run(opened)
    assert names(opened) == {name_of("nobody's")}


def test_a_damaged_record_goes_like_any_other(folder: Path, tmp_path: Path) -> None:
    opened = store.open_store(folder)
    for days, left in ((10, {"results/pair/p.json"}), (40, set())):
        spoil(opened, "results/pair/p.json", "{}", tmp_path)
        age(folder / "results/pair/p.json", days)
        Gc(str(folder), days=30, delete=True).run(opened)
        assert names(opened) == left


def test_records_of_no_known_kind_stay_with_their_files(folder: Path, tmp_path: Path) -> None:
    opened = store.open_store(folder)
    opened.write("plans/p.json", {"files": [put(opened, tmp_path, "plan")]})
    age(folder / "plans/p.json", 40)
    age(folder / name_of("plan"), 40)
    Gc(str(folder), days=30, delete=True).run(opened)
    assert names(opened) == {"plans/p.json", name_of("plan")}


class ListedLongAgo(Folder):
    """A folder whose entries have all been used since they were listed."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        for entry in super().entries(prefix):
            yield replace(entry, modified=entry.modified - timedelta(days=40))


def test_what_is_used_while_gc_works_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = Store("here", ListedLongAgo(tmp_path / "store"))
    fill(opened, tmp_path)
    before = names(opened)
    Gc("here", delete=True).run(opened)
    assert names(opened) == before
    assert capsys.readouterr().out.startswith("removed 0 records, 0 files")


def test_what_killed_writers_left_goes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, young = folder / "files" / "58" / ".a.1.partial", folder / "files" / "58" / ".b.1.partial"
    for path, days in ((old, 3.0), (young, 1.0)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
        age(path, days)
    Gc(str(folder), days=99).run(store.open_store(folder))
    Gc(str(folder), days=99, delete=True).run(store.open_store(folder))
    size = 4 + len("nobody's")
    assert capsys.readouterr().out.splitlines() == [
        f"would remove 0 records, 1 files and 1 half-written ones, {size} bytes; --delete does it",
        f"removed 0 records, 1 files and 1 half-written ones, {size} bytes",
    ]
    assert (old.exists(), young.exists()) == (False, True)


def test_the_command_line_has_its_three_verbs(s3: S3, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*flags: str) -> str:
        tyro.cli(storage.run, args=flags, config=(tyro.conf.OmitArgPrefixes,))
        return capsys.readouterr().out

    assert command("ls", "--store", s3.location).splitlines()[-1].split() == ["all", "0", "0", "0", "-"]
    assert command("verify", "--store", str(folder), "--quick") == "6 records and 4 files are there\n"
    assert command("gc", "--store", str(folder), "--days", "30").startswith("would remove 6 records, 5 files")
    assert command("gc", "--store", str(folder), "--delete").startswith("removed 6 records, 5 files")
