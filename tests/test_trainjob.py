"""TrainJobs: what nodes are asked for, and how one is made, followed, adopted, made again, and removed."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kubeserver import Cluster, serving
from kubeserver.node import Node

from croco import follow, nodes, trainjob
from croco.nodes import Nodes

NAME = "croco-train-0123"
WANTED: dict[str, Any] = {
    "nodes": 2.0,  # as Kubeflow hands on numbers
    "gpus": 8.0,
    "gpu_type": "nvidia.com/gpu",
    "cpu": "32",
    "memory": "512Gi",
    "shared_memory": "16Gi",
    "disk": "200Gi",
    "image": "registry.example/croco-gpu@sha256:0123",
    "timeout": 3600.0,
    "retries": 1.0,
    "runtime": "torch-distributed",
    "node_selector": {"pool": "h100"},
    "tolerations": ["nvidia.com/gpu", "spot"],
    "queue": "gpus",
    "models": "croco-models",
    "store_secret": "croco-store",
    "hf_secret": "hf-token",
    "user": 2000.0,
}
CPU = {**WANTED, "gpus": 0, "queue": "", "models": ""}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster that this process, and those it starts, are in the pod `train-pod` of."""
    with serving(tmp_path / "nodes") as found:
        metadata = {"name": "train-pod", "uid": "uid-of-pod"}
        spec = {"serviceAccountName": "croco-runner", "imagePullSecrets": [{"name": "pull"}], "containers": []}
        found.pods["train-pod"] = {"metadata": metadata, "spec": spec}
        monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.setenv("KFP_POD_NAME", "train-pod")
        yield found


def python(code: str) -> list[str]:
    return ["python3", "-c", code]


def run(command: Sequence[str], finished: Callable[[], Any] = lambda: "done", **wanted: Any) -> Any:
    return trainjob.run(Nodes.of({**CPU, **wanted}), NAME, command, finished)


