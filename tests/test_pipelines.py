"""Pipelines: what the compiled package asks of Kubeflow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packages import TASKS, Package, compiled, dags, read, tasks_of

from components import images
from pipelines import __main__ as command
from pipelines import local, toy
from pipelines.preference import preference

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
OWN_DEFAULTS = {
    ("translate", "references"),  # only SFT needs them
    ("train", "seed"),  # one seed for sampling, pairing and training
    ("arena", "gpus"),  # the judge is larger than 80 GB allow
    ("preflight", "n"),  # a study says nothing of sampling there
    ("arena", "judge_endpoint"),  # text, as of every parameter of a run that may be empty
    ("report", "line"),  # text that may be empty too: a run's name is that under which it promotes
    ("promote", "languages"),  # those of the run must all be there, and not only those that are
    ("promote", "questions_languages"),
}
"""Where the pipeline's default is not the component's, and why."""
PIPELINE = preference()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Compiled by the command, with pinned images, where nothing but kfp can be imported."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "images.json").write_text(json.dumps(PINNED))
    arguments = [folder / "preference.yaml", "--images", folder / "images.json"]
    program = [sys.executable, "-c", COMPILE, *arguments]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return read((folder / "preference.yaml").read_text(encoding="ascii"))


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
            "recall": {"resolve"},
            "plan": {"preflight"},
            "plan-2": {"preflight"},
            "prepare": {"resolve"},
            "for-loop-1": {"plan", "prepare", "resolve"},
            "gather": {"for-loop-1", "prepare"},
            "for-loop-2": {"plan-2", "gather", "recall", "resolve"},
            "pair": {"for-loop-2", "gather"},
            "train": {"pair", "recall", "resolve"},
            "benchmark": {"resolve"},
            "benchmark-2": {"train", "resolve"},
            "answer": {"resolve"},
            "answer-2": {"train", "resolve"},
            "arena": {"answer", "answer-2", "resolve"},
            "report": {
                "prepare", "gather", "for-loop-2", "pair", "train", "benchmark", "benchmark-2", "answer", "answer-2",
                "arena", "promote",
            },
            "promote": {"answer", "answer-2", "arena", "benchmark", "benchmark-2", "train"},
            "condition-3": {"answer-2", "arena", "benchmark-2", "promote", "resolve", "train"},
        },
        "comp-for-loop-1": {"translate": set()},
        "comp-for-loop-2": {"sample": set(), "score": {"sample"}},
        "comp-condition-3": {"publish": set()},
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


def test_revisions_come_from_resolve_alone(package: Package) -> None:
    components = package[0]["components"]
    for name, task in tasks_of(package[0]).items():
        known = components[task["componentRef"]["name"]]["inputDefinitions"].get("parameters", {})
        given = task["inputs"].get("parameters", {})
        unused = {"train": {"reward_revision"}}.get(name, set())  # online DPO's
        for knob in [knob for knob in known if "revision" in knob and name not in ("resolve", "preflight")]:
            if knob in unused - given.keys():
                continue
            source = given[knob].get("taskOutputParameter", {}).get("producerTask")
            assert source == "resolve" or "--resolve-" in given[knob]["componentInputParameter"], (name, knob)


def test_what_recall_found_is_sampled_from_and_trained_from(package: Package) -> None:
    found = {"taskOutputArtifact": {"producerTask": "recall", "outputArtifactKey": "found"}}
    flow, loop = dags(package[0])["root"], dags(package[0])["comp-for-loop-2"]
    assert flow["train"]["inputs"]["artifacts"]["start"] == found
    handed = loop["sample"]["inputs"]["artifacts"]["trained"]["componentInputArtifact"]
    assert flow["for-loop-2"]["inputs"]["artifacts"][handed] == found


def test_a_judge_may_be_asked_at_an_endpoint(package: Package) -> None:
    for name in ("preflight", "resolve", "arena"):
        given = tasks_of(package[0])[name]["inputs"]["parameters"]["judge_endpoint"]
        assert given == {"componentInputParameter": "judge_endpoint"}, name


def test_every_task_may_be_cached_but_those_that_look_what_is_new(package: Package) -> None:
    cached = {name: task["cachingOptions"].get("enableCache", False) for name, task in tasks_of(package[0]).items()}
    assert cached == {name: name not in ("resolve", "preflight", "promote", "publish") for name in TASKS}


def test_images_are_pinned(package: Package) -> None:
    used = {name: e["container"]["image"] for name, e in package[0]["deploymentSpec"]["executors"].items()}
    assert set(used.values()) == set(PINNED.values())
    assert used["exec-benchmark-2"] == PINNED["euroeval"]
    assert used["exec-sample"] == used["exec-train"] == PINNED["gpu"]


def test_a_package_with_tags_is_not_cached() -> None:
    spec, _ = compiled(cached=False)
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


def test_trackers_are_told_of_a_run_only_where_a_package_names_them(package: Package) -> None:
    assert "track" not in tasks_of(package[0])
    spec, asked = compiled(mlflow="https://mlflow.example", tensorboard="s3://bucket/curves")
    told = tasks_of(spec)["track"]
    given = {name: value["runtimeValue"]["constant"] for name, value in told["inputs"]["parameters"].items()}
    assert given == {
        "mlflow": "https://mlflow.example", "tensorboard": "s3://bucket/curves", "run": "{{$.pipeline_job_name}}",
    }  # fmt: skip
    (token,) = asked["exec-track"]["secretAsEnv"]
    assert token["secretNameParameter"]["runtimeValue"]["constant"] == "mlflow-token" and token["optional"]
    assert token["keyToEnv"] == [{"envVar": "MLFLOW_TRACKING_TOKEN", "secretKey": "token"}]


def test_evaluation_data_is_fetched_by_a_task_where_a_package_asks_for_it(package: Package) -> None:
    assert "fetch" not in tasks_of(package[0])
    spec, asked = compiled(fetch=True)
    tasks = tasks_of(spec)
    assert [name for name, task in tasks.items() if "fetch" in task.get("dependentTasks", [])] == [
        "benchmark", "benchmark-2",
    ]  # fmt: skip
    resources = spec["deploymentSpec"]["executors"]["exec-fetch"]["container"]["resources"]
    assert "accelerator" not in resources and asked["exec-fetch"]["secretAsEnv"]


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
    always = {name: task.get("dependentTasks", []) for name, task in tasks.items() if "triggerPolicy" not in task}
    assert local.flow(always) == [
        "preflight", "resolve", "plan", "prepare", "for-loop-1", "gather", "plan-2", "recall", "for-loop-2", "pair",
        "train", "answer", "answer-2", "arena", "benchmark", "benchmark-2", "promote", "report",
    ]  # fmt: skip
