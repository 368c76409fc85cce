"""Toy: the parameters with which the whole flow runs on the toy world, in minutes on two cores."""

from pathlib import Path
from typing import Any


def parameters(world: Path) -> dict[str, Any]:
    """Parameters of `preference` for the toy world in folder `world`; all others keep their default."""
    return {
        "source": str(world / "instructions.jsonl"),
        "count": 64,
        "workers": 1,
        "languages": ["en", "de", "fr", "es"],
        "policy": str(world / "policy"),
        "translator": str(world / "translator"),
        "translator_max_model_len": 512,
        "reward": str(world / "reward"),
        "judge": str(world / "judge"),
        "judge_format": "toy",
        "promote_as": "croco-toy",
        "promote_min_questions": 10,
        "questions": str(world / "questions.jsonl"),
        "benchmark_datasets": str(world / "euroeval"),
        "questions_languages": ["en", "de", "fr", "es"],
        "answer_max_tokens": 80,
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 0,
        "max_tokens": 80,
        "max_length": 256,
        "learning_rate": 1.1e-3,
        "global_batch": 8,
        "micro_batch": 8,
    }
