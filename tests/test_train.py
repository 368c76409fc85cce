import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from croco import curves, dataset, train, trainer
from croco.train import TrainConfig, accumulation

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


class Letters:
    """A tokenizer of one token a character, and one for `~~`, so that an answer may merge with its prompt's end."""

    all_special_tokens = ("<end>",)
    bos_token_id = eos_token_id = None

    def apply_chat_template(self, turns: Sequence[Any], *, add_generation_prompt: bool, return_dict: bool) -> list[int]:
        text = "".join(f"{turn['role'][0]}~{turn['content']}." for turn in turns) + "a~" * add_generation_prompt
        return [ord(character) for character in text.replace("~~", "≈")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "ppo"}, "method: found 'ppo'; expected one of dpo, sft"),
        ({"learning_rate": 0.0}, r"learning_rate: found 0.0; expected a number above 0"),
        ({"beta": -1.0}, r"beta: found -1.0; expected a number above 0"),
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
    assert [train.repeated(21, config, processes) for processes in (1, 2, 8)] == [0, 3, 11]
    assert train.repeated(32, config, processes=8) == 0


def test_rows_that_cannot_be_trained_on_are_counted_and_the_others_are_whole() -> None:
    prompt = [{"role": "user", "content": "hi"}]  # u~hi.a~ is 7 tokens
    data = [
        pair(0, prompt=prompt, chosen="abc", rejected="d"),
        pair(1, prompt=prompt, chosen="abcd", rejected="d"),  # 7 + 4 + 1 = 12 tokens
        pair(2, prompt=prompt, chosen="a", rejected="<end>"),
        pair(3, prompt=prompt, chosen="~a", rejected="d"),
    ]
    tally = dataset.Tally("pairs")
    config = TrainConfig(max_length=11)
    assert list(train.encode(data, Letters(), config, tally)) == [
        {
            "prompt_ids": [ord(c) for c in "u~hi.a~"],
            "chosen_ids": [ord(c) for c in "abc."],
            "rejected_ids": [ord(c) for c in "d."],
        }
    ]
    assert tally.counts() == [
        dataset.Count("pairs", "da", 2, 0, {"over_long": 1, "prompt_not_prefix": 1}),
        dataset.Count("pairs", "en", 2, 1, {"special_token": 1}),
    ]


def test_sft_rows_have_no_label_on_the_prompt() -> None:
    [row] = train.encode([sft_row(0, completion="ok")], Letters(), TrainConfig(method="sft"), dataset.Tally("rows"))
    text = "u~May I, number 0?.a~ok."
    assert row == {"input_ids": [ord(c) for c in text], "labels": [-100] * 21 + [ord(c) for c in "ok."]}


def test_tokens_of_a_pair_count_its_prompt_twice(tmp_path: Path) -> None:
    rows = [{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5, 6]}] * 1001
    assert train.write_ids(tmp_path / "ids.arrow", iter(rows)) == 1001
    assert train.tokens_in(tmp_path / "ids.arrow") == 1001 * 8


def test_data_of_the_other_method_are_refused(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    rows = dataset_of("sft", [sft_row(0)])
    with pytest.raises(ValueError, match="found a dataset of sft; expected pairs, as method dpo needs"):
        train.run(data=[rows], model="base", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_split_is_refused(tmp_path: Path, dataset_of: Callable[..., Path]) -> None:
    rows = dataset_of("pairs", [pair(0), pair(1, split="test")])
    with pytest.raises(ValueError, match=r"pairs.split: found \['test'\]; expected train or eval"):
        train.run(data=[rows], model="base", out=tmp_path / "out")


def test_the_newest_whole_checkpoint_of_the_same_run_is_resumed_and_the_others_are_removed(tmp_path: Path) -> None:
    for step, run in [(5, "this"), (10, "this"), (15, "this"), (20, "other"), (100, None)]:
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "weights").write_text(str(step))
        if run:
            trainer.seal(checkpoint, {"run": run})
    (tmp_path / "checkpoint-15" / "weights").write_text("cut")
    assert trainer.last_checkpoint(tmp_path, {"run": "this"}) == "checkpoint-10"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert trainer.last_checkpoint(tmp_path, None) is None
    assert not list(tmp_path.iterdir())


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
    ids = train.encode(rows, chat.load_tokenizer(str(policy)), chosen, dataset.Tally("rows"))
    train.write_ids(out / trainer.CHECKPOINTS / "train.arrow", ids)
    return {
        "owner": os.getpid(),
        "base": str(policy),
        "config": config,
        "accumulation": accumulation(chosen, 1),
        "gpu": False,
        "splits": ["train"],
        "identity": {},
        "checkpoint": None,
    }


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
    assert manifest.models["base"].keys() == {"id", "sha256", "template_sha256"}
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
    assert dataset.verify(tmp_path / "out") == manifest
    assert not (tmp_path / "out" / trainer.CHECKPOINTS).exists()
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


@pytest.mark.engine
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(
    tmp_path: Path, policy: Path, dataset_of: Callable[..., Path]
) -> None:
    rows = dataset_of("pairs", [*[pair(number) for number in range(240)], pair(240, split="eval")])
    flags = {**SMALL, "checkpoint_steps": 5, "disable_dropout": False, "eval_steps": 9}
    whole = train.run(data=[rows], model=str(policy), out=tmp_path / "whole", config=TrainConfig(**flags))

    out = tmp_path / "out"
    command = [sys.executable, "-m", "croco", "train", "--data", str(rows), "--model", str(policy), "--out", str(out)]
    options = [text for name, value in flags.items() if value is not False for text in (f"--{name}", str(value))]
    process = subprocess.Popen(
        [*command, *options, "--no-disable-dropout"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    sealed = out / trainer.CHECKPOINTS / "checkpoint-10" / dataset.MANIFEST
    while process.poll() is None and not sealed.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert sealed.exists()
    assert not (out / dataset.MANIFEST).exists()

    resumed = train.run(data=[rows], model=str(policy), out=out, config=TrainConfig(**flags))
    step = int(resumed.metrics["resumed_from"].split("-")[1])
    assert 10 <= step < 60 == resumed.metrics["steps"]
    assert (out / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert resumed.digest == whole.digest  # adapter, merged model, metrics and plot, byte for byte


@pytest.mark.engine
def test_two_processes_with_precomputed_references_train_as_one_without(
    tmp_path: Path, policy: Path, dataset_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = dataset_of("pairs", [*[pair(number) for number in range(22)], pair(22, split="eval")])
    config = {**SMALL, "micro_batch": 1}
    one = train.run(data=[rows], model=str(policy), out=tmp_path / "one", config=TrainConfig(**config))
    two = train.run(
        data=[rows],
        model=str(policy),
        out=tmp_path / "two",
        config=TrainConfig(**config, processes=2, precompute_reference=True),
    )
    assert (one.metrics["processes"], two.metrics["processes"]) == (1, 2)
    first, second = (curves.read(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(first) == len(second) == 7  # five steps of 4 rows, one of 2, an evaluation
    for name in ("loss", "grad_norm", "rewards/margins", "eval_loss"):
        same = [[line[name] for line in lines if name in line] for lines in (first, second)]
        assert same[0] == pytest.approx(same[1], rel=1e-4)
    weights = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0]) < 1e-3


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
