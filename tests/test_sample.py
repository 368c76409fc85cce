"""Sample: one request a prompt, a seed an answer, nothing lost without a count."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import tiny

from croco import dataset, engine, rows
from croco.engine import Completion, Sampling
from croco.sample import DECODING, Decoding, SampleConfig, resolve, run, sample
from croco.shards import Share

EUROLLM, AYA = "utter-project/EuroLLM-9B-Instruct-2512", "CohereLabs/tiny-aya-global"
FIXED = SampleConfig(n=3, temperature=0.7, top_p=1.0, top_k=0, max_tokens=10, min_room=4)
CONTEXT = 100


def prompt(content: str = "hi", prompt_id: str = "p", language: str = "da") -> dict[str, object]:
    return {"prompt_id": prompt_id, "language": language, "messages": [{"role": "user", "content": content}]}


def answering(*texts: str) -> engine.Generate:
    """A model that gives every prompt these answers."""
    return lambda prompts, sampling: [
        [Completion(text, [ord(letter) for letter in text], "stop") for text in texts] for _ in prompts
    ]


class Recorder:
    """A model that answers `ja` and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Sampling]] = []

    def __call__(self, prompts: Sequence[list[int]], sampling: Sequence[Sampling]) -> list[list[Completion]]:
        self.asked += [(tiny.Letters.decode(ids), how) for ids, how in zip(prompts, sampling, strict=True)]
        return [[Completion("ja", [106, 97], "stop")] * how.n for how in sampling]


def answers_to(
    prompts: Sequence[dict[str, object]], generate: engine.Generate, config: SampleConfig = FIXED
) -> tuple[list[dict[str, object]], list[dataset.Count]]:
    tally = dataset.Tally("samples")
    answers = sample(prompts, generate, tiny.Letters(), CONTEXT, config, tally)
    return answers, tally.counts()


@pytest.mark.parametrize("model", [EUROLLM, AYA])
def test_the_papers_models_are_sampled_as_the_reference_code_does(model: str) -> None:
    config = resolve(model, SampleConfig())

    assert (config.n, config.temperature, config.top_p, config.top_k, config.max_tokens) == (64, 1.0, 1.0, 0, 4096)
    assert DECODING[model].source.startswith("reference code")


def test_a_value_of_the_config_goes_before_the_tables() -> None:
    assert resolve(AYA, SampleConfig(temperature=0.5)).temperature == 0.5
    assert resolve(AYA, SampleConfig(temperature=0.5)).max_tokens == 4096


@pytest.mark.parametrize("model", ["./models/tiny-aya-global", "somebody/tiny-aya-global", "policy"])
def test_a_model_that_is_not_in_the_table_needs_every_value_whatever_its_path_looks_like(model: str) -> None:
    with pytest.raises(ValueError, match=r"add --temperature --top-k --max-tokens$"):
        resolve(model, SampleConfig(top_p=0.9))

    assert resolve(model, FIXED) == FIXED


