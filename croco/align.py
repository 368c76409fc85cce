"""Align: answers -> how well a translation model maps each to the English answers (MAPO), in the form of scores.

Source: She et al. 2024 (MAPO, arXiv 2401.06838); its code is Preprocess/PPL_batched.py. The reward of an answer is the
mean log-probability a token, in nats, that the translator gives an English answer to the same prompt with this answer
as its source, averaged over several English answers. MAPO's code averages one over the mean loss instead, where that
mean counts a batch's padding too; of one English answer both rank alike.

The translator is NLLB (encoder and decoder, the paper's): languages are set by its codes, and the code and the end mark
that stand around an English answer count as tokens of it, as they do there. Or it is a language model asked to
translate, as `translate` asks its own: then the answer's own tokens count alone. Answers are read whole, code and all.

Equal answers to a prompt are scored once. What is dropped, by reason:

    english            the answer is to an English prompt: MAPO has no preference there
    no_english_answer  none of the prompt's English answers can be read
    special_token      the answer spells a special token of the translator's tokenizer, or one of its field marks
    over_long          the answer has more than `max_length` tokens, or no room for the longest English answer

    python -m croco align --prompts DIR [DIR ...] --samples DIR [DIR ...] --english DIR [DIR ...] \
        --model facebook/nllb-200-distilled-600M --out DIR
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from croco import chat, checks, dataset, engine, languages, likelihood, models
from croco.conversations import Answer, Answers, Shard, answer_of
from croco.likelihood import Likelihood, Text
from croco.score import score
from croco.shards import Outcome, Shards
from croco.writer import Writer

VERSION = 1
CHANGE_ROWS = ("format", "max_length")
"""Fields of the config that an answer's reward depends on, besides the English answers themselves."""
_CODES = """da dan, nl nld, en eng, fr fra, de deu, it ita, es spa, gl glg, ga gle, mt mlt, cy cym, no nob, pt por,
pt-BR por, pt-PT por, sv swe, fi fin"""
NLLB = {code: f"{name}_Latn" for code, name in (pair.split() for pair in _CODES.split(","))}
"""NLLB's codes (FLORES-200). It does not tell Portuguese by region; Norwegian is taken for Bokmaal (assumed)."""


@dataclass(frozen=True)
class AlignConfig:
    """Settings of `align`."""

    english_answers: int = 4
    """English answers an answer is held against, 1 or more: the first of a prompt that differ, less those that cannot
    be read or are too long (metric `english_answers`: how many are left) (ours; paper: all of up to 20)."""
    max_length: int = 512
    """Tokens an answer may have, and an English answer, as the translator reads them; a longer one is dropped (ours;
    reference code: cut there)."""
    format: str = "google"
    """How a language model is asked: `google` or `infomaniak` (as `translate`); NLLB is not asked."""
    shard_prompts: int = 256
    """Prompts of a language whose answers are scored, then stored, at a time, on average: what a kill can cost (ours,
    as `score`)."""
    max_tokens: int = 16_384
    """Tokens computed at once, padding too; a reward does not depend on it but for rounding (ours)."""
    gpus: int = 1
    """GPUs the translator is spread over (ours: NLLB needs 2 GB)."""

    def __post_init__(self) -> None:
        checks.one_of(self, "format", ("google", "infomaniak"))
        checks.one_or_more(self, "english_answers", "max_length", "shard_prompts", "max_tokens", "gpus")


class Nllb:
    """A translation model with an encoder and a decoder, its languages set by NLLB's codes."""

    room = math.inf
    """Tokens that an answer and an English answer may have together."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises: ValueError if the tokenizer does not know NLLB's code of English."""
        self.tokenizer = tokenizer
        self.check(["en"])
        tokenizer.tgt_lang = NLLB["en"]

    def check(self, codes: Iterable[str]) -> None:
        """Raises: ValueError for a language it does not know."""
        for code in codes:
            if code not in NLLB:
                raise ValueError(f"language: found {code!r}; expected one that has NLLB's code: {', '.join(NLLB)}")
            if NLLB[code] not in self.tokenizer.get_vocab():
                raise ValueError(f"translator: found a tokenizer without {NLLB[code]}; expected NLLB's")

    def reads(self, text: str) -> bool:
        """Whether it takes all of a text for text."""
        return not chat.special_token_in(self.tokenizer, [], text)

    def source(self, text: str, language: str) -> list[int]:
        self.tokenizer.src_lang = NLLB[language]
        return list(self.tokenizer(text, verbose=False).input_ids)

    def target(self, text: str) -> list[int]:
        return list(self.tokenizer(text_target=text, verbose=False).input_ids)


