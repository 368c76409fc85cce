"""Manifests: what the overlays build is valid, pinned, without secrets and shut in; and what Kubeflow is changed to."""

import json
import re
import tomllib

import pytest
import yaml
from overlays import BUILT, MANIFESTS, OVERLAYS, ROOT, containers, folder, of_kind, pods, table, tool

from components import images
from pipelines import costs, profiles

SECRETS = MANIFESTS / "secrets.example.yaml"
VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
GPUS = "requests.nvidia.com/gpu"
WORKERS = 7
"""As the pipeline has by default."""
AT_ONCE = WORKERS + 2
"""GPU tasks: a share each, and the base model's two evaluations."""
UNITS = {"": 1.0, "m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(version: str) -> None:
    files = [*sorted(folder().iterdir()), SECRETS]
    said = tool("kubernetes-validate", "--strict", "--quiet", "-k", version, *files).splitlines()
    unknown = {re.findall(r"Couldn't find schema for kind (\w+) with", line)[0] for line in said}
    assert unknown == {"NodeClass", "NodePool", "InferenceService"}, "EKS' and KServe's own kinds alone have no schema"


def test_yaml_is_tidy() -> None:
    tool("yamllint", "--strict", "-c", MANIFESTS / ".yamllint", MANIFESTS, MANIFESTS / ".checkov.yaml")


def test_checkov_finds_only_what_is_skipped_for_a_reason() -> None:
    config = (MANIFESTS / ".checkov.yaml").read_text()
    skipped = yaml.safe_load(config)["skip-check"]
    assert re.findall(r"  # [^\n]+: [^\n]{40,}\n  - (CKV\w+)", config) == skipped
    report = tool(
        "checkov", "--framework", "kubernetes", "--skip-download", "--soft-fail", "-o", "json", "-d", folder()
    )
    failed = {found["check_id"] for found in json.loads(report)["results"]["failed_checks"]}
    assert failed == set(skipped), "a check that fails, or a reason for a check that does not"


@pytest.mark.parametrize("name", BUILT)
def test_there_is_no_secret(name: str) -> None:
    assert not of_kind(name, "Secret")
    for _, pod in pods(name):
        variables = [one for container in containers(pod) for one in container.get("env", [])]
        for one in variables:
            assert "secretKeyRef" in one.get("valueFrom", {}) or not re.search("KEY|SECRET|TOKEN|PASS", one["name"])


def test_no_file_holds_a_secret() -> None:
    for path in filter(lambda path: path.is_file(), MANIFESTS.rglob("*")):
        text = path.read_text()
        assert not re.search(r"secretGenerator|minio123|(AKIA|ASIA|GOOG1E|hf_)\w{16,}|BEGIN \w+ PRIVATE KEY", text), (
            path
        )
        assert "kind: Secret" not in text or "$patch: delete" in text or path == SECRETS, path


def test_the_template_has_the_secrets_of_the_readme_and_nothing_in_them() -> None:
    template = {one["metadata"]["name"]: one for one in yaml.safe_load_all(SECRETS.read_text())}
    keys = {row[0]: set(re.findall(r"[\w.]+", row[1].replace("also", ""))) for row in table("Secrets")}
    ours = {value for name, value in vars(profiles).items() if name.endswith("_SECRET")}
    assert template.keys() == ours | {"mlpipeline-minio-artifact"}, "the others are KServe's and Kubeflow's"
    for name, one in template.items():
        assert one.keys() == {"apiVersion", "kind", "metadata", "stringData"} and one["metadata"] == {"name": name}
        assert one["stringData"] == dict.fromkeys(keys[name], "")


def test_no_kustomization_takes_the_template() -> None:
    lists = [path.read_text() for path in MANIFESTS.rglob("kustomization.yaml")]
    assert lists and not any(SECRETS.stem in text for text in lists)


@pytest.mark.parametrize("name", BUILT)
def test_images_are_of_one_version_and_from_where_they_still_are(name: str) -> None:
    for workload, pod in pods(name):
        for image in (container["image"] for container in containers(pod)):
            assert re.search(r":\d[\w.-]*(@sha256:[0-9a-f]{64})?$", image), f"{workload}: {image}"
            assert image in images.NAMES.values() or image.startswith("ghcr.io/chrislusf/seaweedfs:"), image


@pytest.mark.parametrize("name", BUILT)
def test_a_namespace_of_runs_takes_only_restricted_pods(name: str) -> None:
    spaces = [item["metadata"] for item in of_kind(name, "Namespace")]
    if name in OVERLAYS:
        assert not spaces, "Kubeflow's own namespace is not ours to delete"
    else:
        labels = RESTRICTED | {"app.kubernetes.io/part-of": "kubeflow-profile"}
        assert spaces == [{"name": "croco", "labels": labels}]


@pytest.mark.parametrize("name", BUILT)
def test_every_pod_passes_the_restricted_level(name: str) -> None:
    found = dict(pods(name))
    store = {"croco-store"} if name.startswith(("gpu-generic", "kind", "on-premises")) else set()
    assert found.keys() == store | ({"toy-world"} if name.startswith("kind") else set())
    for pod in found.values():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume} - {"name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
        for container in containers(pod):
            security = pod["securityContext"] | container["securityContext"]
            assert security["runAsNonRoot"] is True and security["runAsUser"] > 0
            assert security["allowPrivilegeEscalation"] is False and "privileged" not in security
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert security["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", BUILT)
def test_a_run_has_the_rights_of_the_readme_and_no_others(name: str) -> None:
    documented = set()
    for where, resources, verbs, _ in table("What a run may do"):
        if "trainer" in where and name in OVERLAYS:
            continue
        names, _, only = resources.rstrip(")").partition(" (only ")
        documented |= {(where.split(",")[0], one, only, verbs) for one in names.split(", ")}
    found = set()
    for role in of_kind(name, "Role", "ClusterRole"):
        for rule in role["rules"]:
            [group], only = rule["apiGroups"], ", ".join(rule.get("resourceNames", []))
            names = [f"{one}.{group}" if group else one for one in rule["resources"]]
            where = "namespace" if role["kind"] == "Role" else "cluster"
            found |= {(where, one, only, ", ".join(rule["verbs"])) for one in names}
    assert found == documented
    namespace = "kubeflow" if name in OVERLAYS else "croco"
    runner = {"kind": "ServiceAccount", "name": "croco-runner", "namespace": namespace}
    bindings = of_kind(name, "RoleBinding", "ClusterRoleBinding")
    assert [binding["subjects"] for binding in bindings] == [[runner]] * len(bindings)
    assert {item["metadata"].get("namespace", namespace) for item in bindings} == {namespace}


def amount(quantity: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(m|[MGT]i)?", quantity).groups(default="")  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("profile", sorted(profiles.PROFILES))
def test_the_quota_has_room_for_every_task(name: str, profile: str) -> None:
    needs = profiles.PROFILES[profile].needs
    tasks = [one.pod for one in needs.values()]
    [hard] = [quota["spec"]["hard"] for quota in of_kind(name, "ResourceQuota")]
    if not needs["train"].job:  # the README says to raise it for such a profile
        assert int(hard[GPUS]) >= costs.at_once(profiles.PROFILES[profile], WORKERS)
    if name in OVERLAYS:
        assert hard.keys() == {GPUS}, "anything else would count Kubeflow's own pods"
        return
    share = [task for task in tasks if task.gpus == 1] or tasks
    assert amount(hard["requests.cpu"]) >= AT_ONCE * max(amount(task.cpu) for task in share)
    assert amount(hard["requests.memory"]) >= AT_ONCE * max(amount(task.memory) for task in share)


@pytest.mark.parametrize("name", BUILT)
def test_limits_never_contradict_what_a_task_asks_for(name: str) -> None:
    [rule] = [rule for item in of_kind(name, "LimitRange") for rule in item["spec"]["limits"]]
    assert rule.keys() == {"type", "defaultRequest"}, "a default limit below a task's request has the task refused"
    assert rule["defaultRequest"].keys() == {"cpu", "memory", "ephemeral-storage"}


@pytest.mark.parametrize("name", BUILT)
def test_artifacts_go_where_the_launcher_has_credentials(name: str) -> None:
    [config] = [item["data"] for item in of_kind(name, "ConfigMap") if item["metadata"]["name"] == "kfp-launcher"]
    scheme, path = config["defaultPipelineRoot"].split("://")
    provider = yaml.safe_load(config["providers"])[scheme]["default"]
    assert scheme == {"gke": "gs", "eks": "s3"}.get(name.removesuffix("-profile"), "minio")
    if scheme != "minio":
        assert provider["credentials"] == {"fromEnv": True}
        return
    assert path == (
        "mlpipeline/v2/artifacts" if name in OVERLAYS else "mlpipeline/private-artifacts/croco/v2/artifacts"
    )
    assert provider["endpoint"] == "seaweedfs.kubeflow:9000" and provider["disableSSL"]
    keys = {"secretName": "mlpipeline-minio-artifact", "accessKeyKey": "accesskey", "secretKeyKey": "secretkey"}
    assert provider["credentials"] == {"fromEnv": False, "secretRef": keys}


def test_kubeflow_is_of_the_version_that_compiles() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    [version] = {pin.split("==")[1] for pin in project if pin.startswith("kfp")}
    for step in ("cluster", "pipelines"):
        [reference] = yaml.safe_load((MANIFESTS / "kubeflow" / step / "kustomization.yaml").read_text())["resources"]
        assert f"?ref={version}&" in reference


def test_kubeflow_s_namespace_takes_only_restricted_pods() -> None:
    [patch] = yaml.safe_load((MANIFESTS / "kubeflow/cluster/kustomization.yaml").read_text())["patches"]
    [change] = yaml.safe_load(patch["patch"])
    assert change == {"op": "add", "path": "/metadata/labels", "value": RESTRICTED}


def test_failed_tasks_are_tried_again_and_nothing_multiplies() -> None:
    config = yaml.safe_load((MANIFESTS / "kubeflow/pipelines/retries.yaml").read_text())
    defaults = yaml.safe_load(config["data"]["workflowDefaults"])["spec"]["templateDefaults"]
    assert defaults == {"retryStrategy": {"limit": "0", "retryPolicy": "Always"}}


@pytest.mark.parametrize("name", BUILT)
def test_runs_give_way_and_the_store_stays(name: str) -> None:
    patch = yaml.safe_load((MANIFESTS / "kubeflow/pipelines/priority.yaml").read_text())
    [variable] = patch["spec"]["template"]["spec"]["containers"][0]["env"]
    classes = {item["metadata"]["name"]: item["value"] for item in of_kind(name, "PriorityClass")}
    assert -10 <= classes[json.loads(variable["value"])["podPriorityClassName"]] < 0, "below -10 no node is added"
    for workload, pod in pods(name):
        assert workload != "croco-store" or classes[pod["priorityClassName"]] > 0
