"""Containers: the images as they were built, and the stages in them.

`make images-test` builds the CPU variants and runs this file. ONLY=cpu takes one of them, and the stages of the others
are processes of this machine.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pods
import pytest
from kfp import dsl, local

from components import images
from croco import dataset
from pipelines import __main__ as command

ONLY = os.environ.get("ONLY", "").split() or list(images.NAMES)
BUILT = [images.NAMES[name] for name in ONLY]
SMALL = [f"--set={setting}" for setting in ("count=24", "n=16", "benchmark_iterations=2")]
each = pytest.mark.parametrize("image", BUILT)


@pytest.fixture(autouse=True)
def shared_folders(tmp_path: Path) -> Iterator[None]:
    """What this process makes, group 0 may write to, as in a volume of a pod whose group is 0."""
    before = os.umask(0o002)
    tmp_path.chmod(0o775)
    yield
    os.umask(before)


@pytest.fixture
def world(toy: Path, tmp_path: Path) -> Path:
    """The toy world, for group 0 to read: safetensors lets none but a file's owner."""
    shutil.copytree(toy, tmp_path / "toy")
    for path in (tmp_path / "toy").rglob("*"):
        path.chmod(path.stat().st_mode | 0o070)
    return tmp_path / "toy"


def run(image: str, *inside: str, **options: Any) -> subprocess.CompletedProcess[str]:
    line = pods.command(image, inside, **options)
    return subprocess.run(line, capture_output=True, text=True, check=False)


def toy_run(world: Path, out: Path, *flags: str) -> tuple[int, list[str]]:
    """(exit status of the whole flow, images of the tasks that ran in containers)."""
    out.mkdir()
    with pods.tasks_in(BUILT, [out, f"{world}:ro"]) as ran:
        store = out / "store"
        status = command.main(["run", "--toy", str(world), "--out", str(out), "--store", str(store), *SMALL, *flags])
    return status, ran


@pytest.mark.timeout(1800)
def test_the_whole_flow_runs_with_every_task_in_a_container(world: Path, tmp_path: Path) -> None:
    status, ran = toy_run(world, tmp_path / "run")
    assert status == 0, (tmp_path / "run" / "log.txt").read_text()[-3000:]
    assert set(ran) == set(BUILT)
    made = set()
    for path in (tmp_path / "run" / "tasks").rglob(dataset.MANIFEST):
        made.add(dataset.load_manifest(path.parent).libraries.get("image", "").split("@")[0])
        if path.parent.name != "training":
            dataset.verify(path.parent)
    assert made - {""} == set(BUILT)
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert {row["language"] for row in report["win_rates"]["languages"]} >= {"en", "de", "fr", "es"}
    owners = {path.stat().st_uid for path in (tmp_path / "run" / "tasks").rglob(dataset.MANIFEST)}
    assert pods.USER in owners


@pytest.mark.skipif("cpu" not in ONLY, reason="preflight runs in the cpu image")
def test_a_mistake_in_a_container_fails_the_run_and_is_said(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = toy_run(world, tmp_path / "run", "--set=languages=en,xx")
    assert status == 1
    assert "Preflight: failed" in capsys.readouterr().err
    assert "found 'xx'; expected one of" in (tmp_path / "run" / "log.txt").read_text()
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("end", ["raise ValueError", "os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_whatever_ends_a_container_early_fails_its_task(end: str, tmp_path: Path) -> None:
    @dsl.component(base_image=BUILT[0], install_kfp_package=False)
    def breaks(end: str, made: dsl.Output[dsl.Dataset]) -> None:
        import os  # noqa: F401 - for `end`
        from pathlib import Path

        Path(made.path).write_text("whole")
        exec(end)

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path))
    with pods.tasks_in(BUILT, [tmp_path]) as ran:
        breaks(end="pass")
        with pytest.raises(RuntimeError, match="FAILURE"):
            breaks(end=end)
    assert ran == BUILT[:1] * 2


@each
def test_any_user_of_group_0_writes_below_cache_and_nowhere_else(image: str) -> None:
    look = "id -u; echo $HOME; find / -xdev -writable -not -type l -not -path '/proc/*' 2>&-; touch /cache/here"
    done = run(image, "sh", "-c", look, user="123456:0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["123456", "/cache", "/tmp", "/cache"]
    said = run(image, "python3", "-c", "import getpass, tempfile; print(getpass.getuser(), tempfile.gettempdir())")
    assert said.stdout.split() == ["croco", "/tmp"], said.stderr


@each
def test_where_the_root_can_be_written_it_is_the_cache_alone_that_is_group_0s(image: str) -> None:
    look = "touch /cache/here && find /opt /usr -writable -not -type l 2>&-; true"
    line = ["podman", "run", "--rm", "--pull=never", "--user=123456:0", image, "sh", "-ec", look]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@each
def test_what_an_image_says_of_itself(image: str) -> None:
    about = json.loads(subprocess.run(["podman", "image", "inspect", image], capture_output=True, check=True).stdout)
    config = about[0]["Config"]
    assert config["User"] == "2000:0"
    assert not config.get("Entrypoint")
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == image.split(":")[0]
    assert labels["version"] == image.split(":")[1]
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", labels["revision"])
    homes = dict(one.split("=", 1) for one in config["Env"] if "=/cache" in one)
    assert {"HOME", "XDG_CACHE_HOME", "HF_HOME"} <= set(homes)


@each
def test_an_image_has_no_compiler_and_no_cache(image: str) -> None:
    look = (
        "command -v cc gcc g++ clang nvcc make; find / -xdev '(' -name '*.whl' -o -path '*/.cache/pip' ')' 2>&-; true"
    )
    assert run(image, "sh", "-c", look).stdout.split() == []


@each
def test_modules_are_compiled_where_none_can_be(image: str) -> None:
    look = "import croco.dataset, pyarrow; print(croco.dataset.__cached__); print(pyarrow.__cached__)"
    done = run(image, "python3", "-c", look)
    assert done.returncode == 0, done.stderr
    assert run(image, "ls", *done.stdout.split()).returncode == 0


@pytest.mark.skipif("gpu" not in ONLY, reason="only the gpu image has a base with CUDA")
@pytest.mark.parametrize("given", ["", "docker.io/vllm/vllm-openai:v0.32.0"])
def test_the_gpu_image_is_not_built_on_a_base_that_may_change(given: str) -> None:
    arguments = {"PYTHON": "localhost/croco-python:3.12", "VLLM": given, "TORCH_INDEX": os.environ.get("TORCH_INDEX")}
    flags = [f"--build-arg={name}={value}" for name, value in arguments.items() if value is not None]
    pip = Path(os.environ["CONTAINERS_CONF"]).with_name("pip.conf")  # podman 4.3 goes through the other stages too
    hosts = {"/etc/ssl/certs/ca-certificates.crt": "/run/host-certificates.crt", pip: "/etc/pip.conf"}
    volumes = [f"--volume={path}:{place}:ro" for path, place in hosts.items()]
    line = ["podman", "build", "--file=images/gpu.Containerfile", *flags, *volumes, "."]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"VLLM: found '{given}'; expected docker.io/vllm/vllm-openai:v0.32.0@sha256:HEX" in done.stderr + done.stdout
