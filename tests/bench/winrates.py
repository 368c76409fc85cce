"""Win rates: are they right about a judge whose faults are known? Estimates and intervals against the truth.

    python tests/bench/winrates.py --out FILE.json [--questions 500] [--repetitions 200]

A simulated judge likes the model's answer by `quality`, the first answer by `place`, the longer by `length`, each
question's winner by `hardness` (all in logits), and ties where it is torn. Each repetition draws new questions, lets
the judge see both orders and asks croco.winrate for its rates. The truth is the judge's own expected score over both
orders, by quadrature: of the raw rate over the lengths drawn, of the length-controlled ones where both answers are
equally long. `fair` is that of a judge without the two likings.
"""

import argparse
import json
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from croco import winrate

LONGER, SPREAD = 300.0, 500.0
"""Mean and standard deviation of the model's answers' length over the reference's, in characters."""
TARGET = (0.93, 0.97)
"""Share of 95 % intervals that hold the truth, over all judges."""


@dataclass(frozen=True)
class Judge:
    """What moves a judge, in logits."""

    quality: float = 0.0
    place: float = 0.0
    length: float = 0.0
    """Of a difference of many characters; of less, by tanh(difference / SPREAD)."""
    hardness: float = 0.5
    """Standard deviation over questions."""
    torn: float = 0.3
    """Where it is nearer to neither than this, it ties."""


JUDGES: Mapping[str, Judge] = {
    "fair, equal models": Judge(),
    "likes the first": Judge(place=0.8),
    "likes the longer": Judge(length=1.0),
    "likes both, better model": Judge(quality=0.4, place=0.8, length=1.0),
}


def expected(judge: Judge, *, equal: bool) -> float:
    """The judge's mean score of the model over orders, hardness and lengths; `equal`: where all are equally long."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    difference = np.zeros(1) if equal else LONGER + SPREAD * nodes
    likes = judge.quality + judge.length * np.tanh(difference / SPREAD)
    logit = likes[:, None, None] + judge.hardness * nodes[:, None] + judge.place * np.array([1, -1])
    score = (1 / (1 + np.exp(-logit - judge.torn)) + 1 / (1 + np.exp(-logit + judge.torn))) / 2
    by_length = score.mean(axis=2) @ weights / weights.sum()
    return float(by_length[0] if equal else by_length @ weights / weights.sum())


def judged(judge: Judge, questions: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the model [questions, 2], in first and in second place, and length differences [questions]."""
    difference = rng.normal(LONGER, SPREAD, questions)
    likes = judge.quality + judge.length * np.tanh(difference / SPREAD) + rng.normal(0, judge.hardness, questions)
    felt = likes[:, None] + judge.place * np.array([1, -1]) + rng.logistic(size=(questions, 2))
    return (np.sign(np.where(np.abs(felt) <= judge.torn, 0, felt)) + 1) / 2, difference


def simulate(judge: Judge, questions: int, repetitions: int, samples: int, seed: int) -> dict[str, dict[str, float]]:
    """By rate: its truth, a fair judge's, and over the repetitions the mean and spread of its estimates, their mean
    standard error, the share of intervals that hold the truth, and of those that leave parity out. `one_order` is the
    raw rate without the second order.
    """
    rng = np.random.default_rng(seed)
    number, one = np.arange(questions), np.zeros(questions, int)
    first, rows = [], []
    for _ in range(repetitions):
        scores, difference = judged(judge, questions, rng)
        first.append(scores[:, 0].mean())
        drawn = {"repetitions": samples, "seed": int(rng.integers(2**31))}
        rows.append(winrate.summarize(scores.mean(axis=1), difference, number, one, **drawn))
    fair = expected(replace(judge, place=0.0, length=0.0), equal=True)
    found = {"one_order": {"fair": fair, "mean": float(np.mean(first))}}
    for name, prefix in winrate.RATES.items():
        truth, values = expected(judge, equal=name != "win_rate"), [row[name] for row in rows]
        low, high = np.array([row[f"{prefix}interval_95"] for row in rows]).T
        found[name] = {
            "fair": fair,
            "truth": truth,
            "mean": float(np.mean(values)),
            "spread": float(np.std(values, ddof=1)),
            "error": float(np.mean([row[f"{prefix}standard_error"] for row in rows])),
            "coverage": float(((low <= truth) & (truth <= high)).mean()),
            "found": float(((low > winrate.PARITY) | (high < winrate.PARITY)).mean()),
        }
    return found


def covered(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """By rate: the share of intervals that hold the truth, over all judges."""
    return {name: float(np.mean([rates[name]["coverage"] for rates in results.values()])) for name in winrate.RATES}


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The results as text, in per cent."""
    columns = ("fair", "truth", "mean", "spread", "error", "coverage", "found")
    lines = [f"{'judge':26}{'rate':26}" + "".join(f"{name:>10}" for name in columns)]
    for judge, rates in results.items():
        for rate, found in rates.items():
            cells = "".join(f"{100 * found[name]:10.1f}" if name in found else " " * 10 for name in columns)
            lines.append(f"{judge:26}{rate:26}{cells}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=200, help="simulated arenas of each judge")
    parser.add_argument("--samples", type=int, default=500, help="bootstrap samples of each interval")
    arguments = parser.parse_args()
    sizes = (arguments.questions, arguments.repetitions, arguments.samples)
    with ProcessPoolExecutor() as pool:
        found = [pool.submit(simulate, judge, *sizes, seed) for seed, judge in enumerate(JUDGES.values())]
        results = {name: future.result() for name, future in zip(JUDGES, found, strict=True)}
    judges = {name: asdict(judge) for name, judge in JUDGES.items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"judges": judges, "results": results}, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    for name, share in covered(results).items():
        met = TARGET[0] <= share <= TARGET[1]
        print(f"{name}: {share:.1%} of 95 % intervals hold the truth; target 93 to 97 %: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
