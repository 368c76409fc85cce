"""Plan: who does what, and what the names of a run stand for."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from croco import languages, plan, prepare, shards
from croco.shards import Share

CODES = st.lists(st.sampled_from(languages.MAIN), min_size=1, max_size=7, unique=True)
PINNED = "0123456789abcdef0123456789abcdef01234567"


@given(CODES, st.integers(1, 2_000), st.integers(1, 300), st.integers(1, 60))
def test_every_shard_is_in_exactly_one_share(codes: list[str], prompts: int, size: int, workers: int) -> None:
    done: Counter[tuple[str, int]] = Counter()
    parts = plan.shares(codes, prompts, size, workers)
    buckets = shards.buckets_for(prompts, size)
    for part in parts:
        mine = range(part.group, buckets, part.groups)
        assert mine, "a task without a shard"
        done.update((code, bucket) for code in part.languages for bucket in mine)
    assert done == Counter({(code, bucket): 1 for code in codes for bucket in range(buckets)})
    assert len(parts) <= workers


@given(st.integers(1, 9), st.integers(1, 9))
def test_shares_divide_the_prompts_whatever_their_number(workers: int, size: int) -> None:
    keys = [(code, f"{code}-{number}") for code in ("da", "en", "nl") for number in range(12)]
    table = pa.table({"language": [code for code, _ in keys], "prompt_id": [name for _, name in keys]})
    together = [
        place
        for part in plan.shares(["da", "en", "nl"], 12, size, workers)
        for _, places in shards.split(table, size, part)
        for place in places
    ]
    assert sorted(together) == list(range(36))


def test_workers_beyond_the_languages_share_the_shards_of_one() -> None:
    assert plan.shares(["da", "nl"], 20_000, 256, 5) == [
        Share(("da",), 0, 3), Share(("da",), 1, 3), Share(("da",), 2, 3), Share(("nl",), 0, 2), Share(("nl",), 1, 2),
    ]  # fmt: skip


def test_seven_languages_and_fourteen_workers_are_two_groups_each() -> None:
    parts = plan.shares(languages.MAIN, 20_000, 256, 14)
    assert {code: [part.group for part in parts if part.languages == (code,)] for code in languages.MAIN} == {
        code: [0, 1] for code in languages.MAIN
    }
    assert {part.groups for part in parts} == {2}


def test_fewer_workers_than_languages_do_several_each() -> None:
    assert plan.shares(["da", "nl", "en"], 20_000, 256, 2) == [Share(("da", "en")), Share(("nl",))]
    assert plan.shares(["da", "nl", "en"], 20_000, 256, 1) == [Share(("da", "nl", "en"))]


def test_a_language_is_not_dealt_to_more_tasks_than_it_has_shards() -> None:
    assert plan.shares(["da"], 512, 256, 8) == [Share(("da",), 0, 2), Share(("da",), 1, 2)]
    assert plan.shares(["da"], 24, 256, 8) == [Share(("da",))]


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="workers: found 0; expected 1 or more"):
        plan.work("sample", ["da"], 10, 0)


def test_work_is_ascii_text_and_english_is_not_translated() -> None:
    assert plan.work("translate", ["da", "en", "nl"], 24, 1) == [{"languages": "da,nl", "group": "0", "groups": "1"}]
    assert plan.work("sample", ["da", "en", "nl"], 24, 1) == [{"languages": "da,en,nl", "group": "0", "groups": "1"}]


def test_where_nothing_is_translated_the_loop_still_has_an_item() -> None:
    assert plan.work("translate", ["en"], 24, 7) == [{"languages": "en", "group": "0", "groups": "1"}]


def test_work_of_another_stage_or_in_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="stage: found 'train'; expected translate or sample"):
        plan.work("train", ["da"], 24, 1)
    with pytest.raises(ValueError, match="found 'xx'; expected one of"):
        plan.work("sample", ["xx"], 24, 1)


@pytest.fixture
def names(tmp_path: Path) -> dict[str, str]:
    """One local model for all of them, and a file of questions."""
    model, questions, benchmarks = tmp_path / "model", tmp_path / "questions.jsonl", tmp_path / "benchmarks"
    model.mkdir()
    benchmarks.mkdir()
    (model / "config.json").write_text("{}")
    (benchmarks / "data.json").write_text("{}")
    questions.write_text(json.dumps({"question": "Why?"}) + "\n")
    roles = dict.fromkeys(["translator", "policy", "reward", "judge"], str(model))
    return {**roles, "source": str(questions), "questions": str(questions), "benchmark_datasets": str(benchmarks)}


DECODING = {"n": 8, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 80}


def test_local_paths_are_pinned_by_their_content(names: dict[str, str]) -> None:
    settled = plan.settle(**names, revisions={}, decoding=DECODING)
    revisions = settled[:7]
    assert all(revision.startswith("sha256:") for revision in revisions)
    assert settled.policy == settled.judge != settled.questions == settled.source
    (Path(names["policy"]) / "config.json").write_text('{"a": 1}')
    assert plan.settle(**names, revisions={}, decoding=DECODING).policy != settled.policy
    assert settled[7:] == ("", "", "", 0.7, 1.0, 0, 80)


def test_commits_are_kept_and_benchmarks_of_the_hub_have_no_revision(names: dict[str, str]) -> None:
    hub = {**names, "source": prepare.DOLCI, "policy": "utter-project/EuroLLM-9B-Instruct-2512"}
    del hub["benchmark_datasets"]
    settled = plan.settle(**hub, revisions={"policy": PINNED, "source": None}, decoding={"n": 64})
    assert (settled.policy, settled.source) == (PINNED, prepare.DOLCI_REVISION)
    assert settled.benchmark_datasets == ""
    assert (settled.temperature, settled.top_p, settled.top_k, settled.max_tokens) == (1.0, 1.0, 0, 4096)


def test_a_policy_that_nobody_knows_how_to_sample_is_refused_before_any_work(names: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"found no decoding values for .*; add --temperature --top-p"):
        plan.settle(**names, revisions={}, decoding={"n": 64, "top_k": 0, "max_tokens": 80})
