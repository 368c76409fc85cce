"""Promote: which evaluations let a model take its base's place, and which do not."""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from evaluations import BASE, Model, evaluations, verdicts, weights

from croco import dataset, paired, promote, publish, release, storage
from croco.promote import PromoteConfig
from croco.store import open_store

PUBLISHED = {
    "decision": "decision",
    "trained": "trained",
    "benchmarks": "in/benchmarks-tuned",
    "answers": "in/answers-tuned",
    "verdicts": "in/verdicts",
    "base": "base",
}
"""Flag of `publish` -> where the fixture `promoted` has it."""
Decide = Callable[..., dict[str, Any]]


@pytest.fixture
def decide(tmp_path: Path) -> Decide:
    """decide(tuned, base, wins=..., ...) -> decision.json."""

    def decided(
        tuned: Model,
        base: Model | None = None,
        config: PromoteConfig = PromoteConfig(),
        change: Any = None,
        **judged: Any,
    ) -> dict[str, Any]:
        inputs = evaluations(tmp_path / "in", tuned, base, **judged)
        promote.run(**(change(inputs) if change else inputs), out=tmp_path / "out", config=config)
        return dict(json.loads((tmp_path / "out" / "decision.json").read_text()))

    return decided


def refusals(decision: dict[str, Any]) -> set[tuple[str, str | None]]:
    assert decision["promote"] is (not decision["reasons"])
    return {(check["name"], check["language"]) for check in decision["checks"] if check["verdict"] != "pass"}


def test_a_model_that_is_better_and_loses_nothing_is_promoted(decide: Decide, tmp_path: Path) -> None:
    decision = decide(Model(weights("c"), gain=2.0))
    assert (decision["promote"], decision["reasons"], decision["last"]) == (True, [], None)
    assert dataset.verify(tmp_path / "out").metrics == {"promote": True, "refusals": 0, "reasons": []}
    page = (tmp_path / "out" / "decision.md").read_text()
    assert page.startswith("# Promoted\n") and "| EuroEval | Danish | pass | Danish: +" in page


def test_the_same_model_twice_is_no_promotion(decide: Decide) -> None:
    decision = decide(Model(BASE, name="base"), wins=0.5)
    assert refusals(decision) == {("arena", None)}
    scores = [check["text"] for check in decision["checks"] if check["name"] == "EuroEval"]
    assert scores[0].startswith("Danish: +0.00 points over 2 data sets (95 % interval +0.00 to +0.00)")


@pytest.mark.parametrize(
    ("tuned", "judged", "refused"),
    [
        ({"gain": {"da": 2.0, "de": -2.0}}, {}, {("EuroEval", "de")}),
        ({"codes": ["da"]}, {}, {("EuroEval", "de"), ("arena", "de"), ("fidelity", "de")}),
        ({"template": "x" * 64}, {}, {("chat template", None)}),
        ({"iterations": 9}, {}, {("EuroEval settings", None), ("EuroEval", "da"), ("EuroEval", "de")}),
        ({"dtype": "float16"}, {}, {("EuroEval run", None)}),
        ({"faithful": 0.8}, {}, {("fidelity", "da"), ("fidelity", "de")}),
        ({}, {"wins": 0.5}, {("arena", None)}),
        ({}, {"wins": 0.2}, {("arena", None), ("arena", "da"), ("arena", "de")}),
        ({}, {"unreadable": 0.2}, {("arena", "da"), ("arena", "de")}),
        ({}, {"wins": 0.62, "longer": 60}, {("arena", None)}),
    ],
    ids=[
        "lower",
        "missing",
        "template",
        "settings",
        "precision",
        "fidelity",
        "parity",
        "below",
        "unreadable",
        "length",
    ],
)
def test_what_it_is_refused_for(decide: Decide, tuned: dict[str, Any], judged: dict[str, Any], refused: Any) -> None:
    assert refusals(decide(Model(weights("c"), **{"gain": 1.0, **tuned}), **judged)) == refused


def test_too_few_judged_questions_are_refused(decide: Decide) -> None:
    decision = decide(Model(weights("c"), questions=40), Model(BASE, name="base", questions=40))
    assert refusals(decision) == {("arena", "da"), ("arena", "de")}
    assert decision["reasons"][0] == "Danish: found 40 judged questions; expected at least 100"


