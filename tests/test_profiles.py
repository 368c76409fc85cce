"""Profiles: each task of the compiled package asks for what the table says, and no profile can ask for nonsense."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packages import TASKS, Package, compiled, read, tasks_of, text_for

from croco import connection, endpoint
from croco.dataset import Spent
from croco.nodes import Nodes
from croco.page import ledger
from pipelines import __main__ as command
from pipelines import costs
from pipelines.placement import JUDGE_FOLDER, STORE_FOLDER, Cluster
from pipelines.profiles import PROFILES, Job, Needs, Pod

PLAIN = Pod("1", "4Gi", "10Gi")
SPOT = [
    ("cloud.google.com/gke-spot", "true"), ("karpenter.sh/capacity-type", "spot"),
    ("eks.amazonaws.com/capacityType", "SPOT"), ("kubernetes.azure.com/scalesetpriority", "spot"),
]  # fmt: skip


def resources(pod: Pod) -> dict[str, Any]:
    """What the pipeline's own document says of a container, in the old fields and in the new."""
    gigabytes, number = int(pod.memory.removesuffix("Gi")) * 2**30 / 1e9, str(pod.gpus)
    gpu = {"count": number, "resourceCount": number, "type": "nvidia.com/gpu", "resourceType": "nvidia.com/gpu"}
    return {
        "cpuRequest": float(pod.cpu),
        "resourceCpuRequest": pod.cpu,
        "memoryRequest": gigabytes,
        "resourceMemoryRequest": pod.memory,
        "memoryLimit": gigabytes,
        "resourceMemoryLimit": pod.memory,
        **({"accelerator": gpu} if pod.gpus else {}),
    }


def volumes(pod: Pod) -> list[dict[str, Any]]:
    cache = {"mountPath": "/cache", "volumeName": "cache", "sizeLimit": pod.disk}
    shared = {
        "mountPath": "/dev/shm",
        "volumeName": "shared-memory",
        "medium": "Memory",
        "sizeLimit": pod.shared_memory,
    }
    return [cache, shared] if pod.shared_memory else [cache]


def secret(name: str, **where: Any) -> list[dict[str, Any]]:
    return [
        {"secretName": name, "secretNameParameter": {"runtimeValue": {"constant": name}}, "optional": True, **where}
    ]


def kubernetes(profile: str, stage: str, store: bool) -> dict[str, Any]:
    """What the Kubernetes part says of an executor: all of it."""
    needs = PROFILES[profile].needs[stage]
    stays = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    long = needs.pod.gpus or (profile, stage) == ("nodes-2x8x80gb", "train")
    metadata = {"annotations": stays} if long and profile != "spot" else {}
    taints = ["nvidia.com/gpu"]
    if profile == "spot":
        taints += ["kubernetes.azure.com/scalesetpriority", "cloud.google.com/gke-spot"]
    wanted = {
        "activeDeadlineSeconds": str(3600 * needs.hours),
        "securityContext": {"runAsUser": "2000", "runAsGroup": "0", "runAsNonRoot": True},
        "podMetadata": {"labels": {"app.kubernetes.io/part-of": "croco"}, **metadata},
        "emptyDirMounts": volumes(needs.pod),
    }
    if needs.hub:
        wanted["secretAsEnv"] = secret("hf-token", keyToEnv=[{"secretKey": "token", "envVar": "HF_TOKEN"}])
    if store:
        wanted["secretAsVolume"] = secret("croco-store", mountPath="/etc/croco/store")
    if stage == "arena":
        wanted["secretAsVolume"] += secret("judge-key", mountPath="/etc/croco/judge")
    if needs.pod.gpus:
        wanted["tolerations"] = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in taints]
    if needs.pod.gpus and profile == "spot":
        wanted["nodeAffinity"] = [
            {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}], "weight": 100}
            for key, value in SPOT
        ]
    return wanted