def test_every_table_entry_says_where_its_values_are_from() -> None:
    assert all(isinstance(entry, Decoding) and len(entry.source) > 10 for entry in DECODING.values())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("max_tokens", 0),
        ("min_room", 0),
        ("shard_prompts", 0),
        ("gpus", 0),
        ("max_model_len", 0),
    ],
)
def test_a_config_out_of_range_says_what_it_got(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{field}: found {value}")):
        SampleConfig(**{field: value})  # type: ignore[arg-type]


def test_greedy_is_fine_for_one_answer() -> None:
    assert SampleConfig(n=1, temperature=0.0).temperature == 0.0


def test_a_prompt_is_one_request_for_all_its_answers() -> None:
    model = Recorder()

    answers, _ = answers_to([prompt(prompt_id="a"), prompt(prompt_id="b")], model)

    assert [how.n for _, how in model.asked] == [3, 3]
    assert [(row["prompt_id"], row["sample_index"]) for row in answers] == [
        *(("a", 0), ("a", 1), ("a", 2)),
        *(("b", 0), ("b", 1), ("b", 2)),
    ]


def test_an_answers_seed_depends_on_run_prompt_language_and_index_alone() -> None:
    together, alone = Recorder(), Recorder()
    answers, _ = answers_to([prompt(prompt_id="a"), prompt(prompt_id="b")], together)
    again, _ = answers_to([prompt(prompt_id="b")], alone)

    base = rows.seed_of(0, "b", "da")
    assert together.asked[1] == alone.asked[0]
    assert alone.asked[0][1].seed == base
    assert [row["seed"] for row in again] == [base, base + 1, base + 2]
    assert answers[3:] == again
    assert len({rows.seed_of(*key) for key in [(0, "b", "da"), (1, "b", "da"), (0, "a", "da"), (0, "b", "nl")]}) == 4


def test_every_turn_reaches_the_model() -> None:
    model = Recorder()
    turns = [("system", "be kind"), ("user", "one"), ("assistant", "two"), ("user", "three")]
    conversation = prompt() | {"messages": [{"role": role, "content": content} for role, content in turns]}

    answers_to([conversation], model)

    assert model.asked[0][0] == "system:be kind;user:one;assistant:two;user:three;assistant:"


@pytest.mark.parametrize(
    ("length", "dropped"),
    [(80, {}), (81, {"over_context": 3})],  # 16 letters of turn marks; 4 of 100 must be left
)
def test_a_prompt_that_leaves_no_room_is_counted_as_all_its_answers(length: int, dropped: dict[str, int]) -> None:
    _, (count,) = answers_to([prompt("x" * length)], Recorder())

    assert (count.rows_in, count.dropped) == (3, dropped)


def test_room_is_never_asked_for_beyond_the_longest_answer() -> None:
    wide = SampleConfig(n=1, temperature=0.7, top_p=1.0, top_k=0, max_tokens=2, min_room=99)

    _, (count,) = answers_to([prompt("x" * 82)], Recorder(), wide)

    assert count.rows_out == 1


def test_a_prompt_with_a_special_token_is_counted_and_the_others_are_answered() -> None:
    answers, (count,) = answers_to([prompt("stop!", "a"), prompt("go", "b")], Recorder())

    assert {row["prompt_id"] for row in answers} == {"b"}
    assert (count.rows_in, count.rows_out, count.dropped) == (6, 3, {"special_token": 3})


def test_an_empty_answer_is_dropped_and_the_others_keep_their_index_and_seed() -> None:
    answers, (count,) = answers_to([prompt()], answering("", " \n", "ja"))

    assert [(row["sample_index"], row["text"]) for row in answers] == [(2, "ja")]
    assert answers[0]["seed"] == rows.seed_of(0, "p", "da") + 2
    assert count.dropped == {"empty": 2}


def test_an_answer_whose_text_hides_a_special_token_is_dropped() -> None:
    framed = Completion("ja", [33, 106, 97, 33, 33], "stop")  # 33 is the special token
    broken = Completion("ja", [106, 33, 97, 33], "stop")
    nothing = Completion("", [33], "stop")

    answers, (count,) = answers_to([prompt()], lambda prompts, sampling: [[framed, broken, nothing]])

    assert [row["token_ids"] for row in answers] == [[33, 106, 97, 33, 33]]
    assert count.dropped == {"special_token_in_answer": 1, "empty": 1}


def test_answers_obey_the_contract_and_name_their_language() -> None:
    cut = Completion("Det er en god dag i København", [100, 101], "length")
    answers, _ = answers_to([prompt()], lambda prompts, sampling: [[cut, cut, Completion("42", [52, 50], "stop")]])

    table = rows.conform(answers, "samples")

    assert table["identified"].to_pylist() == ["da", "da", None]
    assert table["finish_reason"].to_pylist() == ["length", "length", "stop"]
    assert table["token_ids"].to_pylist() == [[100, 101], [100, 101], [52, 50]]


def test_a_model_that_gives_too_few_answers_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        answers_to([prompt()], answering("ja", "nej"))


@pytest.mark.engine
def test_run_samples_all_languages_with_one_engine_and_the_same_rows_in_any_order(
    tmp_path: Path, dataset_of: Callable[..., Path]
) -> None:
    def full(content: str, prompt_id: str, language: str, split: str) -> dict[str, object]:
        return prompt(content, prompt_id, language) | {"split": split}

    danish = [full("Hvad?", "a", "da", "train"), full("x" * 600, "b", "da", "train"), full("Nej", "c", "da", "eval")]
    dutch = [full("Wat?", "a", "nl", "train"), full("<|im_end|>", "c", "nl", "eval")]
    datasets = [dataset_of("prompts", danish, "da"), dataset_of("prompts", dutch, "nl")]
    policy = str(tiny.policy(tmp_path / "policy"))
    config = SampleConfig(n=16, temperature=1.0, top_p=1.0, top_k=0, max_tokens=24, min_room=24, shard_prompts=2)

    store = str(tmp_path / "store")

    manifest = run(prompts=datasets, model=policy, out=tmp_path / "one", store=store, config=config)

    answers = dataset.unique(dataset.read(tmp_path / "one", "samples"), "samples")
    assert len(set(answers["text"].to_pylist())) > 20
    assert {(r["prompt_id"], r["language"]) for r in answers.to_pylist()} == {("a", "da"), ("c", "da"), ("a", "nl")}
    counts = {count.language: count for count in manifest.counts}
    assert (counts["da"].rows_in, counts["da"].dropped["over_context"]) == (48, 16)
    assert (counts["nl"].rows_in, counts["nl"].dropped["special_token"]) == (32, 16)
    assert set(manifest.metrics["language_fidelity"]) == set(manifest.metrics["cut"]) == {"da", "nl"}
    assert all(0 <= share <= 1 for share in manifest.metrics["cut"].values())
    assert set(manifest.models["policy"]) == {"id", "sha256", "chat_template_sha256"}
    assert manifest.config["max_tokens"] == 24
    ledger = {row.language: row for row in manifest.ledger}
    assert sum(row.shards_computed for row in ledger.values()) == len(list(Path(store).glob("shards/sample/*.json")))
    assert ledger["nl"].tokens_out >= sum(len(r["token_ids"]) for r in answers.to_pylist() if r["language"] == "nl")
    assert ledger["nl"].gpu_seconds == ledger[None].gpu_seconds == 0

    other_order = run(prompts=datasets[::-1], model=policy, out=tmp_path / "two", store=store, config=config)
    assert other_order.digest == manifest.digest
    assert sum(row.shards_computed for row in other_order.ledger) == 0

    halves = []
    for group in (0, 1):
        out, share = tmp_path / f"half {group}", Share(group=group, groups=2)
        run(prompts=datasets, model=policy, out=out, share=share, config=config)  # no store: sampled anew
        halves.append(dataset.read(out, "samples"))
    key = [(name, "ascending") for name in rows.CONTRACTS["samples"].key]
    assert pa.concat_tables(halves).sort_by(key) == answers.sort_by(key), "groups change no row"
    assert all(len(half) for half in halves)

    danish = run(
        prompts=datasets, model=policy, out=tmp_path / "danish", share=Share(("da",)), store=store, config=config
    )
    assert [count.language for count in danish.counts] == ["da"]
