"""Online DPO: which answers become a pair, and that TRL's trainer is given those and learns from them."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tiny
from test_packed import built as packed_trainer
from test_packed import model as wide
from test_packed import step
from test_train import attempts, job_of, run

from croco import curves, dataset, encoding, engine, online, train, trainer
from croco.engine import Completion
from croco.train import TrainConfig
from croco.writer import Writer

SYSTEM = {"role": "system", "content": "Be kind."}


def prompt(number: int, **other: Any) -> dict[str, Any]:
    question = {"role": "user", "content": f"Why, number {number}{'?' * (number % 3)}"}
    return {
        "prompt_id": f"prompt-{number:03d}",
        "language": ["en", "da"][number % 2],
        "messages": [SYSTEM, question] if number % 2 else [question],
        "reference": None,
        "source_dataset": None,
        "domain": None,
        "split": "train",
        **other,
    }


def answers(*texts: str, cut: Sequence[int] = ()) -> list[Completion]:
    return [
        Completion(text, [ord(c) for c in text], "length" if at in cut else "stop") for at, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"online_answers": 1}, "online_answers: found 1; expected 2 or more"),
        ({"online_temperature": 0.0}, "online_temperature: found 0.0; expected a number above 0"),
        ({"online_k": math.inf}, "online_k: found inf; expected a number above 0"),
        ({"online_top_p": 0.0}, "online_top_p: found 0.0; expected above 0, at most 1"),
        ({"online_top_k": -1}, "online_top_k: found -1; expected 0"),
        ({"online_max_tokens": 0}, "online_max_tokens: found 0; expected 1 or more"),
        ({"online_rejected_target": "median"}, "online_rejected_target: found 'median'; expected one of mean-2std"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("online", {}, "reward: found none with method online; expected a reward model for online, and none else"),
        ("dpo", {"reward": "some/reward"}, "reward: found some/reward with method dpo; expected"),
        ("online", {"reward": "some/reward", "trainjob": {"nodes": 2}}, "trainjob: found nodes with method online"),
    ],
)
def test_a_reward_model_is_for_online_alone_and_online_for_one_pod(
    method: str, given: dict[str, Any], message: str, tmp_path: Path, dataset_of: Callable[..., Path]
) -> None:
    from test_train import pair

    data = dataset_of("prompts", [prompt(0)]) if method == "online" else dataset_of("pairs", [pair(0)])
    with pytest.raises(ValueError, match=message):
        train.run(data=[data], model="base", out=tmp_path / "out", config=TrainConfig(method=method), **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rewards", "cut", "config", "expected"),
    [
        ([0.0, 1.0, 2.0, 5.0], (), {}, (3, 0)),  # mean 2, std 1.87: aim -1.74
        ([0.0, 1.0, 2.0, 5.0], (), {"online_k": 0.5}, (3, 1)),  # aim 1.06
        ([0.0, 1.0, 2.0, 5.0], (), {"online_rejected_target": "min"}, (3, 0)),
        ([0.0, 1.0, 2.0, 5.0], (3,), {"online_k": 0.5}, (2, 1)),  # what was cut counts, and cannot be chosen
        ([None, 1.0, 2.0, None], (), {}, (2, 1)),
        ([5.0, 1.0, 2.0, 5.0], (), {"online_rejected_target": "min"}, (0, 1)),  # ties go to the first
        ([1.0, 1.0, 1.0, 1.0], (), {}, None),
        ([0.0, 1.0, 2.0, 5.0], (0, 1, 2, 3), {}, None),
        ([None, None, None, None], (), {}, None),
    ],
)
def test_a_pair_is_picked_as_pair_does(
    rewards: list[float | None], cut: Sequence[int], config: dict[str, Any], expected: tuple[int, int] | None
) -> None:
    assert online.pick(answers("a", "b", "c", "d", cut=cut), rewards, TrainConfig(**config)) == expected


def test_two_answers_of_one_text_are_no_pair() -> None:
    assert online.pick(answers("a", "a"), [2.0, 1.0], TrainConfig()) is None
    assert online.pick(answers("a", "a", "b"), [2.0, 1.0, 1.9], TrainConfig()) == (0, 2)


def test_answers_that_sample_or_score_would_drop_have_no_reward_and_each_text_is_read_once() -> None:
    read: list[str] = []

    def classify(conversations: Sequence[list[int]]) -> list[float]:
        texts = [tiny.Letters.decode(ids) for ids in conversations]
        read.extend(texts)
        return [math.inf if "bad" in text else float(len(text)) for text in texts]

    found, tokens = online.judge(
        [SYSTEM, {"role": "user", "content": "hi"}],
        answers("ok", " ", "a!b", "ok", "bad", "so long an answer"),
        classify=classify,
        tokenizer=tiny.Letters(),
        limit=50,
        special=frozenset([ord("!")]),
    )
    whole = "system:Be kind.;user:hi;assistant:ok;"
    assert sorted(read) == sorted([whole, whole.replace("ok", "bad")])
    assert found == [len(whole), None, None, len(whole), None, None]
    assert tokens == 2 * len(whole) + 1


def test_what_steps_counted_is_added_up() -> None:
    lines = [dict.fromkeys(online.COUNTED, 2) | {"loss": 0.5, "scores/mean": 1.5}] * 3
    assert online.totals(lines) == dict.fromkeys(online.COUNTED, 6)
    assert online.totals([{"loss": 0.5}]) == {}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    made = {"policy": tiny.policy(folder / "policy"), "reward": tiny.reward(folder / "reward", seed=3)}
    ends = [2, *range(4, 34)]  # so many that a random model's answers end
    settings = {"temperature": 0.1, "do_sample": False, "min_p": 0.5, "eos_token_id": ends}
    (made["policy"] / "generation_config.json").write_text(json.dumps(settings))
    return made


SMALL = {"method": "online", "global_batch": 4, "micro_batch": 2, "learning_rate": 0.01, "max_length": 400}


def built(out: Path, models: dict[str, Path], rows: list[dict[str, Any]], **config: Any) -> Any:
    """The trainer of `train`, with an adapter that is no longer nought."""
    import torch

    job = {**job_of(out, rows, models["policy"], **{**SMALL, **config}), "reward": str(models["reward"])}
    made = trainer.build(out, job)
    torch.manual_seed(1)
    for name, weights in made.model.named_parameters():
        if "lora_B" in name:
            weights.data.normal_(std=0.2)
    return made


TEXTS = ["Because.", "Who knows?", "No", "It is so, and it was so.", "Why not"]


def asking(made: Any, tokenizer: Any, asked: list[list[int]]) -> None:
    """Have all prompts answered by TEXTS, the last one cut; the prompts go to `asked`."""

    def ask(policy: Any, prompts: Sequence[list[int]], stops: Sequence[int], seed: int) -> list[list[Completion]]:
        asked.extend(prompts)
        ids = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in TEXTS]
        ends = ["stop"] * 4 + ["length"]
        return [[Completion(*each) for each in zip(TEXTS, ids, ends, strict=True)] for _ in prompts]

    made.ask = ask


@pytest.mark.engine
def test_trl_trains_on_the_pair_that_the_rule_picks_with_every_turn_of_the_prompt(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from croco import chat

    policy, reward = (chat.load_tokenizer(str(models[role])) for role in ("policy", "reward"))
    asked: list[list[int]] = []
    made = built(tmp_path, models, [prompt(1), prompt(2)])
    asking(made, policy, asked)
    [batch] = made.get_train_dataloader()
    rows = [prompt(1), prompt(2)] if "number 1" in str(batch["prompt"][0]) else [prompt(2), prompt(1)]
    prompt_ids, prompt_mask, ids, mask, _ = made._generate(made.model, batch["prompt"])
    assert asked == [chat.prompt_ids(policy, row["messages"]) for row in rows]
    assert ["Be kind." in policy.decode(ids) for ids in asked] == [row["prompt_id"] == "prompt-001" for row in rows]
    margins = []
    base, texts = AutoModelForCausalLM.from_pretrained(models["policy"]), []
    for at, row in enumerate(rows):
        whole = [chat.conversation_ids(reward, row["messages"], text) for text in TEXTS]
        scores = engine.plain_rewards(str(models["reward"]), None, whole)
        chosen = max(range(4), key=lambda place: scores[place])  # the last one was cut
        mean = sum(scores) / 5
        aim = mean - 2 * math.sqrt(sum((score - mean) ** 2 for score in scores) / 5)
        lower = [place for place in range(5) if scores[place] < scores[chosen]]
        rejected = min(lower, key=lambda place: abs(scores[place] - aim))
        texts.append((TEXTS[chosen], TEXTS[rejected]))
        assert (made.rewards[at], made.rewards[2 + at]) == pytest.approx((scores[chosen], scores[rejected]), abs=1e-6)
        logs = []
        for side, text in enumerate(texts[-1]):
            place = at + 2 * side
            assert policy.decode(ids[place][mask[place].bool()]) == text + "<|im_end|>"
            real = prompt_ids[place][prompt_mask[place].bool()].tolist()
            assert real == asked[at]
            answer = ids[place][mask[place].bool()].tolist()
            for model in (made.model, base):
                logits = model(torch.tensor([real + answer])).logits[0, len(real) - 1 : -1]
                logs.append(logits.log_softmax(-1)[range(len(answer)), answer].sum())
        margins.append((logs[0] - logs[1]) - (logs[2] - logs[3]))
    expected = -torch.nn.functional.logsigmoid(0.1 * torch.stack(margins)).mean()
    made.create_optimizer_and_scheduler(1)
    made.current_gradient_accumulation_steps = 1
    loss = made.training_step(made.model, batch)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert abs(expected.item() - math.log(2)) > 0.01


def gradients(made: Any, batches: list[Any], steps: int, of: Callable[..., Any]) -> list[Any]:
    made.current_gradient_accumulation_steps = steps
    made.model.zero_grad()
    for batch in batches:
        of(made.model, batch)
    return [each.grad.clone() for _, each in made.model.named_parameters() if each.grad is not None]


@pytest.mark.engine
def test_accumulated_micro_batches_give_the_gradient_of_one_and_trls_own_step_would_not(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    from croco import chat

    found: list[list[Any]] = []
    rows = [prompt(number) for number in range(4)]
    for micro in (4, 1):
        made = built(tmp_path / str(micro), models, rows, micro_batch=micro)
        asking(made, chat.load_tokenizer(str(models["policy"])), [])
        batches = list(made.get_train_dataloader())
        assert len(batches) == 4 // micro
        found.append(gradients(made, batches, 4 // micro, made.training_step))
    stock = type(made).__mro__[1].training_step
    found.append(gradients(made, batches, 4, lambda *each: stock(made, *each)))
    whole, ours, theirs = ([gradient.norm() for gradient in each] for each in found)
    assert max(abs(a / b - 1) for a, b in zip(ours, whole, strict=True)) < 1e-3
    assert min(abs(a / b - 4) for a, b in zip(theirs, whole, strict=True)) < 1e-2  # four times too much


@pytest.mark.engine
def test_a_prompt_without_a_pair_has_no_weight_and_is_counted(tmp_path: Path, models: dict[str, Path]) -> None:
    from croco import chat

    tokenizer = chat.load_tokenizer(str(models["policy"]))
    made = built(tmp_path / "two", models, [prompt(0), prompt(2)])
    asking(made, tokenizer, [])
    usual = made.judge
    made.judge = lambda turns, found: ([None] * 5, 7) if "number 2" in str(turns) else usual(turns, found)
    [batch] = made.get_train_dataloader()
    half = gradients(made, [batch], 1, made.training_step)
    assert (made.counted["prompts"], made.counted["unpaired"], made.counted["unscored"]) == (2, 1, 5)
    alone = built(tmp_path / "one", models, [prompt(0)])
    asking(alone, tokenizer, [])
    whole = gradients(alone, list(alone.get_train_dataloader()), 1, alone.training_step)
    assert max((2 * a - b).norm() / b.norm() for a, b in zip(half, whole, strict=True)) < 1e-4
    made.judge = lambda turns, found: ([None] * 5, 7)
    assert all(not each.any() for each in gradients(made, [batch], 1, made.training_step))


RUN = {**SMALL, "online_answers": 6, "online_max_tokens": 40, "checkpoint_steps": 1}


@pytest.fixture(scope="module")
def undisturbed(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dataset.Manifest, Path]:
    """(what `train.run` needs for three steps, what comes of it, and where)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    rows = [prompt(number, split="eval" if number == 10 else "train") for number in range(13)]
    rows[4]["messages"] = [{"role": "user", "content": "so " * 150}]
    writer = Writer(folder / "prompts", "prompts", stage="test", version=1, config={})
    writer.add(rows)
    writer.finish([dataset.Count("prompts", None, 13, 13)])
    arguments = {
        "data": str(folder / "prompts"),
        "model": str(models["policy"]),
        "reward": str(models["reward"]),
        "config": RUN,
    }
    return arguments, run(arguments, folder / "out"), folder / "out"


