"""Implicit: how much more probable a tuned model holds an answer than its base, with length taken off, or a reason."""

import functools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_likelihood import alone
from test_score import computed, outcome, prompts, samples

from croco import dataset
from croco.conversations import Answers
from croco.dataset import Manifest
from croco.implicit import Implicit, ImplicitConfig, encode, naming, run, settle, tokenizer_of, work
from croco.likelihood import Text
from croco.rows import conform
from croco.writer import Writer

GRID = ImplicitConfig().alphas


# --- alpha


def test_the_grid_is_the_papers() -> None:
    assert (GRID[0], GRID[1], GRID[-1], len(GRID)) == (0, 0.001, 1, 1001)
    assert ImplicitConfig(length_control=False).alphas.tolist() == [0]
    assert ImplicitConfig(alpha_step=0.5, alpha_most=2).alphas.tolist() == [0, 0.5, 1, 1.5, 2]


def test_alpha_is_where_chosen_and_rejected_are_of_like_length_by_hand() -> None:
    # two pools of a long and a short answer each: the long one wins until alpha takes 10 x .05, and 20 x .2, off it
    reward, length = np.array([2.5, 2.0, 5.0, 1.0]), np.array([30.0, 20.0, 40.0, 20.0])

    found = settle(reward, length, ["p", "p", "q", "q"], np.arange(0, 1, 0.01))

    # at 0 both long ones are chosen: (10 + 20) / 2; from .06 on the first pool's short one is: (-10 + 20) / 2; from
    # .21 on both short ones are: (-10 - 20) / 2
    assert (found.before, found.after) == (15.0, 5.0)
    assert found.alpha == pytest.approx(0.05, abs=0.0101) and found.alpha > 0


def test_of_several_alphas_that_do_as_well_the_first_is_taken() -> None:
    found = settle(np.array([1.0, 0.0]), np.array([7.0, 7.0]), ["p", "p"], GRID)
    assert found == (0.0, 0.0, 0.0)
    # |10| at 0, |-10| from .10005 on: the first
    assert settle(np.array([1.0005, 0.0]), np.array([20.0, 10.0]), ["p", "p"], GRID) == (0.0, 10.0, 10.0)


def test_the_middle_answer_makes_lengths_even() -> None:
    # long, middle and short: 3 - 30a, 2.9 - 20a, 2 - 20a. The longest is chosen until a = .01, then the middle one,
    # and the lowest is the third until a = .1: both of length 20 between
    found = settle(np.array([3.0, 2.9, 2.0]), np.array([30.0, 20.0, 20.0]), ["p"] * 3, GRID)
    assert found.before == 10 and found.after == 0 and found.alpha == pytest.approx(0.01, abs=0.0011)


def test_pools_may_be_of_any_size_and_one_answer_says_nothing() -> None:
    reward, length = np.array([9.0, 3.0, 2.9, 2.0, 1.0]), np.array([99.0, 30.0, 20.0, 20.0, 55.0])
    alone, beside = (settle(reward[part], length[part], list(pool), GRID) for part, pool in
                     ((slice(1, 4), "bbb"), (slice(0, 5), "cbbba")))  # fmt: skip
    assert (beside.alpha, beside.after) == (alone.alpha, 0) and beside.before == pytest.approx(10 / 3)


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.tuples(st.floats(-9, 9), st.integers(1, 99)), min_size=1, max_size=5), min_size=1, max_size=5)
)
def test_alpha_is_that_of_a_search_one_pool_at_a_time(pools: list[list[tuple[float, int]]]) -> None:
    grid = np.arange(11) / 10
    differences = []
    for alpha in grid:
        total = 0
        for pool in pools:
            rewards = [reward - alpha * length for reward, length in pool]
            total += pool[rewards.index(max(rewards))][1] - pool[rewards.index(min(rewards))][1]
        differences.append(total / len(pools))
    best = min(range(11), key=lambda at: (abs(round(differences[at], 9)), at))
    flat = [(float(r), float(n), str(at)) for at, pool in enumerate(pools) for r, n in pool]

    found = settle(np.array([f[0] for f in flat]), np.array([f[1] for f in flat]), [f[2] for f in flat], grid)

    assert abs(found.after) == pytest.approx(abs(differences[best])) and found.before == pytest.approx(differences[0])


