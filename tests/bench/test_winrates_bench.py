"""The bench of win rates: its truths by hand, then all of it at a small size."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import winrates
from bench.winrates import Judge


def sigmoid(logit: float) -> float:
    return 1 / (1 + float(np.exp(-logit)))


def test_the_truth_of_a_judge_by_hand() -> None:
    plain = Judge(hardness=0, torn=0)
    assert winrates.expected(plain, equal=False) == pytest.approx(0.5)
    assert winrates.expected(Judge(quality=0.4, hardness=0, torn=0), equal=True) == pytest.approx(sigmoid(0.4))
    placed = Judge(quality=0.4, place=0.8, hardness=0, torn=0)
    assert winrates.expected(placed, equal=True) == pytest.approx((sigmoid(1.2) + sigmoid(-0.4)) / 2)
    torn = Judge(quality=0.4, hardness=0, torn=0.3)  # wins above .3, and half of what lies between
    assert winrates.expected(torn, equal=True) == pytest.approx((sigmoid(0.1) + sigmoid(0.7)) / 2)


def test_what_is_drawn_has_the_expected_mean() -> None:
    judge = Judge(quality=0.4, place=0.8, length=1.0)
    scores, difference = winrates.judged(judge, 200_000, np.random.default_rng(0))
    assert scores.mean() == pytest.approx(winrates.expected(judge, equal=False), abs=0.004)
    assert set(np.unique(scores)) == {0, 0.5, 1}
    assert difference.mean() == pytest.approx(winrates.LONGER, abs=5)


def test_both_orders_take_out_the_liking_for_a_place_and_length_control_that_for_length(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "winrates.json"
    flags = {"--out": out, "--questions": 500, "--repetitions": 30, "--samples": 200}
    command = [
        sys.executable,
        "-W",
        "error",
        winrates.__file__,
        *(str(part) for flag in flags.items() for part in flag),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    results = json.loads(out.read_text())["results"]
    assert set(results) == set(winrates.JUDGES)
    assert run.stdout.splitlines()[-3:] == [
        line for line in run.stdout.splitlines() if "of 95 % intervals hold the truth; target 93 to 97 %" in line
    ]

    def off(judge: str, rate: str) -> float:
        found = results[judge][rate]
        return float(found["mean"] - found["fair"])

    near = 0.015  # four standard errors of a mean over 30 arenas
    assert off("likes the first", "one_order") > 0.1
    assert abs(off("likes the first", "win_rate")) < near
    assert off("likes the longer", "win_rate") > 0.05
    for rate in ("length_controlled", "alpaca_length_controlled"):
        assert abs(off("likes the longer", rate)) < near
        assert abs(off("likes both, better model", rate)) < 2 * near
    assert all(share > 0.88 for share in winrates.covered(results).values())
