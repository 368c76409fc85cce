"""Answers: questions read with their line, asked once, and nothing lost; then the real engine on a tiny model."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from croco import answer, dataset
from croco.answer import AnswerConfig, Question
from croco.engine import Completion, Sampling


class Letters:
    """A tokenizer whose ids are the characters' numbers."""

    all_special_tokens = ("<|end|>",)
    bos_token_id = eos_token_id = None

    def apply_chat_template(self, messages, add_generation_prompt, return_dict):
        return [ord(letter) for turn in messages for letter in turn["content"]]


def question(number=1, language="da", prompt="Hvad er en ko?"):
    return Question(f"q{number}", "hard_prompt", "coding", prompt, language)


def row(number=1, language="da", **fields):
    return {
        "question_id": f"q{number}",
        "category": "hard_prompt",
        "subcategory": "coding",
        "prompt": "Hvad er en ko?",
        "language": language,
        **fields,
    }


@pytest.fixture
def jsonl(tmp_path):
    def write(*rows) -> Path:
        path = tmp_path / "questions.jsonl"
        path.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows) + b"\n")
        return path

    return write


def test_questions_are_read_from_jsonl_and_parquet(jsonl, tmp_path):
    rows = [row(1), row(2, "de")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "questions.parquet")
    expected = [question(1), question(2, "de")]
    assert list(answer.read_file(jsonl(*rows))) == expected
    assert list(answer.read_file(tmp_path / "questions.parquet")) == expected


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (b'{"question_id": oops}', "jsonl:2: found malformed JSON"),
        (b'{"question_id": "\xff"}', "jsonl:2: found bytes that are not UTF-8"),
        (b"[1]", "jsonl:2: found question_id None"),
        (row(2, prompt=None), "jsonl:2: found prompt None; expected a text"),
        (row(2, prompt="  "), "jsonl:2: found prompt '  '"),
        (row(2, prompt="\ud800"), "jsonl:2: found half a character in prompt"),
        (row(1), r"jsonl:2: found \('q1', 'da'\) again, after .*jsonl:1"),
    ],
)
def test_a_row_that_is_no_question_is_named_by_its_line(jsonl, second, what):
    with pytest.raises(ValueError, match=what):
        list(answer.read_file(jsonl(row(1), second)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl: found no file"):
        list(answer.read_file(tmp_path / "nowhere.jsonl"))


def test_a_language_without_a_question_is_named():
    with pytest.raises(ValueError, match="found no question in nl, fr"):
        answer.choose([question()], AnswerConfig(languages=("da", "nl", "fr")), "source", dataset.Tally("answers"))


def test_questions_not_asked_are_counted():
    tally = dataset.Tally("answers")
    questions = [question(1), question(1, "ar"), question(2), question(1, "de"), question(3)]
    chosen = answer.choose(questions, AnswerConfig(languages=("de", "da"), limit=2), "source", tally)
    assert [(q.question_id, q.language) for q in chosen] == [("q1", "de"), ("q1", "da"), ("q2", "da")]
    assert tally.dropped == {"ar": {"language_not_asked": 1}, "da": {"over_limit": 1}}


def ask(questions, replies, *, sampling=Sampling(max_tokens=50), max_model_len=30):
    """(rows, samplings that were asked for, counts) of answers by a fake that gives `replies` in order."""
    tally, seen = dataset.Tally("answers"), []
    for q in questions:
        tally.take(q.language)

    def generate(prompts, samplings):
        seen.extend(samplings)
        return [[reply] for _, reply in zip(prompts, replies, strict=True)]

    rows = answer.answer(questions, "base", sampling, 7, Letters(), generate, max_model_len, tally)
    return rows, seen, tally.counts()


def test_what_cannot_be_asked_is_dropped_by_reason_and_the_rest_answered():
    questions = [question(1), question(2, prompt="x" * 30), question(3, prompt="<|end|>"), question(4, "de")]
    replies = [Completion("En ko er et dyr.", [1], "stop"), Completion("", [], "stop")]
    rows, samplings, (danish, german) = ask(questions, replies)
    assert [(r["question_id"], r["output"], r["identified"]) for r in rows] == [
        ("q1", "En ko er et dyr.", "da"),
        ("q4", "", None),  # an empty answer stays: it loses by itself
    ]
    assert danish == dataset.Count("answers", "da", 3, 1, {"over_context": 1, "special_token": 1})
    assert german == dataset.Count("answers", "de", 1, 1)
    assert [s.max_tokens for s in samplings] == [16, 16]  # what a context of 30 leaves
    assert [s.seed for s in samplings] == [None, None]  # greedy


def test_seeds_belong_to_questions_not_to_places():
    warm, reply = Sampling(temperature=0.1), Completion("ja", [1], "stop")
    _, alone, _ = ask([question(2, "de")], [reply], sampling=warm)
    _, among, _ = ask([question(1), question(2, "de"), question(2)], [reply] * 3, sampling=warm)
    assert alone[0].seed == among[1].seed
    assert len({s.seed for s in among}) == 3


def test_temperature_goes_by_exact_hub_id_never_by_a_word_in_the_path():
    def temperature(model, **config):
        return answer.sampling_for(model, AnswerConfig(**config)).temperature

    aya = "CohereLabs/tiny-aya-global"
    assert temperature(aya) == 0.1
    assert temperature("models/tiny-aya-global-tuned") == 0
    assert temperature("models/tuned", settings_of=aya) == temperature(aya)
    assert temperature(aya, temperature=0.7) == 0.7


def test_measures_are_by_language():
    def answered(language, output, identified, reason="stop"):
        return {"language": language, "output": output, "identified": identified, "finish_reason": reason}

    rows = [answered("da", "abcd", "da"), answered("da", "ab", "no", "length"), answered("pt-PT", " ", None)]
    assert answer.measure(rows) == {
        "language_fidelity": {"da": 0.5, "pt-PT": 0},
        "cut": {"da": 0.5, "pt-PT": 0},
        "empty": {"da": 0, "pt-PT": 1},
        "mean_chars": {"da": 3, "pt-PT": 1},
    }


@pytest.mark.parametrize(
    "config", [{"temperature": -1}, {"limit": 0}, {"max_tokens": 0}, {"gpus": 0}, {"languages": ("xx",)}]
)
def test_a_setting_out_of_range_is_refused(config):
    with pytest.raises(ValueError, match="found"):
        AnswerConfig(**config)


@pytest.mark.engine
def test_a_hub_data_set_has_a_configuration_a_language(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    header = "".join(f"- config_name: {c}\n  data_files:\n  - split: test\n    path: {c}.jsonl\n" for c in ("da", "de"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{header}---\n")
    for code in ("da", "de"):
        (tmp_path / f"{code}.jsonl").write_text(json.dumps(row(1, language="as the data set spells it")) + "\n")
    found = list(answer.read_hub(str(tmp_path), "main", ("de", "nl")))
    assert found == [question(1, "de")]
    with pytest.raises(ValueError, match="found no question in nl"):
        answer.choose(found, AnswerConfig(languages=("de", "nl")), "hub", dataset.Tally("answers"))


@pytest.mark.engine
def test_a_real_model_answers_the_same_questions_the_same_way_twice(jsonl, tmp_path):
    import tiny

    model = str(tiny.policy(tmp_path / "policy", bos=True))
    questions = jsonl(
        row(1), row(1, "de"), row(2), row(3, prompt="ord " * 200), row(4, prompt="<|im_end|>"), row(5, "fr")
    )
    config = AnswerConfig(languages=("da", "de"), temperature=0.8, max_tokens=12)
    shape = {"questions": str(questions), "model": model, "generator": "base", "config": config}
    manifest = answer.run(**shape, out=tmp_path / "once")
    again = answer.run(**shape, out=tmp_path / "again")

    table = dataset.read(tmp_path / "once", "answers")
    assert table.select(["question_id", "language"]).to_pylist() == [
        {"question_id": "q1", "language": "da"},
        {"question_id": "q2", "language": "da"},
        {"question_id": "q1", "language": "de"},
    ]
    assert set(table["generator"].to_pylist()) == {"base"}
    assert manifest.digest == again.digest
    assert manifest.counts == [
        dataset.Count("answers", "da", 4, 2, {"over_context": 1, "special_token": 1}),
        dataset.Count("answers", "de", 1, 1),
        dataset.Count("answers", "fr", 1, 0, {"language_not_asked": 1}),
    ]
    assert manifest.metrics["sampling"] == {"temperature": 0.8, "max_tokens": 12, "seed": 0}
    assert set(manifest.metrics["language_fidelity"]) == {"da", "de"}
    assert "sha256" in manifest.models["policy"]
