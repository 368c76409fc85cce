"""Studies: YAML file -> a study whose parts go together; every mistake in it is found before anything runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from croco import languages
from pipelines.arms import BASE, MEASURES, METHODS, NAME, SCORERS, SHARED, SOURCES, Arm, Claim, Study, settings

Described = TypeVar("Described", Arm, Claim)


class _Faults(list[str]):
    """Everything that is wrong, with its key."""

    def check(self, key: str, fine: object, found: object, expected: str) -> bool:
        if not fine:
            self.append(f"{key}: found {found!r}; expected {expected}")
        return bool(fine)


def defaults() -> dict[str, Any]:
    """The parameters of croco-preference that a study may change, with their defaults."""
    from pipelines.placement import Cluster
    from pipelines.preference import preference

    return {name: about.default for name, about in preference(Cluster()).component_spec.inputs.items()}


def read(path: Path, defaults: Mapping[str, Any], world: Path | None = None) -> Study:
    """The study of a YAML file; `defaults` are the parameters of croco-preference, and `world` the folder of the toy
    world, which the file may name as {toy}.

    Raises: FileNotFoundError; ValueError that names the file and every key that is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found no file; expected the YAML of a study")
    try:
        text = path.read_text(encoding="utf-8")
        given = yaml.safe_load(text.replace("{toy}", str(world)) if world else text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"{path}:{mark.line + 1 if mark else 1}: found no YAML; expected a study") from error
    faults = _Faults()
    study = _study(given, defaults, faults)
    if study:
        faults += _faults(study)
    if faults or not study:
        raise ValueError(f"{path}: {'; '.join(faults)}")
    return study


def _study(given: Any, defaults: Mapping[str, Any], faults: _Faults) -> Study | None:
    """The study as written, without looking at how its parts go together; None where it cannot be read."""
    known = ("name", "parameters", "policies", "samplers", "seeds", "arms", "claims", "aligner", "held_out", "oracle")
    if not faults.check("study", isinstance(given, dict), given, f"keys of {', '.join(known)}"):
        return None
    for key in given:
        faults.check(str(key), key in known, key, f"one of {', '.join(known)}")
    parameters, sources = dict(defaults), {}
    for name, entry in _mapping(given, "parameters", faults).items():
        key = f"parameters.{name}"
        if not faults.check(key, name in defaults, name, "a parameter of croco-preference"):
            continue
        sourced = isinstance(entry, dict) and entry.keys() == {"value", "source"} and entry["source"] in SOURCES
        if faults.check(key, sourced, entry, f"{{value: ..., source: ...}} with one of {', '.join(SOURCES)}"):
            parameters[name], sources[name] = entry["value"], entry["source"]
    models = {key: _mapping(given, key, faults) for key in ("policies", "samplers")}
    for key, named in models.items():
        for policy, changed in named.items():
            for name in changed if isinstance(changed, dict) else [changed]:
                faults.check(
                    f"{key}.{policy}", name in defaults, name, "parameters of croco-preference and their values"
                )
    seeds = given.get("seeds", [0])
    faults.check("seeds", _seeds(seeds), seeds, "whole numbers from 0 on, each once")
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
    aligner = _mapping(given, "aligner", faults)
    policies, fine = models["policies"] or {"policy": {}}, tuple(filter(None, claims))
    return Study(
        str(given.get("name", "")), parameters, policies, models["samplers"], tuple(arms), fine, sources, aligner,
        held_out=tuple(_list(given, "held_out", faults)), oracle=given.get("oracle", False),
    )  # fmt: skip


def _mapping(given: Mapping[str, Any], key: str, faults: _Faults) -> dict[str, Any]:
    found = given.get(key) or {}
    return dict(found) if faults.check(key, isinstance(found, dict), found, "a mapping") else {}


def _list(given: Mapping[str, Any], key: str, faults: _Faults) -> list[Any]:
    found = given.get(key) or []
    return list(found) if faults.check(key, isinstance(found, list), found, "a list") else []


def _seeds(found: Any) -> bool:
    whole = isinstance(found, list) and all(type(seed) is int and seed >= 0 for seed in found)
    return whole and 0 < len(set(found)) == len(found)


def _make(kind: Callable[..., Described], entry: Any, key: str, faults: _Faults) -> Described | None:
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


