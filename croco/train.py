"""Train: preference pairs, SFT rows or prompts -> LoRA adapter and merged model.

Direct preference optimisation on chosen and rejected answers, given or made on the way (croco/online.py), or the
paper's SFT arms, with the settings of its released code. Rows become token ids here, by croco.chat, as they do where
answers are sampled and scored; one that does not fit is dropped and counted, never cut. croco/trainer.py hands the ids
to TRL, in one process a GPU, here or on several nodes (croco/handoff.py). A run that was killed goes on from its last
whole checkpoint, in OUT/checkpoints or in the store, and ends with the same weights.

    python -m croco train --data pairs --model MODEL --out tuned [--store s3://bucket/prefix]
    python -m croco train --method sft --data sft --model MODEL --out tuned

Source: the paper's DPO and SFT arms; src/dpo.py, src/sft.py, scripts/3.sft.sh, scripts/4.dpo.sh of its released code.
"""

import dataclasses
import functools
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import chat, checkpoints, checks, curves, dataset, encoding, handoff, models, online, packed, trainer
from croco.nodes import Nodes
from croco.writer import Writer, plain

VERSION = 3
LEARNING_RATE = {"dpo": 5e-6, "sft": 2e-4, "online": 5e-6}
"""Reference code (scripts/4.dpo.sh, scripts/3.sft.sh); the SFT rate is in the released adapters' names too; online:
dpo's (assumed)."""
NEUTRAL = ("resume", "checkpoint_steps", "off_policy")
"""Fields of the config that weights do not depend on. They do on `processes` and `micro_batch`, in their last bits;
where `processes` is none, whatever machine came first decides."""
SUMMARY = ("metrics.jsonl", "training.svg")
"""What a run writes besides weights."""


