"""Pipelines: what the compiled package asks of Kubeflow."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.compiler import Compiler

from components import images
from pipelines import __main__ as command
from pipelines import local, toy
from pipelines.preference import preference
from pipelines.profiles import PROFILES, Cluster

ROOT = Path(__file__).parent.parent
PINNED = {name: f"registry.example/{name}@sha256:{digit * 64}" for digit, name in zip("abc", images.NAMES, strict=True)}
COMPILE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in "croco numpy pyarrow torch vllm trl transformers peft datasets euroeval tyro".split():
            raise AssertionError(f"compiling imports {name}")
sys.meta_path.insert(0, Refuse())
from pipelines.__main__ import main
sys.exit(main(["compile", "--out", *sys.argv[1:]]))
"""
TASKS = {
    "preflight": "preflight", "resolve": "resolve", "plan": "plan-translate", "plan-2": "plan-sample",
    "prepare": "prepare", "translate": "translate", "gather": "gather", "sample": "sample", "score": "score",
    "pair": "pair", "train": "train", "benchmark": "benchmark-base", "benchmark-2": "benchmark-tuned",
    "answer": "answer-base", "answer-2": "answer-tuned", "arena": "arena", "report": "report",
}  # fmt: skip
"""Task of the compiled pipeline -> its stage in pipelines.profiles."""
OWN_DEFAULTS = {
    ("translate", "references"),  # only SFT needs them
    ("train", "seed"),  # one seed for sampling, pairing and training
    ("arena", "gpus"),  # the judge is larger than 80 GB allow
}
"""Where the pipeline's default is not the component's, and why."""
PIPELINE = preference()
Package = tuple[dict[str, Any], dict[str, Any]]
"""The compiled pipeline, and its Kubernetes part by executor."""


def load(path: Path) -> Package:
    spec, platform = yaml.safe_load_all(path.read_text(encoding="ascii"))
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Compiled by the command, with pinned images, where nothing but kfp can be imported."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "images.json").write_text(json.dumps(PINNED))
    arguments = [folder / "preference.yaml", "--images", folder / "images.json"]
    program = [sys.executable, "-c", COMPILE, *arguments]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return load(folder / "preference.yaml")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Package]:
    """compiled(profile, ...) -> the package for a Cluster."""

    def compile_for(*cluster: Any, **more: Any) -> Package:
        out = tmp_path_factory.mktemp("compiled") / "preference.yaml"
        Compiler().compile(preference(Cluster(*cluster, **more)), str(out))
        return load(out)

    return compile_for


