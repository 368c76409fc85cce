"""Pairing at the paper's size: seconds and memory of `pair` as the rows grow, beside the released code's procedure.

Each run is a process of its own, whose peak is its resident memory's (VmHWM) and whose time is from start to end. Ours
reads what `sample` and `score` would have left (bench.answers), with checksums, and writes its dataset. `reference`
follows the steps of the released prepare_fine_tuning_data.py for one task: every JSONL file into memory, answers
matched to prompts by their text, grouped, chosen, and written as JSONL. It is run on fewer rows and scaled linearly,
without its start; what else it does (other tasks, files that those need) is left out, which favours it. `read` decodes
the columns that pairing needs once, by two threads as ours, and does nothing with them: the limit.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench import answers
from bench.measuring import Figure, Result, Setting, resident, spread
from croco import dataset, pair
from croco.pair import PairConfig

GROUPS = 10
SIZES = (1, 3, GROUPS)
"""How many of the groups' rows are paired: about a tenth, three tenths, all."""
POOLS = {"mono": "language", "multi": "all"}
REFERENCE_PROMPTS = 500
"""Prompts of each language that the released code's procedure gets: 224,000 answers."""
COLUMNS = {
    "samples": ["prompt_id", "language", "sample_index", "text", "finish_reason", "identified"],
    "scores": ["prompt_id", "language", "sample_index", "reward"],
}


def run(setting: Setting) -> Result:
    """The figures at 8.96 million rows and what leads up to them, or at a thirtieth of that where quick."""
    return measure(setting.work, setting.of(answers.PROMPTS, 672), answers.SAMPLES, setting.of(REFERENCE_PROMPTS, 40))


def measure(work: Path, prompts: int, samples: int, some: int) -> Result:
    """The figures of all sides; `some`: prompts of each language that the released code's procedure gets."""
    groups = answers.make(work / "data", GROUPS, prompts, samples)
    jsonl(groups[0], work / "jsonl", some)
    runs = []
    for number in SIZES:
        given = json.dumps([{name: str(path) for name, path in group.items()} for group in groups[:number]])
        runs += [child(side, given, work) for side in ([*POOLS, "read"] if number == GROUPS else POOLS)]
        runs += [child(f"reference {side}", str(work / "jsonl"), work) for side in POOLS]
    return Result(figures(runs), {"runs": runs})


def figures(runs: Sequence[dict[str, Any]]) -> list[Figure]:
    """Seconds, peak and its slope of each of ours, and how many rows a second it pairs for one of the reference's."""
    found = []
    [read] = [run for run in runs if run["side"] == "read"]
    for side in POOLS:
        few, *_, most = sorted((run for run in runs if run["side"] == side), key=lambda run: run["rows"])
        peers = [run for run in runs if run["side"] == f"reference {side}"]
        slope = (most["peak"] - few["peak"]) / (most["rows"] - few["rows"])
        ratios = [peer["work_seconds"] / peer["rows"] / (most["seconds"] / most["rows"]) for peer in peers]
        per_row = statistics.median((peer["peak"] - peer["base"]) / peer["rows"] for peer in peers)
        scaled = statistics.median(peer["work_seconds"] / peer["rows"] for peer in peers) * most["rows"]
        rows = f"{side}, {most['rows']:,} rows"
        note = f"the released procedure, scaled from {peers[0]['rows']:,} rows: {scaled:.0f} s, "
        note += f"{per_row * most['rows'] / 2**30:.1f} GiB"
        found += [
            Figure(f"{rows}: time", most["seconds"], "s", at_most=60, limit=read["seconds"], note=note),
            Figure(f"{rows}: peak memory", most["peak"] / 2**30, "GiB", at_most=2, note=note),
            Figure(f"{side}: memory from {few['rows']:,} rows on", slope, "bytes/row"),
            spread(ratios, name=f"{side}: rows a second", unit="x reference"),
        ]
    return found


def child(side: str, given: str, work: Path, module: str = "bench.pairing") -> dict[str, Any]:
    """What a process of its own says of a run: rows, seconds, CPU seconds, bytes at its start (base), at its peak."""
    began = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-m", module, side, given, str(work / "out")]
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, check=True, stdout=subprocess.PIPE, text=True
    )
    found = {"side": side, "seconds": time.perf_counter() - began, **json.loads(done.stdout.splitlines()[-1])}
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def ours(groups: Sequence[dict[str, str]], pool: str, out: Path) -> int:
    """Pairs of all groups -> how many answers they were chosen from."""
    given = {name: [Path(group[name]) for group in groups] for name in ("prompts", "samples", "scores")}
    manifest = pair.run(**given, out=out, config=PairConfig(pool=pool))
    return sum(count.rows_in for count in manifest.counts if count.unit == "answers")


