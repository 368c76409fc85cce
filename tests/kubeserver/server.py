"""The stand-in's state and its HTTP server."""

import contextlib
import itertools
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubeserver.node import Node, now

TRAINJOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/croco/trainjobs"
CORE = "/api/v1/namespaces/croco/"
POD = {
    "serviceAccountName", "volumes", "initContainers", "containers", "imagePullSecrets", "securityContext",
    "nodeSelector", "affinity", "tolerations", "schedulingGates", "terminationGracePeriodSeconds",
}  # fmt: skip
FIELDS = {
    "spec": {"runtimeRef", "initializer", "trainer", "runtimePatches", "suspend", "activeDeadlineSeconds", "managedBy"},
    "trainer": {"image", "command", "args", "env", "numNodes", "resourcesPerNode", "numProcPerNode"},
    "container": {"name", "volumeMounts", "securityContext"},
}
"""What Trainer 2.2 takes; `env` of the container that trains only in `trainer`."""


class Refused(Exception):
    """An answer that is an error, with a Status as its body, or text."""

    def __init__(self, code: int, reason: str, message: str, name: str = "", text: bool = False) -> None:
        super().__init__(message)
        self.code, self.text = code, text
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": {"name": name, "group": "trainer.kubeflow.org", "kind": "trainjobs"} if name else {},
            "code": code,
        }


