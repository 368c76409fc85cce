r"""Translate: English prompts -> the same prompts in other languages (paper: TranslateGemma, greedy).

    python -m croco translate --prompts DIR --model google/translategemma-27b-it --languages da nl --out DIR

Every turn of a prompt (the system turn too) and its reference answer is translated. Of a text, only prose goes to the
translator: code (fenced or indented), blank lines, indentation, list, heading and quote marks, and runs of `<<<` are
kept as they are and put back in place, as is anything without a letter. What is left, a paragraph or a list item at a
time, is cut where it is too long: between lines, else sentences, else words, into as few segments as fit. Equal
segments are translated once.

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
apart. A translation identified as another language is kept and counted (metrics: language_fidelity, wrong_language).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import chat, checks, dataset, engine, languages, models
from croco.engine import Generate, Sampling
from croco.segments import Part, letters, split

VERSION = 1
BATCH = 20_000
"""Segments a call of the engine; bounds how many token ids are held."""
COPIED_WORDS = 5
LONG_ENOUGH = 40
"""Letters from which on an identified language is held against a text (ours)."""

Plan = list[Part] | str
"""The parts of a text, or the reason why it cannot be translated."""


def google(text: str, target: str) -> list[dict[str, Any]]:
    """The message of Google's TranslateGemma: exactly one entry, which its chat template turns into instructions."""
    entry = {"type": "text", "source_lang_code": "en", "target_lang_code": target, "text": text}
    return [{"role": "user", "content": [entry]}]


def infomaniak(text: str, target: str) -> list[dict[str, Any]]:
    """The message of Infomaniak-AI/vllm-translategemma: one string with delimited fields."""
    return [{"role": "user", "content": f"<<<source>>>en<<<target>>>{target}<<<text>>>{text}"}]


FORMATS = {"google": google, "infomaniak": infomaniak}


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
        ratio_is_usable = self.output_ratio > 0 and math.isfinite(self.output_ratio)
        if self.max_model_len < 1 or not ratio_is_usable or not 0 <= self.max_dropped < 1 or self.gpus < 1:
            raise ValueError(
                f"found max_model_len {self.max_model_len}, output_ratio {self.output_ratio}, max_dropped "
                f"{self.max_dropped}, gpus {self.gpus}; expected 1 or more tokens and GPUs, a finite ratio above 0, "
                "and a share in [0, 1)"
            )

    @property
    def max_prompt(self) -> int:
        """Tokens a segment's rendered prompt may have."""
        return int(self.max_model_len / (1 + self.output_ratio))


class Translator:
    """Plans texts, translates what all of them need in one go, and puts them together again; one target language."""

    def __init__(self, target: str, generate: Generate, tokenizer: Any, config: TranslateConfig) -> None:
        self.target, self.generate, self.tokenizer, self.config = target, generate, tokenizer, config
        self.answers: dict[str, str] = {}
        """Segment -> its translation; one that did not end is missing."""

    def ids(self, segment: str) -> list[int]:
        """The rendered prompt that asks for a segment's translation."""
        return chat.prompt_ids(self.tokenizer, FORMATS[self.config.format](segment, self.target))

    def fits(self, piece: str) -> bool:
        return not letters(piece) or len(self.ids(piece.strip())) <= self.config.max_prompt

    def plan(self, text: str) -> Plan:
        if chat.special_token_in(self.tokenizer, [], text):
            return "special_token"
        parts = split(text, self.fits)
        return parts if all(self.fits(part) for part, prose in parts if prose) else "uncuttable"

    def translate(self, plans: Iterable[Plan]) -> None:
        """Fill `answers` with all that `plans` need; each distinct segment is generated once."""
        segments = list(dict.fromkeys(part for plan in plans for part in _prose(plan)))
        for start in range(0, len(segments), BATCH):
            batch = segments[start : start + BATCH]
            prompts = [self.ids(segment) for segment in batch]
            sampling = [Sampling(temperature=0.0, max_tokens=self.config.max_model_len - len(ids)) for ids in prompts]
            for segment, (answer,) in zip(batch, self.generate(prompts, sampling), strict=True):
                if answer.finish_reason == "stop":
                    self.answers[segment] = answer.text.strip()

    def reason(self, *plans: Plan) -> str | None:
        """Why one of the texts could not be translated; None if all of them were."""
        unable = [plan for plan in plans if isinstance(plan, str)]
        return next(filter(None, unable or map(self._failure, plans)), None)

    def _failure(self, plan: Plan) -> str | None:
        segments = _prose(plan)
        if not all(segment in self.answers for segment in segments):
            return "unfinished"
        if not all(self.answers[segment] for segment in segments):
            return "empty_translation"
        copied = " ".join(segment for segment in segments if _words(segment) == _words(self.answers[segment]))
        mostly = 2 * letters(copied) > sum(map(letters, segments))
        return "untranslated" if mostly and len(_words(copied)) >= COPIED_WORDS else None

    def join(self, plan: Plan) -> str:
        """The text of a plan that gives no reason to drop it."""
        return "".join(self.answers[part] if prose else part for part, prose in _parts(plan))

    def prose(self, plans: Iterable[Plan]) -> str:
        """What the translator wrote for `plans`, and nothing that was kept as it is."""
        return "\n".join(self.answers[part] for plan in plans for part in _prose(plan))