# --- what is read

ENGLISH: dict[str, list[Mapping[str, str]]] = {
    "p": [{"role": "user", "content": "hello"}],
    "s": [{"role": "user", "content": "a!"}],
}


def encoded(answer: tuple[str, str, str], limit: int = 99, tokenizer: Any = None, named: bool = False) -> Any:
    (found,) = encode([answer], ENGLISH, tokenizer or tiny.Letters(), limit, named).values()
    return found if isinstance(found, str) else tuple(map(tiny.Letters.decode, found))


def test_an_answer_in_any_language_is_read_after_the_english_prompt() -> None:
    assert encoded(("da", "p", "hej")) == ("user:hello;assistant:", "hej;")
    asked = "Please answer in Danish, unless you are asked for another language.\n\nhello"
    assert encoded(("da", "p", "hej"), 200, named=True) == (f"user:{asked};assistant:", "hej;")
    assert encoded(("en", "p", "hi"), named=True) == ("user:hello;assistant:", "hi;")
    turns = [{"role": "system", "content": "be kind"}, *ENGLISH["p"]]
    assert naming(turns, "da") == [turns[0], {"role": "user", "content": asked}]


class Thinking(tiny.Letters):
    chat_template = "... content.split('</think>') ..."


class Rewriting(tiny.Letters):
    """A template that leaves out the first turn of a conversation that has an answer."""

    def apply_chat_template(self, messages: Any, **options: Any) -> list[int]:
        return super().apply_chat_template(messages[len(messages) > 1 :], **options)


