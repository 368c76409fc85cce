"""Runs: one arm tuned with one seed and its model evaluated, as a graph of a study's graph.

Kubeflow hands each graph to a driver as one argument, of 128 KiB at most, so that a study of many arms is a graph of
graphs. kfp reads a graph's interface off its function's signature, and wants it before the graph that it is put into.
"""

from collections.abc import Mapping
from inspect import Parameter, Signature
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model

from components.answer import answer
from components.arena import arena
from components.benchmark import benchmark
from components.rate import rate
from components.tally import tally
from components.train import train
from pipelines.arms import BASE, SHARED, Arm, Study
from pipelines.placement import Cluster, place

TALLY = "Tally"
"""Title of its tasks."""
SETTLED: Mapping[str, type] = {
    "policy": str, "reward": str, "judge": str, "questions": str, "benchmark_datasets": str,
    "temperature": float, "top_p": float, "top_k": int, "max_tokens": int,
}  # fmt: skip
"""What a run is told of what `resolve` found."""


class Together(NamedTuple):
    """What the graph of all runs gives."""

    outcomes: Dataset


class Run(NamedTuple):
    """What the graph of a run gives."""

    trained: Model
    outcomes: Dataset


class Tasks:
    """Tasks of one policy, which any graph may hold."""

    def __init__(self, study: Study, policy: str, cluster: Cluster) -> None:
        self.study, self.policy, self.cluster = study, policy, cluster
        self.given = study.of(policy)
        runs = sum(len(arm.seeds) for arm in study.arms_of(policy))
        self.inputs = ["store", *(f"run{number}" for number in range(runs + 2))]
        """Of the graph that puts all runs together: the store, and outcomes of what is shared, the base, every run."""

    def put(self, task: Any, stage: str, about: str = "", title: str = "") -> Any:
        """The task, placed as the stage is, with what it is about behind the stage's title, or its own."""
        if about and len(self.study.policies) > 1 and self.policy not in about:
            about = f"{self.policy} {about}"
        place(self.cluster, task, stage, about, title)
        return task

    def graph(self, arm: Arm, seed: int) -> Any:
        """The component of a run: a graph of its own, for Kubeflow hands each graph to a driver as one argument, of 128
        KiB at most. kfp reads its interface off a function's signature, and wants it before the study's own graph.
        """
        inputs: dict[str, Any] = {"data": Input[Dataset], "reference": Input[Dataset], "store": str, **SETTLED}
        inputs |= {"start": Input[Model]} if arm.start else {}
        inputs |= {"cache": Input[Artifact]} if self.cluster.fetch else {}
        counted = arm.method != "online" and (
            bool(arm.start) or seed == arm.seeds[0]
        )  # what all seeds have counts once

        def graph(*given: Any) -> Any:
            now, name = dict(zip(inputs, given, strict=True)), f"{arm.name} {seed}"
            task = self._train(arm, seed, now)
            cache = {each: now[each] for each in ("cache",) if each in now}
            found = self.evaluated(name, now, now["store"], cache, task, now["reference"])
            measured = tally(
                arm=arm.name, seed=seed, oracle=self.study.oracle, store=now["store"],
                training=task.outputs["training"], **found, **({"data": now["data"]} if counted else {}),
            )  # fmt: skip
            self.put(measured, "gather", name, TALLY)
            return Run(task.outputs["trained"], measured.outputs["outcomes"])

        parameters = [Parameter(each, Parameter.KEYWORD_ONLY, annotation=kind) for each, kind in inputs.items()]
        graph.__signature__ = Signature(parameters, return_annotation=Run)  # type: ignore[attr-defined]
        return dsl.pipeline(name=f"run-{self.policy}-{arm.name}-{seed}")(graph)

    def _train(self, arm: Arm, seed: int, now: dict[str, Any]) -> Any:
        """The task that tunes, inside of the graph of a run."""
        given, start = self.given, {name: now[name] for name in ("start",) if name in now}
        rates = {"learning_rate": arm.learning_rate or (None if arm.method == "sft" else given["learning_rate"])}
        own = {name: getattr(arm, name) or given[name] for name in ("beta", "epochs", "global_batch")}
        same = {name: given[name] for name in ("micro_batch", "max_length", "packed")}
        online = {
            "reward": given["reward"], "reward_revision": now["reward"], "online_temperature": now["temperature"],
            "online_top_p": now["top_p"], "online_top_k": now["top_k"], "online_max_tokens": now["max_tokens"],
            "online_rejected_target": arm.rejected_target, "online_k": arm.k, **some({"online_answers": arm.n}),
        } if arm.method == "online" else {}  # fmt: skip
        task = train(
            data=now["data"], model=given["policy"], revision=now["policy"], method=arm.method, nll=arm.nll,
            off_policy=arm.off_policy, seed=seed, store=now["store"], **some(rates), **own, **same, **online,
            trainjob={} if start or online else self.cluster.trainjob(), **start,
        )  # fmt: skip
        return self.put(task, "train", f"{arm.name} {seed}")

    def evaluated(
        self, name: str, now: Any, store: Any, fetched: dict[str, Any], trained: Any = None, reference: Any = None
    ) -> dict[str, Any]:
        """Evaluations of the model that `trained` made, against `reference`; of the policy itself without them."""
        given, side, made = self.given, "tuned" if trained else "base", started(trained)
        scores = benchmark(
            model=given["policy"], revision=now["policy"], datasets_revision=now["benchmark_datasets"],
            languages=[*given["languages"], *self.study.held_out], suite=given["benchmark_suite"],
            iterations=given["benchmark_iterations"], store=store, **some({"datasets": given["benchmark_datasets"]}),
            **fetched, **made,
        )  # fmt: skip
        answers = answer(
            model=given["policy"], revision=now["policy"], generator=side, questions=given["questions"],
            questions_revision=now["questions"], languages=given["questions_languages"],
            max_tokens=given["answer_max_tokens"], gpus=self.cluster.gpus(f"answer-{side}"), store=store,
            **some({"limit": given["questions_limit"]}), **made,
        )  # fmt: skip
        rated = rate(
            answers=answers.outputs["answers"], model=given["reward"], revision=now["reward"],
            gpus=self.cluster.gpus("score"), store=store,
        )  # fmt: skip
        self.put(scores, f"benchmark-{side}", name)
        self.put(answers, f"answer-{side}", name)
        self.put(rated, "score", name, "Rate arena answers")
        found = {
            "benchmarks": scores.outputs["scores"], "answers": answers.outputs["answers"],
            "rewards": rated.outputs["scores"],
        }  # fmt: skip
        if reference:
            judged = arena(
                answers=found["answers"], reference=reference, judge=given["judge"], judge_revision=now["judge"],
                judge_format=given["judge_format"], gpus=self.cluster.gpus("arena"), store=store,
            )  # fmt: skip
            found["verdicts"] = self.put(judged, "arena", name).outputs["verdicts"]
        return found

    def tally(self, name: str, seed: int, found: dict[str, Any], store: Any) -> Any:
        """What was measured of one run, with what more is found of it or, as `previous`, of others."""
        oracle = self.study.oracle and name != SHARED
        task = tally(arm=name, seed=seed, oracle=oracle, store=store, **found)
        stage = "report" if "samples" in found else "gather"  # kfp fetches every answer for it
        return self.put(task, stage, f"{name} {seed}", TALLY).outputs["outcomes"]

    def gathered(self) -> Any:
        """The component that puts what was measured of all runs together, a graph for the same reason as a run's."""

        def graph(store: Any, *measured: Any) -> Any:
            runs = [(arm.name, seed) for arm in self.study.arms_of(self.policy) for seed in arm.seeds]
            outcomes, *others = measured
            for (name, seed), one in zip([(BASE, 0), *runs], others, strict=True):
                outcomes = self.tally(name, seed, {"measured": one, "previous": outcomes}, store)
            return Together(outcomes)

        kinds = {name: Input[Dataset] if at else str for at, name in enumerate(self.inputs)}
        parameters = [Parameter(each, Parameter.POSITIONAL_OR_KEYWORD, annotation=kind) for each, kind in kinds.items()]
        graph.__signature__ = Signature(parameters, return_annotation=Together)  # type: ignore[attr-defined]
        return dsl.pipeline(name=f"together-{self.policy}")(graph)


def some(values: dict[str, Any]) -> dict[str, Any]:
    """Those that are there: kfp hands on no None."""
    return {name: value for name, value in values.items() if value is not None}


def started(start: Any) -> dict[str, Any]:
    """The model that a task made, as an input."""
    return {"trained": start.outputs["trained"]} if start else {}
