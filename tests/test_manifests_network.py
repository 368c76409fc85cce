"""Network policies: a run reaches what it needs, and nothing else; asked of the policies as Kubernetes reads them."""

import pytest
from overlays import BUILT, OVERLAYS, numbers, objects, of_kind, reaches, selects, table

RUN = {"pipelines.kubeflow.org/v2_component": "true"}
"""What Kubeflow 2.17 gives every pod of a run, and a driver has nothing else that is known before it runs."""
TASK = RUN | {"app.kubernetes.io/part-of": "croco"}
STORE = {"app.kubernetes.io/name": "croco-store"}
KUBEFLOW = [({"app": "ml-pipeline"}, 8887), ({"component": "metadata-grpc-server"}, 8080), ({"app": "seaweedfs"}, 8333)]
"""Labels and ports of the pods of Kubeflow 2.17.0 that a run talks to. The store's Service has port 9000."""
REGISTRY = {"component": "model-registry-server"}
"""Of the pods behind `model-registry-service`, in the Model Registry's own manifests, 0.2 and 0.3."""
DATABASE = ("kubeflow", {"app": "mysql"})
API = [("10.96.0.1", 443), ("172.18.0.2", 6443), ("192.168.49.2", 6443), ("100.64.0.1", 443)]
PUBLIC = "18.0.0.1"


def kind_of(name: str) -> str:
    return name.removesuffix("-profile")


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("pod", [TASK, RUN], ids=["task", "driver"])
def test_a_run_reaches_what_it_needs(name: str, pod: dict[str, str]) -> None:
    policies = of_kind(name, "NetworkPolicy")
    for labels, port in KUBEFLOW:
        assert reaches(policies, "to", pod, ("kubeflow", labels), port)
    for address, port in API:
        assert reaches(policies, "to", pod, address, port)
    assert reaches(policies, "to", pod, ("kube-system", {"k8s-app": "kube-dns"}), 53)
    assert reaches(policies, "to", pod, "169.254.20.10", 53), "NodeLocal DNSCache"
    assert reaches(policies, "to", pod, "172.20.0.10", 53), "EKS in Auto Mode, where DNS is no pod"
    if kind_of(name) == "gke":
        assert reaches(policies, "to", pod, "169.254.169.254", 80), "with Dataplane V2"
        assert reaches(policies, "to", pod, "169.254.169.252", 988), "without"
    if kind_of(name) == "eks":
        assert reaches(policies, "to", pod, "169.254.170.23", 80)
    if kind_of(name) in ("gke", "eks") or pod is TASK:
        assert reaches(policies, "to", pod, PUBLIC, 443)


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("pod", [TASK, RUN], ids=["task", "driver"])
def test_a_run_reaches_nothing_else(name: str, pod: dict[str, str]) -> None:
    policies = of_kind(name, "NetworkPolicy")
    if pod is RUN and name in OVERLAYS:
        assert not [item for item in policies if selects(item["spec"]["podSelector"], pod)], "other pipelines' pods too"
        return
    for labels, port in KUBEFLOW:
        assert not reaches(policies, "to", pod, ("elsewhere", labels), port)
        assert not reaches(policies, "to", pod, ("kubeflow", labels), port + 1)
    assert not reaches(policies, "to", pod, DATABASE, 3306)
    assert not reaches(policies, "to", pod, "10.96.0.1", 80)
    assert not any(reaches(policies, "to", pod, PUBLIC, port) for port in (53, 80))
    assert not reaches(policies, "to", pod, "169.254.169.254", 443)
    assert kind_of(name) == "gke" or not reaches(policies, "to", pod, "169.254.169.254", 80), "the node's identity"
    assert kind_of(name) in ("gke", "eks") or pod is TASK or not reaches(policies, "to", pod, PUBLIC, 443)
    for port in (80, 8080, 8333):
        assert not reaches(policies, "from", pod, ("", TASK), port)
        assert not reaches(policies, "from", pod, ("kubeflow", {"app": "ml-pipeline"}), port)