@pytest.mark.parametrize(
    ("reason", "answer", "options"),
    [
        ("no_english_prompt", ("da", "q", "hej"), {}),
        ("special_token", ("da", "p", "hej!"), {}),
        ("special_token", ("da", "s", "hej"), {}),
        ("think_tag", ("da", "p", "a </think> b"), {"tokenizer": Thinking()}),
        ("prompt_not_prefix", ("da", "p", "hej"), {"tokenizer": Rewriting()}),
        ("over_long", ("da", "p", "hej"), {"limit": 24}),
    ],
)
def test_an_answer_that_cannot_be_read_says_why(reason: str, answer: tuple[str, str, str], options: Any) -> None:
    assert encoded(answer, **options) == reason
    assert not isinstance(encoded(("da", "p", "hej"), 25), str)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 0) for name in ("max_length", "shard_prompts", "max_tokens", "gpus", "alpha_step", "alpha_most")),
        ("alpha_step", float("nan")),
        ("alpha_most", float("inf")),
        ("length_in", "words"),
    ],
)
def test_a_config_out_of_range_says_what_it_got(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{field}: found {value!r}")):
        ImplicitConfig(**{field: value})


# --- shards

KEYS = [(language, f"{number:02}") for language in ("da", "en", "nl") for number in range(12)]
MISSING = ("en", "03")
"""The one prompt that is not there in English."""
TEXTS = ["long" * 5, "mid" * 4, "tiny", "long" * 5, "x" * 90, "a!"]
BY_2 = ImplicitConfig(shard_prompts=2, max_length=80, alpha_step=0.01)


class Fake:
    """Two models that differ by .305 nats a letter of an answer, its end apart, and by 5 more where it has a d."""

    gpus, tokens_out = 2, 0

    def __init__(self, kill: int = 10**6) -> None:
        self.seen, self.loaded, self.kill = list[str](), 0, kill

    @property
    def tokens_in(self) -> int:
        return sum(map(len, self.seen))

    def load(self) -> Any:
        self.loaded += 1
        return self

    def __call__(self, texts: Sequence[Text]) -> list[float]:
        if len(self.seen) > self.kill:
            raise KeyboardInterrupt
        contexts, answers = ([tiny.Letters.decode(text[side]) for text in texts] for side in (0, 1))
        assert all(context.startswith("user:en ") for context in contexts), "the English prompt, whatever the language"
        self.seen += answers
        return [0.305 * (len(answer) - 1) + 5.0 * ("d" in answer) for answer in answers]


@pytest.fixture
def stage(tmp_path: Path, dataset_of: Callable[..., Path]) -> Callable[..., Manifest]:
    """stage(name, fake, ...) -> the manifest of a run by `fake`, written to tmp_path / name."""

    def run(
        name: str,
        fake: Fake,
        rows: Sequence[Mapping[str, object]] | None = None,
        config: ImplicitConfig = BY_2,
        store: str | None = "store",
    ) -> Manifest:
        keys = [key for key in KEYS if key != MISSING]
        asked = dataset_of("prompts", prompts(keys), f"{name} prompts")
        answered = dataset_of("samples", samples(keys, TEXTS) if rows is None else rows, f"{name} samples")
        writer = Writer(
            tmp_path / name, "scores", stage="implicit", version=1, config=config, inputs=[asked, answered],
            models={"tuned": {"id": "a"}, "base": {"id": "b"}}, store=store and str(tmp_path / store),
        )  # fmt: skip
        if writer.done:
            return writer.done
        answers = Answers([asked], [answered], config.shard_prompts)
        return work(writer, answers, tiny.Letters(), config.max_length or 80, config, fake.load)

    return run


def rows_of(directory: Path) -> list[dict[str, Any]]:
    by_key = [(name, "ascending") for name in ("language", "prompt_id", "sample_index")]
    return conform(dataset.read(directory, "scores").sort_by(by_key), "scores").to_pylist()


def test_a_stage_takes_length_off_the_difference_of_two_models(tmp_path: Path, stage: Callable[..., Manifest]) -> None:
    fake = Fake()
    manifest = stage("one", fake)

    # 20 letters: 6.1; 12 with a d: 8.66; 4: 1.22. Tokens are one more than letters. mid (13) is chosen, the lowest is
    # tiny (5) until 6.1 - 21a < 1.22 - 5a, from where on it is the long one (21): 8, then -8, so the first alpha
    assert manifest.metrics["alpha"] == {"da": 0.0, "en": 0.0, "nl": 0.0}
    assert manifest.metrics["length_difference"]["da"] == {"before": 8.0, "after": 8.0}
    expected = [6.1, 8.66, 1.22, 6.1]
    found = rows_of(tmp_path / "one")
    assert [row["sample_index"] for row in found] == [0, 1, 2, 3] * 33
    assert [row["reward"] for row in found] == pytest.approx(expected * 33)
    mean = sum(expected) / 4
    assert manifest.metrics["reward_mean"] == pytest.approx({"da": mean, "en": mean, "nl": mean})
    std = (sum((reward - mean) ** 2 for reward in expected) / 4) ** 0.5
    assert manifest.metrics["reward_std"] == pytest.approx({"da": std, "en": std, "nl": std})
    assert [(c.language, c.rows_in, c.rows_out, c.dropped) for c in manifest.counts] == [
        ("da", 72, 44, {"no_english_prompt": 6, "over_long": 11, "special_token": 11}),
        ("en", 66, 44, {"over_long": 11, "special_token": 11}),
        ("nl", 72, 44, {"no_english_prompt": 6, "over_long": 11, "special_token": 11}),
    ]
    assert len(fake.seen) == 3 * 3 * 11 and manifest.metrics["distinct_share"]["en"] == pytest.approx(5 / 6)


def test_each_language_has_its_own_alpha_and_every_row_its_share_of_it(
    tmp_path: Path, stage: Callable[..., Manifest]
) -> None:
    # da: 9.15, 6.1 and 3.05 nats, the longest highest, the shortest lowest, until a = .305 turns them round: 20, -20
    dansk = samples([("da", "00")], ["l" * 30, "m" * 20, "t" * 10])
    # nl: 9.15, 8.965 and 3.965: chosen is the longest until 9.15 - 30a < 8.965 - 13a, from .0109 on the next: 17, 0
    dutch = samples([("nl", "00")], ["l" * 30, "m" * 12 + "d", "m" * 13])
    manifest = stage("two", Fake(), [*dansk, *dutch], config=replace(BY_2, length_in="characters"))
    assert manifest.metrics["alpha"] == {"da": 0.0, "nl": pytest.approx(0.02)}
    assert manifest.metrics["length_difference"] == {
        "da": {"before": 20, "after": 20},
        "nl": {"before": 17, "after": 0},
    }
    found = {(row["language"], row["sample_index"]): row["reward"] for row in rows_of(tmp_path / "two")}
    assert [found["nl", at] for at in range(3)] == pytest.approx([9.15 - 0.6, 8.965 - 0.26, 3.965 - 0.26])
    assert [found["da", at] for at in range(3)] == pytest.approx([9.15, 6.1, 3.05])
    without = stage("three", Fake(), [*dansk, *dutch], config=replace(BY_2, length_control=False))
    assert without.metrics["alpha"] == {"da": 0.0, "nl": 0.0}
    assert [row["reward"] for row in rows_of(tmp_path / "three")] == pytest.approx(
        [9.15, 6.1, 3.05, 9.15, 8.965, 3.965]
    )


def test_an_alpha_at_the_end_of_its_grid_is_said(stage: Callable[..., Manifest]) -> None:
    rows = samples([("nl", "00")], ["l" * 30, "m" * 12 + "d", "m" * 13])
    with pytest.warns(UserWarning, match=r"found the alpha of nl at the end of its grid, 0\.02, where lengths still"):
        manifest = stage("one", Fake(), rows, config=replace(BY_2, alpha_most=0.02))
    assert len(manifest.warnings) == 1


def test_rows_do_not_depend_on_order_or_on_how_much_is_done_at_a_time(
    tmp_path: Path, stage: Callable[..., Manifest]
) -> None:
    texts = ["l" * 30, "m" * 12 + "d", "m" * 13]
    rows = samples([key for key in KEYS if key != MISSING], texts)
    first = stage("one", Fake(), rows)
    assert first.metrics["alpha"]["da"] > 0
    shuffled = stage("two", Fake(), random.Random(0).sample(rows, len(rows)), store=None)
    assert outcome(shuffled) == outcome(first)
    whole = stage("three", Fake(), rows, config=replace(BY_2, shard_prompts=999), store=None)
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "three") and len(whole.files) < len(first.files)


