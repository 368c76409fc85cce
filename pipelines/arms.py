"""Arms: what a study compares, as a YAML file describes it.

    name: toy
    parameters:                       # of croco-preference; what is not here has its default there
      count: {value: 64, source: ours}
    policies:                         # parameters that differ between the models that are tuned
      toy: {policy: .cache/toy/policy}
    seeds: {value: [0], source: ours} # of training; an arm may have its own
    arms:
      - {name: paired-mono, says: "paired DPO, pools of a language", source: paper}
      - {name: best-of-n, says: "SFT on the best answer", method: sft, source: paper}
    claims:
      - {name: pairs, says: "pairs gain more than best-of-n", better: paired-mono, worse: best-of-n, measure: arena}

A parameter and an arm say where their values come from: paper, reference code, ours, or assumed, which is what the
paper's public text does not give. `pipelines.studies` reads the file, and `pipelines.coherence` looks whether it goes
together.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

SOURCES = ("paper", "reference code", "ours", "assumed")
METHODS = ("dpo", "sft", "online")
SCORERS = ("reward", "mapo", "icr")
MEASURES = ("euroeval", "arena", "fidelity", "reward", "oracle")
NAME = "lower-case letters, digits and -"
BASE, SHARED = "base", "shared"
"""Among arms, the model that was not tuned, and what was made for several of them."""


@dataclass(frozen=True)
class Arm:
    """One way to tune, and what it is tuned on. The defaults are the paper's method, mono-lingual."""

    name: str
    source: str
    """Where its settings come from, but for its seeds: one of SOURCES."""
    says: str
    """What it is, in a line."""
    method: str = "dpo"
    """`dpo` on pairs, `sft` on completions, or `online`: DPO on answers of the model as it is being tuned."""
    completion: str = "best"
    """SFT: `best` of n (paper: Max-R), or `reference`, the data set's own answer, translated (paper: SFT)."""
    pool: str = "language"
    """Candidates of a pair or a best answer: of a prompt in one `language`, or in `all` (paper: both)."""
    rejected_target: str = "mean-2std"
    """As `pair` takes it: mean-2std (paper), q1 or min (reference code)."""
    k: float = 2.0
    """Standard deviations below the mean (paper)."""
    prompt_source: str = "chosen"
    """Language of a pair's prompt: chosen (paper), rejected or random."""
    language_guard: str = "count"
    """As `pair` takes it (paper: count)."""
    n: int | None = None
    """Only the first so many answers of each prompt; none takes all there are."""
    languages: tuple[str, ...] = ()
    """Languages to tune in, of the study's; empty takes all."""
    each_language: bool = False
    """Whether this is one arm for each language, tuned in it alone."""
    scorer: str = "reward"
    """Whose preference: the `reward` model's (paper), `mapo`, the translation model's (She et al. 2024), or `icr`, the
    implicit reward of the model that the arm starts from (Yang et al. 2025)."""
    sampler: str = ""
    """Name of another model of the study, whose answers are taken; only with `off_policy`."""
    off_policy: bool = False
    """Whether the answers are another model's. Not so by accident: both are asked for."""
    start: str = ""
    """`from` in the file: the arm whose tuned model is sampled and tuned on; empty starts from the policy."""
    learning_rate: float | None = None
    beta: float | None = None
    epochs: int | None = None
    global_batch: int | None = None
    """As the pipeline's parameters of these names, which they take the place of."""
    nll: float = 0.0
    """Weight of the chosen answer's negative log-likelihood in the loss (ICR)."""
    seeds: tuple[int, ...] = ()
    """Of training; empty takes the study's."""

    @property
    def sampled(self) -> bool:
        """Whether it needs answers."""
        return self.method == "dpo" or (self.method == "sft" and self.completion == "best")


@dataclass(frozen=True)
class Claim:
    """That one arm does better than another by a measure; the study says whether this run agrees."""

    name: str
    says: str
    better: str
    worse: str
    measure: str
    languages: tuple[str, ...] = ()
    """Of the evaluation; empty takes all."""


@dataclass(frozen=True)
class Study:
    """What is compared, and on what."""

    name: str
    parameters: Mapping[str, Any]
    """Of croco-preference, all of them."""
    policies: Mapping[str, Mapping[str, Any]]
    """Name -> what is other than in `parameters` for that policy; each is tuned by every arm but those that take its
    answers."""
    samplers: Mapping[str, Mapping[str, Any]]
    """The same of models that are not tuned, and only answer, for arms that are off-policy."""
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    sources: Mapping[str, str]
    """Parameter, or part of the study, -> where its value comes from."""
    aligner: Mapping[str, Any] = field(default_factory=dict)
    """`model`, and optionally `revision` and `format`, of the translation model that `mapo` asks."""
    held_out: tuple[str, ...] = ()
    """Languages of EuroEval besides those that are tuned in."""
    oracle: bool = False
    """Whether answers' hidden quality is measured too, which the toy world alone has."""

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def of(self, policy: str) -> dict[str, Any]:
        """The parameters of one policy or sampler."""
        return {**self.parameters, **{**self.policies, **self.samplers}[policy]}

    def arms_of(self, policy: str) -> list[Arm]:
        """Those that are run with it: an arm that takes its answers is off-policy for the others alone."""
        return [arm for arm in self.arms if arm.sampler != policy]

    def plan(self, policy: str) -> dict[str, Any]:
        """What the report is told of it (croco.study)."""
        here = self.arms_of(policy)
        names = {arm.name for arm in here} | {BASE}
        arms = [
            {"name": arm.name, "says": arm.says, "seeds": list(arm.seeds), "languages": list(arm.languages)}
            for arm in here
        ]
        claims = [
            {**asdict(claim), "languages": list(claim.languages)}
            for claim in self.claims
            if {claim.better, claim.worse} <= names
        ]
        seeds = {f"{arm.name} {' '.join(map(str, arm.seeds))}" for arm in here}
        aside = {"seeds": ", ".join(sorted(seeds)), "held_out": list(self.held_out), "aligner": dict(self.aligner)}
        given = {**self.of(policy), **aside}
        values = [{"name": name, "value": str(given[name]), "source": self.sources[name]} for name in self.sources]
        own = [{"name": arm.name, "value": settings(arm), "source": arm.source} for arm in here]
        return {"name": f"{self.name}: {policy}", "arms": arms, "claims": claims, "values": values + own}


def settings(arm: Arm) -> str:
    """What an arm does otherwise than the paper's method, in words."""
    shown = ("name", "source", "says", "seeds")
    defaults = {one.name: one.default for one in fields(Arm) if one.name not in shown}
    changed = {name: getattr(arm, name) for name, value in defaults.items() if getattr(arm, name) != value}
    return ", ".join(
        f"{name} {' '.join(value) if isinstance(value, tuple) else value}" for name, value in changed.items()
    )
