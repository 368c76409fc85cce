"""The bench of start-up without its two runs; what notes engines, by one engine. No time is asserted."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from conftest import DatasetOf

from bench import engine_starts, startup
from bench.measuring import Setting
from croco import dataset


def test_the_quick_bench_gives_what_needs_no_run(tmp_path: Path) -> None:
    figures = startup.run(Setting(tmp_path / "toy", tmp_path, quick=True)).figures
    found = [(figure.name, figure.unit, figure.at_most) for figure in figures]
    assert found == [("croco --help", "s", 0.3), ("pipelines --help", "s", 0.3), ("compile", "s", 2.0)]
    assert (tmp_path / "package.yaml").stat().st_size > 0


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match=r"croco nonsense: found exit status 2; croco: found stage 'nonsense'"):
        startup.seconds(["croco", "nonsense"])


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
