"""Rate: a reward for every arena answer or a counted reason, equal to what transformers gives."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny

from croco import dataset
from croco.dataset import Manifest
from croco.rate import RateConfig, Rated, run
from croco.score import work
from croco.writer import Writer

OUTPUTS = {"da": ["ja", "nej", "x" * 600, "a<|im_end|>", ""], "nl": ["ja", "nee"]}
KEYS = [(code, f"q{number}") for code, outputs in OUTPUTS.items() for number in range(len(outputs))]


def answers(outputs: Mapping[str, Sequence[str]] = OUTPUTS, generator: str = "tuned") -> list[dict[str, object]]:
    about = {"finish_reason": "stop", "identified": None, "generator": generator, "category": "c", "subcategory": "s"}
    return [
        {"question_id": f"q{number}", "language": code, "prompt": f"{code} {number}?", "output": output, **about}
        for code, texts in outputs.items()
        for number, output in enumerate(texts)
    ]


class Fake:
    """A reward model, and a plain forward, that give each conversation's length."""

    gpus, tokens_out = 0, 0

    def __init__(self) -> None:
        self.seen, self.loaded = list[str](), 0

    @property
    def tokens_in(self) -> int:
        return sum(map(len, self.seen))

    def start(self, probes: Sequence[list[int]]) -> tuple[list[float], "Fake"]:
        self.loaded += 1
        return [float(len(ids)) for ids in probes], self

    def __call__(self, conversations: Sequence[list[int]]) -> list[float]:
        self.seen += map(tiny.Letters.decode, conversations)
        return [float(len(ids)) for ids in conversations]


def rate(out: Path, given: Path, fake: Fake, config: RateConfig = RateConfig()) -> Manifest:
    writer = Writer(out, "scores", stage="rate", version=1, config=config, inputs=[given],
                    models={"reward": {"id": "fake"}}, store=str(out.parent / "store"))  # fmt: skip
    start: Any = fake.start
    return writer.done or work(writer, Rated(given, config.shard_prompts), tiny.Letters(), 100, config, start)


def computed(manifest: Manifest) -> tuple[int, int]:
    return sum(row.shards_computed for row in manifest.ledger), sum(row.shards_reused for row in manifest.ledger)


def test_each_answer_is_scored_as_the_reply_to_its_question(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    fake = Fake()
    manifest = rate(tmp_path / "rated", dataset_of("answers", answers({"da": ["ja", "nej"], "nl": ["nee!"]})), fake)

    assert fake.seen[-2:] == ["user:da 0?;assistant:ja;", "user:da 1?;assistant:nej;"]
    assert dataset.read(tmp_path / "rated", "scores").to_pylist() == [
        {"prompt_id": "q0", "language": "da", "sample_index": 0, "reward": 24.0},
        {"prompt_id": "q1", "language": "da", "sample_index": 0, "reward": 25.0},
    ]
    assert [(c.language, c.rows_in, c.rows_out, c.dropped) for c in manifest.counts] == [
        ("da", 2, 2, {}),
        ("nl", 1, 0, {"special_token": 1}),
    ]
    assert manifest.metrics["parity"]["answers"] == 2


def test_what_was_scored_is_not_scored_again(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    outputs = {"da": [f"svar {number}" for number in range(20)]}
    given, by_2 = dataset_of("answers", answers(outputs)), RateConfig(shard_prompts=2)
    first, fakes = rate(tmp_path / "first", given, Fake(), by_2), [Fake(), Fake()]
    assert computed(first)[0] > 5 and computed(first)[1] == 0

    again = rate(tmp_path / "again", given, fakes[0], by_2)
    for record in (tmp_path / "store" / "results" / "rate").iterdir():
        record.unlink()
    resumed = rate(tmp_path / "resumed", given, fakes[1], by_2)

    assert [fake.loaded for fake in fakes] == [0, 0]
    assert again.digest == resumed.digest == first.digest
    assert computed(again) == computed(resumed) == (0, computed(first)[0])


def test_rewards_do_not_depend_on_the_order_of_the_answers(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    given = answers({"da": [f"svar {number}" for number in range(9)]})
    straight = rate(tmp_path / "one", dataset_of("answers", given), Fake())
    turned = rate(tmp_path / "two", dataset_of("answers", given[::-1], "turned"), Fake())
    assert turned.digest == straight.digest
    assert computed(turned) == (0, 1), "the same shard, found in the store"


def test_answers_of_several_models_are_refused(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    mixed = dataset_of("answers", [*answers(), *answers(generator="base")])
    with pytest.raises(ValueError, match="found answers of base, tuned; expected one model's"):
        Rated(mixed, 256)


def test_a_dataset_of_something_else_is_refused(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    rewards = dataset_of("scores", [{"prompt_id": "p", "language": "da", "sample_index": 0, "reward": 1.0}])
    with pytest.raises(ValueError, match="found a dataset of scores; expected a finished dataset of answers"):
        run(answers=rewards, model=str(tmp_path), out=tmp_path / "rated")


@pytest.mark.engine
def test_run_gives_the_rewards_of_a_transformers_forward(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    given, model = dataset_of("answers", answers()), str(tiny.reward(tmp_path / "reward"))
    store = str(tmp_path / "store")

    manifest = run(answers=given, model=model, out=tmp_path / "rated", store=store)
    again = run(answers=given, model=model, out=tmp_path / "again", store=store, config=RateConfig(gpus=2))

    found = {
        (r["language"], r["prompt_id"]): r["reward"] for r in dataset.read(tmp_path / "rated", "scores").to_pylist()
    }
    assert sorted(found) == [key for key in KEYS if key not in [("da", "q2"), ("da", "q3")]]
    asked = {(str(row["language"]), str(row["question_id"])): row for row in answers()}
    texts = [
        f"<|im_start|>user\n{asked[key]['prompt']}<|im_end|>\n<|im_start|>assistant\n{asked[key]['output']}<|im_end|>\n"
        for key in found
    ]
    plain = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        expected = [plain(tiny.tokenizer()(text, return_tensors="pt").input_ids).logits.item() for text in texts]
    assert list(found.values()) == pytest.approx(expected, abs=1e-4)
    assert len(set(found.values())) == 5
    assert [(c.language, c.rows_in, c.rows_out, c.dropped) for c in manifest.counts] == [
        ("da", 5, 3, {"over_long": 1, "special_token": 1}),
        ("nl", 2, 2, {}),
    ]
    assert 0 <= manifest.metrics["parity"]["difference"] < 1e-3
    assert manifest.inputs == [{"stage": "test", "contract": "answers", "digest": dataset.load_manifest(given).digest}]
    assert (again.digest, computed(again)) == (manifest.digest, (0, 2)), "fetched, with two GPUs that are not there"
