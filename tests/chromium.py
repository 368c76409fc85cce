"""A real browser, headless, over its debugging pipe: what a page shows, asks the network for and says to the console.

It needs chromium on PATH, bash, and axe-core out of the environment that images/lint.lock locks.
"""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGES = Path(__file__).parents[1] / ".cache" / "lint" / "lib"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
    "--disable-features=IsolateSandboxedIframes",  # a frame's events come with its page's
]  # fmt: skip
SAYS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
SECONDS = 120.0
"""Longest wait for an answer."""


class Page:
    """A tab, and the events of it so far."""

    def __init__(self, pipe: socket.socket) -> None:
        self.pipe, self.unread, self.number = pipe, b"", 0
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        self.world: dict[str, int] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.pipe.sendall(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            more = self.pipe.recv(1 << 20)
            assert more, "chromium ended"
            self.unread += more
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)

    def go(self, page: Path) -> None:
        """Open a file and wait until it is loaded."""
        self.events.clear()
        self.world = {}
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def enter(self) -> None:
        """From now on `run` in the one frame of the page, whatever its sandbox forbids it to run."""
        [child] = self.call("Page.getFrameTree")["frameTree"]["childFrames"]
        world = self.call("Page.createIsolatedWorld", frameId=child["frame"]["id"])
        self.world = {"contextId": world["executionContextId"]}

    def look(self, *, width: int, scheme: str, media: str = "screen") -> None:
        """Be a window of `width` pixels for somebody who likes `scheme`, light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def run(self, script: str) -> Any:
        """What `script` comes to; the page's own policy does not hold for it."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, **self.world)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def shoot(self, path: Path) -> None:
        """Write a picture of the page, all the way down."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))

    def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13, "ArrowRight": 39}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def said(self) -> list[dict[str, Any]]:
        """What came to the console, errors and all."""
        self.run("0")  # so that every event before it has come
        return [event["params"] for event in self.events if event["method"] in SAYS]

    def asked(self) -> list[str]:
        """Addresses the page asked for, its own file first."""
        self.run("0")
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def faults(self) -> list[str]:
        """Serious and critical faults of accessibility that axe-core finds, and where."""
        (axe,) = PACKAGES.glob("python*/site-packages/axe_playwright_python/axe.min.js")
        self.run(axe.read_text(encoding="utf-8"))
        found = self.run("axe.run(document, {preload: false}).then(found => found.violations)")
        return [
            f"{fault['id']} ({fault['impact']}): {node['target']} {node['failureSummary']}"
            for fault in found
            for node in fault["nodes"]
            if fault["impact"] in ("serious", "critical")
        ]


@contextlib.contextmanager
def tab(profile: Path) -> Iterator[Page]:
    """An empty tab of a browser with a profile of its own."""
    if not (chromium := shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.fail("chromium: found none on PATH; expected it for tests marked browser; install it")
    ours, theirs = socket.socketpair()
    ours.settimeout(SECONDS)
    ends = f'exec "$@" 3<&{theirs.fileno()} 4>&{theirs.fileno()}'  # it reads from 3 and writes to 4
    command = ["bash", "-c", ends, "bash", chromium, *FLAGS, f"--user-data-dir={profile}"]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL) as process:
        theirs.close()
        try:
            yield Page(ours)
        finally:
            ours.close()  # the browser ends with its pipe
            process.wait(SECONDS)
