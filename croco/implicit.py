"""Implicit: answers -> the implicit reward of a DPO-tuned model under the English prompt (ICR), in the form of scores.

Source: Yang et al. 2025 (ICR, arXiv 2503.04647); its code is utils/compute_reward_score.py and
utils/generate_preference_pair.py. Whatever language an answer y is in, with x the same prompt in English,

    reward(y) = log p_tuned(y | x) - log p_base(y | x) - alpha * length(y)

in nats, summed over the answer's tokens, its end of turn among them, as `train` reads them. Length control settles one
alpha a language, over all of its answers that this run scores: the one of a grid, the first of several, for which the
answers of highest reward, a pool each (a prompt in one language), are on average nearest in length to those of lowest.
So a language's answers must all be given to one run; those of a group of `sample` would settle an alpha of their own.

Both models are loaded at once, each of a policy's size. A shard holds rewards without length control; alpha is taken
off in a last pass, when all shards are done.

Unlike its code, which drops an answer's first token from the sum, this sums all of them. What is dropped, by reason:

    no_english_prompt  the prompt is not there in English
    special_token      the answer or the English prompt spells a special token
    think_tag          the answer holds what the chat template takes for the end of a thought
    prompt_not_prefix  the prompt's tokens are no prefix of the conversation's (as `train`)
    over_long          English prompt and answer have more than `max_length` tokens

    python -m croco implicit --prompts DIR [DIR ...] --samples DIR [DIR ...] --tuned FOLDER --base FOLDER --out DIR
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from croco import chat, checks, dataset, engine, languages, likelihood, models
from croco.conversations import THINK_END, Answer, Answers, Shard, answer_of
from croco.likelihood import Likelihood, Text
from croco.score import score
from croco.shards import Outcome, Shards
from croco.writer import Writer

VERSION = 1
Floats = NDArray[np.float64]
Turns = Sequence[chat.Message]


@dataclass(frozen=True)
class ImplicitConfig:
    """Settings of `implicit`."""

    length_control: bool = True
    """Whether alpha is settled, or 0 (paper)."""
    length_in: str = "tokens"
    """What lengths are counted in: `tokens` (assumed) or `characters` (reference code)."""
    alpha_step: float = 0.001
    """Between two alphas of the grid, above 0 (paper)."""
    alpha_most: float = 1.0
    """The grid's last alpha; its first is 0 (paper)."""
    name_language: bool = False
    """Whether the English prompt of an answer in another language begins by asking for that language (reference code:
    yes, in other words; the paper's formula: no)."""
    max_length: int | None = None
    """Tokens of English prompt and answer; None: the smaller of both models' contexts (ours)."""
    shard_prompts: int = 256
    """Prompts of a language whose answers are scored, then stored, at a time, on average: what a kill can cost (ours,
    as `score`)."""
    max_tokens: int = 16_384
    """Tokens computed at once, padding too; a reward does not depend on it but for rounding (ours)."""
    gpus: int = 1
    """GPUs that both models are spread over (ours: two of 9B in bfloat16 need 36 GB)."""

    def __post_init__(self) -> None:
        checks.one_of(self, "length_in", ("tokens", "characters"))
        checks.one_or_more(self, "max_length", "shard_prompts", "max_tokens", "gpus")
        for name in ("alpha_step", "alpha_most"):
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
                raise ValueError(f"{name}: found {value}; expected a finite number above 0")

    @property
    def alphas(self) -> Floats:
        """The grid that length control searches."""
        steps = round(self.alpha_most / self.alpha_step) if self.length_control else 0
        return np.array([step * self.alpha_step for step in range(steps + 1)])


class Implicit:
    """Two loaded models, which count their tokens."""

    tokens_out = 0

    def __init__(self, tuned: Likelihood, base: Likelihood) -> None:
        self.tuned, self.base, self.gpus = tuned, base, tuned.gpus
        self.tokens_in = 0

    def __call__(self, texts: Sequence[Any]) -> list[float]:
        """How much more probable, in nats, the tuned model holds the continuation of each Text than the base."""
        pairs = list(zip(self.tuned(texts), self.base(texts), strict=True))
        self.tokens_in = self.tuned.tokens_in + self.base.tokens_in
        return [tuned - base for (tuned, _), (base, _) in pairs]


def encode(
    answers: Iterable[Answer], english: Mapping[str, Turns], tokenizer: Any, limit: int, named: bool
) -> dict[Answer, Any]:
    """Each distinct answer as the continuation of its prompt in English, or the reason it is not scored."""
    return {answer: _encode(answer, english, tokenizer, limit, named) for answer in sorted(set(answers))}


