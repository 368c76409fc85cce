"""The store: whole or not at all, by content, in a folder and in a bucket of a real S3 server."""

import os
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from objectstore import S3

from croco import bucket, store
from croco.store import Store

HELLO = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"  # echo hello | sha256sum
HELLO_NAME = f"files/58/{HELLO}"


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty store of either kind."""
    return request.getfixturevalue("s3").location if request.param == "s3" else str(tmp_path / "store")


@pytest.fixture
def opened(location: str) -> Store:
    return store.open_store(location)


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello"
    path.write_text("hello\n")
    return path


def names(opened: Store, prefix: str = "") -> list[str]:
    return [entry.name for entry in opened.entries(prefix)]


def damage(opened: Store, name: str, data: bytes, tmp_path: Path) -> None:
    """Put other bytes under a name that is there."""
    path = tmp_path / "damage"
    path.write_bytes(data)
    with path.open("rb") as source:
        opened.backend.put(name, source, len(data))


def age(folder: Path, name: str, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(folder / name, (then, then))


def test_a_file_is_named_by_its_content_and_comes_back(opened: Store, hello: Path, tmp_path: Path) -> None:
    assert opened.keep(hello) == HELLO
    opened.fetch(HELLO, tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_text() == "hello\n"
    assert [(entry.name, entry.bytes) for entry in opened.entries()] == [(HELLO_NAME, 6)]
    assert abs(next(opened.entries()).modified - datetime.now(UTC)) < timedelta(minutes=5)
    assert (opened.bytes_written, opened.bytes_read) == (6, 6)


def test_a_file_that_is_there_is_not_put_again(opened: Store, hello: Path) -> None:
    opened.keep(hello)
    assert opened.keep(hello) == HELLO
    assert opened.bytes_written == 6
    opened.keep(hello, replace=True)
    assert opened.bytes_written == 12


def test_files_can_lie_below_another_name(opened: Store, hello: Path, tmp_path: Path) -> None:
    opened.keep(hello, under="checkpoints/key/files")
    assert names(opened) == [f"checkpoints/key/files/58/{HELLO}"]
    opened.fetch(HELLO, tmp_path / "copy", under="checkpoints/key/files")
    with pytest.raises(FileNotFoundError, match=f"files/58/{HELLO}: found no such file"):
        opened.fetch(HELLO, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_record_comes_back_and_carries_its_own_digest(opened: Store) -> None:
    opened.write("shards/sample/k.json", {"b": [None, 0.5], "a": 1})
    assert opened.read("shards/sample/k.json") == {"a": 1, "b": [None, 0.5]}
    # printf '{"a": 1, "b": [null, 0.5]}' | sha256sum
    sha256 = b"a28db635d22482bd66655678fb1bed0ccc5aef7704ae4031cee9e56976faf5d2"
    stored = opened.backend.read("shards/sample/k.json")
    assert stored == b'{"sha256": "%s", "content": {"a": 1, "b": [null, 0.5]}}\n' % sha256
    assert (opened.bytes_written, opened.bytes_read) == (118, 118)


def test_no_record_is_none_and_no_file_is_an_error(opened: Store, tmp_path: Path) -> None:
    assert opened.read("shards/sample/none.json") is None
    assert opened.find("shards/sample/none.json") is None
    assert names(opened) == []
    with pytest.raises(FileNotFoundError, match="found no such file"):
        opened.fetch(HELLO, tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match="nothing to touch"):
        opened.touch("shards/sample/none.json")


def test_a_damaged_file_is_refused_and_leaves_nothing(opened: Store, hello: Path, tmp_path: Path) -> None:
    opened.keep(hello)
    damage(opened, HELLO_NAME, b"hullo\n", tmp_path)
    with pytest.raises(ValueError, match=f"{HELLO_NAME}: damaged: found 6 bytes"):
        opened.fetch(HELLO, tmp_path / "folder" / "copy")
    assert list((tmp_path / "folder").iterdir()) == []
    with pytest.raises(ValueError, match="damaged"):
        opened.check(HELLO)
    opened.keep(hello)
    with pytest.raises(ValueError, match="damaged"):
        opened.check(HELLO)
    opened.keep(hello, replace=True)
    opened.check(HELLO)


def test_a_file_cut_short_is_put_again(opened: Store, hello: Path, tmp_path: Path) -> None:
    opened.keep(hello)
    damage(opened, HELLO_NAME, b"hel", tmp_path)
    opened.keep(hello)
    opened.check(HELLO)


@pytest.mark.parametrize("text", ['{"sha256": "00", "content": {"rows": 3}}', '{"sha256": "00", "con', "[]", ""])
def test_a_damaged_record_is_refused(opened: Store, text: str, tmp_path: Path) -> None:
    opened.write("results/pair/k.json", {"rows": 2})
    damage(opened, "results/pair/k.json", text.encode(), tmp_path)
    with pytest.raises(ValueError, match=re.escape("results/pair/k.json: damaged")):
        opened.read("results/pair/k.json")


def test_a_record_of_what_json_cannot_hold_is_refused(opened: Store) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        opened.write("results/pair/k.json", {"mean": float("nan")})
    assert names(opened) == []


@pytest.mark.parametrize(
    "name", ["../k.json", "/k.json", "a//k.json", "a/../k.json", "a/.k.json", "a/k.json/", "k", ""]
)
def test_names_that_lead_out_of_the_store_are_refused(opened: Store, name: str) -> None:
    for use in (lambda: opened.write(name, {}), lambda: opened.read(name)):
        with pytest.raises(ValueError, match=r"found the (record )?name"):
            use()


def test_other_names_and_digests_are_refused(opened: Store, hello: Path, tmp_path: Path) -> None:
    for use in (opened.remove, opened.touch, opened.find, opened.entries):
        with pytest.raises(ValueError, match="found the name"):
            use("../x")
    with pytest.raises(ValueError, match="found the name"):
        opened.keep(hello, under="../files")
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        opened.fetch("../../etc/passwd", tmp_path / "copy")


def test_entries_are_found_by_prefix_and_removed(opened: Store, hello: Path) -> None:
    for name in ("shards/sample/b.json", "shards/sample/a.json", "shards/score/a.json"):
        opened.write(name, {})
    opened.keep(hello)
    assert names(opened, "shards/sample/") == ["shards/sample/a.json", "shards/sample/b.json"]
    assert names(opened, "shards/s") == ["shards/sample/a.json", "shards/sample/b.json", "shards/score/a.json"]
    assert names(opened, "nothing/") == []
    opened.remove("shards/sample/a.json")
    opened.remove("shards/sample/a.json")
    assert names(opened) == [HELLO_NAME, "shards/sample/b.json", "shards/score/a.json"]


def test_an_entry_is_used_again_by_touch_and_by_keep(hello: Path, tmp_path: Path) -> None:
    opened = store.open_store(tmp_path)
    opened.keep(hello)
    opened.write("results/pair/k.json", {})
    for name in (HELLO_NAME, "results/pair/k.json"):
        age(tmp_path, name, 0.9)
    opened.keep(hello)
    opened.touch("results/pair/k.json")
    day = timedelta(days=1)
    assert all(datetime.now(UTC) - entry.modified > 0.8 * day for entry in opened.entries("results/"))
    for name in (HELLO_NAME, "results/pair/k.json"):
        age(tmp_path, name, 1.1)
    opened.keep(hello)
    opened.touch("results/pair/k.json")
    assert all(datetime.now(UTC) - entry.modified < 0.1 * day for entry in opened.entries())


def test_touching_in_a_bucket_makes_an_entry_new_and_keeps_its_bytes(s3: S3, tmp_path: Path) -> None:
    opened = store.Store(s3.location, bucket.open_bucket(f"{s3.bucket}/croco", part=5 << 20))
    path = tmp_path / "large"
    path.write_bytes(os.urandom(6 << 20))
    sha256 = opened.keep(path)
    before = next(opened.entries()).modified
    time.sleep(1.1)  # S3 counts in seconds
    opened.backend.touch(store.file_name(sha256))
    assert next(opened.entries()).modified > before
    opened.check(sha256)


def test_a_file_larger_than_a_part_goes_up_in_parts(s3: S3, tmp_path: Path) -> None:
    opened = store.Store(s3.location, bucket.open_bucket(f"{s3.bucket}/croco", part=6 << 20))
    path = tmp_path / "large"
    path.write_bytes(os.urandom(11 << 20))
    sha256 = opened.keep(path)
    opened.fetch(sha256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    etag = opened.backend.client.stat_object(s3.bucket, f"croco/{store.file_name(sha256)}").etag
    assert etag.endswith("-2")  # so S3 marks an object of two parts


def test_prefixes_of_one_bucket_are_stores_of_their_own(s3: S3) -> None:
    one, other = store.open_store(f"s3://{s3.bucket}/a"), store.open_store(f"s3://{s3.bucket}/ab/")
    one.write("results/pair/k.json", {"of": "a"})
    other.write("results/pair/k.json", {"of": "ab"})
    assert one.read("results/pair/k.json") == {"of": "a"}
    assert names(one) == names(other) == ["results/pair/k.json"]
    assert names(store.open_store(f"s3://{s3.bucket}")) == ["a/results/pair/k.json", "ab/results/pair/k.json"]


@pytest.mark.parametrize("location", ["minio://bucket/prefix", "s3://bucket/../other", "s3://", "s3://a..b/c"])
def test_locations_that_cannot_be_are_refused(s3: S3, location: str) -> None:
    with pytest.raises(ValueError, match=r"found|invalid"):
        store.open_store(location)


RACE = """
import sys
from croco.store import open_store
opened = open_store(sys.argv[1])
for turn in range(20):
    opened.write("shards/sample/k.json", {"writer": sys.argv[2], "rows": [sys.argv[2]] * 2000})
