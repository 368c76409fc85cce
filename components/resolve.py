"""Resolve, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import NamedTuple, Optional

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def resolve(
    source: str,
    translator: str,
    policy: str,
    reward: str,
    judge: str,
    questions: str,
    benchmark_datasets: Optional[str] = None,
    source_revision: Optional[str] = None,
    translator_revision: Optional[str] = None,
    policy_revision: Optional[str] = None,
    reward_revision: Optional[str] = None,
    judge_revision: Optional[str] = None,
    questions_revision: Optional[str] = None,
    aligner: str = "",
    aligner_revision: Optional[str] = None,
    n: int = 64,
    temperature: Optional[float] = None,
    top_p: Optional[float] = None,
    top_k: Optional[int] = None,
    max_tokens: Optional[int] = None,
    start: str = "policy",
    name: str = "",
    nodes: int = 1,
    judge_endpoint: str = "",
    store: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "Settled",
    source=str,
    translator=str,
    policy=str,
    reward=str,
    judge=str,
    questions=str,
    benchmark_datasets=str,
    aligner=str,
    start_name=str,
    start_version=str,
    temperature=float,
    top_p=float,
    top_k=int,
    max_tokens=int,
):
    """What the names stand for today: a revision of each model and data set, how the policy is sampled, and the
    promoted model that tuning starts from.
    """
    from croco.plan import settle

    return settle(
        source=source,
        translator=translator,
        policy=policy,
        reward=reward,
        judge=judge,
        questions=questions,
        benchmark_datasets=benchmark_datasets,
        judge_endpoint=judge_endpoint,
        aligner=aligner,
        revisions={
            "source": source_revision,
            "translator": translator_revision,
            "policy": policy_revision,
            "reward": reward_revision,
            "judge": judge_revision,
            "questions": questions_revision,
            "aligner": aligner_revision,
        },
        decoding={"n": n, "temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens},
        starting={"start": start, "name": name, "nodes": nodes, "store": store},
    )
