"""Study: what claims come to, what pages show, and what is refused before anything is shown."""

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tyro

from components.study import study as component
from croco import dataset, study
from croco.page.frame import framed
from croco.study import StudyConfig
from tests.conftest import DatasetOf

HOSTILE = "<script>alert(1)</script>|`x`\u202e"
CONFIG = StudyConfig(repetitions=1000)
ARMS = {HOSTILE: (0, 1, 2), "worse": (0, 1), "same": (0,)}
Rows = list[dict[str, Any]]


def row(arm: str, seed: int, measure: str, language: str, item: str, value: float) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "measure": measure, "language": language, "item": item, "value": value}


def outcomes() -> Rows:
    """The first arm gains .4 of quality and 3 points, the second loses as much, the third is the base with noise."""
    rng, found = np.random.default_rng(0), []
    gains = {"base": 0.0, HOSTILE: 0.4, "worse": -0.4, "same": 0.0}
    for code in ("da", "de"):
        hard, scores = rng.normal(size=24), rng.normal(50, 3, (2, 4))
        for arm, gain in gains.items():
            for seed in ARMS.get(arm, (0,)):
                quality = hard + gain + rng.normal(0, 0.1, 24)
                for at, value in enumerate(quality):
                    item = f"q{at}"
                    found += [row(arm, seed, "oracle", code, item, value)]
                    found += [row(arm, seed, "reward", code, item, 2 * value + 1)]
                    found += [row(arm, seed, "fidelity", code, item, float(at != 3))]
                    if arm != "base":
                        better = float(np.clip(0.5 + gain + (at % 2 - 0.5) / 2, 0, 1))
                        found += [row(arm, seed, "arena", code, item, better)]
                for name, of_name in zip("xy", scores, strict=True):
                    for at, score in enumerate(of_name + 7.5 * gain + rng.normal(0, 0.5, 4)):
                        found += [row(arm, seed, f"euroeval/{name}", code, str(at), score)]
                if arm != "base":
                    found += [row(arm, seed, "length_controlled", code, "", 0.5 + gain / 2)]
    costs = {"shared": 3600.0, HOSTILE: 60.0, "worse": 30.0}
    for arm, seconds in costs.items():
        for seed in ARMS.get(arm, (0,)):
            found += [row(arm, seed, "cost/train/seconds", "all", "", seconds)]
            found += [row(arm, seed, "cost/train/gpu_seconds", "all", "", seconds / 2)]
    return found


def plan(**changed: Any) -> dict[str, Any]:
    arms = [
        {"name": arm, "says": "an <i>arm</i> | of many", "seeds": list(seeds), "languages": None}
        for arm, seeds in ARMS.items()
    ]
    arms[1]["languages"] = ["da"]
    claims = [
        claim("gains", HOSTILE, "worse", "oracle"),
        claim("loses", "worse", "base", "euroeval"),
        claim("equal", "same", "base", "oracle"),
        claim("judged", HOSTILE, "base", "arena", ["da"]),
        claim("turned", "base", HOSTILE, "arena"),
    ]
    values = [{"name": "beta", "value": "0.1", "source": "paper"}, {"name": "|", "value": "<b>", "source": "assumed"}]
    return {"name": "A <b>study</b> | of arms", "arms": arms, "claims": claims, "values": values} | changed


def claim(name: str, better: str, worse: str, measure: str, languages: list[str] | None = None) -> dict[str, Any]:
    says = f"{name} | <script>"
    return {"name": name, "says": says, "better": better, "worse": worse, "measure": measure, "languages": languages}


@pytest.fixture
def made(dataset_of: DatasetOf, tmp_path: Path) -> Path:
    study.run(outcomes=dataset_of("outcomes", outcomes()), plan=plan(), out=tmp_path / "out", config=CONFIG)
    return tmp_path / "out"


@pytest.fixture
def numbers(made: Path) -> dict[str, Any]:
    return json.loads((made / "study.json").read_text(encoding="utf-8"))


