"""Trainer: token ids -> LoRA adapter, through TRL; the part of `train` that runs in every process.

`train.run` writes a job (checkpoints/job.json and the rows' ids in Arrow files); `fit` does it, in this process or,
where there are several GPUs, in one process a GPU:

    python -m accelerate.commands.launch --multi_gpu --num_processes 8 --module croco.trainer OUT

All processes read the same files, so none can draw a split or tokens of its own (the reference's ranks each drew
another split: src/dpo.py).
"""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from croco import chat, checkpoints, curves, encoding, models, online_trainer, packed
from croco.store import open_store

CHECKPOINTS = "checkpoints"
TRAFFIC = "traffic.json"
"""In `checkpoints`: bytes that `fit` read from the store and wrote to it."""


def processes_for(asked: int | None) -> tuple[int, bool]:
    """How many processes to train in (by default one a visible GPU), and whether on GPUs.

    Raises: ValueError for more processes than GPUs.
    """
    import torch

    gpus = torch.cuda.device_count()
    processes = asked or max(gpus, 1)
    if gpus and processes > gpus:
        raise ValueError(f"processes: found {processes}; expected at most {gpus}, the visible GPUs")
    return processes, gpus > 0


def launch(out: Path, processes: int, *, gpu: bool) -> None:
    """Do the job under `out` in that many processes. Raises: subprocess.CalledProcessError if one of them fails."""
    if processes == 1:
        return fit(out)
    options = {
        "num_processes": processes,
        "num_machines": 1,
        "main_process_port": 0,  # a free one
        "mixed_precision": "bf16" if gpu else "no",
        "dynamo_backend": "no",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    subprocess.run(
        # --multi_gpu is accelerate's name for torchrun, which is what starts CPU processes too
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *flags, "--module", __name__, str(out)],
        env={**os.environ, **({} if gpu else {"ACCELERATE_USE_CPU": "true"})},
        check=True,
    )
    return None


def main(arguments: list[str]) -> None:
    """One of several processes."""
    from accelerate import PartialState

    fit(Path(arguments[0]))
    PartialState().destroy_process_group()


