"""Pools: rewards of the answers to one prompt, many prompts at a time -> which is chosen and which rejected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from croco import dataset
from croco.candidates import Columns
from croco.index import Index

PAIRED, NOT_CHOOSABLE, NO_LOWER_REWARD, SAME_TEXT = range(4)
REASONS = {NOT_CHOOSABLE: "none_choosable", NO_LOWER_REWARD: "no_lower_reward", SAME_TEXT: "same_text"}


def choose(
    rewards: NDArray[np.float64], texts: NDArray[np.int64], choosable: NDArray[np.bool_], target: str, k: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Chosen column, rejected column and outcome (PAIRED or a key of REASONS) of each pool.

    All arguments are [pools, answers], answers in order of (language, sample_index); `texts` are numbers that are
    equal where the answers' texts are; a row of `choosable` says which answers may be chosen; `target` and `k` are
    PairConfig's. Where the outcome is not PAIRED the columns mean nothing. Source: paper Eq. 2.
    """
    pools = np.arange(len(rewards))
    chosen = np.where(choosable, rewards, -np.inf).argmax(axis=1)
    best = rewards[pools, chosen][:, None]
    if target == "mean-2std":
        aim = rewards.mean(axis=1) - k * rewards.std(axis=1)
    else:
        aim = np.percentile(rewards, 25, axis=1) if target == "q1" else rewards.min(axis=1)
    lower = rewards < best
    allowed = lower & (texts != texts[pools, chosen][:, None])
    rejected = np.where(allowed, np.abs(rewards - aim[:, None]), np.inf).argmin(axis=1)
    outcome = np.select(
        [~choosable.any(axis=1), ~lower.any(axis=1), ~allowed.any(axis=1)],
        [NOT_CHOOSABLE, NO_LOWER_REWARD, SAME_TEXT],
        PAIRED,
    )
    return chosen, rejected, outcome


@dataclass(frozen=True)
class Selection(Columns):
    """Pairs as columns, each [pairs], sorted by pool."""

    pool: NDArray[np.int64]
    """Answers.place, or Answers.prompt where a pool is over all languages."""
    chosen: NDArray[np.int64]
    """Key of the answer, as for rejected."""
    rejected: NDArray[np.int64]
    chosen_reward: NDArray[np.float64]
    rejected_reward: NDArray[np.float64]
    size: NDArray[np.intp]
    """Answers of the pool; mean and std are those of their rewards."""
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    worst: NDArray[np.bool_]
    """Whether rejected has the pool's lowest reward."""


def together(selections: Sequence[Selection]) -> Selection:
    """All pairs of several selections."""
    columns = [np.concatenate([getattr(one, field.name) for one in selections]) for field in fields(Selection)]
    order = np.argsort(columns[0])
    return Selection(*(column[order] for column in columns))


NOTHING = Selection(*(np.empty(0, kind) for kind in [*[np.int64] * 3, *[float] * 2, np.intp, *[float] * 2, bool]))


def count_pools(
    unit: str,
    index: Index,
    pool: str,
    answered: NDArray[np.int64],
    scored: NDArray[np.int64],
    outcome: NDArray[np.intp],
    reasons: Mapping[int, str],
) -> dataset.Tally:
    """What became of every prompt's pool, by language; `pool` is `language`, or `all` (counted under None).

    `answered` are the places with an answer; `scored` [pools] those pools with a finite reward, in order, and `outcome`
    [pools] what became of them: a key of `reasons` is a drop, anything else is kept.
    """
    tally, number = dataset.Tally(unit), len(index.languages)
    asked = index.places
    if pool == "all":
        asked, answered = np.unique(asked // number), np.unique(answered // number)
    for at, code in enumerate(index.languages.to_pylist() if pool == "language" else [None]):
        every, some, ends = (
            places[places % number == at] if pool == "language" else places for places in (asked, answered, scored)
        )
        here = outcome[scored % number == at] if pool == "language" else outcome
        dropped = np.isin(here, list(reasons))
        tally.take(code, len(every))
        tally.keep(code, int((~dropped).sum()))
        tally.drop(code, "no_answer", len(every) - len(some))
        tally.drop(code, "none_scored", len(some) - len(ends))
        for key, reason in reasons.items():
            tally.drop(code, reason, int((here == key).sum()))
    return tally
