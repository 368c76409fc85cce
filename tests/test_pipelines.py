"""Pipelines: what the compiled package asks of Kubeflow, and the same pipeline run on this machine."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
import yaml
from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components import images
from components.prepare import prepare
from croco import dataset
from pipelines import __main__ as command
from pipelines import local, placement, toy
from pipelines.preference import preference

ROOT = Path(__file__).parent.parent
COMPILE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in "croco numpy pyarrow torch vllm trl transformers peft datasets euroeval tyro".split():
            raise AssertionError(f"compiling imports {name}")
sys.meta_path.insert(0, Refuse())
from pipelines.__main__ import main
sys.exit(main(["compile", "--out", sys.argv[1]]))
"""
TASKS = {
    "prepare": "prepare", "translate": "translate", "sample": "sample", "score": "score", "pair": "pair",
    "train": "train", "benchmark": "benchmark-base", "benchmark-2": "benchmark-tuned", "answer": "answer-base",
    "answer-2": "answer-tuned", "arena": "arena", "report": "report",
}  # fmt: skip
"""Task of the compiled pipeline -> its row in placement.NEEDS."""
GPU_TASKS = {
    "translate": ("gpus", "gpu_cpu", "gpu_memory"),
    "sample": ("gpus", "gpu_cpu", "gpu_memory"),
    "score": ("gpus", "gpu_cpu", "gpu_memory"),
    "train": ("train_gpus", "train_cpu", "train_memory"),
    "benchmark": ("gpus", "gpu_cpu", "gpu_memory"),
    "benchmark-2": ("gpus", "gpu_cpu", "gpu_memory"),
    "answer": ("gpus", "gpu_cpu", "gpu_memory"),
    "answer-2": ("gpus", "gpu_cpu", "gpu_memory"),
    "arena": ("judge_gpus", "gpu_cpu", "gpu_memory"),
}
"""Which parameters say how many GPUs, cores and how much memory."""
OWN_DEFAULTS = {
    ("translate", "references"),  # only SFT needs them
    ("train", "seed"),  # one seed for sampling, pairing and training
    ("arena", "gpus"),  # the judge is larger than 80 GB allow
}
"""Where the pipeline's default is not the component's, and why."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The compiled pipeline and its Kubernetes part, made where nothing but kfp can be imported."""
    out = tmp_path_factory.mktemp("package") / "preference.yaml"
    done = subprocess.run([sys.executable, "-c", COMPILE, out], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spec, platform = yaml.safe_load_all(out.read_text(encoding="ascii"))
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, str):
        yield value


def test_the_package_is_ascii(package: Any) -> None:
    assert [text for text in strings(package[0]) if not text.isascii()] == []


def test_the_package_has_the_flows_tasks(package: Any) -> None:
    tasks = package[0]["root"]["dag"]["tasks"]
    assert set(tasks) == set(TASKS)
    upstream = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert upstream == {
        "prepare": set(),
        "translate": {"prepare"},
        "sample": {"translate"},
        "score": {"sample", "translate"},
        "pair": {"sample", "score", "translate"},
        "train": {"pair"},
        "benchmark": set(),
        "benchmark-2": {"train"},
        "answer": set(),
        "answer-2": {"train"},
        "arena": {"answer", "answer-2"},
        "report": set(TASKS) - {"report"},
    }


@pytest.mark.parametrize("task", TASKS)
def test_a_task_gets_what_its_stage_needs(package: Any, task: str) -> None:
    spec, kubernetes = package
    needs, pod = placement.NEEDS[TASKS[task]], kubernetes[f"exec-{task}"]
    resources = spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]["resources"]
    home = {"mountPath": "/cache", "volumeName": "cache"}
    if task in GPU_TASKS:
        count, cpu, memory = (f"{{{{$.inputs.parameters['pipelinechannel--{name}']}}}}" for name in GPU_TASKS[task])
        kind = "{{$.inputs.parameters['pipelinechannel--gpu_type']}}"
        assert resources == {
            "accelerator": {"resourceCount": count, "resourceType": kind},
            "resourceCpuRequest": cpu,
            "resourceMemoryRequest": memory,
            "resourceMemoryLimit": memory,
        }
        shared = {"mountPath": "/dev/shm", "volumeName": "shared-memory", "medium": "Memory", "sizeLimit": "16Gi"}
        assert pod["emptyDirMounts"] == [home, shared]
        assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        assert pod["nodeSelector"] == {"nodeSelectorJson": {"componentInputParameter": "gpu_node_selector"}}
    else:
        gigabytes = int(needs.memory.removesuffix("Gi")) * 2**30 / 1e9
        assert resources == {
            "cpuRequest": float(needs.cpu),
            "resourceCpuRequest": needs.cpu,
            "memoryRequest": gigabytes,
            "resourceMemoryRequest": needs.memory,
            "memoryLimit": gigabytes,
            "resourceMemoryLimit": needs.memory,
        }
        assert pod["emptyDirMounts"] == [home]
        assert not {"tolerations", "nodeSelector"} & set(pod)
    assert spec["root"]["dag"]["tasks"][task]["taskInfo"]["name"] == needs.title
    assert spec["root"]["dag"]["tasks"][task]["retryPolicy"]["maxRetryCount"] == needs.retries
    secrets = [(secret["secretName"], secret["optional"]) for secret in pod.get("secretAsEnv", [])]
    assert secrets == ([("hf-token", True)] if needs.hub else [])


