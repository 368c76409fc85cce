"""Benches: ours, the procedure of the paper's released code on the same engine and models, and the limit.

    PYTHONPATH=tests python -m bench [NAME ...] --toy .cache/toy --out DIR [--quick]

Each bench runs in a process of its own and writes DIR/NAME.json; DIR/bench.json and DIR/bench.md have them all with the
machine. Exit status 1 if a bench failed (a target that is missed is said in the table, and fails nothing).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from bench.measuring import Figure, Setting, machine, table

BENCHES = ("startup", "pairing", "page", "translation", "sampling", "scoring", "dpo", "rounding", "judging", "flow")
"""In the order of the flow, what needs no engine first."""


def one(name: str, setting: Setting, out: Path) -> None:
    """Run one bench here and write its JSON file."""
    began = time.perf_counter()
    result = import_module(f"bench.{name}").run(setting)
    found = {
        "quick": setting.quick,
        "seconds": time.perf_counter() - began,
        "machine": machine(),
        "figures": [asdict(figure) for figure in result.figures],
        "detail": result.detail,
    }
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all by default: {', '.join(BENCHES)}")
    parser.add_argument("--toy", type=Path, required=True, help="folder of the toy world")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files and the table")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # the child that measures
    arguments = parser.parse_args()
    names = arguments.names or BENCHES
    if strange := [name for name in names if name not in BENCHES]:
        parser.error(f"found {', '.join(strange)}; expected {', '.join(BENCHES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.here:
        with tempfile.TemporaryDirectory(dir=arguments.out) as work:
            [name] = names
            setting = Setting(arguments.toy.resolve(), Path(work).resolve(), arguments.quick)
            return one(name, setting, arguments.out / f"{name}.json")
    failed = [name for name in names if not _child(name, arguments)]
    done = [name for name in names if name not in failed]
    found = {name: json.loads((arguments.out / f"{name}.json").read_text(encoding="utf-8")) for name in done}
    text = table({name: [Figure(**figure) for figure in bench["figures"]] for name, bench in found.items()})
    (arguments.out / "bench.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "bench.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    if failed:
        sys.exit(f"bench: {', '.join(failed)} failed; see above")
    return None


def _child(name: str, arguments: argparse.Namespace) -> bool:
    """Whether a bench ran to its end."""
    print(f"== {name}", file=sys.stderr, flush=True)
    began = time.perf_counter()
    flags = ["--toy", str(arguments.toy), "--out", str(arguments.out), *(["--quick"] if arguments.quick else [])]
    done = subprocess.run([sys.executable, "-m", "bench", name, *flags, "--here"], check=False)
    print(f"== {name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main()
