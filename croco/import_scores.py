"""Import scores: scored JSONL as the paper's released code writes it -> prompts, samples and scores.

    python -m croco import-scores --original da=da.jsonl de=de.jsonl --scored da=da_s.jsonl de=de_s.jsonl --out DIR

A line of an original file is `{"messages": [...], "id"?, "source_dataset"?, "domain"?}`; line k of every original file
is the same prompt in another language. A line of a scored file is one answer, `{"messages": [user, assistant],
"reward_score": x}`, and belongs to the original of its language with the same user turn. The released code keeps the
first user turn alone, so originals are matched, and imported, by theirs.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import dataset, languages, rows
from croco.sources import read_json
from croco.writer import Writer

VERSION = 2
FAILED = -999.0
"""What the released code writes where a score failed; such an answer has no row in `scores`."""
UNREAD = 0.0
"""What it writes where it could not read a score; it may be a score as well, so it is kept, with a warning."""


@dataclass(frozen=True)
class ImportConfig:
    """How foreign scores come in."""

    eval_share: float = 0.01
    """Share of prompts set apart for evaluation loss, by hash of prompt_id (reference code: test_size)."""
    finish_reason: str = "stop"
    """What to take every answer's end for: the released code does not keep it, so `stop` is assumed (ours)."""

    def __post_init__(self) -> None:
        if not 0 <= self.eval_share < 1:
            raise ValueError(f"eval_share: found {self.eval_share}; expected a share from 0 up to 1")
        if self.finish_reason not in ("stop", "length"):
            raise ValueError(f"finish_reason: found {self.finish_reason!r}; expected stop or length")


def run(
    *,
    original: list[str],
    scored: list[str],
    out: Path,
    store: str | None = None,
    config: ImportConfig = ImportConfig(),
) -> dataset.Manifest:
    """Write out/prompts, out/samples and out/scores.

    Args:
        original: LANG=FILE of the prompts, parallel by line.
        scored: LANG=FILE of the scored answers.
        out: Directory to write the three datasets to.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    originals, answers = _files("--original", original), _files("--scored", scored)
    if missing := sorted(set(answers) - set(originals)):
        raise ValueError(f"--scored: found languages {missing} without an --original; expected one for each")
    files = [{code: dataset.sha256_file(path) for code, path in side.items()} for side in (originals, answers)]
    writers = {
        name: Writer(out / name, name, stage="import-scores", version=VERSION, config=config, also=files, store=store)
        for name in ("prompts", "samples", "scores")
    }
    if all(writer.done for writer in writers.values()):
        return dataset.load_manifest(out / "scores")
    prompts = read_originals(originals, config)
    found = [row for code, path in answers.items() for row in read_scored(path, code, by_text(prompts[code]))]
    samples, scores, counts = account(found)
    imported = dataset.Tally("prompts")
    for code, table in prompts.items():
        imported.take(code, len(table))
        imported.keep(code, len(table))
    writers["prompts"].add([row for table in prompts.values() for row in table])
    writers["prompts"].finish(imported.counts())
    writers["samples"].add([_sample(row, config) for row in samples])
    writers["samples"].finish(counts["answers"])
    key, writer = ("prompt_id", "language", "sample_index", "reward"), writers["scores"]
    writer.add([{name: row[name] for name in key} for row in scores])
    if unread := Counter(row["language"] for row in scores if row["reward"] == UNREAD):
        writer.warn(
            f"rewards: found {dict(unread)} of exactly {UNREAD}, which the released code also writes where it could "
            "not read a score; they are kept"
        )
    return writer.finish(counts["scores"])


def _files(flag: str, values: list[str]) -> dict[str, Path]:
    """LANG=FILE values as language -> file, which is there."""
    pairs = [value.partition("=") for value in values]
    if wrong := [value for value, (_, _, path) in zip(values, pairs, strict=True) if not path]:
        raise ValueError(f"{flag}: found {wrong}; expected LANG=FILE")
    languages.check(code for code, _, _ in pairs)
    files = {code: Path(path) for code, _, path in pairs}
    if missing := [path for path in files.values() if not path.is_file()]:
        raise FileNotFoundError(f"{missing[0]}: found no file; expected one JSON object with `messages` a line")
    return files


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file:line, object) of each line that is not blank.

    Raises: ValueError for a line that is not a JSON object with messages, or if there is none.
    """
    from tqdm import tqdm

    place = ""
    for place, row in tqdm(read_json(path), desc=f"import-scores: {path.name}", unit=" lines", mininterval=1):
        turns = row.get("messages") if isinstance(row, dict) else None
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise ValueError(f"{place}: found no list of messages; expected an object with `messages`, objects too")
        yield place, row
    if not place:
        raise ValueError(f"{path}: found no line; expected one JSON object with `messages` a line")


