"""Score: a reward for every answer or a counted reason, equal to what transformers gives."""

import functools
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny
from bench import drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from croco import chat, dataset, engine
from croco.conversations import Answer, Answers, answer_of, encode, handful
from croco.dataset import Manifest
from croco.rows import conform
from croco.score import ScoreConfig, check_finite, check_parity, run, score, within, work
from croco.shards import bucket_of
from croco.writer import Writer

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
        ("shard_prompts", 0),
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


# --- shards

KEYS = [(language, f"{number:02}") for language in ("da", "nl") for number in range(12)]
TEXTS = ["ja", "nej", "ja", "x" * 90, "a!"]
BY_2 = ScoreConfig(shard_prompts=2)


class Fake:
    """A reward model that gives each conversation's length, a plain forward that is off by little, and their counts."""

    gpus, tokens_out = 2, 0

    def __init__(self, off: float = 1e-4) -> None:
        self.off, self.seen, self.loaded = off, list[str](), 0

    @property
    def tokens_in(self) -> int:
        return sum(map(len, self.seen))

    def start(self, probes: Sequence[list[int]]) -> tuple[list[float], "Fake"]:
        assert not self.loaded, "the plain forward comes before the engine, once"
        self.loaded += 1
        return [reward + self.off for reward in by_length(probes)], self

    def __call__(self, conversations: Sequence[list[int]]) -> list[float]:
        self.seen += map(tiny.Letters.decode, conversations)
        return by_length(conversations)


@pytest.fixture
def stage(tmp_path: Path, dataset_of: Callable[..., Path]) -> Callable[..., Manifest]:
    """stage(name, fake, ...) -> the manifest of a run by `fake`, written to tmp_path / name."""

    def run(
        name: str,
        fake: Fake,
        data: Sequence[Sequence[Mapping[str, object]]] | None = None,
        store: str | None = "store",
        config: ScoreConfig = BY_2,
        asked: Sequence[Mapping[str, object]] | None = None,
    ) -> Manifest:
        """`data`: rows of several datasets of samples."""
        data = [samples(KEYS, TEXTS)] if data is None else data
        questions = [dataset_of("prompts", prompts(KEYS) if asked is None else asked, f"{name} prompts")]
        answers = [
            dataset_of("samples", rows, f"{name} samples {at}", may_be_empty=True) for at, rows in enumerate(data)
        ]
        writer = Writer(
            tmp_path / name, "scores", stage="score", version=1, config=config, inputs=[*questions, *answers],
            models={"reward": {"id": "fake"}}, store=store and str(tmp_path / store), neutral=["gpus"],
        )  # fmt: skip
        if writer.done:
            return writer.done
        given = Answers(questions, answers, config.shard_prompts)
        return work(writer, given, tiny.Letters(), config.max_length or 100, config, fake.start)

    return run


def computed(manifest: Manifest) -> tuple[int, int]:
    """How many shards were computed and reused."""
    return sum(row.shards_computed for row in manifest.ledger), sum(row.shards_reused for row in manifest.ledger)


def forget(store: Path, *kinds: str) -> None:
    """Remove records: `results`, or every other one of `shards`."""
    for kind in kinds:
        for record in sorted((store / kind / "score").glob("*.json"))[:: 2 if kind == "shards" else 1]:
            record.unlink()


def outcome(manifest: Manifest) -> tuple[object, ...]:
    return manifest.digest, manifest.counts, manifest.metrics


