"""Pair: scored answers -> preference pairs (paper Eq. 2).

    python -m croco pair --prompts DIR DIR --samples DIR --scores DIR --out DIR --pool language

A pool is the answers to one prompt, in one language or over all of them. Chosen is its highest reward; rejected is the
answer, among those with a reward strictly below, whose reward is nearest to mean - 2 standard deviations. Ties go to
the smallest (language, sample_index). Texts are read of the answers that were chosen, to write the pairs out, and of a
whole pool only where the two turn out to be the same; with them, where `sample` kept log-probabilities, those and token
ids, which stand for an answer only after the prompt that it was sampled for.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from croco import checks, dataset, rows
from croco.candidates import Answers, Candidates, sampler_of
from croco.index import INDEX_BITS, Index, Part
from croco.pools import NOTHING, PAIRED, REASONS, Selection, choose, count_pools, together
from croco.rows import CONTRACTS
from croco.spill import Spill, parts, scratch
from croco.writer import Writer

VERSION = 2
AS_SAMPLED = ("token_ids", "logprob")
"""Columns of samples that go along with a text, where there are log-probabilities."""
SMALL_POOL = 16
"""Below this many answers the rule all but becomes best against worst (simulated: P = .96 at 16, 1.0 at 8)."""


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
    languages: tuple[str, ...] = ()
    """Only the answers in these; none: in all (paper: a language, or all)."""
    n: int | None = None
    """Only the first so many answers of a prompt, 2 or more; None: all (paper: all 64, and fewer in an ablation)."""
    seed: int = 0
    """For `--prompt-source random` (ours)."""

    def __post_init__(self) -> None:
        checks.one_of(self, "pool", ("language", "all"))
        checks.one_of(self, "rejected_target", ("mean-2std", "q1", "min"))
        checks.one_of(self, "prompt_source", ("chosen", "rejected", "random"))
        checks.one_of(self, "language_guard", ("count", "exclude"))
        checks.part(self)
        if not 0 < self.k < math.inf:
            raise ValueError(f"k: found {self.k}; expected a positive number of standard deviations")


Pools = tuple[NDArray[np.int64], NDArray[np.intp]]
"""Pools in order, and what became of each: PAIRED or a key of REASONS."""


def select(answers: Answers, config: PairConfig, texts: NDArray[np.int64] | None = None) -> tuple[Selection, Pools]:
    """The pairs of pools that are whole; `texts` [answers] as in `choose`, None: no two are equal."""
    pool, keys = _pool(answers, config), answers.key
    texts = np.arange(len(keys)) if texts is None else texts
    choosable = ~(answers.cut & (not config.cut_may_win)) & ~(answers.strange & (config.language_guard == "exclude"))
    first = np.flatnonzero(np.diff(pool, prepend=-1))
    sizes = np.diff(first, append=len(pool))
    outcomes = np.empty(len(first), np.intp)
    selections = [NOTHING]
    for size in np.unique(sizes):  # pools of one size are one matrix
        pools = np.flatnonzero(sizes == size)
        members = first[pools][:, None] + np.arange(size)
        chosen, rejected, outcome = choose(
            answers.reward[members], texts[members], choosable[members], config.rejected_target, config.k
        )
        outcomes[pools] = outcome
        paired = np.flatnonzero(outcome == PAIRED)
        members, row = members[paired], np.arange(len(paired))
        rewards, best, worst = answers.reward[members], members[row, chosen[paired]], members[row, rejected[paired]]
        selections.append(
            Selection(
                pool[best], keys[best], keys[worst], answers.reward[best], answers.reward[worst],
                np.full(len(row), size), rewards.mean(axis=1), rewards.std(axis=1),
                answers.reward[worst] == rewards.min(axis=1, initial=np.inf),
            )
        )  # fmt: skip
    return together(selections), (pool[first], outcomes)


def _pool(answers: Answers, config: PairConfig) -> NDArray[np.int64]:
    return answers.place if config.pool == "language" else answers.prompt


def settle(
    candidates: Candidates, selection: Selection, pools: Pools, texts: Spill, config: PairConfig
) -> tuple[Selection, Pools, list[Spill]]:
    """The pairs and pools that there are with texts compared, and where their texts are.

    A pool whose rejected answer turns out to have the text of the chosen one is chosen from again, by all its texts.
    """
    same = [np.empty(0, bool)]
    for slab, part in _by_slab(candidates.index, selection):
        chosen, rejected = _sides(part, texts.read(slab).sort_by("key"))
        same.append(pc.equal(chosen, rejected).to_numpy(zero_copy_only=False))
    again = selection.only(np.concatenate(same))
    if not len(again.pool):
        return selection, pools, [texts]

    def members(slab: int) -> Answers:
        answers = candidates.read(slab)
        return answers.only(np.isin(_pool(answers, config), again.pool))

    slabs = [slab for slab, _ in _by_slab(candidates.index, again)]
    whole = candidates.texts(np.concatenate([members(slab).key for slab in slabs]), "pools", texts.schema.names[2:])
    found, (numbers, outcomes) = [selection.only(~np.concatenate(same))], pools
    for slab in slabs:
        text = whole.read(slab).sort_by("key")["text"].combine_chunks().dictionary_encode()
        pairs, (here, became) = select(members(slab), config, text.indices.to_numpy())
        outcomes[np.searchsorted(numbers, here)] = became
        found.append(pairs)
    return together(found), (numbers, outcomes), [texts, whole]


def _by_slab(index: Index, selection: Selection) -> Iterator[tuple[int, Selection]]:
    """(slab, its pairs) where there are any."""
    slabs = index.slab(selection.chosen >> INDEX_BITS)
    for slab in np.unique(slabs).tolist():
        yield slab, selection.only(slabs == slab)


def _sides(selection: Selection, texts: pa.Table) -> tuple[pa.Array, pa.Array]:
    """The texts of chosen and rejected; `texts` are sorted by key."""
    keys, texts = texts["key"].to_numpy(), texts["text"].combine_chunks()
    chosen, rejected = (texts.take(np.searchsorted(keys, side)) for side in (selection.chosen, selection.rejected))
    return chosen, rejected


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
    index = Index.of(prompts, samples, Part(config.languages, config.n))
    return work(writer, index, prompts, samples, scores, config)


def work(
    writer: Writer, index: Index, prompts: list[Path], samples: list[Path], scores: list[Path], config: PairConfig
) -> dataset.Manifest:
    """Make the pairs of every slab of `index`, and finish."""
    tally, sampler = dataset.Tally("answers"), sampler_of(samples)
    with scratch(writer.out) as folder:
        candidates = Candidates(index, samples, scores, folder)
        selection, pools, answered = _select(candidates, tally, config)
        wanted = np.unique(np.r_[selection.chosen, selection.rejected])
        found = candidates.texts(wanted, "texts", _carried(samples, writer))
        selection, pools, texts = settle(candidates, selection, pools, found, config)
        if config.rejected_target == "mean-2std" and len(selection.size) and np.median(selection.size) < SMALL_POOL:
            writer.warn(
                f"pools have {np.median(selection.size):.0f} answers (median); below {SMALL_POOL} the rule mean - k * "
                "std degenerates to best against worst: "
                f"here {selection.worst.mean():.0%} of the rejected are the worst"
            )
        asked = np.unique(_asked(index, selection, config))
        turns = candidates.prompts(prompts, asked, ["prompt_id", "language", "messages", "domain", "split"])
        tables = (
            tabulate(index, part, turns.read(slab), pa.concat_tables([spill.read(slab) for spill in texts]), config)
            for slab, part in _by_slab(index, selection)
        )
        for table in parts(tables):
            writer.add(table)
    counts = count_pools("pairs", index, config.pool, answered, *pools, REASONS)
    metrics = summarize(index, selection) | {"not_fit_to_win": candidates.unfit}
    return writer.finish([*counts.counts(), *tally.counts()], models=sampler, metrics=metrics)


def _select(
    candidates: Candidates, tally: dataset.Tally, config: PairConfig
) -> tuple[Selection, Pools, NDArray[np.int64]]:
    """The pairs and pools of all slabs, as though no two texts were equal, and every place that has an answer."""
    selections, numbers, outcomes, answered = [], [], [], []
    for answers, places in candidates.load(tally):
        selection, (pool, outcome) = select(answers, config)
        selections.append(selection)
        numbers.append(pool)
        outcomes.append(outcome)
        answered.append(places)
    return together(selections), (np.concatenate(numbers), np.concatenate(outcomes)), np.concatenate(answered)


def _asked(index: Index, selection: Selection, config: PairConfig) -> NDArray[np.int64]:
    """The place of each pair's prompt."""
    if config.prompt_source == "random" and config.pool == "all":
        return _random_places(index, selection.pool, config.seed)
    return (selection.rejected if config.prompt_source == "rejected" else selection.chosen) >> INDEX_BITS


