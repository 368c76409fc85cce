import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubeserver
import objectstore
import pytest

from croco import curves, dataset, encoding, train, trainer
from croco.encoding import accumulation
from croco.store import open_store
from croco.train import TrainConfig
from croco.writer import Writer

CHOSEN = ["Yes, of course.", "Ja, selvfølgelig, det kan du tro!", "7"]
REJECTED = ["No.", "Aldrig i livet", "Perhaps tomorrow, who knows?"]


def pair(number: int, **other: Any) -> dict[str, Any]:
    return {
        "pair_id": f"pair-{number:03d}",
        "prompt_id": f"prompt-{number:03d}",
        "prompt_language": ["en", "da"][number % 2],
        "prompt": [{"role": "user", "content": f"May I, number {number}?"}],
        "chosen": CHOSEN[number % 3],
        "rejected": REJECTED[number // 3 % 3],
        "chosen_language": "en",
        "rejected_language": "en",
        "chosen_reward": 1.0,
        "rejected_reward": 0.0,
        "chosen_index": 0,
        "rejected_index": 1,
        "pool_size": 64,
        "reward_mean": 0.5,
        "reward_std": 0.25,
        "domain": None,
        "split": "train",
        **other,
    }


def sft_row(number: int, **other: Any) -> dict[str, Any]:
    return {
        "prompt_id": f"prompt-{number:03d}",
        "language": ["en", "da"][number % 2],
        "prompt": [{"role": "user", "content": f"May I, number {number}?"}],
        "completion": CHOSEN[number % 3],
        "reward": None,
        "split": "train",
        **other,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "ppo"}, "method: found 'ppo'; expected one of dpo, sft, online"),
        ({"learning_rate": 0.0}, r"learning_rate: found 0.0; expected a number above 0"),
        ({"beta": -1.0}, r"beta: found -1.0; expected a number above 0"),
        ({"nll": -0.1}, "nll: found -0.1; expected 0 or more, and finite"),
        ({"nll": math.nan}, "nll: found nan; expected 0 or more, and finite"),
        ({"nll": 0.1, "method": "sft"}, "nll: found 0.1 with method sft; expected 0"),
        ({"global_batch": 0}, "global_batch: found 0; expected 1 or more"),
        ({"processes": 0}, "processes: found 0; expected 1 or more"),
        ({"lora_dropout": 1.0}, r"lora_dropout: found 1.0; expected a number in \[0, 1\)"),
        ({"warmup": -0.1}, r"warmup: found -0.1; expected a number in \[0, 1\)"),
    ],
)
def test_a_config_out_of_range_is_refused_with_its_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)


def test_the_learning_rate_follows_the_method_unless_given() -> None:
    assert TrainConfig().rate == 5e-6
    assert TrainConfig(method="online").rate == 5e-6
    assert TrainConfig(method="sft").rate == 2e-4
    assert TrainConfig(method="sft", learning_rate=1e-3).rate == 1e-3


def test_the_global_batch_is_accumulated() -> None:
    assert accumulation(TrainConfig(), processes=8) == 8
    assert accumulation(TrainConfig(), processes=1) == 64
    assert accumulation(TrainConfig(micro_batch=4), processes=2) == 8
    with pytest.raises(ValueError, match=r"found 64; expected a multiple of 6 \(micro_batch 2 x 3 processes\)"):
        accumulation(TrainConfig(micro_batch=2), processes=3)


def test_processes_repeat_rows_only_where_they_do_not_divide() -> None:
    config = TrainConfig(micro_batch=2)
    assert [encoding.repeated(21, config, processes) for processes in (1, 2, 8)] == [0, 3, 11]
    assert encoding.repeated(32, config, processes=8) == 0