def _faults(study: Study) -> Iterator[str]:
    """What does not go together."""
    faults = _Faults()
    faults.check("name", _named(study.name), study.name, NAME)
    faults.check("oracle", isinstance(study.oracle, bool), study.oracle, "true or false")
    faults.check("arms", study.arms, [], "one arm or more")
    names = [arm.name for arm in study.arms]
    for name in {*names, *study.policies, *study.samplers}:
        faults.check("arms and policies", _named(str(name)) and name not in (BASE, SHARED), name, f"a name of {NAME}")
    faults.check("arms", len(set(names)) == len(names), names, "names that are each given once")
    codes = study.parameters["languages"]
    allowed = study.parameters["translator_allow_unsupported"]
    for code in codes:
        known = code in languages.LANGUAGES
        if faults.check("languages", known, code, f"one of {', '.join(languages.LANGUAGES)}"):
            able = code == "en" or allowed or languages.get(code).translated
            faults.check(
                "languages", able, code, "a language that the translator is known to support, or "
                "translator_allow_unsupported: true",
            )  # fmt: skip
    for code in study.held_out:
        known = code in languages.LANGUAGES and code not in codes
        faults.check("held_out", known, code, "a language this project knows, and none of those that are tuned in")
    for arm in study.arms:
        _check_arm(arm, study, names, faults)
    for claim in study.claims:
        key = f"claims.{claim.name}"
        for side in ("better", "worse"):
            found = getattr(claim, side)
            faults.check(f"{key}.{side}", found in (*names, BASE), found, f"one of {', '.join([*names, BASE])}")
        faults.check(f"{key}.measure", claim.measure in MEASURES, claim.measure, f"one of {', '.join(MEASURES)}")
        faults.check(f"{key}.measure", claim.measure != "oracle" or study.oracle, "oracle", "it only with oracle: true")
    yield from faults


def _named(text: str) -> bool:
    return bool(text) and text.isascii() and text.replace("-", "").isalnum() and text == text.lower()


def _check_arm(arm: Arm, study: Study, names: Sequence[str], faults: _Faults) -> None:
    key, codes = f"arms.{arm.name}", study.parameters["languages"]
    for name, values in [
        ("source", SOURCES), ("method", METHODS), ("scorer", SCORERS), ("completion", ("best", "reference")),
        ("pool", ("language", "all")), ("rejected_target", ("mean-2std", "q1", "min")),
        ("prompt_source", ("chosen", "rejected", "random")), ("language_guard", ("count", "exclude")),
    ]:  # fmt: skip
        faults.check(f"{key}.{name}", (found := getattr(arm, name)) in values, found, f"one of {', '.join(values)}")
    faults.check(f"{key}.seeds", _seeds(list(arm.seeds)), arm.seeds, "whole numbers from 0 on, each once")
    most = study.parameters["n"]
    faults.check(f"{key}.n", arm.n is None or 1 < arm.n <= most, arm.n, f"2 to {most}, the answers that are sampled")
    for code in arm.languages:
        faults.check(f"{key}.languages", code in codes, code, f"one of the study's, {', '.join(codes)}")
    _check_answers(arm, study, key, faults)
    _check_start(arm, study, key, names, faults)
    if arm.method == "online":
        untouched = (
            not (arm.languages or arm.sampler or arm.start) and arm.scorer == "reward" and arm.pool == "language"
        )
        faults.check(
            key, untouched, settings(arm), "of `online` no languages, sampler, from, scorer or pool of its own"
        )
    if arm.method == "sft":
        faults.check(f"{key}.scorer", arm.scorer == "reward", arm.scorer, "reward, for `sft`")
        faults.check(f"{key}.nll", arm.nll == 0, arm.nll, "none for `sft`, whose loss it is")


def _check_answers(arm: Arm, study: Study, key: str, faults: _Faults) -> None:
    """Whose answers an arm takes, and by whom they are scored."""
    if arm.sampler or arm.off_policy:
        models = [*study.policies, *study.samplers]
        another = arm.sampler in models and list(study.policies) != [arm.sampler]
        faults.check(
            f"{key}.sampler", another, arm.sampler,
            f"another model of the study, of {', '.join(models)}, than is tuned, where off_policy is true",
        )  # fmt: skip
        faults.check(
            f"{key}.off_policy", arm.off_policy, arm.off_policy,
            f"true, for the answers are to be {arm.sampler}'s and not the policy's own; or no sampler",
        )  # fmt: skip
        faults.check(
            f"{key}.sampler", not arm.start and arm.sampled, arm.sampler, "none with `from`, or without answers"
        )
    english = "en" in study.parameters["languages"]
    if arm.scorer == "mapo":
        faults.check(f"{key}.scorer", "model" in study.aligner, "mapo", "a translation model as aligner.model")
        faults.check(f"{key}.scorer", english, "mapo", "en among the study's languages, whose answers it goes by")
    if arm.scorer == "icr":
        faults.check(f"{key}.scorer", arm.start, "icr", "`from`, an arm tuned by DPO, whose implicit reward it is")
        faults.check(f"{key}.scorer", english, "icr", "en among the study's languages, whose prompts it is asked by")


def _check_start(arm: Arm, study: Study, key: str, names: Sequence[str], faults: _Faults) -> None:
    """Whether the model that an arm starts from is made, and made before."""
    if not arm.start:
        return
    if not faults.check(f"{key}.from", arm.start in names, arm.start, f"an arm of the study, of {', '.join(names)}"):
        return
    earlier, found = study.arm(arm.start), arm
    missing = [seed for seed in arm.seeds if seed not in earlier.seeds]
    faults.check(f"{key}.from", not missing, arm.start, f"an arm with seeds {missing} too: it makes no model for them")
    visited = [arm.name]
    while found.start in names:
        found = study.arm(found.start)
        if found.name in visited:
            faults.check(f"{key}.from", False, " < ".join([*visited, found.name]), "no circle")
            return
        visited.append(found.name)