class Asked:
    """A language model that is asked to translate into English."""

    def __init__(self, tokenizer: Any, format: str, context: int) -> None:
        self.tokenizer, self.format, self.room = tokenizer, format, context

    def check(self, codes: Iterable[str]) -> None:
        for code in codes:
            languages.get(code)

    def reads(self, text: str) -> bool:
        marked = self.format == "infomaniak" and "<<<" in text
        return not marked and not chat.special_token_in(self.tokenizer, [], text)

    def source(self, text: str, language: str) -> list[int]:
        return chat.prompt_ids(self.tokenizer, message(text, language, self.format))

    def target(self, text: str) -> list[int]:
        # no end of turn: templates differ in it, and some of them take no answer
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def message(text: str, source: str, format: str) -> list[dict[str, Any]]:
    """What asks for a translation into English; croco/translator.py has the same out of it."""
    if format == "infomaniak":
        return [{"role": "user", "content": f"<<<source>>>{source}<<<target>>>en<<<text>>>{text}"}]
    entry = {"type": "text", "source_lang_code": source, "target_lang_code": "en", "text": text}
    return [{"role": "user", "content": [entry]}]


def english_of(samples: Iterable[Path], number: int) -> dict[str, list[str]]:
    """Prompt -> the first `number` of its English answers by sample index, each text once, none of them blank.

    Raises: ValueError if there are none at all, or two that differ have one sample index.
    """
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for path in dataset.parts(samples, "samples"):
        table = pq.read_table(path, columns=["prompt_id", "sample_index", "text"], filters=[("language", "=", "en")])
        for row in table.to_pylist():
            if row["text"].strip():
                _add(found[row["prompt_id"]], row, number)
    if not found:
        raise ValueError(
            "english: found no English answer; expected some to the prompts of --samples; run `python -m croco sample` "
            "on the English prompts"
        )
    return {prompt: sorted(first, key=lambda text: first[text]) for prompt, first in found.items()}


def _add(first: dict[str, int], row: Mapping[str, Any], number: int) -> None:
    """Enter an answer among a prompt's `number` first (text -> sample index)."""
    first[row["text"]] = min(row["sample_index"], first.get(row["text"], row["sample_index"]))
    if len(set(first.values())) < len(first):
        raise ValueError(
            f"english: found two English answers to {row['prompt_id']} with sample_index {row['sample_index']}; "
            "expected one; give each dataset of samples once"
        )
    if len(first) > number:
        del first[max(first, key=lambda text: first[text])]


def encode(
    answers: Iterable[Answer], english: Mapping[str, Sequence[str]], translator: Nllb | Asked, limit: int
) -> dict[Answer, Any]:
    """For each distinct answer, the texts whose likelihoods are its alignment, or the reason it is not scored."""
    targets = {
        prompt: [ids for text in texts if translator.reads(text) and len(ids := translator.target(text)) <= limit]
        for prompt, texts in english.items()
    }
    return {answer: _encode(answer, targets[answer[1]], translator, limit) for answer in sorted(set(answers))}


def _encode(answer: Answer, targets: Sequence[list[int]], translator: Nllb | Asked, limit: int) -> list[Text] | str:
    language, _, text = answer
    if language == "en":
        return "english"
    if not targets:
        return "no_english_answer"
    if not translator.reads(text):
        return "special_token"
    source = translator.source(text, language)
    if len(source) > limit or len(source) + max(map(len, targets)) > translator.room:
        return "over_long"
    return [(source, target) for target in targets]


def alignments(likely: Callable[[Sequence[Text]], Sequence[likelihood.Scored]], groups: Sequence[Any]) -> list[float]:
    """The mean log-probability a token of each group's texts, averaged over its texts."""
    found = iter(likely([text for texts in groups for text in texts]))
    means = [[total / number for total, number in islice(found, len(texts))] for texts in groups]
    return [math.fsum(each) / len(each) for each in means]


