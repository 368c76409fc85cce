"""Sampling: what shards, seeds, Parquet and a store cost `sample` against plain `LLM.generate`, in tokens a second.

The stage answers a prompt in each of many languages, which makes as many shards, with one engine. Within its run, next
to each shard's call of `generate`, plain `generate` answers the same prompt with the same decoding and without seeds,
before it or after it in turn; that time is not the stage's. All else is, and what a run does once is shared out among
its shards: hashing the model, reading and tokenising prompts, seeds, identifying languages, Parquet, checksums, the
store, the manifest. The engine's start is left out on both sides. Two equal calls of some seconds differ by a
twentieth on a machine whose speed varies, so there are many. Plain `generate` gets token ids ready-made, as no released
script does: its procedure renders text, and reads and writes JSON lines, so this is the harder rival.

The policy has random weights, so that answers hardly ever end before they have the tokens they may have: those of the
toy world have 14, and what the stage does once an answer would count for tens of times what it is among hundreds. It
has four layers of a width of 1,024: vLLM draws a seed for each token from its answer's generator, in Python, 7 us on a
CPU and more on a slow one: little of this policy's 900 us, much of those of one half as wide. Answers of one length
also leave no slot of the engine empty at the end of a shard; of other lengths they do, half a round of slots in the 64
that a shard of the usual size is made of.

What a store adds is outside of `generate`: for S3 (a real server, where the tests' is installed: `make
.cache/objectstore/installed`) the share of time within says it without the noise of a ratio. Next to its shards the
same call asks for log-probabilities too, which is what `sample --logprob` costs.
"""

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import objectstore
import pyarrow as pa

from bench import drawn
from bench.measuring import Result, Setting, against, spread
from croco import dataset, engine, languages, prepare, sample
from croco.engine import Generator
from croco.prepare import PrepareConfig
from croco.sample import SampleConfig
from croco.shards import Share
from croco.writer import Writer

PLAIN, TOLD = "plain generate", "generate with log-probabilities"
RIVALS: Mapping[str, Mapping[str, Any]] = {PLAIN: {"seed": None}, TOLD: {"logprobs": 0, "flat_logprobs": True}}
"""How a rival's call differs from the stage's own."""


@dataclass
class Run:
    """One run of the stage."""

    generator: Generator
    rival: str
    own: list[tuple[int, float]] = field(default_factory=list)
    """Tokens and seconds of the stage's call of `generate` for each shard."""
    other: list[tuple[int, float]] = field(default_factory=list)
    """The rival's, for the same shards."""
    seconds: float = 0.0
    """Of the stage, its rival's left out."""

    def measure(self, **stage: Any) -> None:
        """`sample.run(**stage)`, with the rival's turns within."""
        generate, away = self.generator.llm.generate, 0.0

        def turn(found: list[tuple[int, float]], asked: Any, sampling: Any, **options: Any) -> Any:
            self.generator.llm.reset_prefix_cache()
            began = time.perf_counter()
            outputs = generate(asked, sampling, **options)
            seconds = time.perf_counter() - began
            found.append((sum(len(one.token_ids) for request in outputs for one in request.outputs), seconds))
            return outputs

        def both(asked: Any, sampling: Any, **options: Any) -> Any:
            nonlocal away
            began, first = time.perf_counter(), len(self.own) % 2
            changed = [_changed(each, RIVALS[self.rival]) for each in sampling]
            if first:
                turn(self.other, asked, changed, use_tqdm=False)
            outputs = turn(self.own, asked, sampling, **options)
            if not first:
                turn(self.other, asked, changed, use_tqdm=False)
            away += time.perf_counter() - began - self.own[-1][1]
            return outputs

        began = time.perf_counter()
        with (
            mock.patch.object(engine, "load_generator", return_value=self.generator),
            mock.patch.object(self.generator.llm, "generate", both),
        ):
            sample.run(**stage)
        self.seconds = time.perf_counter() - began - away

    @property
    def within(self) -> float:
        """Share of the stage's time in its own calls of `generate`."""
        return sum(seconds for _, seconds in self.own) / self.seconds

    def rows(self, name: str, before: int) -> list[dict[str, Any]]:
        """As of `measuring.turns`, a round for a shard, from `before` on: the stage, its calls alone, the rival's."""
        beside = self.seconds * (1 - self.within) / len(self.own)
        sides = {
            name: [(tokens, seconds + beside) for tokens, seconds in self.own],
            f"{name}, generate alone": self.own,
            self.rival: self.other,
        }
        return [
            {"round": before + number, "side": side, "amount": tokens, "seconds": seconds}
            for side, calls in sides.items()
            for number, (tokens, seconds) in enumerate(calls)
        ]


def _changed(sampling: Any, how: Mapping[str, Any]) -> Any:
    changed = sampling.clone()
    for name, value in how.items():
        setattr(changed, name, value)
    return changed


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


def written(setting: Setting, codes: list[str]) -> Path:
    """A prompt in the name of each language: the first of the toy world's instructions, all in English."""
    given, out = setting.work / "prepared", setting.work / "prompts"
    source = str(setting.toy / "instructions.jsonl")
    prepare.run(source=source, out=given, config=PrepareConfig(count=len(codes), eval_share=0))
    table = dataset.read([given], "prompts")
    writer = Writer(out, "prompts", stage="bench", version=1, config={}, inputs=[given])
    writer.add(table.set_column(table.schema.get_field_index("language"), "language", pa.array(codes)))
    writer.finish([dataset.Count("prompts", code, 1, 1) for code in codes])
    return out


def run(setting: Setting) -> Result:
    codes, longest = list(languages.LANGUAGES)[: setting.of(14, 2)], setting.of(96, 40)
    prompts = written(setting, codes)
    layers, width, context = setting.of(4, 2), setting.of(1024, 64), setting.of(1024, 512)
    policy = drawn.model(setting.work / "policy", reward=False, layers=layers, width=width, context=context)
    config = SampleConfig(temperature=0.7, top_p=1.0, top_k=0, max_tokens=longest, min_room=longest)
    generator = engine.load_generator(str(policy))

    def one(rival: str, store: str, part: list[str]) -> Run:
        name, done = uuid.uuid4().hex, Run(generator, rival)
        done.measure(
            prompts=[prompts], model=str(policy), out=setting.work / name, store=f"{store}/{name}",
            share=Share(tuple(part)), config=config,
        )  # fmt: skip
        print(f"shards: {len(part)}; {done.within:.3f} of the stage in generate", file=sys.stderr, flush=True)
        return done

    with stores(setting.work) as places:
        one(PLAIN, places["folder"], codes[:1])  # loads what stays
        found = {"folder": [one(PLAIN, places["folder"], codes) for _ in range(setting.of(2, 1))]}
        if "S3" in places:
            found["S3"] = [one(TOLD, places["S3"], codes[: setting.of(8, 2)])]
    runs = [
        row
        for name, times in found.items()
        for number, each in enumerate(times)
        for row in each.rows(name, number * len(codes))
    ]
    figures = [against(runs, "folder", PLAIN, "tokens a second with a store in a folder", at_least=0.97, limit=1.0)]
    for name, times in found.items():
        shares, where = [each.within for each in times], {"folder": "a folder"}.get(name, name)
        figures.append(spread(shares, name=f"of its time in generate, {where}", unit="share", at_least=0.97, limit=1.0))
    if "S3" in found:
        figures.append(against(runs, TOLD, "S3, generate alone", f"tokens a second of {TOLD}"))
    return Result(figures, {"runs": runs, "prompts": len(codes), "config": asdict(config)})
