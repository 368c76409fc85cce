"""Score: a reward for every answer or a counted reason, equal to what transformers gives."""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from croco import dataset, engine
from croco.rows import conform
from croco.score import (
    Answer,
    ScoreConfig,
    check_finite,
    check_parity,
    encode,
    handful,
    run,
    score,
    together,
)

TURNS = {("da", "p"): [{"role": "user", "content": "hej"}], ("da", "q"): [{"role": "user", "content": "godaften"}]}


class Thinking(tiny.Letters):
    """A tokenizer whose template knows reasoning marks, as Qwen3's does."""

    chat_template = "... content.split('</think>') ..."


def row(text: str, index: int, prompt_id: str = "p") -> dict[str, object]:
    return {"prompt_id": prompt_id, "language": "da", "sample_index": index, "text": text}


def encoded(
    answers: Sequence[Mapping[str, object]], limit: int = 100, tokenizer: object = None
) -> dict[Answer, list[int] | str]:
    distinct = ((str(a["language"]), str(a["prompt_id"]), str(a["text"])) for a in answers)
    return encode(distinct, TURNS, tokenizer or tiny.Letters(), limit)


def by_length(conversations: Sequence[list[int]]) -> list[float]:
    return [float(len(ids)) for ids in conversations]


def scored(
    answers: Sequence[Mapping[str, object]], classify: engine.Classify = by_length, limit: int = 100
) -> tuple[list[dict[str, object]], dataset.Count]:
    tally = dataset.Tally("scores")
    scores = score(answers, encoded(answers, limit), classify, tally)
    (count,) = tally.counts()
    return scores, count