def dags(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Component -> its tasks, of the pipeline itself ("root") and of each loop."""
    components = {"root": spec["root"], **spec["components"]}
    return {name: component["dag"]["tasks"] for name, component in components.items() if "dag" in component}


def tasks_of(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every task that is a pod, in loops or not."""
    return {name: task for tasks in dags(spec).values() for name, task in tasks.items() if "for-loop" not in name}


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


def test_the_package_has_the_flows_tasks(package: Package) -> None:
    assert set(tasks_of(package[0])) == set(TASKS)
    upstream = {
        name: {task: set(spec.get("dependentTasks", [])) for task, spec in tasks.items()}
        for name, tasks in dags(package[0]).items()
    }
    assert upstream == {
        "root": {
            "preflight": set(),
            "resolve": {"preflight"},
            "plan": {"preflight"},
            "plan-2": {"preflight"},
            "prepare": {"resolve"},
            "for-loop-1": {"plan", "prepare", "resolve"},
            "gather": {"for-loop-1", "prepare"},
            "for-loop-2": {"plan-2", "gather", "resolve"},
            "pair": {"for-loop-2", "gather"},
            "train": {"pair", "resolve"},
            "benchmark": {"resolve"},
            "benchmark-2": {"train", "resolve"},
            "answer": {"resolve"},
            "answer-2": {"train", "resolve"},
            "arena": {"answer", "answer-2", "resolve"},
            "report": {
                "prepare", "gather", "for-loop-2", "pair", "train", "benchmark", "benchmark-2", "answer", "answer-2",
                "arena",
            },
        },
        "comp-for-loop-1": {"translate": set()},
        "comp-for-loop-2": {"sample": set(), "score": {"sample"}},
    }  # fmt: skip


def test_a_loop_hands_each_task_its_share(package: Package) -> None:
    for loop, planned, task in [("for-loop-1", "plan", "translate"), ("for-loop-2", "plan-2", "sample")]:
        iterator = dags(package[0])["root"][loop]["parameterIterator"]
        item = f"pipelinechannel--{planned}-Output-loop-item"
        assert iterator == {"itemInput": item, "items": {"inputParameter": f"pipelinechannel--{planned}-Output"}}
        given = tasks_of(package[0])[task]["inputs"]["parameters"]
        for name in ("languages", "group", "groups"):
            selector = f'parseJson(string_value)["{name}"]'
            assert given[name] == {"componentInputParameter": item, "parameterExpressionSelector": selector}


def test_what_a_loop_makes_is_collected(package: Package) -> None:
    spec = package[0]
    collected = {
        (task, name, source["taskOutputArtifact"]["outputArtifactKey"])
        for task, about in dags(spec)["root"].items()
        for name, source in about["inputs"].get("artifacts", {}).items()
        if source["taskOutputArtifact"]["producerTask"].startswith("for-loop")
    }
    assert collected == {
        ("gather", "translations", "pipelinechannel--translate-prompts"),
        ("pair", "samples", "pipelinechannel--sample-samples"),
        ("pair", "scores", "pipelinechannel--score-scores"),
        ("report", "samples", "pipelinechannel--sample-samples"),
        ("report", "scores", "pipelinechannel--score-scores"),
    }
    for task, name, _ in collected:
        assert spec["components"][f"comp-{task}"]["inputDefinitions"]["artifacts"][name]["isArtifactList"]


def test_every_parameter_that_enters_a_loop_has_a_value_because_kubeflow_fails_on_one_without(package: Package) -> None:
    defined = package[0]["root"]["inputDefinitions"]["parameters"]
    entering = {
        source["componentInputParameter"]
        for name, task in dags(package[0])["root"].items()
        if name.startswith("for-loop")
        for source in task["inputs"]["parameters"].values()
        if "componentInputParameter" in source
    }
    assert {"n", "policy", "store"} < entering
    assert [name for name in entering if "defaultValue" not in defined[name]] == []


def test_revisions_come_from_resolve_alone(package: Package) -> None:
    components = package[0]["components"]
    for name, task in tasks_of(package[0]).items():
        known = components[task["componentRef"]["name"]]["inputDefinitions"].get("parameters", {})
        given = task["inputs"].get("parameters", {})
        for knob in [knob for knob in known if "revision" in knob and name not in ("resolve", "preflight")]:
            source = given[knob].get("taskOutputParameter", {}).get("producerTask")
            assert source == "resolve" or "--resolve-" in given[knob]["componentInputParameter"], (name, knob)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_task_gets_what_the_profile_says(compiled: Callable[..., Package], profile: str) -> None:
    spec, kubernetes = compiled(profile)
    tasks = tasks_of(spec)
    for task, stage in TASKS.items():
        needs, pod = PROFILES[profile].needs[stage], kubernetes[f"exec-{task}"]
        resources = spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]["resources"]
        gigabytes = int(needs.pod.memory.removesuffix("Gi")) * 2**30 / 1e9
        number = str(needs.pod.gpus)
        gpu = {"count": number, "resourceCount": number, "type": "nvidia.com/gpu", "resourceType": "nvidia.com/gpu"}
        assert resources == {
            "cpuRequest": float(needs.pod.cpu),
            "resourceCpuRequest": needs.pod.cpu,
            "memoryRequest": gigabytes,
            "resourceMemoryRequest": needs.pod.memory,
            "memoryLimit": gigabytes,
            "resourceMemoryLimit": needs.pod.memory,
            **({"accelerator": gpu} if needs.pod.gpus else {}),
        }
        home = {"mountPath": "/cache", "volumeName": "cache"}
        shared = {"mountPath": "/dev/shm", "volumeName": "shared-memory", "medium": "Memory", "sizeLimit": "16Gi"}
        assert pod["emptyDirMounts"] == ([home, shared] if needs.pod.shared_memory else [home])
        assert tasks[task]["taskInfo"]["name"] == needs.title
        assert tasks[task]["retryPolicy"]["maxRetryCount"] == needs.retries
        secrets = [(secret["secretName"], secret["optional"]) for secret in pod.get("secretAsEnv", [])]
        assert secrets == ([("hf-token", True)] if needs.hub else [])
        if "gpus" in spec["components"][f"comp-{task}"]["inputDefinitions"].get("parameters", {}):
            told = tasks[task]["inputs"]["parameters"]["gpus"]["runtimeValue"]["constant"]
            assert told == str(needs.pod.gpus or 1), task


