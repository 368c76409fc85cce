"""Manifests: the example that serves a promoted model; test_manifests.py has the checks that all share."""

from pathlib import Path

from overlays import README, objects

from croco.release import Release
from croco.store import open_store


def test_a_release_lies_where_the_example_looks_for_it(tmp_path: Path) -> None:
    (service,) = [one for one in objects("serving") if one["kind"] == "InferenceService"]
    place = service["spec"]["predictor"]["model"]["storageUri"]
    release = Release("NAME", "VERSION", "", {}, [], {}, {}, None)
    assert place == release.location(open_store(f"{tmp_path}/PREFIX")).replace(str(tmp_path), "s3://BUCKET")


def test_the_example_serves_with_a_gpu_and_without_rights() -> None:
    kinds = {one["kind"]: one for one in objects("serving")}
    assert set(kinds) == {"Namespace", "ServiceAccount", "InferenceService"}, "the Secret is made by hand"
    predictor = kinds["InferenceService"]["spec"]["predictor"]
    assert predictor["model"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert predictor["model"]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert predictor["serviceAccountName"] == kinds["ServiceAccount"]["metadata"]["name"]
    assert f"secret generic {kinds['ServiceAccount']['secrets'][0]['name']}" in README