def test_a_stage_scores_each_shard_by_prompt_and_sample(tmp_path: Path, stage: Callable[..., Manifest]) -> None:
    fake = Fake()
    manifest = stage("one", fake)
    assert computed(manifest)[0] > 8, "12 prompts by 2 on average, in two languages"
    scores = dataset.unique(dataset.read(tmp_path / "one", "scores"), "scores")
    for part in dataset.parts(tmp_path / "one", "scores"):
        keys = [(r["language"], bucket_of(r["prompt_id"], 8), r["prompt_id"]) for r in pq.read_table(part).to_pylist()]
        assert keys == sorted(keys) and len({key[:2] for key in keys}) == 1
    length = len("user:da 00?;assistant:;")
    assert {(r["sample_index"], r["reward"]) for r in scores.to_pylist()} == {
        *((0, length + 2), (1, length + 3), (2, length + 2))
    }
    assert [(c.language, c.rows_in, c.rows_out, c.dropped) for c in manifest.counts] == [
        (language, 60, 36, {"over_long": 12, "special_token": 12}) for language in ("da", "nl")
    ]
    assert len(fake.seen) == 24 * 2 + manifest.metrics["parity"]["answers"], "equal answers to a prompt once"
    mean = length + 7 / 3
    assert manifest.metrics == {
        "parity": {
            "answers": manifest.metrics["parity"]["answers"], "difference": pytest.approx(1e-4), "tolerance": 1e-3,
            "precision": "float32",
        },
        "reward_mean": pytest.approx({"da": mean, "nl": mean}),
        "reward_std": pytest.approx({"da": (2 / 9) ** 0.5, "nl": (2 / 9) ** 0.5}),
        "distinct_share": {"da": 4 / 5, "nl": 4 / 5},
        "prompts_without_answers": 0,
    }  # fmt: skip
    assert manifest.models == {"reward": {"id": "fake", "chat_template_sha256": chat.template_sha256(tiny.Letters())}}


def test_a_stage_that_finds_every_shard_loads_no_engine_and_says_the_same(
    tmp_path: Path, stage: Callable[..., Manifest]
) -> None:
    first, fake = stage("one", Fake()), Fake()
    forget(tmp_path / "store", "results")

    second = stage("two", fake)

    assert (fake.loaded, computed(second)) == (0, (0, computed(first)[0]))
    assert outcome(second) == outcome(first)
    assert second.metrics["parity"]["difference"] > 0


def test_a_stored_result_is_fetched_whole(tmp_path: Path, stage: Callable[..., Manifest]) -> None:
    first, fake = stage("one", Fake()), Fake()

    second = stage("two", fake)

    assert (fake.loaded, outcome(second)) == (0, outcome(first))
    dataset.verify(tmp_path / "two")


def test_only_shards_that_are_gone_are_scored_and_the_files_are_the_same(
    tmp_path: Path, stage: Callable[..., Manifest]
) -> None:
    first, fake = stage("one", Fake()), Fake(off=5e-4)
    forget(tmp_path / "store", "results", "shards")

    second = stage("two", fake)

    done, reused = computed(second)
    assert done == (computed(first)[0] + 1) // 2 and done + reused == computed(first)[0]
    assert (fake.loaded, second.digest, second.counts) == (1, first.digest, first.counts)
    assert second.metrics["parity"]["difference"] == pytest.approx(5e-4), "the largest of both engines"
    assert second.metrics | {"parity": 0} == first.metrics | {"parity": 0}


