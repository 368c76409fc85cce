"""A stand-in for the Hugging Face hub, over HTTP on loopback: repositories of files, each with one commit.

It speaks what `datasets`, `evaluate` and `huggingface_hub` ask when they load a data set, a metric or a snapshot.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

DAY = "2026-01-01T00:00:00.000Z"


@dataclass
class Hub:
    """What the stand-in holds."""

    repos: Mapping[str, Mapping[str, bytes]]
    """Repository, such as datasets/EuroEval/scala-en -> its files."""
    gated: Mapping[str, str] = field(default_factory=dict)
    """Repository -> the token that may read it."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""
    port: int = 0

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def commit(self, repo: str) -> str:
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()

    def about(self, repo: str) -> dict[str, object]:
        return {
            "id": repo.split("/", 1)[1],
            "sha": self.commit(repo),
            "private": False,
            "gated": "manual" if repo in self.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "lastModified": DAY,
            "createdAt": DAY,
            "tags": [],
            "siblings": [{"rfilename": path} for path in self.repos[repo]],
        }

    def entry(self, repo: str, path: str) -> dict[str, object]:
        content = self.repos[repo][path]
        return {"type": "file", "oid": etag(content), "size": len(content), "path": path}

    def tree(self, repo: str, below: str | None) -> list[dict[str, object]]:
        """What lies in a folder: files, and folders without what is in them."""
        start = f"{below}/" if below else ""
        names = {path[len(start) :].split("/")[0] for path in self.repos[repo] if path.startswith(start)}
        return [
            self.entry(repo, start + name)
            if start + name in self.repos[repo]
            else {"type": "directory", "oid": etag(name.encode()), "size": 0, "path": start + name}
            for name in sorted(names)
        ]


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers for the server's `hub`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path).strip("/")
        hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if found := re.fullmatch(r"api/(\w+/[^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?", path):
            repo, what, _, below = found.groups()
            if self._missing(hub, repo, read=False):
                return
            if what == "tree":
                self._send(200, hub.tree(repo, below))
            elif what == "paths-info":
                asked = json.loads(body)["paths"]
                self._send(200, [hub.entry(repo, one) for one in asked if one in hub.repos[repo]])
            else:
                self._send(200, hub.about(repo))
        elif found := re.fullmatch(r"(\w+/[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, name = found.groups()
            if self._missing(hub, repo, read=True):
                return
            content = hub.repos[repo].get(name)
            if content is None or revision not in ("main", hub.commit(repo)):
                what = "EntryNotFound" if content is None else "RevisionNotFound"
                self._send(404, {"error": what}, {"X-Error-Code": what, "X-Repo-Commit": hub.commit(repo)})
            else:
                self._send(200, content, {"ETag": f'"{etag(content)}"', "X-Repo-Commit": hub.commit(repo)})
        else:
            self._send(404, {"error": f"{self.command} {path}"})

    do_HEAD = do_POST = do_GET

    def _missing(self, hub: Hub, repo: str, *, read: bool) -> bool:
        """Whether the request was refused: there is no such repository, or only some may read it."""
        if repo not in hub.repos:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif read and repo in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.gated[repo]}":
            status = 403 if self.headers.get("Authorization") else 401
            message = f"Access to dataset {repo.split('/', 1)[1]} is restricted."
            self._send(status, {"error": message}, {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
        else:
            return False
        return True

    def _send(self, status: int, body: object, headers: Mapping[str, str] = {}) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The stand-in on a port of its own; gone after the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = hub  # type: ignore[attr-defined]
    server.daemon_threads = True
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
