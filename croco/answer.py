"""Answer: benchmark questions -> one model's answers (paper: m-ArenaHard 2.1, 11 languages).

    python -m croco answer --model MODEL --generator tuned --out DIR --languages da de --settings-of BASE_MODEL

One dataset holds the answers of one model; `arena` compares two of them, so the same answers serve any number of
comparisons. An empty answer is kept: it loses by itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from croco import chat, checks, dataset, engine, languages, models, rows
from croco.engine import Generate, Sampling
from croco.questions import QUESTIONS, Question, read_file, read_hub
from croco.shards import Outcome, Shards, split
from croco.writer import Writer

VERSION = 1
TEMPERATURES: Mapping[str, float] = {
    "utter-project/EuroLLM-9B-Instruct-2512": 0.0,  # reference code
    "CohereLabs/tiny-aya-global": 0.1,  # reference code
}
TEMPERATURE = 0.0
"""Of models that are not in the table (ours)."""


@dataclass(frozen=True)
class AnswerConfig:
    """How questions are answered; give both sides of a comparison the same."""

    languages: tuple[str, ...] = ("en", "it", "es", "fr", "nl", "de", "da", "gl", "cy", "mt", "ga")
    """Codes of languages to answer in (paper)."""
    questions_revision: str | None = None
    """Commit, tag or branch of a hub data set, resolved to a commit and recorded; or `sha256:` and the digest of a
    local file, which is checked. None: main, or the file as it is (ours)."""
    limit: int | None = None
    """Only the first so many questions of each language, at least 1; None: all (paper)."""
    temperature: float | None = None
    """0 is greedy; None: the reference code's by hub id, else 0 (ours)."""
    settings_of: str | None = None
    """Hub id whose temperature is used. A tuned model in a folder is answered like its base by naming the base here;
    None: the model's own (ours; the reference code goes by a word in the path)."""
    max_tokens: int = 8192
    """Tokens an answer may have, at least 1 (reference code); no more than the model's context leaves."""
    seed: int = 0
    """Where the temperature is above 0; each question has its own, whatever the languages asked for (ours)."""
    max_model_len: int | None = None
    """Tokens of question and answer; None: all the model has (reference code)."""
    shard_questions: int = 512
    """Questions of a language that are answered, then stored, at a time, on average: what a kill can cost. 512 takes a
    language of m-ArenaHard (498) in one piece: at the end of each the GPU waits for the longest answers, up to
    max_tokens of a few requests, which in smaller pieces would be as long as all the others took (ours)."""
    gpus: int = 1
    """GPUs the model is split over (ours)."""

    def __post_init__(self) -> None:
        languages.check(self.languages)
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature: found {self.temperature}; expected 0 to 2")
        checks.one_or_more(self, "limit", "max_tokens", "max_model_len", "shard_questions", "gpus")


def sampling_for(model: str, config: AnswerConfig) -> Sampling:
    """How `model` is asked, by its exact hub id (or `settings_of`), never by a part of its name."""
    temperature = config.temperature
    if temperature is None:
        temperature = TEMPERATURES.get(config.settings_of or model, TEMPERATURE)
    return Sampling(temperature=temperature, max_tokens=config.max_tokens)


def choose(questions: Iterable[Question], config: AnswerConfig, source: str, tally: dataset.Tally) -> list[Question]:
    """The questions to ask, in order of the languages asked for; the others are counted, as dropped.

    Raises: ValueError naming a language asked for that has no question.
    """
    chosen: dict[str, list[Question]] = {code: [] for code in config.languages}
    for question in questions:
        if question.language not in chosen:
            reason = "language_not_asked"
        elif config.limit is not None and len(chosen[question.language]) >= config.limit:
            reason = "over_limit"
        else:
            chosen[question.language].append(question)
            continue
        tally.take(question.language)
        tally.drop(question.language, reason)
    if missing := [code for code, found in chosen.items() if not found]:
        raise ValueError(f"{source}: found no question in {', '.join(missing)}; expected some; leave the language out")
    return [question for found in chosen.values() for question in found]


def answer(
    questions: Sequence[Question],
    generator: str,
    sampling: Sampling,
    seed: int,
    tokenizer: Any,
    generate: Generate,
    max_model_len: int,
    tally: dataset.Tally,
) -> list[dict[str, Any]]:
    """Rows of answers, one call for all of them; questions that cannot be asked are counted as dropped."""
    asked: list[Question] = []
    prompts: list[list[int]] = []
    for question in questions:
        tally.take(question.language)
        messages = [{"role": "user", "content": question.prompt}]
        if chat.special_token_in(tokenizer, messages):
            tally.drop(question.language, "special_token")
        elif len(ids := chat.prompt_ids(tokenizer, messages)) >= max_model_len:
            tally.drop(question.language, "over_context")
        else:
            tally.keep(question.language)
            asked.append(question)
            prompts.append(ids)
    samplings = [
        dataclasses.replace(
            sampling,
            max_tokens=min(sampling.max_tokens, max_model_len - len(ids)),
            seed=rows.seed_of("answer", seed, q.question_id, q.language) if sampling.temperature else None,
        )
        for q, ids in zip(asked, prompts, strict=True)
    ]
    completions = generate(prompts, samplings) if prompts else []
    return [
        dataclasses.asdict(question)
        | {
            "output": completion.text,
            "finish_reason": completion.finish_reason,
            "identified": languages.identify(completion.text),
            "generator": generator,
        }
        for question, (completion,) in zip(asked, completions, strict=True)
    ]


