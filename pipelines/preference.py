"""Preference: the whole method as one Kubeflow pipeline, from an English instruction set to a tuned model and a report.

preflight -> resolve -> prepare -> [translate] -> gather -> [sample -> score] -> pair -> train
                     -> recall -----------------------------+-------------------------+
                              train -+-> benchmark, answer (tuned) -+-> arena -> promote -+-> report
                                     +-- benchmark, answer (base) --+                     +-> (publish)

In parentheses is what only a promoted model gets. In brackets is a loop over shares of the work (croco.plan), each the
work of one task. A loop takes no parameter that may be without a value: Kubeflow 2.17 loses it on the way in. So it is
`resolve` that says how the policy is sampled.
"""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Any, Optional

from kfp import dsl
from kfp.dsl import Artifact

from components.answer import answer
from components.arena import arena
from components.benchmark import benchmark
from components.fetch import fetch
from components.gather import gather
from components.pair import pair
from components.plan import plan
from components.preflight import preflight
from components.prepare import prepare
from components.promote import promote
from components.publish import publish
from components.recall import recall
from components.report import report
from components.resolve import resolve
from components.sample import sample
from components.score import score
from components.track import track
from components.train import train
from components.translate import translate
from pipelines.placement import Cluster, place
from pipelines.shallow import shallow


