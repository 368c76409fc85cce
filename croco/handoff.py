"""Handoff: a training job, through the store, to nodes that share nothing else.

`train` puts the job there: the record trainjobs/KEY/job.json and the files it names; KEY is the hash of the run's
identity. Every node fetches it, and the base model, and then is torchrun:

    python3 -m croco.handoff node s3://bucket/prefix KEY

Its processes train as those on one machine do (croco/trainer.py), from the newest checkpoint in the store. The first
of them puts the adapter and its metrics there: trainjobs/KEY/result.json.
"""

import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from croco import checkpoints, dataset, models, trainer, trainjob
from croco.nodes import Nodes
from croco.store import Store, open_store
from croco.writer import key_of

WAIT = timedelta(minutes=60)
"""How long a process waits for the others, as while a checkpoint is fetched (ours)."""
JOIN = 3600
"""Seconds that torchrun waits for all nodes, whose base model may take one longer to download (ours)."""


def check(nodes: Nodes, model: str, store: str | None, processes: int | None, precomputed: bool = False) -> None:
    """That nodes can have all they need.

    Raises: ValueError for a store or a model that is on this machine alone, processes that nodes do not have, or a
        reference that is `precomputed`, which TRL hands from one process to the others in a file.
    """
    if precomputed and nodes.nodes > 1:
        raise ValueError(
            f"precompute_reference: found it with {nodes.nodes} nodes; expected one, as they share no file"
        )
    if processes not in (None, nodes.processes):
        raise ValueError(f"processes: found {processes}; expected none, or {nodes.processes}, the GPUs of all nodes")
    if not (store or "").startswith("s3://"):
        raise ValueError(
            f"store: found {store or 'none'}; expected s3://bucket/prefix, which is all that nodes share; "
            "compile with one, or with a profile that trains on one node"
        )
    claim = os.environ.get("HF_HUB_CACHE", "") if nodes.models else ""
    if models.is_local(model) and not (claim and Path(model).resolve().is_relative_to(Path(claim).resolve())):
        raise ValueError(
            f"{model}: found a folder that other nodes do not have; expected a hub id, or a folder of the claim with "
            f"models ({f'mounted at {claim}' if claim else 'which was not asked for'}), which they mount too"
        )


def run(store: Store, out: Path, work: Path, job: Mapping[str, Any], nodes: Nodes, model: str) -> dict[str, Any]:
    """Have the job done on nodes, unless it was: writes `out`/adapter and `out`/metrics.jsonl.

    What it gives is the `checkpoint` they went on from, the `seconds` training took in all, and the store's `traffic`.
    `model` is the base's folder or hub id, which each node reads itself. Raises: as `croco.trainjob.run`.
    """
    key = key_of(job["identity"])
    if done := take(store, key, out):
        return done
    base = str(Path(model).absolute()) if models.is_local(model) else model
    send(store, key, work, {**job, "owner": None, "base": base})
    command = ["python3", "-m", "croco.handoff", "node", store.location, key]
    return trainjob.run(nodes, f"croco-train-{key[:20]}", command, lambda: take(store, key, out))


def send(store: Store, key: str, work: Path, job: Mapping[str, Any]) -> None:
    """Put the job in `work` into the store."""
    files = [_kept(store, work / f"{split}.arrow", work) for split in job["splits"]]
    store.write(f"{_root(key)}/job.json", {"job": dict(job), "files": files})


def receive(store: Store, key: str, out: Path) -> dict[str, Any]:
    """Write the job of that key to `out`/checkpoints, as `train` does where it trains; the job.

    Raises: FileNotFoundError if there is none; ValueError where weights would not be what they are elsewhere.
    """
    record = store.read(f"{_root(key)}/job.json")
    if record is None:
        raise FileNotFoundError(f"{store.location}/{_root(key)}: found no job; expected what `train` puts there")
    work = out / trainer.CHECKPOINTS
    for file in record["files"]:
        store.fetch(file["sha256"], work / file["path"])
    job: dict[str, Any] = record["job"]
    identity = job["identity"]
    if (found := dataset.library_versions()) != identity["libraries"]:
        other = sorted(dict(found.items() ^ identity["libraries"].items()))
        raise ValueError(
            f"libraries: found other versions of {', '.join(other)} than where this work comes from; expected the "
            "same, because weights depend on them; give both the same image"
        )
    base = identity["base"]
    if "revision" not in base and (here := models.identity(job["base"])) != base:
        raise ValueError(f"{job['base']}: found sha256 {here['sha256'][:12]}; expected {base['sha256'][:12]}")
    job = {**job, "base": str(trainer.folder(job["base"], base))}
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    (work / trainer.TRAFFIC).write_text("{}", encoding="utf-8")
    return job


