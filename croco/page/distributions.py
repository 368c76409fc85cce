"""Distributions: languages and rewards of many rows -> shares, means and histograms, each with its interval.

Only narrow columns are read, and those that name prompts part by part: nine million rewards are ten seconds' work.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from croco import dataset, evidence

ALL = "all"
"""The row of a table that is about every language together."""

Rows = list[dict[str, Any]]


def _parts(directories: Sequence[Path], contract: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """`columns` of the datasets' files, one at a time."""
    for path in dataset.parts(directories, contract):
        yield pq.read_table(path, columns=list(columns))


def _per_cluster(tables: Iterable[pa.Table], cluster: str, *columns: str) -> pa.Table:
    """Sums of `columns`, and rows, of each language and cluster. Single-threaded and in order, so that sums repeat to
    the bit, whatever directories the rows are spread over.
    """
    keys, names = ["language", cluster], [*(f"{name}_sum" for name in columns), "count_all"]
    found = [
        table.group_by(keys, use_threads=False).aggregate([*((name, "sum") for name in columns), ([], "count_all")])
        for table in tables
    ]
    sums = pa.concat_tables(found).group_by(keys, use_threads=False).aggregate([(name, "sum") for name in names])
    sums = sums.rename_columns({f"{name}_sum": name for name in names})
    return sums.sort_by([("language", "ascending"), (cluster, "ascending")])


def _by_language(table: pa.Table, cluster: str) -> Iterator[tuple[str, pa.Table]]:
    """(language, its rows of `_per_cluster`), and where there are several, last, ALL with a row a cluster."""
    codes = sorted(pc.unique(table["language"]).to_pylist())
    for code in codes:
        yield code, table.filter(pc.equal(table["language"], code))
    if len(codes) > 1:
        names = [name for name in table.column_names if name not in ("language", cluster)]
        together = table.group_by(cluster, use_threads=False).aggregate([(name, "sum") for name in names])
        yield ALL, together.rename_columns({f"{name}_sum": name for name in names})


# Language fidelity: the share of texts in the language asked for


def _in_language(table: pa.Table) -> pa.Array:
    """1 where the text is in the language asked for (whatever its region), else 0, also where it has no letters."""
    base = pc.replace_substring_regex(table["language"], "-.*", "")
    return pc.fill_null(pc.equal(table["identified"], base), False).cast(pa.int64())


def sampled(samples: Sequence[Path]) -> Rows:
    """Language fidelity of sampled answers."""
    parts = _parts(samples, "samples", ["language", "prompt_id", "identified"])
    counted = _per_cluster((part.append_column("hit", _in_language(part)) for part in parts), "prompt_id", "hit")
    return [
        {"language": code, **asdict(evidence.share(part["hit_sum"], part["count_all"]))}
        for code, part in _by_language(counted, "prompt_id")
    ]


def translated(prompts: Sequence[dataset.Manifest]) -> Rows:
    """Language fidelity of prompts as the stages that wrote them measured it, by language over all directories.

    Raises: ValueError for a share that is not one of whole prompts.
    """
    hits, measured = Counter[str](), Counter[str]()
    for manifest in prompts:
        rows = {count.language: count.rows_out for count in manifest.counts if count.unit == manifest.counts[0].unit}
        for code, value in manifest.metrics.get("language_fidelity", {}).items():
            n = manifest.metrics.get("with_prose", rows).get(code, 0)
            if not n or not math.isclose(round(value * n), value * n, abs_tol=1e-6 * n):
                raise ValueError(
                    f"{manifest.stage}: found {value} of {n} prompts identified as {code}; expected a whole number of "
                    "them; the manifest was edited: run the stage again"
                )
            hits[code] += round(value * n)
            measured[code] += n
    return [
        {"language": code, **asdict(evidence.share(np.arange(n) < hits[code], np.ones(n)))}
        for code, n in sorted(measured.items())
    ]


def answered(base: Path | None, tuned: Path | None) -> dict[str, Any]:
    """`languages`: per language `base`, `tuned` and their `change` over the questions that both answered (None for
    what is missing); `left_out`: answers of each to a question that the other did not answer.
    """
    tables = {name: _answers(path, name) for name, path in (("base", base), ("tuned", tuned)) if path}
    if len(tables) == 1:
        (joined,) = tables.values()
    else:
        key = ["question_id", "language"]
        joined = tables["base"].join(tables["tuned"], key, join_type="inner", use_threads=False)
        if not len(joined):
            raise ValueError(f"{base}, {tuned}: found no question that both answered; expected the same questions")
    found = []
    for code, part in _by_language(_per_cluster([joined], "question_id", *tables), "question_id"):
        hits = {name: part[f"{name}_sum"] for name in tables}
        row: dict[str, Any] = {"language": code, "base": None, "tuned": None, "change": None, "verdict": None}
        row |= {name: asdict(evidence.share(counted, part["count_all"])) for name, counted in hits.items()}
        if len(hits) == 2:
            changed = evidence.change(hits["base"], hits["tuned"], part["count_all"])
            row |= {"change": asdict(changed), "verdict": evidence.verdict(changed.low, changed.high)}
        found.append(row)
    return {"languages": found, "left_out": {name: len(table) - len(joined) for name, table in tables.items()}}