def test_claims_agree_disagree_or_cannot_be_told(made: Path, numbers: dict[str, Any]) -> None:
    found = {one["name"]: one for one in numbers["claims"]}
    assert {name: study.AGREES[one["verdict"]] for name, one in found.items()} == {
        "gains": "agrees", "loses": "disagrees", "equal": "cannot tell", "judged": "agrees", "turned": "disagrees",
    }  # fmt: skip
    assert found["gains"]["value"] == pytest.approx(0.8, abs=0.05) and found["gains"]["low"] > 0
    assert (found["gains"]["n"], found["gains"]["clusters"], found["gains"]["seeds"]) == (48, 24, [3, 2])
    assert found["loses"]["value"] == pytest.approx(-3, abs=0.5) and found["loses"]["n"] == 4
    assert found["judged"]["n"] == 24
    manifest = dataset.load_manifest(made)
    assert manifest.metrics["claims"] == {"agrees": 2, "disagrees": 2, "cannot_tell": 1}


def test_differences_are_to_the_base_by_language_with_seeds_as_n(numbers: dict[str, Any]) -> None:
    arena = next(one for one in numbers["differences"] if one["measure"] == "arena")
    (first, second, third) = arena["rows"]
    wins = [min(max(0.9 + (at % 2 - 0.5) / 2, 0), 1) for at in range(24)]
    assert first["cells"]["da"]["value"] == pytest.approx(np.mean(wins) - 0.5)
    assert first["cells"]["all"]["verdict"] == "higher" and first["cells"]["all"]["n"] == 48
    assert second["cells"]["de"]["verdict"] == "lower" and second["cells"]["de"]["seeds"] == [2, 1]
    assert third["cells"]["da"]["value"] == 0 and third["cells"]["da"]["verdict"] == "no evidence"
    controlled = next(one for one in numbers["differences"] if one["measure"] == "length_controlled")
    assert controlled["rows"][0]["cells"]["da"]["value"] == pytest.approx(0.2)
    assert (
        controlled["rows"][0]["cells"]["da"]["verdict"] == "unknown" and controlled["rows"][0]["cells"]["all"] is None
    )


def test_matching_is_not_being_lower_beyond_the_interval(numbers: dict[str, Any]) -> None:
    counted = {
        (row["measure"], row["arm"]): [row[name] for name in ("matches", "of", "higher", "lower", "untold")]
        for row in numbers["matches"]
    }
    assert counted["oracle", HOSTILE] == [2, 2, 2, 0, 0]
    assert counted["oracle", "worse"] == [0, 2, 0, 2, 0]
    assert counted["arena", "same"] == [2, 2, 0, 0, 0]
    assert counted["length_controlled", "same"] == [0, 0, 0, 0, 2]


def test_fidelity_rewards_and_cost_are_what_was_measured(numbers: dict[str, Any]) -> None:
    base, first, *_ = numbers["fidelity"]
    assert base["cells"]["da"] == {"share": pytest.approx(23 / 24), "n": 24, "change": None}
    assert first["cells"]["all"]["share"] == pytest.approx(23 / 24) and first["cells"]["all"]["change"]["value"] == 0
    rewards = numbers["rewards"]
    assert rewards["measures"] == ["reward", "oracle", "arena", "euroeval"]
    assert [(run["arm"], run["seed"]) for run in rewards["runs"]] == [
        (arm, seed) for arm, seeds in ARMS.items() for seed in seeds
    ]
    for run in rewards["runs"]:
        assert run["reward"] == pytest.approx(2 * run["oracle"], abs=1e-6)
    assert [row["n"] for row in rewards["correlations"]] == [3, 3, 3]
    assert rewards["correlations"][0] | {"measure": ""} == {
        "measure": "", "n": 3, "rho": 1, "p_value": pytest.approx(1 / 3), "verdict": "no evidence",
    }  # fmt: skip
    spent = {one["arm"]: one for one in numbers["cost"]}
    assert list(spent) == [*ARMS, "shared"]
    assert (spent[HOSTILE]["seconds"], spent[HOSTILE]["gpu_seconds"], spent[HOSTILE]["tokens_in"]) == (180, 90, None)
    assert (spent["shared"]["seconds"], spent["shared"]["seeds"], spent["same"]["stages"]) == (3600, None, [])


def test_hostile_text_is_escaped_on_both_pages(made: Path) -> None:
    page, text = ((made / name).read_text(encoding="utf-8") for name in ("study.html", "study.md"))
    for written in (page, text):
        assert "<script" not in written and "<i>arm" not in written and "<b>" not in written
        assert "\u202e" not in written and "&lt;script&gt;" in written
    assert "src=" not in page and not re.findall(r"https?://", page)
    assert "\\|\\`x\\`" in text
    tables = [part.splitlines() for part in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) >= 10
    for table in tables:  # a bar in a name adds no column
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table[0]


