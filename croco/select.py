"""Select: prompts (and scored answers) -> SFT rows, for the paper's supervised arms.

    python -m croco select --prompts DIR DIR --out DIR
    python -m croco select --prompts DIR DIR --samples DIR --scores DIR --completion best --out DIR

`reference` is the data set's own answer, translated (In-Lang / All-Lang SFT); `best` is the answer of highest reward
(Max-R SFT), ties to the smallest (language, sample_index).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from croco import checks, dataset
from croco.candidates import Answers, Candidates, sampler_of
from croco.index import INDEX_BITS, Index, Part
from croco.pools import count_pools
from croco.rows import CONTRACTS
from croco.spill import parts, scratch
from croco.writer import Writer

VERSION = 2


@dataclass(frozen=True)
class SelectConfig:
    """Which completion a prompt is trained on."""

    completion: str = "reference"
    """`reference` (paper: SFT arms) or `best` (paper: Max-R)."""
    pool: str = "language"
    """For `best`: the best of each language, or of `all` languages, its prompt in its language (reference code)."""
    cut_may_win: bool = False
    """For `best`: whether an answer cut at the token limit may be chosen (reference code: yes; ours: no)."""
    languages: tuple[str, ...] = ()
    """Only prompts and answers in these; none: in all (paper: a language, or all)."""
    n: int | None = None
    """For `best`: only the first so many answers of a prompt, 2 or more; None: all (paper)."""

    def __post_init__(self) -> None:
        checks.one_of(self, "completion", ("reference", "best"))
        checks.one_of(self, "pool", ("language", "all"))
        checks.part(self)


def run(
    *,
    prompts: list[Path],
    samples: list[Path] = [],  # noqa: B006
    scores: list[Path] = [],  # noqa: B006
    out: Path,
    store: str | None = None,
    config: SelectConfig = SelectConfig(),
) -> dataset.Manifest:
    """Write SFT rows.

    Args:
        prompts: Datasets of prompts; for `reference`, their references are the completions.
        samples: For `best`: datasets of answers.
        scores: For `best`: datasets of rewards.
        out: Directory to write.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    if (config.completion == "best") != bool(samples and scores):
        raise ValueError(
            f"completion: found {config.completion!r} with {len(samples)} samples and {len(scores)} scores datasets; "
            "expected both for `best` and none for `reference`"
        )
    inputs = [*prompts, *samples, *scores]
    writer = Writer(out, "sft", stage="select", version=VERSION, config=config, inputs=inputs, store=store)
    if writer.done:
        return writer.done
    part = Part(config.languages, config.n)
    if samples:
        index = Index.of(prompts, samples, part)
        sampler = sampler_of(samples)
        return writer.finish(best(writer, index, prompts, samples, scores, config), models=sampler)
    rows, counts = references(part.of(dataset.unique(dataset.read(prompts, "prompts"), "prompts")))
    writer.add(rows)
    return writer.finish(counts)


def references(prompts: pa.Table) -> tuple[pa.Table, list[dataset.Count]]:
    """The prompts that have a reference, as SFT rows; the others are counted."""
    tally = dataset.Tally("rows")
    has = prompts["reference"].is_valid()
    for language, valid in zip(prompts["language"].to_pylist(), has.to_pylist(), strict=True):
        tally.take(language)
        if valid:
            tally.keep(language)
        else:
            tally.drop(language, "no_reference")
    reward = pa.nulls(pc.sum(has).as_py() or 0, pa.float32())
    return _rows(prompts.filter(has), prompts["reference"].filter(has), reward), tally.counts()


def best(
    writer: Writer, index: Index, prompts: list[Path], samples: list[Path], scores: list[Path], config: SelectConfig
) -> list[dataset.Count]:
    """Write the best answer of each pool as SFT rows; ties go to the smallest (language, sample_index)."""
    tally = dataset.Tally("answers")
    with scratch(writer.out) as folder:
        candidates = Candidates(index, samples, scores, folder)
        found = [(*_best(answers, config), answered) for answers, answered in candidates.load(tally)]
        key, reward, pool, cut, answered = (np.concatenate(column) for column in zip(*found, strict=True))
        pools = count_pools("rows", index, config.pool, answered, pool, cut.astype(np.intp), {1: "none_choosable"})
        key, reward = key[~cut], reward[~cut]
        texts = candidates.texts(key, "texts")
        turns = candidates.prompts(prompts, key >> INDEX_BITS, ["prompt_id", "language", "split", "messages"])
        slabs = index.slab(key >> INDEX_BITS)
        tables = (
            _rows(turns.read(slab).sort_by("place"), texts.read(slab).sort_by("key")["text"], reward[slabs == slab])
            for slab in np.unique(slabs).tolist()
        )
        for table in parts(tables):
            writer.add(table)
    return [*pools.counts(), *tally.counts()]


def _best(answers: Answers, config: SelectConfig) -> tuple[NDArray[Any], ...]:
    """Of each pool its best answer's key and reward, its number, and whether none may be chosen."""
    pool = answers.place if config.pool == "language" else answers.prompt
    reward = np.where(answers.cut & (not config.cut_may_win), -np.inf, answers.reward)
    first = np.flatnonzero(np.diff(pool, prepend=-1))
    chosen = np.lexsort((-reward, pool))[first]  # stable: of equal rewards the first stays first
    return answers.key[chosen], answers.reward[chosen].astype(np.float32), pool[first], np.isneginf(reward[chosen])


def _rows(prompts: pa.Table, completion: object, reward: object) -> pa.Table:
    columns = {name: prompts[name] for name in ("prompt_id", "language", "split")}
    columns |= {"prompt": prompts["messages"], "completion": completion, "reward": reward}
    return pa.table(columns).select(CONTRACTS["sft"].schema.names)
