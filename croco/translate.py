r"""Translate: English prompts -> the same prompts in other languages (paper: TranslateGemma, greedy).

    python -m croco translate --prompts DIR --model google/translategemma-27b-it --languages da nl --out DIR

Every turn of a prompt (the system turn too) and its reference answer is translated. Of a text, only prose goes to the
translator: code (fenced or indented), blank lines, indentation, list, heading and quote marks, and runs of `<<<` are
kept as they are and put back in place, as is anything without a letter. What is left, a paragraph or a list item at a
time, is cut where it is too long: between lines, else sentences, else words, into as few segments as fit. A run
translates equal segments once, in whichever of its shards they are: decoding is greedy, so a segment has the same
translation whether its shard is done first, last or alone (in bfloat16 but for ties that a batch's rounding breaks).

Too long: prompt and translation together have `max_model_len` tokens (TranslateGemma: 2,048), and a translation must
find room for `output_ratio` tokens a token of its prompt, so a prompt may have max_model_len / (1 + output_ratio).

`<<<` is what Infomaniak's format delimits its fields with; as it never reaches the translator, no text can inject a
field. A prompt is dropped in a language if one of its turns gives a reason to:

    special_token      it spells a special token of the translator's tokenizer
    uncuttable         a single word of it is too long
    unfinished         a segment's translation did not end within its room
    empty_translation  a segment's translation is empty
    untranslated       more than half of its letters, and 5 words or more, came back unchanged

Where one holds for the reference alone, the prompt is kept with a null reference; the manifest counts references
apart. A translation identified as another language is kept and counted (metrics: language_fidelity, of the
`with_prose` prompts that have any prose, and wrong_language).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from croco import chat, checks, dataset, engine, languages, models, shards
from croco.engine import Generate
from croco.segments import letters
from croco.shards import Outcome, Shards, Share
from croco.translator import FORMATS, Translator
from croco.writer import Writer

VERSION = 1
CHANGE_ROWS = ("format", "max_model_len", "output_ratio", "references")
"""Fields of the config that a prompt's translation depends on."""
LONG_ENOUGH = 40
"""Letters from which on an identified language is held against a text (ours)."""


@dataclass(frozen=True)
class TranslateConfig:
    """Into what, and how."""

    languages: tuple[str, ...] = tuple(code for code in languages.MAIN if code != "en")
    """Codes to translate into (paper: the main study's)."""
    format: str = "google"
    """How the translator is asked: `google` (its model card) or `infomaniak` (reference code)."""
    max_model_len: int = 2_048
    """Tokens of prompt and translation together (model card: an input of 2K)."""
    output_ratio: float = 2.0
    """Tokens of room a translation has for each token of its prompt, above 0 (ours: for what the tokenizer knows less
    well than English)."""
    references: bool = True
    """Whether reference answers are translated, which only the SFT arms need (paper)."""
    allow_unsupported: bool = False
    """Whether to translate into a language TranslateGemma is not known to support (ours: no)."""
    max_dropped: float = 0.5
    """Share of a language's prompts that may be dropped before the stage fails, in [0, 1) (ours)."""
    shard_prompts: int = 2_048
    """English prompts that are translated into a language, then stored, at a time, on average: what a kill can cost;
    their segments, several a prompt, are ten times what a GPU works on at once, for it waits for the last (ours)."""
    gpus: int = 1
    """GPUs the translator is split over (ours: 27B in bf16 fits on one of 80 GB)."""

    def __post_init__(self) -> None:
        for code in languages.check(self.languages):
            if code == "en":
                raise ValueError("languages: found 'en'; expected other languages: English is the source")
            if not (languages.get(code).translated or self.allow_unsupported):
                raise ValueError(
                    f"languages: found {code!r}; expected one that TranslateGemma supports; "
                    "--allow-unsupported translates into it all the same"
                )
        checks.one_of(self, "format", FORMATS)
        checks.one_or_more(self, "max_model_len", "shard_prompts", "gpus")
        if not (self.output_ratio > 0 and math.isfinite(self.output_ratio)):
            raise ValueError(f"output_ratio: found {self.output_ratio}; expected a finite number above 0")
        if not 0 <= self.max_dropped < 1:
            raise ValueError(f"max_dropped: found {self.max_dropped}; expected 0 or more, below 1")

    @property
    def max_prompt(self) -> int:
        """Tokens a segment's rendered prompt may have."""
        return int(self.max_model_len / (1 + self.output_ratio))


def translator_for(target: str, tokenizer: Any, config: TranslateConfig) -> Translator:
    lengths = {"max_prompt": config.max_prompt, "max_model_len": config.max_model_len}
    return Translator(target, tokenizer, format=config.format, **lengths)


def translate(
    prompts: Sequence[Mapping[str, Any]], translator: Translator, with_references: bool, generate: Generate
) -> Outcome:
    """Prompts in the translator's language; counts of prompts and of references."""
    target, turns, references = translator.target, [], []
    for prompt in prompts:
        turns.append([translator.plan(turn["content"]) for turn in prompt["messages"]])
        wanted = with_references and prompt["reference"] is not None
        references.append(translator.plan(prompt["reference"]) if wanted else "not_asked_for")
    able = [i for i, plans in enumerate(turns) if not any(isinstance(plan, str) for plan in plans)]
    known = translator.translate((plan for i in able for plan in (*turns[i], references[i])), generate)

    counts, reference_counts = dataset.Tally("prompts"), dataset.Tally("references")
    translated, asked, answered = [], [], []
    for prompt, plans, reference in zip(prompts, turns, references, strict=True):
        reason = translator.reason(*plans)
        lost = "prompt_dropped" if reason else translator.reason(reference)
        counts.take(target)
        if prompt["reference"] is not None:
            reference_counts.take(target)
            reference_counts.drop(target, lost) if lost else reference_counts.keep(target)
        if reason:
            counts.drop(target, reason)
            continue
        counts.keep(target)
        contents = zip(prompt["messages"], plans, strict=True)
        messages = [{"role": turn["role"], "content": translator.join(plan)} for turn, plan in contents]
        answer = None if lost else translator.join(reference)
        translated.append({**prompt, "language": target, "messages": messages, "reference": answer})
        asked.append(translator.prose(plans))
        answered += [] if lost else [translator.prose([reference])]
    measures = {"segments": known, **_measures(asked, answered, target)}
    return Outcome(translated, [*counts.counts(), *reference_counts.counts()], measures)