def tabulate(index: Index, selection: Selection, prompts: pa.Table, texts: pa.Table, config: PairConfig) -> pa.Table:
    """The pairs as rows; `prompts` and `texts` are theirs, by place and key."""
    prompts, texts, asked = prompts.sort_by("place"), texts.sort_by("key"), _asked(index, selection, config)
    prompt = prompts.take(np.searchsorted(prompts["place"].to_numpy(), asked))
    chosen_language, rejected_language = (
        index.languages.take((side >> INDEX_BITS) % len(index.languages))
        for side in (selection.chosen, selection.rejected)
    )
    pool = pa.scalar("all") if config.pool == "all" else chosen_language
    columns = {
        "pair_id": pc.binary_join_element_wise(prompt["prompt_id"].combine_chunks(), pool, "/"),
        "prompt_id": prompt["prompt_id"],
        "prompt_language": prompt["language"],
        "prompt": prompt["messages"],
        "chosen_language": chosen_language,
        "rejected_language": rejected_language,
        "pool_size": selection.size.astype(np.int32),
        "reward_mean": selection.mean.astype(np.float32),
        "reward_std": selection.std.astype(np.float32),
        "domain": prompt["domain"],
        "split": prompt["split"],
    }
    columns["chosen"], columns["rejected"] = _sides(selection, texts)
    for name in ("chosen", "rejected"):
        keys = getattr(selection, name)
        columns[f"{name}_reward"] = getattr(selection, f"{name}_reward").astype(np.float32)
        columns[f"{name}_index"] = (keys & (2**INDEX_BITS - 1)).astype(np.int32)
        columns[f"{name}_ids"], columns[f"{name}_logprob"] = _as_sampled(keys, asked, texts)
    return pa.table(columns).select(CONTRACTS["pairs"].schema.names)