def align(
    shard: Shard, english: Mapping[str, Sequence[str]], translator: Nllb | Asked, limit: int, likely: Likelihood
) -> Outcome:
    """Scores of a shard's answers; `english` has an entry for each of its prompts."""
    tally, encoded = dataset.Tally("scores"), encode(map(answer_of, shard.rows), english, translator, limit)
    rows = score(shard.rows, encoded, lambda groups: alignments(likely, groups), tally)
    rewards = [row["reward"] for row in rows]
    found = [encoded[answer_of(row)] for row in shard.rows]
    measures = {
        "distinct": len(encoded),
        "english": sum(len(texts) for texts in found if not isinstance(texts, str)),
        "reward": math.fsum(rewards),
        "reward_squared": math.fsum(reward**2 for reward in rewards),
    }
    return Outcome(rows, tally.counts(), measures)


def work(
    writer: Writer,
    answers: Answers,
    english: Mapping[str, Sequence[str]],
    translator: Nllb | Asked,
    config: AlignConfig,
    load: Callable[[], Likelihood],
) -> dataset.Manifest:
    """Do every shard, and finish."""
    from tqdm import tqdm

    translator.check(sorted({language for language, _ in answers.parts}))
    settings = {name: getattr(config, name) for name in CHANGE_ROWS} | {"precision": engine.dtype()}
    shards = Shards(writer, load=load, settings=settings)
    with tqdm(total=answers.number, desc="align", unit="answer") as bar:
        for number in range(len(answers.parts)):
            shard = answers.shard(number)
            ours = {prompt: list(english.get(prompt, [])) for _, prompt in shard.messages}
            content = [list(ours.items()), [list(row.values()) for row in shard.rows]]
            compute = functools.partial(align, shard, ours, translator, config.max_length)
            shards.do(shard.language, content, compute)
            bar.update(len(shard.rows))
    mean, squared = shards.shares("reward"), shards.shares("reward_squared")
    distinct = shards.measures["distinct"]
    return writer.finish(
        shards.counts(),
        metrics={
            "reward_mean": mean,
            "reward_std": {code: math.sqrt(max(squared[code] - mean[code] ** 2, 0.0)) for code in mean},
            "distinct_share": {code: distinct[code] / shards.tallies["scores"].taken[code] for code in distinct},
            "english_answers": shards.shares("english"),
            "prompts_without_answers": answers.without,
        },
        may_be_empty=answers.without > 0,  # a group may have no answer to score
    )


def run(
    *,
    prompts: list[Path],
    samples: list[Path],
    english: list[Path],
    model: str,
    revision: str | None = None,
    out: Path,
    store: str | None = None,
    config: AlignConfig = AlignConfig(),
) -> dataset.Manifest:
    """Score every answer by how well the translator maps it to the English answers, a shard at a time.

    Args:
        prompts: Datasets of the prompts that were answered.
        samples: Datasets of their answers, any number of languages.
        english: Datasets of answers, those in English among them; may be those of `samples`.
        model: The translator: a hub id or a local folder, its weights as safetensors.
        revision: Commit, tag or branch of a hub id; default main (ours).
        out: Directory to write the scores to.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    writer = Writer(
        out,
        "scores",
        stage="align",
        version=VERSION,
        config=config,
        inputs=[*prompts, *samples, *english],
        models={"translator": models.identity(model, revision)},
        store=store,
        neutral=["gpus", "max_tokens"],
        also={"precision": engine.dtype()},
    )
    if writer.done:
        return writer.done
    commit = writer.models["translator"].get("revision")
    translator = translator_of(model, commit, config)
    first = english_of(english, config.english_answers)

    def load() -> Likelihood:
        return likelihood.load(model, commit, max_tokens=config.max_tokens, gpus=config.gpus)

    return work(writer, Answers(prompts, samples, config.shard_prompts), first, translator, config, load)


def translator_of(model: str, revision: str | None, config: AlignConfig) -> Nllb | Asked:
    """Raises: ValueError if `max_length` is more than the model reads."""
    from transformers import AutoTokenizer

    context = engine.context(model, revision)
    if config.max_length > context:
        raise ValueError(f"max_length: found {config.max_length}; expected at most the translator's {context} tokens")
    if likelihood.translates(model, revision):
        return Nllb(AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False))
    return Asked(chat.load_tokenizer(model, revision), config.format, context)
