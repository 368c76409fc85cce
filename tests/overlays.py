"""What manifests/ builds, and what Kubernetes would make of its network policies."""

import functools
import ipaddress
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
MANIFESTS = ROOT / "manifests"
README = (MANIFESTS / "README.md").read_text(encoding="utf-8")
TOOLS = ROOT / ".cache" / "lint" / "bin"
"""Of the environment that `make test` and `make test-fast` make from images/lint.lock."""
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
BUILT = OVERLAYS + [f"{name}-profile" for name in OVERLAYS]
"""Each overlay as it is, for a single-user Kubeflow, and in a profile of its own, with trainer and trackers besides."""
_SINGLE = "  - ../../components/single-user\n"
_FOLDER = tempfile.TemporaryDirectory(prefix="croco-manifests-")

PROFILE = {"app.kubernetes.io/part-of": "kubeflow-profile"}
"""What Kubeflow labels the namespace of a profile with."""

Object = dict[str, Any]
Labels = Mapping[str, str]


def tool(name: str, *arguments: object, where: Path = ROOT) -> str:
    """What a tool says. It must find nothing wrong."""
    assert (TOOLS / name).exists(), f"{TOOLS / name}: not found; `make .cache/lint/installed`"
    done = subprocess.run([TOOLS / name, *map(str, arguments)], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@functools.cache
def folder() -> Path:
    """Where each of BUILT is, and the example of serving, in a YAML file."""
    copy, built = (Path(_FOLDER.name) / name for name in ("manifests", "built"))
    shutil.copytree(MANIFESTS, copy)
    built.mkdir()
    (built / "serving.yaml").write_text(tool("kubectl", "kustomize", copy / "serving"))
    for name in OVERLAYS:
        path = copy / "overlays" / name / "kustomization.yaml"
        (built / f"{name}.yaml").write_text(tool("kubectl", "kustomize", path.parent))
        text = path.read_text()
        assert text.count(_SINGLE) == text.count("namespace: kubeflow\n") == 1
        assert text.rindex("  - ../../components/") == text.index(_SINGLE), "single-user changes what comes before it"
        text = text.replace(_SINGLE, "  - ../../components/trainer\n  - ../../components/trackers\n")
        path.write_text(text.replace("namespace: kubeflow\n", "namespace: croco\n"))
        (built / f"{name}-profile.yaml").write_text(tool("kubectl", "kustomize", path.parent))
    return built


@functools.cache
def objects(name: str) -> tuple[Object, ...]:
    """What one of BUILT, or `serving`, consists of."""
    return tuple(yaml.safe_load_all((folder() / f"{name}.yaml").read_text()))


def of_kind(name: str, *kinds: str) -> list[Object]:
    return [item for item in objects(name) if item["kind"] in kinds]


def pods(name: str) -> Iterator[tuple[str, Object]]:
    """The pods that we ship: workload, and what it makes."""
    for item in of_kind(name, "StatefulSet", "Deployment", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Pod"):
        assert item["kind"] in ("StatefulSet", "Job"), "a kind that has its pod elsewhere"
        yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of the README, without their code marks."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.replace("`", "").strip() for cell in row] for row in rows]


def selects(selector: Object | None, labels: Labels) -> bool:
    rules = (selector or {}).get("matchExpressions", [])
    assert all(rule["operator"] == "Exists" for rule in rules)
    wanted = (selector or {}).get("matchLabels", {})
    return wanted.items() <= labels.items() and all(rule["key"] in labels for rule in rules)


def reaches(policies: Sequence[Object], way: str, pod: Labels, peer: str | tuple[str, Labels], port: int) -> bool:
    """Whether a pod with these labels may talk `to` a peer, or be talked to `from` it, on a port.

    A peer is an address, or a pod: its namespace ("" is the policies' own, `team` a profile's) and its labels.
    """
    kind = {"to": "Egress", "from": "Ingress"}[way]
    mine = [item["spec"] for item in policies]
    mine = [spec for spec in mine if kind in spec["policyTypes"] and selects(spec["podSelector"], pod)]
    rules = [rule for spec in mine for rule in spec.get(kind.lower(), [])]
    open_rules = [rule for rule in rules if "ports" not in rule or port in [one["port"] for one in rule["ports"]]]
    return not mine or any(_is_peer(given, peer) for rule in open_rules for given in rule[way])


def _is_peer(given: Object, peer: str | tuple[str, Labels]) -> bool:
    if isinstance(peer, str):
        block = given.get("ipBlock", {"cidr": "255.255.255.255/32"})
        inside = [ipaddress.ip_address(peer) in ipaddress.ip_network(one) for one in block.get("except", [])]
        return ipaddress.ip_address(peer) in ipaddress.ip_network(block["cidr"]) and not any(inside)
    namespace, labels = peer
    if "ipBlock" in given or ("namespaceSelector" in given) != bool(namespace):
        return False
    space = {"kubernetes.io/metadata.name": namespace} | (PROFILE if namespace == "team" else {})
    return selects(given.get("namespaceSelector"), space) and selects(given.get("podSelector"), labels)


def numbers(text: str) -> set[int]:
    return set(map(int, re.findall(r"\d+", text)))
