"""Align: how well a translator maps an answer to the English ones, or a counted reason."""

import functools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_likelihood import alone, translating
from test_score import computed, outcome, prompts, samples

from croco import dataset
from croco.align import NLLB, AlignConfig, Asked, Nllb, encode, english_of, message, run, work
from croco.conversations import Answers
from croco.dataset import Manifest
from croco.languages import LANGUAGES
from croco.likelihood import Scored, Text
from croco.rows import conform
from croco.translator import FORMATS
from croco.writer import Writer


class Fake:
    """Words as tokens: a target's log-probability is minus the words of its source that it lacks, a token."""

    room, gpus, tokens_out = 20.0, 0, 0
    tokenizer = tiny.Letters()

    def __init__(self) -> None:
        self.seen, self.loaded = list[Text](), 0

    @property
    def tokens_in(self) -> int:
        return sum(len(source) + len(target) for source, target in self.seen)

    def load(self) -> Any:
        self.loaded += 1
        return self

    def check(self, codes: Sequence[str]) -> None:
        assert list(codes) == sorted(codes)

    def reads(self, text: str) -> bool:
        return "!" not in text

    def source(self, text: str, language: str) -> list[int]:
        return [len(word) for word in text.split()]

    target = functools.partialmethod(source, language="en")

    def __call__(self, texts: Sequence[Text]) -> list[Scored]:
        self.seen += texts
        return [(-float(len(target) * len(set(source) - set(target))), len(target)) for source, target in texts]


KEYS = [(language, f"{number:02}") for language in ("da", "en", "nl") for number in range(12)]
TEXTS = ["a bb", "a ccc dddd", "a bb", "x " * 9, "a!"]
ENGLISH = {f"{number:02}": ["a bb", "a"] for number in range(11)}
"""Of one prompt there is none."""
BY_2 = AlignConfig(shard_prompts=2, max_length=8)


@pytest.fixture
def stage(tmp_path: Path, dataset_of: Callable[..., Path]) -> Callable[..., Manifest]:
    """stage(name, fake, ...) -> the manifest of a run by `fake`, written to tmp_path / name."""

    def run(
        name: str,
        fake: Fake,
        rows: Sequence[Mapping[str, object]] | None = None,
        config: AlignConfig = BY_2,
        english: Mapping[str, Sequence[str]] = ENGLISH,
        store: str | None = "store",
    ) -> Manifest:
        asked = dataset_of("prompts", prompts(KEYS), f"{name} prompts")
        answered = dataset_of("samples", samples(KEYS, TEXTS) if rows is None else rows, f"{name} samples")
        writer = Writer(
            tmp_path / name, "scores", stage="align", version=1, config=config, inputs=[asked, answered],
            models={"translator": {"id": "fake"}}, store=store and str(tmp_path / store), also=dict(english),
        )  # fmt: skip
        if writer.done:
            return writer.done
        answers = Answers([asked], [answered], config.shard_prompts)
        return work(writer, answers, english, fake, config, fake.load)  # type: ignore[arg-type]

    return run


def forget(store: Path, *kinds: str) -> None:
    """Remove records: `results`, or every other one of `shards`."""
    for kind in kinds:
        for record in sorted((store / kind / "align").glob("*.json"))[:: 2 if kind == "shards" else 1]:
            record.unlink()


def test_an_answer_has_the_mean_over_english_answers_of_a_mean_over_tokens(
    tmp_path: Path, stage: Callable[..., Manifest]
) -> None:
    fake = Fake()
    manifest = stage("one", fake)

    scores = conform(dataset.read(tmp_path / "one", "scores"), "scores").to_pylist()
    # a bb: lacks nothing of `a bb`, bb of `a`; a ccc dddd: lacks two of either
    assert {(row["sample_index"], row["reward"]) for row in scores} == {(0, -0.5), (1, -2.0), (2, -0.5)}
    assert {row["language"] for row in scores} == {"da", "nl"}
    assert [(c.language, c.rows_in, c.rows_out, c.dropped) for c in manifest.counts] == [
        ("da", 60, 33, {"no_english_answer": 5, "over_long": 11, "special_token": 11}),
        ("en", 60, 0, {"english": 60}),
        ("nl", 60, 33, {"no_english_answer": 5, "over_long": 11, "special_token": 11}),
    ]
    assert len(fake.seen) == 2 * 11 * 2 * 2, "of two distinct answers to a prompt, against two English ones, once each"
    assert manifest.metrics == {
        "reward_mean": pytest.approx({"da": -1.0, "nl": -1.0}),
        "reward_std": pytest.approx({"da": 0.5**0.5, "nl": 0.5**0.5}),
        "distinct_share": {"da": 4 / 5, "en": 4 / 5, "nl": 4 / 5},
        "english_answers": {"da": 2.0, "nl": 2.0},
        "prompts_without_answers": 0,
    }