@settings(max_examples=25)
@given(order=st.randoms(use_true_random=False), cuts=st.lists(st.integers(0, 120), max_size=4))
def test_shards_do_not_depend_on_the_files_that_answers_come_in(
    order: random.Random, cuts: Sequence[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = samples(KEYS, TEXTS)
    shuffled = order.sample(rows, len(rows))
    ends = [0, *sorted(cuts), len(rows)]
    found = []
    for name, layout in (("one", [rows]), ("parts", [shuffled[a:b] for a, b in pairwise(ends)])):
        out = tmp_path_factory.mktemp(name)
        writer = Writer(out / "samples", "samples", stage="test", version=1, config={})
        for part in layout:
            writer.add(part)
        writer.finish([dataset.Count("samples", None, len(rows), len(rows))])
        writer = Writer(out / "prompts", "prompts", stage="test", version=1, config={})
        writer.add(prompts(KEYS))
        writer.finish([dataset.Count("prompts", None, 24, 24)])
        answers = Answers([out / "prompts"], [out / "samples"], 2)
        found.append([answers.shard(number) for number in range(len(answers.parts))])
    assert found[0] == found[1]


def test_groups_of_samples_give_the_rows_of_one(tmp_path: Path, stage: Callable[..., Manifest]) -> None:
    whole = stage("one", Fake())
    rows = samples(KEYS, TEXTS)
    parts = []
    for group in (0, 1, 2):
        given = [row for row in rows if bucket_of(str(row["prompt_id"]), 8) % 3 == group]
        parts.append(stage(f"group {group}", Fake(), [given]))
    assert sum(part.rows for part in parts) == whole.rows
    assert [computed(part)[0] for part in parts] == [0, 0, 0], "the shards are those of the whole"
    assert {file["sha256"] for part in parts for file in part.files} == {file["sha256"] for file in whole.files}
    assert [part.metrics["prompts_without_answers"] > 0 for part in parts] == [True] * 3


def test_a_group_without_answers_gives_no_scores_and_loads_no_engine(stage: Callable[..., Manifest]) -> None:
    fake = Fake()
    manifest = stage("none", fake, [[]])
    assert (manifest.rows, manifest.counts, fake.loaded) == (0, [], 0)
    assert manifest.metrics["prompts_without_answers"] == 24 and manifest.metrics["parity"] is None


def test_a_group_whose_answers_are_all_dropped_is_counted(stage: Callable[..., Manifest]) -> None:
    manifest = stage("dropped", Fake(), [samples(KEYS[:1], ["a!"])])
    assert manifest.counts == [dataset.Count("scores", "da", 1, 0, {"special_token": 1})]
    with pytest.raises(ValueError, match="found no scores to write"):
        stage("all", Fake(), [samples(KEYS, ["a!"])])


def test_the_first_shard_that_has_any_answer_to_score_gives_the_probes(stage: Callable[..., Manifest]) -> None:
    by_bucket: dict[int, list[str]] = {}
    for language, name in KEYS:
        if language == "da":
            by_bucket.setdefault(bucket_of(name, 8), []).append(name)
    nothing, probed, *_ = sorted(by_bucket)
    special = [("da", name) for name in by_bucket[nothing]]
    fake = Fake()
    rows = [*samples(special, ["a!"]), *samples([key for key in KEYS if key not in special], ["ja"])]

    manifest = stage("one", fake, [rows])

    probes = fake.seen[: manifest.metrics["parity"]["answers"]]
    assert sorted(probes) == [f"user:da {name}?;assistant:ja;" for name in sorted(by_bucket[probed])]


def test_shards_do_not_depend_on_gpus_or_thresholds(stage: Callable[..., Manifest]) -> None:
    first, fake = stage("one", Fake()), Fake()
    other = replace(BY_2, gpus=8, max_not_finite=0.5, parity_answers=2, parity_tolerance=0.01)
    second = stage("two", fake, config=other)
    assert (fake.loaded, computed(second)) == (0, (0, computed(first)[0]))
    assert computed(stage("three", fake, config=replace(BY_2, max_length=99)))[1] == 0


def test_rewards_of_an_engine_that_is_tolerated_no_longer_are_not_taken(stage: Callable[..., Manifest]) -> None:
    stage("one", Fake(off=5e-4))
    with pytest.raises(ValueError, match=r"a stored shard whose rewards differ by up to 0\.0005.*; expected 0\.0004"):
        stage("two", Fake(), config=replace(BY_2, parity_tolerance=4e-4))
    assert within({"answers": 1, "difference": 0.2, "precision": "bfloat16"}, None)["tolerance"] == 0.25


def test_a_changed_prompt_is_scored_again_with_its_shard_alone(stage: Callable[..., Manifest]) -> None:
    first, fake = stage("one", Fake()), Fake()
    asked = prompts(KEYS)
    asked[-1]["messages"] = [{"role": "user", "content": "something else"}]
    second = stage("two", fake, asked=asked[::-1])
    assert computed(second) == (1, computed(first)[0] - 1)
    assert fake.seen and not any("user:da" in text for text in fake.seen), "probes are of a shard that is scored"
    third = stage("three", Fake(), asked=[*asked, *prompts([("da", "unanswered")])])
    assert computed(third) == (0, computed(first)[0]), "as long as the number of buckets stays"
    assert third.metrics["prompts_without_answers"] == 1


def test_an_answer_that_is_there_twice_is_refused(stage: Callable[..., Manifest]) -> None:
    rows = samples(KEYS, TEXTS)
    with pytest.raises(ValueError, match=r"found 2 rows with .*'sample_index': 0"):
        stage("one", Fake(), [rows, rows[:1]])


def test_rewards_that_are_not_finite_fail_the_stage_before_the_rest_is_scored(stage: Callable[..., Manifest]) -> None:
    class Broken(Fake):
        def __call__(self, conversations: Sequence[list[int]]) -> list[float]:
            probing = not self.seen
            rewards = super().__call__(conversations)
            return rewards if probing else [float("nan")] * len(rewards)

    fake = Broken()
    with pytest.raises(ValueError, match="of 120 rewards not finite"):
        stage("one", fake)
    assert len({text[:11] for text in fake.seen}) < 6, "a shard's prompts"


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

    store = tmp_path / "store"
    again = functools.partial(run, prompts=[asked], model=model, store=str(store))

    manifest = again(samples=[answered], out=tmp_path / "scores", config=ScoreConfig(shard_prompts=1))
    shuffled = run(
        prompts=[asked], samples=halves, model=model, out=tmp_path / "shuffled", config=ScoreConfig(shard_prompts=1)
    )
    assert manifest.digest == shuffled.digest
    run(prompts=[asked], samples=halves, model=model, out=tmp_path / "together")
    by_key = [(name, "ascending") for name in ("language", "prompt_id", "sample_index")]
    one_by_one, at_once = (dataset.read(tmp_path / name, "scores").sort_by(by_key) for name in ("scores", "together"))
    assert one_by_one == at_once, "in float32 on a CPU, to the last bit"

    restored = again(samples=[answered], out=tmp_path / "restored", config=ScoreConfig(shard_prompts=1, gpus=2))
    assert (outcome(restored), computed(restored)) == (outcome(manifest), (0, 3))
    forget(store, "results", "shards")
    resumed = again(samples=halves, out=tmp_path / "resumed", config=ScoreConfig(shard_prompts=1))
    assert (resumed.digest, resumed.counts, computed(resumed)) == (manifest.digest, manifest.counts, (2, 1))
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
    assert parity["answers"] == 7, "ja, nej and 5 more to the first prompt"
    assert parity["difference"] < parity["tolerance"] == 1e-3
    assert manifest.metrics["distinct_share"] == {"da": 0.9, "nl": 0.9}
    assert manifest.metrics["prompts_without_answers"] == 1
    assert set(manifest.models["reward"]) == {"id", "sha256", "chat_template_sha256"}


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


@pytest.mark.engine
def test_answers_in_any_order_cost_a_prompt_once_where_memory_is_short(tmp_path: Path) -> None:
    from vllm import LLM

    model = tiny.reward(tmp_path / "reward")
    short = {"kv_cache_memory_bytes": drawn.kv_bytes(model, 2 * tiny.CONTEXT)}
    llm = LLM(str(model), runner="pooling", dtype="float32", **engine.settings(tiny.CONTEXT) | short)
    classifier, computed = engine.Classifier(llm, tiny.tokenizer()), drawn.Computed(llm)
    names = "abcdefghijklmnop"
    messages = {("da", name): [{"role": "user", "content": name * 200}] for name in names}
    rows = [row(f"{number} {'x' * number}", number, name) for name in names for number in range(8)]
    shuffled = random.Random(0).sample(rows, len(rows))

    def spent(given: Sequence[Mapping[str, object]]) -> tuple[int, object]:
        llm.reset_prefix_cache()
        tokens = encode(map(answer_of, given), messages, classifier.tokenizer, tiny.CONTEXT)
        scores = score(given, tokens, classifier, dataset.Tally("scores"))
        return computed.take(), scores

    starts = {key: len(chat.prompt_ids(classifier.tokenizer, turns)) for key, turns in messages.items()}
    whole = {answer: chat.conversation_ids(classifier.tokenizer, messages[answer[:2]], answer[2])
             for answer in map(answer_of, shuffled)}  # fmt: skip
    least = sum(starts.values()) + sum(len(ids) - starts[answer[:2]] for answer, ids in whole.items())
    (found, scores), again = spent(rows), spent(shuffled)
    assert again == (found, scores)
    assert least <= found <= least + len(rows) * 31, "an answer computes again what does not fill a block"
    llm.reset_prefix_cache()
    classifier(list(whole.values()))
    assert computed.take() > 2 * found, "side by side is what saves them"
