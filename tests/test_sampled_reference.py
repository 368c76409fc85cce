"""Reference log-probabilities from sampling: by real vLLM, through pair, to TRL, which would compute the same."""

import contextlib
import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tiny
from test_pair import MANY, work
from test_train import job_of

from croco import chat, curves, dataset, encoding, likelihood, pair, sample, train, trainer
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


def write(out: Path, rows: list[dict[str, Any]], **config: Any) -> Path:
    writer = Writer(out, out.name, stage="test", version=1, config=config)
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
        for n in range(11) for code in LANGUAGES
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
    text = chat.prompt_ids(tokenizer, row["prompt"]), row["chosen_ids"]
    [(computed, _)] = likelihood.load(str(policy), max_tokens=400)([text])
    assert row["chosen_logprob"] == pytest.approx(computed, abs=1e-4) and computed < -10


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
    rows = dataset.read(world / pool, "pairs").to_pylist()
    assert tuned.metrics["sampled_reference"] == {
        split: sum(row["split"] == split and None not in (row["chosen_ids"], row["rejected_ids"]) for row in rows)
        for split in ("train", "eval")
    }
    known = sum(tuned.metrics["sampled_reference"].values())
    assert known == len(rows) if pool == "language" else 0 < known < len(rows)

    computed = losses(tmp_path / "computed", rows, policy, lambda _: math.nan)
    assert losses(tmp_path / "sampled", rows, policy, lambda found: found) == pytest.approx(computed, abs=1e-5)
    assert losses(tmp_path / "wrong", rows, policy, lambda found: found + 1) != pytest.approx(computed, abs=1e-5)


def losses(out: Path, rows: list[dict[str, Any]], policy: Path, reference: Callable[[float], float]) -> list[float]:
    """Each step's loss and the eval loss, with `reference` of each chosen answer's log-probability; nan is computed."""
    job = {**job_of(out, [], policy, **SMALL, sampled_reference=True), "splits": ["train", "eval"]}
    for split in job["splits"]:
        part = [row for row in rows if row["split"] == split]
        ids = encoding.encode(part, chat.load_tokenizer(str(policy)), "dpo", 4096, dataset.Tally("rows"))
        changed = ({**row, "ref_chosen_logps": reference(row["ref_chosen_logps"])} for row in ids)
        encoding.write(out / trainer.CHECKPOINTS / f"{split}.arrow", changed)
    made = trainer.build(out, job)
    made.train()
    return [*(line["loss"] for line in made.state.log_history if "loss" in line), made.evaluate()["eval_loss"]]