def test_an_answer_is_over_long_by_itself_or_with_the_longest_english_answer() -> None:
    answers = [("da", "p", "a " * number) for number in (4, 5, 6)]
    fake = Fake()
    fake.room = 12

    found = encode(answers, {"p": ["b", "b " * 7]}, fake, 100)  # type: ignore[arg-type]
    limited = encode(answers, {"p": ["b", "b " * 7]}, fake, 5)  # type: ignore[arg-type]

    assert [isinstance(found[answer], str) for answer in answers] == [False, False, True]
    assert [value if isinstance(value, str) else len(value) for value in limited.values()] == [1, 1, "over_long"]


def test_an_english_answer_that_cannot_be_read_does_not_count() -> None:
    answers = [("da", "p", "a"), ("da", "q", "a"), ("en", "q", "a")]
    found = encode(answers, {"p": ["a!", "b c"], "q": ["a!"]}, Fake(), 9)  # type: ignore[arg-type]
    assert list(found.values()) == [[([1], [1, 1])], "no_english_answer", "english"]


def test_the_first_english_answers_that_differ_are_taken_in_any_order(dataset_of: Callable[..., Path]) -> None:
    rows = samples([("en", "p")], ["b", " ", "b", "a", "c", "a", "d"]) + samples([("da", "p"), ("da", "q")], ["nej"])
    for seed in range(20):
        shuffled = random.Random(seed).sample(rows, len(rows))
        halves = [dataset_of("samples", part, f"{seed} {at}") for at, part in enumerate([shuffled[:5], shuffled[5:]])]
        assert english_of(halves, 3) == {"p": ["b", "a", "c"]}
        assert english_of(halves, 9) == {"p": ["b", "a", "c", "d"]}


def test_english_answers_that_are_missing_or_ambiguous_are_refused(dataset_of: Callable[..., Path]) -> None:
    danish = dataset_of("samples", samples([("da", "p")], ["ja"]), "danish")
    both = [dataset_of("samples", samples([("en", "p")], [text]), text) for text in ("yes", "no")]

    with pytest.raises(ValueError, match="found no English answer; expected some"):
        english_of([danish], 3)
    with pytest.raises(ValueError, match="found two English answers to p with sample_index 0; expected one"):
        english_of(both, 3)
    assert english_of([both[0], both[0]], 3) == {"p": ["yes"]}


def test_rows_do_not_depend_on_order_or_on_how_much_is_done_at_a_time(
    tmp_path: Path, stage: Callable[..., Manifest]
) -> None:
    rows = samples(KEYS, TEXTS)
    first = stage("one", Fake())
    shuffled = stage("two", Fake(), random.Random(0).sample(rows, len(rows)), store=None)
    assert outcome(shuffled) == outcome(first)
    whole = stage("three", Fake(), config=replace(BY_2, shard_prompts=999), store=None)
    by_key = [(name, "ascending") for name in ("language", "prompt_id", "sample_index")]
    tables = [dataset.read(tmp_path / name, "scores").sort_by(by_key) for name in ("one", "three")]
    assert tables[0] == tables[1] and len(whole.files) < len(first.files)


def test_a_run_that_was_killed_goes_on_and_gives_the_same(tmp_path: Path, stage: Callable[..., Manifest]) -> None:
    first = stage("one", Fake(), store="other")

    class Killed(Fake):
        def __call__(self, texts: Sequence[Text]) -> list[Scored]:
            if len(self.seen) > 40:
                raise KeyboardInterrupt
            return super().__call__(texts)

    with pytest.raises(KeyboardInterrupt):
        stage("two", Killed(), store=None)
    assert not (tmp_path / "two" / dataset.MANIFEST).exists()
    fake = Fake()
    second = stage("two", fake, store=None)
    assert outcome(second) == outcome(first)
    assert 0 < len(fake.seen) < 88 and min(computed(second)) > 0


