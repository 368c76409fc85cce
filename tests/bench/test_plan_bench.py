"""The bench of the planner: its arithmetic by hand, then its quick half at a tiny size. No time is asserted."""

from pathlib import Path

import pytest

from bench import plan
from bench.measuring import Setting
from pipelines.estimate import Estimate


def row(tokens_in: int | None, tokens_out: int | None, seconds: float, read: int, written: int) -> dict[str, object]:
    amounts = {"tokens_in": tokens_in, "tokens_out": tokens_out, "seconds": seconds}
    return amounts | {"bytes_read": read, "bytes_written": written}


def test_figures_are_what_was_predicted_over_what_was_measured() -> None:
    measured = {
        "sample": row(100, 1000, 20.0, 50, 200),
        "train": row(60, 0, 10.0, 50, 800),
        "pair": row(None, None, 2.0, 0, 0),
    }
    predicted = [
        Estimate("sample", 1, 0, 120, 900, seconds=19.0, stored=160, network=200),
        Estimate("gather", 1, 0, stored=999, network=999),
        Estimate("train", 1, 0, 40, 0, seconds=8.0, stored=800, network=850),
        Estimate("pair", 1, 0, seconds=1.0),
    ]
    found = {figure.name: figure for figure in plan.figures(predicted, measured)}
    assert {name: figure.value for name, figure in found.items()} == pytest.approx({
        "furthest off, of the totals": 32 / 28,
        "tokens in": 1.0,
        "tokens out": 0.9,
        "seconds": 28 / 32,
        "stored": 960 / 1000,
        "network": 1050 / 1100,
        "stored, without the tuned model": 160 / 200,
        "sample: tokens in": 1.2,
        "sample: tokens out": 0.9,
        "sample: seconds": 0.95,
        "train: tokens in": 40 / 60,
        "train: seconds": 0.8,
    })  # fmt: skip
    assert found["furthest off, of the totals"].met
    assert plan.detail(predicted, measured)["sample"]["network"] == (200, 250)


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore:pools have")
def test_one_small_run_predicts_the_tokens_of_another(toy: Path, tmp_path: Path) -> None:
    result = plan.run(Setting(toy, tmp_path, quick=True))
    found = {figure.name: figure.value for figure in result.figures}
    assert found["sample: tokens in"] == pytest.approx(1, abs=0.25)
    assert found["sample: tokens out"] == pytest.approx(1, abs=0.25)
    assert found["score: tokens in"] == pytest.approx(1, abs=0.25)
    assert set(result.detail["stages"]) == {"prepare", "sample", "score", "pair"}
