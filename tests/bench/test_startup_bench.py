"""The bench of start-up, in fewer rounds. No time is asserted."""

from pathlib import Path

import pytest

from bench import startup
from bench.measuring import Setting


def test_the_quick_bench_gives_its_figures(tmp_path: Path) -> None:
    figures = startup.run(Setting(tmp_path / "toy", tmp_path, quick=True)).figures
    found = [(figure.name, figure.unit, figure.at_most) for figure in figures]
    assert found == [("croco --help", "s", 0.3), ("pipelines --help", "s", 0.3), ("compile", "s", 2.0)]
    assert (tmp_path / "package.yaml").stat().st_size > 0


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match=r"croco nonsense: found exit status 2; croco: found stage 'nonsense'"):
        startup.seconds(["croco", "nonsense"])