@pytest.mark.parametrize("profile", PROFILES)
def test_a_task_gets_what_the_profile_says_and_nothing_else(profile: str) -> None:
    spec, asked = read(text_for(profile))
    tasks = tasks_of(spec)
    assert set(asked) == {f"exec-{task}" for task in TASKS} == set(spec["deploymentSpec"]["executors"])
    for task, stage in TASKS.items():
        needs = PROFILES[profile].needs[stage]
        known = spec["components"][f"comp-{task}"]["inputDefinitions"].get("parameters", {})
        container = spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
        assert container["resources"] == resources(needs.pod), task
        assert asked[f"exec-{task}"] == kubernetes(profile, stage, store="store" in known), task
        assert tasks[task]["taskInfo"] == {"name": needs.title}
        assert tasks[task]["retryPolicy"] == {
            "maxRetryCount": needs.retries, "backoffDuration": "60s", "backoffFactor": 2, "backoffMaxDuration": "600s",
        }  # fmt: skip
        if "gpus" in known:
            told = tasks[task]["inputs"]["parameters"]["gpus"]["runtimeValue"]["constant"]
            assert told == str(needs.pod.gpus or 1), task


def test_secrets_are_mounted_where_they_are_read() -> None:
    assert Path(JUDGE_FOLDER) / "apikey" == endpoint.SECRET
    assert Path(STORE_FOLDER) == connection.SECRET


def test_the_profiles_differ_where_they_should() -> None:
    gpus = {name: {stage: needs.pod.gpus for stage, needs in p.needs.items()} for name, p in PROFILES.items()}
    used = {name: {stage: number for stage, number in by_stage.items() if number} for name, by_stage in gpus.items()}
    one = dict.fromkeys(
        ["translate", "sample", "score", "benchmark-base", "benchmark-tuned", "answer-base", "answer-tuned"], 1
    )
    assert used["gpu-80gb"] == used["spot"] == {**one, "arena": 2, "train": 1}
    assert used["node-8x80gb"] == {**one, "arena": 2, "train": 8}
    assert used["nodes-2x8x80gb"] == {**one, "arena": 2}
    assert used["toy"] == {}
    retries = {needs.retries for profile in PROFILES.values() for needs in profile.needs.values() if not needs.pod.gpus}
    assert retries == {2}
    assert {needs.retries for needs in PROFILES["spot"].needs.values() if needs.pod.gpus} == {10}


def test_a_task_may_wait_for_its_nodes_longer_than_they_may_work() -> None:
    handed = [needs for profile in PROFILES.values() for needs in profile.needs.values() if needs.job]
    assert handed and all(needs.hours > needs.job.hours for needs in handed if needs.job)


def test_gpu_tasks_go_to_the_nodes_asked_for() -> None:
    labels = {"cloud.example/gpu": "h100", "zone": "a"}
    spec, asked = compiled(
        profile="spot", gpu_type="amd.com/gpu", node_selector=labels, gpu_memory_label="nvidia.com/gpu.memory"
    )
    keys = ["amd.com/gpu", "kubernetes.azure.com/scalesetpriority", "cloud.google.com/gke-spot"]
    tolerations = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]
    # 0.92 of 80 GiB: an A100 says 81,251 to 81,920 and an H100 81,559, and what has 48 GB says no more than 49,140
    large = {"matchExpressions": [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["75366"]}]}
    for task, stage in TASKS.items():
        pod, container = asked[f"exec-{task}"], spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
        if PROFILES["spot"].needs[stage].pod.gpus:
            assert (pod["nodeSelector"], pod["tolerations"]) == ({"labels": labels}, tolerations)
            assert [term for term in pod["nodeAffinity"] if "weight" not in term] == [large]
            assert container["resources"]["accelerator"]["resourceType"] == "amd.com/gpu"
        else:
            assert not {"tolerations", "nodeSelector", "nodeAffinity"} & set(pod)


def test_every_task_waits_in_the_queue_asked_for() -> None:
    _, asked = compiled(queue="research")
    labels = {"app.kubernetes.io/part-of": "croco", "kueue.x-k8s.io/queue-name": "research"}
    assert [name for name, pod in asked.items() if pod["podMetadata"]["labels"] != labels] == []


def test_a_shared_volume_is_mounted_by_what_reads_from_the_hub() -> None:
    spec, asked = compiled(models="croco-models")
    for task, stage in TASKS.items():
        container = spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
        mounts = [(pvc["mountPath"], pvc["constant"]) for pvc in asked[f"exec-{task}"].get("pvcMount", [])]
        hub = PROFILES["gpu-80gb"].needs[stage].hub
        assert mounts == ([("/models", "croco-models")] if hub else [])
        assert container.get("env", []) == ([{"name": "HF_HUB_CACHE", "value": "/models"}] if hub else [])


