"""Online trainer: TRL's own for online DPO, which gets the pairs that croco/online.py makes."""

import functools
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from croco import engine, online, rows

MISCOUNTED = ("objective/", "val/")
"""Starts of the names of TRL's metrics that count padding, or the completions of prompts without a pair."""


def made(model: Any, tokenizer: Any, reward: str, config: Any, common: Mapping[str, Any]) -> tuple[Any, Any]:
    """(TRL's online trainer for a TrainConfig, which takes what its other trainers take; its arguments).

    `common`: arguments of every method. `reward`: the reward model's folder.
    """
    trained = trainer_class()
    from transformers import GenerationConfig
    from trl.experimental.online_dpo import OnlineDPOConfig

    long = {"max_length": 2 * config.max_length, "max_new_tokens": config.max_length}  # so that TRL cuts no padded row
    arguments = OnlineDPOConfig(**{**common, **long}, beta=config.beta, disable_dropout=config.disable_dropout)
    # of the model's own settings only what ends an answer: the others would fill in what ours leave open
    model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    ask = functools.partial(online.answer, tokenizer=tokenizer, config=config)
    return functools.partial(
        trained, ask=ask, judge=online.load(reward, tokenizer, arguments.device), config=config
    ), arguments


def trainer_class() -> Any:
    """TRL's online trainer, given answers and rewards instead of making its own two; 1.16, which is pinned, has only
    private methods for that, and is `experimental`.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.online_dpo import OnlineDPOTrainer
    from trl.models.utils import unwrap_model_for_generation

    class PoolTrainer(OnlineDPOTrainer):
        def __init__(self, *, ask: online.Ask, judge: online.Judge, config: Any, **options: Any) -> None:
            self.ask, self.judge, self.config = ask, judge, config
            self.counted: Counter[str] = Counter()  # since the last step, in this process
            super().__init__(reward_funcs=self._known, **options)
            # accelerate's own takes rows of the last step for repeated ones where a micro-batch is not full
            self.accelerator.gather_for_metrics = self.accelerator.gather

        def _generate(self, model: Any, prompts: Sequence[Mapping[str, Any]], images: None = None) -> tuple[Any, ...]:
            ids, stops = [prompt["ids"] for prompt in prompts], cast(list[int], self.eos_token_ids)
            seed = rows.seed_of("online", self.args.seed, self.state.global_step, ids)
            with unwrap_model_for_generation(model, self.accelerator) as policy:
                policy.eval()
                answers = self.ask(policy, ids, stops, seed)
            model.train()
            pairs = [self._pair(*each) for each in zip(prompts, answers, strict=True)]
            self.rewards: list[float | None] = [pair[side][1] if pair else 0.0 for side in (0, 1) for pair in pairs]
            texts = [(pair[0][0], pair[1][0]) if pair else None for pair in pairs]
            return tensors(ids, texts, self._tokenizer.pad_token_id, self.accelerator.device)

        def _pair(self, prompt: Mapping[str, Any], answers: Sequence[engine.Completion]) -> Any:
            """(ids, reward) of chosen and of rejected, None without a pair; counts."""
            rewards, read = self.judge(prompt["messages"], answers)
            picked = online.pick(answers, rewards, self.config)
            pair = [(answers[place].token_ids, rewards[place]) for place in picked] if picked else None
            trained = sum(len(prompt["ids"]) + len(ids) for ids, _ in pair or ())
            self.counted.update(counts(answers, rewards, read + trained, pair))
            return pair

        def _known(self, **_: Any) -> list[float | None]:
            return self.rewards

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            # TRL leaves it to accelerate to divide by the micro-batches of a step, and transformers has it not do so
            steps = self.current_gradient_accumulation_steps
            self.accelerator.gradient_accumulation_steps = steps
            loss = super().training_step(model, inputs, num_items_in_batch)
            self.accelerator.gradient_accumulation_steps = 1
            return loss * self.args.gradient_accumulation_steps / steps

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                logs = {name: value for name, value in logs.items() if not name.startswith(MISCOUNTED)}
                logs |= summed(self.counted, self.accelerator)
                self.counted = Counter()
            super().log(logs, start_time)

    return PoolTrainer


def tensors(
    prompts: Sequence[list[int]], pairs: Sequence[tuple[list[int], list[int]] | None], pad: int, device: Any
) -> tuple[Any, ...]:
    """What TRL's `_generate` gives: ids and mask [2 x prompts, time] of prompts, padded on the left, and of
    completions, chosen of all and then rejected of all; those of a prompt without a pair are all padding.
    """
    import torch

    answers = [pair[side] if pair else [] for side in (0, 1) for pair in pairs]
    asked, wide = max(map(len, prompts)), max(1, *map(len, answers))
    tables = [
        [[pad] * (asked - len(ids)) + ids for ids in prompts] * 2,
        [[0] * (asked - len(ids)) + [1] * len(ids) for ids in prompts] * 2,
        [ids + [pad] * (wide - len(ids)) for ids in answers],
        [[1] * len(ids) + [0] * (wide - len(ids)) for ids in answers],
    ]
    return *(torch.tensor(each, device=device) for each in tables), None


def counts(
    answers: Sequence[engine.Completion], rewards: Sequence[float | None], tokens_in: int, pair: Any
) -> dict[str, float]:
    """What one prompt adds to its step: numbers of online.COUNTED, and sums of rewards."""
    known = [reward for reward in rewards if reward is not None]
    chosen, rejected = (side[1] for side in pair) if pair else (0.0, 0.0)
    return {
        "prompts": 1,
        "unpaired": int(pair is None),
        "answers": len(answers),
        "unscored": len(answers) - len(known),
        "cut": sum(one.finish_reason == "length" for one in answers),
        "tokens_in": tokens_in,
        "tokens_out": sum(len(one.token_ids) for one in answers),
        "scores/mean": math.fsum(known),
        "scores/chosen": chosen,
        "scores/rejected": rejected,
    }


def summed(counted: Mapping[str, float], accelerator: Any) -> dict[str, float]:
    """A step's numbers over all processes: `scores/...` as means, where there is anything to take them of."""
    import torch

    names = [*online.COUNTED, "scores/mean", "scores/chosen", "scores/rejected"]
    numbers = torch.tensor([counted.get(name, 0) for name in names], dtype=torch.float64, device=accelerator.device)
    total = dict(zip(names, accelerator.reduce(numbers, "sum").tolist(), strict=True))
    pairs = total["prompts"] - total["unpaired"]
    of = {"scores/mean": total["answers"] - total["unscored"], "scores/chosen": pairs, "scores/rejected": pairs}
    means = {name: total[name] / number for name, number in of.items() if number}
    return {name: int(total[name]) for name in online.COUNTED} | means