def test_shards_that_are_gone_are_scored_again(tmp_path: Path, stage: Callable[..., Manifest]) -> None:
    first, fake = stage("one", Fake()), Fake()
    forget(tmp_path / "store", "results", "shards")
    second = stage("two", fake, config=replace(BY_2, gpus=8, max_tokens=1))
    assert outcome(second) == outcome(first) and min(computed(second)) > 0
    other = stage("three", Fake(), english=ENGLISH | {"00": ["other"]})
    assert computed(other)[0] == 3, "in each language the shard of one prompt"


def test_every_language_has_a_code_and_one_without_is_refused() -> None:
    assert set(NLLB) == set(LANGUAGES)
    translator = Nllb(tokenizer())
    with pytest.raises(ValueError, match="language: found 'xx'; expected one that has NLLB's code: da, nl"):
        translator.check(["da", "xx"])
    with pytest.raises(ValueError, match="translator: found a tokenizer without swe_Latn; expected NLLB's"):
        translator.check(["da", "sv"])
    with pytest.raises(ValueError, match="language: found 'xx'; expected one of"):
        Asked(tiny.tokenizer(), "google", 512).check(["da", "xx"])


@pytest.mark.parametrize("format", FORMATS)
def test_a_language_model_is_asked_as_for_other_translations_the_other_way_round(format: str) -> None:
    if format == "google":
        (asked,), (there,) = (
            turns[0]["content"] for turns in (message("ja", "da", format), FORMATS[format]("ja", "da"))
        )
        swapped = {"source_lang_code": there["target_lang_code"], "target_lang_code": there["source_lang_code"]}
        assert asked == there | swapped
    else:
        (asked,), (there,) = message("ja", "da", format), FORMATS[format]("ja", "da")
        assert asked["content"] == there["content"].replace(">en<", ">?<").replace(">da<", ">en<").replace(
            ">?<", ">da<"
        )