class Recorder:
    """A reward model that gives each conversation's length and remembers what it was sent."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, conversations: Sequence[list[int]]) -> list[float]:
        self.seen += map(tiny.Letters.decode, conversations)
        return by_length(conversations)


def test_identical_answers_to_one_prompt_are_scored_once_and_all_get_the_reward() -> None:
    model = Recorder()

    scores, count = scored([row("ja", 0), row("nej", 1), row("ja", 2), row("ja", 0, "q")], model)

    assert model.seen == [
        "user:hej;assistant:ja;",
        "user:hej;assistant:nej;",
        "user:godaften;assistant:ja;",
    ]
    assert [(s["prompt_id"], s["sample_index"], s["reward"]) for s in scores] == [
        *(("p", 0, 22.0), ("p", 1, 23.0), ("p", 2, 22.0)),
        ("q", 0, 27.0),
    ]
    assert (count.rows_in, count.rows_out) == (4, 4)
    assert conform(scores, "scores")["reward"].to_pylist() == [22.0, 23.0, 22.0, 27.0]


@given(st.randoms(use_true_random=False))
def test_a_prompts_answers_go_to_the_engine_side_by_side_in_whatever_order_they_came(order: random.Random) -> None:
    answers = [row(f"{number}", number, prompt_id) for prompt_id in "pq" for number in range(6)]
    straight, shuffled = Recorder(), Recorder()
    expected, _ = scored(answers, straight)

    found, _ = scored(order.sample(answers, len(answers)), shuffled)

    prompts = [text.split(";")[0] for text in shuffled.seen]
    assert len(list(groupby(prompts))) == 2
    assert shuffled.seen == straight.seen
    assert found == expected


def test_files_are_read_apart_unless_a_prompts_answers_lie_in_several() -> None:
    one, two, three, four = (Path(name) for name in "1234")
    a, b, c, d = (("da", name) for name in "abcd")

    assert together({one: {a}, two: {b}, three: {c}}) == [[one], [two], [three]]
    assert together({three: {c}, one: {a}, two: {b}}) == [[one], [two], [three]]
    assert together({one: {a}, two: {b}, three: {c, a}, four: {d}}) == [[one, three], [two], [four]]
    assert together({one: {a}, two: {b}, three: {b, a}, four: {("nl", "a")}}) == [[one, two, three], [four]]


@pytest.mark.parametrize(("limit", "dropped"), [(22, {}), (21, {"over_long": 1})])
def test_a_conversation_over_the_limit_is_counted_and_not_sent(limit: int, dropped: dict[str, int]) -> None:
    model = Recorder()

    _, count = scored([row("ja", 0)], model, limit)  # user:hej;assistant:ja; has 22 letters

    assert count.dropped == dropped
    assert len(model.seen) == 1 - len(dropped)


def test_an_answer_that_spells_a_special_token_is_counted() -> None:
    _, count = scored([row("ja!", 0), row("ja", 1)])

    assert (count.rows_out, count.dropped) == (1, {"special_token": 1})


def test_an_answer_that_closes_a_thought_is_counted_where_the_template_would_split_it() -> None:
    answers = [row("no </think> yes", 0)]

    assert list(encoded(answers, tokenizer=Thinking()).values()) == ["think_tag"]
    assert not isinstance(next(iter(encoded(answers).values())), str)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_no_number_is_counted_for_every_copy_of_the_answer(reward: float) -> None:
    def broken(conversations: Sequence[list[int]]) -> list[float]:
        return [reward if tiny.Letters.decode(ids).endswith("ja;") else 1.0 for ids in conversations]

    scores, count = scored([row("ja", 0), row("nej", 1), row("ja", 2)], broken)

    assert [s["sample_index"] for s in scores] == [1]
    assert count.dropped == {"not_finite": 2}


def test_too_many_rewards_that_are_no_numbers_are_fatal() -> None:
    tally = dataset.Tally("scores")
    tally.drop("da", "not_finite", 1)
    tally.drop("nl", "not_finite", 1)

    check_finite(tally, 200, 0.01)
    with pytest.raises(ValueError, match="found 2 of 199 rewards not finite"):
        check_finite(tally, 199, 0.01)


def test_no_turn_is_added_or_left_out() -> None:
    model, tally = Recorder(), dataset.Tally("scores")
    turns = [("system", "be kind"), ("user", "one"), ("assistant", "two"), ("user", "three")]
    messages = {("da", "p"): [{"role": role, "content": content} for role, content in turns]}

    score([row("ja", 0)], encode([("da", "p", "ja")], messages, tiny.Letters(), 100), model, tally)

    assert model.seen == ["system:be kind;user:one;assistant:two;user:three;assistant:ja;"]


@given(st.lists(st.sampled_from(["ja", "nej", "ja!", "x" * 90, "nan"]), min_size=1, max_size=30))
def test_every_answer_is_scored_or_counted(texts: list[str]) -> None:
    def model(conversations: Sequence[list[int]]) -> list[float]:
        return [float("nan") if tiny.Letters.decode(ids).endswith("nan;") else 1.0 for ids in conversations]

    scores, count = scored([row(text, index) for index, text in enumerate(texts)], model)

    assert count.rows_in == len(texts)
    assert len(scores) == texts.count("ja") + texts.count("nej")
    assert count.dropped == {
        reason: number
        for reason, text in [("not_finite", "nan"), ("over_long", "x" * 90), ("special_token", "ja!")]
        if (number := texts.count(text))
    }


def test_parity_is_the_largest_difference() -> None:
    assert check_parity([1.0, -2.0], [1.0005, -2.0], 1e-3) == pytest.approx(0.0005)


@pytest.mark.parametrize("found", [[1.0, -2.002], [1.0, float("nan")], [1.0, float("inf")]])
def test_parity_beyond_the_tolerance_stops_the_stage(found: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected them within 0\.001"):
        check_parity(found, [1.0, -2.0], 1e-3)


def test_parity_is_probed_from_the_shortest_to_the_longest() -> None:
    conversations: dict[Answer, list[int] | str] = {("da", "p", str(n)): [0] * n for n in range(1, 10)}
    conversations["da", "p", "dropped"] = "over_long"

    assert [len(ids) for ids in handful(conversations, 3)] == [1, 5, 9]
    assert [len(ids) for ids in handful(conversations, 1)] == [1]
    assert [len(ids) for ids in handful(conversations, 99)] == list(range(1, 10))
    assert handful({("da", "p", "dropped"): "over_long"}, 3) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_length", 0),
        ("parity_answers", 0),
        ("parity_tolerance", 0.0),
        ("parity_tolerance", float("nan")),
        ("max_not_finite", 1.5),
        ("max_not_finite", -0.1),
        ("gpus", 0),
    ],
)
def test_a_config_out_of_range_says_what_it_got(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{field}: found {value}")):
        ScoreConfig(**{field: value})  # type: ignore[arg-type]


def prompts(keys: Iterable[tuple[str, str]]) -> list[dict[str, object]]:
    return [
        {"prompt_id": prompt_id, "language": language, "split": "train"}
        | {"messages": [{"role": "user", "content": f"{language} {prompt_id}?"}]}
        for language, prompt_id in keys
    ]


def samples(keys: Iterable[tuple[str, str]], texts: Sequence[str]) -> list[dict[str, object]]:
    return [
        {"prompt_id": prompt_id, "language": language, "sample_index": index, "text": text, "token_ids": [1]}
        | {"finish_reason": "stop", "seed": index}
        for language, prompt_id in keys
        for index, text in enumerate(texts)
    ]


@pytest.mark.engine
def test_run_gives_the_rewards_of_a_transformers_forward(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    keys = [("da", "a"), ("da", "b"), ("nl", "a")]
    asked = dataset_of("prompts", [*prompts(keys), *prompts([("nl", "unanswered")])])
    texts = ["ja", "nej", "ja", "x" * 600, "a<|im_end|>", *(f"svar nummer {number}" for number in range(5))]
    rows = samples(keys, texts)
    answered = dataset_of("samples", rows)
    random.Random(0).shuffle(rows)
    halves = [dataset_of("samples", rows[:13], "one"), dataset_of("samples", rows[13:], "two")]
    model = str(tiny.reward(tmp_path / "reward"))

    manifest = run(prompts=[asked], samples=[answered], model=model, out=tmp_path / "scores")
    shuffled = run(prompts=[asked], samples=halves, model=model, out=tmp_path / "shuffled")

    assert manifest.digest == shuffled.digest
    scores = dataset.unique(dataset.read(tmp_path / "scores", "scores"), "scores").to_pylist()
    plain = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)
    for one in scores:
        question = f"{one['language']} {one['prompt_id']}?"
        text = (
            f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{texts[one['sample_index']]}<|im_end|>\n"
        )
        ids = tiny.tokenizer()(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            assert one["reward"] == pytest.approx(plain(ids).logits.item(), abs=1e-4)
    rewards = {(one["language"], one["prompt_id"], one["sample_index"]): one["reward"] for one in scores}
    assert all(rewards[*key, 0] == rewards[*key, 2] != rewards[*key, 1] for key in keys)
    assert max(rewards.values()) > 1, "a sigmoid was left on"
    assert [(c.language, c.rows_in, c.rows_out, c.dropped) for c in manifest.counts] == [
        ("da", 20, 16, {"over_long": 2, "special_token": 2}),
        ("nl", 10, 8, {"over_long": 1, "special_token": 1}),
    ]
    parity = manifest.metrics["parity"]
    assert parity["answers"] == 8
    assert parity["difference"] < parity["tolerance"] == 1e-3
    assert manifest.metrics["distinct_share"] == {"da": 0.9, "nl": 0.9}
    assert manifest.metrics["prompts_without_answers"] == 1
    assert set(manifest.models["reward"]) == {"id", "sha256", "template"}


@pytest.mark.engine
def test_run_refuses_what_it_cannot_score_rightly(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    keys = [("da", "a"), ("da", "b")]
    asked, fewer = dataset_of("prompts", prompts(keys)), dataset_of("prompts", prompts(keys[:1]), "fewer")
    answered = dataset_of("samples", samples(keys, ["ja", "nej"]))
    reward, policy = str(tiny.reward(tmp_path / "reward")), str(tiny.policy(tmp_path / "policy"))
    out = tmp_path / "scores"

    with pytest.raises(ValueError, match=r"answers to 1 of 2 prompts that --prompts does not hold, \('da', 'b'\)"):
        run(prompts=[fewer], samples=[answered], model=reward, out=out)
    with pytest.raises(ValueError, match=r"found \['Qwen3ForCausalLM'\] with 2 labels; expected a reward model"):
        run(prompts=[asked], samples=[answered], model=policy, out=out)
    with pytest.raises(ValueError, match="max_length: found 513; expected at most the reward model's 512"):
        run(prompts=[asked], samples=[answered], model=reward, out=out, config=ScoreConfig(max_length=513))
    with pytest.raises(ValueError, match="this vLLM does not run this reward model rightly"):
        run(prompts=[asked], samples=[answered], model=reward, out=out, config=ScoreConfig(parity_tolerance=1e-12))
    assert not (out / dataset.MANIFEST).exists()
