"""Pair: the rule of design.md, against a straightforward implementation of its own and hand-computed values."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DatasetOf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from croco import dataset, pair
from croco.dataset import Manifest
from croco.index import SLAB_ROWS, Index
from croco.pair import PairConfig
from croco.writer import Writer

Candidate = dict[str, Any]
MANY = 2**40
"""Answers enough for each prompt to have a slab of its own."""


def straightforward(candidates: list[Candidate], config: PairConfig) -> tuple[Candidate, Candidate] | str:
    """One pool's pair, or why there is none: design.md's words, one after the other."""
    pool = sorted(
        (c for c in candidates if c["reward"] is not None and math.isfinite(c["reward"])),
        key=lambda c: (c["language"], c["sample_index"]),
    )
    rewards = [float(np.float32(c["reward"])) for c in pool]
    target = {
        "mean-2std": lambda: np.mean(rewards) - config.k * np.std(rewards),
        "q1": lambda: np.percentile(rewards, 25),
        "min": lambda: min(rewards),
    }[config.rejected_target]()
    able = [
        i for i, c in enumerate(pool)
        if (config.cut_may_win or c["finish_reason"] != "length")
        and (config.language_guard == "count" or c["identified"] == c["language"])
    ]  # fmt: skip
    if not able:
        return "none_choosable"
    chosen = min(able, key=lambda i: (-rewards[i], i))
    lower = [i for i in range(len(pool)) if rewards[i] < rewards[chosen]]
    if not lower:
        return "no_lower_reward"
    other = [i for i in lower if pool[i]["text"] != pool[chosen]["text"]]
    if not other:
        return "same_text"
    return pool[chosen], pool[min(other, key=lambda i: (abs(rewards[i] - target), i))]


def write(dataset_of: DatasetOf, pools: dict[str, list[Candidate]], name: str = "") -> dict[str, list[Path]]:
    """Datasets of prompts, samples and scores that hold these pools; a reward of None is left unscored."""
    every = [{"prompt_id": prompt_id, **c} for prompt_id, pool in pools.items() for c in pool]
    prompts = sorted({(c["prompt_id"], c["language"]) for c in every})
    turn = [
        {
            "prompt_id": p, "language": code, "messages": [{"role": "user", "content": f"{p} in {code}"}],
            "reference": None, "source_dataset": None, "domain": "d", "split": "train",
        }
        for p, code in prompts
    ]  # fmt: skip
    key = ("prompt_id", "language", "sample_index")
    samples = [
        {k: c[k] for k in (*key, "text", "finish_reason", "identified")} | {"token_ids": [1], "seed": 0} for c in every
    ]
    scores = [{k: c[k] for k in key} | {"reward": c["reward"]} for c in every if c["reward"] is not None]
    return {
        "prompts": [dataset_of("prompts", turn, f"prompts{name}")],
        "samples": [dataset_of("samples", samples, f"samples{name}")],
        "scores": [dataset_of("scores", scores, f"scores{name}")],
    }


def candidate(
    index: int, reward: float | None, text: str | None = None, language: str = "da", **other: Any
) -> Candidate:
    return {
        "language": language, "sample_index": index, "reward": reward, "text": text or f"answer {index} in {language}",
        "finish_reason": "stop", "identified": language,
    } | other  # fmt: skip


def expected(pools: dict[str, list[Candidate]], config: PairConfig) -> tuple[dict[str, tuple], dict[str, int]]:
    """Every pool's pair by pair_id, and how many pools gave none for which reason."""
    grouped: dict[str, list[Candidate]] = defaultdict(list)
    for prompt_id, pool in pools.items():
        for c in pool:
            grouped[f"{prompt_id}/{'all' if config.pool == 'all' else c['language']}"].append(c)
    pairs, dropped = {}, defaultdict(int)
    for pair_id, every in grouped.items():
        pool = [c for c in every if c["reward"] is not None and math.isfinite(c["reward"])]
        found = straightforward(pool, config) if pool else "none_scored"
        if isinstance(found, str):
            dropped[found] += 1
        else:
            rewards = [np.float32(c["reward"]).astype(float) for c in pool]
            statistics = (len(pool), np.float32(np.mean(rewards)), np.float32(np.std(rewards)))
            pairs[pair_id] = (
                *((c["language"], c["sample_index"], c["text"]) for c in found),
                found[0]["language"],
                statistics,
            )
    return pairs, dict(dropped)