def test_data_of_the_other_method_are_refused(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    rows = dataset_of("sft", [sft_row(0)])
    with pytest.raises(ValueError, match="found a dataset of sft; expected pairs, as method dpo needs"):
        train.run(data=[rows], model="base", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


COMMITS = ["0" * 40, "1" * 40]


def answered_by(identity: dict[str, Any]) -> dict[str, Any]:
    """A manifest's models."""
    return {"models": {"policy": {**identity, "chat_template_sha256": "any"}}}


@pytest.mark.parametrize("contract", ["pairs", "sft"])
def test_answers_of_another_commit_or_model_are_refused_unless_meant(
    contract: str, dataset_of: Callable[..., Path]
) -> None:
    rows = [pair(0) if contract == "pairs" else sft_row(0)]
    base = {"id": "some/model", "revision": COMMITS[0]}
    same = dataset_of(contract, rows, "same", **answered_by(base))
    unknown = dataset_of(contract, rows, "unknown")
    encoding.check_policy([same, unknown], base, off_policy=False)
    others = {
        "commit": {"id": "some/model", "revision": COMMITS[1]},
        "model": {"id": "another/model", "revision": COMMITS[0]},
        "folder": {"id": "some/model", "sha256": "ab" * 32},
        "endpoint": {"id": "some/model", "endpoint": "http://localhost"},
    }
    for name, other in others.items():
        data = [same, dataset_of(contract, rows, name, **answered_by(other))]
        with pytest.raises(ValueError, match=rf"{name}: found answers of {other['id']} .*; expected .*{COMMITS[0]}"):
            encoding.check_policy(data, base, off_policy=False)
        encoding.check_policy(data, base, off_policy=True)


@pytest.mark.engine
def test_training_on_another_models_answers_takes_a_flag_also_where_the_result_is_stored(
    tmp_path: Path, policy: Path, dataset_of: Callable[..., Path]
) -> None:
    import tiny

    from croco import models

    arguments: dict[str, Any] = {"model": str(policy), "store": str(tmp_path / "store")}
    config = {**SMALL, "max_length": 300}
    data = [dataset_of("pairs", [pair(number) for number in range(4)], **answered_by(models.identity(str(policy))))]
    first = train.run(data=data, out=tmp_path / "first", config=TrainConfig(**config), **arguments)
    other = models.identity(str(tiny.policy(tmp_path / "other", seed=1)))
    data = [dataset_of("pairs", [pair(number) for number in range(4)], "others", **answered_by(other))]
    with pytest.raises(ValueError, match=r"found answers of other \(.*expected those of policy \(.*add --off-policy"):
        train.run(data=data, out=tmp_path / "refused", config=TrainConfig(**config), **arguments)
    assert not (tmp_path / "refused").exists()
    off = train.run(data=data, out=tmp_path / "off", config=TrainConfig(**config, off_policy=True), **arguments)
    assert off.digest == first.digest and off.ledger[0].run_seconds < first.ledger[0].run_seconds  # stored: same rows

    merged = {**arguments, "model": str(tmp_path / "first" / "merged")}  # what another round samples from
    sampled = models.identity(merged["model"])
    assert sampled["sha256"] == first.metrics["merged_sha256"]
    data = [dataset_of("pairs", [pair(number) for number in range(4)], "second", **answered_by(sampled))]
    second = train.run(data=data, out=tmp_path / "round-2", config=TrainConfig(**config), **merged)
    assert second.digest != first.digest


def test_metrics_keep_what_a_rerun_repeats(tmp_path: Path) -> None:
    logged = [
        {"loss": 0.7, "rewards/margins": 0.0, "num_tokens": 9, "step": 1},
        {"loss": 0.5, "rewards/margins": 0.4, "num_tokens": 18, "step": 2},
        {"train_runtime": 3.2, "train_loss": 0.6, "step": 2},
        {"eval_loss": 0.6, "eval_runtime": 0.1, "eval_rewards/margins": 0.1, "step": 2},
    ]
    curves.write(tmp_path / "metrics.jsonl", logged)
    lines = curves.read(tmp_path / "metrics.jsonl")
    assert lines == [
        {"step": 1, "loss": 0.7, "rewards/margins": 0.0},
        {"step": 2, "loss": 0.5, "rewards/margins": 0.4},
        {"step": 2, "eval_loss": 0.6, "eval_rewards/margins": 0.1},
    ]
    assert curves.final(lines) == {
        "steps": 2,
        "train_loss": 0.5,
        "train_margin": 0.4,
        "eval_loss": 0.6,
        "eval_margin": 0.1,
    }


def test_the_plot_is_the_same_for_the_same_lines(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.5}, {"step": 2, "eval_loss": 0.6}]
    curves.plot(lines, tmp_path / "a.svg")
    curves.plot(lines, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "loss (nats)" in (tmp_path / "a.svg").read_text()


SMALL = {"global_batch": 4, "micro_batch": 2, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy whose generation config transformers reads but would refuse to write."""
    import tiny
    import torch

    torch.set_num_threads(1)
    folder: Path = tiny.policy(tmp_path_factory.mktemp("models") / "policy")
    (folder / "generation_config.json").write_text('{"temperature": 0.1, "do_sample": false, "eos_token_id": 2}')
    return folder


def job_of(out: Path, rows: list[dict[str, Any]], policy: Path, **config: Any) -> dict[str, Any]:
    """What `train.run` leaves for the trainer, of rows as they are."""
    from croco import chat

    chosen = TrainConfig(**config)
    (out / trainer.CHECKPOINTS).mkdir(parents=True)
    tokenizer = chat.load_tokenizer(str(policy))
    ids = encoding.encode(rows, tokenizer, chosen.method, chosen.max_length, dataset.Tally("rows"))
    encoding.write(out / trainer.CHECKPOINTS / "train.arrow", ids)
    return {
        "owner": os.getpid(),
        "base": str(policy),
        "config": config,
        "accumulation": accumulation(chosen, 1),
        "gpu": False,
        "packed": False,
        "splits": ["train"],
        "identity": {},
        "checkpoint": None,
        "seconds": 0.0,
        "store": None,
    }


def tokens_of(row: dict[str, Any]) -> int:
    """Tokens of a pair: to the tiny policy's tokenizer a byte is one, and so is a turn's mark; its prompt twice."""
    prompt = len(f"^user\n{row['prompt'][0]['content']}^\n^assistant\n".encode())
    return sum(prompt + len(f"{row[side]}^\n".encode()) for side in ("chosen", "rejected"))


@pytest.mark.engine
@pytest.mark.parametrize("bos", [False, True])
def test_the_trainer_sees_the_ids_of_chat(tmp_path: Path, bos: bool) -> None:
    import tiny

    from croco import chat

    policy = tiny.policy(tmp_path / "policy", bos=bos)
    tokenizer = chat.load_tokenizer(str(policy))
    rows = [pair(number) for number in range(4)]
    built = trainer.build(tmp_path / "out", job_of(tmp_path / "out", rows, policy, global_batch=4, micro_batch=4))
    [batch] = built.get_train_dataloader()
    seen = set()
    for ids, mask, attended in zip(batch["input_ids"], batch["completion_mask"], batch["attention_mask"], strict=True):
        real = ids[attended.bool()].tolist()
        start = len(real) - int(mask.sum())
        assert mask.tolist() == [0] * start + [1] * (len(real) - start) + [0] * (len(mask) - len(real))
        seen.add((tuple(real[:start]), tuple(real[start:])))
    wanted = [
        chat.completion_ids(tokenizer, row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")
    ]
    assert None not in wanted
    assert seen == {(tuple(prompt), tuple(completion)) for prompt, completion in filter(None, wanted)}
    assert all((prompt[0] == tokenizer.bos_token_id) is bos for prompt, _ in filter(None, wanted))


@pytest.mark.engine
def test_dpo_starts_at_ln_2_separates_the_pairs_and_counts_every_row(
    tmp_path: Path, policy: Path, dataset_of: Callable[..., Path]
) -> None:
    rows = [
        *[pair(number) for number in range(16)],
        *[pair(number, split="eval") for number in range(16, 20)],
        pair(20, chosen="so " * 200),
        pair(21, split="eval", rejected="so " * 200),
        pair(22, rejected="<|im_end|> go on"),
    ]
    manifest = train.run(
        data=[dataset_of("pairs", rows)],
        model=str(policy),
        out=tmp_path / "out",
        config=TrainConfig(**SMALL, max_length=300, eval_steps=2),
    )
    assert manifest.counts == [
        dataset.Count("train pairs", "da", 8, 8),
        dataset.Count("train pairs", "en", 10, 8, {"over_long": 1, "special_token": 1}),
        dataset.Count("eval pairs", "da", 3, 2, {"over_long": 1}),
        dataset.Count("eval pairs", "en", 2, 2),
    ]
    lines = curves.read(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "eval_loss" in line] == [2, 4]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[0]["rewards/margins"] == 0
    assert manifest.metrics["steps"] == 4
    assert manifest.metrics["train_loss"] < 0.4
    assert manifest.metrics["eval_margin"] > 0
    assert manifest.models["base"]["id"] == "policy"
    assert manifest.models["base"].keys() == {"id", "sha256", "chat_template_sha256"}
    assert [entry["path"] for entry in manifest.files] == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "merged/chat_template.jinja",
        "merged/config.json",
        "merged/generation_config.json",
        "merged/model.safetensors",
        "merged/tokenizer.json",
        "merged/tokenizer_config.json",
        "metrics.jsonl",
        "training.svg",
    ]
    for weights, config in (("adapter/adapter_model", "adapter/adapter_config"), ("merged/model", "merged/config")):
        permitted = [(tmp_path / "out" / file).stat().st_mode for file in (f"{weights}.safetensors", f"{config}.json")]
        assert permitted[0] == permitted[1]
    assert dataset.verify(tmp_path / "out") == manifest
    [spent] = manifest.ledger
    assert (spent.language, spent.tokens_out, spent.gpu_seconds) == (None, 0, 0)
    assert spent.tokens_in == sum(map(tokens_of, rows[:16]))
    assert spent.seconds == spent.run_seconds > 0
    assert not (tmp_path / "out" / trainer.CHECKPOINTS).exists()
    summary = train.summary(tmp_path / "out", tmp_path / "summary")
    assert dataset.verify(tmp_path / "summary") == summary
    assert [entry["path"] for entry in summary.files] == ["metrics.jsonl", "training.svg"]
    assert (summary.inputs, summary.config, summary.metrics) == (manifest.inputs, manifest.config, manifest.metrics)
    texts = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(str(policy.parent).encode() in text or str(tmp_path).encode() in text for text in texts)


@pytest.mark.engine
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_merged_model_answers_as_base_and_adapter_and_keeps_the_dtype_and_both_configs(
    tmp_path: Path, policy: Path, dataset_of: Callable[..., Path], dtype: str
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig

    from croco import chat

    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(policy).to(getattr(torch, dtype))
    model.generation_config = GenerationConfig()
    model.save_pretrained(base)
    chat.load_tokenizer(str(policy)).save_pretrained(base)
    (base / "generation_config.json").write_bytes((policy / "generation_config.json").read_bytes())
    out = tmp_path / "out"
    rows = dataset_of("pairs", [pair(number) for number in range(16)])
    train.run(data=[rows], model=str(base), out=out, config=TrainConfig(**SMALL))

    ids = torch.tensor([chat.prompt_ids(chat.load_tokenizer(str(base)), pair(0)["prompt"])])
    assert str(AutoModelForCausalLM.from_pretrained(out / "merged", dtype="auto").dtype) == f"torch.{dtype}"
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32)(ids).logits
    untuned = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain = untuned(ids).logits
    tuned = PeftModel.from_pretrained(untuned, str(out / "adapter"))(ids).logits
    assert (tuned - plain).abs().max() > 1
    tolerance = {"float32": 1e-5, "bfloat16": 0.1}[dtype]  # bfloat16 rounds the merged weights to 8 bits
    torch.testing.assert_close(merged, tuned, rtol=1e-5, atol=tolerance)
    assert chat.load_tokenizer(str(out / "merged")).chat_template == chat.load_tokenizer(str(base)).chat_template
    assert (out / "merged" / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"


@pytest.mark.engine
def test_sft_learns_from_completion_tokens_only(tmp_path: Path, policy: Path, dataset_of: Callable[..., Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from croco import chat

    rows = [sft_row(number) for number in range(4)]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), chat.load_tokenizer(str(policy))
    losses = []
    for row in rows:
        prompt, completion = chat.completion_ids(tokenizer, row["prompt"], row["completion"]) or ([], [])
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        losses += torch.nn.functional.cross_entropy(logits, torch.tensor(completion), reduction="none").tolist()
    config = TrainConfig(method="sft", global_batch=4, micro_batch=2, lora_dropout=0.0, epochs=3, learning_rate=0.01)
    manifest = train.run(data=[dataset_of("sft", rows)], model=str(policy), out=tmp_path / "out", config=config)
    lines = curves.read(tmp_path / "out" / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert [count.unit for count in manifest.counts] == ["train rows", "train rows"]


def attempts(*each: dict[str, Any]) -> None:
    """Do each in a process of its own, which is killed at its instant (tests/attempts.py)."""
    subprocess.run(
        [sys.executable, Path(__file__).with_name("attempts.py")],
        input=json.dumps(each).encode(),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )


def run(arguments: dict[str, Any], out: Path) -> dataset.Manifest:
    """Do one here, to its end."""
    typed = {"data": [Path(arguments["data"])], "config": TrainConfig(**arguments["config"])}
    return train.run(**{**arguments, **typed, "out": out})


def resumed_from(out: Path) -> str | None:
    """The checkpoint a killed run had gone on from."""
    found: str | None = json.loads((out / trainer.CHECKPOINTS / "job.json").read_text())["checkpoint"]
    return found


PACKED: dict[str, Any] = {}
DROPOUT = {"disable_dropout": False}
"""Settings of training, by what comes of them; packing allows no dropout, whose random states checkpoints keep."""


@pytest.fixture(scope="module")
def uninterrupted(
    request: pytest.FixtureRequest, policy: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dataset.Manifest]:
    """(what `train.run` needs for 30 steps on pairs with evaluations in between, what comes of it)."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    writer = Writer(folder / "pairs", "pairs", stage="test", version=1, config={})
    writer.add([*[pair(number) for number in range(120)], pair(120, split="eval")])
    writer.finish([dataset.Count("pairs", None, 121, 121)])
    config = {**SMALL, **request.param, "checkpoint_steps": 5, "eval_steps": 9}
    arguments = {"data": str(folder / "pairs"), "model": str(policy), "config": config}
    whole = run(arguments, folder / "out")
    assert (whole.metrics["not_packed"] is None) == (request.param == PACKED)
    return arguments, whole


@pytest.mark.engine
@pytest.mark.parametrize("uninterrupted", [PACKED, DROPOUT], indirect=True, ids=["packed", "dropout"])
def test_a_run_that_is_killed_goes_on_in_its_directory_and_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], dataset.Manifest]
) -> None:
    arguments, whole = uninterrupted
    out = tmp_path / "out"
    unsealed, merging = r"os.rename .*checkpoint-10/manifest.json", r"open .*out/merged/"
    attempts(*[{**arguments, "out": str(out), "until": [instant]} for instant in (unsealed, merging)])
    assert resumed_from(out) == "checkpoint-5"
    resumed = run(arguments, out)
    assert resumed.metrics == {**whole.metrics, "resumed_from": "checkpoint-30"}
    assert resumed.digest == whole.digest  # adapter, merged model, metrics and plot, byte for byte
    assert resumed.ledger[0].seconds > resumed.ledger[0].run_seconds  # training is in the first alone