def test_a_field_mark_is_read_as_text_only_where_it_is_none() -> None:
    assert [Asked(tiny.tokenizer(), name, 9).reads("a <<<target>>>da b") for name in FORMATS] == [True, False]
    assert not Asked(tiny.tokenizer(), "google", 9).reads(f"a {tiny.END}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("english_answers", 0),
        ("max_length", 0),
        ("max_tokens", 0),
        ("shard_prompts", 0),
        ("gpus", 0),
        ("format", "none"),
    ],
)
def test_a_config_out_of_range_says_what_it_got(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{field}: found {value!r}")):
        AlignConfig(**{field: value})


# --- with real models


def tokenizer() -> Any:
    """NLLB's own class of tokenizer over single letters, with three of its languages."""
    from transformers import NllbTokenizer

    letters = [chr(code) for code in range(33, 127)]
    vocabulary = {token: at for at, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁", *letters])}
    codes = ["eng_Latn", "dan_Latn", "nld_Latn"]
    return NllbTokenizer(vocab=vocabulary, merges=[], additional_special_tokens=codes, model_max_length=512)


def nllb(out: Path) -> Path:
    """A tiny random model of NLLB's classes."""
    translating(out)
    tokenizer().save_pretrained(out)
    return out


def asked(out: Path) -> Path:
    """A tiny random language model whose template takes Google's message and no answer."""
    tiny.policy(out)
    template = (
        "{% if messages | length != 1 %}{{ raise_exception('one turn') }}{% endif %}"
        "{% set t = messages[0]['content'][0] %}"
        "{{ '<|im_start|>' + t['source_lang_code'] + ' ' + t['target_lang_code'] + ' ' + t['text'] + '<|im_end|>' }}"
    )
    tiny.tokenizer(template=template).save_pretrained(out)
    return out


def texts_of(make: Callable[[Path], Path], language: str, answer: str, english: str) -> Text:
    """What the model is to read, by hand."""
    if make is asked:
        ids = tiny.tokenizer()(f"<|im_start|>{language} en {answer}<|im_end|>").input_ids
        return ids, tiny.tokenizer()(english).input_ids
    tokens = tokenizer()
    code, spelled = (
        {"da": "dan_Latn", "nl": "nld_Latn"}[language],
        [list("▁" + "▁".join(t.split(" "))) for t in (answer, english)],
    )
    source, target = ([first, *letters, "</s>"] for first, letters in zip((code, "eng_Latn"), spelled, strict=True))
    return tokens.convert_tokens_to_ids(source), tokens.convert_tokens_to_ids(target)


@pytest.mark.engine
@pytest.mark.parametrize("make", [nllb, asked])
def test_run_gives_the_likelihoods_of_transformers_one_at_a_time(
    make: Callable[[Path], Path], tmp_path: Path, dataset_of: Callable[..., Path]
) -> None:
    model = make(tmp_path / "model")
    keys = [(language, name) for language in ("da", "nl") for name in ("a", "b")]
    english = {"a": ["yes it is", "no"], "b": ["well", "it may be so"]}
    answers = ["ja da", "nej", "ja da", "x" * 120, f"ja {'dan_Latn' if make is nllb else tiny.END}"]
    questions = dataset_of("prompts", prompts([*keys, ("en", "a"), ("en", "b")]))
    rows = [*samples(keys, answers), *(row for name in english for row in samples([("en", name)], english[name]))]
    answered = dataset_of("samples", rows)
    score = functools.partial(
        run,
        prompts=[questions],
        samples=[answered],
        english=[answered],
        model=str(model),
        store=str(tmp_path / "store"),
    )

    manifest = score(out=tmp_path / "scores", config=AlignConfig(max_length=100, shard_prompts=1, max_tokens=99))

    scores = dataset.read(tmp_path / "scores", "scores").to_pylist()
    assert len(scores) == len(keys) * 3 == manifest.rows
    wrong = 0.0
    for row in scores:
        language, text = row["language"], answers[row["sample_index"]]

        def mean(language: str, text: str, to: Sequence[str]) -> float:
            asks = [texts_of(make, language, text, one) for one in to]
            return sum(total / len(ids) for total, (_, ids) in zip(alone(model, asks), asks, strict=True)) / len(asks)

        assert row["reward"] == pytest.approx(mean(language, text, english[row["prompt_id"]]), abs=1e-4)
        wrong = max(
            wrong, abs(row["reward"] - mean("nl" if language == "da" else "da", text, english[row["prompt_id"]]))
        )
    assert wrong > 0.01, "the language of the source is a part of it"
    dropped = {"over_long": 2, "special_token": 2}
    assert [(c.language, c.dropped) for c in manifest.counts] == [
        ("da", dropped),
        ("en", {"english": 4}),
        ("nl", dropped),
    ]

    forget(tmp_path / "store", "results", "shards")
    again = score(out=tmp_path / "again", config=AlignConfig(max_length=100, shard_prompts=1, max_tokens=5, gpus=2))
    assert min(computed(again)) > 0 and again.counts == manifest.counts
    by_key = [(name, "ascending") for name in ("language", "prompt_id", "sample_index")]
    found, first = (dataset.read(tmp_path / name, "scores").sort_by(by_key) for name in ("again", "scores"))
    assert found["reward"].to_pylist() == pytest.approx(first["reward"].to_pylist(), abs=1e-4)


@pytest.mark.engine
def test_run_refuses_what_the_translator_does_not_read(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    questions, answered = (dataset_of(name, rows([("sv", "a"), ("en", "a")])) for name, rows in
                           (("prompts", prompts), ("samples", functools.partial(samples, texts=["ja"]))))  # fmt: skip
    score = functools.partial(run, prompts=[questions], samples=[answered], english=[answered], out=tmp_path / "scores")
    model = str(nllb(tmp_path / "nllb"))

    with pytest.raises(ValueError, match="max_length: found 513; expected at most the translator's 512 tokens"):
        score(model=model, config=AlignConfig(max_length=513))
    with pytest.raises(ValueError, match="found a tokenizer without swe_Latn"):
        score(model=model)
    assert not (tmp_path / "scores" / dataset.MANIFEST).exists()
