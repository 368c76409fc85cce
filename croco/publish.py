"""Publish: a promoted model -> the store, under a name that never changes, and the alias that says it is newest.

    python -m croco publish --decision DIR --trained DIR --benchmarks DIR --answers DIR --verdicts DIR \\
        --name croco-da --store s3://bucket/prefix --out DIR [--hub me/croco-da]

Only what `croco promote` let through is published, and only if these are the very weights and evaluations that it
looked at. How a release lies in the store is said in croco/release.py; with it goes a model card (croco/card.py).
`--hub` uploads the same folder to the Hugging Face hub, privately unless the repository is public already, with the
version as a tag; the token is read from the environment (HF_TOKEN). `--registry` makes it known to Kubeflow's Model
Registry (croco/registry.py).
"""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from croco import card, dataset, models, release
from croco.registry import register
from croco.release import CARD, MERGED
from croco.store import open_store
from croco.writer import Writer

VERSION = 1


def upload(folder: Path, repository: str, version: str) -> str:
    """Put a folder into a hub repository and tag it with the version; the commit.

    Raises: ConnectionError as models.reaching_hub.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with models.reaching_hub(repository):
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=version).oid
        api.create_tag(repository, tag=version, revision=commit, exist_ok=True)
    return str(commit)


def run(
    *,
    decision: Path,
    trained: Path,
    benchmarks: Path,
    answers: Path,
    verdicts: Path,
    base: str,
    base_revision: str | None = None,
    data: str,
    name: str,
    store: str,
    out: Path,
    hub: str | None = None,
    registry: str | None = None,
) -> dataset.Manifest:
    """Publish a model that was promoted: release.json and README.md, its model card, in `out`.

    Args:
        decision: What `promote` wrote.
        trained: What `train` wrote; its merged model is published.
        benchmarks: Its EuroEval scores.
        answers: Its answers to the arena's questions.
        verdicts: The judge's verdicts on them.
        base: Model it was tuned from, whose licence is carried over.
        base_revision: Commit, tag or branch of a hub id.
        data: Instruction set it was tuned on, for the card.
        name: Line of models it belongs to, as croco-da.
        store: Where: s3://bucket/prefix or a folder.
        out: Directory to write.
        hub: Repository of the Hugging Face hub to upload it to as well.
        registry: Address of a Kubeflow Model Registry, http://HOST:PORT, to register it in.
    """
    evaluations = {"benchmarks": benchmarks, "answers": answers, "verdicts": verdicts}
    decided = _decision(decision, evaluations)
    model, sha256 = trained / MERGED, models.check_local(trained / MERGED, None)
    if (expected := decided["models"]["tuned"].get("sha256")) != sha256:
        raise ValueError(
            f"{model}: found weights {sha256[:12]}; expected {str(expected)[:12]}, those that were promoted"
        )
    version, inputs = release.version_of(sha256), [decision, *evaluations.values()]
    writer = Writer(out, None, stage="publish", version=VERSION, config={"name": name, "hub": hub}, inputs=inputs)
    writer.models = decided["models"]
    text = card.write(
        name=release.check_name(name),
        version=version,
        base=decided["models"]["base"],
        licence=card.licence_of(base, base_revision),
        data=data,
        decision=decided,
        benchmarks=benchmarks,
        verdicts=verdicts,
    )
    (out / CARD).write_text(text, encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="croco-publish-") as place:
        folder = Path(place) / version
        shutil.copytree(model, folder, copy_function=lambda source, target: Path(target).symlink_to(source))
        (folder / CARD).unlink(missing_ok=True)
        shutil.copy(out / CARD, folder / CARD)
        opened = open_store(store)
        released = release.publish(
            opened,
            name,
            folder,
            sha256,
            base=decided["models"]["base"],
            evaluations=evaluations,
            decision={what: decided[what] for what in ("policy", "last", "start", "evidence", "checks")},
        )
        commit = upload(folder, hub, version) if hub else None
    location = released.location(opened)
    registered = register(registry, released, location, _numbers(verdicts)) if registry else None
    where = {"location": location, "hub": hub, "hub_commit": commit, "registry_id": registered}
    about = {**dataclasses.asdict(released), **where}
    (out / "release.json").write_text(
        json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for file in (CARD, "release.json"):
        writer.attach(out / file)
    shown = dataset.Count("files", None, len(released.files), len(released.files))
    return writer.finish([shown], metrics={"version": version, **where})


def _numbers(verdicts: Path) -> dict[str, float]:
    """What the registry shows of a version."""
    rates = dataset.load_manifest(verdicts, "verdicts").metrics["win_rates"]
    total: Mapping[str, Any] = next((row for row in rates if row["language"] == "all"), {})
    return {name: total[name] for name in ("win_rate", "length_controlled") if total.get(name) is not None}


def _decision(directory: Path, evaluations: Mapping[str, Path]) -> dict[str, Any]:
    """What `promote` decided. Raises: ValueError if it was a refusal, or about other evaluations than these."""
    if (stage := dataset.verify(directory).stage) != "promote":
        raise ValueError(f"{directory}: found the output of {stage}; expected that of promote")
    decided: dict[str, Any] = json.loads((directory / "decision.json").read_text(encoding="utf-8"))
    if not decided["promote"]:
        raise ValueError(f"{directory}: found a refusal; expected a promotion: {'; '.join(decided['reasons'])}")
    for what, path in evaluations.items():
        if (found := dataset.load_manifest(path).digest) != decided["evidence"][what]:
            raise ValueError(
                f"{path}: found {what} {found[:12]}; expected {decided['evidence'][what][:12]}, which promote looked at"
            )
    return decided
