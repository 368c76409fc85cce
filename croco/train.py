"""Train: preference pairs or SFT rows -> LoRA adapter and merged model.

Direct preference optimisation on chosen and rejected answers, or the paper's SFT arms, with the settings of its
released code. Rows become token ids here, by croco.chat, as they do where answers are sampled and scored; a row that
does not fit is dropped and counted, never cut. croco/trainer.py hands the ids to TRL, in one process a GPU. A run that
was killed goes on from its last whole checkpoint in OUT/checkpoints and ends with the same weights.

    python -m croco train --data pairs --model MODEL --out tuned
    python -m croco train --method sft --data sft --model MODEL --out tuned

Source: the paper's DPO and SFT arms; src/dpo.py, src/sft.py, scripts/3.sft.sh, scripts/4.dpo.sh of its released code.
"""

import dataclasses
import itertools
import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from croco import chat, checks, curves, dataset, models, rows, trainer

VERSION = 1
CONTRACT = {"dpo": "pairs", "sft": "sft"}
"""What each method trains on."""
COLUMNS = {
    "dpo": ["pair_id", "prompt_language", "prompt", "chosen", "rejected", "split"],
    "sft": ["prompt_id", "language", "prompt", "completion", "split"],
}
LEARNING_RATE = {"dpo": 5e-6, "sft": 2e-4}
"""Reference code (scripts/4.dpo.sh, scripts/3.sft.sh); the SFT rate is in the released adapters' names too."""
PREFIX_LIMIT = 0.01
"""Above this share of rows whose prompt is not a prefix of their conversation, the template is at fault (ours)."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. "Reference code" is scripts/4.dpo.sh and src/dpo.py of the paper's released code."""

    method: str = "dpo"
    """`dpo` (on pairs) or `sft` (on SFT rows); the paper has both, and dpo is its method."""
    learning_rate: float | None = None
    """Peak learning rate, above 0; by default 5e-6 for dpo and 2e-4 for sft (reference code)."""
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
        checks.one_of(self, "method", CONTRACT)
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


def accumulation(config: TrainConfig, processes: int) -> int:
    """Micro-batches a process accumulates before an optimizer step. Raises: ValueError if that is no whole number."""
    at_once = config.micro_batch * processes
    if config.global_batch % at_once:
        raise ValueError(
            f"global_batch: found {config.global_batch}; expected a multiple of {at_once} "
            f"(micro_batch {config.micro_batch} x {processes} processes)"
        )
    return config.global_batch // at_once


def repeated(number: int, config: TrainConfig, processes: int) -> int:
    """How many of `number` rows are trained on twice an epoch, so that several processes have as many each."""
    return -number % (config.micro_batch * processes) if processes > 1 else 0


def encode(
    data: Iterable[Mapping[str, Any]], tokenizer: Any, config: TrainConfig, tally: dataset.Tally
) -> Iterator[dict[str, list[int]]]:
    """Token ids of each row that can be trained on, as TRL takes them; the others are counted by reason.

    Pairs give prompt_ids, chosen_ids, rejected_ids; SFT rows give input_ids and labels, -100 on the prompt.
    """
    for row in data:
        language = row["prompt_language" if config.method == "dpo" else "language"]
        answers = [row["chosen"], row["rejected"]] if config.method == "dpo" else [row["completion"]]
        tally.take(language)
        if chat.special_token_in(tokenizer, row["prompt"], *answers):
            tally.drop(language, "special_token")
            continue
        split = [chat.completion_ids(tokenizer, row["prompt"], answer) for answer in answers]
        whole = [row_ids for row_ids in split if row_ids]
        if len(whole) < len(answers):
            tally.drop(language, "prompt_not_prefix")
        elif max(len(prompt) + len(completion) for prompt, completion in whole) > config.max_length:
            tally.drop(language, "over_long")
        else:
            tally.keep(language)
            prompt, completion = whole[0]
            if config.method == "dpo":
                yield {"prompt_ids": prompt, "chosen_ids": completion, "rejected_ids": whole[1][1]}
            else:
                yield {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def write_ids(path: Path, encoded: Iterator[dict[str, list[int]]]) -> int:
    """Write rows of ids as an Arrow stream, a thousand at a time, if there are any; how many."""
    number = 0
    writer: pa.RecordBatchStreamWriter | None = None
    while chunk := list(itertools.islice(encoded, 1000)):
        schema = pa.schema([(name, pa.list_(pa.int32())) for name in chunk[0]])
        writer = writer or pa.ipc.new_stream(path, schema)
        writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema=schema))
        number += len(chunk)
    if writer:
        writer.close()
    return number


def tokens_in(path: Path) -> int:
    """Tokens that one pass over the rows of `path` reads; a pair's prompt is read twice."""
    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    length = {name: pc.sum(pc.list_value_length(table[name])).as_py() for name in table.column_names}
    return length["input_ids"] if "labels" in length else sum(length.values()) + length["prompt_ids"]