@dataclass(frozen=True)
class TrainConfig(online.Variations):
    """How to train. "Reference code" is scripts/4.dpo.sh and src/dpo.py of the paper's released code."""

    method: str = "dpo"
    """`dpo` (on pairs), `sft` (on SFT rows) or `online` (dpo on prompts); the paper has all, and dpo is its method."""
    learning_rate: float | None = None
    """Peak learning rate, above 0; by default 5e-6 for dpo and online, 2e-4 for sft (reference code)."""
    epochs: int = 1
    """Passes over the data, 1 or more (reference code)."""
    global_batch: int = 64
    """Rows an optimizer step, over all processes (reference code: 1 x 8 accumulated x 8 GPUs)."""
    micro_batch: int = 1
    """Rows a process takes at once; the rest of the global batch is accumulated (reference code)."""
    processes: int | None = None
    """Processes, one a GPU; by default every visible GPU, or 1 on a CPU (ours)."""
    max_length: int = 4096
    """Tokens prompt and answer may have together; a longer row is dropped and counted (reference code, which cuts)."""
    beta: float = 0.1
    """DPO: how strongly to stay near the base model, above 0 (TRL's default, which the reference code leaves)."""
    lora_rank: int = 16
    """Rank of the adapter on all linear projections (reference code)."""
    lora_alpha: int = 32
    """Its scale is alpha / rank (reference code)."""
    lora_dropout: float = 0.05
    """Dropout before the adapter, in [0, 1) (reference code)."""
    disable_dropout: bool = True
    """DPO: turn all dropout off, `lora_dropout` too (TRL's default, so the reference code's .05 does nothing there)."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises, in [0, 1); then it falls as a cosine (reference code)."""
    weight_decay: float = 0.01
    """AdamW's, 0 or more (reference code)."""
    precompute_reference: bool = False
    """DPO: compute the base model's log-probabilities once, before training; faster where epochs > 1 (ours)."""
    sampled_reference: bool = False
    """DPO: take the base model's log-probabilities from `sample --logprob`, and train on the token ids that were
    sampled, where both answers were sampled for the pair's prompt; saves its pass, has the engine's rounding (ours)."""
    packed: bool = True
    """DPO: compute a pair's prompt once for both answers, wherever that is the same (ours, croco/packed.py)."""
    gradient_checkpointing: bool = True
    """On GPUs: recompute activations to save memory, about a fifth slower (reference code); off on a CPU."""
    checkpoint_steps: int = 50
    """Steps between checkpoints, 1 or more (ours; the reference code has one an epoch)."""
    eval_steps: int | None = None
    """Steps between evaluations on the eval split; by default only after the last step (ours)."""
    seed: int = 42
    """Of the adapter's first weights, the order of rows and dropout (reference code)."""
    resume: bool = True
    """Go on from a checkpoint of the same data, settings, model and versions, if there is one (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of(self, "method", encoding.CONTRACT)
        if self.nll and self.method != "dpo":
            raise ValueError(f"nll: found {self.nll} with method {self.method}; expected 0, as only dpo adds it")
        if self.sampled_reference and (self.method != "dpo" or self.off_policy):
            raise ValueError(
                f"sampled_reference: found it with method {self.method}{' and off_policy' * self.off_policy}; expected "
                "dpo on the model's own answers"
            )
        checks.one_or_more(self, "epochs", "global_batch", "micro_batch", "processes", "max_length")
        checks.one_or_more(self, "lora_rank", "lora_alpha", "checkpoint_steps", "eval_steps")
        for name in ("learning_rate", "beta"):
            if (value := getattr(self, name)) is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: found {value}; expected a number above 0 and finite")
        for name in ("lora_dropout", "warmup", "weight_decay"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}: found {value}; expected a number in [0, 1)")

    @property
    def rate(self) -> float:
        """The learning rate, by method where none is given."""
        return self.learning_rate or LEARNING_RATE[self.method]


def run(
    *,
    data: list[Path],
    model: str,
    revision: str | None = None,
    reward: str | None = None,
    reward_revision: str | None = None,
    out: Path,
    store: str | None = None,
    trainjob: Mapping[str, Any] = {},
    config: TrainConfig = TrainConfig(),
) -> dataset.Manifest:
    """Train a LoRA adapter on pairs (dpo), SFT rows (sft) or prompts (online) and merge it into the base model.

    Args:
        data: Datasets of pairs, SFT rows or prompts; rows of split `train` train, those of split `eval` give the eval
            loss, but for online.
        model: Base model: a local folder or a hub id.
        revision: Commit, branch or tag of a hub id; default main (ours).
        reward: For online: the reward model, as `model`, and its revision.
        out: Gets adapter/, merged/ (a full model folder), metrics.jsonl, training.svg and manifest.json.
        store: Where finished work and checkpoints are kept and looked for: s3://bucket/prefix or a folder.
        trainjob: Nodes to train on instead of here, as croco.nodes.Nodes has them.
    """
    encoding.check(data, config.method)
    online.check(config.method, reward, bool(trainjob))
    if reward_revision and not reward:
        raise ValueError(f"reward_revision: found {reward_revision} without a reward model; expected none")
    nodes = Nodes.of(trainjob) if trainjob else None
    if nodes:
        handoff.check(nodes, model, store, config.processes, config.precompute_reference)
    identities = {"base": models.identity(model, revision)}
    encoding.check_policy(data, identities["base"], config.off_policy)
    if reward:
        identities["reward"] = models.identity(reward, reward_revision)
    writer = Writer(
        out,
        None,
        stage="train",
        version=VERSION,
        config=config,
        inputs=data,
        models=identities,
        store=store,
        neutral=NEUTRAL,
    )
    work = out / trainer.CHECKPOINTS
    if writer.done:
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed here
        return writer.done
    processes, gpu = (nodes.processes, nodes.gpus > 0) if nodes else trainer.processes_for(config.processes)
    accumulated = encoding.accumulation(config, processes)
    writer.gpus = processes if gpu and not nodes else 0
    base = trainer.folder(model, writer.models["base"])
    tokenizer = chat.load_tokenizer(str(base))
    work.mkdir(exist_ok=True)
    not_packed = packed.obstacle(base, config)
    counts, numbers, sampled = _rows(writer, data, tokenizer, config, nodes.nodes if nodes else 1)
    identity = {
        "stage_version": VERSION,
        "config": {name: value for name, value in plain(config).items() if name not in NEUTRAL},
        **identities,
        "rows": {split: dataset.sha256_file(work / f"{split}.arrow") for split in numbers},
        "processes": processes,
        "gpu": gpu,
        "libraries": dataset.library_versions(),
    }
    job = {
        "owner": os.getpid(),
        "base": str(base),
        "reward": reward and str(trainer.folder(reward, identities["reward"])),
        "config": plain(config) | {"sampled_reference": any(sampled.values())},
        "accumulation": accumulated,
        "gpu": gpu,
        "packed": not not_packed,
        "splits": list(numbers),
        "identity": identity,
        "store": store,
    }
    if writer.store and not config.resume:
        checkpoints.remove(writer.store, identity)
        handoff.remove(writer.store, identity)
    resumed = _on_nodes(writer, work, job, nodes, model) if nodes else _here(writer, work, job, processes)
    final = _merge(writer, base)
    read, written = final.pop("tokens_in", 0), final.pop("tokens_out", 0)
    read += encoding.tokens_in(work / "train.arrow") * config.epochs
    writer.spent(None).add(tokens_in=read, tokens_out=written)
    listed = {Path(file["path"]): file["sha256"] for file in writer.files}
    merged = {path.relative_to("merged"): digest for path, digest in listed.items() if path.parts[0] == "merged"}
    manifest = writer.finish(
        counts,
        models=identities | {"base": {**identities["base"], "chat_template_sha256": chat.template_sha256(tokenizer)}},
        metrics={
            **final,
            "processes": processes,
            "not_packed": not_packed,
            **({"sampled_reference": sampled} if sampled else {}),
            "repeated_rows": encoding.repeated(numbers["train"], config, processes),
            "merged_sha256": models.digest_of(merged),
            "resumed_from": resumed,
        },
    )
    if writer.store:
        checkpoints.remove(writer.store, identity)
        handoff.remove(writer.store, identity)
    shutil.rmtree(work)
    return manifest


def _rows(
    writer: Writer, data: list[Path], tokenizer: Any, config: TrainConfig, nodes: int
) -> tuple[list[dataset.Count], dict[str, int], dict[str, int]]:
    """Write the ids to train on; counts, rows by split, and for `sampled_reference` how many have theirs."""
    work = writer.out / trainer.CHECKPOINTS
    write = functools.partial(encoding.write_splits, data, tokenizer, config.method, online.longest(config), work)
    if not config.sampled_reference:
        return *write(), {}
    counts, numbers = write(encoding.AS_SAMPLED)
    sampled = {split: encoding.as_sampled(work / f"{split}.arrow") for split in numbers}
    if sampled["train"] and (nodes == 1 or sampled == numbers):
        return counts, numbers, sampled
    expected = "those of all on several nodes" if sampled["train"] else "some; sample with --logprob, pair by language"
    writer.warn(
        f"sampled_reference: found log-probabilities of {sampled} of {numbers} pairs; expected {expected}; the "
        "reference model's are computed instead"
    )
    return *write(), dict.fromkeys(numbers, 0)


def _here(writer: Writer, work: Path, job: dict[str, Any], processes: int) -> str | None:
    """Do the job in this pod; the checkpoint that it went on from."""
    identity, resume = job["identity"], job["config"]["resume"]
    found = checkpoints.newest(work, identity if resume else None)
    if writer.store and resume:
        found = checkpoints.fetch(writer.store, work, identity, after=checkpoints.step_of(found)) or found
    seconds = dataset.load_manifest(found).metrics["seconds"] if found else 0.0
    writer.spent(None).add(seconds=seconds, gpu_seconds=seconds * writer.gpus)
    job |= {"checkpoint": found.name if found else None, "seconds": seconds}
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    (work / trainer.TRAFFIC).write_text("{}", encoding="utf-8")
    trainer.launch(writer.out, processes, gpu=job["gpu"])
    writer.spent(None).add(**json.loads((work / trainer.TRAFFIC).read_text(encoding="utf-8")))
    return job["checkpoint"]


def _on_nodes(writer: Writer, work: Path, job: Mapping[str, Any], nodes: Nodes, model: str) -> str | None:
    """Have the job done elsewhere; the checkpoint that its last attempt went on from.

    In the ledger, to wait for nodes takes nothing, and what they do its seconds, in whichever attempt that was.
    """
    assert writer.store, "handoff.check"
    began = time.monotonic()
    done = handoff.run(writer.store, writer.out, work, job, nodes, model)
    writer.spent(None).add(
        seconds=done["seconds"] - (time.monotonic() - began),
        gpu_seconds=done["seconds"] * nodes.processes * job["gpu"],
        **done["traffic"],
    )
    return done["checkpoint"]


def _merge(writer: Writer, base: Path) -> dict[str, Any]:
    """Attach what training came to, and the model it is merged into; the last numbers logged, and what was counted."""
    trainer.merge(base, writer.out / "adapter", writer.out / "merged")
    lines = curves.read(writer.out / "metrics.jsonl")
    curves.plot(lines, writer.out / "training.svg")
    for name in ("adapter", "merged", *SUMMARY):
        writer.attach(writer.out / name)
    return curves.final(lines) | online.totals(lines)


def summary(trained: Path, out: Path) -> dataset.Manifest:
    """What a report reads of the output of `run`, written to `out` without the weights: the curves, and the manifest,
    which lists those alone.
    """
    manifest = dataset.load_manifest(trained)
    files = [file for file in manifest.files if file["path"] in SUMMARY]
    out.mkdir(parents=True, exist_ok=True)
    for name in SUMMARY:
        shutil.copy(trained / name, out)
    (out / dataset.MANIFEST).write_text(dataclasses.replace(manifest, files=files).to_json() + "\n", encoding="utf-8")
    return dataset.verify(out)
