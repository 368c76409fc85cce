"""Reference log-probabilities from sampling: by real vLLM, through pair, to TRL, which would compute the same."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_train import job_of

from croco import chat, curves, dataset, encoding, pair, sample, train, trainer
from croco.pair import PairConfig
from croco.sample import SampleConfig
from croco.train import TrainConfig
from croco.writer import Writer

DECODING = {"n": 32, "temperature": 2.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64}
SMALL = {"global_batch": 4, "micro_batch": 2, "learning_rate": 0.01}
LANGUAGES = ("da", "de")
PAIRED = {"language": {"pool": "language"}, "all": {"pool": "all", "prompt_source": "random"}}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tiny.policy(tmp_path_factory.mktemp("models") / "policy")
    return folder


def write(out: Path, rows: list[dict[str, Any]]) -> Path:
    writer = Writer(out, out.name, stage="test", version=1, config={})
    writer.add(rows)
    writer.finish([dataset.Count(out.name, "", len(rows), len(rows))])
    return out


@pytest.fixture(scope="module")
def world(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of vLLM at a temperature, of which some were cut, and their pairs by pool, with made-up rewards."""
    out = tmp_path_factory.mktemp("world")
    prompts = write(out / "prompts", [
        {"prompt_id": str(n), "language": code, "messages": [{"role": "user", "content": f"{n} in {code}"}],
         "split": "eval" if n == 5 else "train"}
        for n in range(10) for code in LANGUAGES
    ])  # fmt: skip
    config = SampleConfig(**DECODING, logprob=True)
    sample.run(prompts=[prompts], model=str(policy), out=out / "samples", config=config)
    answers = dataset.read(out / "samples", "samples").to_pylist()
    assert {row["finish_reason"] for row in answers} == {"stop", "length"}
    scored = [{name: row[name] for name in ("prompt_id", "language", "sample_index")} for row in answers]
    scores = write(out / "scores", [row | {"reward": float(number * 7 % 31)} for number, row in enumerate(scored)])
    given = {"prompts": [prompts], "samples": [out / "samples"], "scores": [scores]}
    for name, knobs in PAIRED.items():
        pair.run(**given, out=out / name, config=PairConfig(**knobs, cut_may_win=True))
    return out


def likelihood(policy: Path, prompt: list[int], answer: list[int]) -> float:
    """The sum of an answer's log-probabilities by a plain forward of transformers, in nats."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy)
    with torch.inference_mode():
        found = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return sum(float(found[len(prompt) + at - 1, token]) for at, token in enumerate(answer))


@pytest.mark.engine
def test_pairs_have_what_was_sampled_where_it_was_for_their_prompt(policy: Path, world: Path) -> None:
    tokenizer = chat.load_tokenizer(str(policy))
    samples = {
        (row["prompt_id"], row["language"], row["sample_index"]): row
        for row in dataset.read(world / "samples", "samples").to_pylist()
    }
    own: dict[str, list[bool]] = {name: [] for name in PAIRED}
    for name in PAIRED:
        for row in dataset.read(world / name, "pairs").to_pylist():
            for side in ("chosen", "rejected"):
                answer = samples[row["prompt_id"], row[f"{side}_language"], row[f"{side}_index"]]
                own[name].append(row[f"{side}_language"] == row["prompt_language"])
                found = (row[side], row[f"{side}_ids"], row[f"{side}_logprob"])
                kept = (answer["token_ids"], answer["logprob"]) if own[name][-1] else (None, None)
                assert found == (answer["text"], *kept)
    assert all(own["language"]) and 0 < sum(own["all"]) < len(own["all"])
    row = dataset.read(world / "language", "pairs").to_pylist()[0]
    by_hand = likelihood(policy, chat.prompt_ids(tokenizer, row["prompt"]), row["chosen_ids"])
    assert row["chosen_logprob"] == pytest.approx(by_hand, abs=1e-4) and by_hand < -10


@pytest.mark.engine
@pytest.mark.parametrize("pool", PAIRED)
def test_training_begins_at_ln_2_and_ends_as_with_the_references_pass(
    policy: Path, world: Path, tmp_path: Path, pool: str
) -> None:
    config = TrainConfig(**SMALL, sampled_reference=True)
    tuned = train.run(data=[world / pool], model=str(policy), out=tmp_path / "tuned", config=config)
    lines = [line for line in curves.read(tmp_path / "tuned" / "metrics.jsonl") if "loss" in line]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[-1]["loss"] != pytest.approx(math.log(2), abs=1e-3)
    rows = {"train": dataset.read(world / pool, "pairs").to_pylist(), "eval": []}
    for row in list(rows["train"]):
        if row["split"] == "eval":
            rows["train"].remove(row)
            rows["eval"].append(row)
    whole = {
        split: sum(None not in (row["chosen_ids"], row["rejected_ids"]) for row in part) for split, part in rows.items()
    }
    assert tuned.metrics["sampled_references"] == whole
    assert (whole["train"] == len(rows["train"])) == (pool == "language")

    computed = losses(tmp_path / "computed", rows["train"], policy, lambda _: math.nan)
    assert losses(tmp_path / "sampled", rows["train"], policy, lambda found: found) == pytest.approx(computed, abs=1e-5)
    wrong = losses(tmp_path / "wrong", rows["train"], policy, lambda found: found + 1)
    assert (wrong == pytest.approx(computed, abs=1e-5)) == (whole["train"] == 0)


def losses(out: Path, rows: list[dict[str, Any]], policy: Path, reference: Callable[[float], float]) -> list[float]:
    """Each step's loss, with `reference` of each chosen answer's log-probability; nan is computed."""
    job = job_of(out, [], policy, **SMALL, sampled_reference=True)
    ids = encoding.encode(rows, chat.load_tokenizer(str(policy)), "dpo", 4096, dataset.Tally("rows"))
    changed = ({**row, "ref_chosen_logps": reference(row["ref_chosen_logps"])} for row in ids)
    encoding.write(out / trainer.CHECKPOINTS / "train.arrow", changed)
    made = trainer.build(out, job)
    made.train()
    (out / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return [line["loss"] for line in made.state.log_history if "loss" in line]


@pytest.mark.engine
def test_without_log_probabilities_there_is_nothing_to_take(
    policy: Path, dataset_of: Callable[..., Path], tmp_path: Path
) -> None:
    from test_train import pair as row

    data = [dataset_of("pairs", [row(number) for number in range(4)])]
    config = TrainConfig(**SMALL, sampled_reference=True)
    with pytest.raises(ValueError, match=r"found no pair with log-probabilities among 4; .* sample with --logprob"):
        train.run(data=data, model=str(policy), out=tmp_path / "out", config=config)


@pytest.mark.parametrize("knobs", [{"method": "sft"}, {"method": "online"}, {"off_policy": True}])
def test_references_of_sampling_are_dpos_on_its_own_answers(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"sampled_reference: found it with method .* expected dpo on the model's own"):
        TrainConfig(sampled_reference=True, **knobs)