"""


def is_whole(record: dict[str, object] | None) -> bool:
    return record is None or record["rows"] == [record["writer"]] * 2000


def test_of_two_processes_that_write_one_record_one_wins_whole(opened: Store, location: str) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", RACE, location, name]) for name in ("one", "other")]
    while any(writer.poll() is None for writer in writers):
        assert is_whole(opened.read("shards/sample/k.json"))
    assert [writer.returncode for writer in writers] == [0, 0]
    last = opened.read("shards/sample/k.json")
    assert last and is_whole(last)
    assert names(opened) == ["shards/sample/k.json"]


def test_of_two_threads_that_keep_one_file_both_find_it_whole(opened: Store, location: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(3 << 20))
    kept: list[str] = []
    threads = [
        threading.Thread(target=lambda: kept.append(store.open_store(location).keep(path, replace=True)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 4
    assert names(opened) == [store.file_name(kept[0])]
    opened.check(kept[0])


KILLED = """
import io, os, sys, time
from croco import bucket, store
class Stuck(io.RawIOBase):
    given = 0
    def read(self, size=-1):
        if self.given >= 12 << 20:
            print("half", flush=True)
            time.sleep(600)
        self.given += size
        return os.urandom(size)
location = sys.argv[1]
backend = store.open_store(location).backend
if location.startswith("s3://"):
    backend = bucket.open_bucket(location[5:], part=5 << 20)