def _encode(answer: Answer, english: Mapping[str, Turns], tokenizer: Any, limit: int, named: bool) -> Text | str:
    language, prompt, text = answer
    if prompt not in english:
        return "no_english_prompt"
    turns = naming(english[prompt], language) if named else english[prompt]
    if chat.special_token_in(tokenizer, turns, text):
        return "special_token"
    if THINK_END in text and THINK_END in str(tokenizer.chat_template):
        return "think_tag"
    ids = chat.completion_ids(tokenizer, turns, text)
    if ids is None:
        return "prompt_not_prefix"
    context, continuation = ids
    return (context, continuation) if len(context) + len(continuation) <= limit else "over_long"


def naming(turns: Turns, language: str) -> Turns:
    """`turns` whose last one first asks for an answer in `language`; in English, as they are."""
    if language == "en":
        return turns
    ask = f"Please answer in {languages.get(language).name}, unless you are asked for another language.\n\n"
    return [*turns[:-1], {**turns[-1], "content": ask + turns[-1]["content"]}]


def compare(
    shard: Shard, english: Mapping[str, Turns], tokenizer: Any, limit: int, config: ImplicitConfig, implicit: Implicit
) -> Outcome:
    """Rewards of a shard's answers without length control, and how long the answers are."""
    tally = dataset.Tally("scores")
    encoded = encode(map(answer_of, shard.rows), english, tokenizer, limit, config.name_language)
    rows = score(shard.rows, encoded, implicit, tally)
    answers = {(row["prompt_id"], row["sample_index"]): answer_of(row) for row in shard.rows}
    kept = [answers[row["prompt_id"], row["sample_index"]] for row in rows]
    in_tokens = config.length_in == "tokens"
    lengths = [len(encoded[answer][1]) if in_tokens else len(answer[2]) for answer in kept]
    return Outcome(rows, tally.counts(), {"distinct": len(encoded)}, {"lengths": lengths})


class Settled(NamedTuple):
    """The alpha of a language, and what it does."""

    alpha: float
    before: float
    """Length of a pool's answer of highest reward minus that of its answer of lowest, on average, for an alpha of 0."""
    after: float
    """The same for this alpha."""


def settle(reward: Floats, length: Floats, pool: Sequence[str], alphas: Floats) -> Settled:
    """The first of `alphas` whose difference of lengths is nearest to 0.

    Args:
        reward: [answers], without length control.
        length: [answers].
        pool: [answers], the prompt of each; those of one stand together.
        alphas: [grid].
    """
    _, first, size = np.unique(np.asarray(pool), return_index=True, return_counts=True)
    size = size[np.argsort(first)]  # in the order they stand in
    real = np.arange(size.max()) < size[:, None]  # [pools, widest]
    rewards, lengths = np.zeros(real.shape), np.zeros(real.shape)
    rewards[real], lengths[real] = reward, length
    highest, lowest = np.where(real, rewards, -np.inf), np.where(real, rewards, np.inf)
    rows = np.arange(len(size))
    found = []
    for alpha in alphas:
        less = alpha * lengths
        chosen, rejected = (highest - less).argmax(axis=1), (lowest - less).argmin(axis=1)
        found.append(float((lengths[rows, chosen] - lengths[rows, rejected]).mean()))
    best = int(np.abs(found).argmin())
    return Settled(float(alphas[best]), found[0], found[best])


def control(writer: Writer, lengths: Sequence[Sequence[int]], alphas: Floats) -> dict[str, Any]:
    """Take alpha times their `lengths` off the rewards of the parts written so far, each of one language; metrics."""
    from tqdm import tqdm

    parts = [pq.read_table(writer.out / file["path"]) for file in writer.files]
    long = [np.array(part, float) for part in lengths if part]
    of: dict[str, list[int]] = defaultdict(list)
    for place, part in enumerate(parts):
        of[part["language"][0].as_py()].append(place)
    settled, rewards = {}, {}
    for code, places in tqdm(sorted(of.items()), desc="length control", unit="language"):
        table = pa.concat_tables([parts[place] for place in places])
        raw = table["reward"].to_numpy().astype(float)
        length = np.concatenate([long[place] for place in places])
        settled[code] = settle(raw, length, table["prompt_id"].to_pylist(), alphas)
        rewards[code] = raw - settled[code].alpha * length
        if len(alphas) > 1 and settled[code].alpha == alphas[-1]:
            writer.warn(
                f"implicit: found the alpha of {code} at the end of its grid, {alphas[-1]:g}, where lengths still "
                f"differ by {settled[code].after:.3g}; --alpha-most gives it more room"
            )
    writer.files.clear()  # each part is written anew under its own name
    for part, length in zip(parts, long, strict=True):
        alpha = settled[part["language"][0].as_py()].alpha
        reward = (part["reward"].to_numpy() - alpha * length).astype(np.float32)
        writer.add(part.set_column(part.schema.get_field_index("reward"), "reward", pa.array(reward)))
    return {
        "alpha": {code: one.alpha for code, one in settled.items()},
        "length_difference": {code: {"before": one.before, "after": one.after} for code, one in settled.items()},
        "reward_mean": {code: float(reward.mean()) for code, reward in rewards.items()},
        "reward_std": {code: float(reward.std()) for code, reward in rewards.items()},
    }