def run(
    *, data: list[Path], model: str, revision: str | None = None, out: Path, config: TrainConfig = TrainConfig()
) -> dataset.Manifest:
    """Train a LoRA adapter on pairs (dpo) or SFT rows (sft) and merge it into the base model.

    Args:
        data: Datasets of pairs, or of SFT rows; rows of split `train` train, those of split `eval` give the eval loss.
        model: Base model: a local folder or a hub id.
        revision: Commit, branch or tag of a hub id; default main (ours).
        out: Gets adapter/, merged/ (a full model folder), metrics.jsonl, training.svg and manifest.json.
    """
    started = time.monotonic()
    table = _read(data, config.method)
    processes, gpu = trainer.processes_for(config.processes)
    accumulated = accumulation(config, processes)
    identity = models.identity(model, revision)
    base = _folder(model, identity)
    tokenizer = chat.load_tokenizer(str(base))
    identity["template_sha256"] = chat.template_sha256(tokenizer)

    writer = dataset.Writer(out, None, stage="train", version=VERSION, config=config, inputs=data)
    work = out / trainer.CHECKPOINTS
    work.mkdir(exist_ok=True)
    counts, numbers = _encode(table, tokenizer, config, work)
    run_identity = {
        "stage_version": VERSION,
        "config": {name: value for name, value in dataclasses.asdict(config).items() if name != "resume"},
        "base": identity,
        "rows": {split: dataset.sha256_file(work / f"{split}.arrow") for split in numbers},
        "processes": processes,
        "gpu": gpu,
        "libraries": dataset.library_versions(),
    }
    checkpoint = trainer.last_checkpoint(work, run_identity if config.resume else None)
    job = {
        "owner": os.getpid(),
        "base": str(base),
        "config": dataclasses.asdict(config),
        "accumulation": accumulated,
        "gpu": gpu,
        "splits": list(numbers),
        "identity": run_identity,
        "checkpoint": checkpoint,
    }
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    trainer.launch(out, processes, gpu=gpu)
    trainer.merge(base, out / "adapter", out / "merged")
    lines = curves.read(out / "metrics.jsonl")
    curves.plot(lines, out / "training.svg")

    for name in ("adapter", "merged", "metrics.jsonl", "training.svg"):
        writer.attach(out / name)
    metrics = {
        **curves.final(lines),
        "tokens": tokens_in(work / "train.arrow") * config.epochs,
        "processes": processes,
        "repeated_rows": repeated(numbers["train"], config, processes),
        "resumed_from": checkpoint,
        "seconds": round(time.monotonic() - started, 1),
    }
    manifest = writer.finish(counts, models={"base": identity}, metrics=metrics)
    shutil.rmtree(work)
    return manifest


def _read(data: list[Path], method: str) -> pa.Table:
    """The rows of all datasets in the order of their keys. Raises: ValueError for another contract or split."""
    contract = CONTRACT[method]
    for directory in data:
        if (found := dataset.load_manifest(directory).contract) != contract:
            raise ValueError(f"{directory}: found a dataset of {found}; expected {contract}, as method {method} needs")
    table = dataset.unique(dataset.read(data, contract, COLUMNS[method]), contract)
    if unknown := set(pc.unique(table["split"]).to_pylist()) - {"train", "eval"}:
        raise ValueError(f"{contract}.split: found {sorted(unknown)}; expected train or eval")
    return table.sort_by([(name, "ascending") for name in rows.CONTRACTS[contract].key])


def _encode(
    table: pa.Table, tokenizer: Any, config: TrainConfig, work: Path
) -> tuple[list[dataset.Count], dict[str, int]]:
    """Write `work`/train.arrow and, where there are any rows for it, eval.arrow; counts, and rows written by split.

    Raises: ValueError if nothing is left to train on, or too many prompts are no prefix of their conversation.
    """
    from tqdm import tqdm

    counts: list[dataset.Count] = []
    numbers: dict[str, int] = {}
    for split in ("train", "eval"):
        tally = dataset.Tally(f"{split} {'pairs' if config.method == 'dpo' else 'rows'}")
        part = table.filter(pc.equal(table["split"], split))
        data = (row for batch in part.to_batches(max_chunksize=1000) for row in batch.to_pylist())
        bar = tqdm(data, desc=f"tokenising {tally.unit}", total=len(part))
        if number := write_ids(work / f"{split}.arrow", encode(bar, tokenizer, config, tally)):
            numbers[split] = number
        counts += tally.counts()
    dropped = sum((Counter(count.dropped) for count in counts), Counter[str]())
    if dropped["prompt_not_prefix"] > PREFIX_LIMIT * len(table):
        raise ValueError(
            f"chat template: found {dropped['prompt_not_prefix']} of {len(table)} rows whose prompt is not a prefix of "
            f"the conversation; expected at most {PREFIX_LIMIT:.0%}; this template cannot be trained on"
        )
    if "train" not in numbers:
        raise ValueError(
            f"train: found no row of split train to train on; expected at least one; dropped: {dict(dropped)}"
        )
    return counts, numbers


def _folder(model: str, identity: Mapping[str, Any]) -> Path:
    """The folder of a model; a hub id's files are fetched once, for all processes, and never as pickles."""
    if "revision" not in identity:
        return Path(model)
    return models.snapshot(model, identity["revision"], ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"])
