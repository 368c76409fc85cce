"""The store that manifests ship, run for real: SeaweedFS with its StatefulSet's arguments and probe."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from overlays import TOOLS, of_kind, tool

from croco.store import Store, open_store

KEY = "only-a-test"
PARTS = ("master", "volume", "filer", "s3")


def free_port() -> int:
    """A port that is free, and so is the one 10,000 above it, which SeaweedFS takes too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port < 55_000:
                other.bind(("127.0.0.1", port + 10_000))
                return port


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where it serves S3, on loopback; the test chooses its ports, folder, keys and how full its disk may be."""
    [item] = of_kind("gpu-generic", "StatefulSet")
    [container] = item["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(":" + tool("weed", "version").split()[2])
    data = tmp_path_factory.mktemp("seaweedfs")
    ports = {part: free_port() for part in PARTS}
    given = [one.replace("/data", str(data)).replace("0.0.0.0", "127.0.0.1") for one in container["args"]]
    secrets = {one["name"]: KEY for one in container["env"] if "valueFrom" in one}
    environment = os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}"} | secrets
    startup = container["startupProbe"]
    probe = ["timeout", str(startup["timeoutSeconds"]), *startup["exec"]["command"]]
    probe = [one.replace("9333", str(ports["master"])) for one in probe]
    own = [f"-{part}.port={number}" for part, number in ports.items()]
    program = ["weed", *given, *own, "-volume.minFreeSpace=256MiB"]
    with (data / "log").open("w") as log, subprocess.Popen(program, env=environment, stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + 120
            while subprocess.run(probe, env=environment, capture_output=True, check=False).returncode:
                assert server.poll() is None and time.monotonic() < deadline, (data / "log").read_text()[-3000:]
                time.sleep(0.5)
            yield ports["s3"]
        finally:
            server.kill()


def opened(port: int, monkeypatch: pytest.MonkeyPatch, secret: str = KEY) -> Store:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return open_store("s3://croco/store")


def test_it_has_its_bucket_and_keeps_large_files(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(port, monkeypatch)
    large, back = tmp_path / "large", tmp_path / "back"
    large.write_bytes(os.urandom(70 << 20))  # goes up in three parts
    store.fetch(store.keep(large), back)
    assert back.read_bytes() == large.read_bytes()
    store.write("shards/sample/1.json", {"rows": 3})
    assert store.read("shards/sample/1.json") == {"rows": 3}
    assert len(list(store.entries())) == 2


def test_it_refuses_a_wrong_key_and_none(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionError, match="SignatureDoesNotMatch"):
        opened(port, monkeypatch, secret="another")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/croco")


def test_it_answers_the_kubelet(port: int) -> None:
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/status").status == 200
