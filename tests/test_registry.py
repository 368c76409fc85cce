"""Registry: a release is registered once, against a server that speaks the Model Registry's API."""

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from croco.registry import register
from croco.release import Release

ROOT = "/api/model_registry/v1/"
RELEASE = Release("croco-da", "0123456789ab", "0" * 64, {"id": "base"}, [], {}, {}, None)
PLACE = "s3://bucket/models/croco-da/0123456789ab"


class Registry(BaseHTTPRequestHandler):
    """As much of the Model Registry as registers and finds models, versions and artifacts."""

    server: Any

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        kind = path.removeprefix(ROOT)
        if kind == "registered_models":
            return self.answer(200, {"items": [], "nextPageToken": "", "pageSize": 1, "size": 0})
        parent = query.get("parentResourceId", [None])[0]
        for one in self.server.rows:
            if (one["kind"], one["name"], one["parent"]) == (kind, query["name"][0], parent):
                return self.answer(200, one["content"])
        return self.answer(404, {"code": "404", "message": "no such thing"})

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = urlsplit(self.path).path.removeprefix(ROOT)
        if self.server.refuses == kind:
            self.server.refuses = None
            return self.answer(503, {"code": "503", "message": "down for a moment"})
        parent = content.get("registeredModelId")
        if kind.endswith("/artifacts"):
            kind, parent = "model_artifact", kind.split("/")[1]
        content |= {"id": str(next(self.server.ids))}
        row = {"kind": kind.removesuffix("s"), "name": content["name"], "parent": parent, "content": content}
        self.server.rows.append(row)
        return self.answer(201, content)

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def registry() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.rows, server.ids, server.refuses = [], itertools.count(1), None
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def kinds(registry: Any) -> list[str]:
    return [row["kind"] for row in registry.rows]


def test_a_release_is_registered_once(registry: Any) -> None:
    first = register(registry.address, RELEASE, PLACE, {"win_rate": 0.6})
    assert register(registry.address, RELEASE, PLACE, {"win_rate": 0.6}) == first
    assert kinds(registry) == ["registered_model", "model_version", "model_artifact"]
    model, version, artifact = (row["content"] for row in registry.rows)
    assert (model["name"], version["name"], artifact["uri"]) == ("croco-da", "0123456789ab", PLACE)
    assert version["customProperties"]["win_rate"]["double_value"] == 0.6
    assert version["customProperties"]["sha256"]["string_value"] == "0" * 64


def test_what_was_half_registered_is_completed(registry: Any) -> None:
    registry.refuses = "model_versions/2/artifacts"
    with pytest.raises(ConnectionError, match=r"found no way to register croco-da 0123456789ab \(.*503"):
        register(registry.address, RELEASE, PLACE, {})
    assert kinds(registry) == ["registered_model", "model_version"]
    assert register(registry.address, RELEASE, PLACE, {}) == "2"
    assert kinds(registry) == ["registered_model", "model_version", "model_artifact"]


def test_the_same_version_at_another_place_is_refused(registry: Any) -> None:
    register(registry.address, RELEASE, PLACE, {})
    with pytest.raises(ValueError, match=f"at {PLACE}; expected s3://other"):
        register(registry.address, RELEASE, "s3://other", {})


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("registry:8080", ValueError, "found 'registry:8080'; expected http://HOST:PORT"),
        ("http://127.0.0.1:1", ConnectionError, "http://127.0.0.1:1: found no way to register"),
        ("https://127.0.0.1:1", ConnectionError, "user token must be provided"),
    ],
)
def test_a_registry_that_is_not_there_is_said_in_a_line(address: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        register(address, RELEASE, PLACE, {})