def work(
    writer: Writer, answers: Answers, tokenizer: Any, limit: int, config: ImplicitConfig, load: Callable[[], Implicit]
) -> dataset.Manifest:
    """Do every shard, take off what length control says, and finish."""
    from tqdm import tqdm

    settings = {"max_length": limit, "length_in": config.length_in, "name_language": config.name_language}
    settings["precision"] = engine.dtype()
    shards, lengths = Shards(writer, load=load, settings=settings), []
    with tqdm(total=answers.number, desc="implicit", unit="answer") as bar:
        for number in range(len(answers.parts)):
            shard = answers.shard(number)
            english = english_of(answers, shard)
            content = [list(english.items()), [list(row.values()) for row in shard.rows]]
            compute = functools.partial(compare, shard, english, tokenizer, limit, config)
            lengths.append(shards.do(shard.language, content, compute)["notes"]["lengths"])
            bar.update(len(shard.rows))
    distinct = shards.measures["distinct"]
    metrics = control(writer, lengths, config.alphas)
    template = {"chat_template_sha256": chat.template_sha256(tokenizer)}
    return writer.finish(
        shards.counts(),
        models={role: identity | template for role, identity in writer.models.items()},
        metrics=metrics
        | {
            "distinct_share": {code: distinct[code] / shards.tallies["scores"].taken[code] for code in distinct},
            "prompts_without_answers": answers.without,
        },
        may_be_empty=answers.without > 0,
    )


def english_of(answers: Answers, shard: Shard) -> dict[str, Turns]:
    """The English turns of a shard's prompts that have any."""
    names = [name for _, name in shard.messages if ("en", name) in answers.place]
    places = pa.array([answers.place["en", name] for name in names], pa.int64())  # an empty list has no type
    return dict(zip(names, answers.prompts["messages"].take(places).to_pylist(), strict=True))


def run(
    *,
    prompts: list[Path],
    samples: list[Path],
    tuned: str,
    base: str,
    tuned_revision: str | None = None,
    base_revision: str | None = None,
    out: Path,
    store: str | None = None,
    config: ImplicitConfig = ImplicitConfig(),
) -> dataset.Manifest:
    """Score every answer by how much more probable the tuned model holds it than the base, a shard at a time.

    Args:
        prompts: Datasets of the prompts that were answered, and of the same prompts in English.
        samples: Datasets of their answers, any number of languages, each of them whole.
        tuned: The model that was tuned on English preferences: a local folder or a hub id.
        base: The reference model of that tuning, or of the first where several were done one after the other
            (assumed): a local folder or a hub id.
        tuned_revision: Commit, tag or branch of a hub id; default main (ours).
        base_revision: As `tuned_revision`.
        out: Directory to write the scores to.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    writer = Writer(
        out,
        "scores",
        stage="implicit",
        version=VERSION,
        config=config,
        inputs=[*prompts, *samples],
        models={"tuned": models.identity(tuned, tuned_revision), "base": models.identity(base, base_revision)},
        store=store,
        neutral=["gpus", "max_tokens"],
        also={"precision": engine.dtype()},
    )
    if writer.done:
        return writer.done
    both = [(name, writer.models[role].get("revision")) for role, name in (("tuned", tuned), ("base", base))]
    tokenizer, limit = tokenizer_of(both), limit_of(config, min(engine.context(*model) for model in both))

    def load() -> Implicit:
        return Implicit(*(likelihood.load(*one, max_tokens=config.max_tokens, gpus=config.gpus) for one in both))

    return work(writer, Answers(prompts, samples, config.shard_prompts), tokenizer, limit, config, load)


def tokenizer_of(both: Sequence[tuple[str, str | None]]) -> Any:
    """The tokenizer of both models. Raises: ValueError if they have different ones, or different chat templates."""
    tuned, base = (chat.load_tokenizer(*model) for model in both)
    for what, same in [
        ("vocabularies", tuned.get_vocab() == base.get_vocab()),
        ("chat templates", tuned.chat_template == base.chat_template),
    ]:
        if not same:
            raise ValueError(
                f"implicit: found different {what} in {both[0][0]} and {both[1][0]}; expected the same; "
                "give the model that the tuned one was tuned from as base"
            )
    return tuned


def limit_of(config: ImplicitConfig, context: int) -> int:
    if config.max_length and config.max_length > context:
        raise ValueError(f"max_length: found {config.max_length}; expected at most the models' {context} tokens")
    return config.max_length or context
