"""Traps: what Kubeflow 2.17 accepts and then fails on, drops or takes for something else is in no package of ours.

Each was seen on, or read in, the real backend; what a profile's row or a flag could do wrong is in test_profiles.py.
"""

import json
import re
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2
from packages import Package, dags, is_group, read, strings, text_for, text_of

from pipelines.placement import STORE_FOLDER, Cluster
from pipelines.profiles import PROFILES

EVERYTHING = Cluster(
    "spot",
    node_selector={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    models="croco-models",
    gpu_memory_label="nvidia.com/gpu.memory",
    queue="research",
)
"""With all that can be asked for."""
QUANTITY = r"[1-9]\d*[MG]i"
LABEL = r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?"
VALUE = r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?"
KUBEFLOWS = {"kfp-launcher", "gcs-scratch", "s3-scratch", "minio-scratch", "dot-local-scratch", "dot-cache-scratch"}
"""Volumes that Kubeflow gives every task."""
UNREAD = {"podAffinity", "enabledSharedMemory"}
"""Fields that kfp-kubernetes has and the driver of 2.17.0 does not look at."""


@pytest.fixture(scope="module", params=[*PROFILES, "everything", "a study"])
def text(request: pytest.FixtureRequest) -> str:
    """A package as it is uploaded, of each profile, of all that can be asked for, and of a study."""
    if request.param == "a study":
        return text_of(Cluster(), "eurollm.yaml")
    return text_of(EVERYTHING) if request.param == "everything" else text_for(request.param)


@pytest.fixture(scope="module")
def package(text: str) -> Package:
    return read(text)


def containers(spec: dict[str, Any]) -> dict[str, Any]:
    return {name: executor["container"] for name, executor in spec["deploymentSpec"]["executors"].items()}


def is_study(package: Package) -> bool:
    return str(package[0]["pipelineInfo"]["name"]).startswith("croco-study-")


def constants(value: Any) -> Any:
    """Names of Secrets and claims as Kubeflow resolves them: `...Parameter` of a task's Kubernetes part."""
    return value["runtimeValue"]["constant"]


def test_it_is_ascii_because_kubeflows_database_is(text: str) -> None:
    assert [part for document in yaml.safe_load_all(text) for part in strings(document) if not part.isascii()] == []


def test_it_is_one_pipeline_and_one_platform_document_with_no_field_that_the_server_does_not_know(text: str) -> None:
    spec, platform = yaml.safe_load_all(text)
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert spec["schemaVersion"] == "2.1.0"
    [executors] = [part["deploymentSpec"].pop("executors") for part in platform["platforms"].values()]
    assert platform == {"platforms": {"kubernetes": {"deploymentSpec": {}}}}, "or all of it is ignored"
    for part in executors.values():
        json_format.ParseDict(part, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        assert not UNREAD & set(part)


def test_its_name_is_one_that_can_be_uploaded(package: Package) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", package[0]["pipelineInfo"]["name"])


def test_no_resource_is_a_parameter_because_kubeflow_does_not_find_one_inside_a_loop(package: Package) -> None:
    spec, asked = package
    assert [text for one in containers(spec).values() for text in strings(one["resources"]) if "{{" in text] == []
    assert not [text for text in strings(asked) if text in ("componentInputParameter", "taskOutputParameter")]


def test_every_quantity_is_a_whole_number_with_a_unit_and_every_gpu_a_resource(package: Package) -> None:
    spec, asked = package
    for container in containers(spec).values():
        resources = container["resources"]
        assert re.fullmatch(QUANTITY, resources["resourceMemoryRequest"]) and re.fullmatch(
            QUANTITY, resources["resourceMemoryLimit"]
        )
        assert re.fullmatch(r"[1-9]\d*m?", resources["resourceCpuRequest"])
        gpu = resources.get("accelerator", {"resourceCount": "1", "resourceType": "nvidia.com/gpu"})
        assert re.fullmatch(r"[1-9]\d*", gpu["resourceCount"]) and "/" in gpu["resourceType"]
    sizes = [volume["sizeLimit"] for pod in asked.values() for volume in pod["emptyDirMounts"]]
    assert sizes and all(re.fullmatch(QUANTITY, size) for size in sizes), "the driver panics on others"


def test_no_two_volumes_of_a_pod_have_one_name_and_none_a_dot(package: Package) -> None:
    for task, pod in package[1].items():
        names = [volume["volumeName"] for volume in pod["emptyDirMounts"]]
        names += [constants(one["secretNameParameter"]) for one in pod.get("secretAsVolume", [])]
        names += [constants(one["pvcNameParameter"]) for one in pod.get("pvcMount", [])]
        assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in names), task
        assert len({*names} | KUBEFLOWS) == len(names) + len(KUBEFLOWS), task
        paths = [
            part["mountPath"] for kind in ("emptyDirMounts", "secretAsVolume", "pvcMount") for part in pod.get(kind, [])
        ]
        assert len(set(paths)) == len(paths), task


def test_every_pod_says_its_user_because_a_restricted_namespace_takes_no_other(package: Package) -> None:
    spec, asked = package
    assert set(asked) == set(spec["deploymentSpec"]["executors"])
    for pod in asked.values():
        assert pod["securityContext"] == {"runAsUser": "2000", "runAsGroup": "0", "runAsNonRoot": True}


def test_labels_and_annotations_are_such_as_kubernetes_takes(package: Package) -> None:
    for pod in package[1].values():
        metadata = pod["podMetadata"]
        labels = {**metadata["labels"], **pod.get("nodeSelector", {}).get("labels", {})}
        for term in pod.get("nodeAffinity", []):
            labels |= {rule["key"]: rule["values"][0] for rule in term["matchExpressions"]}
        assert all(re.fullmatch(LABEL, key) and re.fullmatch(VALUE, value) for key, value in labels.items())
        assert all(re.fullmatch(LABEL, key) for key in metadata.get("annotations", {}))


def test_a_pod_has_one_required_affinity_at_most_because_several_are_alternatives(package: Package) -> None:
    for pod in package[1].values():
        assert len([term for term in pod.get("nodeAffinity", []) if "weight" not in term]) <= 1


def test_nothing_is_pulled_by_a_policy_of_its_own_or_by_no_name(package: Package) -> None:
    spec, asked = package
    assert all(re.fullmatch(r"\S+[:@]\S+", container["image"]) for container in containers(spec).values())
    assert not [name for name, pod in asked.items() if "imagePullPolicy" in pod]


def test_there_is_no_workspace_importer_or_exit_task_and_no_claim_is_made(package: Package) -> None:
    spec, asked = package
    said = json.dumps(spec)
    assert not [word for word in ("workspace", "argostub", "strategy", "literals") if f'"{word}' in said]
    assert {kind for executor in spec["deploymentSpec"]["executors"].values() for kind in executor} == {"container"}
    assert not [name for name, pod in asked.items() if "genericEphemeralVolume" in pod]


def test_a_condition_compares_a_boolean_and_quotes_nothing(package: Package) -> None:
    conditions = [
        task["triggerPolicy"]
        for tasks in dags(package[0]).values()
        for task in tasks.values()
        if "triggerPolicy" in task
    ]
    promoted = [{"condition": "inputs.parameter_values['pipelinechannel--promote-Output'] == true"}]
    assert conditions == ([] if is_study(package) else promoted)


def test_every_task_is_tried_again_by_itself_after_whole_seconds_and_no_group_is(package: Package) -> None:
    for tasks in dags(package[0]).values():
        for name, task in tasks.items():
            if is_group(name):
                assert "retryPolicy" not in task, "it would be pushed to the tasks, or multiply theirs"
                continue
            policy = task["retryPolicy"]
            assert policy["maxRetryCount"] > 0
            for duration in ("backoffDuration", "backoffMaxDuration"):
                assert re.fullmatch(r"[1-9]\d*s", policy[duration])


def test_every_attempt_has_an_end(package: Package) -> None:
    assert all(int(pod["activeDeadlineSeconds"]) >= 3600 for pod in package[1].values()), "0 and less are ignored"


def test_components_with_one_container_have_one_interface_because_kubeflow_keeps_the_first(package: Package) -> None:
    spec, _ = package
    interfaces: dict[str, dict[str, Any]] = {}
    for component in spec["components"].values():
        if label := component.get("executorLabel"):
            container = json.dumps(containers(spec)[label], sort_keys=True)
            interface = {part: component.get(part) for part in ("inputDefinitions", "outputDefinitions")}
            assert interfaces.setdefault(container, interface) == interface, label


def test_every_parameter_that_enters_a_loop_has_a_value_because_kubeflow_fails_on_one_without(package: Package) -> None:
    spec, _ = package
    defined = spec["root"]["inputDefinitions"]["parameters"]
    entering = {
        source["componentInputParameter"]
        for name, task in dags(spec)["root"].items()
        if name.startswith("for-loop")
        for source in task["inputs"]["parameters"].values()
        if "componentInputParameter" in source
    }
    assert ({"store"} if is_study(package) else {"n", "policy", "store"}) <= entering
    assert [name for name in entering if "defaultValue" not in defined[name]] == []


def test_no_part_is_longer_than_an_argument_may_be_because_drivers_get_them_as_such(package: Package) -> None:
    spec, asked = package
    parts = [spec["root"], *spec["components"].values(), *containers(spec).values(), *asked.values()]
    assert max(len(json.dumps(part)) for part in parts) < 131_072


def test_no_task_has_an_environment_variable_or_pvc_because_the_cache_key_lacks_the_first_and_has_the_second() -> None:
    for profile in PROFILES:
        spec, asked = read(text_for(profile))
        assert not [name for name, container in containers(spec).items() if "env" in container]
        assert not [name for name, pod in asked.items() if "pvcMount" in pod]
        keys = [key for pod in asked.values() for one in pod.get("secretAsEnv", []) for key in one["keyToEnv"]]
        assert {key["envVar"] for key in keys} == {"HF_TOKEN"}


def test_only_stages_without_a_store_lack_its_secret(package: Package) -> None:
    having, lacking = (
        {re.sub(r"(-\d+)+$", "", name) for name, pod in package[1].items() if (STORE_FOLDER in str(pod)) == has}
        for has in (True, False)
    )
    assert lacking == {"exec-plan", "exec-gather"}
    assert not having & lacking
