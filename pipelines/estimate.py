"""Estimate: what each stage of a run will read, write, compute, hold and send, before it runs.

A plain function of parameters: `estimate(Settings.of(parameters), calibration)`. It computes with numbers alone, and
the pipeline that calls it may be another than `preference`. Too little to be counted is `recall`, though with
`start: last` it has the model fetched once more, put into Kubeflow's artifact store, and fetched from there by each pod
that samples and trains.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.calibration import RECKONED, Calibration
from pipelines.profiles import Profile, mebibytes
from pipelines.reckoning import COPIES, MODELS, PASSES
from pipelines.workload import GROWS, Settings, dealt, units

DOLCI, DOLCI_ROWS = "allenai/Dolci-Instruct-SFT", 2_150_000
"""The default instruction set, and about how many rows it has."""
DATASETS = ("prepare", "translate", "sample", "score", "pair", "answer-base", "answer-tuned", "arena")
"""Stages whose rows the report reads."""
EVALUATION = ("benchmark-base", "benchmark-tuned", "answer-base", "answer-tuned", "arena")


@dataclass(frozen=True)
class Estimate:
    """Of one stage."""

    stage: str
    pods: int
    gpus: float
    """Of each pod; 0 on CPUs."""
    tokens_in: float = 0.0
    """That the ledger will have: a prompt counts for each answer that is read with it."""
    tokens_out: float = 0.0
    computed: float = 0.0
    """Tokens that go through the model: of what is scored or paired each prompt once, in training by each pass."""
    seconds: float = 0.0
    """Of all pods together."""
    longest: float = 1.0
    """Share of the work that the pod with the most has."""
    stored: float = 0.0
    """Bytes in the object store when it is done."""
    network: float = 0.0
    """Bytes that its pods fetch, weights too, and put."""
    files: float = 0.0
    """Bytes of inputs and outputs that its pods hold."""
    basis: str = RECKONED

    @property
    def hours(self) -> float:
        """Of pods."""
        return self.seconds / 3600

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus


def estimate(settings: Settings, calibration: Calibration, stages: Collection[str] = tuple(GROWS)) -> list[Estimate]:
    """What each of `stages` will take, in the flow's order, with what is moved between them; a stage without work is
    left out.

    Raises: ValueError for a stage that the calibration lacks; as `units`.
    """
    work, parts = units(settings, calibration.shares), dealt(settings)
    found: list[Estimate] = []
    for stage, grows in GROWS.items():
        if stage not in stages or (grows.seconds and not work[grows.seconds]):
            continue
        if stage not in calibration.stages:
            raise ValueError(
                f"calibration: found no stage {stage}; expected it; a run that had it tells its rates, and --gpu "
                "reckons it"
            )
        found.append(_stage(stage, calibration, work, parts.get(stage, [1.0]), settings))
    rows = {one.stage: one.stored / COPIES for one in found}
    prompts = rows.get("prepare", 0.0) + rows.get("translate", 0.0)
    gathered = Estimate("gather", 1, 0, stored=prompts, network=2 * prompts, files=2 * prompts)
    place = next((at for at, one in enumerate(found) if one.stage == "sample"), len(found))
    read = sum(rows.get(stage, 0.0) for stage in DATASETS)
    return [*found[:place], gathered, *found[place:], Estimate("report", 1, 0, network=read, files=read)]


def _stage(
    stage: str, calibration: Calibration, work: Mapping[str, float], parts: Sequence[float], settings: Settings
) -> Estimate:
    grows, rates, number = GROWS[stage], calibration.stages[stage], len(parts)
    tokens_in, tokens_out = rates.tokens_in.at(work[grows.tokens_in]), rates.tokens_out.at(work[grows.tokens_out])
    read, put = rates.read.at(work[grows.read]), rates.put.at(work[grows.put])
    kept = max(put - rates.removed.at(work[grows.put]), 0.0)
    computed = tokens_in + tokens_out
    if stage == "score":
        sampling = calibration.stages["sample"]
        read += sampling.read.at(work[GROWS["sample"].read])
        computed -= max(work["distinct"] - work["asked"], 0) * sampling.tokens_in.each
    elif stage == "train":
        computed -= work["trained"] * calibration.stages["sample"].tokens_in.each
        computed *= (PASSES if rates.gpus else PASSES - 1) - settings.saved
    known = MODELS.get(settings.models[grows.model]) if grows.model else None
    weights = number * known.bytes if known else 0.0
    return Estimate(
        stage, number, rates.gpus, tokens_in, tokens_out, computed,
        longest=max(parts),
        seconds=rates.seconds.at(work[grows.seconds], number),
        stored=kept,
        network=read + put + weights,
        files=read + kept / COPIES,
        basis=rates.basis,
    )  # fmt: skip


def at_once(settings: Settings, calibration: Calibration, gpus: int) -> Settings:
    """The same run with as many workers as there are GPUs for."""
    held = max(calibration.stages[stage].gpus for stage in ("sample", "score"))
    return replace(settings, workers=max(int(gpus // max(held, 1)), 1))


def wall_hours(found: Sequence[Estimate], gpus: int) -> float:
    """From start to end, at best, on so many GPUs: no pod waits for a node, and the base model is evaluated beside.

    Pods of a stage run at once as far as there are GPUs for them.
    Raises: ValueError where a pod of some stage has more GPUs than there are.
    """
    hours = {}
    for one in found:
        if one.gpus > gpus:
            raise ValueError(f"--gpus: found {gpus}; expected {one.gpus:g} or more, which a pod of {one.stage} holds")
        side_by_side = min(one.pods, int(gpus // one.gpus)) if one.gpus else one.pods
        hours[one.stage] = one.hours * max(one.longest, 1 / side_by_side)
    evaluation = {stage: hours.pop(stage, 0.0) for stage in EVALUATION}
    chain = sum(hours.values()) + max(evaluation["benchmark-tuned"], evaluation["answer-tuned"] + evaluation["arena"])
    return max(chain, sum(one.gpu_hours for one in found) / gpus)


def notes(settings: Settings, found: Sequence[Estimate], profile: Profile) -> list[str]:
    """Where the plan goes beyond what the profile, or the data, allow."""
    said = []
    if settings.source == DOLCI and settings.count > DOLCI_ROWS / 2:
        said.append(
            f"count: {settings.count:,} prompts are {settings.count / DOLCI_ROWS:.0%} of the about {DOLCI_ROWS:,} rows "
            f"of {DOLCI}, some of which are too long or no use"
        )
    for one in found:
        needs = profile.needs[one.stage]
        allowed, each = (needs.job.hours if needs.job else needs.hours), one.hours * one.longest
        if each > allowed:
            said.append(
                f"{one.stage}: {each:,.0f} hours a pod; the profile ends an attempt after {allowed}, and the next goes "
                f"on from there; {'raise workers' if one.pods > 1 else 'raise the hours, or take more GPUs'}"
            )
        if one.files > (room := mebibytes(needs.pod.disk) * 2**20) * one.pods:
            said.append(
                f"{one.stage}: {one.files / one.pods / 1e9:,.0f} GB of inputs and outputs a pod, which its node has to "
                f"hold besides the {room / 2**30:.0f} GiB at /cache"
            )
    return said
