"""DPO: pairs a second in one epoch, by the released settings, by TRL's best own flags and packed, on one model.

The released side is TRL in the settings of src/dpo.py and scripts/4.dpo.sh: one pair at a time, gradient checkpointing,
the reference model's pass within the step. It differs in what a CPU asks for: float32, one process instead of eight;
and in what all sides have alike: token ids ready-made, and log-probabilities of the answers' tokens alone, which is
what TRL does on a GPU (on a CPU it projects every position, which would flatter any rival). The stock side has gradient
checkpointing off; computing the reference's log-probabilities before the first step costs one epoch the same. Ours is
trainer.build as `train` calls it, and once more with the reference's log-probabilities ready, as `sample` keeps them.
Each side trains one epoch by TRL's `train()`, for its losses and all that is made once; then they take turns of one
step: TRL's `training_step` of two pairs, which has the loss, the reference model's pass and backward, and the
optimizer's. What `train()` does beside is left out, a look at every object of the process and a checkpoint: .4 s on all
sides, nothing in hours of training. Equal steps differ by a tenth on a machine whose speed varies, so there are many.

The model has EuroLLM-9B's proportions: width to heads, groups and the feed-forward, and the share of the weights that
the vocabulary has. Adapters begin with weights of their own, so that losses differ from ln 2.

The limit counts multiplications: of 2(P + C) tokens, padded, four passes (reference, policy, recomputation, backward)
against three of P + 2C. By a large model's weights alone that is 8(P + C) / 3(P + 2C): 2.22, 2 and 1.78 at 512/128,
512/256 and 256/256. Attention and adapters, twice as dear backward, and the vocabulary, which sees answers alone, have
a greater part in a model as narrow as this one.
"""

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from bench.measuring import Figure, Result, Setting, Side, against, turns
from croco import encoding, trainer
from croco.train import TrainConfig

Pair = Mapping[str, list[int]]
Sets = Sequence[tuple[int, int, int]]
"""Tokens of each pair's prompt, chosen and rejected answer."""
FIXED = ((512, 128), (512, 256), (256, 256))
"""Tokens of prompt and answers."""
FASTER = {"512/128": 1.8, "512/256": 1.8, "256/256": 1.45}
"""Target against the released settings."""
STOCK = 1.4
"""Target against TRL's own flags; beyond what 256/256 allows, so it is asked of the others."""
ROUNDS = {"512/128": 8, "512/256": 15, "256/256": 8}
"""Turns of a step, most where targets are next to what arithmetic allows; two of all pairs where lengths vary."""
SAMPLED = "512/128"
"""Where the reference's log-probabilities are ready-made once more."""
VOCABULARY = 1536
BATCH = 2
"""Pairs a step, so that an epoch has several steps."""


def policy(out: Path, layers: int, width: int, vocabulary: int = VOCABULARY) -> Path:
    """A random Llama of EuroLLM-9B's proportions, with a tokenizer that nobody asks for ids."""
    import tiny
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny.tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=max(width // 256, 1), tie_word_embeddings=False,
        max_position_embeddings=4096, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def drawn(sizes: Sets, vocabulary: int = VOCABULARY) -> list[Pair]:
    """Pairs of random ids, with prompts, chosen and rejected answers of these lengths."""
    rng = random.Random(0)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        {name: [rng.randrange(300, vocabulary) for _ in range(n)] for name, n in zip(names, size, strict=True)}
        for size in sizes
    ]


def varying(number: int) -> list[tuple[int, int, int]]:
    """Lengths about 512/256, each drawn by itself."""
    rng = random.Random(1)
    return [(rng.randint(256, 768), rng.randint(64, 448), rng.randint(64, 448)) for _ in range(number)]