def test_the_profiles_differ_where_they_should() -> None:
    gpus = {name: {stage: needs.pod.gpus for stage, needs in p.needs.items()} for name, p in PROFILES.items()}
    used = {name: {stage: number for stage, number in by_stage.items() if number} for name, by_stage in gpus.items()}
    eight = {
        "translate",
        "sample",
        "score",
        "train",
        "benchmark-base",
        "benchmark-tuned",
        "answer-base",
        "answer-tuned",
    }
    assert used["gpu-80gb"] == used["spot"] == {**dict.fromkeys(eight, 1), "arena": 2}
    assert used["node-8x80gb"] == {**dict.fromkeys(eight, 1), "arena": 2, "train": 8}
    assert used["toy"] == {}
    assert {needs.retries for needs in PROFILES["spot"].needs.values()} == {10}


def test_gpu_tasks_go_to_the_nodes_asked_for(compiled: Callable[..., Package]) -> None:
    labels = {"cloud.example/gpu": "h100", "zone": "a"}
    spec, kubernetes = compiled("spot", "amd.com/gpu", labels)
    keys = ["amd.com/gpu", "kubernetes.azure.com/scalesetpriority", "cloud.google.com/gke-spot"]
    tolerations = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]
    for task, stage in TASKS.items():
        pod = kubernetes[f"exec-{task}"]
        container = spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
        if PROFILES["spot"].needs[stage].pod.gpus:
            assert (pod["nodeSelector"], pod["tolerations"]) == ({"labels": labels}, tolerations)
            assert container["resources"]["accelerator"]["resourceType"] == "amd.com/gpu"
        else:
            assert not {"tolerations", "nodeSelector"} & set(pod)