backend.put(sys.argv[2], Stuck(), 24 << 20)
"""


@pytest.mark.parametrize("name", [HELLO_NAME, "shards/sample/k.json"])
def test_a_killed_writer_leaves_nothing_that_is_read(opened: Store, location: str, name: str) -> None:
    opened.write("results/pair/whole.json", {})
    with subprocess.Popen([sys.executable, "-c", KILLED, location, name], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "half\n"
        writer.kill()
    assert names(opened) == ["results/pair/whole.json"]
    assert opened.find(name) is None
    now = datetime.now(UTC)
    assert opened.backend.sweep(now - store.DAY, delete=True) == []
    (left,) = opened.backend.sweep(now + store.DAY, delete=False)
    assert Path(left.name).parent == Path(name).parent
    assert opened.backend.sweep(now + store.DAY, delete=True) == [left]
    assert opened.backend.sweep(now + store.DAY, delete=True) == []
    assert names(opened) == ["results/pair/whole.json"]


SMALL_DISK = """
import os, sys
from pathlib import Path
from croco import store
disk, large, elsewhere = Path(sys.argv[1]), Path(sys.argv[2]), store.open_store(sys.argv[3])
sha256 = elsewhere.keep(large)
for use in (lambda: store.open_store(disk / "store").keep(large), lambda: elsewhere.fetch(sha256, disk / "copy")):
    try:
        use()
    except OSError as error:
        print(error)
opened = store.open_store(disk / "store")
opened.write("results/pair/k.json", {"small": True})
print([entry.name for entry in opened.entries()], opened.read("results/pair/k.json"))
print(sorted(file.name for _, _, files in os.walk(disk) for file in map(Path, files)))
"""


def test_a_full_disk_is_said_and_leaves_nothing_half_written(location: str, tmp_path: Path) -> None:
    disk, large = tmp_path / "disk", tmp_path / "large"
    disk.mkdir()
    large.write_bytes(os.urandom(2 << 20))
    mount = f'mount -t tmpfs -o size=1m none "{disk}" && exec "$@"'
    program = [sys.executable, "-c", SMALL_DISK, disk, large, location]
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", *program],
        capture_output=True,
        text=True,
        check=True,
    )
    put, fetched, entries, files = done.stdout.splitlines()
    assert re.fullmatch(rf"{disk}/store/files/../[0-9a-f]*: found the disk full; expected room for it; .*", put)
    assert fetched.startswith(f"{disk}/copy: found the disk full; expected room for it; free some")
    assert entries == "['results/pair/k.json'] {'small': True}"
    assert files == "['k.json']"
