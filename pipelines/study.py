"""Study: arms side by side as one Kubeflow pipeline, all from the same prompts and, where they can, the same answers.

preflight -> resolve -> prepare -> [translate] -> gather -> [sample -> score] -+-> (align, implicit)
      an arm and seed:  pair or select -> train -> benchmark, answer -> rate, arena -> tally
      base -> tally -> tally of every arm in turn -> study

Two arms that need the same thing have one task for it: the answers of a policy, their scores by one scorer, the pairs
of one rule. What an arm alone needs is its own. All are evaluated alike, with the same questions against the same base.
An arm that starts from another's model samples from it anew. Everything is settled when the pipeline is compiled, from
a YAML file (pipelines.arms), but for the store.
"""

import json
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import Artifact

from components.align import align
from components.fetch import fetch
from components.gather import gather
from components.implicit import implicit
from components.pair import pair
from components.plan import plan
from components.preflight import preflight
from components.prepare import prepare
from components.resolve import resolve
from components.sample import sample
from components.score import score
from components.select import select
from components.study import study as report
from components.translate import translate
from pipelines.arms import BASE, SHARED, Arm, Study
from pipelines.placement import Cluster
from pipelines.runs import SETTLED, Tasks, some, started
from pipelines.shallow import shallow

ROLES = ("source", "translator", "policy", "reward", "judge", "questions", "benchmark_datasets")


Inputs = Callable[[], dict[str, Any]]
"""Inputs of a task; each call makes the lists anew, for kfp takes one only once."""


class Candidates(NamedTuple):
    """Answers and their scores."""

    name: Hashable
    """What they are."""
    samples: Callable[[], Any]
    """The list of them, made anew."""
    scores: Inputs
    """`scores`, a list, or `scored`, in one piece."""
    cost: Mapping[Hashable, Inputs]
    """What was done for them -> what the tally is told of it."""


