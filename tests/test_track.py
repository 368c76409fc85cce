"""Track: what MLflow and TensorBoard are told of finished work, by the real clients, with a server that speaks MLflow's
API and takes no more than MLflow does.
"""

import itertools
import json
import math
import os
import re
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import objectstore
import pytest

from croco import dataset
from croco.store import open_store
from croco.track import run
from croco.writer import Writer

API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
CURVES = [
    {"step": 1, "loss": 0.75, "rewards/margins": 0.125},
    {"step": 2, "loss": 0.5, "rewards/margins": 0.25},
    {"step": 2, "eval_loss": 0.625},
]
OutputOf = Callable[..., Path]


class Mlflow(BaseHTTPRequestHandler):
    """As much of an MLflow server as keeps runs; it adds every metric it is sent, known or not."""

    server: Any

    def do_GET(self) -> None:
        self.handle_request({name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert len(body) <= 1_000_000
        self.handle_request(json.loads(body))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.handle_request({"path": urlsplit(self.path).path.removeprefix(ARTIFACTS), "body": body})

    def handle_request(self, given: dict[str, Any]) -> None:
        path = urlsplit(self.path).path
        what = "artifacts" if path.startswith(ARTIFACTS) else path.removeprefix(API)
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            return self.answer(401, {"error_code": "UNAUTHENTICATED", "message": "who is it?"})
        if what in self.server.down:
            return self.answer(503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "down for a moment"})
        status, content = getattr(self.server.mlflow, what.replace("/", "_").replace("-", "_"))(**given)
        return self.answer(status, content)

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


class Kept:
    """What the server keeps, and its answers."""

    def __init__(self) -> None:
        self.experiments: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.artifacts_at = "mlflow-artifacts:/"

    def experiments_get_by_name(self, experiment_name: str) -> tuple[int, Any]:
        if experiment_name not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
        where = str(self.experiments.index(experiment_name))
        return 200, {"experiment": {"experiment_id": where, "name": experiment_name, "lifecycle_stage": "active"}}

    def experiments_create(self, name: str, **_: Any) -> tuple[int, Any]:
        self.experiments.append(name)
        return 200, {"experiment_id": str(len(self.experiments) - 1)}

    def runs_create(self, experiment_id: str, run_name: str, start_time: int, tags: Any, **_: Any) -> tuple[int, Any]:
        id = uuid.uuid4().hex  # the client keeps where a run's artifacts go by it alone
        info = {"run_id": id, "run_uuid": id, "run_name": run_name, "experiment_id": experiment_id}
        info |= {"start_time": start_time, "status": "RUNNING", "lifecycle_stage": "active"}
        info["artifact_uri"] = f"{self.artifacts_at}{id}"
        tags = {tag["key"]: tag["value"] for tag in tags}
        self.runs.append({"info": info, "tags": tags, "params": {}, "metrics": []})
        return 200, {"run": self.shown(self.runs[-1])}

    def runs_search(self, experiment_ids: list[str], filter: str, **_: Any) -> tuple[int, Any]:
        name, _, value = filter.removeprefix("tags.`").removesuffix("'").partition("` = '")
        found = [one for one in self.runs if one["info"]["experiment_id"] in experiment_ids]
        return 200, {"runs": [self.shown(one) for one in found if one["tags"].get(name) == value]}

    def runs_get(self, run_id: str, **_: Any) -> tuple[int, Any]:
        return 200, {"run": self.shown(self.run(run_id))}

    def runs_update(self, run_id: str, status: str, end_time: int, **_: Any) -> tuple[int, Any]:
        self.run(run_id)["info"] |= {"status": status, "end_time": end_time}
        return 200, {"run_info": self.run(run_id)["info"]}

    def runs_log_batch(
        self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = (), **_: Any
    ) -> tuple[int, Any]:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
        from mlflow.utils import validation

        there = self.run(run_id)
        entities = (
            [Metric(m["key"], m["value"], m["timestamp"], m["step"]) for m in metrics],
            [Param(p["key"], p["value"]) for p in params],
            [RunTag(t["key"], t["value"]) for t in tags],
        )
        try:
            validation._validate_batch_log_limits(*entities)
            validation._validate_batch_log_data(*entities)
        except MlflowException as error:
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": error.message}
        for param in params:
            if there["params"].setdefault(param["key"], param["value"]) != param["value"]:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"{param['key']} was something else"}
        there["metrics"] += metrics
        there["tags"] |= {tag["key"]: tag["value"] for tag in tags}
        return 200, {}

    def metrics_get_history(self, run_id: str, metric_key: str, **_: Any) -> tuple[int, Any]:
        return 200, {"metrics": [m for m in self.run(run_id)["metrics"] if m["key"] == metric_key]}

    def artifacts(self, path: str, body: bytes) -> tuple[int, Any]:
        self.files[path] = body
        return 200, {}

    def run(self, run_id: str) -> dict[str, Any]:
        return next(one for one in self.runs if one["info"]["run_id"] == run_id)

    def shown(self, one: Mapping[str, Any]) -> dict[str, Any]:
        latest = {metric["key"]: metric for metric in one["metrics"]}
        texts = {kind: [{"key": k, "value": v} for k, v in one[kind].items()] for kind in ("tags", "params")}
        return {"info": one["info"], "data": {**texts, "metrics": list(latest.values())}}

    def points(self, number: int = 0) -> list[tuple[str, int, float]]:
        return [(metric["key"], metric["step"], metric["value"]) for metric in self.runs[number]["metrics"]]


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Mlflow)
    server.mlflow, server.token, server.down = Kept(), None, set()
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def output_of(tmp_path: Path) -> OutputOf:
    """output_of(stage, files, config=..., models=..., metrics=...) -> a finished output's directory."""
    numbers = itertools.count()

    def make(stage: str, files: Mapping[str, str] | None = None, **given: Any) -> Path:
        out = tmp_path / f"{stage}-{next(numbers)}"
        writer = Writer(out, None, stage=stage, version=1, config=given.get("config", {}), models=given.get("models"))
        for name, content in (files or {}).items():
            (out / name).write_text(content, encoding="utf-8")
            writer.attach(out / name)
        writer.spent("da").add(tokens_in=40)
        writer.finish([dataset.Count("pairs", "da", 5, 4, {"too long": 1})], metrics=given.get("metrics"))
        return out

    return make


