"""Outlay: what a study would take, by policy and arm, before anything runs.

What several arms share is counted once. An arm's evaluation is in its own line, as are the answers of one that starts
from another's model. Scores by alignment or implicit reward are reckoned as the reward model's, of which they take the
same answers, and online answers as offline ones; to score an arm's answers in the arena, and to tally, takes too little
to be counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from croco.train import TrainConfig
from pipelines.arms import BASE, SHARED, Arm, Study
from pipelines.calibration import Calibration
from pipelines.costs import table
from pipelines.estimate import estimate
from pipelines.profiles import Profile
from pipelines.reckoning import reckon
from pipelines.workload import Settings

ASKED = ("answer-tuned", "arena")


Work = list[tuple[Settings, Mapping[str, float]]]
"""Stage -> how often it is run, with what decides how much work it is."""


class Part(NamedTuple):
    """Work of a study that one thing needs."""

    policy: str
    name: str
    """An arm's, or SHARED or BASE."""
    runs: int
    """Seeds."""
    work: Work


def parts(study: Study) -> Iterator[Part]:
    """Everything a study does, once."""
    sampled = set()
    for at, policy in enumerate(study.policies):
        settings, here = Settings.of(study.of(policy)), study.arms_of(policy)
        common = {"prepare": 1, "translate": 1} if not at else {}
        if any(arm.sampled and not (arm.sampler or arm.start) for arm in here):
            sampled.add(policy)
            common |= {"sample": 1, "score": 1}
        yield Part(policy, SHARED, 1, [(settings, common)])
        for sampler in sorted({arm.sampler for arm in here if arm.sampler} - sampled):
            sampled.add(sampler)
            yield Part(sampler, SHARED, 1, [(Settings.of(study.of(sampler)), {"sample": 1, "score": 1})])
        wide = replace(settings, languages=(*settings.languages, *study.held_out))
        yield Part(policy, BASE, 1, [(wide, {"benchmark-base": 1}), (settings, {"answer-base": 1})])
        for arm in here:
            evaluated = (wide, {"benchmark-tuned": len(arm.seeds)})
            yield Part(policy, arm.name, len(arm.seeds), [*_work(arm, settings), evaluated])


def _work(arm: Arm, settings: Settings) -> Work:
    """Of all seeds of an arm, but for EuroEval."""
    seeds, asked, own = len(arm.seeds), {}, {"train": len(arm.seeds)}
    if arm.method == "online" or arm.start:
        asked = {"sample": seeds, "score": seeds}
    if arm.scorer != "reward":
        asked["score"] = asked.get("score", 0) + (seeds if arm.start else 1)
    if arm.method == "dpo":
        own["pair"] = seeds if arm.start else 1
    online = TrainConfig().online_answers if arm.method == "online" else settings.n
    tuned = replace(
        settings,
        pool=arm.pool,
        n=arm.n or settings.n,
        epochs=arm.epochs or settings.epochs,
        global_batch=arm.global_batch or settings.global_batch,
        languages=arm.languages or settings.languages,
    )
    return [
        (replace(settings, n=arm.n or online), asked),
        (tuned, own),
        (settings, dict.fromkeys(ASKED, seeds)),
    ]


class Line(NamedTuple):
    """One line of the table."""

    policy: str
    name: str
    runs: int
    computed: float
    """Tokens that go through a model."""
    hours: float
    """Of pods."""
    gpu_hours: float


def lines(study: Study, rates: Calibration) -> list[Line]:
    """What each part takes by these rates. Raises: as `estimate`."""
    found = []
    for part in parts(study):
        taken = [
            (one, stages[one.stage])
            for settings, stages in part.work
            for one in estimate(settings, rates, stages)
            if one.stage in stages
        ]
        amounts = (
            sum(getattr(one, name) * times for one, times in taken) for name in ("computed", "hours", "gpu_hours")
        )
        found.append(Line(part.policy, part.name, part.runs, *amounts))
    return found


def rates_of(study: Study, profile: Profile, gpu: str) -> Calibration:
    """Rates reckoned for the first policy. Raises: as `reckon`."""
    return reckon(Settings.of(study.of(next(iter(study.policies)))), profile, gpu)


def show(study: Study, rates: Calibration | None, price: float | None = None) -> str:
    """The table, with the hours where rates are known; and how many models are tuned."""
    tuned = sum(part.runs for part in parts(study) if part.name not in (SHARED, BASE))
    said = f"{tuned} models tuned and evaluated, by {len(study.arms)} arms on {len(study.policies)} policies"
    if rates is None:
        rows = [[part.policy, part.name, str(part.runs)] for part in parts(study)]
        return f"{table(['policy', 'part', 'runs'], rows)}\n\n- {said}\n- hours: no rates known; give --calibration"
    found = lines(study, rates)
    rows = [
        [
            one.policy,
            one.name,
            str(one.runs),
            f"{one.computed / 1e6:,.1f} M",
            f"{one.hours:,.2f}",
            f"{one.gpu_hours:,.2f}",
        ]
        for one in found
    ]
    hours = sum(one.gpu_hours for one in found)
    rows.append(["all", "", str(tuned), *_cells(found)])
    remarks = [said, *rates.about]
    if price:
        remarks.append(f"{hours:,.0f} GPU hours cost {hours * price:,.0f} at {price:g} an hour")
    listed = "\n".join(f"- {remark}" for remark in remarks)
    return f"{table(['policy', 'part', 'runs', 'computed', 'pod hours', 'GPU hours'], rows)}\n\n{listed}"


def _cells(found: Sequence[Line]) -> list[str]:
    """Tokens, pod hours and GPU hours of some lines together."""
    computed, hours, gpu_hours = (
        sum(getattr(one, name) for one in found) for name in ("computed", "hours", "gpu_hours")
    )
    return [f"{computed / 1e6:,.1f} M", f"{hours:,.2f}", f"{gpu_hours:,.2f}"]