@dataclass(frozen=True)
class Work:
    """Multiplications of a model's forward pass."""

    layers: int
    """A token, by frozen weights."""
    adapters: int = 0
    """A token."""
    vocabulary: int = 0
    """A token of an answer."""
    attention: int = 0
    """A token and one that it sees."""

    @classmethod
    def of(cls, model: Any) -> "Work":
        sizes = {name: weights.numel() for name, weights in model.named_parameters() if weights.dim() == 2}
        adapters = sum(size for name, size in sizes.items() if "lora_" in name)
        layers = sum(size for name, size in sizes.items() if ".layers." in name) - adapters
        config = model.config
        seen = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
        return cls(layers, adapters, config.vocab_size * config.hidden_size, seen)

    def epoch(
        self, tokens: float, seen: float, answers: float, *, again: bool = False, reference: bool = True
    ) -> float:
        """Of the reference's pass, the policy's, the layers' `again` for gradient checkpointing, and backward."""
        once = self.layers * tokens + self.attention * seen
        adapted = once + self.adapters * tokens
        policy = adapted + self.vocabulary * answers
        backward = policy + self.adapters * tokens + self.attention * seen
        return (once + self.vocabulary * answers) * reference + policy + adapted * again + backward

    def packed(self, sizes: Sets, *, reference: bool = True) -> float:
        """Of pairs whose prompt is computed once."""
        tokens, answers = sum(map(sum, sizes)), sum(chosen + rejected for _, chosen, rejected in sizes)
        seen = sum(p * p / 2 + p * (c + r) + (c * c + r * r) / 2 for p, c, r in sizes)
        return self.epoch(tokens, seen, answers, reference=reference)

    def padded(self, sizes: Sets, *, checkpointing: bool) -> float:
        """Of pairs that are two sequences of one length."""
        lengths = [prompt + max(chosen, rejected) for prompt, chosen, rejected in sizes]
        answers = sum(chosen + rejected for _, chosen, rejected in sizes)
        return self.epoch(2 * sum(lengths), sum(n * n for n in lengths), answers, again=checkpointing)


def ours(base: Path, data: Sequence[Pair], out: Path, *, sampled: bool = False) -> Any:
    """The trainer of `train`; `sampled`: with the reference's log-probabilities, any, ready."""
    (out / trainer.CHECKPOINTS).mkdir(parents=True)
    ready = dict.fromkeys(encoding.REFERENCE, -1000.0) if sampled else {}
    encoding.write(out / trainer.CHECKPOINTS / "train.arrow", iter([{**row, **ready} for row in data]))
    config = {"global_batch": BATCH, "sampled_reference": sampled}
    job = {
        "owner": None, "base": str(base), "config": config, "accumulation": BATCH, "gpu": False, "packed": True,
        "splits": ["train"], "identity": {}, "seconds": 0.0, "store": None,
    }  # fmt: skip
    return trainer.build(out, job)


def stock(base: Path, data: Sequence[Pair], out: Path, **flags: Any) -> Any:
    """TRL's trainer in the released settings but for `flags`."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Ready(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    config = TrainConfig()
    arguments = {
        "gradient_checkpointing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": BATCH,
        "learning_rate": config.rate, "lr_scheduler_type": "cosine", "warmup_steps": config.warmup,
        "weight_decay": config.weight_decay, "num_train_epochs": 1, "max_length": config.max_length,
        "logging_steps": 1, "save_strategy": "epoch", "seed": config.seed, "use_cpu": True, "bf16": False,
        "dataloader_pin_memory": False, "report_to": [], "output_dir": str(out), **flags,
    }  # fmt: skip
    return Ready(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=DPOConfig(**arguments),
        train_dataset=Dataset.from_list([dict(row) for row in data]),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(
            r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
            target_modules="all-linear", task_type="CAUSAL_LM",
        ),
    )  # fmt: skip


def started(made: Any) -> Any:
    """The same trainer with an adapter that does something."""
    import torch

    torch.manual_seed(1)
    for name, weights in made.model.named_parameters():
        if "lora_B" in name:
            weights.data.normal_(std=0.02)
    return made


def trained(made: Any) -> list[float]:
    """One epoch -> the loss of each step."""
    made.train()
    return [line["loss"] for line in made.state.log_history if "loss" in line]


def steps(made: Any, number: int) -> Side:
    """So many further steps -> their pairs; of a trainer that has trained."""
    batches = itertools.cycle(made.get_train_dataloader())

    def call() -> float:
        for _ in range(number):
            for _ in range(BATCH):
                made.training_step(made.model_wrapped, next(batches))
            made.optimizer.step()
            made.optimizer.zero_grad()
        return number * BATCH

    return call


def peak(made: Any, trace: Path) -> int:
    """Bytes of tensors that one epoch has at its highest beyond what there was before it, as torch's profiler counts.

    Not the process's resident memory: what an allocator gives back, and when, is another matter. `trace` is written.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        made.train()
    found.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]")


