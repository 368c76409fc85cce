"""Card: what people should know of a promoted model before they use it, as the Hugging Face hub shows it.

Numbers come from the evaluations and the decision; the licence is the base model's, and where that is not said, neither
does the card say one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from croco import dataset, languages, models

LIMITS = """\
Tuned on answers that the model itself gave, chosen by a reward model of English preferences: what that model does not
see (facts, culture, register, safety in each language) was not improved on purpose, and may have become worse. A win
rate is one judge model's opinion. Languages other than those above were neither trained nor judged. The base model's
own limits remain."""


def licence_of(model: str, revision: str | None) -> dict[str, str]:
    """`license`, and its `license_name` and `license_link` where there are any, as the base model's own card says;
    empty where it says none. Raises: ConnectionError as models.reaching_hub.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import EntryNotFoundError

    path = Path(model) / "README.md"
    if models.is_local(model):
        if not path.is_file():
            return {}
        data = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    else:
        with models.reaching_hub(model):
            try:
                from huggingface_hub import hf_hub_download

                file = hf_hub_download(model, "README.md", revision=revision)
            except EntryNotFoundError:
                return {}
        data = ModelCard(Path(file).read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    found = data.to_dict()
    return {name: str(found[name]) for name in ("license", "license_name", "license_link") if found.get(name)}


def write(
    *,
    name: str,
    version: str,
    base: Mapping[str, Any],
    licence: Mapping[str, str],
    data: str,
    decision: Mapping[str, Any],
    benchmarks: Path,
    verdicts: Path,
) -> str:
    """The card in Markdown with its front matter.

    Args:
        name: Of the line of models.
        version: Of this one.
        base: Identity of the model it was tuned from.
        licence: As `licence_of` gives it.
        data: Instruction set it was tuned on.
        decision: What `promote` found.
        benchmarks: Its EuroEval scores.
        verdicts: The judge's verdicts against the base.
    """
    from huggingface_hub import EvalResult, ModelCardData

    scores = dataset.read(benchmarks, "benchmarks").to_pylist()
    rates = dataset.load_manifest(verdicts, "verdicts").metrics["win_rates"]
    codes = sorted({row["language"] for row in scores} | {row["language"] for row in rates} - {"all"})
    about = ModelCardData(
        model_name=f"{name} {version}",
        base_model=base["id"] if "revision" in base else None,
        language=[code.split("-")[0] for code in codes],
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["croco", "dpo", "preference-tuning"],
        datasets=[data] if "/" in data and not models.is_local(data) else None,
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=row["benchmark"],
                dataset_name=f"{row['benchmark']} ({row['split']})",
                metric_type=row["metric"],
                metric_value=round(row["score"], 2),
            )
            for row in scores
        ],
        license=licence.get("license"),
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
    )
    return f"---\n{about.to_yaml()}\n---\n\n" + _body(name, version, base, licence, data, decision, rates)


def _body(
    name: str,
    version: str,
    base: Mapping[str, Any],
    licence: Mapping[str, str],
    data: str,
    decision: Mapping[str, Any],
    rates: Sequence[Mapping[str, Any]],
) -> str:
    weights = base.get("revision") or f"sha256 {base.get('sha256')}"
    said = ", ".join(licence.values()) or "the base model's card states none; ask its authors before you use this one"
    lines = [
        f"# {name} {version}",
        "",
        f"{base['id']} ({weights}), tuned with CroCo (arXiv 2605.26293): DPO on preferences between its own answers, "
        "by a reward model that knows English preferences alone.",
        *([f"Tuning went on from {name} {decision['start']}."] if decision["start"] else []),
        "",
        f"- Licence, of the base: {said}",
        f"- Instructions: {data}, and translations of them",
        f"- Weights: sha256 {decision['models']['tuned']['sha256']}",
        "",
        "## Against the base, as a judge model sees it",
        "",
        "| language | win rate | 95 % interval | length-controlled | questions |",
        "|---|---|---|---|---|",
    ]
    for row in rates:
        where = languages.LANGUAGES[row["language"]].name if row["language"] in languages.LANGUAGES else "all"
        bounds = " to ".join(f"{100 * bound:.1f}" for bound in row["interval_95"] or ()) or "none"
        lines.append(
            f"| {where} | {100 * row['win_rate']:.1f} % | {bounds} | {100 * row['length_controlled']:.1f} % "
            f"| {row['questions']} |"
        )
    lines += ["", "## What was checked before it was promoted", ""]
    lines += [f"- {check['text']}" for check in decision["checks"]]
    return "\n".join([*lines, "", "## Limits", "", LIMITS, ""])