def test_every_claim_difference_and_setting_is_on_both_pages(made: Path, numbers: dict[str, Any]) -> None:
    page = html.unescape((made / "study.html").read_text(encoding="utf-8"))
    text = html.unescape((made / "study.md").read_text(encoding="utf-8"))
    for written in (page, text):
        for words in ("gains: agrees.", "loses: disagrees.", "equal: cannot tell.", "assumed", "without a correction"):
            assert words in written, words
        for one in numbers["differences"]:
            for arm in one["rows"]:
                for cell in filter(None, arm["cells"].values()):
                    assert study.study_charts.gain(cell["value"], one["measure"]) in written
    assert page.count("<svg") >= 6 and "°" in page


def test_the_same_outcomes_and_plan_give_the_same_bytes(dataset_of: DatasetOf, tmp_path: Path) -> None:
    given = dataset_of("outcomes", outcomes())
    (tmp_path / "plan.json").write_text(json.dumps(plan()), encoding="utf-8")
    first = study.run(outcomes=given, plan=plan(), out=tmp_path / "a", config=CONFIG)
    again = study.run(outcomes=given, plan=tmp_path / "plan.json", out=tmp_path / "b", config=CONFIG)
    assert first.digest == again.digest


def test_a_finished_study_comes_from_the_store_unless_the_plan_is_another(
    dataset_of: DatasetOf, tmp_path: Path
) -> None:
    given, store = dataset_of("outcomes", outcomes()), str(tmp_path / "store")
    made = [
        study.run(outcomes=given, plan=meant, out=tmp_path / out, store=store, config=CONFIG)
        for out, meant in (("a", plan()), ("b", plan()), ("c", plan(name="other")))
    ]
    assert made[1].ledger[0].seconds == made[0].ledger[0].seconds != made[2].ledger[0].seconds
    assert (tmp_path / "c" / "study.md").read_bytes() != (tmp_path / "a" / "study.md").read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: [r for r in rows if r["arm"] != "same"], r"no outcome of same \(seed 0\); expected all"),
        (lambda rows: [r for r in rows if (r["arm"], r["seed"]) != ("worse", 1)], r"no outcome of worse \(seed 1\)"),
        (lambda rows: [*rows, row("new", 0, "arena", "da", "q0", 1)], r"outcomes of new \(seed 0\); expected only"),
        (lambda rows: [r for r in rows if r["arm"] != "base"], "found no outcome of base"),
        (lambda rows: [*rows, row("same", 0, "speed", "da", "q0", 1)], "found measure 'speed'; expected one of"),
        (lambda rows: [*rows, row("same", 0, "cost/train/euros", "all", "", 1)], "found measure 'cost/train/euros'"),
        (lambda rows: [*rows, row("same", 0, "oracle", "da", "q99", float("nan"))], "found nan as oracle of same"),
        (lambda rows: [*rows, rows[0]], "found 2 rows with"),
    ],
)
def test_outcomes_that_are_not_the_plans_are_refused(
    change: Callable[[Rows], Rows], says: str, dataset_of: DatasetOf, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        study.run(outcomes=dataset_of("outcomes", change(outcomes())), plan=plan(), out=tmp_path / "out", config=CONFIG)


def with_arm(**changed: Any) -> dict[str, Any]:
    return plan(arms=[plan()["arms"][0] | changed], claims=[])


def with_claim(**changed: Any) -> dict[str, Any]:
    return plan(claims=[plan()["claims"][0] | changed])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (plan(sedes=1), "plan: found key 'sedes'; expected one of arms, claims, name, values"),
        ({"name": "x"}, "plan: found no 'arms'; expected arms, name"),
        (plan(arms=[], claims=[]), "plan: found no arm; expected one or more"),
        (plan(arms={}), "plan: arms: found {}; expected a list"),
        (plan(name=" "), "plan: name: found ' '; expected text"),
        (with_arm(speed=1), r"plan: arms\[0\]: found key 'speed'"),
        (with_arm(name="base"), r"arms\[0\]: found 'base'; expected another name"),
        (with_arm(seeds=[]), r"seeds: found \[\]; expected a list of one or more whole numbers"),
        (with_arm(seeds=[True]), r"seeds: found \[True\]"),
        (with_arm(seeds=[1, 1]), r"seeds: found \[1, 1\]; expected each once"),
        (with_arm(languages=["xx"]), r"arms\[0\]: language: found 'xx'"),
        (plan(arms=[plan()["arms"][1]] * 2, claims=[]), "arms: found 'worse' twice"),
        (with_claim(better="best"), r"claims\[0\]: better: found 'best'; expected one of"),
        (with_claim(measure="euroeval/x"), r"measure: found 'euroeval/x'; expected one of euroeval, arena"),
        (with_claim(worse=HOSTILE), "on both sides; expected two arms"),
        (with_claim(languages="da"), "languages: found 'da'; expected a list of codes, or null"),
        (plan(values=[{"name": "a", "value": "b", "source": "hearsay"}]), "source: found 'hearsay'; expected one of"),
        (plan(values=[{"name": "a", "value": 1, "source": "ours"}]), "value: found 1; expected text"),
    ],
)
def test_a_plan_that_says_something_else_is_refused_naming_where(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        study.read_plan(given)


def test_a_plan_needs_no_claims_and_its_numbers_may_come_from_kubeflow(tmp_path: Path) -> None:
    found = study.read_plan({"name": "x", "arms": [{"name": "a", "says": "b", "seeds": [0.0, 1.0]}]})
    assert found["arms"] == [{"name": "a", "says": "b", "seeds": [0, 1], "languages": None}]
    assert (found["claims"], found["values"]) == ([], [])
    assert study.read_plan(with_arm(languages=[]))["arms"][0]["languages"] is None
    (tmp_path / "plan.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"plan\.json: found .* expected a JSON object"):
        study.read_plan(tmp_path / "plan.json")


def test_what_was_not_measured_is_said_to_be_missing(dataset_of: DatasetOf, tmp_path: Path) -> None:
    only = [one for one in outcomes() if one["measure"] == "oracle"]
    study.run(outcomes=dataset_of("outcomes", only), plan=plan(), out=tmp_path / "out", config=CONFIG)
    page = (tmp_path / "out" / "study.html").read_text(encoding="utf-8")
    assert page.count("Not part of this run") == 2  # fidelity, rewards
    numbers = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    judged = next(one for one in numbers["claims"] if one["name"] == "judged")
    assert (judged["value"], judged["verdict"]) == (None, "unknown")


def test_items_that_a_seed_lacks_are_left_out_and_said_to_be(dataset_of: DatasetOf, tmp_path: Path) -> None:
    lacking = [
        one for one in outcomes()
        if (one["arm"], one["seed"], one["measure"], one["language"], one["item"]) != (HOSTILE, 1, "oracle", "da", "q5")
    ]  # fmt: skip
    study.run(outcomes=dataset_of("outcomes", lacking), plan=plan(), out=tmp_path / "out", config=CONFIG)
    for name in ("study.html", "study.md"):
        assert "1 items left out" in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_the_command_line_takes_the_plan_as_a_file(dataset_of: DatasetOf, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(plan()), encoding="utf-8")
    flags = ["--outcomes", str(dataset_of("outcomes", outcomes())), "--plan", str(tmp_path / "plan.json")]
    tyro.cli(
        study.run,
        args=[*flags, "--out", str(tmp_path / "out"), "--repetitions", "1000"],
        config=(tyro.conf.OmitArgPrefixes,),
    )
    assert (tmp_path / "out" / "study.html").is_file()


def test_the_component_hands_on_page_summary_and_metrics(dataset_of: DatasetOf, tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("report", "page", "summary", "metrics")}
    artifacts = {name: SimpleNamespace(path=str(path), log_metric=lambda *_: None) for name, path in paths.items()}
    given = SimpleNamespace(path=str(dataset_of("outcomes", outcomes())))
    component.python_func(outcomes=given, plan=json.dumps(plan()), **artifacts, repetitions=1000)
    assert paths["page"].read_text() == framed((paths["report"] / "study.html").read_text())
    assert '<base href="about:srcdoc">' in paths["page"].read_text()
    assert paths["summary"].read_bytes() == (paths["report"] / "study.md").read_bytes()
    assert json.loads(paths["metrics"].read_text())["claims/agrees"] == 2
    shutil.rmtree(paths["report"])


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="repetitions: found 10; expected 1,000"):
        StudyConfig(repetitions=10)