@pytest.mark.parametrize("store", [None, "store"])
def test_a_run_that_was_killed_goes_on_and_gives_the_same(
    store: str | None, tmp_path: Path, stage: Callable[..., Manifest]
) -> None:
    rows = samples([key for key in KEYS if key != MISSING], ["l" * 30, "m" * 12 + "d", "m" * 13])
    first = stage("one", Fake(), rows, store="other")
    with pytest.raises(KeyboardInterrupt):
        stage("two", Fake(kill=40), rows, store=store)
    assert not (tmp_path / "two" / dataset.MANIFEST).exists()

    fake = Fake()
    second = stage("two", fake, rows, store=store)

    assert outcome(second) == outcome(first) and rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
    assert 0 < len(fake.seen) < 33 * 3 and min(computed(second)) > 0
    dataset.verify(tmp_path / "two")


def test_another_grid_computes_no_shard_again(tmp_path: Path, stage: Callable[..., Manifest]) -> None:
    rows = samples([key for key in KEYS if key != MISSING], ["l" * 30, "m" * 12 + "d", "m" * 13])
    first, fake = stage("one", Fake(), rows), Fake()
    raw = stage("two", fake, rows, config=replace(BY_2, length_control=False))
    assert fake.loaded == 0 and computed(raw) == (0, computed(first)[0])
    assert raw.metrics["reward_mean"]["da"] > first.metrics["reward_mean"]["da"]
    third = stage("three", fake, rows, config=replace(BY_2, name_language=True))
    assert fake.loaded == 1 and [count.dropped.get("over_long", 0) for count in third.counts] == [33, 0, 33]


# --- with real models