def test_a_language_that_was_asked_for_and_is_not_there_is_refused(decide: Decide) -> None:
    asked = PromoteConfig(languages=("da", "fr"), questions_languages=("de", "cy"))
    decision = decide(Model(weights("c")), config=asked)
    assert refusals(decision) == {("EuroEval", "fr"), ("arena", "cy"), ("fidelity", "cy")}


def test_verdicts_on_other_answers_are_refused(decide: Decide, tmp_path: Path) -> None:
    tuned = Model(weights("c"))

    def stale(inputs: dict[str, Path]) -> dict[str, Path]:
        older = Model(tuned.identity, name="older").answers(tmp_path / "older")
        judged = verdicts(tmp_path / "stale", tuned, older, inputs["answers_base"])
        return inputs | {"verdicts": judged}

    assert refusals(decide(tuned, change=stale)) == {("verdicts' answers", None)}


@pytest.mark.parametrize("input", ["benchmarks_tuned", "answers_tuned", "training"])
def test_a_result_of_other_weights_is_refused(decide: Decide, tmp_path: Path, input: str) -> None:
    def stale(inputs: dict[str, Path]) -> dict[str, Path]:
        other = evaluations(tmp_path / "other", Model(weights("d")))
        return inputs | {input: other[input]}

    assert ("tuned model's weights", None) in refusals(decide(Model(weights("c")), change=stale))


def test_a_change_is_as_wide_as_the_spread_of_the_paired_scores() -> None:
    found = paired.change([50, 52, 54], [51, 54, 54])  # +1, +2, 0: mean 1, standard deviation 1
    assert (found.value, found.error, found.freedom) == (1.0, pytest.approx(math.sqrt(4 / 3)), 2)
    half = 4.302652729911275 * math.sqrt(4 / 3)  # Student's .975 quantile at 2
    assert found.interval() == (pytest.approx(1 - half), pytest.approx(1 + half))
    both = paired.mean([found, found])
    assert (both.value, both.error, both.freedom) == (1.0, pytest.approx(math.sqrt(2 / 3)), pytest.approx(4))


def test_equal_scores_have_no_error_and_unequal_ones_without_spread_no_interval() -> None:
    assert paired.change([50, 52], [50, 52]).interval() == (0, 0)
    assert paired.change([50, 50], [51, 51]).interval() == (None, None)
    assert paired.change([50], [51]).interval() == (None, None)
    assert paired.mean([paired.change([50, 52], [50, 52]), paired.change([50], [51])]).interval() == (None, None)


def test_the_interval_covers_the_change_of_new_items() -> None:
    """Two models answer 200 items of one kind, resampled as EuroEval does; the truth is the change over the kind."""
    rng = np.random.default_rng(7)
    covered, narrow, trials = 0, 0, 400
    for _ in range(trials):
        before = rng.random(200) < 0.5
        after = np.where(rng.random(200) < 0.3, rng.random(200) < 0.7, before)
        drawn = rng.integers(0, 200, (10, 200))
        scores = [100 * side[drawn].mean(axis=1) for side in (before, after)]
        low, high = paired.change(*scores).interval()
        assert low is not None and high is not None
        truth = 100 * 0.3 * (0.7 - 0.5)
        covered += low <= truth <= high
        half = 1.96 * float(np.std(scores[1] - scores[0], ddof=1)) / math.sqrt(10)
        narrow += abs(float(np.mean(scores[1] - scores[0])) - truth) <= half
    assert 0.92 <= covered / trials <= 0.98
    assert narrow / trials < 0.8  # what EuroEval's own way of an interval would have covered