@pytest.mark.engine
@pytest.mark.parametrize("uninterrupted", [PACKED], indirect=True, ids=["packed"])
def test_a_run_that_is_killed_goes_on_from_the_store_in_any_directory_and_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], dataset.Manifest]
) -> None:
    arguments, whole = uninterrupted
    store = tmp_path / "store"
    instants = {
        "half of a checkpoint's files are there": [r"os.rename .*/5\.json'", *[r"os.rename .*/files/"] * 4],
        "all are, but not its record": [r"os.rename .*/15\.json'"],
        "a checkpoint is superseded, but still there": [r"os.remove .*/10\.json'"],
        "the result's files are there, but not its record": [r"os.rename .*/results/train/"],
    }
    runs = [
        {**arguments, "store": str(store), "out": str(tmp_path / str(number)), "until": until}
        for number, until in enumerate(instants.values())
    ]
    runs[2]["config"] = {**arguments["config"], "checkpoint_steps": 6}  # weights do not depend on it
    attempts(*runs)
    assert [resumed_from(tmp_path / str(number)) for number in range(4)] == [
        None,
        "checkpoint-5",
        "checkpoint-10",
        "checkpoint-18",
    ]
    resumed = run({**arguments, "store": str(store)}, tmp_path / "4")
    assert resumed.metrics == {**whole.metrics, "resumed_from": "checkpoint-30"}
    assert resumed.digest == whole.digest
    assert [entry.name for entry in open_store(store).entries("checkpoints/")] == []

    # and once more, from the result: what was killed in directory 0 is finished there, without the libraries
    script = "import json, sys; from pathlib import Path; from croco import train; a = json.load(sys.stdin); "
    script += "a |= {'data': [Path(a['data'])], 'out': Path(a['out']), 'config': train.TrainConfig(**a['config'])}; "
    script += "train.run(**a); print([name for name in ('torch', 'transformers', 'trl') if name in sys.modules])"
    again = {**arguments, "store": str(store), "out": str(tmp_path / "0")}
    answer = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(again).encode(), capture_output=True, check=True
    )
    assert answer.stdout.decode().strip() == "[]"
    restored = dataset.verify(tmp_path / "0")
    assert (restored.digest, restored.metrics) == (whole.digest, resumed.metrics)
    assert not (tmp_path / "0" / trainer.CHECKPOINTS).exists()