@pytest.fixture
def training(output_of: OutputOf) -> Path:
    curves = {"metrics.jsonl": "".join(json.dumps(line) + "\n" for line in CURVES), "training.svg": "<svg/>"}
    models = {"base": {"id": "org/model", "revision": "0" * 40}}
    metrics = {"train_loss": 0.5, "by": {"da": 2, "nl": 0.25}, "resumed": True, "method": "dpo"}
    config = {"beta": 0.1, "revision": None, "seeds": [1, 2], "data": "pairs"}
    return output_of("train", curves, config=config, models=models, metrics=metrics)


@pytest.fixture
def decision(output_of: OutputOf) -> Path:
    return output_of("promote", {"decision.md": "# Yes", "decision.json": "{}"})


def steady(points: Iterable[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    """Without what a clock decides, or how many bytes a path took."""
    return [point for point in points if not re.search("/ledger/.*(seconds|bytes)", point[0])]


TOLD = [
    ("train/dropped/pairs/too long", 0, 1),
    ("train/ledger/tokens_in", 0, 40),
    ("train/ledger/tokens_in/da", 0, 40),
    ("train/train_loss", 0, 0.5),
    ("train/by/da", 0, 2),
    ("train/by/nl", 0, 0.25),
    ("train/curves/loss", 1, 0.75),
    ("train/curves/rewards/margins", 1, 0.125),
    ("train/curves/loss", 2, 0.5),
    ("train/curves/rewards/margins", 2, 0.25),
    ("train/curves/eval_loss", 2, 0.625),
]


def test_mlflow_is_told_settings_numbers_curves_models_and_reports(mlflow: Any, training: Path, decision: Path) -> None:
    told = run(outputs=[training, decision], run="first", mlflow=mlflow.address, experiment="danish")
    kept = mlflow.mlflow
    (one,) = kept.runs
    assert kept.experiments == ["danish"]
    assert (one["info"]["run_name"], one["info"]["status"]) == ("first", "FINISHED")
    assert one["params"] == {
        "train/beta": "0.1",
        "train/revision": "null",
        "train/seeds": "[1, 2]",
        "train/data": "pairs",
    }
    assert steady(point for point in kept.points() if point[0].startswith("train/")) == TOLD
    assert one["tags"]["train/digest"] == dataset.load_manifest(training).digest
    assert json.loads(one["tags"]["train/models/base"]) == {"id": "org/model", "revision": "0" * 40}
    assert kept.files == {f"{one['info']['run_id']}/promote/decision.md": b"# Yes"}
    assert (told["params"], told["points"], told["files"]) == (4, 5, 1)


def test_the_same_run_again_is_the_same_run(mlflow: Any, training: Path, decision: Path) -> None:
    for _ in range(2):
        run(outputs=[training, decision], run="first", mlflow=mlflow.address)
        points = mlflow.mlflow.points()
        assert len(mlflow.mlflow.runs) == 1
        assert len(points) == len(set(points))
    run(outputs=[training, decision], run="second", mlflow=mlflow.address)
    run(outputs=[training], run="first", mlflow=mlflow.address)
    assert [one["info"]["run_name"] for one in mlflow.mlflow.runs] == ["first", "second", "first"]


def test_a_number_that_is_new_since_is_the_last_of_its_history(mlflow: Any, output_of: OutputOf) -> None:
    for rate in (0.75, 0.5):
        run(outputs=[output_of("arena", metrics={"rate": rate, "n": 3})], run="r", mlflow=mlflow.address)
    assert len(mlflow.mlflow.runs) == 1
    told = [point for point in mlflow.mlflow.points() if point[0] in ("arena/rate", "arena/n")]
    assert told == [("arena/rate", 0, 0.75), ("arena/n", 0, 3), ("arena/rate", 0, 0.5)]


def test_other_settings_are_another_run(mlflow: Any, output_of: OutputOf) -> None:
    for seed in (1, 2):
        run(outputs=[output_of("arena", config={"seed": seed})], run="r", mlflow=mlflow.address)
    assert [one["params"] for one in mlflow.mlflow.runs] == [{"arena/seed": "1"}, {"arena/seed": "2"}]


def test_a_run_that_broke_off_is_completed(mlflow: Any, training: Path) -> None:
    mlflow.down = {"runs/log-batch"}
    with pytest.raises(ConnectionError, match=r"found no way to track r \(.*503.*\); expected an MLflow server"):
        run(outputs=[training], run="r", mlflow=mlflow.address)
    mlflow.down = set()
    run(outputs=[training], run="r", mlflow=mlflow.address)
    assert len(mlflow.mlflow.runs) == 1
    assert steady(mlflow.mlflow.points()) == TOLD


def test_outputs_of_one_stage_are_told_apart(mlflow: Any, output_of: OutputOf) -> None:
    outputs = [output_of("benchmark", config={"side": side}) for side in ("base", "tuned")]
    run(outputs=outputs, run="r", mlflow=mlflow.address)
    assert mlflow.mlflow.runs[0]["params"] == {"benchmark-1/side": "base", "benchmark-2/side": "tuned"}


def test_names_that_mlflow_refuses_are_changed_and_stay_apart(mlflow: Any, output_of: OutputOf) -> None:
    names = ["a:b", "a_b", "a?b", "../../up", "a//b", "/a", ".", "l\u00e6s", "x" * 300, "x" * 301, "new\nline"]
    output = output_of("arena", config={"{}": 1}, metrics={name: number for number, name in enumerate(names)})
    with pytest.warns(UserWarning, match=r"track: 11 names changed: arena/{}, .*, \.\.\."):
        run(outputs=[output], run="r", mlflow=mlflow.address)
    told = {value: name for name, _, value in steady(mlflow.mlflow.points()) if "dropped" not in name}
    assert len({told[number] for number in range(len(names))}) == len(names)
    assert told[1] == "arena/a_b"
    assert told[0].startswith("arena/a_b-")


def test_long_settings_are_cut_with_a_word_and_many_are_all_told(mlflow: Any, output_of: OutputOf) -> None:
    many = {f"s{number}": "\U0001f40a" * 6000 for number in range(30)}
    output = output_of("arena", config={**many, "long": "x" * 6001}, metrics={f"m{n}": n for n in range(1500)})
    with pytest.warns(UserWarning, match="track: 1 texts cut short: arena/long$"):
        run(outputs=[output], run="r", mlflow=mlflow.address)
    params = mlflow.mlflow.runs[0]["params"]
    assert params == {**{f"arena/{name}": value for name, value in many.items()}, "arena/long": "x" * 6000}
    assert {("arena/m0", 0, 0), ("arena/m1499", 0, 1499)} <= set(mlflow.mlflow.points())


def test_numbers_that_are_not_finite_are_left_out_and_counted(mlflow: Any, output_of: OutputOf) -> None:
    curves = '{"step": 1, "loss": NaN}\n{"step": 2, "loss": Infinity}\n{"step": 3, "loss": 0.5}\n'
    output = output_of("train", {"metrics.jsonl": curves}, metrics={"rate": math.nan})
    with pytest.warns(UserWarning, match="track: 3 numbers left out, not finite: train/rate, train/curves/loss$"):
        run(outputs=[output], run="r", mlflow=mlflow.address)
    assert [point for point in mlflow.mlflow.points() if "dropped" not in point[0] and "ledger" not in point[0]] == [
        ("train/curves/loss", 3, 0.5)
    ]


@pytest.mark.parametrize("place", ["s3://bucket", "mlflow-artifacts://elsewhere"])
def test_artifacts_that_do_not_go_through_the_server_are_left_with_a_word(
    mlflow: Any, decision: Path, place: str
) -> None:
    mlflow.mlflow.artifacts_at = f"{place}/"
    with pytest.warns(UserWarning, match=f"track: 1 files were not attached: found artifacts at {place}; expected a"):
        assert run(outputs=[decision], run="r", mlflow=mlflow.address)["files"] == 0
    assert mlflow.mlflow.runs[0]["info"]["status"] == "FINISHED"


def test_artifacts_that_the_server_refuses_are_left_with_a_word(mlflow: Any, decision: Path) -> None:
    mlflow.down = {"artifacts"}
    with pytest.warns(UserWarning, match="track: 1 files were not attached: .*503"):
        assert run(outputs=[decision], run="r", mlflow=mlflow.address)["files"] == 0
    assert mlflow.mlflow.runs[0]["info"]["status"] == "FINISHED"


def test_the_token_is_mlflows_own_and_a_refusal_is_one_line(
    mlflow: Any, decision: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.token = "let-me-in"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "an-old-one")
    with pytest.raises(ConnectionError, match=r"\(UNAUTHENTICATED.*\); .* in MLFLOW_TRACKING_TOKEN, or ") as refused:
        run(outputs=[decision], run="r", mlflow=mlflow.address)
    assert "an-old-one" not in str(refused.value) and "\n" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "let-me-in")
    run(outputs=[decision], run="r", mlflow=mlflow.address)
    assert len(mlflow.mlflow.runs) == 1


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("http://127.0.0.1:1", ConnectionError, r"http://127.0.0.1:1: found no way to track r \(.*Connection refused"),
        ("mlflow:5000", ValueError, "found 'mlflow:5000'; expected an MLflow server"),
        ("file:///tmp/mlruns", ValueError, "found 'file:///tmp/mlruns'; expected an MLflow server"),
        ("http://me:hidden@mlflow:5000", ValueError, "found credentials in MLflow's address; expected them in MLFLOW_"),
    ],
)
def test_a_server_that_is_not_there_is_said_in_a_line(
    mlflow: Any, address: str, error: Any, message: str, decision: Path
) -> None:
    with pytest.raises(error, match=message) as failed:
        run(outputs=[decision], run="r", mlflow=address)
    assert "hidden" not in str(failed.value) and "\n" not in str(failed.value)


