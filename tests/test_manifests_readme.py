"""manifests/README.md: what it names is there, and its commands make what tasks look for."""

import argparse
import contextlib
import io
import re
from pathlib import Path

import pytest
import yaml
from overlays import MANIFESTS, OVERLAYS, README, ROOT, table

from pipelines import __main__ as pipelines
from pipelines import costs, package, profiles, toy


def test_paths_and_anchors_exist() -> None:
    for path in re.findall(r"`((?:base|components|overlays|kubeflow|serving)/[\w./-]*)`", README):
        assert (MANIFESTS / path).exists(), path
    for path in re.findall(r"`(tests/\w+\.py)`|(manifests/[\w./-]+)", README):
        assert (ROOT / "".join(path)).exists(), path
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (MANIFESTS / path).exists(), path
    headings = [line.lstrip("# ").lower() for line in README.splitlines() if line.startswith("##")]
    anchors = {re.sub(r"[^\w-]", "", heading.replace(" ", "-")) for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) <= anchors


def test_every_overlay_has_a_row_and_every_folder_and_component_a_line() -> None:
    assert {row[1] for row in table("The steps")} == set(OVERLAYS)
    tree = re.split(r"^```$", README, flags=re.MULTILINE)[1]
    listed = set(re.findall(r"^([\w.]+)/? {2,}", tree, re.MULTILINE))
    there = {path.name for path in MANIFESTS.iterdir() if not path.name.startswith(".")}
    assert listed == there - {"README.md"}
    for component in (MANIFESTS / "components").iterdir():
        assert f"\n  {component.name}/ " in tree


def test_every_placeholder_is_explained() -> None:
    texts = "".join(path.read_text() for path in MANIFESTS.rglob("*.yaml"))
    placeholders = set(re.findall(r"CHANGE-ME-[A-Z-]*[A-Z]", texts))
    assert len(placeholders) == 7
    assert all(f"`{placeholder}`" in README for placeholder in placeholders)


def test_commands_make_the_secrets_that_tasks_look_for() -> None:
    commands = README.replace("\\\n", " ")
    made: dict[str, set[str]] = {}
    for name, given in re.findall(r"create secret generic ([\w-]+)(.+)", commands):
        made.setdefault(name, set()).update(re.findall(r"--from-\w+=(\w+)=", given))
    assert made == {
        "mlpipeline-minio-artifact": {"accesskey", "secretkey"},
        profiles.STORE_SECRET: {"accesskey", "secretkey", "endpoint", "region"},
        profiles.HF_SECRET: {"token"},
        "croco-serve": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},  # KServe's, in a namespace of its own
    }


def test_the_stores_keys_are_those_that_are_read() -> None:
    [keys] = [row[1] for row in table("Secrets") if row[0] == profiles.STORE_SECRET]
    source = (ROOT / "croco" / "connection.py").read_text()
    for key in re.findall(r"[\w.]+", keys.replace("also", "")):
        assert f'"{key}"' in source, key


@pytest.mark.parametrize("flags", [[], ["--profile", "gpu-80gb"]])
def test_the_tables_of_profiles_are_what_the_command_prints(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert pipelines.main(["profiles", *flags]) == 0
    command = "    " + " ".join(["python -m pipelines profiles", *flags])
    printed = capsys.readouterr().out
    assert f"{command}\n\n{printed}" in README, f"write into manifests/README.md what it prints:\n{printed}"


def test_the_quota_for_training_on_several_nodes_is_what_it_holds_at_once() -> None:
    [quota] = re.findall(r"ResourceQuota to (\d+): two nodes", README)
    assert int(quota) == costs.at_once(profiles.PROFILES["nodes-2x8x80gb"], 7)


def test_kind_runs_the_toy_world() -> None:
    given = yaml.safe_load((MANIFESTS / "overlays/kind/params.yaml").read_text())
    assert given == toy.parameters(Path("/models/toy")) | {"store": "s3://croco/store"}


def test_commands_have_the_flags_that_they_are_given() -> None:
    given = set(re.findall(r"--[a-z-]+", " ".join(re.findall(r"python -m pipelines .+|FLAGS=.+|`FLAGS`[^.]+", README))))
    known = io.StringIO()
    for command in ("preflight", "submit", "schedule", "profiles"):
        with contextlib.redirect_stdout(known), contextlib.suppress(SystemExit):
            pipelines.main([command, "--help"])
    assert given - set(re.findall(r"--[a-z-]+", known.getvalue())) == set()


def test_every_flag_for_a_cluster_is_in_the_list() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    package.add_compile_flags(parser)
    known = set(re.findall(r"^  (--[a-z-]+)", parser.format_help(), re.MULTILINE))
    listed = set(re.findall(r"^- `(--[a-z-]+)`", README.split("\n**4. ")[1].split("\n**5. ")[0], re.MULTILINE))
    assert listed == known - {"--allow-tags", "--config"}, "kind's, which is said there, and a study's"