@pytest.mark.engine
def test_two_processes_with_packed_pairs_and_precomputed_references_train_as_one_without(
    tmp_path: Path, policy: Path, dataset_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = dataset_of("pairs", [*[pair(number) for number in range(22)], pair(22, split="eval")])
    config = {**SMALL, "micro_batch": 1}
    one = train.run(data=[rows], model=str(policy), out=tmp_path / "one", config=TrainConfig(**config, packed=False))
    two = train.run(
        data=[rows],
        model=str(policy),
        out=tmp_path / "two",
        config=TrainConfig(**config, processes=2, precompute_reference=True),
    )
    assert (one.metrics["processes"], two.metrics["processes"]) == (1, 2)
    assert (one.metrics["not_packed"], two.metrics["not_packed"]) == ("not asked for", None)
    first, second = (curves.read(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(first) == len(second) == 7  # five steps of 4 rows, one of 2, an evaluation
    for name in ("loss", "grad_norm", "rewards/margins", "eval_loss"):
        same = [[line[name] for line in lines if name in line] for lines in (first, second)]
        assert same[0] == pytest.approx(same[1], rel=1e-4)
    weights = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0]) < 1e-3


def nodes(**other: Any) -> dict[str, Any]:
    """Two nodes without a GPU, which mount the claim that has the tiny policy."""
    return {
        "nodes": 2.0,
        "gpus": 0.0,
        "gpu_type": "nvidia.com/gpu",
        "cpu": "1",
        "memory": "4Gi",
        "shared_memory": "",
        "disk": "10Gi",
        "image": "croco-gpu",
        "timeout": 600.0,
        "retries": 1.0,
        "runtime": "torch-distributed",
        "node_selector": {},
        "tolerations": [],
        "queue": "",
        "models": "croco-models",
        "store_secret": "croco-store",
        "hf_secret": "hf-token",
        "user": 2000.0,
        **other,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"store": "/some/folder"}, "store: found /some/folder; expected s3://bucket/prefix, which is all that nodes"),
        ({"store": None}, "store: found none; expected s3://bucket/prefix"),
        ({"trainjob": nodes(models="")}, "policy: found a folder that other nodes do not have; .*not asked for"),
        ({"model": "/elsewhere/policy"}, "/elsewhere/policy: found a folder .*mounted at "),
        ({"config": TrainConfig(processes=3)}, "processes: found 3; expected none, or 2, the GPUs of all nodes"),
        (
            {"config": TrainConfig(precompute_reference=True)},
            "precompute_reference: found it with 2 nodes; expected one",
        ),
    ],
)
def test_what_nodes_could_not_have_is_refused_before_anything_is_done(
    given: dict[str, Any],
    message: str,
    tmp_path: Path,
    dataset_of: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "claim"))
    usual = {"model": str(tmp_path / "claim" / "policy"), "store": "s3://bucket/prefix", "trainjob": nodes()}
    with pytest.raises(ValueError, match=message):
        train.run(data=[dataset_of("pairs", [pair(0)])], out=tmp_path / "out", **{**usual, **given})
    assert not (tmp_path / "out").exists()


