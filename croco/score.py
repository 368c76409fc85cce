"""Score: answers -> one reward each from the reward model.

Paper: a reward model trained on English preferences ranks the answers in every language (Skywork-Reward-V2-Qwen3-8B).
The reward is the raw logit in float32 of the conversation as sampled: no system turn is added (the model was trained
without), one that is there stays. Before an engine scores a shard, a handful of rewards is held against a plain
transformers forward; the largest difference found is in the metrics, also of shards that were scored by another run.

All answers to a language's prompts of one bucket are a shard and go to the engine together, whatever files they come
from. With no more `shard_prompts` than `sample` had, shards do not depend on how samples were dealt to groups. On a CPU
(float32) a reward was the same to the last bit in every batch that was tried; on a GPU (bfloat16) its last digits may
depend on which conversations are computed with it.

    python -m croco score --prompts DIR [DIR ...] --samples DIR [DIR ...] --model ID_OR_FOLDER --out DIR
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from croco import chat, checks, dataset, engine, models
from croco.conversations import Answer, Answers, Shard, answer_of, encode, handful
from croco.shards import Outcome, Shards
from croco.writer import Writer

VERSION = 1
TOLERANCE: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.25}
"""Reward that vLLM and transformers may differ by (ours). float32: 9e-6 was measured. bfloat16: near a reward of 20 its
steps are .125, and transformers and SGLang were seen to differ by one."""


@dataclass(frozen=True)
class ScoreConfig:
    """Settings of `score`."""

    max_length: int | None = None
    """Tokens of a conversation; a longer one is dropped as `over_long`. None: the reward model's own context
    (ours). Skywork was trained on 16384 at most; the reference code allows 2048 by default, 32768 in its script."""
    parity_answers: int = 8
    """Answers compared with a plain forward before any is scored, 1 or more (ours)."""
    parity_tolerance: float | None = None
    """Reward by which they may differ, finite and above 0; None: by precision, see TOLERANCE (ours)."""
    max_not_finite: float = 0.01
    """Share of answers in [0, 1] that may have a reward of nan or infinity, each dropped as `not_finite`; the stage
    fails above it (ours)."""
    shard_prompts: int = 256
    """Prompts of a language whose answers are scored, then stored, at a time, on average: what a kill can cost; the
    default of `sample`, see above (ours)."""
    gpus: int = 1
    """GPUs the model is split over (reference code: 8; Skywork's authors: 1)."""

    def __post_init__(self) -> None:
        checks.one_or_more(self, "max_length", "parity_answers", "shard_prompts", "gpus")
        if (most := self.parity_tolerance) is not None and not (math.isfinite(most) and most > 0):
            raise ValueError(f"parity_tolerance: found {most}; expected a finite number above 0")
        if not 0 <= self.max_not_finite <= 1:
            raise ValueError(f"max_not_finite: found {self.max_not_finite}; expected 0 to 1")


def check_parity(found: Sequence[float], expected: Sequence[float], tolerance: float) -> float:
    """The largest difference between the engine's rewards and a plain forward's.

    Raises: ValueError beyond `tolerance`, or for a reward that is not finite.
    """
    difference = float(np.max(np.abs(np.subtract(found, expected)), initial=0.0))
    if not difference <= tolerance:
        raise ValueError(
            f"score: found rewards {[round(reward, 4) for reward in found]} where a transformers forward gives "
            f"{[round(reward, 4) for reward in expected]}; expected them within {tolerance}; this vLLM does not run "
            "this reward model rightly"
        )
    return difference


def score(
    rows: Sequence[Mapping[str, Any]],
    encoded: Mapping[Answer, list[int] | str],
    classify: engine.Classify,
    tally: dataset.Tally,
) -> list[dict[str, Any]]:
    """Rows of scores, by language, prompt and sample, for rows of samples; each distinct answer is scored once."""
    conversations = {answer: ids for answer, ids in encoded.items() if not isinstance(ids, str)}
    rewards = dict(zip(conversations, classify(list(conversations.values())), strict=True))
    scored = []
    for row in sorted(rows, key=lambda row: (row["language"], row["prompt_id"], row["sample_index"])):
        language, answer = row["language"], answer_of(row)
        tally.take(language)
        outcome = encoded[answer]
        if isinstance(outcome, str):
            tally.drop(language, outcome)
        elif not math.isfinite(rewards[answer]):
            tally.drop(language, "not_finite")
        else:
            tally.keep(language)
            key = {name: row[name] for name in ("prompt_id", "language", "sample_index")}
            scored.append(key | {"reward": rewards[answer]})
    return scored


def within(parity: Mapping[str, Any], tolerance: float | None) -> dict[str, Any]:
    """What was found of the engine that scored a shard, with what is tolerated of it (None: by precision).

    Raises: ValueError if that is less than what was found, which another run may have tolerated.
    """
    tolerated = tolerance or TOLERANCE[parity["precision"]]
    if not parity["difference"] <= tolerated:
        raise ValueError(
            f"score: found a stored shard whose rewards differ by up to {parity['difference']:.3g} from a transformers "
            f"forward's; expected {tolerated} at most; raise --parity-tolerance, or use another --store"
        )
    return {**parity, "tolerance": tolerated}


def check_finite(tally: dataset.Tally, total: int, share: float) -> None:
    """Raises: ValueError as soon as more than `share` of `total` answers have a reward that is not finite."""
    number = sum(reasons["not_finite"] for reasons in tally.dropped.values())
    if number > share * total:
        raise ValueError(
            f"score: found {number} of {total} rewards not finite; expected at most a share of {share}; "
            "look at the reward model, or raise --max-not-finite"
        )


Start = Callable[[Sequence[list[int]]], tuple[list[float], engine.Classifier]]
"""Conversations -> a plain forward's rewards of them, and then the engine to hold against them."""


class Scorer:
    """Loads an engine that agrees with a plain forward, and scores shards by it."""

    def __init__(self, answers: Answers, tokenizer: Any, limit: int, config: ScoreConfig, start: Start) -> None:
        self.answers, self.tokenizer, self.limit, self.config, self.start = answers, tokenizer, limit, config, start
        self.parity: dict[str, Any] = {}
        """What was found when the engine was loaded."""

    def encoded(self, shard: Shard) -> dict[Answer, list[int] | str]:
        return encode(map(answer_of, shard.rows), shard.messages, self.tokenizer, self.limit)

    def load(self, first: int) -> engine.Classifier:
        """The engine, checked by answers of shard `first`, or of the next one that has any to score."""
        shards = map(self.answers.shard, range(first, len(self.answers.parts)))
        handfuls = (handful(self.encoded(shard), self.config.parity_answers) for shard in shards)
        probes = next(filter(None, handfuls), [])
        expected, classify = self.start(probes)
        precision = engine.dtype()
        difference = check_parity(classify(probes), expected, self.config.parity_tolerance or TOLERANCE[precision])
        self.parity = {"answers": len(probes), "difference": difference, "precision": precision}
        return classify

    def score(self, shard: Shard, classify: engine.Classifier) -> Outcome:
        tally, encoded = dataset.Tally("scores"), self.encoded(shard)
        scored = score(shard.rows, encoded, classify, tally)
        rewards = [row["reward"] for row in scored]
        measures = {
            "distinct": len(encoded),
            "reward": math.fsum(rewards),
            "reward_squared": math.fsum(reward**2 for reward in rewards),
        }
        return Outcome(scored, tally.counts(), measures, {"parity": self.parity})


def work(
    writer: Writer, answers: Answers, tokenizer: Any, limit: int, config: ScoreConfig, start: Start
) -> dataset.Manifest:
    """Do every shard, and finish."""
    from tqdm import tqdm

    scorer, found = Scorer(answers, tokenizer, limit, config, start), []
    shards = Shards(writer, load=lambda: scorer.load(len(writer.shards)), settings={"max_length": limit})
    with tqdm(total=answers.number, desc="score", unit="answer") as bar:
        for number in range(len(answers.parts)):
            shard = answers.shard(number)
            content = [list(shard.messages.items()), [list(row.values()) for row in shard.rows]]
            record = shards.do(shard.language, content, functools.partial(scorer.score, shard))
            found.append(within(record["notes"]["parity"], config.parity_tolerance))
            check_finite(shards.tallies["scores"], answers.number, config.max_not_finite)
            bar.update(len(shard.rows))
    mean, squared = shards.shares("reward"), shards.shares("reward_squared")
    distinct = shards.measures["distinct"]
    return writer.finish(
        shards.counts(),
        models={"reward": writer.models["reward"] | {"chat_template_sha256": chat.template_sha256(tokenizer)}},
        metrics={
            "parity": max(found, key=lambda parity: parity["difference"], default=None),
            "reward_mean": mean,
            "reward_std": {code: math.sqrt(max(squared[code] - mean[code] ** 2, 0.0)) for code in mean},
            "distinct_share": {code: distinct[code] / shards.tallies["scores"].taken[code] for code in distinct},
            "prompts_without_answers": answers.without,
        },
        may_be_empty=answers.without > 0,  # a group may have no answer to score
    )


def run(
    *,
    prompts: list[Path],
    samples: list[Path],
    model: str,
    revision: str | None = None,
    out: Path,
    store: str | None = None,
    config: ScoreConfig = ScoreConfig(),
) -> dataset.Manifest:
    """Score every answer by the reward model, a shard at a time.

    Args:
        prompts: Datasets of the prompts that were answered.
        samples: Datasets of their answers, any number of languages.
        model: The reward model: a hub id or a local folder.
        revision: Commit, tag or branch of a hub id; default main (ours).
        out: Directory to write the scores to.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    writer = Writer(
        out,
        "scores",
        stage="score",
        version=VERSION,
        config=config,
        inputs=[*prompts, *samples],
        models={"reward": models.identity(model, revision)},
        store=store,
        neutral=["gpus"],
    )
    if writer.done:
        return writer.done
    return by_model(writer, lambda: Answers(prompts, samples, config.shard_prompts), model, config)


def by_model(writer: Writer, read: Callable[[], Answers], model: str, config: ScoreConfig) -> dataset.Manifest:
    """Score the answers that `read` gives by the reward model that `writer` names, and finish."""
    commit = writer.models["reward"].get("revision")
    limit = _limit(config, engine.context(model, commit))
    answers, tokenizer = read(), chat.load_tokenizer(model, commit)

    def start(probes: Sequence[list[int]]) -> tuple[list[float], engine.Classifier]:
        expected = engine.plain_rewards(model, commit, probes)
        return expected, engine.load_classifier(model, commit, max_model_len=limit, gpus=config.gpus)

    return work(writer, answers, tokenizer, limit, config, start)


def _limit(config: ScoreConfig, context: int) -> int:
    if config.max_length and config.max_length > context:
        raise ValueError(f"max_length: found {config.max_length}; expected at most the reward model's {context} tokens")
    return config.max_length or context