@pytest.mark.parametrize("name", [name for name in BUILT if of_kind(name, "StatefulSet")])
def test_only_tasks_reach_the_store_and_it_reaches_nobody(name: str) -> None:
    policies = of_kind(name, "NetworkPolicy")
    for way, pod, peer in (("to", TASK, STORE), ("from", STORE, TASK)):
        assert reaches(policies, way, pod, ("", peer), 8333)
        assert not reaches(policies, way, pod, ("", peer), 8888), "the filer, which asks for no password"
    assert not reaches(policies, "from", STORE, ("", RUN), 8333)
    assert not reaches(policies, "from", STORE, ("kubeflow", TASK), 8333)
    assert not reaches(policies, "to", STORE, PUBLIC, 443)


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubeflow_s_own_pods_are_left_alone(name: str) -> None:
    policies = of_kind(name, "NetworkPolicy")
    for labels, port in [*KUBEFLOW, ({"app": "mysql"}, 3306)]:
        assert reaches(policies, "to", labels, DATABASE, 3306)
        assert reaches(policies, "from", labels, ("", TASK), port)


@pytest.mark.parametrize("name", [name for name in BUILT if name not in OVERLAYS])
def test_what_is_no_run_reaches_nothing_in_a_profile_s_namespace(name: str) -> None:
    policies = of_kind(name, "NetworkPolicy")
    assert not reaches(policies, "to", {"app": "notebook"}, PUBLIC, 443)
    assert not reaches(policies, "from", {"app": "notebook"}, ("", TASK), 8888)


@pytest.mark.parametrize("name", [name for name in BUILT if name not in OVERLAYS])
def test_nodes_of_a_training_talk_to_each_other(name: str) -> None:
    policies = of_kind(name, "NetworkPolicy")
    node = {"jobset.sigs.k8s.io/jobset-name": "croco-train"}
    for way in ("to", "from"):
        assert reaches(policies, way, node, ("", node), 29500) and reaches(policies, way, node, ("", node), 41234)
        assert not reaches(policies, way, node, ("", {"app": "notebook"}), 29500)
    assert reaches(policies, "to", node, ("kube-system", {}), 53)
    assert reaches(policies, "to", node | TASK, PUBLIC, 443) and not reaches(policies, "to", node, PUBLIC, 443)


@pytest.mark.parametrize("name", BUILT)
def test_only_with_the_trackers_component_tasks_reach_a_registry_and_mlflow(name: str) -> None:
    policies = of_kind(name, "NetworkPolicy")
    opened = name not in OVERLAYS
    mlflow = ("CHANGE-ME-MLFLOW-NAMESPACE", {"app": "any"})
    for space in ("kubeflow", "team"):
        assert reaches(policies, "to", TASK, (space, REGISTRY), 8080) == opened
        assert not reaches(policies, "to", TASK, (space, REGISTRY), 9090), "its datastore"
        assert not reaches(policies, "to", TASK, (space, {"app": "notebook"}), 8080)
    assert not reaches(policies, "to", TASK, ("elsewhere", REGISTRY), 8080)
    assert reaches(policies, "to", TASK, mlflow, 5000) == opened and not reaches(policies, "to", TASK, mlflow, 5001)
    assert not reaches(policies, "to", TASK, ("elsewhere", {"app": "any"}), 5000)
    if opened:
        assert not reaches(policies, "to", RUN, ("kubeflow", REGISTRY), 8080), "drivers run Kubeflow's code"
        assert not reaches(policies, "to", RUN, mlflow, 5000)


def test_policies_and_ports_are_those_of_the_readme() -> None:
    documented = {row[0]: numbers(row[3]) for row in table("What a run may reach")}
    found: dict[str, set[int]] = {}
    for name in BUILT:
        for policy in (item for item in objects(name) if item["kind"] == "NetworkPolicy"):
            ports = {one["port"] for rule in policy["spec"].get("egress", []) for one in rule.get("ports", [])}
            found.setdefault(policy["metadata"]["name"], set()).update(ports)
    assert found.pop("deny-all") == found.pop("croco-store") == set()
    assert found == documented