def growth(work: Path) -> tuple[float, dict[str, int]]:
    """What a larger vocabulary adds to the peak, over what its logits would take; and the peaks, by vocabulary.

    Both are larger than the part of the vocabulary that TRL projects on at once. Weights are there before.
    """
    small, large, tokens = 32_768, 131_072, 256
    found = {}
    for vocabulary in (small, large):
        base = policy(work / f"policy-{vocabulary}", 1, 64, vocabulary)
        made = ours(base, drawn([(64, tokens, tokens)] * BATCH, vocabulary), work / str(vocabulary))
        made.train()  # what is made once
        found[str(vocabulary)] = peak(made, work / f"memory-{vocabulary}.json")
    return (found[str(large)] - found[str(small)]) / (4 * (large - small) * 2 * tokens), found


def run(setting: Setting) -> Result:
    with mock.patch("trl.trainer.utils._use_triton", return_value=True):  # answers' tokens alone, as on a GPU
        return _run(setting)


def _run(setting: Setting) -> Result:
    base = policy(setting.work / "policy", setting.of(4, 2), setting.of(512, 128))
    number, figures, detail = setting.of(6, 2), [], {}
    cases = {f"{prompt}/{answer}": [(prompt, answer, answer)] * number for prompt, answer in FIXED}
    cases["about 512/256"] = varying(setting.of(4, 2))
    for case in [*cases][:: setting.of(1, 3)]:
        sizes = cases[case]
        folder = setting.work / case.replace("/", "-").replace(" ", "-")
        faster, rounds = FASTER.get(case), setting.of(ROUNDS.get(case, 2), 1)
        each = 1 if faster else len(sizes) // BATCH
        found, runs, work = _compared(base, sizes, folder, rounds, each, sampled=case == SAMPLED)
        least = work.packed(sizes)
        most, beyond = (work.padded(sizes, checkpointing=again) / least for again in (True, False))
        against_stock = STOCK if faster and beyond > STOCK else None
        ratio = against(runs, "ours", "released", f"{case}: pairs a second", at_least=faster, limit=most)
        figures += [
            ratio,
            Figure(f"{case}: share of the limit", ratio.value / most, "limit", at_least=0.9, limit=1.0),
            against(
                runs, "ours", "stock", f"{case}: to TRL's own flags",
                at_least=against_stock, limit=beyond,
            ),
            Figure(f"{case}: largest difference of losses", found, "nats", at_most=1e-5),
        ]  # fmt: skip
        if case == SAMPLED:
            limit = least / work.packed(sizes, reference=False)
            figures.append(against(runs, "sampled", "ours", f"{case}: reference from sampling, to ours", limit=limit))
        detail[case] = {"sizes": sizes, "runs": runs}
    grown, peaks = growth(setting.work)
    adds = "what a vocabulary of 131,072 for 32,768 adds to the peak"
    figures.append(Figure(adds, grown, "of its logits", at_most=0.01))
    return Result(figures, {**detail, "peaks": peaks})


def _compared(
    base: Path, sizes: Sets, work: Path, rounds: int, each: int, *, sampled: bool
) -> tuple[float, list[dict[str, Any]], Work]:
    """On the same pairs: (largest difference of a step's loss in one epoch from the released settings', runs of `each`
    steps, what a pass computes).
    """
    data = drawn(sizes)
    made = {
        "ours": started(ours(base, data, work / "ours")),
        "released": started(stock(base, data, work / "released")),
        "stock": started(stock(base, data, work / "stock", gradient_checkpointing=False)),
    }
    if sampled:
        made["sampled"] = started(ours(base, data, work / "sampled", sampled=True))
    losses = {name: trained(side) for name, side in made.items()}
    runs = turns({name: steps(side, each) for name, side in made.items()}, rounds)
    apart = max(abs(ours - theirs) for ours, theirs in zip(losses["ours"], losses["released"], strict=True))
    return apart, runs, Work.of(made["ours"].model)
