"""Pair: scored answers -> preference pairs (paper Eq. 2).

    python -m croco pair --prompts DIR DIR --samples DIR --scores DIR --out DIR --pool language

A pool is the answers to one prompt, in one language or over all of them. Chosen is its highest reward; rejected is the
answer, among those with a reward strictly below, whose reward is nearest to mean - 2 standard deviations. Ties go to
the smallest (language, sample_index). No text is read but to tell equal answers apart and to write the pairs out.
"""

import math
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from croco import checks, dataset, rows
from croco.candidates import INDEX_BITS, Answers, Index, count_pools, load, texts_of
from croco.writer import Writer

VERSION = 1
SMALL_POOL = 16
"""Below this many answers the rule all but becomes best against worst (simulated: P = .96 at 16, 1.0 at 8)."""

PART_ROWS = 20_000
PAIRED, NOT_CHOOSABLE, NO_LOWER_REWARD, SAME_TEXT = range(4)
REASONS = {NOT_CHOOSABLE: "none_choosable", NO_LOWER_REWARD: "no_lower_reward", SAME_TEXT: "same_text"}


@dataclass(frozen=True)
class PairConfig:
    """How pairs are made."""

    pool: str = "language"
    """`language`: a pool a prompt and language; `all`: one pool a prompt over all its languages (paper: both)."""
    rejected_target: str = "mean-2std"
    """The reward a rejected answer should be near: `mean-2std` (paper: mean - k * std), `q1` (the 25th percentile) or
    `min` (both reference code)."""
    k: float = 2.0
    """Standard deviations below the mean, for `mean-2std` (paper)."""
    prompt_source: str = "chosen"
    """Whose language the prompt is given in: `chosen` (paper's best), `rejected`, or `random` by hash of prompt_id."""
    language_guard: str = "count"
    """An answer identified as another language than the one asked for: `count` it (paper: it may win) or `exclude` it
    from being chosen (ours)."""
    cut_may_win: bool = False
    """Whether an answer cut at the token limit may be chosen (reference code: yes; ours: it teaches to stop short)."""
    seed: int = 0
    """For `--prompt-source random` (ours)."""

    def __post_init__(self) -> None:
        checks.one_of(self, "pool", ("language", "all"))
        checks.one_of(self, "rejected_target", ("mean-2std", "q1", "min"))
        checks.one_of(self, "prompt_source", ("chosen", "rejected", "random"))
        checks.one_of(self, "language_guard", ("count", "exclude"))
        if not 0 < self.k < math.inf:
            raise ValueError(f"k: found {self.k}; expected a positive number of standard deviations")


