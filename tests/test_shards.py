"""Shards: the same split everywhere, and no shard done twice."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from croco import dataset
from croco.dataset import Count
from croco.shards import Outcome, Shards, Share, bucket_of, buckets_for, split
from croco.store import open_store
from croco.writer import Writer


class Fake:
    """An engine that answers a prompt by its length, and counts."""

    gpus = 2

    def __init__(self) -> None:
        self.tokens_in, self.tokens_out, self.asked = 0, 0, []

    def score(self, prompt_id: str) -> float:
        self.asked.append(prompt_id)
        self.tokens_in += 3
        self.tokens_out += 1
        return float(len(prompt_id))


def outcome(ids: Sequence[str]) -> Callable[[Fake], Outcome]:
    def compute(engine: Fake) -> Outcome:
        kept = [name for name in ids if "!" not in name]
        rows = [{"prompt_id": name, "language": "da", "sample_index": 0, "reward": engine.score(name)} for name in kept]
        count = Count("scores", "da", len(ids), len(kept), {"refused": len(ids) - len(kept)})
        return Outcome(rows, [count], {"long": sum(len(name) > 2 for name in kept)})

    return compute


SHARDS = [["a", "bbb"], ["cc"], ["d!"], ["eeee", "f!"]]


def work(out: Path, store: Path | None, shards: Sequence[Sequence[str]] = SHARDS, **settings: Any) -> Any:
    """(the finished manifest, ids the engine was asked, how often it was loaded)."""
    engine, loaded = Fake(), []

    def load() -> Fake:
        loaded.append(1)
        return engine

    writer = Writer(out, "scores", stage="score", version=1, config=settings, store=store and str(store), also=shards)
    if writer.done:
        return writer.done, [], 0
    todo = Shards(writer, load=load, settings=settings, neutral=["gpus"])
    for ids in shards:
        todo.do("da", ids, outcome(ids))
    return writer.finish(todo.counts(), metrics={"long": todo.shares("long")}), engine.asked, len(loaded)


def test_shards_that_are_stored_are_not_computed_and_no_engine_is_loaded(tmp_path: Path) -> None:
    first, asked, loaded = work(tmp_path / "one", tmp_path / "store")
    assert (asked, loaded) == (["a", "bbb", "cc", "eeee"], 1)
    for record in tmp_path.glob("store/results/score/*.json"):
        record.unlink()

    second, asked, loaded = work(tmp_path / "two", tmp_path / "store")

    assert (asked, loaded) == ([], 0)
    assert (second.digest, second.counts, second.metrics) == (first.digest, first.counts, first.metrics)
    assert second.metrics == {"long": {"da": 2 / 4}}
    dataset.verify(tmp_path / "two")


def test_the_ledger_says_what_the_rows_took_and_what_this_run_did(tmp_path: Path) -> None:
    first, *_ = work(tmp_path / "one", tmp_path / "store")
    danish, rest = first.ledger
    assert (danish.language, danish.tokens_in, danish.tokens_out) == ("da", 12, 4)
    assert (danish.shards_computed, danish.shards_reused) == (4, 0)
    assert danish.gpu_seconds == 2 * danish.seconds > 0
    assert (rest.language, rest.tokens_in) == (None, None)
    assert danish.bytes_written > sum(file["bytes"] for file in first.files)

    restored, *_ = work(tmp_path / "two", tmp_path / "store")

    row = restored.ledger[0]
    assert (row.tokens_in, row.seconds, row.gpu_seconds) == (12, danish.seconds, danish.gpu_seconds)
    assert (row.shards_computed, row.shards_reused, row.run_seconds) == (0, 4, 0)


def test_only_what_is_missing_is_computed_and_the_files_are_the_same(tmp_path: Path) -> None:
    first, *_ = work(tmp_path / "one", tmp_path / "store", n=1)
    store = open_store(tmp_path / "store")
    for record in tmp_path.glob("store/results/score/*.json"):
        record.unlink()
    gone = next(e.name for e in store.entries("shards") if (store.read(e.name) or {})["tokens_out"] == 2)
    store.remove(gone)

    second, asked, _ = work(tmp_path / "two", tmp_path / "store", n=1)

    assert asked == ["a", "bbb"]
    assert second.digest == first.digest
    assert (second.ledger[0].shards_computed, second.ledger[0].shards_reused) == (1, 3)


@pytest.mark.parametrize("what", ["shards", "files"])
def test_a_damaged_shard_is_made_again_and_put_there_whole(tmp_path: Path, what: str) -> None:
    first, *_ = work(tmp_path / "one", tmp_path / "store")
    for record in tmp_path.glob("store/results/score/*.json"):
        record.unlink()
    damaged = next(path for path in sorted(tmp_path.glob(f"store/{what}/**/*")) if path.is_file())
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    with pytest.warns(UserWarning, match="a stored shard is not whole .*damaged"):
        second, asked, _ = work(tmp_path / "two", tmp_path / "store")

    assert second.digest == first.digest
    assert 0 < len(asked) < 4
    for record in tmp_path.glob("store/results/score/*.json"):
        record.unlink()
    assert work(tmp_path / "three", tmp_path / "store")[1] == [], "it is whole now"


def test_a_setting_changes_the_key_and_a_neutral_one_does_not(tmp_path: Path) -> None:
    work(tmp_path / "one", tmp_path / "store", n=1, gpus=1)

    assert work(tmp_path / "two", tmp_path / "store", n=1, gpus=8)[1] == []
    assert len(work(tmp_path / "three", tmp_path / "store", n=2, gpus=1)[1]) == 4


def test_a_changed_row_changes_only_its_shard(tmp_path: Path) -> None:
    work(tmp_path / "one", tmp_path / "store")

    _, asked, _ = work(tmp_path / "two", tmp_path / "store", [["a", "bbb"], ["changed"], ["d!"], ["eeee", "f!"]])

    assert asked == ["changed"]


def test_without_a_store_a_killed_stage_goes_on_in_its_own_directory(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def dying(engine: Fake) -> Outcome:
        raise Killed

    writer = Writer(tmp_path / "out", "scores", stage="score", version=1, config={})
    todo = Shards(writer, load=Fake, settings={})
    todo.do("da", SHARDS[0], outcome(SHARDS[0]))
    with pytest.raises(Killed):
        todo.do("da", SHARDS[1], dying)

    manifest, asked, _ = work(tmp_path / "out", None)

    assert asked == ["cc", "eeee"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet"
    }  # fmt: skip
    assert manifest.rows == 4


@pytest.mark.parametrize(
    ("number", "size", "buckets"),
    [(0, 4, 1), (1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (9, 4, 4), (20_000, 256, 128)],
)
def test_buckets_are_the_smallest_power_of_two_that_keeps_shards_small(number: int, size: int, buckets: int) -> None:
    assert buckets_for(number, size) == buckets


def test_buckets_are_even_and_their_halves_nest() -> None:
    found = Counter(bucket_of(f"prompt {at}", 8) for at in range(8000))
    assert set(found) == set(range(8))
    assert max(found.values()) < 1150 and min(found.values()) > 850
    assert all(bucket_of(f"p{at}", 16) // 2 == bucket_of(f"p{at}", 8) for at in range(100))


ROWS = st.lists(st.tuples(st.sampled_from(["da", "nl"]), st.integers(0, 500)), max_size=60, unique=True)


@given(ROWS, st.integers(1, 9), st.integers(1, 5))
def test_every_row_is_in_one_shard_of_one_group(data: list[tuple[str, int]], size: int, groups: int) -> None:
    table = pa.table({"language": [c for c, _ in data], "prompt_id": [str(i) for _, i in data]})
    whole = split(table, size)
    dealt = [shard for group in range(groups) for shard in split(table, size, Share(group=group, groups=groups))]

    assert sorted(place for _, places in whole for place in places) == list(range(len(data)))
    assert sorted(dealt) == sorted(whole), "groups deal the same shards"
    assert all(data[place][0] == language for language, places in whole for place in places)
    by_language = split(table, size, Share(languages=tuple({c for c, _ in data if c == "da"})))
    assert {code for code, _ in by_language} <= {code for code, _ in whole}


def test_a_language_that_is_not_there_is_an_error() -> None:
    table = pa.table({"language": ["da"], "prompt_id": ["a"]})
    with pytest.raises(ValueError, match=r"languages: found sv; expected some of da"):
        split(table, 4, Share(("da", "sv")))


@pytest.mark.parametrize(("group", "groups"), [(1, 1), (-1, 2), (0, 0)])
def test_a_group_that_is_none_is_an_error(group: int, groups: int) -> None:
    with pytest.raises(ValueError, match=f"group: found {group} of {groups} groups"):
        Share(group=group, groups=groups)
