"""Ledger: what the rows reported took to make, and what the runs that wrote them did, as numbers and in words.

Directories of one stage (samples dealt to several tasks) are summed. Tokens that nobody counted are not 0: a sum that
lacks some is named in its row's `at_least`, and is None where it lacks all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

from croco.dataset import Manifest, Spent

TOKENS = ("tokens_in", "tokens_out")
WITHOUT_MODEL = ("prompts", "pairs", "sft")
"""Contracts of rows that no model makes, unless the manifest names one: they have no tokens, rather than unknown."""

Rows = list[dict[str, Any]]


def collect(manifests: Sequence[tuple[str, Manifest]]) -> dict[str, Any]:
    """`stages`: a row for each input and stage, in the order of `manifests`, with its own `languages`; `languages`: the
    same over all stages; `total`. A row has the fields of `dataset.Spent`, and `at_least`.
    """
    directories: dict[tuple[str, str], list[Manifest]] = {}
    for name, manifest in manifests:
        directories.setdefault((name, manifest.stage), []).append(manifest)
    stages, everything = [], []
    for (name, stage), written in directories.items():
        amounts = _amounts(written)
        everything += amounts
        stages.append({"input": name, "stage": stage, **total(amounts), "languages": _by_language(amounts)})
    return {"stages": stages, "languages": _by_language(everything), "total": total(everything)}


def _amounts(written: Sequence[Manifest]) -> Rows:
    """The ledgers' rows of one stage, each with the names of the tokens that nobody counted.

    What no language accounts for, such as the engine's start, has tokens only in a stage that counts none by language.
    """
    spent = [row for manifest in written for row in manifest.ledger]
    modelled = any(manifest.models or manifest.contract not in WITHOUT_MODEL for manifest in written)
    counted = {name for row in spent for name in TOKENS if getattr(row, name) is not None}

    def uncounted(row: Spent, name: str) -> bool:
        return modelled and getattr(row, name) is None and (row.language is not None or name not in counted)

    return [asdict(row) | {"at_least": [name for name in TOKENS if uncounted(row, name)]} for row in spent]


def _by_language(amounts: Rows) -> Rows:
    """A row a language in order; last, where there is any, None: what no language accounts for."""
    codes = sorted({row["language"] for row in amounts}, key=lambda code: (code is None, code))
    return [{"language": code, **total(row for row in amounts if row["language"] == code)} for code in codes]


def total(amounts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sum of the rows. Of `TOKENS`, what is in `at_least` lacks some, and what no row has a number of is None."""
    amounts = list(amounts)
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(Spent) if field.name != "language"):
        numbers = [row[name] for row in amounts if row[name] is not None]
        found[name] = sum(numbers) if numbers or name not in TOKENS else None
    return found | {"at_least": [name for name in TOKENS if any(name in row["at_least"] for row in amounts)]}


# In words


def took(total: dict[str, Any]) -> str:
    """The ledger's total in two sentences."""
    gpu = gpu_hours(total["gpu_seconds"]) if total["gpu_seconds"] else "no GPU time"
    shards = total["shards_computed"] + total["shards_reused"]
    text = (
        f"Making what is reported here took {gpu} ({duration(total['seconds'])} of work), whichever run did it. "
        f"The runs that wrote it worked for {duration(total['run_seconds'])}"
    )
    if shards:
        text += (
            f"; of {shards:,} shards of work they found {total['shards_reused']:,} done and computed "
            f"{total['shards_computed']:,}"
        )
    return f"{text}."


def gpu_hours(seconds: float) -> str:
    """GPU-seconds as hours of one GPU."""
    hours = seconds / 3600
    return "less than 0.1 GPU hours" if hours < 0.05 else f"{hours:,.1f} GPU hours"


def tokens(row: dict[str, Any], name: str) -> str:
    """A ledger row's tokens; what nobody counted is said to be missing, and a row in which no model ran has a dash."""
    lacking = name in row["at_least"]
    if row[name] is None:
        return "unknown" if lacking else "–"
    return f"{'at least ' if lacking else ''}{row[name]:,}"


def duration(seconds: float) -> str:
    """Two units at most, on one line: 0.4 s, 12 s, 4 min 07 s, 1 h 04 min."""
    whole, minutes = round(seconds), round(seconds / 60)
    if seconds < 9.95:
        text = "0 s" if not seconds else "< 0.1 s" if seconds < 0.05 else f"{seconds:.1f} s"
    elif whole < 3600:
        text = f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"
    else:
        text = f"{minutes // 60:,} h {minutes % 60:02} min"
    return text.replace(" ", "\u00a0")


def size(number: float) -> str:
    """Bytes in decimal units, on one line: 512 B, 1.2 kB, 3.4 GB."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while number >= 999.95 and (larger := next(units, None)):
        number, unit = number / 1000, larger
    return f"{number:,.0f}\u00a0B" if unit == "B" else f"{number:,.1f}\u00a0{unit}"
