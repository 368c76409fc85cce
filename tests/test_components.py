"""Components: thin, self-contained, and with the knobs of their stage's Config."""

import dataclasses
import importlib
import inspect
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components import scalars
from croco import dataset

ROOT = Path(__file__).parent.parent
STAGES = [
    "prepare",
    "translate",
    "sample",
    "score",
    "pair",
    "select",
    "train",
    "benchmark",
    "answer",
    "arena",
    "report",
]

NOT_KNOBS = {
    "translate": {"languages"},  # given as every language asked for, English too
    "sample": {"prompts_per_part"},  # bounds memory, changes no answer
    "answer": {"settings_of", "max_model_len"},  # always `model`'s own; the model's context
    "train": {
        # the paper's adapter and optimizer, which the reference code fixes
        "lora_alpha", "lora_dropout", "disable_dropout", "warmup", "weight_decay",
        # follow from the pod: its GPUs, its memory, its life
        "processes", "precompute_reference", "gradient_checkpointing", "checkpoint_steps", "eval_steps", "resume",
    },
}  # fmt: skip
"""Fields of a stage's Config that its component leaves at their default, and why."""
NOT_FLAGS = {
    "translate": {"languages"},
}
"""Parameters of a component that mean something else than the stage's field of that name."""


def component(stage: str) -> Any:
    return getattr(importlib.import_module(f"components.{stage}"), stage)


def parameters(stage: str) -> dict[str, inspect.Parameter]:
    """The component's parameters that are values, not artifacts."""
    inputs = component(stage).component_spec.inputs
    signature = inspect.signature(component(stage).python_func)
    return {
        name: parameter
        for name, parameter in signature.parameters.items()
        if name in inputs and not inputs[name].type.startswith("system.")
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_body_uses_nothing_from_its_module(stage: str) -> None:
    used = inspect.getclosurevars(component(stage).python_func)
    assert not used.globals and not used.nonlocals


@pytest.mark.parametrize("package", ["components", "pipelines"])
def test_sources_are_ascii_because_kubeflows_database_is(package: str) -> None:
    assert [path.name for path in (ROOT / package).glob("*.py") if not path.read_bytes().isascii()] == []


@pytest.mark.parametrize("stage", STAGES)
def test_knobs_are_the_fields_of_the_config(stage: str) -> None:
    module = importlib.import_module(f"croco.{stage}")
    config = getattr(module, f"{stage.capitalize()}Config")
    hints, flags = typing.get_type_hints(config), inspect.signature(module.run).parameters
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    hidden = NOT_KNOBS.get(stage, set())
    assert hidden <= set(fields), f"{hidden - set(fields)} are no fields of {config.__name__}"
    given = {name: p for name, p in parameters(stage).items() if name not in NOT_FLAGS.get(stage, set())}
    assert set(given) & set(fields) == set(fields) - hidden
    for name, parameter in given.items():
        if name not in fields:
            assert parameter.default == flags[name].default, name
        elif name == "gpus":  # text: the pod's GPU count is the same parameter, and Kubeflow reads only text there
            assert (parameter.annotation, parameter.default) == (str, str(fields[name]))
        elif hints[name] == tuple[str, ...]:
            assert (parameter.annotation, parameter.default) == (list[str], list(fields[name]))
        else:
            assert (parameter.annotation, parameter.default) == (hints[name], fields[name]), name


@pytest.mark.parametrize("stage", STAGES)
def test_components_install_nothing_when_they_start(stage: str) -> None:
    container = component(stage).component_spec.implementation.container
    assert "pip" not in " ".join(container.command)
    assert container.image.startswith("croco-")


def test_scalars_are_rows_drops_and_the_finite_numbers_of_the_metrics() -> None:
    counts = [
        dataset.Count("pairs", "da", 10, 7, {"same_text": 3}),
        dataset.Count("pairs", "de", 10, 8, {"same_text": 1, "none_choosable": 1}),
        dataset.Count("answers", None, 5, 4, {"no_score": 1}),
    ]
    own = {
        "margin_mean": 1.5,
        "language_fidelity": {"da": 0.75, "de": float("nan")},
        "resumed": True,
        "judge": "none",
        "worst": None,
        "domains": [{"read": 3}],
    }
    logged: dict[str, float] = {}
    manifest = SimpleNamespace(counts=counts, metrics=own, rows=15, contract="pairs")
    scalars.log(manifest, SimpleNamespace(log_metric=logged.__setitem__))
    assert logged == {
        "rows": 15,
        "dropped/pairs/same_text": 4,
        "dropped/pairs/none_choosable": 1,
        "dropped/answers/no_score": 1,
        "margin_mean": 1.5,
        "language_fidelity/da": 0.75,
    }
