"""The bench of the flow: the planner's arithmetic by hand, then its quick half; what notes engines, by one engine.

No time is asserted.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from conftest import DatasetOf

from bench import engine_starts, flow
from bench.measuring import Setting
from croco import dataset
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
    found = {figure.name: figure for figure in flow.figures(predicted, measured)}
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
    assert flow.detail(predicted, measured)["sample"]["network"] == (200, 250)


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore:pools have")
def test_one_small_run_predicts_the_tokens_of_another(toy: Path, tmp_path: Path) -> None:
    result = flow.run(Setting(toy, tmp_path, quick=True))
    found = {figure.name: figure.value for figure in result.figures}
    assert found["sample: tokens in"] == pytest.approx(1, abs=0.25)
    assert found["sample: tokens out"] == pytest.approx(1, abs=0.25)
    assert found["score: tokens in"] == pytest.approx(1, abs=0.25)
    assert set(result.detail["stages"]) == {"prepare", "sample", "score", "pair"}


def test_a_start_is_put_down_to_the_component_the_command_or_the_program() -> None:
    assert engine_starts.stage(["/x/executor_main.py", "--function_to_execute", "sample", "--more"]) == "sample"
    assert engine_starts.stage(["/x/benchmark_worker.py"]) == "benchmark_worker"
    assert engine_starts.stage(["/croco/__main__.py", "sample", "--out", "out"]) == "sample"


@pytest.mark.engine
def test_sampling_starts_one_engine_for_all_languages_and_it_is_noted(tmp_path: Path, dataset_of: DatasetOf) -> None:
    model, link = tiny.policy(tmp_path / "policy"), tmp_path / "link"
    link.mkdir()
    for file in model.iterdir():
        (link / file.name).symlink_to(file)
    asked = {"prompt_id": "a", "reference": None, "source_dataset": "none", "domain": "none", "split": "train"}
    prompts = [
        asked | {"language": code, "messages": [{"role": "user", "content": text}]}
        for code, text in (("da", "Hvad?"), ("nl", "Wat?"))
    ]
    settings = ["--n=16", "--temperature=1", "--top-p=1", "--top-k=0", "--max-tokens=24", "--shard-prompts=1"]
    places = ["--prompts", dataset_of("prompts", prompts), "--model", link, "--out", tmp_path / "samples"]
    environment = engine_starts.environment(tmp_path / "starts")
    command = [sys.executable, "-m", "croco", "sample", *map(str, places), *settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    assert {row["language"] for row in dataset.read(tmp_path / "samples", "samples").to_pylist()} == {"da", "nl"}
    assert engine_starts.noted(tmp_path / "starts") == {("sample", str(model.resolve())): 1}