def _turn(place: str, row: Mapping[str, Any], role: str) -> str:
    """The first turn of `role`, stripped, as the released code reads it."""
    for turn in row["messages"]:
        if turn.get("role") == role and isinstance(turn.get("content"), str):
            return str(turn["content"]).strip()
    raise ValueError(f"{place}: found no {role} turn with text; expected one in `messages`")


def _original(path: Path) -> list[dict[str, Any]]:
    """text, source_dataset and domain of each line. Raises: as `_lines`; ValueError for a blank line."""
    lines = []
    for place, row in _lines(path):
        about = {name: row.get(name) for name in ("source_dataset", "domain")}
        if wrong := {name: value for name, value in about.items() if not isinstance(value, str | None)}:
            raise ValueError(f"{place}: found {wrong}; expected text or null")
        lines.append({"text": _turn(place, row, "user"), **about})
    with path.open("rb") as file:
        if blank := [number for number, line in enumerate(file, start=1) if not line.strip()]:
            raise ValueError(
                f"{path}:{blank[0]}: found a blank line; expected none, since originals are parallel by line"
            )
    return lines


def read_originals(original: Mapping[str, Path], config: ImportConfig) -> dict[str, list[dict[str, Any]]]:
    """Prompts of each language; those of one line share a prompt_id, made of the line and its text in every language.

    Raises: ValueError if the files are not parallel (another number of lines).
    """
    lines = {code: _original(path) for code, path in original.items()}
    numbers = {code: len(table) for code, table in lines.items()}
    if len(set(numbers.values())) > 1:
        raise ValueError(
            f"--original: found {numbers} lines; expected the same number in every language (parallel files)"
        )
    ids = [
        rows.prompt_id_of(
            [{"role": code, "content": lines[code][number]["text"]} for code in sorted(lines)]
            + [{"role": "line", "content": str(number)}]
        )
        for number in range(next(iter(numbers.values())))
    ]
    return {
        code: [
            {
                "prompt_id": prompt_id,
                "language": code,
                "messages": [{"role": "user", "content": line["text"]}],
                "reference": None,
                "source_dataset": line["source_dataset"],
                "domain": line["domain"],
                "split": "eval" if rows.fraction_of("split", prompt_id) < config.eval_share else "train",
            }
            for prompt_id, line in zip(ids, table, strict=True)
        ]
        for code, table in lines.items()
    }


def by_text(prompts: list[dict[str, Any]]) -> dict[str, list[str]]:
    """User text of one language's originals -> the ids of the lines that have it."""
    ids: dict[str, list[str]] = defaultdict(list)
    for prompt in prompts:
        ids[prompt["messages"][0]["content"]].append(prompt["prompt_id"])
    return ids


def read_scored(path: Path, code: str, ids: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Answers of one language with prompt_id, number among that prompt's answers, and reward (None: it failed).

    Raises: as `_lines`; ValueError, with counts, for answers whose prompt is in no original line, or in several.
    """
    found: list[dict[str, Any]] = []
    unmatched, ambiguous, first = 0, 0, ""
    indices: Counter[str] = Counter()
    for place, row in _lines(path):
        lines = ids.get(_turn(place, row, "user"), [])
        if len(lines) != 1:
            unmatched, ambiguous = unmatched + (not lines), ambiguous + bool(lines)
            first = first or place
            continue
        score = row.get("reward_score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) < 2**127:
            raise ValueError(f"{place}: found reward_score {score!r}; expected a number, finite as a float32")
        found.append({"prompt_id": lines[0], "language": code, "sample_index": indices[lines[0]],
                      "reward": None if score == FAILED else float(score),
                      "text": _turn(place, row, "assistant")})  # fmt: skip
        indices[lines[0]] += 1
    if unmatched or ambiguous:
        raise ValueError(
            f"{first}: found {unmatched} answers whose prompt is in no line of the {code} originals and {ambiguous} "
            "whose prompt is in several; expected one line each; remove duplicates and unmatched rows from the files"
        )
    return found


def account(found: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any], dict[str, list[dataset.Count]]]:
    """(answers with text, those of them with a score, unit -> counts of what was kept and dropped)."""
    samples, scores = [], []
    answers, scored = dataset.Tally("answers"), dataset.Tally("scores")
    for row in found:
        code = row["language"]
        answers.take(code)
        if not row["text"]:
            answers.drop(code, "empty")
            continue
        answers.keep(code)
        samples.append(row)
        scored.take(code)
        if row["reward"] is None:
            scored.drop(code, "failed_score")
            continue
        scored.keep(code)
        scores.append(row)
    return samples, scores, {tally.unit: tally.counts() for tally in (answers, scored)}


def _sample(row: Mapping[str, Any], config: ImportConfig) -> dict[str, Any]:
    """token_ids are empty and seed 0: the released code keeps neither."""
    kept = {name: row[name] for name in ("prompt_id", "language", "sample_index", "text")}
    return kept | {"token_ids": [], "finish_reason": config.finish_reason, "seed": 0,
                   "identified": languages.identify(row["text"])}  # fmt: skip
