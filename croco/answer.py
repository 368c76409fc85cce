"""Answer: benchmark questions -> one model's answers (paper: m-ArenaHard 2.1, 11 languages).

    python -m croco answer --model MODEL --generator tuned --out DIR --languages da de --settings-of BASE_MODEL

One dataset holds the answers of one model; `arena` compares two of them, so the same answers serve any number of
comparisons. An empty answer is kept: it loses by itself.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import chat, checks, dataset, engine, languages, models, rows, sources
from croco.engine import Generate, Sampling

VERSION = 1
QUESTIONS = "CohereLabs/m-ArenaHard-v2.1"
"""A configuration a language, split `test` (reference code)."""
FIELDS = ("question_id", "category", "subcategory", "prompt", "language")

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
    """Commit, tag or branch of a hub data set; resolved to a commit and recorded. None: main (ours)."""
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
    gpus: int = 1
    """GPUs the model is split over (ours)."""

    def __post_init__(self) -> None:
        languages.check(self.languages)
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature: found {self.temperature}; expected 0 to 2")
        checks.one_or_more(self, "limit", "max_tokens", "max_model_len", "gpus")


@dataclass(frozen=True)
class Question:
    """A benchmark question in one language."""

    question_id: str
    category: str
    subcategory: str
    prompt: str
    language: str


def sampling_for(model: str, config: AnswerConfig) -> Sampling:
    """How `model` is asked, by its exact hub id (or `settings_of`), never by a part of its name."""
    temperature = config.temperature
    if temperature is None:
        temperature = TEMPERATURES.get(config.settings_of or model, TEMPERATURE)
    return Sampling(temperature=temperature, max_tokens=config.max_tokens)


def read_file(path: Path) -> Iterator[Question]:
    """Questions of a JSONL or Parquet file with the benchmark's fields.

    Raises: ValueError naming file and line (Parquet: row) for what is not a question, or stands twice.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: found no file; expected JSONL or Parquet with {', '.join(FIELDS)}, or a hub id"
        )
    first: dict[tuple[str, str], str] = {}
    for place, row in sources.read(path, FIELDS):
        question = _question(row, place)
        key = (question.question_id, question.language)
        if key in first:
            raise ValueError(f"{place}: found {key} again, after {first[key]}; expected each question once a language")
        first[key] = place
        yield question


def read_hub(source: str, revision: str, codes: Sequence[str]) -> Iterator[Question]:
    """Questions of a hub data set with a configuration a language, those of `codes` that it has."""
    import datasets

    with models.reaching_hub(source):
        offered = datasets.get_dataset_config_names(source, revision=revision)
    for code in [code for code in codes if code in offered]:
        with models.reaching_hub(source):
            split = datasets.load_dataset(source, code, revision=revision, split="test")
        for number, row in enumerate(split, 1):
            yield _question({**row, "language": code}, f"{source} {code}:{number}")


def _question(row: Any, place: str) -> Question:
    """`row` as a question. Raises: ValueError naming `place` where a field is not a text, or an id or prompt empty."""
    values = row if isinstance(row, dict) else {}
    for name in FIELDS:
        value = values.get(name)
        if not isinstance(value, str) or (name in ("question_id", "prompt", "language") and not value.strip()):
            raise ValueError(f"{place}: found {name} {value!r}; expected a text in each of {', '.join(FIELDS)}")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{place}: found half a character in {name}; expected text that UTF-8 can hold")
    return Question(**{name: values[name] for name in FIELDS})


def choose(questions: Iterable[Question], config: AnswerConfig, source: str, tally: dataset.Tally) -> list[Question]:
    """The questions to ask, in order of the languages asked for; the others are counted as dropped.

    Raises: ValueError naming a language asked for that has no question.
    """
    chosen: dict[str, list[Question]] = {code: [] for code in config.languages}
    for question in questions:
        tally.take(question.language)
        if question.language not in chosen:
            tally.drop(question.language, "language_not_asked")
        elif config.limit is not None and len(chosen[question.language]) >= config.limit:
            tally.drop(question.language, "over_limit")
        else:
            chosen[question.language].append(question)
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


def measure(answers: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By language: share of answers in the language asked for, share cut at the token limit, how many are empty, and
    their mean length in characters."""
    metrics: dict[str, dict[str, float]] = {"language_fidelity": {}, "cut": {}, "empty": {}, "mean_chars": {}}
    for code in dict.fromkeys(row["language"] for row in answers):
        here = [row for row in answers if row["language"] == code]
        base = languages.get(code).base
        metrics["language_fidelity"][code] = sum(row["identified"] == base for row in here) / len(here)
        metrics["cut"][code] = sum(row["finish_reason"] == "length" for row in here) / len(here)
        metrics["empty"][code] = sum(not row["output"].strip() for row in here)
        metrics["mean_chars"][code] = sum(len(row["output"]) for row in here) / len(here)
    return metrics


def run(
    *,
    questions: str = QUESTIONS,
    model: str,
    revision: str | None = None,
    generator: str,
    out: Path,
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
    """
    writer = dataset.Writer(out, "answers", stage="answer", version=VERSION, config=config)
    tally = dataset.Tally("answers")
    path = Path(questions)
    if sources.is_local(questions):
        chosen = choose(read_file(path), config, questions, tally)
        identity = {"id": path.name, "sha256": dataset.sha256_file(path)}
    else:
        commit = models.resolve(questions, config.questions_revision, data=True)
        chosen = choose(read_hub(questions, commit, config.languages), config, questions, tally)
        identity = {"id": questions, "revision": commit}
    sampling = sampling_for(model, config)
    policy = models.identity(model, revision)
    llm = engine.load_generator(model, policy.get("revision"), max_model_len=config.max_model_len, gpus=config.gpus)
    answers = answer(chosen, generator, sampling, config.seed, llm.tokenizer, llm, llm.max_model_len, tally)
    writer.add(answers)
    metrics = measure(answers) | {
        "generator": generator,
        "questions": identity,
        "sampling": {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens, "seed": config.seed},
        "chat_template": chat.template_sha256(llm.tokenizer),
    }
    return writer.finish(tally.counts(), models={"policy": policy}, metrics=metrics)
