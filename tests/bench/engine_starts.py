"""Engine starts: a vLLM plugin that notes each engine that starts, in whichever process of a run that is.

vLLM loads what installed packages name as its plugins; `environment` names this one without installing anything.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NOTES = "CROCO_BENCH_ENGINE_STARTS"
"""Environment variable with the file that starts are noted in."""
COMPONENT = "--function_to_execute"


def environment(folder: Path) -> dict[str, str]:
    """What makes processes note their engines in `folder`, which must be empty."""
    package = folder / "bench_engine_starts-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-engine-starts\nVersion: 0\n")
    (package / "entry_points.txt").write_text(f"[vllm.general_plugins]\nstarts = {__name__}:register\n")
    places = [str(folder), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), NOTES: str(folder / "starts.jsonl")}


def register() -> None:
    """vLLM calls this before it makes an engine, maybe more than once."""
    from vllm.v1.engine.llm_engine import LLMEngine

    if hasattr(LLMEngine, "unnoted"):
        return
    LLMEngine.unnoted = unnoted = LLMEngine.__init__

    def noted(engine: Any, vllm_config: Any, *others: Any, **more: Any) -> None:
        weights = (Path(vllm_config.model_config.model) / "config.json").resolve().parent  # EuroEval's is a link
        with Path(os.environ[NOTES]).open("a", encoding="utf-8") as notes:
            notes.write(json.dumps({"stage": stage(sys.argv), "model": str(weights)}) + "\n")
        unnoted(engine, vllm_config, *others, **more)

    LLMEngine.__init__ = noted


def stage(command: Sequence[str]) -> str:
    """What a process was started for: a component, a command of croco's, or another program."""
    if COMPONENT in command:
        return command[command.index(COMPONENT) + 1]
    program = Path(command[0])
    return command[1] if program.name == "__main__.py" else program.stem


def noted(folder: Path) -> Counter[tuple[str, str]]:
    """(stage, model) -> how many engines were started."""
    notes = folder / "starts.jsonl"
    starts = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()] if notes.exists() else []
    return Counter((start["stage"], start["model"]) for start in starts)