@pytest.mark.engine
@pytest.mark.parametrize("named", [False, True])
def test_run_gives_the_log_ratios_of_transformers_one_at_a_time(
    named: bool, tmp_path: Path, dataset_of: Callable[..., Path]
) -> None:
    tuned, base = (tiny.policy(tmp_path / f"model {seed}", seed=seed) for seed in (1, 2))
    keys = [(language, name) for language in ("da", "en") for name in ("a", "b")]
    texts = ["ja tak", "nej " * 9, "ja tak", f"a{tiny.END}", "x" * 500]
    asked, answered = dataset_of("prompts", prompts(keys)), dataset_of("samples", samples(keys, texts))
    score = functools.partial(
        run, prompts=[asked], samples=[answered], tuned=str(tuned), base=str(base), store=str(tmp_path / "store")
    )
    config = ImplicitConfig(shard_prompts=1, max_tokens=300, name_language=named, length_control=False)

    raw = score(out=tmp_path / "raw", config=config)
    manifest = score(out=tmp_path / "scores", config=replace(config, length_control=True))

    dropped = {"over_long": 2, "special_token": 2}
    assert [(c.language, c.dropped) for c in manifest.counts] == [("da", dropped), ("en", dropped)]
    assert computed(raw) == (4, 0) and computed(manifest) == (0, 4)
    apart = []
    for bare, row in zip(rows_of(tmp_path / "raw"), rows_of(tmp_path / "scores"), strict=True):
        ask = "Please answer in Danish, unless you are asked for another language.\n\n" * (
            row["language"] == "da" and named
        )

        def ratio(question: str, answer: str = texts[row["sample_index"]]) -> tuple[float, int]:
            start = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            context, answer_ids = (tiny.tokenizer()(text).input_ids for text in (start, f"{answer}<|im_end|>\n"))
            (high,), (low,) = (alone(model, [(context, answer_ids)]) for model in (tuned, base))
            return high - low, len(answer_ids)

        reward, length = ratio(f"{ask}en {row['prompt_id']}?")
        assert bare["reward"] == pytest.approx(reward, abs=1e-4)
        alpha = manifest.metrics["alpha"][row["language"]]
        assert row["reward"] == pytest.approx(reward - alpha * length, abs=1e-4)
        apart.append(abs(reward - ratio(f"da {row['prompt_id']}?")[0]))
    assert min(apart) > 1e-2, "the answer's own prompt would give another reward"


@pytest.mark.engine
def test_models_that_do_not_belong_together_are_refused(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    policy, other, bos = (tiny.policy(tmp_path / name, bos=name == "bos") for name in ("policy", "other", "bos"))
    tiny.tokenizer(template=tiny.CHATML.replace("assistant", "model")).save_pretrained(other)
    longer = tiny.tokenizer()
    longer.add_tokens(["more"])
    longer.save_pretrained(bos)
    asked = dataset_of("prompts", prompts([("en", "a")]))
    answered = dataset_of("samples", samples([("en", "a")], ["yes"]))

    assert tokenizer_of([(str(policy), None)] * 2).chat_template == tiny.CHATML
    for wrong, what in ((other, "chat templates"), (bos, "vocabularies")):
        with pytest.raises(ValueError, match=f"found different {what} in .*; expected the same"):
            run(prompts=[asked], samples=[answered], tuned=str(policy), base=str(wrong), out=tmp_path / "out")
    long = ImplicitConfig(max_length=513)
    with pytest.raises(ValueError, match="max_length: found 513; expected at most the models' 512 tokens"):
        run(prompts=[asked], samples=[answered], tuned=str(policy), base=str(policy), out=tmp_path / "out", config=long)


def test_tokens_of_both_models_are_counted() -> None:
    class Counting:
        gpus = 1

        def __init__(self, tokens: int) -> None:
            self.tokens_in = tokens

        def __call__(self, texts: Sequence[Text]) -> list[tuple[float, int]]:
            return [(float(self.tokens_in), 2)] * len(texts)

    both = Implicit(Counting(7), Counting(5))  # type: ignore[arg-type]
    assert both([([1], [2])]) == [2.0]
    assert (both.tokens_in, both.tokens_out, both.gpus) == (12, 0, 1)
