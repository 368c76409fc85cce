"""Plan: what a run settles before its work starts: which weights and data it takes, and which task does what.

The pipeline's own; it has no command. `settle` turns names into revisions that stay what they are, so that everything
after it can be cached; `shares` deals a stage's shards to tasks that run side by side.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from croco import languages, models, prepare, recall, sample, translate
from croco.shards import Share, buckets_for


class Settled(NamedTuple):
    """What the names of a run stand for today; a revision is a hub's commit id, or `sha256:<hex>` of a local path."""

    source: str
    translator: str
    policy: str
    reward: str
    judge: str
    """Empty where an endpoint has it: nobody can say more of that than its name."""
    questions: str
    benchmark_datasets: str
    """Empty where none are given: EuroEval's own, which it takes from the hub by itself."""
    aligner: str
    """Of the translation model that scores by alignment (croco.align); empty where there is none."""
    start_name: str
    """Line of models, and version, of the promoted one that is sampled from and tuned on; empty for the policy."""
    start_version: str
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


def settle(
    *,
    source: str,
    translator: str,
    policy: str,
    reward: str,
    judge: str,
    questions: str,
    benchmark_datasets: str | None = None,
    judge_endpoint: str = "",
    aligner: str = "",
    revisions: dict[str, str | None],
    decoding: dict[str, Any],
    starting: Mapping[str, Any] = {},
) -> Settled:
    """The revision of every model and data set, how the policy is sampled, and where tuning starts.

    Args:
        revisions: name of one of the others -> commit, tag or branch; none takes the newest (ours).
        decoding: fields of SampleConfig; what is none is taken from the table of known models (reference code).
        starting: of `recall.resolve_start`; none starts from the policy.

    Raises: as `models.pin`, `sample.resolve` and `recall.resolve_start`: a name that cannot be had costs no GPU.
    """
    config = sample.resolve(policy, sample.SampleConfig(**decoding))
    dolci = {"source": prepare.DOLCI_REVISION} if source == prepare.DOLCI else {}
    wanted = {**dolci, **{name: revision for name, revision in revisions.items() if revision}}
    pinned = models.pin(policy, wanted.get("policy"))
    name, version = recall.resolve_start(policy=policy, revision=pinned, **starting) if starting else ("", "")
    return Settled(
        source=models.pin(source, wanted.get("source"), data=True),
        translator=models.pin(translator, wanted.get("translator")),
        policy=pinned,
        reward=models.pin(reward, wanted.get("reward")),
        judge="" if judge_endpoint else models.pin(judge, wanted.get("judge")),
        questions=models.pin(questions, wanted.get("questions"), data=True),
        benchmark_datasets=models.pin(benchmark_datasets, data=True) if benchmark_datasets else "",
        aligner=models.pin(aligner, wanted.get("aligner")) if aligner else "",
        start_name=name,
        start_version=version,
        **{name: getattr(config, name) for name in sample.DECODED},
    )


def work(stage: str, codes: Sequence[str], prompts: int, workers: int) -> list[dict[str, str]]:
    """The parts of a stage, one a task; all of them together do everything once.

    Each is {languages: "da,nl", group: "0", groups: "1"}, ASCII text, for that is what Kubeflow hands on as it is.

    Args:
        stage: `translate` (into every language but English) or `sample` (in every language; `score` goes with it).
        codes: languages asked for.
        prompts: in each language, at most.
        workers: tasks, at most: there is none without a shard.
    """
    codes = languages.check(codes)
    if stage == "translate":
        others = tuple(code for code in codes if code != "en")
        size = translate.TranslateConfig().shard_prompts
        parts = shares(others, prompts, size, workers) if others else [Share(("en",))]  # a loop needs an item
    elif stage == "sample":
        parts = shares(codes, prompts, sample.SampleConfig().shard_prompts, workers)
    else:
        raise ValueError(f"stage: found {stage!r}; expected translate or sample")
    return [
        {"languages": ",".join(part.languages), "group": str(part.group), "groups": str(part.groups)} for part in parts
    ]


def shares(codes: Sequence[str], prompts: int, shard_prompts: int, workers: int) -> list[Share]:
    """Which part each of at most `workers` tasks does.

    With fewer workers than languages a task does several languages; with more, a language's shards are dealt to several
    tasks, as evenly as they go, the first languages to one more, and never to more than there are shards.
    """
    if workers < 1:
        raise ValueError(f"workers: found {workers}; expected 1 or more")
    if workers < len(codes):
        return [Share(tuple(codes[first::workers])) for first in range(workers)]
    each, more = divmod(workers, len(codes))
    shards = buckets_for(prompts, shard_prompts)
    groups = {code: min(each + (place < more), shards) for place, code in enumerate(codes)}
    return [Share((code,), group, number) for code, number in groups.items() for group in range(number)]