def work(inputs: dict[str, list[Path]], out: Path, config: PairConfig, answers: int) -> Manifest:
    """As pair.run, with prompts dealt to slabs as though there were so many answers."""
    every = [directory for directories in inputs.values() for directory in directories]
    writer = Writer(out, "pairs", stage="pair", version=pair.VERSION, config=config, inputs=every)
    index = Index(dataset.read(inputs["prompts"], "prompts", ["prompt_id", "language"]), answers)
    return pair.work(writer, index, **inputs, config=config)


def check(
    inputs: dict[str, list[Path]], out: Path, pools: dict[str, list[Candidate]], config: PairConfig, answers: int = 1
) -> None:
    """What pair writes is what the straightforward implementation says."""
    pairs, dropped = expected(pools, config)
    if not pairs:
        with pytest.raises(ValueError, match="found no"):
            work(inputs, out, config, answers)
        return
    manifest = work(inputs, out, config, answers)
    found = {
        row["pair_id"]: (
            (row["chosen_language"], row["chosen_index"], row["chosen"]),
            (row["rejected_language"], row["rejected_index"], row["rejected"]),
            row["prompt_language"],
            (row["pool_size"], pytest.approx(row["reward_mean"]), pytest.approx(row["reward_std"], abs=1e-6)),
        )
        for row in dataset.read(out, "pairs").to_pylist()
    }
    assert found == pairs
    counted: dict[str, int] = defaultdict(int)
    for count in manifest.counts:
        if count.unit == "pairs":
            for reason, number in count.dropped.items():
                counted[reason] += number
    assert {reason: n for reason, n in counted.items() if n} == dropped


rewards = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, -2.0, math.nan, None]),  # ties, NaN and unscored are common
    st.floats(-30, 30, width=32),
)
candidates = st.lists(
    st.tuples(rewards, st.sampled_from("abcde"), st.booleans(), st.sampled_from(["da", "de", None])),
    min_size=1,
    max_size=24,
)
configs = st.builds(
    PairConfig,
    pool=st.sampled_from(["language", "all"]),
    rejected_target=st.sampled_from(["mean-2std", "q1", "min"]),
    k=st.sampled_from([1.0, 2.0, 0.5]),
    language_guard=st.sampled_from(["count", "exclude"]),
    cut_may_win=st.booleans(),
)


@pytest.mark.filterwarnings("ignore:pools have")
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pools=st.lists(candidates, min_size=1, max_size=10),
    config=configs,
    answers=st.sampled_from([1, 3 * SLAB_ROWS, MANY]),
)
def test_every_pool_gives_the_pair_of_the_written_rule(
    dataset_of: DatasetOf, tmp_path: Path, pools: list[list[tuple]], config: PairConfig, answers: int
) -> None:
    named = {
        f"p{number}": [
            candidate(
                i // 2, reward, text, ("da", "de")[i % 2], finish_reason="length" if cut else "stop", identified=code
            )
            for i, (reward, text, cut, code) in enumerate(pool)
        ]
        for number, pool in enumerate(pools)
    }
    if not any(c["reward"] is not None for pool in named.values() for c in pool):
        return  # nothing was scored: no dataset of scores can be written
    check(write(dataset_of, named), tmp_path / "pairs", named, config, answers)


@pytest.mark.parametrize("pool", ["language", "all"])
def test_three_thousand_pools_of_sixty_four(dataset_of: DatasetOf, tmp_path: Path, pool: str) -> None:
    rng = np.random.default_rng(0)
    pools = {
        f"{number:05d}": [
            candidate(i, float(np.float32(reward)), f"answer {number} {i % 50}", "da" if i < 32 else "de")
            for i, reward in enumerate(np.round(rng.normal(size=64), 2 if number % 2 else 7))
        ]
        for number in range(1500)
    }
    check(write(dataset_of, pools), tmp_path / "pairs", pools, PairConfig(pool=pool))


