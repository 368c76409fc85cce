"""Preflight: whether a run would find what it needs, and its stages take what is set, before a GPU is asked for.

The first task of the pipeline, and what `python -m pipelines preflight` looks at from a laptop, all of it in one go.
A check passes, fails with what was found, what was expected and what to do, or stays unknown: where one may not look,
or cannot from here.
"""

import functools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from croco import benchmark, judges, languages, memory, models, questions, suites, translate
from croco.answer import AnswerConfig
from croco.benchmark_datasets import read_local
from croco.cluster import Kubernetes, Wanted, check_nodes, check_quotas, in_pod
from croco.settings import Settings, faults
from croco.store import Store, open_store

STATES = ("passed", "failed", "unknown")
THERE = "a path of the cluster's; the first task of a run looks"
SERVED = {
    "translate": "translator", "sample": "policy", "score": "reward", "benchmark-base": "policy",
    "answer-base": "policy", "arena": "judge",
}  # fmt: skip
"""Stage that serves a model -> which. Those of the tuned model have the base's needs."""


class Unknown(str):
    """Why something could not be looked at."""


@dataclass(frozen=True)
class Finding:
    """What came of one check."""

    what: str
    state: str
    """One of STATES."""
    text: str

    def __str__(self) -> str:
        return f"{self.state:8}{self.what}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class PreflightConfig(Settings):
    """Of a run, what can be looked at before it starts; each field is the pipeline's parameter of that name."""

    source: str
    translator: str
    reward: str
    questions: str
    cluster: Mapping[str, Any]
    """What the compiled pipeline asks of its cluster (croco.cluster.Wanted, as JSON)."""
    benchmark_datasets: str | None = None
    source_revision: str | None = None
    translator_revision: str | None = None
    policy_revision: str | None = None
    reward_revision: str | None = None
    questions_revision: str | None = None
    languages: Sequence[str] = languages.MAIN
    questions_languages: Sequence[str] = AnswerConfig.languages
    translator_allow_unsupported: bool = False

    @property
    def wanted(self) -> Wanted:
        return Wanted.of(self.cluster)


def attempt(what: str, check: Callable[[], str]) -> Finding:
    """What came of a check that returns what it saw, as Unknown if that is nothing, or raises."""
    try:
        seen = check()
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        text = " ".join(str(error).split()).removeprefix(f"{what}: ")
        return Finding(what, "failed", text or type(error).__name__)
    return Finding(what, "unknown" if isinstance(seen, Unknown) else "passed", seen)