def _parts(plan: Plan) -> list[Part]:
    return [] if isinstance(plan, str) else plan


def _prose(plan: Plan) -> list[str]:
    return [part for part, prose in _parts(plan) if prose]


def _words(text: str) -> list[str]:
    return text.casefold().split()


def translate(
    prompts: Sequence[Mapping[str, Any]], target: str, generate: Generate, tokenizer: Any, config: TranslateConfig
) -> tuple[list[dict[str, Any]], list[dataset.Count], dict[str, Any]]:
    """(prompts in `target`, counts of prompts and of references, metrics)."""
    from tqdm import tqdm

    translator = Translator(target, generate, tokenizer, config)
    turns, references = [], []
    for prompt in tqdm(prompts, desc=f"translate: cut for {target}", unit=" prompts", mininterval=1):
        turns.append([translator.plan(turn["content"]) for turn in prompt["messages"]])
        wanted = config.references and prompt["reference"] is not None
        references.append(translator.plan(prompt["reference"]) if wanted else "not_asked_for")
    able = [i for i, plans in enumerate(turns) if not any(isinstance(plan, str) for plan in plans)]
    translator.translate(plan for i in able for plan in (*turns[i], references[i]))

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

    metrics: dict[str, Any] = {
        "segments": len(translator.answers),
        "wrong_language": {"prompts": _wrong(asked, target), "references": _wrong(answered, target)},
    }
    if asked := [text for text in asked if text]:
        metrics["language_fidelity"] = languages.fidelity(asked, [target] * len(asked))
    return translated, [*counts.counts(), *reference_counts.counts()], metrics


def _wrong(texts: Sequence[str], target: str) -> int:
    """How many of the texts long enough to tell are in another language than `target`."""
    return sum(languages.identify(t) != languages.get(target).base for t in texts if letters(t) >= LONG_ENOUGH)


def check(count: dataset.Count, max_dropped: float) -> None:
    """Raises: ValueError if more than the share `max_dropped` of a language's prompts were dropped."""
    lost = count.rows_in - count.rows_out
    if lost > max_dropped * count.rows_in:
        raise ValueError(
            f"translate to {count.language}: found {lost} of {count.rows_in} prompts dropped {dict(count.dropped)}; "
            f"expected {max_dropped:.0%} at most (--max-dropped); check the model, --format and --max-model-len"
        )


def run(
    *,
    prompts: Path,
    model: str,
    out: Path,
    revision: str | None = None,
    config: TranslateConfig = TranslateConfig(),
) -> dataset.Manifest:
    """Prompts in other languages; the English ones are not among them.

    Args:
        prompts: directory of English prompts.
        model: hub id or local folder of the translator.
        out: directory to write the translated prompts to.
        revision: commit of a hub model; none takes the newest (ours).
    """
    source = dataset.unique(dataset.read(prompts, "prompts"), "prompts", str(prompts)).to_pylist()
    if others := sorted({prompt["language"] for prompt in source} - {"en"}):
        raise ValueError(f"{prompts}: found prompts in {others}; expected English alone; `croco prepare` writes it")
    writer = dataset.Writer(out, "prompts", stage="translate", version=VERSION, config=config, inputs=[prompts])
    identity = models.identity(model, revision)
    generator = engine.load_generator(
        model, identity.get("revision"), max_model_len=config.max_model_len, gpus=config.gpus
    )
    identity["chat_template_sha256"] = chat.template_sha256(generator.tokenizer)
    counts: list[dataset.Count] = []
    metrics: dict[str, dict[str, Any]] = {}
    for target in config.languages:
        translated, counted, measured = translate(source, target, generator, generator.tokenizer, config)
        check(counted[0], config.max_dropped)
        writer.add(translated)
        counts += counted
        for name, value in measured.items():
            metrics.setdefault(name, {})[target] = value
    return writer.finish(counts, models={"translator": identity}, metrics=metrics)