@pytest.mark.engine
def test_two_processes_train_as_one_where_some_references_are_computed(
    policy: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = []
    for processes in (1, 2):
        config = TrainConfig(**{**SMALL, "micro_batch": 1}, sampled_reference=True, processes=processes)
        train.run(data=[world / "all"], model=str(policy), out=tmp_path / str(processes), config=config)
        lines = curves.read(tmp_path / str(processes) / "metrics.jsonl")
        found.append([line[name] for line in lines for name in ("loss", "eval_loss") if name in line])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("known", ["", "0", "1 2 5", "0 1 2 3 4 5 6"])
def test_only_references_that_are_not_known_are_computed_and_rows_stay_in_order(known: str) -> None:
    from datasets import Dataset

    has = {int(place) for place in known.split()}
    chosen = [float(-row) if row in has else math.nan for row in range(7)]
    rejected = [-10.0 - row if row in has or row == 3 else math.nan for row in range(7)]
    rows = Dataset.from_dict(
        {"prompt_ids": [[row] for row in range(7)], "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    )
    asked: list[int] = []

    def compute(lacking: Any) -> Any:
        numbers = [row[0] for row in lacking["prompt_ids"]]
        asked.extend(numbers)
        assert lacking.column_names == ["prompt_ids"]
        lacking = lacking.add_column("ref_rejected_logps", [-10.0 - row for row in numbers])
        return lacking.add_column("ref_chosen_logps", [float(-row) for row in numbers])

    found = trainer._references(rows, compute)
    assert asked == [row for row in range(7) if row not in has]
    assert found[:] == {
        "prompt_ids": [[row] for row in range(7)],
        "ref_chosen_logps": [float(-row) for row in range(7)],
        "ref_rejected_logps": [-10.0 - row for row in range(7)],
    }
    bare = rows.remove_columns(["ref_chosen_logps", "ref_rejected_logps"])
    assert trainer._references(bare, lambda given: [given]) == [bare]


@pytest.mark.engine
def test_without_log_probabilities_references_are_computed_and_that_is_said(
    policy: Path, dataset_of: Callable[..., Path], tmp_path: Path
) -> None:
    from test_train import pair as row

    given: dict[str, Any] = {"data": [dataset_of("pairs", [row(number) for number in range(8)])], "model": str(policy)}
    plain = train.run(**given, out=tmp_path / "plain", config=TrainConfig(**SMALL))
    with pytest.warns(match=r"found .*0.* of .*8.* pairs; .*--logprob"):
        asked = train.run(**given, out=tmp_path / "asked", config=TrainConfig(**SMALL, sampled_reference=True))
    assert asked.digest == plain.digest
    assert asked.metrics["sampled_reference"] == {"train": 0}


@pytest.mark.engine
@pytest.mark.parametrize(("pool", "nodes", "taken"), [("all", 1, True), ("all", 2, False), ("language", 2, True)])
def test_several_nodes_take_references_of_all_pairs_or_none(
    pool: str, nodes: int, taken: bool, policy: Path, world: Path, tmp_path: Path
) -> None:
    config = TrainConfig(**SMALL, sampled_reference=True)
    writer = Writer(tmp_path / "out", None, stage="train", version=1, config=config)
    (writer.out / trainer.CHECKPOINTS).mkdir()
    with contextlib.nullcontext() if taken else pytest.warns(match="expected those of all on several nodes"):
        *_, sampled = train._rows(writer, [world / pool], chat.load_tokenizer(str(policy)), config, nodes)
    with pa.ipc.open_stream(writer.out / trainer.CHECKPOINTS / "train.arrow") as stream:
        assert ("ref_chosen_logps" in stream.schema.names) == bool(sampled["train"]) == taken


@pytest.mark.parametrize("source", ["chosen", "rejected", "random"])
@pytest.mark.parametrize("pool", ["language", "all"])
def test_whatever_pool_and_slabs_a_pair_has_its_own_samples_ids(pool: str, source: str, tmp_path: Path) -> None:
    """Of four answers with two texts, chosen and rejected are often the same at first, and chosen again."""
    rng = random.Random(0)
    keys = [(str(prompt), code, index) for prompt in range(40) for code in LANGUAGES for index in range(4)]
    rng.shuffle(keys)
    names = ("prompt_id", "language", "sample_index")
    samples = [
        dict(zip(names, key, strict=True))
        | {"text": f"{key[2] % 2}", "token_ids": [number, 7], "finish_reason": "stop", "seed": 0, "logprob": -number}
        for number, key in enumerate(keys)
    ]
    prompts = [
        {"prompt_id": str(prompt), "language": code, "messages": [{"role": "user", "content": code}], "split": "train"}
        for prompt in range(40)
        for code in LANGUAGES
    ]
    scores = [{name: row[name] for name in names} | {"reward": rng.choice([0.0, 1.0, 2.0])} for row in samples]
    inputs = {
        "prompts": [write(tmp_path / "prompts", prompts)],
        "samples": [write(tmp_path / "samples", samples, logprob=True)],
        "scores": [write(tmp_path / "scores", scores)],
    }
    with warnings.catch_warnings(action="ignore"):  # pools are small
        work(inputs, tmp_path / "pairs", PairConfig(pool=pool, prompt_source=source), MANY)
    number, own = {key: number for number, key in enumerate(keys)}, 0
    rows = dataset.read(tmp_path / "pairs", "pairs").to_pylist()
    for row in rows:
        for side in ("chosen", "rejected"):
            at = number[row["prompt_id"], row[f"{side}_language"], row[f"{side}_index"]]
            mine = row[f"{side}_language"] == row["prompt_language"]
            assert (row[f"{side}_ids"], row[f"{side}_logprob"]) == (([at, 7], -at) if mine else (None, None))
            own += mine
    assert len(rows) > 30 and (own == 2 * len(rows) if pool == "language" else 0 < own < 2 * len(rows))


def test_samples_of_which_some_have_no_log_probabilities_give_none_and_say_so(tmp_path: Path) -> None:
    key = {"prompt_id": "a", "language": "da", "finish_reason": "stop", "seed": 0, "token_ids": [1]}
    parts = [
        write(tmp_path / str(number) / "samples", [{**key, "sample_index": number, "text": str(number)}], **config)
        for number, config in enumerate([{}, {"logprob": True}])
    ]
    scores = [{"prompt_id": "a", "language": "da", "sample_index": number, "reward": number} for number in range(2)]
    turns = [{"role": "user", "content": "hi"}]
    prompts = [{"prompt_id": "a", "language": "da", "messages": turns, "split": "train"}]
    given = {"prompts": [write(tmp_path / "prompts", prompts)], "scores": [write(tmp_path / "scores", scores)]}
    with pytest.warns(UserWarning) as found:
        pair.run(**given, samples=parts, out=tmp_path / "pairs")
    assert "1 of 2 samples have no log-probabilities; no pair gets any" in str(found[0].message)
    [row] = dataset.read(tmp_path / "pairs", "pairs").to_pylist()
    assert (row["chosen_ids"], row["chosen_logprob"]) == (None, None)


@pytest.mark.parametrize("knobs", [{"method": "sft"}, {"method": "online"}, {"off_policy": True}])
def test_references_of_sampling_are_dpos_on_its_own_answers(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"sampled_reference: found it with method .* expected dpo on the model's own"):
        TrainConfig(sampled_reference=True, **knobs)
