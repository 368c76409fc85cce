"""Preference: the whole method as one Kubeflow pipeline, from an English instruction set to a tuned model and a report.

prepare -> translate -> sample -> score -> pair -> train -+-> benchmark, answer (tuned) -+-> arena -> report
                              benchmark, answer (base) ---+------------------------------+
"""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl

from components.answer import answer
from components.arena import arena
from components.benchmark import benchmark
from components.pair import pair
from components.prepare import prepare
from components.report import report
from components.sample import sample
from components.score import score
from components.train import train
from components.translate import translate
from pipelines.placement import Gpus, place


@dsl.pipeline(name="croco-preference", display_name="CroCo preference tuning")
def preference(
    source: str = "allenai/Dolci-Instruct-SFT",
    source_revision: Optional[str] = None,
    count: int = 20_000,
    languages: list[str] = ["da", "nl", "en", "fr", "de", "it", "es"],  # noqa: B006
    translator: str = "google/translategemma-27b-it",
    translator_revision: Optional[str] = None,
    translator_format: str = "google",
    translator_allow_unsupported: bool = False,
    translator_max_model_len: int = 2048,
    policy: str = "utter-project/EuroLLM-9B-Instruct-2512",
    policy_revision: Optional[str] = None,
    n: int = 64,
    temperature: Optional[float] = None,
    top_p: Optional[float] = None,
    top_k: Optional[int] = None,
    max_tokens: Optional[int] = None,
    reward: str = "Skywork/Skywork-Reward-V2-Qwen3-8B",
    reward_revision: Optional[str] = None,
    pool: str = "language",
    rejected_target: str = "mean-2std",
    k: float = 2.0,
    prompt_source: str = "chosen",
    language_guard: str = "count",
    learning_rate: Optional[float] = None,
    beta: float = 0.1,
    epochs: int = 1,
    global_batch: int = 64,
    micro_batch: int = 1,
    max_length: int = 4096,
    seed: int = 0,
    benchmark_datasets: Optional[str] = None,
    benchmark_iterations: int = 3,
    questions: str = "CohereLabs/m-ArenaHard-v2.1",
    questions_revision: Optional[str] = None,
    questions_limit: Optional[int] = None,
    questions_languages: list[str] = ["en", "it", "es", "fr", "nl", "de", "da", "gl", "cy", "mt", "ga"],  # noqa: B006
    answer_max_tokens: int = 8192,
    judge: str = "Qwen/Qwen3.6-35B-A3B",
    judge_revision: Optional[str] = None,
    judge_format: str = "qwen3.6",
    gpu_type: str = "nvidia.com/gpu",
    gpu_node_selector: dict[str, str] = {},  # noqa: B006
    gpus: str = "1",
    gpu_cpu: str = "8",
    gpu_memory: str = "96Gi",
    judge_gpus: str = "2",
    train_gpus: str = "8",
    train_cpu: str = "32",
    train_memory: str = "512Gi",
) -> None:
    """Preference-tunes a model in several languages by a reward model of English preferences, and says what it gained.

    The defaults are the paper's full-size setting where it is known, else the reference code's, else ours; each
    stage's config says which. An empty revision takes the newest; every manifest has the commit that was used.

    Args:
        source: Instruction set: hub data set id, or a JSONL, JSON array or Parquet file (paper).
        source_revision: Commit, tag or branch of a hub data set.
        count: Prompts to draw from it, stratified by domain (paper).
        languages: Codes of the languages to tune in; en for English itself; one code alone is monolingual (paper).
        translator: Translation model: hub id or folder (paper).
        translator_revision: Commit, tag or branch of the translator.
        translator_format: How the translator is asked: google or infomaniak.
        translator_allow_unsupported: Whether to translate into languages that it is not known to support (ours).
        translator_max_model_len: Tokens of a text and its translation together; longer texts are cut and joined again.
        policy: Model to tune: hub id or folder (paper).
        policy_revision: Commit, tag or branch of the policy.
        n: Answers sampled for each prompt and language (paper).
        temperature: Of sampling, above 0; empty takes the table of known models (reference code).
        top_p: Probability mass to sample from, 1 is all; empty takes the table of known models.
        top_k: Most probable tokens to sample from, 0 is all; empty takes the table of known models.
        max_tokens: Tokens an answer may have; empty takes the table of known models (reference code).
        reward: Reward model: hub id or folder (paper).
        reward_revision: Commit, tag or branch of the reward model.
        pool: Candidates of a pair: language (of one prompt in one language) or all (of one prompt in every language).
        rejected_target: Reward the rejected answer is near: mean-2std (paper), q1 or min (reference code).
        k: Standard deviations below the mean for mean-2std (paper).
        prompt_source: Language of a pair's prompt: chosen (paper), rejected or random.
        language_guard: Answers in another language than asked: count (paper) or exclude from being chosen (ours).
        learning_rate: Peak learning rate; empty takes 5e-6 (reference code).
        beta: How strongly DPO stays near the policy (default of TRL, which the reference code leaves).
        epochs: Passes over the pairs (reference code).
        global_batch: Pairs in an optimizer step, over all GPUs (reference code).
        micro_batch: Pairs a GPU takes at once (reference code).
        max_length: Tokens of prompt and answer; longer pairs are dropped and counted (reference code).
        seed: Of sampling, pairing and training; evaluation has its own, so that runs are asked the same (ours).
        benchmark_datasets: Folder of local EuroEval data sets; empty takes the paper's from the hub.
        benchmark_iterations: Bootstrapped evaluations of each EuroEval data set, from 2 on (reference code).
        questions: Arena questions: hub data set id or file (paper).
        questions_revision: Commit, tag or branch of a hub data set.
        questions_limit: Only the first so many questions of each language; empty takes all (paper).
        questions_languages: Codes of the languages of the arena, tuned in or not (paper).
        answer_max_tokens: Tokens an answer in the arena may have (reference code).
        judge: Model that compares answers: hub id or folder (reference code).
        judge_revision: Commit, tag or branch of the judge.
        judge_format: How the judge is asked: qwen3.6, plain or toy.
        gpu_type: Resource name of the GPUs, such as nvidia.com/gpu or amd.com/gpu.
        gpu_node_selector: Labels of the nodes for GPU tasks, to ask for one kind of GPU; empty takes any.
        gpus: GPUs of each GPU task but judge and training, a whole number (1 of 80 GB holds each model).
        gpu_cpu: CPU cores of each GPU task but training.
        gpu_memory: Memory of each GPU task but training, such as 96Gi; 16Gi of it are for shared memory.
        judge_gpus: GPUs of the judge, a whole number.
        train_gpus: GPUs of training, a whole number, on one node (reference code).
        train_cpu: CPU cores of training.
        train_memory: Memory of training, such as 512Gi.
    """
    one = Gpus(gpu_type, gpus, gpu_cpu, gpu_memory, gpu_node_selector)
    judging = Gpus(gpu_type, judge_gpus, gpu_cpu, gpu_memory, gpu_node_selector)
    training = Gpus(gpu_type, train_gpus, train_cpu, train_memory, gpu_node_selector)

    prepared = prepare(source=source, revision=source_revision, count=count)
    english = prepared.outputs["prompts"]
    translated = translate(
        english=english,
        languages=languages,
        model=translator,
        revision=translator_revision,
        format=translator_format,
        allow_unsupported=translator_allow_unsupported,
        max_model_len=translator_max_model_len,
        references=False,
        gpus=gpus,
    )
    prompts = translated.outputs["prompts"]
    sampled = sample(
        prompts=prompts,
        model=policy,
        revision=policy_revision,
        n=n,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_tokens=max_tokens,
        seed=seed,
        gpus=gpus,
    )
    samples = sampled.outputs["samples"]
    scored = score(prompts=prompts, samples=samples, model=reward, revision=reward_revision, gpus=gpus)
    scores = scored.outputs["scores"]
    paired = pair(
        prompts=prompts,
        samples=samples,
        scores=scores,
        pool=pool,
        rejected_target=rejected_target,
        k=k,
        prompt_source=prompt_source,
        language_guard=language_guard,
        seed=seed,
    )
    trained = train(
        data=paired.outputs["pairs"],
        model=policy,
        revision=policy_revision,
        learning_rate=learning_rate,
        beta=beta,
        epochs=epochs,
        global_batch=global_batch,
        micro_batch=micro_batch,
        max_length=max_length,
        seed=seed,
    )

    benchmarks, answers = {}, {}
    for side, tuned in {"base": {}, "tuned": {"trained": trained.outputs["trained"]}}.items():
        benchmarks[side] = benchmark(
            model=policy,
            revision=policy_revision,
            datasets=benchmark_datasets,
            languages=languages,
            iterations=benchmark_iterations,
            **tuned,
        )
        answers[side] = answer(
            model=policy,
            revision=policy_revision,
            generator=side,
            questions=questions,
            questions_revision=questions_revision,
            limit=questions_limit,
            languages=questions_languages,
            max_tokens=answer_max_tokens,
            gpus=gpus,
            **tuned,
        )
        place(benchmarks[side], f"benchmark-{side}", one)
        place(answers[side], f"answer-{side}", one)
    judged = arena(
        answers=answers["tuned"].outputs["answers"],
        reference=answers["base"].outputs["answers"],
        judge=judge,
        judge_revision=judge_revision,
        judge_format=judge_format,
        gpus=judge_gpus,
    )
    reported = report(
        english=english,
        prompts=prompts,
        samples=samples,
        scores=scores,
        pairs=paired.outputs["pairs"],
        training=trained.outputs["training"],
        benchmarks_base=benchmarks["base"].outputs["scores"],
        benchmarks_tuned=benchmarks["tuned"].outputs["scores"],
        answers_base=answers["base"].outputs["answers"],
        answers_tuned=answers["tuned"].outputs["answers"],
        verdicts=judged.outputs["verdicts"],
    )

    place(prepared, "prepare", one)
    place(translated, "translate", one)
    place(sampled, "sample", one)
    place(scored, "score", one)
    place(paired, "pair", one)
    place(trained, "train", training)
    place(judged, "arena", judging)
    place(reported, "report", one)
