"""Answers: questions read with their line, asked once, and nothing lost; then the real engine on a tiny model."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from croco import answer, dataset, questions
from croco.answer import AnswerConfig
from croco.engine import Completion, Sampling
from croco.questions import Question
from croco.writer import Writer


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
    assert list(questions.read_file(jsonl(*rows))) == expected
    assert list(questions.read_file(tmp_path / "questions.parquet")) == expected


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
        list(questions.read_file(jsonl(row(1), second)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl: found no file"):
        list(questions.read_file(tmp_path / "nowhere.jsonl"))


def test_a_language_without_a_question_is_named():
    with pytest.raises(ValueError, match="found no question in nl, fr"):
        answer.choose([question()], AnswerConfig(languages=("da", "nl", "fr")), "source", dataset.Tally("answers"))


def test_questions_not_asked_are_counted():
    tally = dataset.Tally("answers")
    offered = [question(1), question(1, "ar"), question(2), question(1, "de"), question(3)]
    chosen = answer.choose(offered, AnswerConfig(languages=("de", "da"), limit=2), "source", tally)
    assert [(q.question_id, q.language) for q in chosen] == [("q1", "de"), ("q1", "da"), ("q2", "da")]
    assert tally.counts() == [
        dataset.Count("answers", "ar", 1, 0, {"language_not_asked": 1}),
        dataset.Count("answers", "da", 1, 0, {"over_limit": 1}),
    ]


def ask(asked, replies, *, sampling=Sampling(max_tokens=50), max_model_len=30):
    """(rows, samplings that were asked for, counts) of answers by a fake that gives `replies` in order."""
    tally, seen = dataset.Tally("answers"), []

    def generate(prompts, samplings):
        seen.extend(samplings)
        return [[reply] for _, reply in zip(prompts, replies, strict=True)]

    rows = answer.answer(asked, "base", sampling, 7, Letters(), generate, max_model_len, tally)
    return rows, seen, tally.counts()


def test_what_cannot_be_asked_is_dropped_by_reason_and_the_rest_answered():
    asked = [question(1), question(2, prompt="x" * 30), question(3, prompt="<|end|>"), question(4, "de")]
    replies = [Completion("En ko er et dyr.", [1], "stop"), Completion("", [], "stop")]
    rows, samplings, (danish, german) = ask(asked, replies)
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


class Parrot:
    """An engine that says every prompt back; `asked` are the prompts it saw."""

    max_model_len, gpus = 50, 0

    def __init__(self):
        self.asked, self.tokens_in, self.tokens_out = [], 0, 0

    def __call__(self, prompts, samplings):
        said = ["".join(map(chr, ids)) for ids in prompts]
        self.asked += said
        return [[Completion(words, [], "length" if "!" in words else "stop")] for words in said]


def answered(out, store, offered, *, generator="base", sampling=Sampling(), **config):
    """(manifest, engines that were loaded) of answers by parrots to `offered`, cut into many shards."""
    config = AnswerConfig(languages=("da", "de"), shard_questions=2, **config)
    writer = Writer(out, "answers", stage="answer", version=1, config=config, store=str(store), also=str(out))
    parrots = []

    def load():
        parrots.append(Parrot())
        return parrots[-1]

    shards = answer.answer_shards(offered, generator, sampling, Letters(), writer, load, config)
    return writer.finish(shards.counts(), metrics=answer.metrics(shards)), parrots


def many(code="da", number=12):
    return [question(at, code, f"Hvad er {at}?") for at in range(number)]


def content(out):
    return {path.name: path.read_bytes() for path in out.glob("part-*")}


def test_answers_that_were_stored_are_found_again_without_an_engine(tmp_path):
    first, (parrot,) = answered(tmp_path / "one", tmp_path / "store", [*many(), *many("de")])
    again, parrots = answered(tmp_path / "two", tmp_path / "store", [*many("de"), *many()])
    assert (len(parrot.asked), parrots) == (24, [])
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert (first.counts, first.metrics) == (again.counts, again.metrics)
    done = [(row.language, row.shards_computed, row.shards_reused) for row in again.ledger]
    assert done == [("da", 0, len(first.files) // 2), ("de", 0, len(first.files) // 2), (None, 0, 0)]


def test_only_the_answers_of_a_lost_shard_are_asked_for_again(tmp_path):
    first, _ = answered(tmp_path / "one", tmp_path / "store", many())
    lost = [file for file in first.files if file["rows"] > 1][:2]
    for file in lost:
        (tmp_path / "store" / "files" / file["sha256"][:2] / file["sha256"]).unlink()
    with pytest.warns(UserWarning, match="a stored shard is not whole"):
        again, (parrot,) = answered(tmp_path / "two", tmp_path / "store", many())
    texts = [pq.read_table(tmp_path / "one" / file["path"])["prompt"].to_pylist() for file in lost]
    assert parrot.asked == [text for part in texts for text in part]
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert first.metrics == again.metrics


def test_a_changed_question_is_asked_with_its_shard_alone(tmp_path):
    first, _ = answered(tmp_path / "one", tmp_path / "store", many())
    changed = [question(3, prompt="Hvem?"), *many()[:3], *many()[4:]]
    _, (parrot,) = answered(tmp_path / "two", tmp_path / "store", changed)
    assert "Hvem?" in parrot.asked
    assert len(parrot.asked) < 12
    assert len(first.files) > 2


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"gpus": 2}, 0),
        ({"limit": 99}, 0),
        ({"generator": "tuned"}, 12),
        ({"sampling": Sampling(temperature=0.5)}, 12),
        ({"seed": 1}, 12),
        ({"max_model_len": 40}, 12),
    ],
)
def test_what_changes_no_answer_finds_them_all_and_anything_else_none(tmp_path, change, asked):
    answered(tmp_path / "one", tmp_path / "store", many())
    _, parrots = answered(tmp_path / "two", tmp_path / "store", many(), **change)
    assert sum(len(parrot.asked) for parrot in parrots) == asked


def test_measures_are_by_language(tmp_path):
    asked = [question(1, prompt="Hvad er det for en dag i København?"), question(2, prompt="Uden ende!")]
    manifest, _ = answered(
        tmp_path / "out", tmp_path / "store", [*asked, question(1, "de", "4"), question(2, "de", " ")]
    )
    assert manifest.metrics == {
        "language_fidelity": {"da": 1, "de": 0},
        "cut": {"da": 0.5, "de": 0},
        "empty": {"da": 0, "de": 1},
        "mean_chars": {"da": 22.5, "de": 1},
    }


@pytest.mark.parametrize(
    "config",
    [{"temperature": -1}, {"limit": 0}, {"max_tokens": 0}, {"gpus": 0}, {"shard_questions": 0}, {"languages": ("xx",)}],
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
    found = list(questions.read_hub(str(tmp_path), "main", ("de", "nl")))
    assert found == [question(1, "de")]
    with pytest.raises(ValueError, match="found no question in nl"):
        answer.choose(found, AnswerConfig(languages=("de", "nl")), "hub", dataset.Tally("answers"))


def test_a_questions_file_that_was_changed_since_it_was_pinned_is_refused(jsonl, tmp_path):
    config = AnswerConfig(languages=("da",), questions_revision="sha256:" + 64 * "0")
    with pytest.raises(ValueError, match=r"questions\.jsonl: found sha256:.*expected sha256:0000"):
        answer.run(questions=str(jsonl(row(1))), model="m", generator="base", out=tmp_path / "out", config=config)


@pytest.mark.engine
def test_a_real_model_answers_the_same_questions_the_same_way_twice(jsonl, tmp_path):
    import tiny

    model = str(tiny.policy(tmp_path / "policy", bos=True))
    offered = jsonl(
        row(1), row(1, "de"), row(2), row(3, prompt="ord " * 200), row(4, prompt="<|im_end|>"), row(5, "fr")
    )
    config = AnswerConfig(languages=("da", "de"), temperature=0.8, max_tokens=12, shard_questions=1)
    shape = {"questions": str(offered), "model": model, "generator": "base", "config": config}
    store = str(tmp_path / "store")
    manifest = answer.run(**shape, out=tmp_path / "once")
    again = answer.run(**shape, out=tmp_path / "again", store=store)
    shutil.rmtree(tmp_path / "store" / "results")
    pieced = answer.run(**shape, out=tmp_path / "pieced", store=store)
    whole = answer.run(**shape, out=tmp_path / "whole", store=store)

    table = dataset.read(tmp_path / "once", "answers")
    assert sorted(map(tuple, (r.values() for r in table.select(["language", "question_id"]).to_pylist()))) == [
        ("da", "q1"),
        ("da", "q2"),
        ("de", "q1"),
    ]
    assert set(table["generator"].to_pylist()) == {"base"}
    assert manifest.digest == again.digest == pieced.digest == whole.digest
    assert manifest.counts == [
        dataset.Count("answers", "da", 4, 2, {"over_context": 1, "special_token": 1}),
        dataset.Count("answers", "de", 1, 1),
        dataset.Count("answers", "fr", 1, 0, {"language_not_asked": 1}),
    ]
    assert manifest.metrics["sampling"] == {"temperature": 0.8, "max_tokens": 12, "seed": 0}
    assert set(manifest.metrics["language_fidelity"]) == {"da", "de"}
    assert set(manifest.models["policy"]) == {"id", "sha256", "chat_template_sha256"}
    for other in (again, pieced, whole):
        assert (other.counts, other.metrics, other.models) == (manifest.counts, manifest.metrics, manifest.models)
    assert [sum(row.shards_computed for row in m.ledger) for m in (again, pieced, whole)] == [4, 0, 0]
    assert content(tmp_path / "whole") == content(tmp_path / "once")
