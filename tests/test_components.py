"""Components: thin, self-contained, and with the knobs of their stage's Config."""

import dataclasses
import importlib
import inspect
import json
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
    "align",
    "implicit",
    "pair",
    "select",
    "train",
    "fetch",
    "benchmark",
    "answer",
    "arena",
    "promote",
    "rate",
    "tally",
    "study",
    "report",
]
COMPONENTS = [*STAGES, "publish", "track", "preflight", "resolve", "plan", "recall", "gather"]

NOT_KNOBS = {
    "translate": {"languages"},  # a share's
    "answer": {"settings_of", "max_model_len"},  # always `model`'s own; the model's context
    "train": {
        # the paper's adapter and optimizer, which the reference code fixes
        "lora_alpha", "lora_dropout", "disable_dropout", "warmup", "weight_decay",
        # follow from the pod: its GPUs, its memory, its life
        "processes", "precompute_reference", "gradient_checkpointing", "checkpoint_steps", "eval_steps", "resume",
    },
}  # fmt: skip
"""Fields of a stage's Config that its component leaves at their default, and why."""
SHARE = {"languages", "group", "groups"}
NOT_FLAGS = {"translate": SHARE, "sample": SHARE}
"""Parameters of a component that are a share of its work, as text."""


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


@pytest.mark.parametrize("stage", COMPONENTS)
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
    sizes = {name for name in fields if name.startswith("shard_")}  # how much is done at a time changes no row
    hidden = NOT_KNOBS.get(stage, set()) | sizes
    assert hidden <= set(fields), f"{hidden - set(fields)} are no fields of {config.__name__}"
    given = {name: p for name, p in parameters(stage).items() if name not in NOT_FLAGS.get(stage, set())}
    assert set(given) & set(fields) == set(fields) - hidden
    for name, parameter in given.items():
        if name in ("store", "name"):  # text: in a loop, Kubeflow takes no parameter that may be empty
            assert (parameter.annotation, parameter.default, flags[name].default) == (str, "", None)
        elif name not in fields:
            assert parameter.default == flags[name].default, name
        elif name == "gpus":  # text: the pod's GPU count is the same parameter, and Kubeflow reads only text there
            assert (parameter.annotation, parameter.default) == (str, str(fields[name]))
        elif hints[name] == tuple[str, ...]:
            assert (parameter.annotation, parameter.default) == (list[str], list(fields[name]))
        else:
            assert (parameter.annotation, parameter.default) == (hints[name], fields[name]), name


@pytest.mark.parametrize("stage", COMPONENTS)
def test_components_install_nothing_when_they_start(stage: str) -> None:
    container = component(stage).component_spec.implementation.container
    assert "pip" not in " ".join(container.command)
    assert container.image.startswith("croco-")


def test_scalars_are_rows_drops_the_ledger_and_the_finite_numbers_of_the_metrics(tmp_path: Path) -> None:
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
    ledger = [
        dataset.Spent("da", tokens_in=40, tokens_out=8, seconds=2.0, bytes_written=100, shards_reused=3),
        dataset.Spent("de", tokens_in=2, seconds=0.5, shards_reused=1),
        dataset.Spent(None, seconds=1.5, bytes_written=20),
    ]
    logged: dict[str, float] = {}
    manifest = SimpleNamespace(counts=counts, ledger=ledger, metrics=own, rows=15, contract="pairs")
    scalars.log(manifest, SimpleNamespace(log_metric=logged.__setitem__, path=tmp_path / "metrics"))
    assert logged == json.loads((tmp_path / "metrics").read_text())
    assert logged == {
        "rows": 15,
        "dropped/pairs/same_text": 4,
        "dropped/pairs/none_choosable": 1,
        "dropped/answers/no_score": 1,
        "margin_mean": 1.5,
        "language_fidelity/da": 0.75,
        "ledger/tokens_in": 42,
        "ledger/tokens_in/da": 40,
        "ledger/tokens_in/de": 2,
        "ledger/tokens_out": 8,
        "ledger/tokens_out/da": 8,
        "ledger/seconds": 4.0,
        "ledger/seconds/da": 2.0,
        "ledger/seconds/de": 0.5,
        "ledger/bytes_written": 120,
        "ledger/bytes_written/da": 100,
        "ledger/shards_reused": 4,
        "ledger/shards_reused/da": 3,
        "ledger/shards_reused/de": 1,
    }


PROMPT = {
    "prompt_id": "a",
    "language": "en",
    "messages": [{"role": "user", "content": "Why?"}],
    "reference": None,
    "source_dataset": None,
    "domain": None,
    "split": "train",
}


def at(path: Path) -> SimpleNamespace:
    """An artifact there."""
    return SimpleNamespace(path=str(path), log_metric=lambda name, value: None)


def test_where_only_english_is_asked_for_it_is_handed_on_as_it_is(dataset_of: Any, tmp_path: Path) -> None:
    english, handed = dataset_of("prompts", [PROMPT]), tmp_path / "handed"
    body = component("translate").python_func
    body(english=at(english), languages="en", model="none", prompts=at(handed), metrics=at(tmp_path / "metrics"))
    assert dataset.verify(handed).digest == dataset.verify(english).digest
    assert json.loads((tmp_path / "metrics").read_text())["rows"] == 1


@pytest.mark.parametrize(
    ("languages", "gathered"),
    [
        (["da", "en", "nl"], {"en", "translated-0", "translated-1"}),
        (["da", "nl"], {"translated-0", "translated-1"}),
        (["en"], {"en"}),
    ],
)
def test_prompts_are_gathered_in_the_languages_asked_for(
    languages: list[str], gathered: set[str], dataset_of: Any, tmp_path: Path
) -> None:
    english = dataset_of("prompts", [PROMPT])
    parts = [dataset_of("prompts", [PROMPT | {"language": code}], name=code) for code in ("da", "nl")]
    body = component("gather").python_func
    translations = [at(part) for part in (parts if "da" in languages else [english])]
    body(english=at(english), translations=translations, languages=languages, prompts=at(tmp_path / "all"))
    assert {path.name for path in (tmp_path / "all").iterdir()} == gathered
    found = dataset.read(sorted((tmp_path / "all").iterdir()), "prompts")["language"].to_pylist()
    assert sorted(found) == languages