@dataclass
class Cluster:
    """What the stand-in holds, and how it is to behave."""

    folder: Path
    """For the homes of its nodes."""
    trainer: str | None = "2.2"
    """Version of Trainer; None has no CRD."""
    denied: set[str] = field(default_factory=set)
    """`verb resource` that the caller has no right to."""
    runtimes: tuple[str, ...] = ("torch-distributed",)
    quota: str = ""
    """Why no pod can be made."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Why containers are not started."""
    suspended: bool = False
    """Whether Kueue keeps TrainJobs waiting."""
    restarts: int = 0
    away: int = 0
    """Requests to answer with HTTP 503 first."""
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Those that are no node's."""
    trainjobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    """Every TrainJob that was created, as it was sent."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    port: int = 0

    def kubeconfig(self, path: Path) -> Path:
        """A file that leads here."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "croco"}}],
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "me", "user": {}}],
        }
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Any:
        """What a request is answered with: an object, or the text of a log."""
        if self.away:
            self.away -= 1
            raise Refused(503, "ServiceUnavailable", "apiserver is shutting down")
        if path.startswith(TRAINJOBS):
            if self.trainer is None:
                raise Refused(404, "", "404 page not found\n", text=True)
            name = path.removeprefix(TRAINJOBS).strip("/")
            verb = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]
            self.allow(verb, "trainjobs.trainer.kubeflow.org")
            return self.create(body, query) if verb == "create" else getattr(self, verb)(name, body)
        if match := re.fullmatch(f"{CORE}(pods|events)(?:/([^/]+)(/log)?)?", path):
            kind, name, log = match.groups()
            self.allow("get" if name else "list", "pods/log" if log else kind)
            return self.core(kind, name, bool(log), query)
        raise Refused(404, "", "404 page not found\n", text=True)

    def allow(self, verb: str, resource: str) -> None:
        if f"{verb} {resource.split('.')[0]}" in self.denied:
            who = 'User "system:serviceaccount:croco:croco-runner"'
            raise Refused(403, "Forbidden", f'{resource} is forbidden: {who} cannot {verb} resource "{resource}"')

    def create(self, body: dict[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        if name in self.trainjobs:
            raise Refused(409, "AlreadyExists", f'trainjobs.trainer.kubeflow.org "{name}" already exists', name)
        self.check(body, query)
        self.made.append(json.loads(json.dumps(body)))
        condition = {"type": "Suspended", "status": "True", "reason": "Suspended", "message": "TrainJob is suspended"}
        body["metadata"] |= {"uid": f"uid-{next(self.numbers)}", "creationTimestamp": now()}
        body["status"] = {"conditions": [condition] if self.suspended else []}
        self.trainjobs[name] = body
        if not self.suspended and not self.quota:
            self.start(body)
        return body

    def check(self, body: dict[str, Any], query: Mapping[str, str]) -> None:
        """What the API server and Trainer's webhook refuse."""
        assert query["fieldValidation"] == "Strict"  # else fields are dropped in silence
        spec = body["spec"]
        [patch] = spec["runtimePatches"]
        [job] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        pod = job["template"]["spec"]["template"]["spec"]
        strange = [name for name in spec if name not in FIELDS["spec"]]
        strange += [name for name in spec["trainer"] if name not in FIELDS["trainer"]] + [*(set(pod) - POD)]
        strange += [name for name in pod["containers"][0] if name not in FIELDS["container"]]
        if self.trainer == "2.1":
            strange.append("spec.runtimePatches")
        if strange:
            raise Refused(400, "BadRequest", f'strict decoding error: unknown field "{strange[0]}"')
        if (runtime := spec["runtimeRef"]["name"]) not in self.runtimes:
            missing = f'ClusterTrainingRuntime.trainer.kubeflow.org "{runtime}" not found'
            raise Refused(
                403,
                "Forbidden",
                'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: spec.RuntimeRef: '
                f"Invalid value: {missing}: specified clusterTrainingRuntime must be created before the TrainJob is "
                "created",
            )

    def start(self, body: dict[str, Any]) -> None:
        """Make the nodes, with what Trainer tells torchrun."""
        trainer, name = body["spec"]["trainer"], body["metadata"]["name"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        number = next(self.numbers)
        for index in range(trainer["numNodes"]):
            environment = {
                **{entry["name"]: value for entry in trainer["env"] if (value := self.value(entry)) is not None},
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(index),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
            }
            home = self.folder / f"{number}-{index}"
            node = Node(name, index, trainer["command"], environment, home, self.restarts, f"{number:05}", self.waiting)
            self.nodes.append(node)
            if not self.waiting:
                node.start()

    def value(self, entry: dict[str, Any]) -> str | None:
        if "value" in entry:
            return str(entry["value"])
        reference = entry["valueFrom"]["secretKeyRef"]
        found = self.secrets.get(reference["name"], {}).get(reference["key"])
        assert found is not None or reference["optional"]
        return found

    def resume(self, name: str) -> None:
        """Kueue has room for it now."""
        with self.lock:
            self.suspended = False
            self.trainjobs[name]["status"]["conditions"][0] |= {"status": "False", "reason": "Resumed"}
            self.start(self.trainjobs[name])

    def own(self, name: str) -> list[Node]:
        return [node for node in self.nodes if node.job == name and not node.gone]

    def end(self, name: str, kind: str, reason: str, message: str) -> None:
        conditions = self.trainjobs[name]["status"]["conditions"]
        conditions.append({"type": kind, "status": "True", "reason": reason, "message": message})

    def get(self, name: str, body: Any = None) -> dict[str, Any]:
        if name not in self.trainjobs:
            raise Refused(404, "NotFound", f'trainjobs.trainer.kubeflow.org "{name}" not found', name)
        found = self.trainjobs[name]
        phases = [node.phase for node in self.own(name)]
        ended = {condition["type"] for condition in found["status"]["conditions"]} & {"Complete", "Failed"}
        if "Failed" in phases and not ended:
            for node in self.own(name):
                node.kill()
            self.end(name, "Failed", "FailedJobs", "jobset failed due to one or more job failures")
        elif phases and set(phases) == {"Succeeded"} and not ended:
            self.end(name, "Complete", "AllJobsCompleted", "jobset completed successfully")
        return found

    def patch(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        found = self.get(name)
        assert set(body) == {"metadata"}
        found["metadata"] |= body["metadata"]
        return found

    def delete(self, name: str, body: Any = None) -> dict[str, Any]:
        """With its pods: it stays until they are gone."""
        found = self.get(name)
        found["metadata"]["deletionTimestamp"] = now()
        threading.Thread(target=self.gone, args=[name], daemon=True).start()
        return found

    def gone(self, name: str) -> None:
        for node in self.own(name):
            node.gone = True
            node.kill()
            if node.process:
                node.process.wait()
        with self.lock:
            self.trainjobs.pop(name, None)

    def core(self, kind: str, name: str | None, log: bool, query: Mapping[str, str]) -> Any:
        nodes = {node.name: node for node in self.nodes if not node.gone}
        if kind == "events":
            event = {
                "metadata": {"name": "event", "creationTimestamp": now()},
                "involvedObject": {"kind": "Job", "name": f"{next(iter(self.trainjobs), '')}-node-0"},
                "message": self.quota,
            }
            return {"items": [event] if self.quota else []}
        if name is None:
            job = query["labelSelector"].removeprefix("jobset.sigs.k8s.io/jobset-name=")
            return {"items": [node.pod() for node in nodes.values() if node.job == job]}
        if name in self.pods:
            return self.pods[name]
        if name not in nodes:
            raise Refused(404, "NotFound", f'pods "{name}" not found', name)
        if log and not nodes[name].logs:
            raise Refused(400, "BadRequest", 'container "node" is waiting to start: ContainerCreating')
        return nodes[name].log(query) if log else nodes[name].pod()


def handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            kind = "application/json"
            with cluster.lock:
                cluster.requests.append((self.command, url.path))
                try:
                    code, found = 200, cluster.answer(self.command, url.path, query, body)
                    kind = "text/plain" if isinstance(found, str) else kind
                except Refused as error:
                    code, found = error.code, str(error) if error.text else error.status
                text = (found if isinstance(found, str) else json.dumps(found)).encode()
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PATCH = do_DELETE = do_GET

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Cluster]:
    """A cluster that is gone after the block, with everything that runs in it."""
    cluster = Cluster(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(cluster)) as server:
        cluster.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield cluster
        finally:
            server.shutdown()
            for node in cluster.nodes:
                node.gone = True
                node.kill()
