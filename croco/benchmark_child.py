"""Benchmark child: EuroEval in a process of its own, in a temporary folder where it finds all that it reads."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import croco
from croco import benchmark_cache, benchmark_failures
from croco.benchmark_worker import FAILURE, JOB, NOTES, Job, Notes


def run(job: Job, files: Sequence[Path], cache: Path | None = None) -> Notes:
    """Have EuroEval evaluate the model of `files`; what it finds goes to the job's store.

    Raises: RuntimeError if the child fails.
    """
    with tempfile.TemporaryDirectory(prefix="croco-benchmark-") as folder:
        work = Path(folder)
        (work / job.model).mkdir()  # EuroEval writes into the model's folder: it gets one of its own, of links
        for file in files:
            (work / job.model / file.name).symlink_to(file.resolve())
        (work / JOB).write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
        benchmark_cache.lay_out(cache, work)
        command = [sys.executable, "-m", "croco.benchmark_worker"]
        places = alone(work) if job.offline else environment(work)
        status = subprocess.run(command, cwd=work, env=places, check=False).returncode
        if status:
            why = benchmark_failures.explain(f"found exit status {status} ({_why(work)}); expected 0")
            raise RuntimeError(f"EuroEval: {why}")
        return Notes(**json.loads((work / NOTES).read_text(encoding="utf-8")))


def _why(work: Path) -> str:
    """Why the child failed."""
    if (work / FAILURE).exists():
        return (work / FAILURE).read_text(encoding="utf-8")
    if importlib.util.find_spec("flash_attn"):  # where EuroEval ends the process when it is imported
        return "flash_attn is installed"
    return "its messages are above"


def environment(work: Path) -> dict[str, str]:
    """Of a process that imports EuroEval."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(croco.__file__).parents[1]), os.getenv("PYTHONPATH")])),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else its import fetches a price list
        "VLLM_CACHE_ROOT": str(work / "vllm"),
        "VLLM_CONFIG_ROOT": str(work / "vllm"),
    }


def alone(work: Path) -> dict[str, str]:
    """Of one that needs no network; without a token, whose owner EuroEval would ask the hub for."""
    places = {**environment(work), **benchmark_cache.environment(work)}
    places |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(work / "cache")}
    return {name: value for name, value in places.items() if name not in ("HF_TOKEN", "HUGGINGFACE_API_KEY")}