def choose(
    rewards: NDArray[np.float64], texts: NDArray[np.int64], choosable: NDArray[np.bool_], config: PairConfig
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Chosen column, rejected column and outcome (PAIRED or a key of REASONS) of each pool.

    All arguments are [pools, answers], answers in order of (language, sample_index); `texts` are numbers that are
    equal where the answers' texts are; a row of `choosable` says which answers may be chosen. Where the outcome is not
    PAIRED the columns mean nothing. Source: paper Eq. 2.
    """
    pools = np.arange(len(rewards))
    chosen = np.where(choosable, rewards, -np.inf).argmax(axis=1)
    best = rewards[pools, chosen][:, None]
    if config.rejected_target == "mean-2std":
        target = rewards.mean(axis=1) - config.k * rewards.std(axis=1)
    elif config.rejected_target == "q1":
        target = np.percentile(rewards, 25, axis=1)
    else:
        target = rewards.min(axis=1)
    lower = rewards < best
    allowed = lower & (texts != texts[pools, chosen][:, None])
    rejected = np.where(allowed, np.abs(rewards - target[:, None]), np.inf).argmin(axis=1)
    outcome = np.select(
        [~choosable.any(axis=1), ~lower.any(axis=1), ~allowed.any(axis=1)],
        [NOT_CHOOSABLE, NO_LOWER_REWARD, SAME_TEXT],
        PAIRED,
    )
    return chosen, rejected, outcome


@dataclass(frozen=True)
class Selection:
    """Per pair [pairs]: positions in Answers of chosen and rejected, and the pool's statistics."""

    chosen: NDArray[np.intp]
    rejected: NDArray[np.intp]
    size: NDArray[np.intp]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    worst: NDArray[np.bool_]
    """Whether rejected has the pool's lowest reward."""


def select(answers: Answers, config: PairConfig) -> tuple[Selection, NDArray[np.int64], NDArray[np.intp]]:
    """The pairs, in the answers' order; and the pools with the outcome of each."""
    pool = answers.place if config.pool == "language" else answers.prompt
    choosable = ~(answers.cut & (not config.cut_may_win)) & ~(answers.strange & (config.language_guard == "exclude"))
    first = np.flatnonzero(np.diff(pool, prepend=-1))
    sizes = np.diff(first, append=len(pool))
    outcomes = np.empty(len(first), np.intp)
    selections = []
    for size in np.unique(sizes):  # pools of one size are one matrix
        pools = np.flatnonzero(sizes == size)
        members = first[pools][:, None] + np.arange(size)
        chosen, rejected, outcome = choose(answers.reward[members], answers.text[members], choosable[members], config)
        outcomes[pools] = outcome
        paired = np.flatnonzero(outcome == PAIRED)
        members, chosen, rejected = members[paired], chosen[paired], rejected[paired]
        rewards, row = answers.reward[members], np.arange(len(paired))
        worst = rewards[row, rejected] == rewards.min(axis=1, initial=np.inf)
        selections.append(
            Selection(
                members[row, chosen], members[row, rejected], np.full(len(row), size), rewards.mean(axis=1),
                rewards.std(axis=1), worst,
            )
        )  # fmt: skip
    names = [field.name for field in fields(Selection)]
    columns = [np.concatenate([getattr(selection, name) for selection in selections]) for name in names]
    order = np.argsort(pool[columns[0]])
    return Selection(*(column[order] for column in columns)), pool[first], outcomes


def run(
    *,
    prompts: list[Path],
    samples: list[Path],
    scores: list[Path],
    out: Path,
    store: str | None = None,
    config: PairConfig = PairConfig(),
) -> dataset.Manifest:
    """Write the preference pairs of scored answers.

    Args:
        prompts: Datasets of prompts, every language that was sampled.
        samples: Datasets of answers.
        scores: Datasets of rewards.
        out: Directory to write.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    for name, given in [("prompts", prompts), ("samples", samples), ("scores", scores)]:
        if not given:
            raise ValueError(f"--{name}: found no directory; expected one or more")
    inputs = [*prompts, *samples, *scores]
    writer = Writer(out, "pairs", stage="pair", version=VERSION, config=config, inputs=inputs, store=store)
    if writer.done:
        return writer.done
    index, tally = Index(dataset.read(prompts, "prompts")), dataset.Tally("answers")
    answers, answered, unfit = load(index, samples, scores, tally)
    selection, scored, outcomes = select(answers, config)
    pools = count_pools("pairs", index, config.pool, answered, scored, outcomes, REASONS)
    if config.rejected_target == "mean-2std" and len(selection.size) and np.median(selection.size) < SMALL_POOL:
        writer.warn(
            f"pools have {np.median(selection.size):.0f} answers (median); below {SMALL_POOL} the rule mean - k * std "
            f"degenerates to best against worst: here {selection.worst.mean():.0%} of the rejected are the worst"
        )
    wanted = np.unique(answers.key[np.r_[selection.chosen, selection.rejected]])
    texts = texts_of(index, samples, wanted)
    for start in range(0, len(selection.chosen), PART_ROWS):
        writer.add(tabulate(index, answers, selection, slice(start, start + PART_ROWS), wanted, texts, config))
    metrics = summarize(index, answers, selection) | {"not_fit_to_win": unfit}
    return writer.finish([*pools.counts(), *tally.counts()], metrics=metrics)


def tabulate(
    index: Index,
    answers: Answers,
    selection: Selection,
    part: slice,
    wanted: NDArray[np.int64],
    texts: pa.Array,
    config: PairConfig,
) -> pa.Table:
    """The pairs of `part` as rows; `texts` are those of the keys `wanted` (sorted)."""
    chosen, rejected = selection.chosen[part], selection.rejected[part]
    prompt = index.rows(answers.place[rejected if config.prompt_source == "rejected" else chosen])
    if config.prompt_source == "random" and config.pool == "all":
        prompt = index.rows(_random_places(index, answers.prompt[chosen], config.seed))
    chosen_language, rejected_language = (index.languages.take(answers.language[side]) for side in (chosen, rejected))
    pool = pa.scalar("all") if config.pool == "all" else chosen_language
    columns = {
        "pair_id": pc.binary_join_element_wise(prompt["prompt_id"].combine_chunks(), pool, "/"),
        "prompt_id": prompt["prompt_id"],
        "prompt_language": prompt["language"],
        "prompt": prompt["messages"],
        "chosen_language": chosen_language,
        "rejected_language": rejected_language,
        "pool_size": selection.size[part].astype(np.int32),
        "reward_mean": selection.mean[part].astype(np.float32),
        "reward_std": selection.std[part].astype(np.float32),
        "domain": prompt["domain"],
        "split": prompt["split"],
    }
    for name, side in [("chosen", chosen), ("rejected", rejected)]:
        columns[name] = texts.take(np.searchsorted(wanted, answers.key[side]))
        columns[f"{name}_reward"] = answers.reward[side].astype(np.float32)
        columns[f"{name}_index"] = (answers.key[side] & (2**INDEX_BITS - 1)).astype(np.int32)
    return pa.table(columns)


def _random_places(index: Index, prompts: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """For each prompt one of the languages it exists in, by hash of its id: the same on every machine."""
    starts = np.searchsorted(index.places, prompts * len(index.languages))
    ends = np.searchsorted(index.places, (prompts + 1) * len(index.languages))
    ids = index.ids.take(prompts).to_pylist()
    coins = np.array([rows.fraction_of("prompt language", seed, prompt_id) for prompt_id in ids])
    return index.places[starts + (coins * (ends - starts)).astype(np.int64)]


def summarize(index: Index, answers: Answers, selection: Selection) -> dict[str, Any]:
    """Mean margin (reward units), share of rejected that are the pool's worst, and who won against whom."""
    names = index.languages.to_pylist()
    chosen, rejected = selection.chosen, selection.rejected
    both = zip(answers.language[chosen], answers.language[rejected], strict=True)
    margin = answers.reward[chosen] - answers.reward[rejected]
    return {
        "margin_mean": float(margin.mean()) if len(margin) else None,
        "rejected_is_worst": float(selection.worst.mean()) if len(margin) else None,
        "language_mix": dict(sorted(Counter(f"{names[c]}>{names[r]}" for c, r in both).items())),
    }