def give_back(store: Store, key: str, out: Path, **numbers: Any) -> None:
    """Put what training came to into the store."""
    files = [_kept(store, path, out) for path in [*sorted((out / "adapter").iterdir()), out / "metrics.jsonl"]]
    traffic = json.loads((out / trainer.CHECKPOINTS / trainer.TRAFFIC).read_text(encoding="utf-8"))
    store.write(f"{_root(key)}/result.json", {"files": files, "traffic": traffic, **numbers})


def take(store: Store, key: str, out: Path) -> dict[str, Any] | None:
    """What training came to, its files now in `out`; None if it is not there, whole."""
    try:
        if (record := store.read(f"{_root(key)}/result.json")) is not None:
            for file in record["files"]:
                store.fetch(file["sha256"], out / file["path"])
    except (FileNotFoundError, ValueError) as error:
        warnings.warn(f"train: what nodes gave back is not whole ({error}); it is made again", stacklevel=2)
        store.remove(f"{_root(key)}/result.json")
        return None
    return record


def remove(store: Store, identity: Mapping[str, Any]) -> None:
    """Remove what a run handed off; files that no other record names go with `store gc`."""
    for name in ("job", "result"):
        store.remove(f"{_root(key_of(identity))}/{name}.json")


def _kept(store: Store, path: Path, root: Path) -> dict[str, Any]:
    return {"path": path.relative_to(root).as_posix(), "sha256": store.keep(path), "bytes": path.stat().st_size}


def _root(key: str) -> str:
    return f"trainjobs/{key}"


def node(location: str, key: str) -> None:
    """Fetch what this node needs, and be torchrun from then on."""
    out = Path.home() / "train"
    shutil.rmtree(out, ignore_errors=True)  # of a container that failed in this pod
    job = receive(open_store(location), key, out)
    print(f"train: this node has the job and {job['identity']['base']['id']}", flush=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--rdzv-conf", f"timeout={JOIN}"]
    os.execv(sys.executable, [*torchrun, "-m", "croco.handoff", "process", location, key, str(out)])


def process(location: str, key: str, folder: str) -> None:
    """One process of a node."""
    from accelerate import PartialState

    began, out, store = time.monotonic(), Path(folder), open_store(location)
    path = out / trainer.CHECKPOINTS / "job.json"
    job = json.loads(path.read_text(encoding="utf-8"))
    state = PartialState(cpu=not job["gpu"], timeout=WAIT)
    job = {**job, **_agreed(store, path.parent, job["identity"], state)}
    if state.is_local_main_process:
        path.write_text(json.dumps(job), encoding="utf-8")
    state.wait_for_everyone()
    trainer.fit(out)
    if state.is_main_process:
        seconds = job["seconds"] + time.monotonic() - began
        give_back(store, key, out, checkpoint=job["checkpoint"], seconds=seconds)
    state.destroy_process_group()


def _agreed(store: Store, work: Path, identity: Mapping[str, Any], state: Any) -> dict[str, Any]:
    """The `checkpoint` that all go on from, now in every node's `work`, and the `seconds` spent up to it.

    Nodes do not start at one time, and the store's newest may be another a moment later, so the first process says
    which it is. Raises: ValueError on a node that does not get that one.
    """
    from accelerate.utils import broadcast_object_list

    found = checkpoints.fetch(store, work, identity) if state.is_main_process else None
    [step] = broadcast_object_list([checkpoints.step_of(found)])
    if step and state.is_local_main_process and not state.is_main_process:
        found = checkpoints.fetch(store, work, identity)
        if checkpoints.step_of(found) != step:
            raise ValueError(f"train: found checkpoint {checkpoints.step_of(found)}; expected {step}, as on node 0")
    state.wait_for_everyone()
    if not step:
        return {"checkpoint": None, "seconds": 0.0}
    checkpoint = work / f"checkpoint-{step}"
    return {"checkpoint": checkpoint.name, "seconds": dataset.load_manifest(checkpoint).metrics["seconds"]}


def main(verb: str, *arguments: str) -> None:
    if verb == "node":
        node(*arguments)
    else:
        from torch.distributed.elastic.multiprocessing.errors import record

        record(process)(*arguments)  # torchrun then says what happened, and not only that something did


if __name__ == "__main__":
    main(*sys.argv[1:])