@dataclass(frozen=True)
class Checks:
    """All checks of a run."""

    config: PreflightConfig
    here: bool
    """Whether this is where the run's tasks are, so that their paths are ours."""
    look: Kubernetes | None = None
    """Its cluster, if there is one in reach."""
    read: Callable[[str, str | None], memory.Model] = field(default=functools.cache(memory.read), repr=False)

    def findings(self) -> Iterator[Finding]:
        """What came of each, one after the other."""
        config = self.config
        yield from self.settings()
        yield attempt("languages, translation", self.translation)
        yield attempt("languages, EuroEval", self.euroeval)
        yield attempt("languages, arena", self.arena)
        for name in ("translator", "policy", "reward", "judge"):
            yield attempt(name, functools.partial(self.there, name))
        for name in ("source", "questions"):
            yield attempt(name, functools.partial(self.there, name, data=True))
        if config.benchmark_datasets:
            yield attempt("benchmark_datasets", functools.partial(self.there, "benchmark_datasets", data=True))
        yield attempt("store", self.store)
        if not any(pod.gpus for pod in config.wanted.pods.values()):
            yield Finding("GPUs", "passed", "none asked for")
        else:
            yield from self.models_fit()
            yield attempt("GPUs", functools.partial(self.ask, check_nodes))
        yield attempt("quotas", functools.partial(self.ask, check_quotas))

    def settings(self) -> Iterator[Finding]:
        """Each value that a stage would refuse, by its parameter's name."""
        found = faults(self.config, self.config.wanted.pods["train"].nodes)
        yield from (Finding(name, "failed", text) for name, text in found.items())
        if not found:
            yield Finding("settings", "passed", "each stage takes its own")

    def translation(self) -> str:
        """That every language is one to translate into. Raises: ValueError."""
        others = [code for code in languages.check(self.config.languages) if code != "en"]
        missing = [code for code in others if not languages.get(code).translated]
        if missing and not self.config.translator_allow_unsupported:
            raise ValueError(
                f"found {', '.join(missing)}; expected languages that TranslateGemma supports; leave them out, or set "
                "translator_allow_unsupported"
            )
        if others:
            translate.TranslateConfig(languages=tuple(others), allow_unsupported=True)
        return f"{', '.join(others) or 'none but English'}"

    def euroeval(self) -> str:
        """Which languages have a benchmark. Raises: ValueError if none has."""
        folder = self.config.benchmark_datasets
        if folder and not self.here:
            return Unknown(THERE)
        suite = self.config.benchmark_suite
        if suite not in suites.SUITES:
            return Unknown(f"no data sets are known of suite {suite}")
        config = benchmark.BenchmarkConfig(languages=tuple(self.config.languages), suite=suite)
        chosen, without = benchmark.choose(config, read_local(Path(folder)) if folder else [])
        rest = f"; none for {', '.join(without)}, which the report will say" if without else ""
        return f"{len(chosen)} data sets for {', '.join(sorted(set(chosen.values())))}{rest}"

    def arena(self) -> str:
        """That there are questions in every language to answer in. Raises: ValueError."""
        asked, source = languages.check(self.config.questions_languages), self.config.questions
        if models.is_local(source):
            if not self.here:
                return Unknown(THERE)
            offered = {question.language for question in questions.read_file(Path(source))}
        else:
            from huggingface_hub import HfApi

            with models.reaching_hub(source):
                card = HfApi().dataset_info(source, revision=self.config.questions_revision).card_data
            offered = {part.get("config_name") for part in (card and card.get("configs")) or []}
            if not offered:
                return Unknown(f"{source} does not say which languages it has")
        if missing := [code for code in asked if code not in offered]:
            raise ValueError(
                f"found no questions in {', '.join(missing)}; expected them in every one of questions_languages; "
                f"{source} has {', '.join(sorted(offered))}"
            )
        return ", ".join(asked)

    def there(self, name: str, data: bool = False) -> str:
        """That a model or data set is there, and may be read. Raises: FileNotFoundError; ConnectionError."""
        place, revision = getattr(self.config, name), getattr(self.config, f"{name}_revision", None)
        if name == "judge" and self.config.judge_endpoint:
            return f"{place}, a name that judge_endpoint knows"
        if not models.is_local(place):
            from huggingface_hub import HfApi

            commit = models.pin(place, revision, data=data)
            with models.reaching_hub(place):
                HfApi().auth_check(place, repo_type="dataset" if data else "model")  # what is gated can be seen by all
            return f"{place}, commit {commit[:12]}"
        if not self.here:
            return Unknown(f"{place}: {THERE}")
        if data and not Path(place).exists():
            raise FileNotFoundError(f"{place}: found neither file nor folder; expected one, or a hub id")
        if not data and not (Path(place) / "config.json").is_file():
            raise FileNotFoundError(f"{place}: found no config.json; expected a model folder or a hub id")
        return place

    def models_fit(self) -> Iterator[Finding]:
        """Whether each model fits on the GPUs of its stages."""
        config, wanted = self.config, self.config.wanted
        form = judges.FORMATS.get(config.judge_format)
        lengths = {"translate": config.translator_max_model_len, "arena": form.max_model_len if form else None}
        seen = set()
        for stage, name in SERVED.items():
            gpus, tokens = wanted.pods[stage].gpus, lengths.get(stage)
            if stage == "arena" and config.judge_endpoint:
                continue
            if gpus and (name, gpus, tokens) not in seen:
                seen.add((name, gpus, tokens))
                rule = functools.partial(memory.serving, gpus=gpus, gigabytes=wanted.gpu_memory, tokens=tokens)
                yield attempt(f"memory, {stage}", functools.partial(self.fits, name, rule))
        if wanted.pods["train"].gpus:
            yield attempt("memory, train", functools.partial(self.fits, "policy", self.training))

    def training(self, model: memory.Model) -> str:
        """What training needs. Raises: ValueError if it is not there."""
        return memory.training(model, self.config.wanted.gpu_memory, self.config.micro_batch, self.config.max_length)

    def fits(self, name: str, rule: Callable[[memory.Model], str]) -> str:
        place = getattr(self.config, name)
        if models.is_local(place) and not self.here:
            return Unknown(f"{place}: {THERE}")
        return f"{name} needs {rule(self.read(place, getattr(self.config, f'{name}_revision')))}"

    def store(self) -> str:
        """That the store takes a file, gives it back, and removes it. Raises: as `open_store`."""
        location = self.config.store
        handed = [stage for stage, pod in self.config.wanted.pods.items() if pod.nodes > 1]
        if handed and not location.startswith("s3://"):
            raise ValueError(
                f"found {location or 'none'}; expected s3://bucket/prefix, where the nodes of {handed[0]} have their "
                "files in common; set the parameter store, or compile with a --profile that trains on one node"
            )
        if not location:
            return "none: nothing outlives a task that fails"
        if not self.here:
            if "://" not in location:
                return Unknown(f"{location}: {THERE}")
            return Unknown(f"{location}: its keys are the cluster's; the first task of a run looks")
        return probe(open_store(location))

    def ask(self, check: Callable[[Kubernetes, Wanted], str]) -> str:
        """A check of the cluster. Raises: as it does."""
        if self.look is None:
            return Unknown("no cluster in reach" if not self.here else "not in a pod")
        try:
            return check(self.look, self.config.wanted)
        except PermissionError as error:
            return Unknown(str(error))


def probe(store: Store) -> str:
    """That a store takes, gives back and removes. Raises: as the store; ValueError if it gives back something else."""
    name, content = f"preflight/{uuid.uuid4().hex}", b"croco"
    store.backend.put(name, BytesIO(content), len(content))
    back = store.backend.read(name)
    store.remove(name)
    if back != content:
        raise ValueError(f"{store.location}: found {len(back)} other bytes; expected what was put; is it shared?")
    if store.find(name):
        raise ValueError(f"{store.location}: found {name} after its removal; expected the right to delete")
    return f"{store.location} was written, read and cleared"


def run(config: PreflightConfig, out: Path) -> None:
    """Check from within the run, print every finding, and write them to `out`. Raises: as `tell`."""
    findings = []
    for finding in Checks(config, here=True, look=in_pod()).findings():
        findings.append(finding)
        print(finding, flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(findings), encoding="utf-8")
    tell(findings)


def tell(findings: Sequence[Finding]) -> None:
    """Raises: ValueError with everything that failed, in one line."""
    if failed := [finding for finding in findings if finding.state == "failed"]:
        said = " | ".join(f"{finding.what}: {finding.text}" for finding in failed)
        raise ValueError(f"{len(failed)} of {len(findings)} checks failed: {said}")


def page(findings: Sequence[Finding]) -> str:
    """The findings as Markdown."""
    rows = [f"| {finding.state} | {finding.what} | {finding.text.replace('|', '/')} |" for finding in findings]
    return "\n".join(["# Preflight", "", "| state | check | what was found |", "|---|---|---|", *rows, ""])
