"""Length control: a direct fit, the alpaca_eval package itself, and simulations with a known truth."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from croco import lengthcontrol

ROOT = Path(__file__).parent.parent
ALPACA = ROOT / ".cache" / "alpaca" / "bin" / "python"
"""`make .cache/alpaca/installed` makes it."""
INSTRUCTIONS = 805
"""AlpacaEval's, whose difficulties the package looks up."""


def test_reference_length_control_equals_a_direct_fit():
    from scipy.optimize import minimize

    rng = np.random.default_rng(1)
    for at in range(100):
        size = int(rng.integers(5, 80))
        difference = rng.normal(rng.normal(0, 100), 10 ** rng.uniform(0, 3), size)
        scores = rng.choice([0, 0.25, 0.5, 0.75, 1], size)
        if at % 3 == 0:
            scores = (difference > np.median(difference)).astype(float)  # length decides everything
        length = np.tanh(difference / np.std(difference))

        def loss(parameters, length=length, scores=scores):
            logit = parameters[0] + parameters[1] * length
            return (np.logaddexp(0, logit) - scores * logit).sum() + parameters[1] ** 2

        theta, phi = minimize(loss, [0, 0], method="BFGS", options={"gtol": 1e-9}).x
        found = lengthcontrol.fit_reference(scores, difference, np.ones((1, size)))
        assert np.ravel(found) == pytest.approx([theta, phi], abs=1e-5)
        rate = lengthcontrol.reference(scores, difference)
        assert rate == pytest.approx([1 / (1 + np.exp(-theta))], abs=1e-6)


def test_weights_are_repetitions():
    rng = np.random.default_rng(2)
    scores, difference = rng.choice([0, 0.5, 1], 20), rng.normal(0, 50, 20)
    weights = rng.integers(0, 4, (1, 20)).astype(float)
    again = weights[0].astype(int)
    assert lengthcontrol.reference(scores, difference, weights) == pytest.approx(
        lengthcontrol.reference(np.repeat(scores, again), np.repeat(difference, again))
    )


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_all_wins_or_all_losses_have_their_limit_as_rate(rate):
    assert lengthcontrol.reference(np.full(5, rate), np.arange(5.0)) == [rate]
    assert lengthcontrol.alpaca(np.full(5, rate), np.arange(5.0))[0] == rate


def test_equal_lengths_leave_the_raw_rate():
    scores = np.array([1, 1, 0.5, 0])
    assert lengthcontrol.reference(scores, np.full(4, 12.0)) == pytest.approx([0.625])
    many = np.tile(scores, 100)
    assert lengthcontrol.alpaca(many, np.full(400, 12.0))[0] == pytest.approx(0.625, abs=0.005)  # less its penalty


def test_length_control_removes_a_simulated_length_bias():
    rng = np.random.default_rng(4)
    difference = rng.normal(300, 400, 4000)  # the model writes more
    chance = 1 / (1 + np.exp(-1.5 * np.tanh(difference / difference.std())))  # and only length is rewarded
    scores = (rng.random(4000) < chance).astype(float)
    assert scores.mean() > 0.65
    assert lengthcontrol.reference(scores, difference)[0] == pytest.approx(0.5, abs=0.03)
    assert lengthcontrol.alpaca(scores, difference)[0] == pytest.approx(0.5, abs=0.03)


def test_what_rows_add_to_alpacas_rate_is_what_it_changes_by_when_they_count_once_more():
    rng = np.random.default_rng(6)
    difference = rng.normal(100, 400, 500)
    scores = (rng.random(500) < 1 / (1 + np.exp(-0.4 - np.tanh(difference / 400)))).astype(float)
    added = lengthcontrol.alpaca(scores, difference)[1]
    assert added.sum() == pytest.approx(0, abs=0.01)
    design = np.stack([np.tanh(difference / difference.std(ddof=1)), np.ones(500)], axis=1)

    def rate(counts):
        """Without a penalty, by Newton's method."""
        coefficients = np.zeros(2)
        for _ in range(30):
            predicted = 1 / (1 + np.exp(-design @ coefficients))
            curve = (design * (counts * predicted * (1 - predicted))[:, None]).T @ design
            coefficients += np.linalg.solve(curve, design.T @ (counts * (scores - predicted)))
        return 1 / (1 + np.exp(-coefficients[1]))

    for row in range(5):
        once_more = np.ones(500)
        once_more[row] += 0.01
        assert added[row] == pytest.approx((rate(once_more) - rate(np.ones(500))) / 0.01, rel=0.05)


