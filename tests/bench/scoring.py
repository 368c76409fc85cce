"""Scoring: answers a second and tokens computed, by `score` and by the released code's steps, on one reward model.

The released side follows src/score_reward.py: one JSONL line an answer with its prompt, in the order it came in; the
chat template to text, the text to token ids, one `LLM.encode` of all; the rewards written as JSONL with all texts
again. Its flags: eager, no chunked prefill, 2048 sequences at most, vLLM's defaults for the rest. It differs in what a
CPU asks for: the memory for keys and values is given in bytes, on both sides the same; and in the length, 2048 on both
sides, for its script's 32768 makes batches that are slower on a CPU.

Ours is what `score` does with its shards: Parquet read, prompts joined, answers of a prompt side by side and each once,
rewards written. The reward model is random and wide, with two layers: at 640 tokens attention is 3 % of the arithmetic
of 8 billion weights, 10 % here, and 26 % of a model as wide as 320. Left out on both sides is the engine's start, and
so the few answers held against a plain forward.

The minimum is each prompt once, up to where its answers begin, and each distinct answer once, to the end of its turn.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench import drawn
from bench.measuring import Figure, Result, Setting, Side, against, turns
from croco import chat, dataset, engine, rows
from croco.conversations import Answers, answer_of, encode
from croco.engine import Classifier
from croco.score import ScoreConfig, score
from croco.writer import Writer

CONTEXT = 2048
"""Tokens of a conversation at most (the released code's default)."""
TOLERANCE = 1e-4
"""Reward by which the sides may differ."""
ROOM, SHORT = 256 * 1024, 4096
"""Tokens whose keys and values fit into memory, where there is enough of it and where there is not."""
ROW = {"language": "en", "token_ids": [1], "finish_reason": "stop", "seed": 0, "identified": "en"}


def answered(prompts: int, candidates: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of prompts of 448 to 574 words, that end anywhere in a block of 32 or 128, and of answers of 64 to 448, a
    fifth of which are copies of others to the same prompt."""
    rng, asked, samples = random.Random(0), [], []
    for number in range(prompts):
        name = f"{number:04}"
        turn = {"role": "user", "content": drawn.text(rng, 448 + 128 * number // prompts + 2 * number)}
        asked.append({"prompt_id": name, "language": "en", "messages": [turn], "split": "train"})
        texts = [drawn.text(rng, rng.randint(64, 448)) for _ in range(candidates - candidates // 5)]
        texts += rng.choices(texts, k=candidates // 5)
        rng.shuffle(texts)
        samples += [ROW | {"prompt_id": name, "sample_index": at, "text": text} for at, text in enumerate(texts)]
    return asked, samples


def stored(out: Path, contract: str, data: Sequence[Mapping[str, Any]]) -> Path:
    """A dataset of the rows."""
    writer = Writer(out, contract, stage="bench", version=1, config={})
    writer.add(data)
    writer.finish([dataset.Count(contract, "en", len(data), len(data))])
    return out


def lines(out: Path, asked: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]) -> Path:
    """The same as the released code's sampling would have written it."""
    turns_of = {prompt["prompt_id"]: prompt["messages"] for prompt in asked}
    with out.open("w", encoding="utf-8") as file:
        for row in samples:
            reply = {"role": "assistant", "content": row["text"]}
            file.write(json.dumps({"id": row["prompt_id"], "messages": [*turns_of[row["prompt_id"]], reply]}) + "\n")
    return out


def minimum(tokenizer: Any, asked: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of each prompt and of each distinct answer."""
    turns_of = {prompt["prompt_id"]: prompt["messages"] for prompt in asked}
    starts = {name: len(chat.prompt_ids(tokenizer, messages)) for name, messages in turns_of.items()}
    distinct = {(row["prompt_id"], row["text"]) for row in samples}
    answers = (len(chat.conversation_ids(tokenizer, turns_of[name], text)) - starts[name] for name, text in distinct)
    return sum(starts.values()) + sum(answers)


def ours(classifier: Classifier, prompts: Path, samples: Path, out: Path) -> Side:
    """What `score` does with its shards."""

    def call() -> int:
        answers, number = Answers([prompts], [samples], ScoreConfig().shard_prompts), 0
        out.mkdir(exist_ok=True)
        for at in range(len(answers.parts)):
            shard, tally = answers.shard(at), dataset.Tally("scores")
            tokens = encode(map(answer_of, shard.rows), shard.messages, classifier.tokenizer, classifier.max_model_len)
            scored = score(shard.rows, tokens, classifier, tally)
            pq.write_table(rows.conform(scored, "scores"), out / f"part-{at}.parquet", compression="zstd")
            number += len(scored)
        return number

    return call


def released(llm: Any, source: Path, out: Path) -> Side:
    """The released code's steps."""
    from vllm import PoolingParams

    def call() -> int:
        tokenizer = llm.get_tokenizer()
        entries = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        texts = [tokenizer.apply_chat_template(entry["messages"], tokenize=False) for entry in entries]
        asked = [{"prompt_token_ids": tokenizer.encode(text)} for text in texts]
        params = PoolingParams(use_activation=False)
        outputs = llm.encode(asked, pooling_params=params, pooling_task="classify", use_tqdm=False)
        with out.open("w", encoding="utf-8") as file:
            for entry, output in zip(entries, outputs, strict=True):
                found = {"reward_score": output.outputs.data.item(), "token_length": len(output.prompt_token_ids)}
                file.write(json.dumps(entry | found, ensure_ascii=False) + "\n")
        return len(outputs)

    return call


def engines(model: Path, tokens: int) -> tuple[Classifier, Any]:
    """Ours and the released code's, with memory for so many tokens."""
    memory, options = drawn.kv_bytes(model, tokens), engine.settings(CONTEXT)
    llm = drawn.llm(model, runner="pooling", max_model_len=CONTEXT, **{**options, "kv_cache_memory_bytes": memory})
    theirs = drawn.llm(
        model, runner="pooling", max_model_len=CONTEXT, kv_cache_memory_bytes=memory, enforce_eager=True,
        enable_chunked_prefill=False, max_num_seqs=2048,
    )  # fmt: skip
    return Classifier(llm, chat.load_tokenizer(str(model))), theirs


def difference(samples: Sequence[Mapping[str, Any]], scores: Path, theirs: Path) -> float:
    """The largest difference of the sides' rewards, answer by answer. Raises: ValueError above TOLERANCE."""
    table = pq.read_table(scores).to_pylist()
    rewards = {(row["prompt_id"], row["sample_index"]): row["reward"] for row in table}
    others = [json.loads(line)["reward_score"] for line in theirs.read_text(encoding="utf-8").splitlines()]
    pairs = zip(samples, others, strict=True)
    largest = max(abs(rewards[row["prompt_id"], row["sample_index"]] - other) for row, other in pairs)
    if not largest <= TOLERANCE or len(rewards) != len(samples):
        raise ValueError(f"scoring: found rewards that differ by {largest}; expected {TOLERANCE} at most")
    return largest


def measure(work: Path, model: Path, data: tuple[Any, Any], tokens: int, rounds: int) -> dict[str, Any]:
    """Runs of both sides over `data`, what each computed in each of the minimum, and by how much rewards differ."""
    asked, samples = data
    work.mkdir()
    least = minimum(chat.load_tokenizer(str(model)), asked, samples)
    classifier, theirs = engines(model, tokens)
    prompts, answers = stored(work / "prompts", "prompts", asked), stored(work / "samples", "samples", samples)
    sides: dict[str, tuple[Any, Callable[[], float]]] = {
        "ours": (classifier.llm, ours(classifier, prompts, answers, work / "scores")),
        "released": (theirs, released(theirs, lines(work / "in.jsonl", asked, samples), work / "out.jsonl")),
    }
    counters = {name: drawn.Computed(llm) for name, (llm, _) in sides.items()}

    def forget() -> None:
        for llm, _ in sides.values():
            llm.reset_prefix_cache()

    runs = turns({name: side for name, (_, side) in sides.items()}, rounds, before=forget)
    return {
        "runs": runs,
        "engines": [classifier, theirs],  # kept: one that goes takes the process groups of those that come with it
        "prompts": len(asked),
        "minimum": least,
        "computed": {name: counter.tokens / rounds / least for name, counter in counters.items()},
        "difference": difference(samples, work / "scores", work / "out.jsonl"),
    }


def run(setting: Setting) -> Result:
    """Answers a second by a wide model where memory is enough; tokens computed there, and shuffled where it is short.

    Tokens do not depend on a model's width, but on where prompts end in a block: a narrow one has more prompts.
    """
    wide, narrow = (
        drawn.model(setting.work / name, reward=True, layers=2, width=width, context=CONTEXT)
        for name, width in (("wide", setting.of(1024, 64)), ("narrow", 64))
    )
    asked, samples = answered(setting.of(16, 4), setting.of(64, 16))
    shuffled = random.Random(1).sample(samples, len(samples))
    found = {
        "speed": measure(setting.work / "speed", wide, answered(4, setting.of(64, 16)), ROOM, setting.of(4, 2)),
        "enough": measure(setting.work / "enough", narrow, (asked, samples), ROOM, 1),
        "short": measure(setting.work / "short", narrow, (asked, shuffled), SHORT, 1),
    }

    def tokens(of: str, side: str, name: str, most: float | None = None) -> Figure:
        return Figure(name, found[of]["computed"][side], "tokens/minimum", at_most=most, limit=1.0)

    limit = found["speed"]["computed"]["released"]
    figures = [
        against(found["speed"]["runs"], "ours", "released", "answers a second", at_least=1.2, limit=limit),
        tokens("enough", "ours", "tokens computed", 1.06),
        tokens("enough", "released", "tokens computed, released"),
        tokens("short", "ours", "tokens computed, shuffled, memory short", 1.06),
        tokens("short", "released", "tokens computed, shuffled, memory short, released"),
        Figure("largest difference of rewards", max(one["difference"] for one in found.values()), "reward"),
    ]
    kept = {name: {key: one[key] for key in one if key != "engines"} for name, one in found.items()}
    return Result(figures, kept)
