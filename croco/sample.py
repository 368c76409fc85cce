"""Sample: prompts -> n answers each from the policy, every answer with its own seed.

Paper: the candidates that pairs are chosen from are the policy's own answers to the prompt in each language. The whole
conversation goes to the model: system turn and history included (the reference code keeps the first user turn only).

    python -m croco sample --prompts DIR [DIR ...] --model ID_OR_FOLDER --out DIR
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import chat, checks, dataset, engine, languages, models, rows
from croco.shards import Outcome, Shards, Share, split
from croco.writer import Writer

VERSION = 2
DECODED = ("temperature", "top_p", "top_k", "max_tokens")


@dataclass(frozen=True)
class Decoding:
    """How a model is sampled unless the config says otherwise."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    source: str


_REFERENCE = Decoding(
    1.0, 1.0, 0, 4096, "reference code: SamplingParams(n=64, max_tokens=4096), vLLM's defaults for the rest"
)
DECODING: Mapping[str, Decoding] = {
    "utter-project/EuroLLM-9B-Instruct-2512": _REFERENCE,
    "CohereLabs/tiny-aya-global": _REFERENCE,
}
"""By hub id, whole. A folder or any other model names its values: nothing is guessed from a part of a path."""


@dataclass(frozen=True)
class SampleConfig:
    """Settings of `sample`."""

    n: int = 64
    """Answers a prompt, 1 or more (paper: 64). Below 16 the rule of `pair` degenerates to best against worst."""
    temperature: float | None = None
    """Finite, above 0 where n > 1; None: the model's in DECODING (reference code). Toy world: .7 (ours)."""
    top_p: float | None = None
    """Share of probability to sample from, in (0, 1]; 1 is off; None: the model's in DECODING
    (reference code). Toy world: 1 (ours)."""
    top_k: int | None = None
    """Most probable tokens to sample from, 0 is off; None: the model's in DECODING (reference code). Toy world: 0
    (ours)."""
    max_tokens: int | None = None
    """Tokens an answer may have, 1 or more; None: the model's in DECODING (reference code). Toy world: 64 (ours)."""
    seed: int = 0
    """Of the run. Answer i has seed `rows.seed_of(seed, prompt_id, language) + i`: the same in any shard or order
    (ours)."""
    logprob: bool = False
    """Keep each answer's log-probability, for `train --sampled-reference` (ours)."""
    max_model_len: int | None = None
    """Tokens of prompt and answer together; None: the model's own context (reference code)."""
    min_room: int = 256
    """Tokens that must be left in the context for an answer, at most max_tokens; a prompt that leaves fewer is dropped
    as `over_context` (ours)."""
    shard_prompts: int = 256
    """Prompts of a language that are answered, then stored, at a time, on average: what a kill can cost; 256 x 64
    answers keep a GPU full (ours)."""
    gpus: int = 1
    """GPUs the model is split over (reference code: 8; a 9B model in bf16 fits on one of 80 GB and is faster there)."""

    def __post_init__(self) -> None:
        checks.one_or_more(self, "n", "max_tokens", "max_model_len", "min_room", "shard_prompts", "gpus")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: found {self.top_p}; expected above 0, at most 1")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"top_k: found {self.top_k}; expected 0 (off) or more")
        if self.temperature is not None:
            high_enough = self.temperature >= 0 if self.n == 1 else self.temperature > 0
            if not (high_enough and math.isfinite(self.temperature)):
                raise ValueError(
                    f"temperature: found {self.temperature} with n = {self.n}; expected a finite number above 0"
                )


def resolve(model: str, config: SampleConfig) -> SampleConfig:
    """`config` with every decoding value set: its own, else the model's in DECODING.

    Raises: ValueError naming the flags that a model which is not in the table needs.
    """
    unset = [name for name in DECODED if getattr(config, name) is None]
    if unset and model not in DECODING:
        flags = " ".join("--" + name.replace("_", "-") for name in unset)
        raise ValueError(
            f"sample: found no decoding values for {model!r}; expected a model of {', '.join(DECODING)}, "
            f"or every value given; add {flags}"
        )
    return dataclasses.replace(config, **{name: getattr(DECODING[model], name) for name in unset})


def prompt_of(prompt: Mapping[str, Any], tokenizer: Any, room: int) -> list[int] | str:
    """Token ids of a prompt, or the reason it is not answered; `room` is the most tokens it may have."""
    if chat.special_token_in(tokenizer, prompt["messages"]):
        return "special_token"
    ids = chat.prompt_ids(tokenizer, prompt["messages"])
    return ids if len(ids) <= room else "over_context"


