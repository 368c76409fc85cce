"""The report at the paper's size: seconds, memory and size of the page.

The prompts, answers, rewards and monolingual pairs of 8.96 million rows, with checksums of every file; what the arena,
EuroEval and training leave is thousands of rows and is left out. Answers have no token ids here, which would take a
minute more to make and which the report does not read. The released code has no report to compare with; `checksums` is
the time that verifying its inputs takes alone, the limit.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench import answers
from bench.measuring import Figure, Result, Setting, resident, spread
from bench.pairing import GROUPS, child
from croco import dataset, report


def run(setting: Setting) -> Result:
    """The figures at 8.96 million rows, or at a thirtieth of that where quick."""
    return measure(setting.work, setting.of(answers.PROMPTS, 672), answers.SAMPLES, 1)


def measure(work: Path, prompts: int, samples: int, rounds: int) -> Result:
    """The figures, by medians over rounds."""
    groups = answers.make(work / "data", GROUPS, prompts, samples, ids=False)
    given = json.dumps([{name: str(path) for name, path in group.items()} for group in groups])
    child("mono", given, work)
    (work / "out").rename(work / "pairs")
    runs = [child(side, given, work, "bench.page") for _ in range(rounds) for side in ("checksums", "report")]
    page = (work / "out" / "report.html").stat().st_size
    return Result(figures(runs, page), {"runs": runs})


def figures(runs: list[dict[str, Any]], page: int) -> list[Figure]:
    """Seconds and peak of the report, and bytes of the page."""
    made = [run for run in runs if run["side"] == "report"]
    limit = min(run["seconds"] for run in runs if run["side"] == "checksums")
    rows = f"{made[0]['rows']:,} rows"
    return [
        spread([run["seconds"] for run in made], name=f"report of {rows}: time", unit="s", at_most=30, limit=limit),
        spread([run["peak"] / 2**30 for run in made], name=f"report of {rows}: peak", unit="GiB", at_most=1),
        Figure("size of the page", page / 1e6, "MB", at_most=report.LARGE / 1e6),
    ]


def checksums(given: dict[str, list[Path]]) -> None:
    """Verify every file that the report reads."""
    for directories in given.values():
        for directory in directories:
            dataset.verify(directory)


def main() -> None:
    """One run of one side; its last line is what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("checksums", "report"))
    parser.add_argument("given", type=json.loads)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    given = {name: [Path(group[name]) for group in arguments.given] for name in ("prompts", "samples", "scores")}
    pairs = arguments.out.parent / "pairs"
    if arguments.side == "checksums":
        checksums(given | {"pairs": [pairs]})
    else:
        report.run(out=arguments.out, **given, pairs=pairs)
    rows = sum(dataset.load_manifest(directory).rows for directory in given["scores"])
    print(json.dumps({"rows": rows, "cpu_seconds": time.process_time(), "peak": resident("VmHWM")}))


if __name__ == "__main__":
    main()
