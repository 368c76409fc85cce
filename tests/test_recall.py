"""Recall: the model promoted last, to start from again."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.recall import recall as component
from croco import dataset, models, recall, release
from croco.store import open_store

BASE = {"id": "policy", "chat_template_sha256": "t" * 64}
NAME = "croco-toy"


def model(folder: Path, letter: str) -> Path:
    """A model folder of no use."""
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(letter.encode() * 100)
    (folder / "tokenizer" / "vocab.json").write_text(f'{{"{letter}": 0}}')
    return folder


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def policy(tmp_path: Path) -> str:
    return str(model(tmp_path / "policy", "p"))


@pytest.fixture
def publish(tmp_path: Path, store: str, policy: str) -> Any:
    """publish(letter) -> the model's folder, published with a card, as tuned from the policy."""

    def published(letter: str) -> Path:
        made = model(tmp_path / letter, letter)
        sha256 = models.check_local(made, None)
        (made / "README.md").write_text("# Card\n")
        base = {**BASE, "sha256": models.check_local(Path(policy), None)}
        release.publish(open_store(store), NAME, made, sha256, base=base, evaluations={}, decision={})
        (made / "README.md").unlink()
        return made

    return published


def asked(policy: str, store: str, changed: Mapping[str, Any] = {}) -> tuple[str, str]:
    given: dict[str, Any] = {"start": "last", "name": NAME, "store": store, "policy": policy, "revision": None}
    return recall.resolve_start(**{**given, **changed})


def test_the_last_promoted_model_comes_back_as_it_was_trained(publish: Any, store: str, tmp_path: Path) -> None:
    publish("a")
    newest = publish("b")
    manifest = recall.run(name=NAME, store=store, out=tmp_path / "out")
    merged = tmp_path / "out" / "merged"
    found = {path.relative_to(merged): path.read_bytes() for path in merged.rglob("*") if path.is_file()}
    assert found == {path.relative_to(newest): path.read_bytes() for path in newest.rglob("*") if path.is_file()}
    assert dataset.verify(tmp_path / "out").metrics == {"version": models.check_local(newest, None)[:12]}
    assert manifest.counts == [dataset.Count("files", None, 3, 3)]
    assert recall.weights_of(tmp_path / "out", "policy", "commit") == (str(merged), None)


def test_an_older_one_comes_back_by_its_version(publish: Any, store: str, tmp_path: Path) -> None:
    version = models.check_local(publish("a"), None)[:12]
    publish("b")
    recall.run(name=NAME, store=store, version=version, out=tmp_path / "out")
    assert (tmp_path / "out" / "merged" / "model.safetensors").read_bytes() == b"a" * 100


def test_where_there_is_none_a_run_starts_from_the_policy(policy: str, store: str, tmp_path: Path) -> None:
    assert asked(policy, store) == asked(policy, store, {"start": "policy", "name": ""}) == ("", "")
    found = SimpleNamespace(path=str(tmp_path / "out"))
    metrics = SimpleNamespace(path=str(tmp_path / "metrics"), log_metric=lambda name, value: None)
    component.python_func(name="", version="", found=found, metrics=metrics, store=store)
    assert dataset.verify(tmp_path / "out").files == []
    assert recall.weights_of(tmp_path / "out", "policy", "commit") == ("policy", "commit")
    assert recall.weights_of(None, "policy", "commit") == ("policy", "commit")


def test_a_trained_model_that_is_not_there_is_not_taken_for_the_policy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        recall.weights_of(tmp_path / "nothing", "policy", None)


def test_the_version_is_told_before_anything_is_fetched(publish: Any, policy: str, store: str, tmp_path: Path) -> None:
    made = publish("a")
    version = models.check_local(made, None)[:12]
    publish("b")
    assert asked(policy, store, {"start": version}) == (NAME, version)
    assert asked(policy, store) == (NAME, models.check_local(tmp_path / "b", None)[:12])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"start": "first"}, "start: found 'first'; expected policy, last, or a version of 12"),
        ({"start": "0123456789ab"}, "found no version 0123456789ab of croco-toy; expected one that was promoted"),
        ({"name": ""}, "start: found last, with promote_as empty and store"),
        ({"store": ""}, "start: found last, with promote_as croco-toy and store empty; expected both"),
        ({"nodes": 2}, "start: found last, and 2 nodes that train; expected policy, or a profile with one"),
        ({"name": "Croco"}, "name: found 'Croco'; expected 2 to 63 lower-case letters"),
    ],
)
def test_what_cannot_be_started_from(changed: dict[str, Any], said: str, publish: Any, policy: str, store: str) -> None:
    publish("a")
    with pytest.raises(ValueError, match=said):
        asked(policy, store, changed)


def test_a_line_that_began_with_other_weights_is_refused(publish: Any, store: str, tmp_path: Path) -> None:
    publish("a")
    other = str(model(tmp_path / "other", "o"))
    with pytest.raises(ValueError, match=r"found it tuned from policy \([0-9a-f]{64}\); expected .*other \("):
        asked(other, store)


def test_what_a_kill_left_of_another_version_is_no_part_of_this_one(publish: Any, store: str, tmp_path: Path) -> None:
    publish("a")
    merged = model(tmp_path / "out" / "merged", "z")
    (merged / "more.safetensors").write_bytes(b"z")
    (tmp_path / "out" / "unfinished.json").write_text('{"stage": "recall", "clear": false}')
    recall.run(name=NAME, store=store, out=tmp_path / "out")
    assert not (merged / "more.safetensors").exists() and dataset.verify(tmp_path / "out")


def test_what_is_not_there_or_not_what_was_promoted_is_refused(publish: Any, store: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no model croco-toy that was promoted; expected what `croco publish`"):
        recall.run(name=NAME, store=store, out=tmp_path / "none")
    version = models.check_local(publish("a"), None)[:12]
    with pytest.raises(ValueError, match="found no model croco-toy 0123456789ab"):
        recall.run(name=NAME, store=store, version="0123456789ab", out=tmp_path / "none")
    (Path(store) / "models" / NAME / version / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged: found 100 bytes"):
        recall.run(name=NAME, store=store, out=tmp_path / "out")