@pytest.mark.filterwarnings("ignore:pools have")
@pytest.mark.parametrize("config", [PairConfig(), PairConfig(pool="all", prompt_source="random")])
def test_a_slab_a_prompt_and_rows_in_any_order_and_file_give_the_same_bytes(
    dataset_of: DatasetOf, tmp_path: Path, config: PairConfig
) -> None:
    rng = np.random.default_rng(2)
    pools = {
        f"p{number:03d}": [
            candidate(i // 2, reward, f"{number % 10 and i // 4}", ("da", "de")[i % 2])
            for i, reward in enumerate(rng.normal(size=8))
        ]
        for number in range(200)
    }  # chosen and rejected often have one text, and in every tenth pool all have
    whole = pair.run(**write(dataset_of, pools), out=tmp_path / "whole", config=config)
    every = [(name, answer) for name, pool in pools.items() for answer in pool]
    dealt: list[dict[str, list[Candidate]]] = [defaultdict(list) for _ in range(3)]
    for number in rng.permutation(len(every)):
        dealt[int(rng.integers(3))][every[number][0]].append(every[number][1])
    written = [write(dataset_of, some, f"-{number}") for number, some in enumerate(dealt)]
    inputs = {name: [path for some in written for path in some[name]] for name in ("samples", "scores")}
    inputs["prompts"] = [tmp_path / "prompts"]
    assert work(inputs, tmp_path / "dealt", config, MANY).digest == whole.digest
    assert whole.rows < sum(count.rows_in for count in whole.counts if count.unit == "pairs")


def reference_choice(scores: list[float], target: str) -> tuple[int, int] | None:
    """The steps of the paper's released prepare_fine_tuning_data.py (select_chosen, select_rejected), in our words."""
    chosen = scores.index(max(scores))
    aims = {"mean-2std": np.mean(scores) - 2 * np.std(scores), "q1": np.percentile(scores, 25), "min": np.min(scores)}
    nearest = sorted(range(len(scores)), key=lambda i: abs(scores[i] - aims[target]))
    lower = [i for i in nearest if scores[i] < scores[chosen]]
    return (chosen, lower[0]) if lower else None


@pytest.mark.parametrize("target", ["mean-2std", "q1", "min"])
def test_the_reference_codes_choice_is_ours_where_texts_differ_and_all_are_scored(
    dataset_of: DatasetOf, tmp_path: Path, target: str
) -> None:
    rng = np.random.default_rng(1)
    scores = {f"p{n:03d}": np.float32(rng.normal(size=64)).astype(float).round(1 + n % 5).tolist() for n in range(300)}
    scores = {p: [float(np.float32(s)) for s in row] for p, row in scores.items()}
    pools = {p: [candidate(i, s) for i, s in enumerate(row)] for p, row in scores.items()}
    pair.run(**write(dataset_of, pools), out=tmp_path / "out", config=PairConfig(rejected_target=target))
    found = {
        r["prompt_id"]: (r["chosen_index"], r["rejected_index"])
        for r in dataset.read(tmp_path / "out", "pairs").to_pylist()
    }
    assert found == {p: reference_choice(row, target) for p, row in scores.items()}


def one(dataset_of: DatasetOf, tmp_path: Path, answers: list[Candidate], **knobs: Any) -> dict[str, Any]:
    pair.run(**write(dataset_of, {"p": answers}), out=tmp_path / "out", config=PairConfig(**knobs))
    return dataset.read(tmp_path / "out", "pairs").to_pylist()[0]


SIXTEEN = [0.0, 1.0] * 8
"""Mean .5, population standard deviation .5: mean - 2 std is -.5, and with k = .5 it is .25."""


def test_a_pool_by_hand(dataset_of: DatasetOf, tmp_path: Path) -> None:
    row = one(dataset_of, tmp_path, [candidate(i, r) for i, r in enumerate([*SIXTEEN[:-1], 1.0])])
    assert (row["chosen_index"], row["rejected_index"]) == (1, 0)
    assert (row["chosen_reward"], row["rejected_reward"], row["reward_mean"], row["reward_std"]) == (1, 0, 0.5, 0.5)
    assert (row["pool_size"], row["pair_id"], row["prompt"]) == (16, "p/da", [{"role": "user", "content": "p in da"}])


def test_the_target_is_not_the_minimum_in_a_large_pool(dataset_of: DatasetOf, tmp_path: Path) -> None:
    # 98 zeros, one -10, one 1: mean -.09, std 1.0010...; the target -2.09 is nearer to 0 than to -10.
    pool = [candidate(i, r) for i, r in enumerate([-10.0, *[0.0] * 98, 1.0])]
    assert one(dataset_of, tmp_path, pool)["rejected_index"] == 1
    assert one(dataset_of, tmp_path, pool, rejected_target="min")["rejected_index"] == 0
    assert one(dataset_of, tmp_path, pool, k=6.0)["rejected_index"] == 0  # -6.1 is nearer to -10


@pytest.mark.filterwarnings("ignore:pools have")
def test_a_cut_answer_loses_its_right_to_win_but_stays_in_the_pool(dataset_of: DatasetOf, tmp_path: Path) -> None:
    pool = [candidate(0, 3.0, finish_reason="length"), candidate(1, 2.0), candidate(2, 0.0)]
    row = one(dataset_of, tmp_path, pool)
    assert (row["chosen_index"], row["rejected_index"], row["pool_size"]) == (1, 2, 3)
    assert one(dataset_of, tmp_path, pool, cut_may_win=True)["chosen_index"] == 0
    assert dataset.load_manifest(tmp_path / "out").metrics["not_fit_to_win"] == {"da": {"cut": 1, "other_language": 0}}


@pytest.mark.filterwarnings("ignore:pools have")
@pytest.mark.parametrize(("source", "language"), [("chosen", "de"), ("rejected", "da")])
def test_the_prompt_is_in_the_language_asked_for(
    dataset_of: DatasetOf, tmp_path: Path, source: str, language: str
) -> None:
    pool = [candidate(0, 1.0, language="da"), candidate(0, 2.0, language="de")]
    row = one(dataset_of, tmp_path, pool, pool="all", prompt_source=source)
    assert row["prompt_language"] == language and row["prompt"][0]["content"] == f"p in {language}"
    assert row["pair_id"] == "p/all"


@pytest.mark.filterwarnings("ignore:pools have")
def test_a_random_prompt_language_is_balanced_and_always_the_same(dataset_of: DatasetOf, tmp_path: Path) -> None:
    pools = {f"p{n}": [candidate(0, 1.0, language="da"), candidate(0, 2.0, language="de")] for n in range(200)}
    inputs, config = write(dataset_of, pools), PairConfig(pool="all", prompt_source="random")
    first = pair.run(**inputs, out=tmp_path / "a", config=config)
    assert first.digest == pair.run(**inputs, out=tmp_path / "b", config=config).digest
    codes = dataset.read(tmp_path / "a", "pairs")["prompt_language"].to_pylist()
    assert 70 < codes.count("da") < 130


def test_few_answers_warn_that_the_rule_degenerates(dataset_of: DatasetOf, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"pools have 4 answers.*100% of the rejected are the worst"):
        one(dataset_of, tmp_path, [candidate(i, float(i)) for i in range(4)])
    assert "degenerates" in dataset.load_manifest(tmp_path / "out").warnings[0]


@pytest.mark.filterwarnings("ignore:pools have")
def test_what_has_no_finite_score_is_counted_and_never_a_number(dataset_of: DatasetOf, tmp_path: Path) -> None:
    pool = [candidate(0, 1.0), candidate(1, math.nan), candidate(2, None), candidate(3, -1.0), candidate(4, math.inf)]
    row = one(dataset_of, tmp_path, pool)
    assert (row["chosen_index"], row["rejected_index"], row["reward_mean"]) == (0, 3, 0.0)
    counts = {c.unit: c for c in dataset.load_manifest(tmp_path / "out").counts}
    assert counts["answers"].dropped == {"reward_not_finite": 2, "unscored": 1}


def test_pools_without_a_pair_are_an_error_that_says_why(dataset_of: DatasetOf, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no_lower_reward': 1"):
        one(dataset_of, tmp_path, [candidate(i, 1.0) for i in range(16)])


@pytest.mark.filterwarnings("ignore:pools have")
def test_a_prompt_without_answers_or_scores_is_a_pool_that_is_counted(dataset_of: DatasetOf, tmp_path: Path) -> None:
    pools = {
        "p": [candidate(0, 1.0), candidate(1, 0.0)],
        "q": [candidate(0, None)],
        "r": [candidate(0, math.nan, language="de")],
    }
    inputs = write(dataset_of, pools)
    asked = write(dataset_of, pools | {"s": [candidate(0, 1.0)]}, name="2")
    manifest = pair.run(**inputs | {"prompts": asked["prompts"]}, out=tmp_path / "out")
    counts = {(c.unit, c.language): (c.rows_in, c.rows_out, c.dropped) for c in manifest.counts}
    assert counts["pairs", "da"] == (3, 1, {"no_answer": 1, "none_scored": 1})
    assert counts["pairs", "de"] == (1, 0, {"none_scored": 1})
    assert counts["answers", "de"] == (1, 0, {"reward_not_finite": 1})


def test_a_score_without_an_answer_is_refused(dataset_of: DatasetOf, tmp_path: Path) -> None:
    inputs = write(dataset_of, {"p": [candidate(0, 1.0), candidate(1, 0.0)]})
    more = write(dataset_of, {"p": [candidate(i, 1.0) for i in range(3)]}, name="2")
    with pytest.raises(ValueError, match="found 1 of 3 rows without an answer"):
        pair.run(prompts=inputs["prompts"], samples=inputs["samples"], scores=more["scores"], out=tmp_path / "out")


def test_an_answer_without_a_prompt_is_refused(dataset_of: DatasetOf, tmp_path: Path) -> None:
    inputs = write(dataset_of, {"p": [candidate(0, 1.0), candidate(1, 0.0)]})
    other = write(dataset_of, {"q": [candidate(0, 1.0)]}, name="2")
    with pytest.raises(
        ValueError, match=r"(samples|scores): found a row without a prompt, {'prompt_id': 'p', 'language': 'da'}"
    ):
        pair.run(prompts=other["prompts"], samples=inputs["samples"], scores=inputs["scores"], out=tmp_path / "out")
    assert not (tmp_path / "out" / "unfinished").exists()


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"pool": "both"}, "pool: found 'both'; expected one of language, all"),
        ({"k": 0.0}, "k: found 0.0; expected a positive"),
        ({"k": math.inf}, "k: found inf; expected a positive"),
        ({"rejected_target": "worst"}, "rejected_target: found 'worst'"),
    ],
)
def test_a_wrong_knob_is_named_with_its_value(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PairConfig(**knobs)


def test_a_part_of_the_answers_gives_what_datasets_of_that_part_give(dataset_of: DatasetOf, tmp_path: Path) -> None:
    pools = {
        f"p{n}": [
            candidate(i, float((5 * n + 3 * i + len(code)) % 7), language=code)
            for code in ("da", "de", "en")
            for i in range(4)
        ]
        for n in range(6)
    }
    part = {
        name: [c for c in pool if c["language"] in ("da", "en") and c["sample_index"] < 3]
        for name, pool in pools.items()
    }
    config = PairConfig(pool="all", rejected_target="q1", languages=("da", "en"), n=3)
    found = pair.run(**write(dataset_of, pools), out=tmp_path / "found", config=config)
    wanted = pair.run(
        **write(dataset_of, part, "-part"), out=tmp_path / "wanted", config=PairConfig(pool="all", rejected_target="q1")
    )
    assert [file["sha256"] for file in found.files] == [file["sha256"] for file in wanted.files]
    answers = {count.language: count for count in found.counts if count.unit == "answers"}
    assert {code: (count.rows_in, count.rows_out, count.dropped) for code, count in answers.items()} == {
        "da": (24, 18, {"left_out": 6}), "de": (24, 0, {"left_out": 24}), "en": (24, 18, {"left_out": 6}),
    }  # fmt: skip
    check(write(dataset_of, pools, "-again"), tmp_path / "whole", pools, PairConfig(pool="all", rejected_target="q1"))


def test_a_language_without_a_prompt_is_refused(dataset_of: DatasetOf, tmp_path: Path) -> None:
    inputs = write(dataset_of, {"p": [candidate(0, 1.0), candidate(1, 0.0)]})
    with pytest.raises(ValueError, match="languages: found no prompt in de; expected some"):
        pair.run(**inputs, out=tmp_path / "pairs", config=PairConfig(languages=("da", "de")))
    with pytest.raises(ValueError, match="n: found 1; expected 2"):
        PairConfig(n=1)


def test_pairs_say_whose_answers_they_are_and_are_of_one_model(dataset_of: DatasetOf, tmp_path: Path) -> None:
    inputs = write(dataset_of, {"p": [candidate(0, 1.0), candidate(1, 0.0)]})
    rows = dataset.read(inputs["samples"], "samples").to_pylist()
    one, other = ({"policy": {"id": name, "sha256": name}} for name in "ab")
    first = dataset_of("samples", rows[:1], "first", models=one)
    mine = {**inputs, "samples": [first, dataset_of("samples", rows[1:], "second", models=one)]}
    assert pair.run(**mine, out=tmp_path / "pairs", config=PairConfig(rejected_target="min")).models == one
    mixed = {**inputs, "samples": [first, dataset_of("samples", rows[1:], "third", models=other)]}
    with pytest.raises(ValueError, match="samples: found answers of several models"):
        pair.run(**mixed, out=tmp_path / "mixed")