def test_a_server_that_is_no_mlflow_is_not_taken_for_one(mlflow: Any, decision: Path) -> None:
    for name in ("experiments_get_by_name", "runs_search", "runs_create"):
        setattr(mlflow.mlflow, name, lambda **_: (200, {}))
    with pytest.raises(ConnectionError, match="another run than was asked for"):
        run(outputs=[decision], run="r", mlflow=mlflow.address)


def test_nothing_but_the_server_is_contacted(mlflow: Any, training: Path) -> None:
    program = f"""
import sys
reached = set()
def note(event, given):
    if event == "socket.getaddrinfo":
        reached.add(str(given[0]))
    elif event == "socket.connect" and isinstance(given[1], tuple):
        reached.add(str(given[1][0]))
sys.addaudithook(note)
from pathlib import Path
from croco.track import run
run(outputs=[Path({str(training)!r})], run="r", mlflow={mlflow.address!r})
import threading, time
time.sleep(2)
print(sorted(reached), sorted(one.name for one in threading.enumerate() if not one.daemon))
"""
    where = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ
    }  # no sign of a test
    done = subprocess.run([sys.executable, "-c", program], env=where, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[1:] == ["['127.0.0.1'] ['MainThread']"], done.stderr


def events(file: bytes) -> list[Any]:
    """The events of a file, each of whose records has its length, two checksums and its bytes."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found, start = [], 0
    while start < len(file):
        (length,) = struct.unpack_from("<Q", file, start)
        record = file[start + 12 : start + 12 + length]
        assert struct.unpack_from("<I", file, start + 12 + length)[0] == masked_crc32c(record)
        found.append(Event.FromString(record))
        start += length + 16
    return found


def scalars(file: bytes) -> list[tuple[str, int, float]]:
    told = [(value, event.step) for event in events(file) for value in event.summary.value]
    return [(value.tag, step, value.simple_value) for value, step in told if value.HasField("simple_value")]


def test_tensorboard_is_told_numbers_curves_and_settings(training: Path, tmp_path: Path) -> None:
    run(outputs=[training], run="first", tensorboard=str(tmp_path / "board"))
    (file,) = (tmp_path / "board").glob("first-*/*tfevents*")
    assert events(file.read_bytes())[0].file_version == "brain.Event:2"
    assert steady(scalars(file.read_bytes())) == TOLD
    texts = [value for event in events(file.read_bytes()) for value in event.summary.value if value.HasField("tensor")]
    assert [text.tag for text in texts] == ["config/text_summary"]
    assert b'    train/beta: "0.1"' in texts[0].tensor.string_val[0].splitlines()


def test_tensorboard_has_a_run_once_and_another_apart(training: Path, decision: Path, tmp_path: Path) -> None:
    for _ in range(2):
        run(outputs=[training], run="a/first", tensorboard=str(tmp_path / "board"))
    assert len(list((tmp_path / "board").rglob("*tfevents*"))) == 1
    run(outputs=[training, decision], run="a/first", tensorboard=str(tmp_path / "board"))
    files = list((tmp_path / "board").rglob("*tfevents*"))
    assert len({file.parent for file in files}) == len(files) == 2


def test_tensorboard_reads_a_bucket(training: Path, s3: objectstore.S3) -> None:
    for _ in range(2):
        run(outputs=[training], run="first", tensorboard=s3.location)
    opened = open_store(s3.location)
    (entry,) = opened.entries()
    assert entry.name.startswith("first-") and "tfevents" in entry.name
    assert steady(scalars(opened.backend.read(entry.name))) == TOLD


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "found no tracker; expected --mlflow http://HOST:PORT, --tensorboard LOCATION or both"),
        ({"outputs": [], "tensorboard": "board"}, "found no output; expected at least one"),
        ({"run": "../up", "tensorboard": "board"}, "found the run '../up'; expected letters"),
        ({"tensorboard": "gs://bucket"}, "found a store of kind gs://"),
    ],
)
def test_what_cannot_be_tracked_is_refused(flags: Any, message: str, decision: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(**{"outputs": [decision], "run": "r", **flags})


def test_a_file_that_was_changed_is_refused(training: Path, tmp_path: Path) -> None:
    (training / "metrics.jsonl").write_text('{"step": 1, "loss": 0.0}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl: found sha256 .*; run train again"):
        run(outputs=[training], run="r", tensorboard=str(tmp_path / "board"))


def test_the_component_says_how_much_was_told(training: Path, output_of: OutputOf, tmp_path: Path) -> None:
    from components.track import track

    logged: dict[str, float] = {}
    outputs = {"pairs": "pair", "verdicts": "arena", "decision": "promote", "report": "report"}
    given = {name: SimpleNamespace(path=str(output_of(stage))) for name, stage in outputs.items()}
    metrics = SimpleNamespace(path=str(tmp_path / "metrics"), log_metric=logged.__setitem__)
    training_artifact = SimpleNamespace(path=str(training))
    track.python_func(
        **given, training=training_artifact, run="r", metrics=metrics, tensorboard=str(tmp_path / "board")
    )
    assert logged == json.loads(Path(metrics.path).read_text())
    assert (logged["params"], logged["points"], logged["files"]) == (4, 5, 0)
