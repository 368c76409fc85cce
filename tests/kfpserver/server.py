"""The stand-in's state and its HTTP server."""

import contextlib
import email
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/apis/v2beta1/"
FIELDS = {
    "pipelines": {"display_name", "name", "description", "namespace", "tags"},
    "experiments": {"display_name", "description", "namespace"},
    "runs": {
        "experiment_id", "display_name", "description", "pipeline_spec", "pipeline_version_reference",
        "runtime_config", "service_account",
    },
    "recurringruns": {
        "experiment_id", "display_name", "description", "pipeline_spec", "pipeline_version_reference",
        "runtime_config", "service_account", "mode", "trigger", "no_catchup", "max_concurrency",
    },
}  # fmt: skip
"""What may be sent."""
IDS = dict(zip(FIELDS, ["pipeline_id", "experiment_id", "run_id", "recurring_run_id"], strict=True))
STATUS = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13}
"""HTTP status -> google.rpc code."""


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Kubeflow:
    """What the stand-in holds, and how it is to behave."""

    multi_user: bool = False
    token: str | None = None
    """The bearer token that it demands."""
    cookie: str | None = None
    """The gateway's cookie that it demands."""
    login: bool = False
    """Whether a gateway shows its page instead of every answer."""
    away: int = 0
    """Requests to answer with HTTP 503 first."""
    timeline: list[dict[str, Any]] = field(default_factory=list)
    """What a run says of itself, look by look; the last of it stays."""
    kubernetes: dict[str, Any] = field(default_factory=dict)
    """Path below /api/v1 -> the object there, or the status of an error."""
    lists: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in FIELDS})
    versions: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    port: int = 0

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sent(self, method: str) -> list[str]:
        """Paths of the requests of one method."""
        return [path for made, path in self.requests if made == method]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """What a request below API is answered with."""
        kind, *rest = re.split("[/:]", path)
        if path == "healthz":
            return {"multi_user": self.multi_user, "pipeline_store": "database"}
        if path == "pipelines/upload_version":
            return self.upload(query, body)
        if kind == "pipelines" and rest[1:] and rest[1] == "versions":
            return self.version_of(rest[0], rest[2] if rest[2:] else None, query)
        if kind not in FIELDS:
            raise Refused(404, f"Not Found: {path}")
        if not rest:
            return self.create(kind, body) if method == "POST" else self.listed(kind, query)
        return self.one(method, kind, *rest)

    def create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        if strange := set(body) - FIELDS[kind]:
            raise Refused(400, f'proto: unknown field "{min(strange)}"')
        names = [entry["display_name"] for entry in self.lists[kind]]
        if kind in ("pipelines", "experiments") and body["display_name"] in names:
            raise Refused(409, f"Already exist error: The name {body['display_name']} already exists")
        if kind in ("runs", "recurringruns"):
            self.check_reference(body)
        if kind == "recurringruns":
            cron = body["trigger"]["cron_schedule"]["cron"]
            if len(cron.split()) not in (5, 6):
                raise Refused(400, "Schedule cron is not supported")
            body = {**body, "status": {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[body["mode"]]}
        number = next(self.numbers)
        made = {**body, IDS[kind]: f"{kind}-{number}", "created_at": f"2026-11-21T00:00:{number:02}Z"}
        if kind in ("runs", "recurringruns"):
            made.setdefault("service_account", "pipeline-runner")
        self.lists[kind].append(made)
        return made

    def check_reference(self, body: dict[str, Any]) -> None:
        wanted = body.get("pipeline_version_reference", {}).get("pipeline_version_id")
        if wanted not in [version["pipeline_version_id"] for version in self.versions]:
            raise Refused(404, f"PipelineVersion {wanted} not found")

    def listed(self, kind: str, query: dict[str, str]) -> dict[str, Any]:
        if self.multi_user and kind != "pipelines" and not ({"namespace", "experiment_id"} & set(query)):
            raise Refused(400, "Invalid input error: A namespace is needed in multi-user mode")
        found = list(self.lists[kind])
        for name in ("experiment_id", "namespace"):
            if name in query and name in FIELDS[kind]:
                found = [entry for entry in found if entry.get(name, query[name]) == query[name]]
        for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
            assert predicate["operation"] == "EQUALS"
            value = predicate["string_value"].lower()  # MySQL's comparison
            found = [entry for entry in found if entry[predicate["key"]].lower() == value]
        if query.get("sort_by") == "created_at desc":
            found.reverse()
        return page("recurringRuns" if kind == "recurringruns" else kind, found, query)

    def one(self, method: str, kind: str, name: str, verb: str = "") -> dict[str, Any]:
        found = next((entry for entry in self.lists[kind] if entry[IDS[kind]] == name), None)
        if found is None:
            raise Refused(404, f"ResourceNotFoundError: {kind} {name} not found")
        if method == "DELETE":
            self.lists[kind].remove(found)
            return {}
        if verb:
            found["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
            return {}
        if kind == "runs" and self.timeline:
            return {**found, **(self.timeline.pop(0) if self.timeline[1:] else self.timeline[0])}
        return found

    def version_of(self, pipeline: str, version: str | None, query: dict[str, str]) -> dict[str, Any]:
        known = [entry for entry in self.versions if entry["pipeline_id"] == pipeline]
        if version is None:
            return page("pipeline_versions", known, query)
        found = next((entry for entry in known if entry["pipeline_version_id"] == version), None)
        if found is None:
            raise Refused(404, f"ResourceNotFoundError: PipelineVersion {version} not found")
        return found

    def upload(self, query: dict[str, str], content: bytes) -> dict[str, Any]:
        if query.get("pipelineid") not in [entry["pipeline_id"] for entry in self.lists["pipelines"]]:
            raise Refused(400, "Please specify a pipeline id when creating versions.")
        known = [entry["display_name"] for entry in self.versions if entry["pipeline_id"] == query["pipelineid"]]
        if query["name"] in known:
            raise Refused(409, f"Already exist error: The name {query['name']} already exists")
        assert b"pipelineInfo" in content
        made = {
            "pipeline_id": query["pipelineid"],
            "pipeline_version_id": f"version-{next(self.numbers)}",
            "display_name": query["name"],
            "description": query.get("description", ""),
        }
        self.versions.append(made)
        return made


def page(field: str, found: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
    more = str(start + size) if start + size < len(found) else ""
    return {field: found[start : start + size], "total_size": len(found), "next_page_token": more}


def sparse(value: Any) -> Any:
    """As protobuf's JSON: what has no value is left out. Parameters of a run are left as they are."""
    if isinstance(value, dict):
        kept = {name: part if name == "parameters" else sparse(part) for name, part in value.items()}
        return {name: part for name, part in kept.items() if part not in (None, False, "", 0, [])}
    return [sparse(part) for part in value] if isinstance(value, list) else value


class Handler(BaseHTTPRequestHandler):
    """Takes requests for `state`."""

    state: Kubeflow
    protocol_version = "HTTP/1.1"

    def do(self) -> None:
        url = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.requests.append((self.command, url.path))
        if self.state.login:
            return self.send(200, b"<html>Log in</html>", "text/html")
        if self.state.away > 0:
            self.state.away -= 1
            return self.send(503, b"upstream connect error", "text/plain")
        try:
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            answer = self.route(url.path, query, content)
        except Refused as error:
            status = {"code": STATUS[error.status], "message": str(error), "details": []}
            return self.send(error.status, json.dumps(status).encode())
        return self.send(200, json.dumps(answer).encode())

    do_GET = do_POST = do_DELETE = do

    def route(self, path: str, query: dict[str, str], content: bytes) -> Any:
        state = self.state
        if state.token and self.headers.get("authorization") != f"Bearer {state.token}":
            raise Refused(401, "Unauthenticated: the token has expired")
        if state.cookie and self.headers.get("Cookie") != state.cookie:
            raise Refused(401, "Unauthenticated: log in")
        if path.startswith("/api/v1/"):
            found = state.kubernetes.get(path.removeprefix("/api/v1/"), 404)
            if isinstance(found, int):
                raise Refused(found, "nodes is forbidden")
            return found
        if not path.startswith(API):
            raise Refused(404, "Not Found")
        form = self.headers.get("Content-Type", "").startswith("multipart/")
        body = self.uploaded(content) if form else json.loads(content) if content else {}
        return sparse(state.answer(self.command, path.removeprefix(API), query, body))

    def uploaded(self, content: bytes) -> bytes:
        """The file of a form."""
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        (part,) = email.message_from_bytes(head + content).get_payload()
        assert part.get_param("name", header="content-disposition") == "uploadfile"  # type: ignore[union-attr]
        return part.get_payload(decode=True)  # type: ignore[union-attr, return-value]

    def send(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving(state: Kubeflow | None = None) -> Iterator[Kubeflow]:
    """A server on loopback while the context lasts."""
    state = state or Kubeflow()
    handler: Callable[..., Handler] = type("Bound", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        state.port = http.server_port
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield state
        http.shutdown()
        thread.join()