def folder(model: str, identity: Mapping[str, Any]) -> Path:
    """The folder of a model; a hub id's files are fetched once, for all processes, and never as pickles."""
    if "revision" not in identity:
        return Path(model)
    return models.snapshot(model, identity["revision"], ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"])


def fit(out: Path) -> None:
    """Train as `out`/checkpoints/job.json says: writes `out`/adapter and `out`/metrics.jsonl."""
    job = json.loads((out / CHECKPOINTS / "job.json").read_text(encoding="utf-8"))
    trainer = build(out, job)
    trainer.train(resume_from_checkpoint=job["checkpoint"] and str(out / CHECKPOINTS / job["checkpoint"]))
    evaluated = [line["step"] for line in trainer.state.log_history if "eval_loss" in line]
    if trainer.eval_dataset is not None and trainer.state.global_step not in evaluated:
        trainer.evaluate()
    if trainer.is_world_process_zero():
        _save_adapter(trainer.model, out / "adapter", job["identity"]["base"])


def build(out: Path, job: Mapping[str, Any]) -> Any:
    """TRL's trainer for a job, fed with ids. In DPO the reference model is the base with the adapter off."""
    import torch
    from datasets import Dataset
    from huggingface_hub import constants
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from croco.train import TrainConfig

    class IdsDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # ids already; TRL 1.16 would tokenise text, and has no setting to skip it as SFT does

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            compute = super()._precompute_ref_logps
            return _references(dataset, lambda rows: compute(rows, name, batch_size))

    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL reports every run; training makes no network calls
    config = TrainConfig(**job["config"])
    rows = {split: Dataset.from_file(str(out / CHECKPOINTS / f"{split}.arrow")) for split in job["splits"]}
    common = _arguments(out, job, config)
    model = AutoModelForCausalLM.from_pretrained(
        job["base"], dtype=torch.bfloat16 if job["gpu"] else torch.float32, trust_remote_code=False
    )
    tokenizer = chat.load_tokenizer(job["base"])
    trainer: Any = {"dpo": IdsDPOTrainer, "sft": SFTTrainer}.get(config.method)
    if config.method == "dpo":
        arguments: Any = DPOConfig(
            **common,
            beta=config.beta,
            loss_type=["sigmoid", "sft"] if config.nll else ["sigmoid"],
            loss_weights=[1.0, config.nll] if config.nll else None,
            disable_dropout=config.disable_dropout,
            precompute_ref_log_probs=config.precompute_reference or config.sampled_reference,
        )
    elif config.method == "sft":
        arguments = SFTConfig(**common, dataset_kwargs={"skip_prepare_dataset": True})
    else:
        trainer, arguments = online_trainer.made(model, tokenizer, job["reward"], config, common)
    if job["packed"]:
        packed.install(model)
        packed.check(model.to(arguments.device), rows["train"][0], job["gpu"])
    return trainer(
        model=model,
        args=arguments,
        train_dataset=rows["train"],
        eval_dataset=rows.get("eval"),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[_watcher(out, job)],
    )


def _references(dataset: Any, compute: Callable[[Any], Any]) -> Any:
    """The pairs with the reference model's log-probabilities: their own, and computed of those that have none.

    TRL 1.16 would compute those of all pairs. What it computes it passes on in a file beside the rows', so processes
    that share no folder cannot.
    """
    import numpy as np
    from datasets import concatenate_datasets

    columns = list(encoding.REFERENCE)
    if not set(columns) <= set(dataset.column_names):
        return compute(dataset)
    found = dataset.select_columns(columns).with_format("numpy")[:]
    known = np.isfinite([found[name] for name in columns]).all(axis=0)
    if known.all():
        return dataset
    has, lacks = np.flatnonzero(known), np.flatnonzero(~known)
    computed = compute(dataset.select(lacks).remove_columns(columns)).select_columns(dataset.column_names)
    order = np.argsort(np.concatenate([has, lacks]))
    return concatenate_datasets([dataset.select(has), computed.cast(dataset.features)]).select(order)


def _arguments(out: Path, job: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """What all methods ask of the trainer."""
    return {
        "output_dir": str(out / CHECKPOINTS),
        "learning_rate": config.rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.warmup,
        "weight_decay": config.weight_decay,
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.micro_batch,
        "per_device_eval_batch_size": config.micro_batch,
        "gradient_accumulation_steps": job["accumulation"],
        "gradient_checkpointing": config.gradient_checkpointing and job["gpu"],
        "bf16": job["gpu"],
        "use_cpu": not job["gpu"],
        "dataloader_pin_memory": job["gpu"],
        "ddp_find_unused_parameters": False,
        "max_length": None,  # over-long rows were dropped and counted; nothing is ever cut
        "seed": config.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": config.checkpoint_steps,
        "save_total_limit": 2,  # the newest may still be incomplete when a run is killed
        "eval_strategy": "steps" if config.eval_steps and "eval" in job["splits"] else "no",
        "eval_steps": config.eval_steps,
        "disable_tqdm": False,
        "report_to": [],
    }


def _watcher(out: Path, job: Mapping[str, Any]) -> Any:
    """A callback that writes metrics.jsonl, stops at a loss that is no number, and keeps finished checkpoints."""
    from transformers import TrainerCallback

    work, began = out / CHECKPOINTS, time.monotonic()
    store = open_store(job["store"]) if job["store"] else None

    class Watcher(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            state.compute_steps(args, state.max_steps)  # else a checkpoint's own checkpoint_steps go on
            if state.is_world_process_zero:
                curves.write(out / "metrics.jsonl", state.log_history)  # up to the checkpoint, where there is one

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if job["owner"]:  # none on nodes, where Kubernetes sees to it
                os.kill(job["owner"], 0)  # raises once `train` was killed: its next run may already write here

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            line = state.log_history[-1]
            for name in {"loss", "eval_loss"} & set(line):
                if not math.isfinite(line[name]):
                    raise ValueError(
                        f"train: found {name} {line[name]} at step {state.global_step}; expected a finite number; "
                        "is the learning rate too high?"
                    )
            if state.is_world_process_zero:
                curves.write(out / "metrics.jsonl", [line], mode="a")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            checkpoint = work / f"checkpoint-{state.global_step}"
            states = _random_states(checkpoint, args.process_index)
            if not state.is_world_process_zero:
                return
            for name, content in states.items():
                (checkpoint / name).write_bytes(content)
            checkpoints.seal(checkpoint, job["identity"], job["seconds"] + time.monotonic() - began)
            if store:
                checkpoints.keep(store, checkpoint)
                traffic = {"bytes_read": store.bytes_read, "bytes_written": store.bytes_written}
                (work / TRAFFIC).write_text(json.dumps(traffic), encoding="utf-8")

    return Watcher()


def _random_states(checkpoint: Path, process: int) -> dict[str, bytes]:
    """Name -> content of the random state that each process wrote in `checkpoint`, which is on its own node."""
    from accelerate.utils import gather_object

    path = checkpoint / f"rng_state_{process}.pth"
    return dict(gather_object([(path.name, path.read_bytes())] if path.exists() else []))


def _save_adapter(model: Any, out: Path, base: Mapping[str, Any]) -> None:
    """Save without a machine's paths, in a stable order, and without PEFT's look at the hub for new embeddings."""
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = base["id"], base.get("revision")
    config.target_modules = sorted(config.target_modules)
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # a form nobody filled in
    _permit(out, "adapter_config.json")


def _permit(out: Path, config: str) -> None:
    """Let those read the weights who may read `config`: safetensors lets none but a file's owner."""
    for file in out.glob("*.safetensors"):
        file.chmod((out / config).stat().st_mode)


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write the base with the adapter added to its weights, in the base's own dtype, so that both are loaded alike.

    The tokenizer with its chat template goes along, and the base's generation config as it is (or not there), because
    engines sample by it.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=False)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(progressbar=True, safe_merge=True)
    merged.generation_config = GenerationConfig()  # replaced below: transformers refuses to save some it can load
    merged.save_pretrained(out)
    _permit(out, "config.json")
    chat.load_tokenizer(str(base)).save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    if (base / "generation_config.json").is_file():
        shutil.copy(base / "generation_config.json", out)


if __name__ == "__main__":
    main(sys.argv[1:])