@pytest.mark.engine
def test_two_nodes_one_of_which_dies_come_to_what_two_processes_do_here(
    tmp_path: Path,
    policy: Path,
    dataset_of: Callable[..., Path],
    s3: objectstore.S3,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = dataset_of("pairs", [*[pair(number) for number in range(96)], pair(96, split="eval")])
    config = {**SMALL, "micro_batch": 1, "checkpoint_steps": 4, "disable_dropout": False}
    arguments: dict[str, Any] = {"data": [rows], "model": str(policy)}
    here = train.run(**arguments, out=tmp_path / "here", config=TrainConfig(**config, processes=2))

    store = open_store(s3.location)
    monkeypatch.setenv("HF_HUB_CACHE", str(policy.parent))
    with kubeserver.serving(tmp_path / "nodes") as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))

        kept: list[str] = []
        """What a checkpoint in the store is made of."""

        def kill() -> None:
            """While step 8 is saved; what was saved at step 4 is in the store."""
            while not [*(tmp_path / "nodes").glob("*/train/checkpoints/checkpoint-8/rng_state_1.pth")]:
                time.sleep(0.005)
            cluster.nodes[1].kill()
            records = [entry.name for entry in store.entries("checkpoints/") if "/files/" not in entry.name]
            kept.extend(file["path"] for file in (store.read(records[0]) or {"files": []})["files"])

        threading.Thread(target=kill, daemon=True).start()
        out = tmp_path / "handed"
        handed = train.run(**arguments, out=out, config=TrainConfig(**config), store=s3.location, trainjob=nodes())
    assert handed.digest == here.digest  # adapter, merged model, metrics and plot, byte for byte
    assert len(cluster.made) == 2
    assert handed.metrics.pop("resumed_from") in [f"checkpoint-{step}" for step in (4, 8, 12, 16)]
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(kept)  # each was written on another node
    assert handed.metrics == {name: value for name, value in here.metrics.items() if name != "resumed_from"}
    said = capfd.readouterr().out
    assert "node 1 (pod croco-train-" in said and "exit code 137" in said and "'loss': " in said
    assert [entry.name for entry in store.entries("trainjobs/")] == []
    assert [entry.name for entry in store.entries("checkpoints/")] == []
    [spent] = handed.ledger
    assert spent.gpu_seconds == 0 < spent.seconds


