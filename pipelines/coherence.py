"""Coherence: what of a study does not go together, by key: what was found and what is expected."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from croco import languages
from pipelines.arms import BASE, MEASURES, METHODS, NAME, SCORERS, SHARED, SOURCES, Arm, Study, settings

IDLE = {
    "sft": ("rejected_target", "k", "prompt_source", "language_guard", "beta", "nll", "scorer"),
    "online": (
        "completion",
        "prompt_source",
        "language_guard",
        "nll",
        "languages",
        "sampler",
        "start",
        "scorer",
        "pool",
    ),
    "dpo": ("completion",),
}
"""Method -> fields of an arm that it has no use for."""
FORMATS = ("google", "infomaniak")
"""How a translation model that scores may be asked, as croco.align has it."""
REFERENCES = ("n", "pool", "scorer", "sampler")
"""The same of SFT on references."""


class Faults(list[str]):
    """Everything that is wrong, with its key."""

    def check(self, key: str, fine: object, found: object, expected: str) -> bool:
        if not fine:
            self.append(f"{key}: found {found!r}; expected {expected}")
        return bool(fine)


def whole(found: Any) -> bool:
    """Whether these are seeds."""
    numbers = isinstance(found, list) and all(type(seed) is int and seed >= 0 for seed in found)
    return numbers and 0 < len(set(found)) == len(found)


def amiss(study: Study) -> Iterator[str]:
    """What does not go together."""
    faults = Faults()
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
    both = sorted({*study.policies} & {*study.samplers})
    faults.check("samplers", not both, both, "names that no policy has")
    for policy in study.policies:
        faults.check(f"policies.{policy}", study.arms_of(policy), [], "an arm that is run with it")
    style = study.aligner.get("format", FORMATS[0])
    faults.check("aligner.format", style in FORMATS, style, f"one of {', '.join(FORMATS)}")
    fewest = study.parameters["benchmark_iterations"]
    faults.check("benchmark_iterations", fewest >= 2, fewest, "2 or more, for an interval")
    said = [claim.name for claim in study.claims]
    faults.check("claims", len(set(said)) == len(said), said, "names that are each given once")
    for claim in study.claims:
        key = f"claims.{claim.name}"
        faults.check(key, claim.better != claim.worse, claim.better, "two sides that differ")
        faults.check(f"{key}.says", claim.name.strip() and claim.says.strip(), claim.says, "a line, and a name")
        fine = len(set(claim.languages)) == len(claim.languages) and {*claim.languages} <= {*languages.LANGUAGES}
        faults.check(f"{key}.languages", fine, claim.languages, "languages this project knows, each once")
        for side in ("better", "worse"):
            found = getattr(claim, side)
            faults.check(f"{key}.{side}", found in (*names, BASE), found, f"one of {', '.join([*names, BASE])}")
        faults.check(f"{key}.measure", claim.measure in MEASURES, claim.measure, f"one of {', '.join(MEASURES)}")
        faults.check(f"{key}.measure", claim.measure != "oracle" or study.oracle, "oracle", "it only with oracle: true")
    yield from faults


def _named(text: str) -> bool:
    return bool(text) and text.isascii() and text.replace("-", "").isalnum() and text == text.lower()


def _check_arm(arm: Arm, study: Study, names: Sequence[str], faults: Faults) -> None:
    key, codes = f"arms.{arm.name}", study.parameters["languages"]
    for name, values in [
        ("source", SOURCES), ("method", METHODS), ("scorer", SCORERS), ("completion", ("best", "reference")),
        ("pool", ("language", "all")), ("rejected_target", ("mean-2std", "q1", "min")),
        ("prompt_source", ("chosen", "rejected", "random")), ("language_guard", ("count", "exclude")),
    ]:  # fmt: skip
        faults.check(f"{key}.{name}", (found := getattr(arm, name)) in values, found, f"one of {', '.join(values)}")
    faults.check(f"{key}.seeds", whole(list(arm.seeds)), arm.seeds, "whole numbers from 0 on, each once")
    most = study.parameters["n"]
    faults.check(f"{key}.n", arm.n is None or 1 < arm.n <= most, arm.n, f"2 to {most}, the answers that are sampled")
    for code in arm.languages:
        faults.check(f"{key}.languages", code in codes, code, f"one of the study's, {', '.join(codes)}")
    _check_answers(arm, study, key, faults)
    _check_start(arm, study, key, names, faults)
    faults.check(f"{key}.languages", len({*arm.languages}) == len(arm.languages), arm.languages, "each once")
    faults.check(f"{key}.says", arm.says.strip(), arm.says, "a line on what it is")
    for name in ("k", "learning_rate", "beta", "epochs", "global_batch"):
        value = getattr(arm, name)
        faults.check(f"{key}.{name}", value is None or 0 < value < math.inf, value, "a number above 0")
    faults.check(f"{key}.nll", 0 <= arm.nll < math.inf, arm.nll, "0 or more")
    references = REFERENCES if arm.method == "sft" and arm.completion == "reference" else ()
    for name in (*IDLE.get(arm.method, ()), *references):
        value, key_of = getattr(arm, name), "from" if name == "start" else name
        nothing = f"none of its own: `{arm.method}` has no use for it; {settings(arm)}"
        faults.check(f"{key}.{key_of}", value == getattr(Arm, name), value, nothing)


def _check_answers(arm: Arm, study: Study, key: str, faults: Faults) -> None:
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
        if arm.sampler in models:
            own = ("policy", "policy_revision")
            taken = [study.of(arm.sampler)[name] for name in own]
            others = [name for name in study.policies if name != arm.sampler]
            same = [name for name in others if [study.of(name)[one] for one in own] == taken]
            faults.check(f"{key}.sampler", not same, arm.sampler, f"another model than {', '.join(same)}")
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


def _check_start(arm: Arm, study: Study, key: str, names: Sequence[str], faults: Faults) -> None:
    """Whether the model that an arm starts from is made, and made before."""
    if not arm.start:
        return
    if not faults.check(f"{key}.from", arm.start in names, arm.start, f"an arm of the study, of {', '.join(names)}"):
        return
    earlier, found = study.arm(arm.start), arm
    lost = earlier.sampler in study.policies and earlier.sampler != arm.sampler
    faults.check(f"{key}.from", not lost, arm.start, f"an arm that is run with {earlier.sampler} too")
    tuned = arm.scorer != "icr" or earlier.method != "sft"
    faults.check(f"{key}.from", tuned, arm.start, "an arm tuned by DPO, whose implicit reward it can be")
    missing = [seed for seed in arm.seeds if seed not in earlier.seeds]
    faults.check(f"{key}.from", not missing, arm.start, f"an arm with seeds {missing} too: it makes no model for them")
    visited = [arm.name]
    while found.start in names:
        found = study.arm(found.start)
        if found.name in visited:
            faults.check(f"{key}.from", False, " < ".join([*visited, found.name]), "no circle")
            return
        visited.append(found.name)