def test_a_shared_volume_is_mounted_by_what_reads_from_the_hub(compiled: Callable[..., Package]) -> None:
    spec, kubernetes = compiled("gpu-80gb", models="croco-models")
    for task, stage in TASKS.items():
        container = spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
        mounts = [(pvc["mountPath"], pvc["constant"]) for pvc in kubernetes[f"exec-{task}"].get("pvcMount", [])]
        hub = PROFILES["gpu-80gb"].needs[stage].hub
        assert mounts == ([("/models", "croco-models")] if hub else [])
        assert container.get("env", []) == ([{"name": "HF_HUB_CACHE", "value": "/models"}] if hub else [])


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"profile": "h100"}, "profile: found 'h100'; expected one of gpu-80gb, "),
        ({"profile": "toy", "node_selector": {"a": "b"}}, "node_selector: found .*; expected none: no GPU task"),
        ({"gpu_type": ""}, "gpu_type: found ''; expected a resource name such as nvidia.com/gpu"),
        ({"gpu_type": "NVIDIA_TESLA_K80"}, "gpu_type: found 'NVIDIA_TESLA_K80'; expected a resource name"),
        ({"images": {"croco-gpu": "x"}}, "images: found croco-gpu; expected cpu, gpu, euroeval"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(cluster: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster(**cluster)


def test_no_resource_is_a_parameter_because_kubeflow_does_not_find_one_inside_a_loop(package: Package) -> None:
    executors = package[0]["deploymentSpec"]["executors"].values()
    assert [text for e in executors for text in strings(e["container"]["resources"]) if "{{" in text] == []


def test_every_pod_is_unprivileged_and_labelled(package: Package) -> None:
    spec, kubernetes = package
    assert set(kubernetes) == set(spec["deploymentSpec"]["executors"])
    for pod in kubernetes.values():
        assert pod["securityContext"] == {"runAsUser": "2000", "runAsGroup": "0", "runAsNonRoot": True}
        assert pod["podMetadata"] == {"labels": {"app.kubernetes.io/part-of": "croco"}}


def test_no_task_has_an_environment_variable_or_pvc_because_the_cache_key_lacks_the_first_and_has_the_second(
    package: Package,
) -> None:
    spec, kubernetes = package
    assert not [name for name, e in spec["deploymentSpec"]["executors"].items() if "env" in e["container"]]
    assert not [name for name, pod in kubernetes.items() if {"pvcMount", "genericEphemeralVolume"} & set(pod)]
    assert "workspace" not in json.dumps(spec)
    variables = {
        key["envVar"] for pod in kubernetes.values() for s in pod.get("secretAsEnv", []) for key in s["keyToEnv"]
    }
    assert variables == {"HF_TOKEN"}


def test_every_task_may_be_cached_but_those_that_look_what_is_new(package: Package) -> None:
    cached = {name: task["cachingOptions"].get("enableCache", False) for name, task in tasks_of(package[0]).items()}
    assert cached == {name: name not in ("resolve", "preflight") for name in TASKS}


def test_images_are_pinned(package: Package) -> None:
    used = {name: e["container"]["image"] for name, e in package[0]["deploymentSpec"]["executors"].items()}
    assert set(used.values()) == set(PINNED.values())
    assert used["exec-benchmark-2"] == PINNED["euroeval"]
    assert used["exec-sample"] == used["exec-train"] == PINNED["gpu"]


def test_a_package_with_tags_is_not_cached(compiled: Callable[..., Package]) -> None:
    spec, _ = compiled("gpu-80gb", "nvidia.com/gpu", {}, {}, False)
    assert not [name for name, task in tasks_of(spec).items() if task["cachingOptions"].get("enableCache")]
    used = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert used == {images.CPU, images.GPU, images.EUROEVAL}


def test_compiling_refuses_tags_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = tmp_path / "images.json"
    given.write_text(json.dumps(PINNED | {"cpu": "registry.example/cpu:latest"}))
    out = ["compile", "--out", str(tmp_path / "package.yaml"), "--images", str(given)]
    assert command.main(out) == 1
    assert "--images: found registry.example/cpu:latest without a digest; expected" in capsys.readouterr().err
    assert not (tmp_path / "package.yaml").exists()
    assert command.main([*out, "--allow-tags"]) == 0
    assert capsys.readouterr().err == (
        "no task will be cached: registry.example/cpu:latest may change without a change of name\n"
    )


def test_stages_with_a_store_get_its_secret_and_no_others(package: Package) -> None:
    spec, kubernetes = package
    for task in TASKS:
        known = spec["components"][f"comp-{task}"]["inputDefinitions"].get("parameters", {})
        secrets = [
            (s["secretName"], s["mountPath"], s["optional"])
            for s in kubernetes[f"exec-{task}"].get("secretAsVolume", [])
        ]
        assert secrets == ([("croco-store", "/etc/croco/store", True)] if "store" in known else []), task
    without = {task for task in TASKS if not kubernetes[f"exec-{task}"].get("secretAsVolume")}
    assert without == {"resolve", "plan", "plan-2", "gather"}


def test_every_parameter_is_described(package: Package) -> None:
    parameters = package[0]["root"]["inputDefinitions"]["parameters"]
    assert [name for name, parameter in parameters.items() if not parameter.get("description")] == []
    documented = [line.split(":")[0].strip() for line in PIPELINE.pipeline_func.__doc__.split("Args:")[1].splitlines()]
    assert [name for name in documented if name] == list(PIPELINE.component_spec.inputs)


def test_defaults_are_those_of_the_components(package: Package) -> None:
    spec = package[0]
    root = spec["root"]["inputDefinitions"]["parameters"]
    different = set()
    for name, task in tasks_of(spec).items():
        declared = spec["components"][task["componentRef"]["name"]]["inputDefinitions"].get("parameters", {})
        for knob, source in task["inputs"].get("parameters", {}).items():
            origin = source.get("componentInputParameter", "").removeprefix("pipelinechannel--")
            if (
                not declared[knob].get("isOptional")
                or "taskOutputParameter" in source
                or (origin and origin not in root)
            ):
                continue  # it has no default, or another task says what it is
            given = root[origin] if origin else source
            value = given.get("defaultValue", given.get("runtimeValue", {}).get("constant"))
            if value != declared[knob].get("defaultValue"):
                different.add((name.removesuffix("-2"), knob))
    assert different == OWN_DEFAULTS


def test_the_toy_sets_parameters_that_the_pipeline_has() -> None:
    assert set(toy.parameters(Path("world"))) <= set(PIPELINE.component_spec.inputs)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("n=8", 8),
        ("k=1", 1),
        ("beta=0.2", 0.2),
        ("languages=de, fr", ["de", "fr"]),
        ('languages=["da"]', ["da"]),
        ("policy=a=b", "a=b"),
        ("store=", ""),
    ],
)
def test_settings_get_the_parameters_type(setting: str, value: Any) -> None:
    assert command.parse(setting, PIPELINE) == (setting.split("=")[0], value)


@pytest.mark.parametrize("setting", ["n", "answers=8", "n=eight", "n=8.5", "n=true", "languages=[1"])
def test_a_wrong_setting_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"--set: found '.*'; expected"):
        command.parse(setting, PIPELINE)


def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["compile", "--out", str(tmp_path / "package.json")]) == 1
    assert command.main(["run", "--set", "answers=8"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("pipelines compile: --out: found")
    assert errors[1].startswith(
        "pipelines run: --set: found 'answers=8'; expected name=value, with a name of answer_max"
    )


def test_on_one_machine_tasks_run_in_the_order_of_the_flow(package: Package) -> None:
    tasks = dags(package[0])["root"]
    assert local.flow({name: task.get("dependentTasks", []) for name, task in tasks.items()}) == [
        "preflight", "resolve", "plan", "prepare", "for-loop-1", "gather", "plan-2", "for-loop-2", "pair", "train",
        "answer", "answer-2", "arena", "benchmark", "benchmark-2", "report",
    ]  # fmt: skip