@pytest.fixture
def promoted(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """promoted(letter, tuned) -> release.json of a model that was decided on and published."""

    def publish_it(letter: str, tuned: Model | None = None, **judged: Any) -> dict[str, Any]:
        folder = tmp_path / letter
        model = folder / "trained" / "merged"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes(letter.encode() * 1000)
        identity = {"id": "merged", "sha256": publish.models.check_local(model, None)}
        tuned = tuned or Model({}, gain=2.0)
        tuned.identity = identity
        base = folder / "base"
        base.mkdir()
        (base / "config.json").write_text("{}")
        (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
        inputs = evaluations(folder / "in", tuned, **judged)
        store = str(tmp_path / "store")
        promote.run(**inputs, out=folder / "decision", name="croco-toy", store=store)
        publish.run(
            decision=folder / "decision",
            trained=folder / "trained",
            benchmarks=inputs["benchmarks_tuned"],
            answers=inputs["answers_tuned"],
            verdicts=inputs["verdicts"],
            base=str(base),
            data="allenai/Dolci-Instruct-SFT",
            name="croco-toy",
            store=store,
            out=folder / "published",
        )
        return dict(json.loads((folder / "published" / "release.json").read_text()))

    return publish_it


def again(folder: Path) -> None:
    """Publish what `promoted("c")` published once more."""
    given: dict[str, Any] = {name: folder / "c" / where for name, where in PUBLISHED.items()}
    given |= {"base": str(given["base"]), "data": "allenai/Dolci-Instruct-SFT", "name": "croco-toy"}
    publish.run(**given, store=str(folder / "store"), out=folder / "again")


def test_a_promoted_model_lies_in_the_store_under_a_name_that_stays(promoted: Any, tmp_path: Path) -> None:
    first, opened = promoted("c"), open_store(tmp_path / "store")
    folder = Path(first["location"])
    assert folder == tmp_path / "store" / "models" / "croco-toy" / first["sha256"][:12]
    assert (folder / "model.safetensors").read_bytes() == b"c" * 1000
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card and "- Licence, of the base: apache-2.0" in card
    second = promoted("d", Model({}, gain=4.0), wins=0.9)
    newest = release.last(opened, "croco-toy")
    assert newest and (newest.version, newest.previous) == (second["version"], first["version"])
    assert (folder / "model.safetensors").read_bytes() == b"c" * 1000
    decision = json.loads((tmp_path / "d" / "decision" / "decision.json").read_text())
    assert decision["last"] == first["version"]
    assert {check["name"] for check in decision["checks"]} >= {f"arena, against {first['version']}"}


def test_a_model_worse_than_the_last_promoted_one_is_refused_though_better_than_the_base(promoted: Any) -> None:
    first = promoted("c", Model({}, gain=5.0), wins=0.95)
    with pytest.raises(ValueError, match="found a refusal; expected a promotion") as refused:
        promoted("d", Model({}, gain=2.0), wins=0.7)
    assert "points over 2 data sets" in str(refused.value) and "points of win rate" in str(refused.value)
    assert first["previous"] is None


def test_a_run_that_is_repeated_is_decided_as_it_was_and_not_against_its_own_model(
    promoted: Any, tmp_path: Path
) -> None:
    promoted("c")
    second = promoted("d", Model({}, gain=4.0), wins=0.9)
    sides = [f"{what}_{side}" for what in ("benchmarks", "answers") for side in ("base", "tuned")]
    for letter, last in (("c", second["version"]), ("d", second["previous"])):
        inputs = {name: tmp_path / letter / "in" / name.replace("_", "-") for name in (*sides, "verdicts", "training")}
        out = tmp_path / "again" / letter
        manifest = promote.run(**inputs, out=out, name="croco-toy", store=str(tmp_path / "store"))
        assert json.loads((out / "decision.json").read_text())["last"] == last
        assert (manifest.digest == dataset.load_manifest(tmp_path / letter / "decision").digest) == (letter == "d")


def test_what_cannot_be_compared_with_the_last_is_refused(promoted: Any) -> None:
    promoted("c")
    with pytest.raises(ValueError, match=r"arena's judge: found .* cannot be compared with"):
        promoted("d", Model({}, gain=4.0), wins=0.9, judge="k")


def test_a_model_that_was_tuned_on_from_a_promoted_one_is_of_the_same_base(promoted: Any, tmp_path: Path) -> None:
    first = promoted("c")
    start = {"id": "merged", "sha256": first["sha256"]}
    second = promoted("d", Model({}, gain=4.0), wins=0.9, start=start)
    assert second["base"] == first["base"] and second["previous"] == first["version"]
    made = json.loads((tmp_path / "d" / "decision" / "decision.json").read_text())
    assert made["start"] == first["version"] and made["promote"]
    card = (tmp_path / "d" / "published" / "README.md").read_text()
    assert f"Tuning went on from croco-toy {first['version']}." in card and "- training began from croco-toy" in card
    with pytest.raises(ValueError, match="base model's weights: found EuroEval: b"):
        promoted("e", Model({}, gain=6.0), wins=0.95, start={"id": "merged", "sha256": "f" * 64})


def test_other_weights_than_were_promoted_are_not_published(promoted: Any, tmp_path: Path) -> None:
    first = promoted("c")
    (tmp_path / "c" / "trained" / "merged" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=f"expected {first['version']}, those that were promoted"):
        again(tmp_path)


def test_published_again_it_is_the_same_release(promoted: Any, tmp_path: Path) -> None:
    first = promoted("c")
    opened = open_store(tmp_path / "store")
    before = {entry.name: entry.bytes for entry in opened.entries()}
    again(tmp_path)
    assert {entry.name: entry.bytes for entry in opened.entries()} == before
    assert json.loads((tmp_path / "again" / "release.json").read_text()) == first


def test_what_was_released_is_verified_and_never_removed(promoted: Any, tmp_path: Path, capsys: Any) -> None:
    first, opened = promoted("c"), open_store(tmp_path / "store")
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (0, 0))
    before = {entry.name for entry in opened.entries()}
    storage.Gc("", delete=True).run(opened)
    left = {entry.name for entry in opened.entries()}
    assert {name.split("/")[0] for name in left} == {"aliases", "files", "models", "releases"}
    assert {name.split("/")[0] for name in before - left} >= {"results"}
    storage.Verify("").run(opened)
    assert release.fetch(
        opened,
        release.Release(**opened.read(f"releases/croco-toy/{first['version']}.json") or {}),
        "answers",
        tmp_path / "fetched",
    )
    (Path(first["location"]) / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="found 1 damaged or missing"):
        storage.Verify("").run(opened)
    assert "models/croco-toy" in capsys.readouterr().out


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as takes an upload of small files."""

    log: ClassVar[list[tuple[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://{self.headers['Host']}/me/croco-toy"

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        lines = [json.loads(line) for line in text.decode().splitlines()]
        self.log.append((self.path, lines if len(lines) > 1 else lines[0]))
        if not self.headers.get("Authorization", "").endswith("hub-token-of-a-test"):
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self.answer(200, {"url": self.url})
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in lines[0]["files"]
            ]
            return self.answer(200, {"files": files})
        if "/commit/" in self.path:
            return self.answer(200, {"commitOid": "a" * 40, "commitUrl": f"{self.url}/commit/{'a' * 40}"})
        known = "/tag/" in self.path or self.path == "/api/validate-yaml"
        return self.answer(200 if known else 404, {"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self.answer(200, {"id": "me/croco-toy", "sha": "a" * 40, "siblings": []})

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@pytest.mark.parametrize("token", ["hub-token-of-a-test", "expired-token-of-a-test"])
def test_it_is_uploaded_to_the_hub_with_its_version_as_a_tag(promoted: Any, tmp_path: Path, token: str) -> None:
    first, folder = promoted("c"), tmp_path / "c"
    Hub.log.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done = subprocess.run(
        [sys.executable, "-m", "croco", "publish", "--hub", "me/croco-toy"]
        + [f"--{name}={folder / where}" for name, where in PUBLISHED.items()]
        + ["--data=d", "--name=croco-toy", f"--store={tmp_path / 'store'}", f"--out={tmp_path / 'again'}"],
        env={**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": token},
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    server.shutdown()
    if token.startswith("expired"):
        assert (done.returncode, token in done.stderr) == (1, False)
        assert "croco publish: me/croco-toy: found no such path, and no way to it on the hub" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    commit = next(lines for path, lines in Hub.log if "/commit/" in path)
    sent = {line["value"]["path"] for line in commit if line["key"] == "file"}
    assert sent == {"README.md", "config.json", "model.safetensors"}
    assert next(lines["visibility"] for path, lines in Hub.log if path == "/api/repos/create") == "private"
    assert next(lines["tag"] for path, lines in Hub.log if "/tag/" in path) == first["version"]
    assert json.loads((tmp_path / "again" / "release.json").read_text())["hub_commit"] == "a" * 40


def test_a_name_that_no_server_would_take_is_refused(promoted: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found 'Croco_DA'; expected 2 to 63 lower-case letters"):
        release.check_name("Croco_DA")