@pytest.mark.engine
def test_it_runs_and_counts_and_the_adapter_moves(
    undisturbed: tuple[dict[str, Any], dataset.Manifest, Path], models: dict[str, Path]
) -> None:
    from safetensors.torch import load_file

    from croco import chat

    _, manifest, out = undisturbed
    assert manifest.counts == [
        dataset.Count("train prompts", "da", 6, 6),
        dataset.Count("train prompts", "en", 6, 5, {"over_long": 1}),
        dataset.Count("eval prompts", "en", 1, 0, {"held_out": 1}),
    ]
    lines = curves.read(out / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["prompts"] for line in lines] == [4, 4, 3]
    assert lines[0]["loss"] == round(math.log(2), 4)
    paired = [line for line in lines if line["unpaired"] < line["prompts"]]
    assert len(paired) >= 2
    assert all(line["scores/chosen"] > line["scores/rejected"] for line in paired)
    assert not [name for name in lines[0] if name.startswith(("objective/", "val/"))]
    metrics = manifest.metrics
    assert (metrics["prompts"], metrics["answers"], metrics["steps"]) == (11, 66, 3)
    assert metrics["unpaired"] == sum(line["unpaired"] for line in lines) < 11
    adapter = load_file(out / "adapter" / "adapter_model.safetensors")
    assert any(weights.abs().max() > 1e-3 for name, weights in adapter.items() if "lora_B" in name)
    assert {role: identity["id"] for role, identity in manifest.models.items()} == {
        "base": "policy",
        "reward": "reward",
    }
    assert dataset.verify(out) == manifest
    [spent] = manifest.ledger
    tokenizer = chat.load_tokenizer(str(models["policy"]))
    kept = [prompt(number) for number in range(13) if number not in (4, 10)]
    asked = sum(len(chat.prompt_ids(tokenizer, row["messages"])) for row in kept)
    assert spent.tokens_in == asked + sum(line["tokens_in"] for line in lines)
    assert 0 < spent.tokens_out == sum(line["tokens_out"] for line in lines) <= 66 * 40