def reason_against(answer: engine.Completion, special: frozenset[int]) -> str | None:
    """Why an answer is not kept; None where it is.

    Special tokens are not in an answer's text. At its ends that is right (end of turn, response marks); one inside
    means that the text is not what the model wrote: it would be scored, and trained on, as something else.
    """
    ids = answer.token_ids
    first = next((place for place, token in enumerate(ids) if token not in special), None)
    if not answer.text.strip() or first is None:
        return "empty"
    last = next(place for place in reversed(range(len(ids))) if ids[place] not in special)
    return None if special.isdisjoint(ids[first:last]) else "special_token_in_answer"


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that a decoder leaves out of the text."""
    added = {at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def sample(
    prompts: Sequence[Mapping[str, Any]],
    generate: engine.Generate,
    tokenizer: Any,
    context: int,
    config: SampleConfig,
    tally: dataset.Tally,
) -> list[dict[str, Any]]:
    """Rows of samples for rows of prompts, by one request a prompt and a resolved `config`.

    `tally` counts answers: a prompt that cannot be asked is n answers dropped.
    """
    decoding: dict[str, Any] = {name: getattr(config, name) for name in DECODED}
    room = context - min(config.min_room, decoding["max_tokens"])
    asked: list[tuple[Mapping[str, Any], list[int], int]] = []
    for prompt in prompts:
        tally.take(prompt["language"], config.n)
        ids = prompt_of(prompt, tokenizer, room)
        if isinstance(ids, str):
            tally.drop(prompt["language"], ids, config.n)
            continue
        seed = rows.seed_of(config.seed, prompt["prompt_id"], prompt["language"])
        asked.append((prompt, ids, seed))
    answers = generate(
        [ids for _, ids, _ in asked], [engine.Sampling(n=config.n, seed=seed, **decoding) for _, _, seed in asked]
    )
    special = special_ids(tokenizer)
    identify = functools.cache(languages.identify)  # short answers repeat
    kept: list[dict[str, Any]] = []
    for (prompt, _, seed), completions in zip(asked, answers, strict=True):
        language = prompt["language"]
        for index, answer in zip(range(config.n), completions, strict=True):
            if reason := reason_against(answer, special):
                tally.drop(language, reason)
                continue
            tally.keep(language)
            kept.append(
                {
                    "prompt_id": prompt["prompt_id"],
                    "language": language,
                    "sample_index": index,
                    "text": answer.text,
                    "token_ids": answer.token_ids,
                    "finish_reason": answer.finish_reason,
                    "seed": seed + index,
                    "identified": identify(answer.text),
                    "logprob": answer.logprob,
                }
            )
    return kept


def run(
    *,
    prompts: list[Path],
    model: str,
    revision: str | None = None,
    out: Path,
    store: str | None = None,
    share: Share = Share(),
    config: SampleConfig = SampleConfig(),
) -> dataset.Manifest:
    """Answer every prompt n times with one start of the engine, train and eval prompts of all languages alike.

    Args:
        prompts: Datasets of prompts, any number of languages.
        model: The policy: a hub id or a local folder.
        revision: Commit, tag or branch of a hub id; default main (ours).
        out: Directory to write the samples to.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    from tqdm import tqdm

    config = resolve(model, config)
    writer = Writer(
        out,
        "samples",
        stage="sample",
        version=VERSION,
        config=config,
        inputs=prompts,
        models={"policy": models.identity(model, revision)},
        store=store,
        also=share,
        neutral=["gpus"],
    )
    if writer.done:
        return writer.done
    commit = writer.models["policy"].get("revision")
    tokenizer = chat.load_tokenizer(model, commit)
    table = dataset.unique(dataset.read(prompts, "prompts", ["prompt_id", "language", "messages"]), "prompts")
    table = table.sort_by([("language", "ascending"), ("prompt_id", "ascending")])
    parts = split(table, config.shard_prompts, share)

    def load() -> engine.Generator:
        return engine.load_generator(
            model, commit, max_model_len=config.max_model_len, gpus=config.gpus, logprob=config.logprob
        )

    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("gpus", "shard_prompts")
    }
    shards = Shards(writer, settings=settings, load=load)
    with tqdm(total=sum(len(places) for _, places in parts), desc="sample", unit="prompt") as bar:
        for language, places in parts:
            asked = table.take(places).to_pylist()
            shards.do(language, asked, functools.partial(_shard, asked, tokenizer, config))
            bar.update(len(asked))
    return writer.finish(
        shards.counts(),
        models={"policy": writer.models["policy"] | {"chat_template_sha256": chat.template_sha256(tokenizer)}},
        metrics={
            "language_fidelity": shards.shares("faithful"),
            "cut": shards.shares("cut"),
            "decoding_source": DECODING[model].source if model in DECODING else "config",
        },
        may_be_empty=share.groups > 1,
    )


def _shard(prompts: list[dict[str, Any]], tokenizer: Any, config: SampleConfig, policy: engine.Generator) -> Outcome:
    tally = dataset.Tally("samples")
    answers = sample(prompts, policy, tokenizer, policy.max_model_len, config, tally)
    measures = {
        "cut": sum(row["finish_reason"] == "length" for row in answers),
        "faithful": sum(row["identified"] == languages.get(row["language"]).base for row in answers),
    }
    return Outcome(answers, tally.counts(), measures)