def measure(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of one shard's answers: how many are in the language asked for, cut at the token limit, and empty, and their
    characters."""
    return {
        "faithful": sum(row["identified"] == languages.get(row["language"]).base for row in answers),
        "cut": sum(row["finish_reason"] == "length" for row in answers),
        "empty": sum(not row["output"].strip() for row in answers),
        "chars": sum(len(row["output"]) for row in answers),
    }


def answer_shards(
    questions: Sequence[Question],
    generator: str,
    sampling: Sampling,
    tokenizer: Any,
    writer: Writer,
    load: Callable[[], engine.Generator],
    config: AnswerConfig,
) -> Shards[engine.Generator]:
    """Write the answers, a part a shard; `load` is called for the first shard that nobody has answered yet."""
    from tqdm import tqdm

    how = dataclasses.asdict(sampling)
    settings = {"generator": generator, "sampling": how, "seed": config.seed, "max_model_len": config.max_model_len}
    shards = Shards(writer, load=load, settings=settings)
    table = pa.table({name: [getattr(q, name) for q in questions] for name in ("language", "question_id")})

    def compute(asked: Sequence[Question], policy: engine.Generator) -> Outcome:
        tally, limit = dataset.Tally("answers"), policy.max_model_len
        found = answer(asked, generator, sampling, config.seed, tokenizer, policy, limit, tally)
        return Outcome(found, tally.counts(), measure(found))

    with tqdm(total=len(questions), desc="answer", unit="question") as bar:
        for language, chosen in split(table, config.shard_questions, key="question_id"):
            asked = [questions[place] for place in chosen]
            shards.do(language, [dataclasses.asdict(q) for q in asked], functools.partial(compute, asked))
            bar.update(len(asked))
    return shards


def metrics(shards: Shards[engine.Generator]) -> dict[str, dict[str, float]]:
    """By language: share of answers in the language asked for, share cut at the token limit, how many are empty, and
    their mean length in characters."""
    fidelity = shards.shares("faithful")
    return {
        "language_fidelity": fidelity,
        "cut": shards.shares("cut"),
        "empty": {code: int(shards.measures["empty"][code]) for code in fidelity},
        "mean_chars": shards.shares("chars"),
    }


def run(
    *,
    questions: str = QUESTIONS,
    model: str,
    revision: str | None = None,
    generator: str,
    out: Path,
    store: str | None = None,
    config: AnswerConfig = AnswerConfig(),
) -> dataset.Manifest:
    """Write a model's answers to benchmark questions.

    Args:
        questions: Hub id, or a JSONL or Parquet file with question_id, category, subcategory, prompt, language
            (default: the paper's).
        model: Folder or hub id of the model.
        revision: Commit, tag or branch of a hub model; default main (ours).
        generator: Name of the model in reports: base, tuned, or another.
        out: Directory to write.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    local, version = models.is_local(questions), models.pin(questions, config.questions_revision, data=True)
    if local:
        identity = {"id": Path(questions).name, "sha256": version.removeprefix(models.LOCAL)}
    else:
        identity = {"id": questions, "revision": version}
    sampling = sampling_for(model, config)
    about = {
        "generator": generator,
        "questions": identity,
        "sampling": {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens, "seed": config.seed},
    }
    policy = models.identity(model, revision)
    writer = Writer(
        out,
        "answers",
        stage="answer",
        version=VERSION,
        config=config,
        models={"policy": policy},
        store=store,
        also=about,
        neutral=["gpus", "settings_of", "questions_revision"],  # what they come to is in `about`
    )
    if writer.done:
        return writer.done
    tally, commit = dataset.Tally("answers"), policy.get("revision")
    found = read_file(Path(questions)) if local else read_hub(questions, version, config.languages)
    chosen = choose(found, config, questions, tally)
    tokenizer = chat.load_tokenizer(model, commit)

    def load() -> engine.Generator:
        return engine.load_generator(model, commit, max_model_len=config.max_model_len, gpus=config.gpus)

    shards = answer_shards(chosen, generator, sampling, tokenizer, writer, load, config)
    for count in shards.counts():
        tally.add(count)
    return writer.finish(
        tally.counts(),
        models={"policy": policy | {"chat_template_sha256": chat.template_sha256(tokenizer)}},
        metrics=metrics(shards) | about,
    )