class Flow(Tasks):
    """The tasks of one policy as they are added to the graph."""

    def __init__(self, study: Study, policy: str, cluster: Cluster, made: dict[Hashable, Any]) -> None:
        """`made`: tasks that several policies share, by what they do."""
        super().__init__(study, policy, cluster)
        self.made = made
        self.store: Any = None
        """The pipeline's parameter, once there is one."""
        self.counted: set[Hashable] = set()
        """What the cost of some arm, or of all, has in it already."""
        self.together = self.gathered()
        self.graphs = {(arm.name, seed): self.graph(arm, seed) for arm in study.arms_of(policy) for seed in arm.seeds}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` adds, or added when it was asked for first."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def settled(self, policy: str) -> Any:
        """Revisions and decoding values of a policy or a sampler, after a look at whether it could run."""
        given = self.study.of(policy)

        def make() -> Any:
            roles = {name: given[name] for name in ROLES}
            revisions = {f"{name}_revision": given[f"{name}_revision"] for name in ROLES[:-1]}
            looked = ("languages", "questions_languages", "translator_allow_unsupported", "translator_max_model_len")
            more = {name: given[name] for name in (*looked, "micro_batch", "max_length", "judge_format")}
            checked = preflight(
                **some(roles), **some(revisions), **more, store=self.store, cluster=self.cluster.wanted()
            )
            self.put(checked, "preflight", policy)
            decoding = {name: given[name] for name in ("n", "temperature", "top_p", "top_k", "max_tokens")}
            task = resolve(
                **some(roles), **some(revisions), **some(decoding), aligner=self.study.aligner.get("model", ""),
                **some({"aligner_revision": self.study.aligner.get("revision")}),
            )  # fmt: skip
            return self.put(task.after(checked), "resolve", policy).outputs

        return self.once(("settled", policy), make)

    def prompts(self) -> Any:
        """English prompts, and the folder of prompts in every language; one for all policies."""
        given, now = self.given, self.settled(self.policy)

        def make() -> Any:
            english = prepare(source=given["source"], revision=now["source"], count=given["count"], store=self.store)
            self.put(english, "prepare")
            deal = plan(
                stage="translate", languages=given["languages"], prompts=given["count"], workers=given["workers"]
            )
            self.put(deal, "plan-translate")
            with dsl.ParallelFor(deal.output, name="translate") as share:
                translated = translate(
                    english=english.outputs["prompts"], languages=share.languages, group=share.group,
                    groups=share.groups, model=given["translator"], revision=now["translator"],
                    format=given["translator_format"], allow_unsupported=given["translator_allow_unsupported"],
                    max_model_len=given["translator_max_model_len"], gpus=self.cluster.gpus("translate"),
                    references=any(arm.completion == "reference" and arm.method == "sft" for arm in self.study.arms),
                    store=self.store,
                )  # fmt: skip
                self.put(translated, "translate")
            gathered = gather(
                english=english.outputs["prompts"], translations=dsl.Collected(translated.outputs["prompts"]),
                languages=given["languages"],
            )  # fmt: skip
            return self.put(gathered, "gather").outputs["prompts"]

        return self.once("prompts", make)

    def candidates(self, policy: str, start: Any = None, about: str = "", n: int | None = None) -> Candidates:
        """Answers of a policy, or `n` of the model that `start` made of it, and the reward model's scores of them."""
        given, now, prompts = self.study.of(policy), self.settled(policy), self.prompts()

        def make() -> Candidates:
            deal = plan(stage="sample", languages=given["languages"], prompts=given["count"], workers=given["workers"])
            self.put(deal, "plan-sample", about or policy)
            decoding = {name: now[name] for name in ("temperature", "top_p", "top_k", "max_tokens")}
            with dsl.ParallelFor(deal.output, name=f"sample and score {about or policy}") as share:
                sampled = sample(
                    prompts=prompts, languages=share.languages, group=share.group, groups=share.groups,
                    model=given["policy"], revision=now["policy"], n=n or given["n"], seed=given["seed"],
                    gpus=self.cluster.gpus("sample"), store=self.store, **decoding, **started(start),
                )  # fmt: skip
                scored = score(
                    prompts=prompts, samples=sampled.outputs["samples"], model=given["reward"], revision=now["reward"],
                    gpus=self.cluster.gpus("score"), store=self.store,
                )  # fmt: skip
                self.put(sampled, "sample", about or policy)
                self.put(scored, "score", about or policy)

            def samples() -> Any:
                return dsl.Collected(sampled.outputs["samples"])

            def scores() -> dict[str, Any]:
                return {"scores": dsl.Collected(scored.outputs["scores"])}

            name = (policy, about)
            return Candidates(name, samples, scores, {name: lambda: {"samples": samples(), **scores()}})

        return self.once(("candidates", policy, about), make)

    def scored(self, arm: Arm, seed: int) -> Candidates:
        """The answers and scores that an arm chooses from."""
        start = self.trained(self.study.arm(arm.start), seed) if arm.start else None
        source, about = arm.sampler or self.policy, ""
        if arm.start:
            about = " ".join(map(str, filter(None, (self.policy, arm.start, seed, arm.n and f"n {arm.n}"))))
        found = self.candidates(source, start, about, arm.n if arm.start else None)
        key = ("scores", arm.scorer, source, about)
        given, now, prompts = self.given, self.settled(self.policy), self.prompts()
        if arm.scorer == "mapo":
            aligned = self.once(key, lambda: self.put(
                align(
                    prompts=prompts, samples=found.samples(), english=found.samples(),
                    model=self.study.aligner["model"], revision=now["aligner"],
                    format=self.study.aligner.get("format", "google"), gpus=self.cluster.gpus("score"),
                    store=self.store,
                ), "score", about or source, "Score by translation",
            ))  # fmt: skip
            return _rescored(found, key, aligned)
        if arm.scorer == "icr":
            assert start, "studies.read"
            implied = self.once(key, lambda: self.put(
                implicit(
                    prompts=prompts, samples=found.samples(), base=given["policy"], base_revision=now["policy"],
                    gpus=self.cluster.gpus("score"), store=self.store, **started(start),
                ), "score", about, "Score by implicit reward",
            ))  # fmt: skip
            return _rescored(found, key, implied)
        return found

    def data(self, arm: Arm, seed: int) -> Any:
        """What an arm is tuned on: pairs, rows, or the prompts themselves."""
        prompts, about = self.prompts(), f"{arm.name} {seed}" if arm.start else arm.name
        if arm.method == "online":
            return prompts
        part = {"languages": list(arm.languages)} if arm.languages else {}
        part |= some({"n": arm.n})
        if not arm.sampled:
            key: Hashable = ("reference", arm.languages)
            return self.once(key, lambda: self.put(
                select(prompts=prompts, completion="reference", languages=list(arm.languages), store=self.store),
                "pair", about, "Select references",
            )).outputs["rows"]  # fmt: skip
        found = self.scored(arm, seed)
        if arm.method == "sft":
            return self.once((found.name, "best", arm.pool, arm.languages, arm.n), lambda: self.put(
                select(
                    prompts=prompts, samples=found.samples(), completion="best", pool=arm.pool, store=self.store,
                    **found.scores(), **part,
                ), "pair", about, "Select the best",
            )).outputs["rows"]  # fmt: skip
        names = ("pool", "rejected_target", "k", "prompt_source", "language_guard")
        rule = {name: getattr(arm, name) for name in names if getattr(arm, name) != getattr(Arm, name)}
        return self.once((found.name, *rule.items(), arm.languages, arm.n), lambda: self.put(
            pair(
                prompts=prompts, samples=found.samples(), seed=self.given["seed"], store=self.store, **found.scores(),
                **rule, **part,
            ), "pair", about,
        )).outputs["pairs"]  # fmt: skip

    def trained(self, arm: Arm, seed: int) -> Any:
        """The task in which an arm tunes with one seed, and its model is evaluated."""
        settled = self.settled(self.policy)

        def make() -> Any:
            start = {"start": self.trained(self.study.arm(arm.start), seed).outputs["trained"]} if arm.start else {}
            given = {name: settled[name] for name in SETTLED}
            return self.graphs[arm.name, seed](
                data=self.data(arm, seed), reference=self.base()["answers"], store=self.store, **given, **start,
                **self.fetched(),
            )  # fmt: skip

        return self.once(("trained", self.policy, arm.name, seed), make)

    def fetched(self) -> dict[str, Any]:
        """EuroEval's data as an input of `benchmark`, where the cluster has it fetched."""
        given = self.given
        if not self.cluster.fetch:
            return {}
        checked = self.settled(self.policy)["source"].task
        codes = [*given["languages"], *self.study.held_out]
        task = self.once(
            ("fetch", given["benchmark_suite"]),
            lambda: self.put(fetch(languages=codes, suite=given["benchmark_suite"]).after(checked), "fetch"),
        )
        return {"cache": task.outputs["cache"]}

    def base(self) -> dict[str, Any]:
        """Evaluations of the policy as it is."""
        return self.once(
            ("base", self.policy),
            lambda: self.evaluated(BASE, self.settled(self.policy), self.store, self.fetched()),
        )

    def tune(self, store: Any, arms: Collection[str]) -> None:
        """Runs of these arms alone, with what they need."""
        self.store = store
        for arm in self.study.arms_of(self.policy):
            for seed in arm.seeds if arm.name in arms else ():
                self.trained(arm, seed)

    def run(self, store: Any) -> Any:
        """Every arm of the policy, and the report of all."""
        self.store = store
        found = {
            (SHARED, 0): self.tally(SHARED, 0, self.common(), store),
            (BASE, 0): self.tally(BASE, 0, self.base(), store),
        }
        for arm in self.study.arms_of(self.policy):
            for seed in arm.seeds:
                measured = self.trained(arm, seed).outputs["outcomes"]
                made = self.uncounted(self.scored(arm, seed).cost) if arm.sampled else {}
                more = {"measured": measured, **made}
                found[arm.name, seed] = self.tally(arm.name, seed, more, store) if made else measured
        together = self.together(**dict(zip(self.inputs, [store, *found.values()], strict=True)))
        task = report(outcomes=together.outputs["outcomes"], plan=json.dumps(self.study.plan(self.policy)), store=store)
        return self.put(task, "report", self.policy, "Study").outputs["report"]

    def common(self) -> dict[str, Any]:
        """What was made for several arms, for its cost."""
        found = {"prompts": self.prompts()}
        if any(arm.sampled and not (arm.start or arm.sampler) for arm in self.study.arms_of(self.policy)):
            found |= self.uncounted(self.candidates(self.policy).cost)
        return found

    def uncounted(self, cost: Mapping[Hashable, Inputs]) -> dict[str, Any]:
        """What of it is in no cost yet, and now is."""
        new = [name for name in cost if name not in self.counted]
        self.counted.update(new)
        return {what: given for name in new for what, given in cost[name]().items()}


def _rescored(found: Candidates, name: Hashable, task: Any) -> Candidates:
    """The same answers with the scores that `task` gave them."""

    def scored() -> dict[str, Any]:
        return {"scored": task.outputs["scores"]}

    return Candidates(name, found.samples, scored, {**found.cost, name: scored})


def flows_of(described: Study, cluster: Cluster) -> list[Flow]:
    """One for each policy; what several of them need they share."""
    made: dict[Hashable, Any] = {}
    return [Flow(described, policy, cluster, made) for policy in described.policies]


@shallow
def study(described: Study, cluster: Cluster = Cluster()) -> Any:
    """The pipeline of a study for a cluster; its outputs are the reports, by policy."""
    alone = [arm.name for arm in described.arms if arm.start or arm.method == "online"]
    if alone and cluster.trainjob():
        raise ValueError(
            f"--profile: found {cluster.profile}, which trains on several nodes; expected one that trains in a pod "
            f"with GPUs, for {', '.join(alone)}"
        )
    names = [policy.replace("-", "_") for policy in described.policies]
    outputs = NamedTuple("Reports", [(name, Artifact) for name in names])  # type: ignore[misc]

    flows = flows_of(described, cluster)

    @dsl.pipeline(name=f"croco-study-{described.name}", display_name=f"CroCo study {described.name}")
    def pipeline(store: str = described.parameters["store"]) -> outputs:
        """Tunes by every arm of the study and says what each gained and lost against the base and the others.

        Args:
            store: Where finished work is kept and looked for: s3://bucket/prefix or a folder; empty for nowhere (ours).
        """
        return outputs(*(flow.run(store) for flow in flows))

    return pipeline
