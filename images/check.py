"""Check: a lock's packages are installed as pinned, and find what they ask for among them and those of the base.

    python3 check.py OVERRIDES LOCK [LOCK ...]

The end of each image's build: vLLM's image brings versions of its own, which no lock of ours decides.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ALONE = {"kfp"}
"""Only its executor runs, which imports nothing else."""


def pinned(lock: str) -> dict[str, str]:
    """Package -> version, of a lock or of what overrides one (where the version may be empty)."""
    lines = re.findall(r"^([A-Za-z0-9][\w.-]*)(?:==([^\s;\\]+))?", lock, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def faults(name: str, version: str, waived: set[str]) -> list[str]:
    """What is wrong with one package of a lock."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return [f"found no {name}; expected {version}"]
    wrong = [] if found.version == version else [f"found {name} {found.version}; expected {version}"]
    for line in found.requires or [] if name not in ALONE else []:
        wanted = Requirement(line)
        if canonicalize_name(wanted.name) in waived or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            there = distribution(wanted.name).version
        except PackageNotFoundError:
            there = "none"
        if there == "none" or not wanted.specifier.contains(there, prereleases=True):
            wrong.append(f"found {wanted.name} {there}; expected {wanted.name}{wanted.specifier}, for {name}")
    return wrong


def main(overrides: str, *locks: str) -> int:
    """The exit status."""
    waived = set(pinned(Path(overrides).read_text(encoding="utf-8")))
    packages = {name: version for lock in locks for name, version in pinned(Path(lock).read_text("utf-8")).items()}
    found = [fault for name, version in packages.items() for fault in faults(name, version, waived)]
    print("\n".join([*found, f"{len(packages)} packages checked, {len(found)} faults"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
