"""Runs: what a run was made with, and what of it differs from the last run of its line.

    runs/LINE.json      what the last run of that name was made with

Two fires of one schedule have the same parameters, yet what these name may be new: a data set, a policy or a reward
model has another commit. The manifests say which it was. A run in which nothing differs takes its report from the
store, so what a report says here is of the last run that differed.
"""

import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from croco import release
from croco.dataset import Manifest
from croco.store import Store

VERSION = 1
LINE = "croco"
"""Name of the runs that were given none (ours)."""
PARTS = ("identities", "settings", "software")
"""Of what a stage was made with: models and data, its config, library versions and image."""
SOURCES = ("source", "questions")
"""Metrics in which a stage says what data it read, as an identity."""
DATA = ("local_data_sha256", "data_revisions")
"""Metrics of `benchmark`: EuroEval data set -> what it held."""
REVISIONS = ("revision", "questions_revision")
"""Settings whose meaning the identities say: a branch or tag there is a commit here."""
ROLES = {"base": "policy", "reference": "policy", "last": "model promoted last"}
"""What `train`, `promote` and `arena` call a model -> what it is called here."""
_DIGEST = re.compile("(?:sha256:)?([0-9a-f]{12})[0-9a-f]{28}(?:[0-9a-f]{24})?")

Rows = list[dict[str, Any]]


def made_with(manifests: Sequence[tuple[str, Manifest]]) -> dict[str, Any]:
    """The record of a run: `stages`, by stage and PARTS, name -> values (several where tasks shared the stage, none
    for null), and `made`, the sha256 of the models that it made itself, which are results and no difference.

    Args:
        manifests: (name of the input, its manifest), as croco.page.findings has them.
    """
    made = {manifest.metrics["merged_sha256"] for _, manifest in manifests if manifest.metrics.get("merged_sha256")}
    stages: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for name, manifest in manifests:
        stage = stages.setdefault(" ".join([manifest.stage, *name.split(", ")[1:]]), {part: {} for part in PARTS})
        settings = {what: value for what, value in manifest.config.items() if what not in REVISIONS}
        software = {what if what == "image" else f"{what} version": at for what, at in manifest.libraries.items()}
        facts = (
            dict(_identities(manifest, made)),
            {"stage version": manifest.stage_version, **settings},
            software,
        )
        for part, found in zip(PARTS, facts, strict=True):
            for what, value in found.items():
                values = {*stage[part].get(what, ()), *_values(value)}
                stage[part][what] = sorted(values, key=str)
    return {"version": VERSION, "made": sorted(made), "stages": stages}


def _identities(manifest: Manifest, made: Collection[str | None]) -> Iterator[tuple[str, Any]]:
    """(name of a model or data set and of what identifies it, its value), but of a model that the run made."""
    for role, identity in manifest.models.items():
        if identity.get("sha256") not in made:
            yield from ((f"{ROLES.get(role, role)} {what}", value) for what, value in identity.items())
    for source in SOURCES:
        yield from ((f"{source} {what}", value) for what, value in (manifest.metrics.get(source) or {}).items())
    for metric in DATA:
        yield from ((f"data set {name}", value) for name, value in (manifest.metrics.get(metric) or {}).items())


def _values(value: Any) -> list[Any]:
    """A setting as values to compare one by one; null is none."""
    if isinstance(value, list | tuple):
        return [one for part in value for one in _values(part)]
    if isinstance(value, Mapping):
        return [json.dumps(value, ensure_ascii=False, sort_keys=True)]
    return [] if value is None else [value]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Rows:
    """What differs between two records, {what, before, after, stages, text} each: models and data first, then settings,
    then software. What changed alike in several stages is one row.
    """
    then, here = before["stages"], now["stages"]
    both = [stage for stage in here if stage in then]
    rows = [_row(f"stage {stage}", ["not run"], ["run"]) for stage in here if stage not in then]
    rows += [_row(f"stage {stage}", ["run"], ["not run"]) for stage in then if stage not in here]
    for part in PARTS:
        found: dict[tuple[str, tuple[Any, ...], tuple[Any, ...]], list[str]] = {}
        for stage in both:
            sides = (then[stage][part], here[stage][part])
            for what in dict.fromkeys((*sides[1], *sides[0])):
                old, new = (tuple(side.get(what, ())) for side in sides)
                if old != new:
                    found.setdefault((what, old, new), []).append(stage)
        rows += [_row(what, old, new, stages, everywhere=stages == both) for (what, old, new), stages in found.items()]
    return rows


def _row(
    what: str, before: Sequence[Any], after: Sequence[Any], stages: Sequence[str] = (), *, everywhere: bool = False
) -> dict[str, Any]:
    where = "all stages" if everywhere and len(stages) > 1 else ", ".join(stages)
    text = f"{what} {said(before)} → {said(after)}{f' ({where})' if where else ''}"
    return {"what": what, "before": list(before), "after": list(after), "stages": list(stages), "text": text}


def said(values: Sequence[Any]) -> str:
    """Values in words: 20,000 of a number, a commit or digest by its first 12 digits, none of nothing."""
    return ", ".join(_said(value) for value in values) or "none"


def _said(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    text = str(value)
    digest = _DIGEST.fullmatch(text)
    return digest[1] if digest else text or "empty"


def since_last(store: Store, line: str, now: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the last run of the line: {line, text, changes}; of a damaged record, that nobody can tell."""
    name = record_name(line)
    try:
        before, entry = store.read(name), store.find(name)
        if before is None or entry is None:
            return {"line": line, "text": f"There is no earlier run under this name, {line}.", "changes": []}
        if before["version"] != VERSION:
            raise ValueError(f"{store.location}/{name}: found version {before['version']}; expected {VERSION}")
        changes, same = differences(before, now), before["made"] == now["made"]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        warnings.warn(f"{name}: found {error!r}; expected the record of a run, as this one's now is", stacklevel=3)
        text = f"The record of the last run under {line} is damaged: what changed since is not known."
        return {"line": line, "text": text, "changes": []}
    text = f"Since the last run under {line} that differed from this one, of {entry.modified:%Y-%m-%d %H:%M} UTC, "
    nothing = "nothing changed." if same else "nothing changed but the models that were made."
    return {"line": line, "text": text + ("this changed:" if changes else nothing), "changes": changes}


def keep(store: Store, line: str, record: Mapping[str, Any]) -> None:
    """Put the record of a run whose report is whole, for the next of its line."""
    store.write(record_name(line), record)


def record_name(line: str) -> str:
    """Where the record of a line's last run is. Raises: ValueError for a line that is no name."""
    return f"runs/{release.check_name(line)}.json"