@pytest.mark.engine
def test_a_run_that_is_killed_ends_as_if_it_had_not_been_and_another_seed_elsewhere(
    tmp_path: Path, undisturbed: tuple[dict[str, Any], dataset.Manifest, Path]
) -> None:
    arguments, whole, out = undisturbed
    killed = tmp_path / "killed"
    attempts({**arguments, "out": str(killed), "until": [r"os.rename .*checkpoint-2/manifest.json"]})
    resumed = run(arguments, killed)
    assert resumed.metrics == {**whole.metrics, "resumed_from": "checkpoint-1"}
    assert resumed.digest == whole.digest  # adapter, merged model, metrics and plot, byte for byte
    other = run({**arguments, "config": {**RUN, "seed": 7}}, tmp_path / "other")
    first = [curves.read(each / "metrics.jsonl")[0]["scores/mean"] for each in (out, tmp_path / "other")]
    assert other.digest != whole.digest and first[0] != first[1]


@pytest.mark.engine
def test_answers_are_sampled_end_where_they_should_and_are_the_same_for_one_seed(models: dict[str, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from croco import chat

    policy = AutoModelForCausalLM.from_pretrained(models["policy"])
    tokenizer = chat.load_tokenizer(str(models["policy"]))
    config = TrainConfig(method="online", online_answers=4, online_max_tokens=40, max_length=60)
    stops = [tokenizer.eos_token_id, *tokenizer("a e").input_ids]
    prompts = [[5] * 30, [6] * 12]
    before = torch.get_rng_state()
    found = online.answer(policy, prompts, stops, 11, tokenizer=tokenizer, config=config)
    assert torch.equal(before, torch.get_rng_state())
    assert [len(each) for each in found] == [4, 4]
    for answers, limit in zip(found, (30, 40), strict=True):  # 60 with the prompt, 40 at most
        assert len({one.text for one in answers}) > 1
        for one in answers:
            ended = [token in stops for token in one.token_ids]
            assert not any(ended[:-1]) and ended[-1] == (one.finish_reason == "stop")
            assert len(ended) == limit if one.finish_reason == "length" else len(ended) <= limit
    assert {one.finish_reason for answers in found for one in answers} == {"stop", "length"}
    assert found == online.answer(policy, prompts, stops, 11, tokenizer=tokenizer, config=config)
    assert found != online.answer(policy, prompts, stops, 12, tokenizer=tokenizer, config=config)


@pytest.mark.engine
def test_two_processes_do_what_one_does(
    tmp_path: Path, models: dict[str, Path], dataset_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = dataset_of("prompts", [prompt(number) for number in range(8)])
    arguments = {"data": str(data), "model": str(models["policy"]), "reward": str(models["reward"])}
    config = {**RUN, "micro_batch": 1}
    made = [run({**arguments, "config": {**config, "processes": n}}, tmp_path / str(n)) for n in (1, 2)]
    one, two = (curves.read(tmp_path / str(n) / "metrics.jsonl") for n in (1, 2))
    assert [line["tokens_out"] for line in one] == [line["tokens_out"] for line in two]
    assert one[0]["scores/chosen"] == pytest.approx(two[0]["scores/chosen"], rel=1e-5)
    assert made[0].metrics["unpaired"] == made[1].metrics["unpaired"] < 8
    assert one[-1]["grad_norm"] == pytest.approx(two[-1]["grad_norm"], rel=1e-2)


def test_prompts_are_given_as_turns_and_ids_and_those_that_cannot_be_answered_are_counted(
    tmp_path: Path, dataset_of: Callable[..., Path]
) -> None:
    turns = [SYSTEM, {"role": "user", "content": "hi"}]
    text = "system:Be kind.;user:hi;assistant:"
    rows = [
        prompt(0, messages=turns, language="en"),
        prompt(1, messages=turns, split="eval", language="en"),
        prompt(2, messages=[{"role": "user", "content": "Go!"}], language="en"),
        prompt(3, messages=[{"role": "user", "content": "so " * 20}], language="en"),
    ]
    data = dataset_of("prompts", rows)
    counts, numbers = encoding.write_splits([data], tiny.Letters(), "online", 40, tmp_path)
    dropped = {"over_long": 1, "special_token": 1}
    assert counts == [
        dataset.Count("train prompts", "en", 3, 1, dropped),
        dataset.Count("eval prompts", "en", 1, 0, {"held_out": 1}),
    ]
    assert numbers == {"train": 1}
    assert encoding.tokens_in(tmp_path / "train.arrow") == len(text)
    [row] = pa.ipc.open_stream(tmp_path / "train.arrow").read_all().to_pylist()
    assert row == {"prompt": {"messages": turns, "ids": [ord(c) for c in text]}}


def by_hand(made: Any, policy: Path, nll: float, micro_batch: int) -> list[float]:
    """The loss of each micro-batch by plain torch: DPO's mean over its pairs, and `nll` times the mean negative
    log-likelihood of its chosen answers' tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM

    base, pairs = AutoModelForCausalLM.from_pretrained(policy), []
    plain = packed_trainer(policy.parent / f"by-hand-{nll}-{micro_batch}", policy, packed=False).model.eval()
    for row in made.train_dataset:
        likely = []
        for model in (plain, base):
            for ids in (row["chosen_ids"], row["rejected_ids"]):
                logits = model(torch.tensor([row["prompt_ids"] + ids])).logits[0, len(row["prompt_ids"]) - 1 : -1]
                likely.append(logits.log_softmax(-1)[range(len(ids)), ids])
        chosen, rejected, chosen_before, rejected_before = (each.sum() for each in likely)
        margin = (chosen - chosen_before) - (rejected - rejected_before)
        pairs.append((-torch.nn.functional.logsigmoid(0.1 * margin), likely[0]))
    batches = [pairs[first : first + micro_batch] for first in range(0, len(pairs), micro_batch)]
    return [
        (sum(loss for loss, _ in batch) / len(batch) - nll * torch.cat([chosen for _, chosen in batch]).mean()).item()
        for batch in batches
    ]


@pytest.mark.engine
@pytest.mark.parametrize("micro_batch", [1, 7])
def test_the_loss_with_the_chosen_answers_likelihood_is_that_by_hand_packed_or_not(
    micro_batch: int, tmp_path: Path
) -> None:
    policy = wide(tmp_path / "policy")
    found = {
        is_packed: packed_trainer(
            tmp_path / f"packed-{is_packed}", policy, packed=is_packed, micro_batch=micro_batch, nll=0.3
        )
        for is_packed in (False, True)
    }
    losses = {is_packed: step(made)[0] for is_packed, made in found.items()}
    expected = by_hand(found[False], policy, 0.3, micro_batch)
    for each in losses.values():
        assert each == pytest.approx(expected, abs=1e-5)
    without = by_hand(found[False], policy, 0.0, micro_batch)
    assert min(abs(a - b) for a, b in zip(expected, without, strict=True)) > 0.1
    stock = packed_trainer(tmp_path / "without", policy, packed=True, micro_batch=micro_batch)
    assert stock.loss_types == ["sigmoid"] and step(stock)[0] == pytest.approx(without, abs=1e-5)
