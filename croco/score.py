"""Score: answers -> one reward each from the reward model.

Paper: a reward model trained on English preferences ranks the answers in every language (Skywork-Reward-V2-Qwen3-8B).
The reward is the raw logit in float32 of the conversation as sampled: no system turn is added (the model was trained
without), one that is there stays. At the start a handful of rewards is held against a plain transformers forward.

    python -m croco score --prompts DIR [DIR ...] --samples DIR [DIR ...] --model ID_OR_FOLDER --out DIR
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from croco import chat, checks, dataset, engine, models

VERSION = 1
TOLERANCE: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.25}
"""Reward that vLLM and transformers may differ by (ours). float32: 9e-6 was measured. bfloat16: near a reward of 20 its
steps are .125, and transformers and SGLang were seen to differ by one."""
THINK_END = "</think>"

Key = tuple[str, str]
"""(language, prompt_id)."""
Answer = tuple[str, str, str]
"""(language, prompt_id, text): what is scored once, however often it was sampled."""


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
    gpus: int = 1
    """GPUs the model is split over (reference code: 8; Skywork's authors: 1)."""

    def __post_init__(self) -> None:
        checks.one_or_more(self, "max_length", "parity_answers", "gpus")
        if (most := self.parity_tolerance) is not None and not (math.isfinite(most) and most > 0):
            raise ValueError(f"parity_tolerance: found {most}; expected a finite number above 0")
        if not 0 <= self.max_not_finite <= 1:
            raise ValueError(f"max_not_finite: found {self.max_not_finite}; expected 0 to 1")


def together(parts: Mapping[Path, set[Key]]) -> list[list[Path]]:
    """Files grouped so that all answers to a prompt are in one group; the groups in order of their first prompt."""
    groups: list[tuple[list[Path], set[Key]]] = []
    for path, keys in parts.items():
        touching = [group for group in groups if not group[1].isdisjoint(keys)]
        paths = [one for group in touching for one in group[0]]
        groups = [group for group in groups if group not in touching]
        groups.append(([*paths, path], keys.union(*(group[1] for group in touching))))
    return [paths for paths, keys in sorted(groups, key=lambda group: min(group[1]))]


def encode(
    answers: Iterable[Answer], messages: Mapping[Key, Sequence[chat.Message]], tokenizer: Any, limit: int
) -> dict[Answer, list[int] | str]:
    """Each distinct answer's conversation as token ids, or the reason it is not scored.

    Sorted, so that the answers to one prompt go to the engine side by side whatever order they came in, and share the
    prompt's prefix cache: shuffled, they cost 2.9 times the tokens when memory is short.
    """
    return {answer: _encode(answer, messages, tokenizer, limit) for answer in sorted(set(answers))}


def _encode(
    answer: Answer, messages: Mapping[Key, Sequence[chat.Message]], tokenizer: Any, limit: int
) -> list[int] | str:
    language, prompt_id, text = answer
    turns = messages[language, prompt_id]
    if chat.special_token_in(tokenizer, turns, text):
        return "special_token"
    if THINK_END in text and THINK_END in str(tokenizer.chat_template):
        return "think_tag"  # Qwen3's template takes what comes before it for reasoning: the tail would be scored
    ids = chat.conversation_ids(tokenizer, turns, text)
    return ids if len(ids) <= limit else "over_long"


def handful(encoded: Mapping[Answer, list[int] | str], number: int) -> list[list[int]]:
    """At most `number` conversations, from the shortest to the longest in even steps."""
    ordered = sorted((ids for ids in encoded.values() if not isinstance(ids, str)), key=len)
    places = np.linspace(0, len(ordered) - 1, min(number, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


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
        language, answer = row["language"], _answer(row)
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


def check_finite(tally: dataset.Tally, total: int, share: float) -> None:
    """Raises: ValueError as soon as more than `share` of `total` answers have a reward that is not finite."""
    number = sum(reasons["not_finite"] for reasons in tally.dropped.values())
    if number > share * total:
        raise ValueError(
            f"score: found {number} of {total} rewards not finite; expected at most a share of {share}; "
            "look at the reward model, or raise --max-not-finite"
        )


def run(
    *,
    prompts: list[Path],
    samples: list[Path],
    model: str,
    revision: str | None = None,
    out: Path,
    config: ScoreConfig = ScoreConfig(),
) -> dataset.Manifest:
    """Score every answer by the reward model, a file of samples at a time.

    Args:
        prompts: Datasets of the prompts that were answered.
        samples: Datasets of their answers, any number of languages.
        model: The reward model: a hub id or a local folder.
        revision: Commit, tag or branch of a hub id; default main (ours).
        out: Directory to write the scores to.
    """
    from tqdm import tqdm

    identity = models.identity(model, revision)
    revision = identity.get("revision")
    limit = _limit(config, engine.context(model, revision))
    asked = dataset.unique(dataset.read(prompts, "prompts", ["prompt_id", "language", "messages"]), "prompts")
    place = {key: at for at, key in enumerate(_keys(asked))}
    answered = {path: set(_keys(_read(path))) for path in dataset.parts(samples, "samples")}
    without = _check_prompts(set(place), set().union(*answered.values()))
    groups, total = together(answered), sum(dataset.load_manifest(directory).rows for directory in samples)
    writer = dataset.Writer(out, "scores", stage="score", version=VERSION, config=config, inputs=[*prompts, *samples])
    tokenizer = chat.load_tokenizer(model, revision)

    def load(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], dict[Answer, list[int] | str]]:
        table = dataset.unique(pa.concat_tables([_read(path, "sample_index", "text") for path in paths]), "samples")
        keys = sorted(set(_keys(table)))
        turns = asked.take([place[key] for key in keys])["messages"].to_pylist()
        answers = table.to_pylist()
        return answers, encode(map(_answer, answers), dict(zip(keys, turns, strict=True)), tokenizer, limit)

    probes = next(filter(None, (handful(load(paths)[1], config.parity_answers) for paths in groups)), [])
    expected = engine.plain_rewards(model, revision, probes)
    classify = engine.load_classifier(model, revision, max_model_len=limit, gpus=config.gpus)
    tolerance = config.parity_tolerance or TOLERANCE[engine.dtype()]
    parity = {"answers": len(probes), "difference": check_parity(classify(probes), expected, tolerance)}

    tally, rewards = dataset.Tally("scores"), defaultdict[str, list[float]](list)
    unique: Counter[str] = Counter()
    with tqdm(total=total, desc="score", unit="answer") as bar:
        for paths in groups:
            answers, encoded = load(paths)
            scored = score(answers, encoded, classify, tally)
            check_finite(tally, total, config.max_not_finite)
            unique.update(language for language, _, _ in encoded)
            for row in scored:
                rewards[row["language"]].append(row["reward"])
            if scored:
                writer.add(scored)
            bar.update(len(answers))
    return writer.finish(
        tally.counts(),
        models={"reward": identity | {"template": chat.template_sha256(tokenizer)}},
        metrics={
            "parity": parity | {"tolerance": tolerance, "precision": engine.dtype()},
            "reward_mean": {language: float(np.mean(values)) for language, values in rewards.items()},
            "reward_std": {language: float(np.std(values)) for language, values in rewards.items()},
            "distinct_share": {language: unique[language] / tally.taken[language] for language in sorted(unique)},
            "prompts_without_answers": without,
            "tokens": classify.tokens,
            "scoring_seconds": round(classify.seconds, 3),
        },
    )


def _limit(config: ScoreConfig, context: int) -> int:
    if config.max_length and config.max_length > context:
        raise ValueError(f"max_length: found {config.max_length}; expected at most the reward model's {context} tokens")
    return config.max_length or context


def _check_prompts(prompts: set[Key], answered: set[Key]) -> int:
    """How many prompts have no answer. Raises: ValueError if answers are to prompts that are not there."""
    if missing := sorted(answered - prompts):
        raise ValueError(
            f"score: found answers to {len(missing)} of {len(answered)} prompts that --prompts does not hold, "
            f"{missing[0]} for one; expected every prompt; add the datasets that were sampled"
        )
    return len(prompts - answered)


def _read(path: Path, *columns: str) -> pa.Table:
    return pq.read_table(path, columns=["prompt_id", "language", *columns])


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(table["language"].to_pylist(), table["prompt_id"].to_pylist(), strict=True))


def _answer(row: Mapping[str, Any]) -> Answer:
    return row["language"], row["prompt_id"], row["text"]