def _answers(path: Path, name: str) -> pa.Table:
    """question_id, language, and a column `name` with 1 where the answer is in the language asked for."""
    key = ["question_id", "language", "generator"]
    table = dataset.unique(dataset.read(path, "answers", [*key, "identified"]), "answers", str(path))
    return table.select(key[:2]).append_column(name, _in_language(table))


# Rewards


def rewards(scores: Sequence[Path], pairs: Path | None, bins: int) -> tuple[dict[str, Any] | None, ...]:
    """Rewards of all answers per language, and the pairs made of them; None for what is missing.

    The histograms of all, chosen and rejected rewards have the same edges.
    """
    scored = dataset.read(scores, "scores", ["language", "reward"]) if scores else None
    names = ["prompt_language", "chosen_language", "rejected_language", "chosen_reward", "rejected_reward"]
    paired = dataset.read(pairs, "pairs", names) if pairs else None
    values = [scored["reward"].to_numpy()] if scored else []
    values += [paired[side].to_numpy() for side in ("chosen_reward", "rejected_reward")] if paired else []
    if not values:
        return None, None
    edges = _edges(values, bins)
    return _scored(scores, scored, edges) if scored else None, _paired(paired, edges, bins) if paired else None


def _edges(columns: Sequence[NDArray[Any]], bins: int) -> NDArray[np.float64]:
    """`bins` + 1 edges from the lowest to the highest value of all columns, so that no value is left out."""
    low, high = min(float(c.min()) for c in columns), max(float(c.max()) for c in columns)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("rewards: found a value that is not finite; expected numbers; run `croco score` again")
    return np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 0.5, high + 0.5, bins + 1)


def _spread(values: NDArray[np.float64], edges: NDArray[np.float64]) -> dict[str, Any]:
    values = np.sort(values)  # floats add up to the same only in the same order
    names = ("min", "q25", "median", "q75", "max")
    return {
        "std": float(values.std()),
        **dict(zip(names, np.percentile(values, [0, 25, 50, 75, 100]).tolist(), strict=True)),
        "histogram": np.histogram(values, edges)[0].tolist(),
    }


def _scored(scores: Sequence[Path], table: pa.Table, edges: NDArray[np.float64]) -> dict[str, Any]:
    found = []
    for code, part in _by_language(_per_cluster(_exact(scores), "prompt_id", "reward"), "prompt_id"):
        here = table if code == ALL else table.filter(pc.equal(table["language"], code))
        estimate = evidence.mean(part["reward_sum"], part["count_all"])
        spread = _spread(here["reward"].to_numpy().astype(np.float64), edges)
        found.append({"language": code, **asdict(estimate), **spread})
    return {"edges": edges.tolist(), "languages": found}


def _exact(scores: Sequence[Path]) -> Iterator[pa.Table]:
    """Parts of rewards by prompt, as numbers that add up without loss."""
    for part in _parts(scores, "scores", ["language", "prompt_id", "reward"]):
        yield part.set_column(2, "reward", part["reward"].cast(pa.float64()))


def _paired(table: pa.Table, edges: NDArray[np.float64], bins: int) -> dict[str, Any]:
    """`margins` (chosen minus rejected) by the prompt's language; `picked` rewards and `mix` by the answer's."""
    reward = {side: table[f"{side}_reward"].to_numpy().astype(np.float64) for side in ("chosen", "rejected")}
    language = {side: np.array(table[f"{side}_language"].to_pylist()) for side in ("prompt", *reward)}
    margin, each = reward["chosen"] - reward["rejected"], np.ones(len(table))
    margin_edges = _edges([margin], bins)
    codes = sorted(set(language["prompt"].tolist()))
    margins = []
    for code in [*codes, ALL] if len(codes) > 1 else codes:
        here = margin if code == ALL else margin[language["prompt"] == code]
        margins.append(
            {"language": code, **asdict(evidence.mean(here, np.ones(len(here)))), **_spread(here, margin_edges)}
        )
    mix, picked = [], []
    for code in sorted({*language["chosen"].tolist(), *language["rejected"].tolist()}):
        where = {side: language[side] == code for side in reward}
        mix.append({"language": code, **{side: asdict(evidence.share(where[side], each)) for side in reward}})
        histograms = {side: np.histogram(reward[side][where[side]], edges)[0].tolist() for side in reward}
        picked.append({"language": code, **histograms})
    across = asdict(evidence.share(language["chosen"] != language["rejected"], each))
    return {
        "edges": edges.tolist(),
        "picked": picked,
        "margin_edges": margin_edges.tolist(),
        "margins": margins,
        "mix": mix,
        "across_languages": across,
    }