def _measures(prompts: Sequence[str], references: Sequence[str], target: str) -> dict[str, int]:
    """How many translations have prose, and how many of them are in the right language, or in a wrong one."""
    right, identify = languages.get(target).base, functools.cache(languages.identify)
    with_prose = [text for text in prompts if text]

    def wrong(texts: Sequence[str]) -> int:
        return sum(identify(text) != right for text in texts if letters(text) >= LONG_ENOUGH)

    return {
        "with_prose": len(with_prose),
        "faithful": sum(identify(text) == right for text in with_prose),
        "wrong_prompts": wrong(prompts),
        "wrong_references": wrong(references),
    }


def check(tally: dataset.Tally, target: str, total: int, max_dropped: float) -> None:
    """Raises: ValueError as soon as more than the share `max_dropped` of `total` prompts were dropped in a language."""
    dropped = dict(tally.dropped.get(target, {}))
    if (lost := sum(dropped.values())) > max_dropped * total:
        raise ValueError(
            f"translate to {target}: found {lost} of {total} prompts dropped {dropped}; "
            f"expected {max_dropped:.0%} at most (--max-dropped); check the model, --format and --max-model-len"
        )


def read(prompts: Path) -> pa.Table:
    """English prompts, by id. Raises: ValueError if two have the same id or one is not English."""
    table = dataset.unique(dataset.read(prompts, "prompts"), "prompts", str(prompts)).sort_by("prompt_id")
    if others := sorted(set(table["language"].to_pylist()) - {"en"}):
        raise ValueError(f"{prompts}: found prompts in {others}; expected English alone; `croco prepare` writes it")
    return table


def work(
    writer: Writer,
    source: pa.Table,
    tokenizer: Any,
    config: TranslateConfig,
    share: Share,
    load: Callable[[], engine.Generator],
) -> dataset.Manifest:
    """Do every shard of `share`, a language after the other, and finish."""
    from tqdm import tqdm

    todo = Shards(writer, load=load, settings={name: getattr(config, name) for name in CHANGE_ROWS})
    parts = [source.take(places).to_pylist() for _, places in shards.split(source, config.shard_prompts, share)]
    total = sum(map(len, parts))
    with tqdm(total=total * len(config.languages), desc="translate", unit="prompt") as bar:
        for target in config.languages:
            translator = translator_for(target, tokenizer, config)
            for english in parts:
                todo.do(target, [target, english], functools.partial(translate, english, translator, config.references))
                check(todo.tallies["prompts"], target, total, config.max_dropped)
                bar.update(len(english))
    return writer.finish(
        todo.counts(),
        models={"translator": writer.models["translator"] | {"chat_template_sha256": chat.template_sha256(tokenizer)}},
        metrics=_metrics(todo),
        may_be_empty=share.groups > 1,
    )


def _metrics(todo: Shards[engine.Generator]) -> dict[str, dict[str, Any]]:
    measured = {name: {code: int(n) for code, n in sums.items()} for name, sums in todo.measures.items()}
    with_prose = measured.get("with_prose", {})
    return {
        "segments": measured.get("segments", {}),
        "wrong_language": {
            code: {unit: measured[f"wrong_{unit}"][code] for unit in ("prompts", "references")} for code in with_prose
        },
        "language_fidelity": {code: measured["faithful"][code] / n for code, n in with_prose.items() if n},
        "with_prose": with_prose,
    }


def run(
    *,
    prompts: Path,
    model: str,
    out: Path,
    revision: str | None = None,
    store: str | None = None,
    group: int = 0,
    groups: int = 1,
    config: TranslateConfig = TranslateConfig(),
) -> dataset.Manifest:
    """Prompts in other languages; the English ones are not among them.

    Args:
        prompts: directory of English prompts.
        model: hub id or local folder of the translator.
        out: directory to write the translated prompts to.
        revision: commit of a hub model; none takes the newest (ours).
        store: where finished work is kept and looked for: s3://bucket/prefix or a folder.
        group: which group of shards to do, from 0 (ours).
        groups: how many groups the shards of every language are dealt to; no row depends on it (ours).
    """
    share, source = Share(group=group, groups=groups), read(prompts)
    writer = Writer(
        out,
        "prompts",
        stage="translate",
        version=VERSION,
        config=config,
        inputs=[prompts],
        models={"translator": models.identity(model, revision)},
        store=store,
        also=share,
        neutral=["gpus"],
    )
    if writer.done:
        return writer.done
    commit = writer.models["translator"].get("revision")
    tokenizer = chat.load_tokenizer(model, commit)

    def load() -> engine.Generator:
        return engine.load_generator(model, commit, max_model_len=config.max_model_len, gpus=config.gpus)

    return work(writer, source, tokenizer, config, share, load)
