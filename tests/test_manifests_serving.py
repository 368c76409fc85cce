"""Manifests: the example that serves a promoted model."""

from pathlib import Path
from typing import Any

import yaml
from overlays import MANIFESTS, README, tool

from croco.release import Release
from croco.store import open_store


def built() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(tool("kubectl", "kustomize", MANIFESTS / "serving")))


def test_a_release_lies_where_the_example_looks_for_it(tmp_path: Path) -> None:
    (service,) = [one for one in built() if one["kind"] == "InferenceService"]
    place = service["spec"]["predictor"]["model"]["storageUri"]
    release = Release("NAME", "VERSION", "", {}, [], {}, {}, None)
    assert place == release.location(open_store(f"{tmp_path}/PREFIX")).replace(str(tmp_path), "s3://BUCKET")


def test_the_example_serves_with_a_gpu_and_without_rights() -> None:
    kinds = {one["kind"]: one for one in built()}
    assert set(kinds) == {"Namespace", "ServiceAccount", "InferenceService"}, "the Secret is made by hand"
    predictor = kinds["InferenceService"]["spec"]["predictor"]
    assert predictor["model"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert predictor["model"]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert predictor["serviceAccountName"] == kinds["ServiceAccount"]["metadata"]["name"]
    assert f"secret generic {kinds['ServiceAccount']['secrets'][0]['name']}" in README


def test_kubernetes_takes_what_it_knows_of_the_example(tmp_path: Path) -> None:
    path = tmp_path / "built.yaml"
    path.write_text(yaml.safe_dump_all(built()))
    said = tool("kubernetes-validate", "--strict", "--quiet", "-k", "1.34", path).splitlines()
    assert ["InferenceService" in line for line in said] == [True], "KServe's own kind, and no other, has no schema"
