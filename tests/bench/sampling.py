"""Sampling: what shards, Parquet and a store cost `sample` against plain `LLM.generate`, in tokens a second.

All sides answer the same prompts with the same decoding and engine, and take turns, each round in another order.
The engine's start is left out on all sides (one engine serves them all): it is the same for all, and would only hide
what the stage adds. Everything else `sample.run` does is in its time: hashing the model, reading and tokenising
prompts, seeds, identifying languages, Parquet, checksums, the store, the manifest. Plain `generate` has no seeds and
gets token ids ready-made, as no released script does: its procedure renders text, and reads and writes JSON lines, so
this is the harder rival. The policy has random weights, so that answers hardly ever end before they have the tokens
they may have: those of the toy world have 14, and what the stage does once an answer would count for tens of times what
it is among hundreds. It has four layers of a width of 1,024: vLLM draws each token's noise from its answer's generator,
in Python, 7 us on a CPU and more on a slow one: little of this policy's 800 us, much of those of one half as wide.
Shards have their usual size, so that all is one: the engine's slots run empty at the end of each, which is half a round
of its slots in the 64 that a shard is made of, but all there is here. Where a machine's speed varies, the sides' ratio
does too: what the stage adds to one and the same call of `generate` is the time it spends outside of it, which is shown
beside; with a folder, more than half of that is .13 s to hash the model, once a run.
The store is a folder, and on a real S3 server too where the tests' is installed (`make .cache/objectstore/installed`).
"""

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import objectstore

from bench import drawn
from bench.measuring import Result, Setting, Side, against, spread, turns
from croco import chat, dataset, engine, prepare, rows, sample
from croco.engine import Generator
from croco.prepare import PrepareConfig
from croco.sample import SampleConfig

PLAIN, TOLD = "plain generate", "plain generate with seeds and log-probabilities"


def plain(generator: Generator, prompts: Path, config: SampleConfig, *, seeded: bool = False, **also: Any) -> Side:
    """One call of `LLM.generate` for all prompts, or with the seed that `sample` gives each; `also`: how."""
    from vllm import SamplingParams

    decoding = {name: getattr(config, name) for name in sample.DECODED}
    table = dataset.read(prompts, "prompts", ["prompt_id", "language", "messages"])
    asked = table.sort_by([("language", "ascending"), ("prompt_id", "ascending")]).to_pylist()
    ids = [{"prompt_token_ids": chat.prompt_ids(generator.tokenizer, prompt["messages"])} for prompt in asked]
    named = [rows.seed_of(config.seed, prompt["prompt_id"], prompt["language"]) for prompt in asked]
    seeds = named if seeded else [None] * len(asked)
    sampling = [SamplingParams(n=config.n, seed=seed, **decoding, **also) for seed in seeds]

    def call() -> float:
        outputs = generator.llm.generate(ids, sampling, use_tqdm=False)
        return float(sum(len(answer.token_ids) for request in outputs for answer in request.outputs))

    return call


def staged(
    generator: Generator, prompts: Path, policy: Path, work: Path, store: str, config: SampleConfig, within: list[float]
) -> Side:
    """The whole stage, with a store that has nothing of it yet; each call notes its seconds in `generate`."""
    generate = generator.llm.generate

    def timed(*asked: Any, **options: Any) -> Any:
        began = time.perf_counter()
        outputs = generate(*asked, **options)
        within[-1] += time.perf_counter() - began
        return outputs

    def call() -> float:
        name = uuid.uuid4().hex
        within.append(0.0)
        with (
            mock.patch.object(engine, "load_generator", return_value=generator),
            mock.patch.object(generator.llm, "generate", timed),
        ):
            manifest = sample.run(
                prompts=[prompts], model=str(policy), out=work / name, store=f"{store}/{name}", config=config
            )
        return float(sum(row.tokens_out or 0 for row in manifest.ledger))

    return call


@contextlib.contextmanager
def stores(work: Path) -> Iterator[dict[str, str]]:
    """Side -> location of a store that is gone after the block."""
    found = {"folder": str(work / "store")}
    if not objectstore.PYTHON.exists():
        print(f"sampling: found no {objectstore.PYTHON}; S3 is left out", file=sys.stderr)
        yield found
        return
    with objectstore.serving(work / "swift") as port:
        bucket = objectstore.new_bucket(port)
        with mock.patch.dict(os.environ, bucket.environment):
            yield {**found, "S3": bucket.location}


def read(setting: Setting, count: int) -> Path:
    """The first `count` prompts of the toy world's instructions."""
    out = setting.work / f"prompts-{count}"
    given = PrepareConfig(count=count, eval_share=0)
    prepare.run(source=str(setting.toy / "instructions.jsonl"), out=out, config=given)
    return out


def run(setting: Setting) -> Result:
    prompts, longest = read(setting, 4), setting.of(96, 40)
    layers, width, context = setting.of(4, 2), setting.of(1024, 64), setting.of(1024, 512)
    policy = drawn.model(setting.work / "policy", reward=False, layers=layers, width=width, context=context)
    decoding = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": longest, "min_room": longest}
    config = SampleConfig(**decoding, shard_prompts=setting.of(SampleConfig.shard_prompts, 2))
    generator = engine.load_generator(str(policy))
    within: dict[str, list[float]] = {}
    with stores(setting.work) as places:
        sides = {
            PLAIN: plain(generator, prompts, config),
            TOLD: plain(generator, prompts, config, seeded=True, logprobs=0, flat_logprobs=True),
        }
        for name, location in places.items():
            within[name] = []
            sides[name] = staged(generator, prompts, policy, setting.work, location, config, within[name])
        few = read(setting, 1)
        staged(generator, few, policy, setting.work, str(setting.work / "store"), config, [])()  # loads what stays
        runs = turns(sides, setting.of(4, 1), before=generator.llm.reset_prefix_cache)
    figures = [against(runs, TOLD, PLAIN, f"tokens a second of {TOLD}")]
    for name, where in (("folder", "a folder"), ("S3", "S3")):
        if name in places:
            whole = [run["seconds"] for run in runs if run["side"] == name]
            shares = [inside / seconds for inside, seconds in zip(within[name], whole, strict=True)]
            figures += [
                against(runs, name, PLAIN, f"tokens a second with a store in {where}", at_least=0.97, limit=1.0),
                spread(shares, name=f"of its time in generate, {where}", unit="share", at_least=0.97, limit=1.0),
            ]
    return Result(figures, {"runs": runs, "prompts": dataset.load_manifest(prompts).rows, "config": asdict(config)})