def handed(package: Package) -> Any:
    return tasks_of(package[0])["train"]["inputs"]["parameters"]["trainjob"]["runtimeValue"]["constant"]


def test_training_on_several_nodes_is_handed_on_as_the_profile_says() -> None:
    where: dict[str, Any] = {"node_selector": {"zone": "a"}, "queue": "research", "models": "croco-models"}
    nodes = Nodes.of(handed(compiled(profile="nodes-2x8x80gb", images={"gpu": "r/gpu@sha256:1"}, **where)))
    assert nodes == Nodes(
        nodes=2, gpus=8, gpu_type="nvidia.com/gpu", cpu="32", memory="512Gi", shared_memory="16Gi", disk="200Gi",
        image="r/gpu@sha256:1", timeout=172_800, retries=0, runtime="torch-distributed", tolerations=["nvidia.com/gpu"],
        store_secret="croco-store", hf_secret="hf-token", user=2000, **where,
    )  # fmt: skip
    plain = Nodes.of(handed(read(text_for("nodes-2x8x80gb"))))
    assert not plain.queue and not plain.models
    assert {profile: bool(handed(read(text_for(profile)))) for profile in PROFILES} == {
        profile: profile == "nodes-2x8x80gb" for profile in PROFILES
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pod("0.5", "4Gi", "10Gi"), "cpu: found '0.5'; expected cores such as 8, or thousandths"),
        (lambda: Pod("1", "4 GB", "10Gi"), "memory: found '4 GB'; expected a whole number of Mi or Gi"),
        (lambda: Pod("1", "16", "10Gi"), "memory: found '16'; expected a whole number of Mi or Gi"),
        (lambda: Pod("1", "1.5Gi", "10Gi"), "memory: found '1.5Gi'; expected"),
        (lambda: Pod("1", "4Gi", "10GB"), "disk: found '10GB'; expected"),
        (lambda: Pod("1", "4Gi", "10Gi", shared_memory="a lot"), "shared_memory: found 'a lot'; expected"),
        (
            lambda: Pod("1", "4Gi", "10Gi", shared_memory="4096Mi"),
            "shared_memory: found 4096Mi; expected less than mem",
        ),
        (lambda: Pod("1", "4Gi", "10Gi", gpus=-1), "gpus: found -1; expected 0 or more"),
        (lambda: Needs("R\u00e9sum\u00e9", PLAIN), "title: found 'R.sum.'; expected ASCII"),
        (lambda: Needs("a", PLAIN, hours=0), "hours: found 0; expected a whole number from 1 on"),
        (lambda: Needs("a", PLAIN, hours=1.5), "hours: found 1.5; expected a whole number from 1 on"),  # type: ignore[arg-type]
        (lambda: Needs("a", PLAIN, retries=-1), "retries: found -1; expected a whole number from 0 on"),
        (lambda: Job(1, Pod("1", "4Gi", "10Gi", gpus=8), 1), "nodes: found 1 with 8 GPUs; expected 2 or more"),
        (lambda: Job(2, PLAIN, 1), "nodes: found 2 with 0 GPUs; expected 2 or more, each with some"),
    ],
)
def test_a_row_that_kubernetes_would_refuse_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"profile": "h100"}, "profile: found 'h100'; expected one of gpu-80gb, "),
        ({"profile": "toy", "node_selector": {"a": "b"}}, "node_selector: found .*; expected none: no GPU task"),
        ({"profile": "toy", "gpu_memory_label": "a/b"}, "gpu_memory_label: found 'a/b'; expected none: no GPU task"),
        ({"gpu_type": ""}, "gpu_type: found ''; expected a resource name such as nvidia.com/gpu"),
        ({"gpu_type": "NVIDIA_TESLA_K80"}, "gpu_type: found 'NVIDIA_TESLA_K80'; expected a resource name"),
        ({"images": {"croco-gpu": "x"}}, "images: found croco-gpu; expected cpu, gpu, euroeval"),
        ({"node_selector": {"a b": "c"}}, "node_selector: found 'a b'; expected a label's key"),
        ({"node_selector": {"a": "b c"}}, "node_selector: found a='b c'; expected a label's value"),
        ({"node_selector": {"a": "x" * 64}}, "node_selector: found a='x*'; expected a label's value"),
        ({"gpu_memory_label": "/memory"}, "gpu_memory_label: found '/memory'; expected a label's key"),
        ({"queue": "Research"}, "queue: found 'Research'; expected a name of lower-case letters"),
        ({"models": "croco.models"}, "models: found 'croco.models'; expected a name .*, with no dot in it"),
        ({"models": "croco-store"}, "models: found croco-store; expected another name: each task has a volume of that"),
        ({"models": "judge-key"}, "models: found judge-key; expected another name"),
        ({"models": "cache"}, "models: found cache; expected another name"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(cluster: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster(**cluster)


def test_a_ceiling_is_pods_times_gpus_times_hours_times_attempts() -> None:
    needs = PROFILES["gpu-80gb"].needs
    assert costs.at_most("sample", needs["sample"], 7) == 7 * 1 * 120 * 3
    assert costs.at_most("arena", needs["arena"], 7) == 1 * 2 * 24 * 3
    assert costs.at_most("pair", needs["pair"], 7) == 0
    handed = PROFILES["nodes-2x8x80gb"].needs["train"]
    assert costs.at_most("train", handed, 7) == 2 * 8 * 48 * 3


@pytest.mark.parametrize(
    ("profile", "workers", "gpus"),
    [
        ("gpu-80gb", 7, 7 + 2),
        ("gpu-80gb", 1, 2 + 2),
        ("node-8x80gb", 7, 8 + 2),
        ("nodes-2x8x80gb", 7, 16 + 2),
        ("toy", 7, 0),
    ],
)
def test_the_base_models_evaluations_run_beside_the_largest_stage(profile: str, workers: int, gpus: int) -> None:
    assert costs.at_once(PROFILES[profile], workers) == gpus


def test_a_profile_is_printed_with_what_it_can_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["profiles", "--profile", "node-8x80gb", "--workers", "2", "--price", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| sample | 2 | 1 | 8 | 96Gi | 16Gi | 150Gi | 120 | 2 | 720 |" in lines
    assert "| train | 1 | 8 | 32 | 512Gi | 16Gi | 200Gi | 48 | 2 | 1,152 |" in lines
    hours = 3 * (2 * (24 + 120 + 48) + 8 * 48 + 2 * 48 + 2 * 12 + 2 * 24)
    assert f"at most 10 GPUs at once and {hours:,} GPU hours, which cost {2 * hours:,}.00 at 2 an hour" in " ".join(
        lines
    )
    assert command.main(["profiles"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip(" `") for line in lines[2:]] == list(PROFILES)


def test_what_a_run_took_is_printed_of_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    rows = [("samples", "sample", 9000.0), ("pairs", "pair", 0.0), ("training", "train", 1800.0)]
    written: list[Any] = [
        (name, SimpleNamespace(stage=stage, contract=None, models={}, ledger=[Spent(None, gpu_seconds=seconds)]))
        for name, stage, seconds in rows
    ]
    report.write_text(json.dumps({"ledger": ledger.collect(written)}))
    assert command.main(["profiles", "--report", str(report), "--price", "4"]) == 0
    said = capsys.readouterr().out
    assert "| samples | sample | 2.50 |\n| pairs | pair | 0.00 |\n| training | train | 0.50 |\n" in said
    assert "took 3.00 GPU hours, which cost 12.00 at 4 an hour" in said
    assert command.main(["profiles", "--report", str(report)]) == 0
    assert "cost" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--profile", "h100"], "--profile: found 'h100'; expected one of gpu-80gb, "),
        (["--workers", "0"], "--workers: found 0; expected more than 0"),
        (["--price", "-1"], "--price: found -1.0; expected more than 0"),
        (["--price", "nan"], "--price: found nan; expected more than 0"),
        (["--report", "none.json"], "none.json: found no file; expected the report.json of a run"),
        (["--report", __file__], "found no ledger; expected the report.json that the stage report writes"),
    ],
)
def test_a_mistake_is_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["profiles", *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pipelines profiles: ") and message in line