def _carried(samples: list[Path], writer: Writer) -> Sequence[str]:
    """AS_SAMPLED, where all samples have log-probabilities."""
    told = [bool(dataset.load_manifest(directory).config.get("logprob")) for directory in samples]
    if any(told) and not all(told):
        writer.warn(f"{told.count(False)} of {len(told)} samples have no log-probabilities; no pair gets any")
    return AS_SAMPLED if all(told) else ()


def _as_sampled(keys: NDArray[np.int64], asked: NDArray[np.int64], texts: pa.Table) -> tuple[Any, Any]:
    """Token ids and log-probability of each answer; null where it was sampled for another prompt than `asked`."""
    if not set(AS_SAMPLED) <= set(texts.column_names):
        return pa.nulls(len(keys)), pa.nulls(len(keys))
    places = pa.array(np.searchsorted(texts["key"].to_numpy(), keys), mask=keys >> INDEX_BITS != asked)
    ids, logprob = (texts[name].take(places) for name in AS_SAMPLED)
    return ids, logprob


def _random_places(index: Index, prompts: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """For each prompt one of the languages it exists in, by hash of its id: the same on every machine."""
    starts = np.searchsorted(index.places, prompts * len(index.languages))
    ends = np.searchsorted(index.places, (prompts + 1) * len(index.languages))
    ids = index.ids.take(prompts).to_pylist()
    coins = np.array([rows.fraction_of("prompt language", seed, prompt_id) for prompt_id in ids])
    return index.places[starts + (coins * (ends - starts)).astype(np.int64)]


def summarize(index: Index, selection: Selection) -> dict[str, Any]:
    """Mean margin (reward units), share of rejected that are the pool's worst, and who won against whom."""
    names, number = index.languages.to_pylist(), len(index.languages)
    sides = (selection.chosen >> INDEX_BITS) % number * number + (selection.rejected >> INDEX_BITS) % number
    mix = dict(zip(*(column.tolist() for column in np.unique(sides, return_counts=True)), strict=True))
    margin = selection.chosen_reward - selection.rejected_reward
    return {
        "margin_mean": float(margin.mean()) if len(margin) else None,
        "rejected_is_worst": float(selection.worst.mean()) if len(margin) else None,
        "language_mix": {f"{names[both // number]}>{names[both % number]}": n for both, n in mix.items()},
    }
