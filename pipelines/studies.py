"""Studies: YAML file -> a study whose parts go together; every mistake in it is found before anything runs."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipelines.arms import SOURCES, Arm, Claim, Study
from pipelines.coherence import Faults, amiss, whole

KINDS: Mapping[str, Any] = {"String": str, "Integer": int, "Float": (int, float), "Boolean": bool, "List": list}
"""kfp's type of a parameter -> what YAML makes of a value of it."""
BY_ARM = ("pool", "rejected_target", "k", "prompt_source", "language_guard")
NONE = (
    "start",
    "sampled_reference",
    "judge_endpoint",
    "promote_as",
    "promote_min_questions",
    "promote_hub",
    "promote_registry",
)
"""Parameters of croco-preference that a study has by arm, and those it has not."""
SAMPLED = ("policy", "policy_revision", "temperature", "top_p", "top_k", "max_tokens")
TRAINED = (*SAMPLED, "learning_rate", "beta", "epochs", "global_batch", "micro_batch", "max_length", "packed")
"""Those that a sampler, and a policy, may have for itself."""

SECTIONS: Mapping[str, Any] = {"seeds": [0], "held_out": [], "aligner": {}}
"""Those that say where they come from, as parameters do, and what they are where the file has none."""
ALIGNER = ("model", "revision", "format")

Described = TypeVar("Described", Arm, Claim)


class Once(yaml.SafeLoader):
    """YAML in which no key is given twice: the first would be lost."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            names = [key.value for key, _ in node.value]
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} twice", node.start_mark)
        return found


@functools.cache
def _inputs() -> Mapping[str, Any]:
    """Parameters of croco-preference, as kfp has them."""
    from pipelines.placement import Cluster
    from pipelines.preference import preference

    inputs: Mapping[str, Any] = preference(Cluster()).component_spec.inputs
    return inputs


def defaults() -> dict[str, Any]:
    """The parameters of croco-preference, with their defaults."""
    return {name: about.default for name, about in _inputs().items()}


def read(path: Path, defaults: Mapping[str, Any], world: Path | None = None) -> Study:
    """The study of a YAML file; `defaults` are the parameters of croco-preference, and `world` the folder of the toy
    world, which the file may name as {toy}.

    Raises: FileNotFoundError; ValueError that names the file and every key that is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found no file; expected the YAML of a study")
    try:
        text = path.read_text(encoding="utf-8")
        if world is None and "{toy}" in text:
            raise ValueError(f"{path}: found {{toy}}; expected it only where a study is run here, on the toy world")
        given = yaml.load(text.replace("{toy}", str(world)) if world else text, Once)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = mark.line + 1 if mark else 1
        raise ValueError(f"{path}:{line}: found no YAML ({problem or error}); expected a study") from error
    faults = Faults()
    study = _study(given, defaults, faults)
    if study:
        faults += amiss(study)
    if faults or not study:
        raise ValueError(f"{path}: {'; '.join(faults)}")
    return study


def _study(given: Any, defaults: Mapping[str, Any], faults: Faults) -> Study | None:
    """The study as written, without looking at how its parts go together; None where it cannot be read."""
    known = ("name", "parameters", "policies", "samplers", "seeds", "arms", "claims", "aligner", "held_out", "oracle")
    if not faults.check("study", isinstance(given, dict), given, f"keys of {', '.join(known)}"):
        return None
    for key in given:
        faults.check(str(key), key in known, key, f"one of {', '.join(known)}")
    parameters, sources = dict(defaults), {}
    for name, entry in _mapping(given, "parameters", faults).items():
        key = f"parameters.{name}"
        allowed = name in defaults and name not in (*BY_ARM, *NONE)
        if not faults.check(key, allowed, name, "a parameter of croco-preference that no arm has of its own"):
            continue
        if _sourced(key, entry, faults):
            _check_value(key, name, entry["value"], faults)
            parameters[name], sources[name] = entry["value"], entry["source"]
    models = {key: _mapping(given, key, faults) for key in ("policies", "samplers")}
    for key, own in (("policies", TRAINED), ("samplers", SAMPLED)):
        for policy, changed in models[key].items():
            whose = f"{key}.{policy}"
            mapped = faults.check(whose, isinstance(changed, dict), changed, f"values of {', '.join(own)}")
            for name in changed if mapped else []:
                if faults.check(f"{key}.{policy}", name in own, name, f"values of {', '.join(own)}"):
                    _check_value(f"{key}.{policy}.{name}", name, changed[name], faults)
    seeds, held_out, aligner = _sections(given, sources, faults)
    arms = [
        arm for at, one in enumerate(_list(given, "arms", faults)) if (arm := _make(Arm, one, f"arms[{at}]", faults))
    ]
    claims = [
        claim
        for at, one in enumerate(_list(given, "claims", faults))
        if (claim := _make(Claim, one, f"claims[{at}]", faults))
    ]
    if faults:
        return None
    arms = [replace(arm, seeds=arm.seeds or tuple(seeds)) for arm in arms]
    arms = [one for arm in arms for one in _by_language(arm, parameters["languages"])]
    policies, fine = models["policies"] or {"policy": {}}, tuple(filter(None, claims))
    return Study(
        str(given.get("name", "")), parameters, policies, models["samplers"], tuple(arms), fine, sources, aligner,
        held_out=tuple(held_out), oracle=given.get("oracle", False),
    )  # fmt: skip


