"""Studies: what a YAML file describes, and that every mistake in it is found with its key and file."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import studies
from pipelines.arms import Study

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "pipelines" / "configs").glob("*.yaml"))
DEFAULTS = studies.defaults()
PAIRED = {"name": "paired", "source": "paper", "says": "pairs"}
STUDY: dict[str, Any] = {
    "name": "small",
    "parameters": {"languages": {"value": ["en", "de", "fr"], "source": "ours"}},
    "policies": {"first": {}, "second": {"policy": "some/other"}},
    "samplers": {"third": {"policy": "a/third"}},
    "aligner": {"value": {"model": "some/translator"}, "source": "assumed"},
    "seeds": {"value": [0, 1], "source": "ours"},
    "arms": [
        PAIRED,
        {"name": "sft", "source": "paper", "says": "best", "method": "sft", "pool": "all", "seeds": [7]},
        {"name": "off", "source": "assumed", "says": "other's", "sampler": "second", "off_policy": True},
        {"name": "again", "source": "ours", "says": "twice", "from": "paired"},
    ],
    "claims": [{"name": "it", "says": "so", "better": "paired", "worse": "base", "measure": "arena"}],
}


def read(tmp_path: Path, content: Any) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return studies.read(path, DEFAULTS)


def changed(**arm: Any) -> dict[str, Any]:
    """STUDY with one more arm, `new`."""
    return {**STUDY, "arms": [*STUDY["arms"], {"name": "new", "source": "ours", "says": "new", **arm}]}


def test_a_study_has_the_pipelines_parameters_and_each_policy_its_own(tmp_path: Path) -> None:
    study = read(tmp_path, STUDY)
    assert study.parameters == {**DEFAULTS, "languages": ["en", "de", "fr"]}
    assert study.of("second")["policy"] == "some/other"
    assert study.of("third")["policy"] == "a/third"
    assert study.of("first") == study.parameters
    assert study.sources == {"languages": "ours", "aligner": "assumed", "seeds": "ours"}


def test_an_arm_has_the_studys_seeds_unless_it_names_its_own(tmp_path: Path) -> None:
    arms = {arm.name: arm for arm in read(tmp_path, STUDY).arms}
    assert {name: arm.seeds for name, arm in arms.items()} == {
        "paired": (0, 1), "sft": (7,), "off": (0, 1), "again": (0, 1),
    }  # fmt: skip
    assert (arms["sft"].method, arms["sft"].completion, arms["sft"].pool) == ("sft", "best", "all")
    assert arms["again"].start == "paired"


def test_an_arm_that_takes_a_policys_answers_is_not_run_with_that_policy(tmp_path: Path) -> None:
    study = read(tmp_path, STUDY)
    assert [arm.name for arm in study.arms_of("first")] == ["paired", "sft", "off", "again"]
    assert [arm.name for arm in study.arms_of("second")] == ["paired", "sft", "again"]


def test_one_arm_for_each_language_is_as_many_arms(tmp_path: Path) -> None:
    study = read(tmp_path, changed(each_language=True, languages=["de", "fr"]))
    assert [(arm.name, arm.languages) for arm in study.arms[-2:]] == [("new-de", ("de",)), ("new-fr", ("fr",))]
    everywhere = read(tmp_path, changed(each_language=True))
    assert [arm.name for arm in everywhere.arms[-3:]] == ["new-en", "new-de", "new-fr"]


def test_the_report_is_told_of_arms_claims_and_where_values_come_from(tmp_path: Path) -> None:
    plan = read(tmp_path, changed(k=1.5, n=16)).plan("first")
    assert plan["name"] == "small: first"
    assert plan["arms"][0] == {"name": "paired", "says": "pairs", "seeds": [0, 1], "languages": []}
    assert plan["claims"] == [{**STUDY["claims"][0], "languages": []}]
    assert {"name": "languages", "value": "['en', 'de', 'fr']", "source": "ours"} in plan["values"]
    assert {"name": "new", "value": "k 1.5, n 16", "source": "ours"} in plan["values"]
    assert {"name": "seeds", "value": "again 0 1, new 0 1, off 0 1, paired 0 1, sft 7", "source": "ours"} in plan[
        "values"
    ]
    assert {"name": "aligner", "value": "{'model': 'some/translator'}", "source": "assumed"} in plan["values"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_study_that_is_shipped_can_be_read(path: Path) -> None:
    world = {"languages": ["en", "de", "fr", "es"]} if path.stem == "toy" else {}
    study = studies.read(path, {**DEFAULTS, **world}, ROOT / ".cache" / "toy")
    assert study.arms and study.claims
    assert study.name == path.stem
    if path.stem not in ("toy", "languages"):
        decoded = ("temperature", "top_p", "top_k", "max_tokens", "learning_rate", "n", "reward", "translator")
        assert {study.sources[name] for name in decoded} <= {"paper", "reference code"}


@pytest.mark.parametrize("name", ["eurollm", "tiny-aya"])
def test_the_papers_study_has_every_arm_of_it(name: str) -> None:
    study = studies.read(ROOT / "pipelines" / "configs" / f"{name}.yaml", DEFAULTS)
    paired = [arm for arm in study.arms if arm.method == "dpo" and arm.scorer == "reward" and not arm.off_policy]
    assert {arm.k for arm in paired} == {1.0, 2.0, 3.0}
    assert {arm.rejected_target for arm in paired} == {"mean-2std", "q1", "min"}
    assert {arm.prompt_source for arm in paired} == {"chosen", "rejected", "random"}
    assert {arm.n for arm in paired} == {None, 4, 8, 16, 32} and study.parameters["n"] == 64
    assert {(arm.method, arm.pool) for arm in study.arms if arm.completion == "best"} >= {
        ("dpo", "language"), ("dpo", "all"), ("sft", "language"), ("sft", "all"),
    }  # fmt: skip
    references = [arm.languages for arm in study.arms if arm.completion == "reference"]
    assert sorted(references) == sorted([(), *((code,) for code in study.parameters["languages"])])
    assert {arm.scorer for arm in study.arms} == {"reward", "mapo", "icr"} and ("en",) in {a.languages for a in paired}
    assert [arm.n for arm in study.arms if arm.method == "online"] == [16]
    assert any(arm.off_policy for arm in study.arms) and any(arm.start == "icr-1" for arm in study.arms)
    assert set(study.held_out) == {"no", "pt", "sv", "fi"}


def test_the_toy_study_has_eight_arms_or_more_and_three_seeds_of_the_main_ones() -> None:
    study = studies.read(
        ROOT / "pipelines" / "configs" / "toy.yaml", {**DEFAULTS, "languages": ["en", "de", "fr", "es"]}, ROOT
    )
    seeds = {arm.name: len(arm.seeds) for arm in study.arms}
    assert len(seeds) >= 8
    assert {name for name, number in seeds.items() if number == 3} == {"paired-mono", "sft-references"}
    assert {claim.name for claim in study.claims} >= {
        "forgetting", "best-of-n", "on-policy", "prompt-language", "english-reward",
    }  # fmt: skip


MISTAKES = {
    "an unknown key": ({**STUDY, "arm": []}, "arm: found 'arm'; expected one of name, parameters"),
    "an unknown parameter": (
        {**STUDY, "parameters": {"polici": {"value": "x", "source": "ours"}}},
        "parameters.polici: found 'polici'; expected a parameter of croco-preference",
    ),
    "a value without its source": (
        {**STUDY, "parameters": {"n": 64}}, "parameters.n: found 64; expected {value: ..., source: ...} with",
    ),
    "a source that is none": (
        {**STUDY, "parameters": {"n": {"value": 64, "source": "me"}}}, "parameters.n: found {'value': 64",
    ),
    "an unknown key of an arm": (changed(scorers="icr"), "arms[4].scorers: found 'scorers'; expected one of name"),
    "an arm without a line on what it is": (
        {**STUDY, "arms": [{"name": "x", "source": "ours"}]}, "arms[0].says: found None; expected a value",
    ),
    "a value of another type": (changed(n="16"), "arms[4].n: found '16'; expected a value of type"),
    "no arm": ({**STUDY, "arms": [], "claims": []}, "arms: found []; expected one arm or more"),
    "two arms of a name": (changed(name="sft"), "expected names that are each given once"),
    "an arm that is called base": (changed(name="base"), "arms and policies: found 'base'"),
    "an unknown method": (changed(method="ppo"), "arms.new.method: found 'ppo'; expected one of dpo, sft, online"),
    "more answers than there are": (changed(n=65), "arms.new.n: found 65; expected 2 to 64, the answers"),
    "a language that is not tuned in": (changed(languages=["es"]), "arms.new.languages: found 'es'; expected one of"),
    "an arm that nobody makes": (
        changed(**{"from": "nobody"}), "arms.new.from: found 'nobody'; expected an arm of the study, of paired, sft",
    ),
    "a model that is not made for that seed": (
        changed(**{"from": "sft"}), "arms.new.from: found 'sft'; expected an arm with seeds [0, 1] too",
    ),
    "a circle": (
        {**STUDY, "arms": [{**PAIRED, "from": "b"}, {**PAIRED, "name": "b", "from": "paired"}]},
        "arms.paired.from: found 'paired < b < paired'; expected no circle",
    ),
    "another model's answers by accident": (
        changed(sampler="second"), "arms.new.off_policy: found False; expected true, for the answers are to be",
    ),
    "off-policy without another model": (
        changed(off_policy=True), "arms.new.sampler: found ''; expected another model of the study, of first",
    ),
    "off-policy with the policy's own answers": (
        {**changed(sampler="policy", off_policy=True), "policies": {"policy": {}}, "arms": [
            {**PAIRED, "sampler": "policy", "off_policy": True}]},
        "arms.paired.sampler: found 'policy'; expected another model of the study",
    ),
    "an implicit reward of nobody": (changed(scorer="icr"), "arms.new.scorer: found 'icr'; expected `from`, an arm"),
    "an alignment without a translator": (
        {name: value for name, value in changed(scorer="mapo").items() if name != "aligner"},
        "arms.new.scorer: found 'mapo'; expected a translation model",
    ),
    "an alignment without English": (
        {**changed(scorer="mapo"), "parameters": {"languages": {"value": ["de", "fr"], "source": "ours"}}},
        "arms.new.scorer: found 'mapo'; expected en among the study's languages",
    ),
    "a language without a translator": (
        {**STUDY, "parameters": {"languages": {"value": ["en", "mt"], "source": "ours"}}},
        "languages: found 'mt'; expected a language that the translator is known to support",
    ),
    "a held-out language that is tuned in": (
        {**STUDY, "held_out": {"value": ["de"], "source": "paper"}}, "held_out: found 'de'; expected a",
    ),
    "seeds that are none": (changed(seeds=[0, 0]), "arms.new.seeds: found (0, 0); expected whole numbers from 0 on"),
    "SFT by a scorer that it does not ask": (
        changed(method="sft", scorer="mapo"), "arms.new.scorer: found 'mapo'; expected none of its own: `sft`",
    ),
    "online with languages of its own": (
        changed(method="online", languages=["de"]), "arms.new.languages: found ('de',); expected none of its own",
    ),
    "a claim about an arm that is not there": (
        {**STUDY, "claims": [{**STUDY["claims"][0], "better": "x"}]}, "claims.it.better: found 'x'; expected",
    ),
    "a claim by a measure that is none": (
        {**STUDY, "claims": [{**STUDY["claims"][0], "measure": "x"}]}, "claims.it.measure: found 'x'",
    ),
    "the oracle of no toy world": (
        {**STUDY, "claims": [{**STUDY["claims"][0], "measure": "oracle"}]}, "expected it only with oracle: true",
    ),
    "a parameter that arms have": (
        {**STUDY, "parameters": {"k": {"value": 1.0, "source": "ours"}}}, "parameters.k: found 'k'; expected",
    ),
    "a number that YAML takes for text": (
        {**STUDY, "parameters": {"learning_rate": {"value": "5e-6", "source": "ours"}}},
        "parameters.learning_rate: found '5e-6'; expected a value of type Float; YAML reads 1e-6 as text",
    ),
    "a policy with languages of its own": (
        {**STUDY, "policies": {"first": {"languages": ["de"]}}}, "policies.first: found 'languages'; expected values",
    ),
    "a sampler that is the policy": (
        {**changed(sampler="third", off_policy=True), "samplers": {"third": {}}},
        "arms.new.sampler: found 'third'; expected another model than first",
    ),
    "a name that is policy and sampler": (
        {**STUDY, "samplers": {"first": {}}}, "samplers: found ['first']; expected names that no policy has",
    ),
    "no standard deviation": (changed(k=0), "arms.new.k: found 0; expected a number above 0"),
    "a reference that has no use for n": (
        changed(method="sft", completion="reference", n=4), "arms.new.n: found 4; expected none of its own: `sft`",
    ),
    "an implicit reward of SFT": (
        changed(scorer="icr", seeds=[7], **{"from": "sft"}), "arms.new.from: found 'sft'; expected an arm tuned by DPO",
    ),
    "a claim about one arm": (
        {**STUDY, "claims": [{**STUDY["claims"][0], "worse": "paired"}]}, "claims.it: found 'paired'; expected two",
    ),
    "a claim given twice": (
        {**STUDY, "claims": 2 * STUDY["claims"]}, "claims: found ['it', 'it']; expected names that are each given once",
    ),
    "the toy world where there is none": ("name: {toy}", "found {toy}; expected it only where a study is run here"),
    "a scoring translator's unknown key": (
        {**STUDY, "aligner": {"value": {"model": "x", "frmat": "google"}, "source": "ours"}},
        "aligner.frmat: found 'google'; expected text, of model, revision, format",
    ),
    "a scoring translator that is asked in no known way": (
        {**STUDY, "aligner": {"value": {"model": "x", "format": "gogle"}, "source": "ours"}},
        "aligner.format: found 'gogle'; expected one of google, infomaniak",
    ),
    "seeds without a source": ({**STUDY, "seeds": [0]}, "seeds: found [0]; expected {value: ..., source: ...} with"),
    "a policy that is no mapping": ({**STUDY, "policies": {"first": "x/y"}}, "policies.first: found 'x/y'; expected"),
    "a study from a promoted model": (
        {**STUDY, "parameters": {"start": {"value": "last", "source": "ours"}}}, "parameters.start: found 'start'",
    ),
    "a key given twice": ("name: a\nname: b\n", "study.yaml:1: found no YAML (key 'name' twice)"),
    "no mapping": (["paired"], "study: found ['paired']; expected keys of name"),
    "no YAML": ("arms: [", "study.yaml:1: found no YAML"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_refused_before_anything_runs(tmp_path: Path, content: Any, expected: str) -> None:
    with pytest.raises(ValueError) as refused:
        read(tmp_path, content)
    assert str(refused.value).startswith(str(tmp_path / "study.yaml"))
    assert expected in str(refused.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"arms\.new\.method.*arms\.new\.scorer"):
        read(tmp_path, changed(method="ppo", scorer="me"))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected the YAML of a study"):
        studies.read(tmp_path / "none.yaml", DEFAULTS)
