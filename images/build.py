"""Build: the images, from this checkout; with a registry, they are pushed and their digests noted for `compile`.

    python images/build.py [cpu gpu euroeval] [--variant cpu] [--registry HOST/PATH] [--engine podman] [-- FLAGS]

`make images` runs it. Names, bases and what was pushed are in components/images.json. FLAGS go to the engine's `build`.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REFERENCES = ROOT / "components" / "images.json"
PINNED = re.compile(r"\S+@sha256:[0-9a-f]{64}")


def bases_of(name: str, variant: str, references: Mapping[str, Any]) -> dict[str, str]:
    """Build argument -> what it has others' images start from."""
    used = ("PYTHON", "VLLM") if (name, variant) == ("gpu", "gpu") else ("PYTHON",)
    return {base: references["bases"][base] for base in used}


def check(name: str, bases: Mapping[str, str]) -> None:
    """Raises: ValueError unless every base is pinned by a digest."""
    for base, reference in bases.items():
        if not PINNED.fullmatch(reference):
            raise ValueError(
                f"components/images.json: found {base} {reference}, a base of {name}; expected {reference}@sha256:HEX; "
                f"`crane digest {reference}` prints it (images/README.md)"
            )


def command(engine: str, name: str, variant: str, references: Mapping[str, Any], flags: Sequence[str]) -> list[str]:
    """The engine's `build`."""
    given = {
        "REVISION": git("describe", "--exclude=*", "--always", "--abbrev=40", "--dirty"),
        "CREATED": git("log", "-1", "--format=%cI"),
        **bases_of(name, variant, references),
    }
    if name == "euroeval":
        given["GPU"] = references["images"]["gpu"]
    target = ["--target", variant] if name == "gpu" else []
    pairs = [part for argument, value in given.items() for part in ("--build-arg", f"{argument}={value}")]
    where = ["--file", f"images/{name}.Containerfile", "--tag", references["images"][name]]
    return [engine, "build", *where, *target, *pairs, *flags, "."]


def git(*arguments: str) -> str:
    """What git says of this checkout."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def call(*command: str) -> None:
    """Run a command and show it. Raises: RuntimeError if it fails."""
    print(shlex.join(command), flush=True)
    if status := subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise RuntimeError(f"{shlex.join(command[:2])}: found exit status {status}; expected 0; its messages are above")


def push(engine: str, local: str, registry: str) -> str:
    """The reference, with its digest, that an image has in the registry it is pushed to."""
    remote = f"{registry.rstrip('/')}/{local}"
    call(engine, "tag", local, remote)
    digest = _push_with_docker(engine, remote) if Path(engine).name == "docker" else _push_with_podman(engine, remote)
    if not PINNED.fullmatch(f"{remote}@{digest}"):
        raise RuntimeError(f"{engine} push: found digest {digest!r} of {remote}; expected sha256:HEX")
    return f"{remote}@{digest}"


def _push_with_podman(engine: str, remote: str) -> str:
    """The digest; what `podman image inspect` says is of the image here, which is compressed when it is sent."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digest"
        call(engine, "push", "--digestfile", str(file), remote)
        return file.read_text(encoding="ascii").strip()


def _push_with_docker(engine: str, remote: str) -> str:
    """The digest; docker has no flag for it."""
    call(engine, "push", remote)
    about = [engine, "image", "inspect", "--format", "{{json .RepoDigests}}", remote]
    known = json.loads(subprocess.run(about, capture_output=True, text=True, check=True).stdout)
    places = dict(one.split("@") for one in known)
    return str(places.get(remote.rpartition(":")[0]))


def main(given: Sequence[str], file: Path = REFERENCES) -> int:
    """The exit status; `file` has names, bases and what was pushed."""
    references = json.loads(file.read_text(encoding="utf-8"))
    names = list(references["images"])
    parser = argparse.ArgumentParser(prog="python images/build.py", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--variant", default="gpu", choices=["gpu", "cpu"], help="cpu: for machines without a GPU")
    parser.add_argument("--registry", default="", help="HOST/PATH to push to; by default nothing is pushed")
    parser.add_argument("--engine", default="podman", help="podman (default) or docker")
    end = given.index("--") if "--" in given else len(given)
    flags, more = parser.parse_args(given[:end]), given[end + 1 :]
    try:
        if strange := [name for name in flags.names if name not in names]:
            raise ValueError(f"images: found {', '.join(strange)}; expected {', '.join(names)}")
        wanted = [name for name in names if name in flags.names]
        for name in wanted:
            bases = bases_of(name, flags.variant, references)
            check(name, {base: bases[base] for base in bases if flags.registry or base == "VLLM"})
        for name in wanted:
            call(*command(flags.engine, name, flags.variant, references, more))
            if flags.registry:
                references["pushed"][name] = push(flags.engine, references["images"][name], flags.registry)
                file.write_text(json.dumps(references, indent=2) + "\n", encoding="ascii")
                print(f"{file}: {name} is {references['pushed'][name]}")
    except (ValueError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