def _sections(given: Mapping[str, Any], sources: dict[str, str], faults: Faults) -> tuple[Any, Any, Any]:
    """The values of SECTIONS, of which those that are given go into `sources`."""
    found = dict(SECTIONS)
    for key in filter(given.__contains__, SECTIONS):
        if _sourced(key, given[key], faults):
            found[key], sources[key] = given[key]["value"], given[key]["source"]
    seeds, held_out, aligner = found["seeds"], found["held_out"], found["aligner"]
    faults.check("seeds", whole(seeds), seeds, "whole numbers from 0 on, each once")
    faults.check("held_out", isinstance(held_out, list), held_out, "a list")
    if faults.check("aligner", isinstance(aligner, dict), aligner, f"values of {', '.join(ALIGNER)}"):
        for name, value in aligner.items():
            fine = name in ALIGNER and isinstance(value, str)
            faults.check(f"aligner.{name}", fine, value, f"text, of {', '.join(ALIGNER)}")
    return seeds, held_out, aligner


def _sourced(key: str, entry: Any, faults: Faults) -> bool:
    """Whether a value is there with its source."""
    sourced = isinstance(entry, dict) and entry.keys() == {"value", "source"} and entry["source"] in SOURCES
    return faults.check(key, sourced, entry, f"{{value: ..., source: ...}} with one of {', '.join(SOURCES)}")


def _check_value(key: str, name: str, value: Any, faults: Faults) -> None:
    """Whether a value is of its parameter's type."""
    kind, default = _inputs()[name].type.split("[")[0], _inputs()[name].default
    fits = isinstance(value, KINDS[kind]) and (isinstance(value, bool) == (kind == "Boolean"))
    hint = "; YAML reads 1e-6 as text, and 1.0e-6 as a number" if isinstance(value, str) else ""
    faults.check(key, fits or (value is None and default is None), value, f"a value of type {kind}{hint}")


def _mapping(given: Mapping[str, Any], key: str, faults: Faults) -> dict[str, Any]:
    found = given.get(key) or {}
    return dict(found) if faults.check(key, isinstance(found, dict), found, "a mapping") else {}


def _list(given: Mapping[str, Any], key: str, faults: Faults) -> list[Any]:
    found = given.get(key) or []
    return list(found) if faults.check(key, isinstance(found, list), found, "a list") else []


def _make(kind: Callable[..., Described], entry: Any, key: str, faults: Faults) -> Described | None:
    """An arm or a claim as written; None where a key of it is wrong."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if not faults.check(key, isinstance(entry, dict), entry, f"keys of {', '.join(known)}"):
        return None
    entry = {("start" if name == "from" else name): value for name, value in entry.items()}
    before = len(faults)
    for name, value in entry.items():
        if faults.check(f"{key}.{name}", name in known, name, f"one of {', '.join(known)}".replace("start", "from")):
            faults.check(f"{key}.{name}", _fits(value, known[name].type), value, f"a value of type {known[name].type}")
    for name, about in known.items():
        faults.check(f"{key}.{name}", name in entry or about.default is not MISSING, None, "a value; it has no default")
    if len(faults) > before:
        return None
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()})


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of YAML can be a field of this type."""
    if kind in (tuple[str, ...], tuple[int, ...]):
        item = kind.__args__[0]
        return isinstance(value, list) and all(type(one) is item for one in value)
    if kind in (float, float | None):
        return type(value) in (int, float)
    if kind in (int, int | None):
        return type(value) is int
    return type(value) is kind


def _by_language(arm: Arm, codes: Sequence[str]) -> Iterator[Arm]:
    """The arm, or one for each of its languages."""
    if not arm.each_language:
        yield arm
        return
    for code in arm.languages or codes:
        yield replace(arm, name=f"{arm.name}-{code.lower()}", languages=(code,), each_language=False)