def read(groups: Sequence[dict[str, str]]) -> int:
    """Decode the needed columns once -> how many answers there are."""
    wanted = [
        (Path(group[name]) / file["path"], columns)
        for name, columns in COLUMNS.items()
        for group in groups
        for file in dataset.load_manifest(Path(group[name])).files
    ]

    def decode(path: Path, columns: list[str]) -> int:
        batches = pq.ParquetFile(path).iter_batches(4096, columns=columns, use_threads=False)
        return sum(len(batch) for batch in batches if "text" in columns)

    with ThreadPoolExecutor(2) as readers:
        return sum(readers.map(decode, *zip(*wanted, strict=True)))


def jsonl(group: dict[str, Path], out: Path, prompts: int) -> None:
    """The first prompts of a group and their answers as the released code keeps them, two files a language."""
    out.mkdir()
    asked = dataset.read(group["prompts"], "prompts", ["prompt_id", "language", "messages"]).to_pylist()
    texts = {
        (row["language"], row["prompt_id"]): f"{row['prompt_id']} {row['messages'][0]['content']}" for row in asked
    }
    wanted = sorted({row["prompt_id"] for row in asked})[:prompts]
    for language in answers.LANGUAGES:
        _lines(out / f"{language}.jsonl", ([("user", texts[language, name])] for name in wanted))
    parts = zip(*(dataset.parts(group[name], name) for name in ("samples", "scores")), strict=True)
    for answered, scored in parts:
        table = pq.read_table(answered, columns=["prompt_id", "language", "text"])
        table = table.append_column("reward", pq.read_table(scored, columns=["reward"])["reward"])
        rows = table.filter(pc.is_in(table["prompt_id"], pa.array(wanted))).to_pylist()
        turns = ([("user", texts[row["language"], row["prompt_id"]]), ("assistant", row["text"])] for row in rows)
        language = table["language"][0].as_py()
        _lines(out / f"{language}.scored.jsonl", turns, [row["reward"] for row in rows])


def _lines(path: Path, conversations: Iterable[list[tuple[str, str]]], rewards: Sequence[float] = ()) -> None:
    """Add conversations to a JSONL file, each with its reward where there are any."""
    with path.open("a", encoding="utf-8") as file:
        for turns, reward in zip_longest(conversations, rewards):
            line = {"messages": [{"role": role, "content": text} for role, text in turns]}
            file.write(json.dumps(line | ({"reward_score": reward} if rewards else {}), ensure_ascii=False) + "\n")


def reference(folder: Path, pool: str, out: Path) -> int:
    """Pairs as the released code makes them -> how many answers they were chosen from."""
    names: dict[str, dict[str, int]] = {}
    loaded: dict[str, list[dict[str, Any]]] = {}
    for language in answers.LANGUAGES:
        with (folder / f"{language}.jsonl").open(encoding="utf-8") as file:
            originals = [json.loads(line) for line in file]
        names[language] = {row["messages"][0]["content"].strip(): at for at, row in enumerate(originals)}
        with (folder / f"{language}.scored.jsonl").open(encoding="utf-8") as file:
            loaded[language] = [json.loads(line) for line in file]
    pools: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for language, rows in loaded.items():
        for row in rows:
            prompt, answer = (turn["content"].strip() for turn in row["messages"])
            at = names[language][prompt]
            found = {"prompt": prompt, "answer": answer, "score": row["reward_score"], "language": language}
            pools[(at,) if pool == "all" else (at, language)].append(found)
    with out.open("w", encoding="utf-8") as file:
        for key, rows in pools.items():
            scores = [row["score"] for row in rows]
            chosen, target = int(np.argmax(scores)), np.mean(scores) - 2 * np.std(scores)
            nearest = sorted(range(len(scores)), key=lambda at: abs(scores[at] - target))
            lower = next((at for at in nearest if scores[at] < scores[chosen]), None)
            if lower is not None:
                sides = {"chosen": rows[chosen]["answer"], "rejected": rows[lower]["answer"]}
                turns = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
                prompt = [{"role": "user", "content": rows[chosen]["prompt"]}]
                file.write(json.dumps({"id": key[0], "prompt": prompt, **turns}, ensure_ascii=False) + "\n")
    return sum(map(len, pools.values()))


def main() -> None:
    """One run of one side; its last line is what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side")
    parser.add_argument("given")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    kind, _, named = arguments.side.rpartition(" ")
    base, began = resident("VmHWM"), time.perf_counter()
    if kind == "reference":
        rows = reference(Path(arguments.given), POOLS[named], arguments.out.with_suffix(".jsonl"))
    elif arguments.side == "read":
        rows = read(json.loads(arguments.given))
    else:
        rows = ours(json.loads(arguments.given), POOLS[arguments.side], arguments.out)
    took = {"work_seconds": time.perf_counter() - began, "cpu_seconds": time.process_time()}
    print(json.dumps({"rows": rows, **took, "base": base, "peak": resident("VmHWM")}))


if __name__ == "__main__":
    main()