def test_a_trainjob_asks_for_what_the_profile_says() -> None:
    pod = nodes.Pod("train-pod", "uid", "croco-runner", ["pull"])
    found = nodes.manifest(Nodes.of(WANTED), NAME, ["python3", "-m", "croco.handoff"], pod)
    assert found["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert found["metadata"] == {
        "name": NAME,
        "labels": {"app.kubernetes.io/part-of": "croco", "kueue.x-k8s.io/queue-name": "gpus"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "train-pod", "uid": "uid"}],
    }
    assert found["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    assert found["spec"]["activeDeadlineSeconds"] == 3600
    assert found["spec"]["trainer"] == {
        "image": "registry.example/croco-gpu@sha256:0123",
        "command": ["python3", "-m", "croco.handoff"],
        "numNodes": 2,
        "numProcPerNode": 8,
        "resourcesPerNode": {
            "requests": {"cpu": "32", "memory": "512Gi", "ephemeral-storage": "200Gi"},
            "limits": {"memory": "512Gi", "nvidia.com/gpu": 8},
        },
        "env": [
            {"name": "HOME", "value": "/cache"},
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            {"name": "HF_HUB_CACHE", "value": "/models"},
            {
                "name": "HF_TOKEN",
                "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}},
            },
        ],
    }


def test_its_pods_may_run_where_pod_security_is_restricted_and_are_under_the_network_policies() -> None:
    [patch] = nodes.manifest(Nodes.of(WANTED), NAME, ["true"], None)["spec"]["runtimePatches"]
    [job] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = job["template"]["spec"]["template"]
    assert (job["name"], template["metadata"]["labels"]["app.kubernetes.io/part-of"]) == ("node", "croco")
    pod = template["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 2000,
        "runAsGroup": 0,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    [container] = pod["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert "env" not in container  # Trainer refuses it there
    assert pod["nodeSelector"] == {"pool": "h100"}
    assert [taint["key"] for taint in pod["tolerations"]] == ["nvidia.com/gpu", "spot"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {mounts[volume.pop("name")]: volume for volume in pod["volumes"]} == {
        "/cache": {"emptyDir": {"sizeLimit": "200Gi"}},
        "/etc/croco/store": {"secret": {"secretName": "croco-store", "optional": True}},
        "/dev/shm": {"emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        "/models": {"persistentVolumeClaim": {"claimName": "croco-models"}},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 0}, "found nodes 0; expected 1 or more"),
        ({"retries": -1}, "found retries -1; expected 0 or more"),
        ({"node": 2}, "found node missing or unknown; expected nodes, gpus"),
    ],
)
def test_what_is_no_profile_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Nodes.of({**WANTED, **change})


def test_it_is_followed_to_its_end_with_the_log_of_node_0_and_then_removed(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.secrets["hf-token"] = {"token": "the-token"}
    code = "import os, sys; print('node', os.environ['PET_NODE_RANK'], 'of', os.environ['PET_NNODES']); "
    code += r"sys.stdout.write('10 %\r20 %\r\x1b[1m30 %\n'); print(len(os.environ['HF_TOKEN']))"
    assert run(python(code)) == "done"
    said = capfd.readouterr().out.splitlines()
    assert f"train: TrainJob {NAME} is made" in said
    assert [line for line in said if line.startswith("node ")] == [
        "node 0 | node 0 of 2",
        "node 0 | [1m30 %",
        "node 0 | 9",
    ]
    [made] = cluster.made
    assert made["metadata"]["ownerReferences"][0]["uid"] == "uid-of-pod"
    [patch] = made["spec"]["runtimePatches"]
    [job] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["imagePullSecrets"]) == ("croco-runner", [{"name": "pull"}])
    assert "the-token" not in json.dumps(cluster.made)
    assert ("DELETE", f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/croco/trainjobs/{NAME}") in cluster.requests


def test_one_that_fails_is_made_again_and_what_failed_is_said(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = f"""
import os, pathlib, sys, time
second = pathlib.Path({str(tmp_path / "second")!r})
if os.environ['PET_NODE_RANK'] == '1' and not second.exists():
    second.touch()
    sys.exit('no such weights')
time.sleep(0 if second.exists() else 60)
"""
    assert run(python(code)) == "done"
    assert len(cluster.made) == 2
    said = capfd.readouterr().out
    assert f"node 1 (pod {NAME}-node-0-1-" in said
    assert "failed: exit code 1 (Error)\n  no such weights\n" in said
    assert f"train: TrainJob {NAME} failed: FailedJobs: jobset failed" in said
    assert "no such weights; it is made again, from the last checkpoint; 0 times are left" in said


def test_of_two_that_fail_within_one_second_the_one_that_was_not_killed_is_the_cause(cluster: Cluster) -> None:
    for index, code in enumerate([137, 1]):
        node = Node(NAME, index, [], {}, cluster.folder, 0, "00001", {}, logs=[[]])
        node.ended = [{"exitCode": code, "reason": "Error", "startedAt": node.created, "finishedAt": node.created}]
        cluster.nodes.append(node)
    job = trainjob.TrainJob(trainjob._cluster(), NAME)
    faults = follow.Faults(job)
    assert [fault[:6] for fault in faults.new(job.pods())] == ["node 1", "node 0"]
    assert "exit code 1 (Error)" in faults.cause


def test_one_that_fails_as_often_as_it_may_ends_in_the_first_failures_words(cluster: Cluster) -> None:
    code = "import os, sys, time; node = os.environ['PET_NODE_RANK']; time.sleep(int(node)); sys.exit('as ' + node)"
    with pytest.raises(RuntimeError, match=r"node 0 \(pod .*exit code 1 \(Error\); its log ends: as 0") as failed:
        run(python(code), retries=0)
    assert "\n" not in str(failed.value)
    assert NAME in cluster.trainjobs  # to be looked at; its pod owns it, and the next attempt removes it


def test_what_python_says_is_found_in_what_torchrun_says_after_it(cluster: Cluster) -> None:
    code = "print('ValueError: train: found loss nan at step 3'); print('  raise ChildFailedError('); "
    code += "print('torch.distributed.elastic.multiprocessing.errors.ChildFailedError: x'); raise SystemExit('=====')"
    with pytest.raises(RuntimeError, match="its log says: ValueError: train: found loss nan at step 3; what it had"):
        run(python(code), retries=0)


def test_a_container_that_kubernetes_starts_again_is_told_and_the_job_goes_on(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.restarts = 1
    code = f"""
import os, pathlib, sys, time
once = pathlib.Path({str(tmp_path)!r}, os.environ['PET_NODE_RANK'])
if not once.exists():
    once.touch()
    sys.exit('lost the others')
print('here again')
time.sleep(3)
"""
    assert run(python(code)) == "done"
    assert len(cluster.made) == 1
    said = capfd.readouterr().out
    assert said.count("failed: exit code 1 (Error)\n  lost the others\n") == 2 and "node 0 | here again" in said


def test_one_that_completes_without_a_result_is_made_again(cluster: Cluster) -> None:
    results = iter([None, "done"])
    assert run(python(""), lambda: next(results)) == "done"
    assert len(cluster.made) == 2


def in_a_process(command: Sequence[str], **wanted: Any) -> "subprocess.Popen[str]":
    """`run` in another process."""
    code = "import json, sys; from croco import trainjob; from croco.nodes import Nodes; "
    code += "w, *rest = json.loads(sys.argv[1]); print(trainjob.run(Nodes.of(w), *rest, lambda: 'done'))"
    arguments = json.dumps([{**CPU, **wanted}, NAME, list(command)])
    return subprocess.Popen(
        [sys.executable, "-c", code, arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_one_that_runs_is_adopted_by_the_next_attempt_of_its_task(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    go = tmp_path / "go"
    waits = python(f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(.1)\nprint('went')")
    first = in_a_process(waits)
    until(lambda: cluster.nodes)
    first.kill()  # its node is lost: it removes nothing
    first.wait()
    cluster.pods["train-pod"]["metadata"]["uid"] = "uid-of-next"
    followed = threading.Timer(3, go.touch)
    followed.start()
    assert run(waits) == "done"
    assert len(cluster.made) == 1
    said = capfd.readouterr().out
    assert f"train: TrainJob {NAME} runs already and is followed" in said and "node 0 | went" in said


def test_an_adopted_one_has_both_pods_as_owners_and_goes_with_the_last(cluster: Cluster) -> None:
    cluster.suspended = True
    first = in_a_process(python(""))
    until(lambda: cluster.trainjobs)
    first.kill()
    first.wait()
    cluster.pods["train-pod"]["metadata"]["uid"] = "uid-of-next"
    threading.Timer(3, cluster.resume, [NAME]).start()
    owners: list[str] = []

    def finished() -> str:
        owners.extend(owner["uid"] for owner in cluster.trainjobs[NAME]["metadata"]["ownerReferences"])
        return "done"

    assert run(python(""), finished) == "done"
    assert owners == ["uid-of-pod", "uid-of-next"]


def test_a_cancelled_run_removes_its_trainjob_and_so_its_nodes(cluster: Cluster) -> None:
    process = in_a_process(python("import time; print('up'); time.sleep(600)"))
    until(lambda: cluster.nodes and all(node.logs for node in cluster.nodes))
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.endswith(f"train: cancelled; TrainJob {NAME} is removed\n")
    until(lambda: not cluster.trainjobs)
    assert all(node.process and node.process.poll() is not None for node in cluster.nodes)


def test_one_that_failed_before_is_removed_with_its_pods_before_another_is_made(cluster: Cluster) -> None:
    with pytest.raises(RuntimeError):
        run(python("raise SystemExit(1)"), retries=0)
    assert run(python(""), retries=0) == "done"
    verbs = [verb for verb, path in cluster.requests if path.endswith(("trainjobs", NAME))]
    assert [verb for verb in verbs if verb != "GET"] == ["POST", "DELETE", "POST", "DELETE"]


def test_one_that_someone_removes_is_made_again(cluster: Cluster) -> None:
    process = in_a_process(python("import time; time.sleep(3)"))
    until(lambda: cluster.nodes)
    with cluster.lock:
        cluster.delete(NAME)
    said, _ = process.communicate(timeout=30)
    assert f"found TrainJob {NAME} removed by someone else; it is made again" in said
    assert (process.returncode, len(cluster.made)) == (0, 2)


def test_one_that_kueue_holds_back_is_waited_for(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    cluster.suspended = True
    threading.Timer(2, cluster.resume, [NAME]).start()
    assert run(python(""), queue="gpus") == "done"
    assert f"TrainJob {NAME} is suspended until Kueue has room in queue gpus (0 min)" in capfd.readouterr().out


def test_an_api_that_is_away_for_a_while_is_waited_for(cluster: Cluster) -> None:
    process = in_a_process(python("import time; time.sleep(2)"))
    until(lambda: cluster.nodes)
    cluster.away = 2
    said, _ = process.communicate(timeout=30)
    assert said.endswith("done\n")


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"trainer": None}, ValueError, r"found no trainer.kubeflow.org/v1alpha1 in this cluster; expected Trainer 2.2"),
    ({"trainer": "2.1"}, ValueError, r"found one that refuses .*runtimePatches.*; expected Trainer 2.2 or newer"),
    ({"runtimes": ()}, ValueError, 'found .*"torch-distributed" not found.*; expected that runtime; install it'),
    (
        {"denied": {"create trainjobs"}},
        PermissionError,
        r"create trainjobs: not allowed \(HTTP 403: .*croco-runner.*\); expected the Role of manifests/comp",
    ),
    ({"denied": {"list pods"}}, PermissionError, "list pods: not allowed"),
    ({"denied": {"get pods/log"}}, PermissionError, "get pods/log: not allowed"),
]


@pytest.mark.parametrize(("behaviour", "kind", "message"), REFUSALS)
def test_what_the_cluster_refuses_is_one_line_with_its_remedy(
    cluster: Cluster, behaviour: dict[str, Any], kind: type[Exception], message: str
) -> None:
    for name, value in behaviour.items():
        setattr(cluster, name, value)
    with pytest.raises(kind, match=message):
        run(python("import time; time.sleep(60)"))
    until(lambda: not cluster.trainjobs)  # what nobody follows holds no GPU


def test_a_node_that_kubernetes_ended_is_said_with_the_remedy(cluster: Cluster) -> None:
    process = in_a_process(python("import time; time.sleep(600)"), retries=0)
    until(lambda: len(cluster.nodes) == 2 and all(node.process for node in cluster.nodes))
    cluster.nodes[1].reason = "OOMKilled"
    cluster.nodes[1].kill()
    _, error = process.communicate(timeout=30)
    assert f"node 1 (pod {cluster.nodes[1].name}) failed: exit code 137 (OOMKilled); its memory is too little" in error


def test_time_that_is_over_is_final(cluster: Cluster) -> None:
    process_of = threading.Timer(2, cluster.end, [NAME, "Failed", "DeadlineExceeded", "Job was active longer"])
    process_of.start()
    with pytest.raises(RuntimeError, match=r"failed: DeadlineExceeded: Job was active longer; its time is too little"):
        run(python("import time; time.sleep(600)"))
    assert len(cluster.made) == 1


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ({"quota": "pods is forbidden: exceeded quota"}, "has no pod yet; pods is forbidden: exceeded quota"),
        (
            {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
            "has 0 of 2 nodes; .* waits: ErrImagePull not found",
        ),
    ],
)
def test_why_nodes_do_not_start_is_said(
    cluster: Cluster, behaviour: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in behaviour.items():
        setattr(cluster, name, value)
    threading.Timer(2, cluster.end, [NAME, "Failed", "DeadlineExceeded", "too long"]).start()
    with pytest.raises(RuntimeError):
        run(python(""))
    assert re.search(message, capfd.readouterr().out)


def test_without_a_cluster_nothing_is_handed_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(ValueError, match="found neither a pod around this process nor KUBECONFIG"):
        run(python(""))


def test_a_line_is_what_a_terminal_would_show() -> None:
    assert follow.line("a\n  b" + "c" * 600, most=10) == "a bccccccc ..."
