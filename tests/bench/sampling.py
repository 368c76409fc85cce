"""Sampling: what shards, Parquet and a store cost `sample` against plain `LLM.generate`, in tokens a second.

    python tests/bench/sampling.py --policy .cache/toy/policy --source .cache/toy/instructions.jsonl --out FILE.json
        [--store s3://bucket/prefix]

All sides answer the same prompts with the same decoding, seeds and engine, and take turns, each round in another order.
The engine's start is left out on all sides (one engine serves them all): it is the same for all, and would only hide
what the stage adds. Everything else `sample.run` does is in its time: hashing the model, reading and tokenising
prompts, identifying languages, Parquet, checksums, the store, the manifest. Plain `generate` gets token ids ready-made.
A round's ratio compares runs that are seconds apart; the median over rounds is the result.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

from croco import chat, dataset, engine, prepare, rows, sample
from croco.engine import Generator, Sampling
from croco.prepare import PrepareConfig
from croco.sample import SampleConfig
from croco.store import open_store

TARGET = 0.97
"""Tokens a second of the stage over those of plain `generate`, at least (ours)."""
PLAIN = "plain"
Side = Callable[[], int]
"""Answers all prompts once -> how many tokens the answers have."""


def plain(generator: Generator, prompts: Path, config: SampleConfig) -> Side:
    """One call of `LLM.generate` for all prompts."""
    from vllm import SamplingParams

    decoding = {name: getattr(config, name) for name in sample.DECODED}
    table = dataset.read(prompts, "prompts", ["prompt_id", "language", "messages"])
    asked = table.sort_by([("language", "ascending"), ("prompt_id", "ascending")]).to_pylist()
    seeds = [rows.seed_of(config.seed, prompt["prompt_id"], prompt["language"]) for prompt in asked]
    ids = [{"prompt_token_ids": chat.prompt_ids(generator.tokenizer, prompt["messages"])} for prompt in asked]
    samplings = [SamplingParams(**asdict(Sampling(n=config.n, seed=seed, **decoding))) for seed in seeds]

    def call() -> int:
        outputs = generator.llm.generate(ids, samplings, use_tqdm=False)
        return sum(len(answer.token_ids) for request in outputs for answer in request.outputs)

    return call


def staged(generator: Generator, prompts: Path, policy: Path, work: Path, store: str, config: SampleConfig) -> Side:
    """The whole stage, with a store that has nothing of it yet."""

    def call() -> int:
        name = uuid.uuid4().hex
        with mock.patch.object(engine, "load_generator", return_value=generator):
            manifest = sample.run(
                prompts=[prompts], model=str(policy), out=work / name, store=f"{store}/{name}", config=config
            )
        return sum(row.tokens_out or 0 for row in manifest.ledger)

    return call


def measure(sides: dict[str, Side], generator: Generator, repetitions: int) -> list[dict[str, Any]]:
    """A row for each run of each side: round, side, tokens, seconds, and CPU seconds of all threads."""
    names, found = list(sides), []
    for number in range(repetitions):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            generator.llm.reset_prefix_cache()
            began, used = time.perf_counter(), time.process_time()
            tokens = sides[name]()
            seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
            found.append({"round": number, "side": name, "tokens": tokens, **seconds})
            print(f"round {number}: {name}: {tokens / seconds['seconds']:,.0f} tokens/s", file=sys.stderr)
    return found


def summarize(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By side: tokens a second, and their ratio to plain's in the same round; median, lowest and highest."""
    speed = {(run["side"], run["round"]): run["tokens"] / run["seconds"] for run in runs}

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "low": min(values), "high": max(values)}

    return {
        side: {
            "tokens_per_second": spread([value for (name, _), value in speed.items() if name == side]),
            "ratio": spread([value / speed[PLAIN, at] for (name, at), value in speed.items() if name == side]),
        }
        for side in dict.fromkeys(run["side"] for run in runs)
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": next(iter(names), platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if engine.on_gpus() else None,
        "python": platform.python_version(),
        "libraries": dataset.library_versions(),
    }


def table(summary: dict[str, dict[str, Any]]) -> str:
    """The summary as text."""
    lines = [f"{'side':10}{'tokens/s':>10}{'low':>10}{'high':>10}{'ratio':>9}{'low':>9}{'high':>9}"]
    for side, found in summary.items():
        speed, ratio = found["tokens_per_second"].values(), found["ratio"].values()
        lines.append(f"{side:10}" + "".join(f"{v:10,.0f}" for v in speed) + "".join(f"{v:9.3f}" for v in ratio))
    return "\n".join(lines)


@contextlib.contextmanager
def emptied(location: str) -> Iterator[str]:
    """A place in the store for the block; what was put there is removed."""
    place = f"{location.rstrip('/')}/bench-{uuid.uuid4().hex}"
    try:
        yield place
    finally:
        store = open_store(place)
        for entry in list(store.entries()):
            store.remove(entry.name)


def bench(arguments: argparse.Namespace, work: Path, stores: dict[str, str]) -> dict[str, Any]:
    """Measure plain `generate` and the stage with each of `stores` (side -> location)."""
    given = PrepareConfig(count=arguments.prompts, eval_share=0)
    prepare.run(source=str(arguments.source), out=work / "prompts", config=given)
    config = SampleConfig(
        n=arguments.n, temperature=0.7, top_p=1.0, top_k=0, max_tokens=arguments.max_tokens,
        min_room=arguments.max_tokens, shard_prompts=arguments.shard_prompts,
    )  # fmt: skip
    generator = engine.load_generator(str(arguments.policy))
    sides = {PLAIN: plain(generator, work / "prompts", config)}
    for name, location in stores.items():
        sides[name] = staged(generator, work / "prompts", arguments.policy, work, location, config)
    for side in sides.values():
        side()  # unmeasured: compiles kernels, loads what identifies languages
    runs = measure(sides, generator, arguments.repetitions)
    engines = {"context": generator.max_model_len, "dtype": engine.dtype(), "start": "left out on all sides"}
    return {
        "machine": machine(),
        "prompts": dataset.load_manifest(work / "prompts").rows,
        "config": asdict(config),
        "engine": engines,
        "runs": runs,
        "summary": summarize(runs),
        "target": TARGET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="folder of the model")
    parser.add_argument("--source", type=Path, required=True, help="instructions, as `croco prepare` takes them")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--store", help="s3://bucket/prefix to measure too, beside a folder")
    parser.add_argument("--prompts", type=int, default=320)
    parser.add_argument("--n", type=int, default=64, help="answers a prompt")
    parser.add_argument("--max-tokens", type=int, default=80, help="tokens an answer may have")
    parser.add_argument("--shard-prompts", type=int, default=SampleConfig.shard_prompts)
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stores = {"folder": f"{folder}/store"}
        if arguments.store:
            stores["s3"] = stack.enter_context(emptied(arguments.store))
        result = bench(arguments, Path(folder), stores)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result["summary"]))
    for side in stores:
        median = result["summary"][side]["ratio"]["median"]
        print(f"{side}: {median:.3f} of plain generate; target {TARGET}: {'met' if median >= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