@shallow
def preference(cluster: Cluster = Cluster()) -> Any:
    """The pipeline for a cluster."""

    @dsl.pipeline(name="croco-preference", display_name="CroCo preference tuning")
    def pipeline(
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
        start: str = "policy",
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
        sampled_reference: bool = False,
        packed: bool = True,
        seed: int = 0,
        benchmark_datasets: Optional[str] = None,
        benchmark_suite: str = "paper",
        benchmark_iterations: int = 3,
        questions: str = "CohereLabs/m-ArenaHard-v2.1",
        questions_revision: Optional[str] = None,
        questions_limit: Optional[int] = None,
        questions_languages: list[str] = ["en", "it", "es", "fr", "nl", "de", "da", "gl", "cy", "mt", "ga"],  # noqa: B006
        answer_max_tokens: int = 8192,
        judge: str = "Qwen/Qwen3.6-35B-A3B",
        judge_revision: Optional[str] = None,
        judge_format: str = "qwen3.6",
        judge_endpoint: str = "",
        promote_as: str = "",
        promote_min_questions: int = 100,
        promote_hub: str = "",
        promote_registry: str = "",
        workers: int = 7,
        store: str = "",
    ) -> Artifact:
        """Tunes a model in several languages by a reward model of English preferences, and says what it gained.

        The defaults are the paper's full-size setting where it is known, else the reference code's, else ours; each
        stage's config says which. An empty revision takes the newest there is as the run starts, in all its tasks.

        Args:
            source: Instruction set: hub data set id, or a JSONL, JSON array or Parquet file (paper).
            source_revision: Commit, tag or branch of a hub data set.
            count: Prompts to draw from it, stratified by domain (paper).
            languages: Codes of the languages to tune in; en for English itself; one code alone is monolingual (paper).
            translator: Translation model: hub id or folder (paper).
            translator_revision: Commit, tag or branch of the translator.
            translator_format: How the translator is asked: google or infomaniak.
            translator_allow_unsupported: Whether to translate into languages that it is not known to support (ours).
            translator_max_model_len: Tokens of a text and its translation together; longer texts are cut.
            policy: Model to tune: hub id or folder (paper).
            policy_revision: Commit, tag or branch of the policy.
            start: What is sampled and tuned: policy (paper), or last or a version of what was promoted (ours).
            n: Answers sampled for each prompt and language (paper).
            temperature: Of sampling, above 0; empty takes the table of known models (reference code).
            top_p: Probability mass to sample from, 1 is all; empty takes the table of known models.
            top_k: Most probable tokens to sample from, 0 is all; empty takes the table of known models.
            max_tokens: Tokens an answer may have; empty takes the table of known models (reference code).
            reward: Reward model: hub id or folder (paper).
            reward_revision: Commit, tag or branch of the reward model.
            pool: Candidates of a pair: language (of a prompt in one language) or all (of a prompt in every language).
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
            sampled_reference: Whether the reference's log-probabilities are kept from sampling; saves a pass (ours).
            packed: Whether a pair's prompt is computed once for both answers; false where training says so (ours).
            seed: Of sampling, pairing and training; evaluation has its own, so that runs are asked the same (ours).
            benchmark_datasets: Folder of local EuroEval data sets; empty takes the paper's from the hub.
            benchmark_suite: Whose list of EuroEval data sets: paper (reference code), or official-17.7, EuroEval's own.
            benchmark_iterations: Bootstrapped evaluations of each EuroEval data set, from 2 on (reference code).
            questions: Arena questions: hub data set id or file (paper).
            questions_revision: Commit, tag or branch of a hub data set.
            questions_limit: Only the first so many questions of each language; empty takes all (paper).
            questions_languages: Codes of the languages of the arena, tuned in or not (paper).
            answer_max_tokens: Tokens an answer in the arena may have (reference code).
            judge: Model that compares answers: hub id or folder (reference code).
            judge_revision: Commit, tag or branch of the judge.
            judge_format: How the judge is asked: qwen3.6, plain or toy.
            judge_endpoint: OpenAI-compatible server that judges instead, http(s)://HOST:PORT/v1; empty starts one here.
            promote_as: Name under which a model that may take the base's place is published; empty only decides (ours).
            promote_min_questions: Judged questions that each language must have for that (ours).
            promote_hub: Repository of the Hugging Face hub to upload a promoted model to; empty for none.
            promote_registry: Address of a Kubeflow Model Registry to register it in, http://HOST:PORT; empty for none.
            workers: Tasks that share translation, and sampling with scoring, side by side; results do not depend on it.
            store: Where finished work is kept and looked for: s3://bucket/prefix or a folder; empty for nowhere (ours).
        """
        checked = preflight(
            source=source,
            translator=translator,
            policy=policy,
            reward=reward,
            judge=judge,
            questions=questions,
            benchmark_datasets=benchmark_datasets,
            source_revision=source_revision,
            translator_revision=translator_revision,
            policy_revision=policy_revision,
            reward_revision=reward_revision,
            judge_revision=judge_revision,
            questions_revision=questions_revision,
            languages=languages,
            questions_languages=questions_languages,
            translator_allow_unsupported=translator_allow_unsupported,
            translator_max_model_len=translator_max_model_len,
            micro_batch=micro_batch,
            max_length=max_length,
            judge_format=judge_format,
            store=store,
            count=count,
            translator_format=translator_format,
            start=start,
            n=n,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            max_tokens=max_tokens,
            pool=pool,
            rejected_target=rejected_target,
            k=k,
            prompt_source=prompt_source,
            language_guard=language_guard,
            learning_rate=learning_rate,
            beta=beta,
            epochs=epochs,
            global_batch=global_batch,
            benchmark_suite=benchmark_suite,
            benchmark_iterations=benchmark_iterations,
            questions_limit=questions_limit,
            answer_max_tokens=answer_max_tokens,
            judge_endpoint=judge_endpoint,
            promote_as=promote_as,
            promote_min_questions=promote_min_questions,
            promote_hub=promote_hub,
            promote_registry=promote_registry,
            workers=workers,
            cluster=cluster.wanted(),
        )
        settled = resolve(
            source=source,
            translator=translator,
            policy=policy,
            reward=reward,
            judge=judge,
            questions=questions,
            benchmark_datasets=benchmark_datasets,
            source_revision=source_revision,
            translator_revision=translator_revision,
            policy_revision=policy_revision,
            reward_revision=reward_revision,
            judge_revision=judge_revision,
            questions_revision=questions_revision,
            n=n,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            max_tokens=max_tokens,
            start=start,
            name=promote_as,
            nodes=cluster.trainjob().get("nodes", 1),
            judge_endpoint=judge_endpoint,
            store=store,
        )
        settled.after(checked)
        now = settled.outputs
        recalled = recall(name=now["start_name"], version=now["start_version"], store=store)
        prepared = prepare(source=source, revision=now["source"], count=count, store=store)
        english = prepared.outputs["prompts"]

        translating = plan(stage="translate", languages=languages, prompts=count, workers=workers).after(checked)
        with dsl.ParallelFor(translating.output, name="translate") as share:
            translated = translate(
                english=english,
                languages=share.languages,
                group=share.group,
                groups=share.groups,
                model=translator,
                revision=now["translator"],
                format=translator_format,
                allow_unsupported=translator_allow_unsupported,
                max_model_len=translator_max_model_len,
                references=False,
                gpus=cluster.gpus("translate"),
                store=store,
            )
            place(cluster, translated, "translate")
        gathered = gather(
            english=english, translations=dsl.Collected(translated.outputs["prompts"]), languages=languages
        )
        prompts = gathered.outputs["prompts"]

        sampling = plan(stage="sample", languages=languages, prompts=count, workers=workers).after(checked)
        with dsl.ParallelFor(sampling.output, name="sample and score") as share:
            sampled = sample(
                prompts=prompts,
                languages=share.languages,
                group=share.group,
                groups=share.groups,
                model=policy,
                revision=now["policy"],
                n=n,
                temperature=now["temperature"],
                top_p=now["top_p"],
                top_k=now["top_k"],
                max_tokens=now["max_tokens"],
                seed=seed,
                logprob=sampled_reference,
                gpus=cluster.gpus("sample"),
                store=store,
                trained=recalled.outputs["found"],
            )
            scored = score(
                prompts=prompts,
                samples=sampled.outputs["samples"],
                model=reward,
                revision=now["reward"],
                gpus=cluster.gpus("score"),
                store=store,
            )
            place(cluster, sampled, "sample")
            place(cluster, scored, "score")

        paired = pair(
            prompts=prompts,
            samples=dsl.Collected(sampled.outputs["samples"]),
            scores=dsl.Collected(scored.outputs["scores"]),
            pool=pool,
            rejected_target=rejected_target,
            k=k,
            prompt_source=prompt_source,
            language_guard=language_guard,
            seed=seed,
            store=store,
        )
        trained = train(
            data=paired.outputs["pairs"],
            model=policy,
            revision=now["policy"],
            learning_rate=learning_rate,
            beta=beta,
            epochs=epochs,
            global_batch=global_batch,
            micro_batch=micro_batch,
            max_length=max_length,
            sampled_reference=sampled_reference,
            packed=packed,
            seed=seed,
            store=store,
            trainjob=cluster.trainjob(),
            start=recalled.outputs["found"],
        )

        cached = {}
        if cluster.fetch:
            fetched = fetch(languages=languages, suite=benchmark_suite).after(checked)
            place(cluster, fetched, "fetch")
            cached = {"cache": fetched.outputs["cache"]}
        benchmarks, answers = {}, {}
        for side, tuned in {"base": {}, "tuned": {"trained": trained.outputs["trained"]}}.items():
            benchmarks[side] = benchmark(
                model=policy,
                revision=now["policy"],
                datasets=benchmark_datasets,
                datasets_revision=now["benchmark_datasets"],
                languages=languages,
                suite=benchmark_suite,
                iterations=benchmark_iterations,
                store=store,
                **tuned,
                **cached,
            )
            answers[side] = answer(
                model=policy,
                revision=now["policy"],
                generator=side,
                questions=questions,
                questions_revision=now["questions"],
                limit=questions_limit,
                languages=questions_languages,
                max_tokens=answer_max_tokens,
                gpus=cluster.gpus(f"answer-{side}"),
                store=store,
                **tuned,
            )
            place(cluster, benchmarks[side], f"benchmark-{side}")
            place(cluster, answers[side], f"answer-{side}")
        judged = arena(
            answers=answers["tuned"].outputs["answers"],
            reference=answers["base"].outputs["answers"],
            judge=judge,
            judge_revision=now["judge"],
            judge_format=judge_format,
            judge_endpoint=judge_endpoint,
            gpus=cluster.gpus("arena"),
            store=store,
        )
        evaluations = {
            "benchmarks_base": benchmarks["base"].outputs["scores"],
            "benchmarks_tuned": benchmarks["tuned"].outputs["scores"],
            "answers_base": answers["base"].outputs["answers"],
            "answers_tuned": answers["tuned"].outputs["answers"],
            "verdicts": judged.outputs["verdicts"],
        }
        decided = promote(
            training=trained.outputs["training"],
            languages=languages,
            questions_languages=questions_languages,
            min_questions=promote_min_questions,
            name=promote_as,
            store=store,
            **evaluations,
        )
        # kfp.local finds a condition's value only under the name that a component's return value has
        with dsl.If(decided.outputs["Output"] == True, name="promoted"):  # noqa: E712 - kfp reads the comparison
            published = publish(
                decision=decided.outputs["decision"],
                trained=trained.outputs["trained"],
                benchmarks=evaluations["benchmarks_tuned"],
                answers=evaluations["answers_tuned"],
                verdicts=evaluations["verdicts"],
                base=policy,
                base_revision=now["policy"],
                data=source,
                name=promote_as,
                store=store,
                hub=promote_hub,
                registry=promote_registry,
            )
            place(cluster, published, "publish")
        reported = report(
            english=english,
            prompts=prompts,
            samples=dsl.Collected(sampled.outputs["samples"]),
            scores=dsl.Collected(scored.outputs["scores"]),
            pairs=paired.outputs["pairs"],
            training=trained.outputs["training"],
            decision=decided.outputs["decision"],
            line=promote_as,
            store=store,
            **evaluations,
        )

        if cluster.mlflow or cluster.tensorboard:
            tracked = track(
                pairs=paired.outputs["pairs"],
                training=trained.outputs["training"],
                verdicts=judged.outputs["verdicts"],
                decision=decided.outputs["decision"],
                report=reported.outputs["report"],
                run=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
                mlflow=cluster.mlflow,
                tensorboard=cluster.tensorboard,
            )
            place(cluster, tracked, "track")

        place(cluster, checked, "preflight")
        place(cluster, settled, "resolve")
        place(cluster, translating, "plan-translate")
        place(cluster, sampling, "plan-sample")
        place(cluster, prepared, "prepare")
        place(cluster, recalled, "recall")
        place(cluster, gathered, "gather")
        place(cluster, paired, "pair")
        place(cluster, trained, "train")
        place(cluster, judged, "arena")
        place(cluster, decided, "promote")
        place(cluster, reported, "report")
        return reported.outputs["report"]

    return pipeline
