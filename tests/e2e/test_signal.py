"""The shorter form of `make signal`: one seed."""

from pathlib import Path

import pytest
from measure_signal import signal

pytestmark = pytest.mark.engine


def test_tuning_beats_base_and_control_on_held_out_questions(toy: Path, tmp_path: Path) -> None:
    assert signal(toy, tmp_path, seeds=[0]) == []