def judged(rng, size, difficulty=0.0):
    """Scores of both orders and lengths as in an arena: the judge likes length, and the model writes more."""
    lengths = rng.lognormal(7, 0.6, (2, size)).astype(int) + 1
    lengths[0] = lengths[0] * rng.uniform(0.8, 1.6)
    liking = rng.uniform(0, 1) * np.tanh((lengths[0] - lengths[1]) / 900)
    logit = rng.normal(0, 0.5) + rng.normal(0, 0.7, size) + liking + difficulty
    return (rng.random((2, size)) < 1 / (1 + np.exp(-logit))).mean(axis=0), lengths


def annotations(scores, lengths):
    """The package's form: 1 where the baseline wins, 2 where the model does."""
    return [
        {
            "index": at,
            "preference": 1 + score,
            "output_1": "x" * other,
            "output_2": "x" * model,
            "generator_1": "baseline",
            "generator_2": "model",
            "annotator": "judge",
        }
        for at, (score, model, other) in enumerate(zip(scores.tolist(), *lengths.tolist(), strict=True))
    ]


def package(folder, gamed, asked):
    """The package's metrics of each of `asked`, the hub's file `gamed` (columns) in a cache of its own."""
    snapshot = folder / "datasets--tatsu-lab--alpaca_eval" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    rows = [",".join(gamed), *(",".join(map(str, row)) for row in zip(*gamed.values(), strict=True))]
    (snapshot / "df_gamed.csv").write_text("\n".join(rows) + "\n")
    run = subprocess.run(
        [ALPACA, ROOT / "tests" / "alpaca.py"],
        input="\n".join(map(json.dumps, asked)),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def gamed_baselines(rng):
    """What the package reads of its two gamed baselines: their verdicts and every instruction's difficulty."""
    difficulty, number = rng.normal(0, 1, INSTRUCTIONS), 2 * INSTRUCTIONS
    return {
        "index": np.tile(np.arange(INSTRUCTIONS), 2).tolist(),
        "instruction_difficulty": np.tile(difficulty, 2).tolist(),
        "std_delta_len": rng.normal(0, 1, number).tolist(),
        "preference": rng.choice([0, 0.3, 0.5, 0.7, 1], number).tolist(),
        "not_gamed_baseline": [False] * number,
        "model": ["gamed"] * number,
    }


def test_alpacas_rate_is_the_packages(tmp_path):
    rng = np.random.default_rng(7)
    cases = [judged(rng, size) for size in (498, 498, 498, 30)]
    asked = [{"glm": "length_controlled_minimal", "annotations": annotations(*case)} for case in cases]
    found = package(tmp_path, gamed_baselines(rng), asked)
    assert len(found) == len(cases)
    for (scores, lengths), theirs in zip(cases, found, strict=True):
        rate, _ = lengthcontrol.alpaca(scores, (lengths[0] - lengths[1]).astype(float))
        assert 100 * rate == pytest.approx(theirs["length_controlled_winrate"], abs=0.1)
        assert theirs["lc_standard_error"] == pytest.approx(0, abs=1e-9), "of predictions that are all the same"


def test_the_fit_is_that_of_alpacas_leaderboard_given_its_difficulties_and_gamed_baselines(tmp_path):
    rng = np.random.default_rng(8)
    gamed = gamed_baselines(rng)
    difficulty = np.array(gamed["instruction_difficulty"])
    scores, lengths = judged(rng, INSTRUCTIONS, difficulty[:INSTRUCTIONS])
    asked = [{"glm": "length_controlled_v1", "annotations": annotations(scores, lengths)}]
    (theirs,) = package(tmp_path, gamed, asked)
    delta = lengths[1] - lengths[0]
    ours = np.stack([np.tanh(delta / delta.std(ddof=1)), difficulty[:INSTRUCTIONS], np.ones(INSTRUCTIONS)], axis=1)
    anchors = np.stack([np.tanh(gamed["std_delta_len"]), difficulty, np.zeros(len(difficulty))], axis=1)
    fitted = lengthcontrol.fit_alpaca(
        np.concatenate([anchors, ours]),
        np.concatenate([gamed["preference"], scores]),
        np.repeat([0.2 / 2, 1], [len(difficulty), INSTRUCTIONS]),
    )
    predicted = 100 * fitted.predict_proba(ours * [0, 1, 1])[:, 1]
    assert predicted.mean() == pytest.approx(theirs["length_controlled_winrate"], abs=0.1)
    assert predicted.std(ddof=1) / np.sqrt(INSTRUCTIONS) == pytest.approx(theirs["lc_standard_error"], abs=0.01)
    assert theirs["lc_standard_error"] > 0.5