@pytest.mark.parametrize("name", ["gpus", "judge_gpus", "train_gpus", "gpu_type", "gpu_cpu", "gpu_memory"])
def test_resource_parameters_are_text_as_kubeflows_driver_wants(package: Any, name: str) -> None:
    assert package[0]["root"]["inputDefinitions"]["parameters"][name]["parameterType"] == "STRING"


def test_every_pod_is_unprivileged_and_labelled(package: Any) -> None:
    spec, kubernetes = package
    assert set(kubernetes) == set(spec["deploymentSpec"]["executors"])
    for pod in kubernetes.values():
        assert pod["securityContext"] == {"runAsUser": "2000", "runAsGroup": "0", "runAsNonRoot": True}
        assert pod["podMetadata"] == {"labels": {"app.kubernetes.io/part-of": "croco"}}


def test_no_task_has_an_environment_variable_or_pvc_because_the_cache_key_lacks_the_first_and_has_the_second(
    package: Any,
) -> None:
    spec, kubernetes = package
    assert not [name for name, e in spec["deploymentSpec"]["executors"].items() if "env" in e["container"]]
    assert not [name for name, pod in kubernetes.items() if {"pvcMount", "genericEphemeralVolume"} & set(pod)]
    variables = {
        key["envVar"] for pod in kubernetes.values() for s in pod.get("secretAsEnv", []) for key in s["keyToEnv"]
    }
    assert variables == {"HF_TOKEN"}


def test_every_task_may_be_cached(package: Any) -> None:
    assert all(task["cachingOptions"] == {"enableCache": True} for task in package[0]["root"]["dag"]["tasks"].values())


def test_images_are_those_of_one_file(package: Any) -> None:
    used = {executor["container"]["image"] for executor in package[0]["deploymentSpec"]["executors"].values()}
    assert used == {images.CPU, images.GPU, images.EUROEVAL}


def test_every_parameter_is_described(package: Any) -> None:
    parameters = package[0]["root"]["inputDefinitions"]["parameters"]
    assert [name for name, parameter in parameters.items() if not parameter.get("description")] == []
    documented = [
        line.split(":")[0].strip() for line in preference.pipeline_func.__doc__.split("Args:")[1].splitlines()
    ]
    assert [name for name in documented if name] == list(preference.component_spec.inputs)


def test_defaults_are_those_of_the_components(package: Any) -> None:
    spec = package[0]
    root = spec["root"]["inputDefinitions"]["parameters"]
    different = set()
    for name, task in spec["root"]["dag"]["tasks"].items():
        declared = spec["components"][task["componentRef"]["name"]]["inputDefinitions"].get("parameters", {})
        for knob, source in task["inputs"].get("parameters", {}).items():
            if knob not in declared or not declared[knob].get("isOptional"):
                continue
            given = root[source["componentInputParameter"]] if "componentInputParameter" in source else source
            value = given.get("defaultValue", given.get("runtimeValue", {}).get("constant"))
            if value != declared[knob].get("defaultValue"):
                different.add((name.removesuffix("-2"), knob))
    assert different == OWN_DEFAULTS


def test_the_toy_sets_parameters_that_the_pipeline_has() -> None:
    assert set(toy.parameters(Path("world"))) <= set(preference.component_spec.inputs)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("n=8", 8),
        ("k=1", 1),
        ("beta=0.2", 0.2),
        ("languages=de, fr", ["de", "fr"]),
        ('languages=["da"]', ["da"]),
        ("policy=a=b", "a=b"),
        ("gpus=2", "2"),
        ('gpu_node_selector={"a": "b"}', {"a": "b"}),
    ],
)
def test_settings_get_the_parameters_type(setting: str, value: Any) -> None:
    assert command.parse(setting, preference) == (setting.split("=")[0], value)