@pytest.mark.engine
def test_a_process_whose_run_was_killed_stops(tmp_path: Path, policy: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    job = job_of(tmp_path, [pair(0)], policy, global_batch=1)
    (tmp_path / trainer.CHECKPOINTS / "job.json").write_text(json.dumps({**job, "owner": process.pid}))
    with pytest.raises(ProcessLookupError):
        trainer.fit(tmp_path)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.engine
def test_a_template_that_renders_prompt_and_conversation_apart_is_refused(
    tmp_path: Path, dataset_of: Callable[..., Path]
) -> None:
    import tiny

    policy = tiny.policy(tmp_path / "policy")
    template = policy / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n' }}{% endif", "assistant\n<think>' }}{% endif"))
    rows = dataset_of("pairs", [pair(0), pair(1)])
    with pytest.raises(ValueError, match="found 2 of 2 rows whose prompt is not a prefix of the conversation"):
        train.run(data=[rows], model=str(policy), out=tmp_path / "out")


@pytest.mark.engine
def test_data_with_nothing_left_to_train_on_are_refused_with_the_reasons(
    tmp_path: Path, policy: Path, dataset_of: Callable[..., Path]
) -> None:
    rows = dataset_of("pairs", [pair(0), pair(1, split="eval")])
    with pytest.raises(ValueError, match=r"found no row of split train .* dropped: \{'over_long': 2\}"):
        train.run(data=[rows], model=str(policy), out=tmp_path / "out", config=TrainConfig(max_length=4))