@pytest.mark.parametrize("setting", ["n", "answers=8", "n=eight", "n=8.5", "n=true", "gpu_node_selector=a"])
def test_a_wrong_setting_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"--set: found '.*'; expected"):
        command.parse(setting, preference)


def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["compile", "--out", str(tmp_path / "package.json")]) == 1
    assert command.main(["run", "--set", "answers=8"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("pipelines compile: --out: found")
    assert errors[1].startswith(
        "pipelines run: --set: found 'answers=8'; expected name=value, with a name of answer_max"
    )


@dsl.component(base_image="none", install_kfp_package=False)
def make(number: int, things: Output[Dataset], size: Optional[int] = None, word: Optional[str] = "default") -> None:  # noqa: UP045
    import sys
    from pathlib import Path

    print("  5%|#    | 1/20", file=sys.stderr)
    Path(things.path).write_text(f"{number} {word} {size}")


@dsl.component(base_image="none", install_kfp_package=False)
def check(things: Input[Dataset], wanted: str) -> None:
    from pathlib import Path

    found = Path(things.path).read_text()
    if found != wanted:
        raise ValueError(f"things: found {found!r}; expected {wanted!r}")


@dsl.pipeline(name="small")
def small(wanted: str, number: int = 3, word: Optional[str] = None) -> None:  # noqa: UP045
    made = make(number=number, word=word).set_display_name("Make things").set_retry(5, "60s")
    check(things=made.outputs["things"], wanted=wanted).set_display_name("Check").set_retry(5, "60s")


def test_a_local_run_has_a_line_a_task_and_leaves_its_artifacts(tmp_path: Path) -> None:
    screen = io.StringIO()
    tasks = local.run(small, {"wanted": "3 default None"}, tmp_path / "run", screen)
    assert [line.split("  ")[0] for line in screen.getvalue().splitlines()] == ["Make things", "Check"]
    assert (tasks / "make" / "things").read_text() == "3 default None"
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "Executing task 'make'" in log and "1/20" not in log and "\x1b" not in log


def test_a_failed_task_is_not_retried_and_says_why(tmp_path: Path) -> None:
    screen = io.StringIO()
    with pytest.raises(RuntimeError, match=r"Check: failed; all it printed is in .*log.txt"):
        local.run(small, {"wanted": "4 ducks", "word": "ducks"}, tmp_path / "run", screen)
    first, second = screen.getvalue().splitlines()
    assert first.startswith("Make things") and first.endswith(" s")
    assert second.startswith("Check") and second.endswith(
        "failed: ValueError: things: found '3 ducks None'; expected '4 ducks'"
    )
    assert (tmp_path / "run" / "log.txt").read_text().count("Executing task 'check'") == 1


def test_tasks_run_in_the_order_of_the_flow(package: Any) -> None:
    tasks = package[0]["root"]["dag"]["tasks"]
    assert local.flow({name: task.get("dependentTasks", []) for name, task in tasks.items()}) == [
        "prepare", "translate", "sample", "score", "pair", "train", "answer", "answer-2", "arena", "benchmark",
        "benchmark-2", "report",
    ]  # fmt: skip


def test_progress_is_shown_in_place_on_a_terminal() -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    console = local.Console(screen, io.StringIO(), {"sample": "Sample answers"})
    for line in ["12:00:00.000 - INFO - Executing task '\x1b[96msample\x1b[0m'\n", "    sample:  5%|#    |", " 1/20\n"]:
        console.write(line)
    assert screen.getvalue().split("\r\x1b[K")[1:] == ["Sample answers  ", "Sample answers  sample:  5%|#    | 1/20"]


@dsl.pipeline(name="prepare-alone")
def prepare_alone(source: str, count: int) -> None:
    prepare(source=source, count=count)


def test_a_component_runs_its_stage_without_network_or_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    source = tmp_path / "chats.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"What do you know about number {i}?"}]} for i in range(5)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tasks = local.run(prepare_alone, {"source": str(source), "count": 3}, tmp_path / "run", io.StringIO())
    assert dataset.read(tasks / "prepare" / "prompts", "prompts").num_rows == 3
    output = json.loads((tasks / "prepare" / "executor_output.json").read_text())
    metrics = output["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert metrics["rows"] == 3 and metrics["dropped/prompts/not_sampled"] == 2
