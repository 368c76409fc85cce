"""Report: the numbers are the data's, what is missing is said, and hostile text is only text."""

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from croco import dataset, promote, report
from croco.page import findings
from croco.writer import Writer
from tests import reported
from tests.conftest import DatasetOf
from tests.evaluations import Model, evaluations, weights
from tests.reported import HOSTILE, pair, scores, trained


@pytest.fixture
def everything(dataset_of: DatasetOf, tmp_path: Path) -> dict[str, Any]:
    return reported.everything(dataset_of, tmp_path)


def test_the_numbers_of_a_run_are_those_of_its_data(everything: dict[str, Any], tmp_path: Path) -> None:
    manifest = report.run(out=tmp_path / "out", **everything)
    assert [file["path"] for file in manifest.files] == ["report.html", "report.md", "report.json"]
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert numbers["benchmarks"][0]["verdict"] == "higher"
    assert numbers["benchmarks"][0]["change"] == pytest.approx(3.0)
    assert numbers["rewards"]["languages"][0]["value"] == pytest.approx(0.5)
    assert numbers["pairs"]["margins"][0]["value"] == pytest.approx(3.0)
    assert [row["value"] for row in (numbers["translations"][0], numbers["samples"][0])] == [1.0, 1.0]
    assert numbers["training"]["curves"][1]["train"] == [[1, 0.7], [2, 0.6]]
    assert numbers["training"]["curves"][1]["eval"] == [[2, 0.65]]
    flow = {row["stage"]: row for row in numbers["flow"] if row["input"] == "training"}
    assert flow["train"]["dropped"] == {"too_long": 1}
    assert manifest.metrics["win_rate"] == {"da": 0.6}
    assert manifest.metrics["benchmark_change"] == {"da": pytest.approx(3.0)}
    assert manifest.metrics["benchmark_change_low"]["da"] == pytest.approx(2.006345)
    assert (manifest.metrics["promoted"], manifest.metrics["checks_failed"]) == (0, 1)
    assert numbers["warnings"] == []


def test_hostile_text_is_only_text(everything: dict[str, Any], tmp_path: Path) -> None:
    report.run(out=tmp_path / "out", **everything, config=report.ReportConfig(title=HOSTILE))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(page) < 1_000_000
    assert "<script" not in page and "<img" not in page
    assert page.count("</style>") == 1
    assert "{{ 7 * 7 }} {% raw %}" in page  # as the model wrote it, not run as a template
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "⟨U+202E⟩dehcated⟨U+202C⟩ ⟨U+0000⟩⟨U+0007⟩⟨U+001B⟩[31m" in page
    assert "1,500 of 1,000,000 characters shown" in page
    summary = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in summary and not re.search(r"(?<!\\)\]\(", summary)
    assert not {"\u202e", "\x00", "\x1b"} & {*page, *summary}


def test_the_page_loads_nothing_from_anywhere(everything: dict[str, Any], tmp_path: Path) -> None:
    report.run(out=tmp_path / "out", **everything)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    loaded = re.findall(r"""<[^>]*\s(?:src|href|srcset|action|data|xlink:href)\s*=\s*["']?([^"'\s>]*)""", page)
    assert [address for address in loaded if not address.startswith(("#", "data:,"))] == []
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_links_within_the_page_lead_somewhere(everything: dict[str, Any], tmp_path: Path) -> None:
    report.run(out=tmp_path / "out", **everything)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)


def test_the_same_inputs_give_the_same_bytes(everything: dict[str, Any], tmp_path: Path) -> None:
    digests = {report.run(out=tmp_path / name, **everything).digest for name in ("one", "two")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        (["pairs"], "Promotion, EuroEval, Win rates, Language fidelity of answers, Language fidelity of translations, "
                    "Language fidelity of samples, Rewards, Training."),
        (["training"], "Promotion, EuroEval, Win rates, Language fidelity of answers, "
                       "Language fidelity of translations, Language fidelity of samples, Rewards, Pairs."),
        (["answers_tuned", "benchmarks_base", "verdicts"], "Promotion, Language fidelity of translations, "
                                                           "Language fidelity of samples, Rewards, Pairs, Training."),
    ],
)  # fmt: skip
def test_what_was_not_given_is_said_to_be_missing(
    everything: dict[str, Any], tmp_path: Path, given: list[str], absent: str
) -> None:
    report.run(out=tmp_path / "out", **{name: everything[name] for name in given})
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert numbers["summary"][-1] == {
        "section": "missing", "heading": "Not part of this run", "verdict": "missing", "text": absent,
    }  # fmt: skip
    assert "Not part of this run" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no input"):
        report.run(out=tmp_path / "out")


def test_scores_of_one_model_are_shown_and_not_compared(everything: dict[str, Any], tmp_path: Path) -> None:
    report.run(out=tmp_path / "out", benchmarks_base=everything["benchmarks_base"])
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert numbers["benchmarks"][0]["verdict"] is None
    assert numbers["summary"][0]["text"] == "1 scores of one model; nothing to compare them with."


def test_a_page_too_large_to_mail_is_written_with_a_warning(dataset_of: DatasetOf, tmp_path: Path) -> None:
    pairs = [pair(number, ("da", 1.0), ("da", 0.0), chosen="<" * 100_000) for number in range(20)]
    config = report.ReportConfig(samples_per_language=20, max_characters=100_000)
    with pytest.warns(UserWarning, match=r"report.html has 8\.\d MB; lower --samples-per-language"):
        report.run(out=tmp_path / "out", pairs=dataset_of("pairs", pairs), config=config)
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_loss_that_is_no_number_is_null_and_not_drawn(tmp_path: Path) -> None:
    directory = trained(tmp_path / "t", ['{"step": 1, "loss": NaN}', '{"step": 2, "loss": 0.5}'])
    report.run(out=tmp_path / "out", training=directory)
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert numbers["training"]["curves"][0]["train"] == [[1, None], [2, 0.5]]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_the_markdown_has_the_language_mix_and_the_spread_of_rewards(dataset_of: DatasetOf, tmp_path: Path) -> None:
    rows = [pair(0, ("en", 3.0), ("da", 1.0)), pair(1, ("en", 2.0), ("en", 1.0)), pair(2, ("da", 9.0), ("da", 1.0))]
    rewards = dataset_of("scores", scores({("da", "p0"): [0.0, 2.0, 4.0, 6.0, 8.0]}))
    report.run(out=tmp_path / "out", pairs=dataset_of("pairs", rows), scores=[rewards])
    lines = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").splitlines()
    mix = lines[lines.index("## Languages of chosen and rejected") :][2:8]
    assert mix[0] == "Share of 3 pairs; chosen and rejected are in different languages in 33.3 % of them."
    shares = [[cells[at].strip() for at in (1, 2, 4)] for cells in (line.split("|") for line in mix[4:])]
    assert shares == [["Danish", "33.3 %", "66.7 %"], ["English", "66.7 %", "33.3 %"]]
    (danish,) = (line for line in lines if line.startswith("| Danish | 5 |"))
    assert danish.endswith("| 0.00 | 2.00 | 4.00 | 6.00 | 8.00 |")


def test_the_markdown_shows_the_course_of_training_in_a_few_steps(tmp_path: Path) -> None:
    lines = [
        f'{{"step": {step}, "loss": {1 / step}, "rewards/margins": {step / 10}, "rewards/accuracies": 0.5}}'
        for step in range(1, 10)
    ]
    report.run(out=tmp_path / "out", training=trained(tmp_path / "t", [*lines, '{"step": 9, "eval_loss": 0.25}']))
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").splitlines()
    start = page.index("| rows | step | loss | margin | accuracy |")
    assert page[start + 2 : start + 9] == [
        "| training | 1 | 1.0000 | 0.1000 | 0.5000 |",
        "| training | 3 | 0.3333 | 0.3000 | 0.5000 |",
        "| training | 5 | 0.2000 | 0.5000 | 0.5000 |",
        "| training | 7 | 0.1429 | 0.7000 | 0.5000 |",
        "| training | 9 | 0.1111 | 0.9000 | 0.5000 |",
        "| held out | 9 | 0.2500 | – | – |",
        "",
    ]


def test_a_short_training_shows_each_step_once(tmp_path: Path) -> None:
    directory = trained(tmp_path / "t", ['{"step": 1, "loss": 0.7}', '{"step": 2, "loss": NaN}'])
    nothing = {"margin": None, "accuracy": None}
    assert report.milestones(findings.collect(findings.Inputs(training=directory), bins=5)["training"]) == [
        {"rows": "training", "step": 1, "loss": 0.7, **nothing},
        {"rows": "training", "step": 2, "loss": None, **nothing},
    ]


def test_a_stage_that_read_other_pairs_is_warned_of(
    dataset_of: DatasetOf, everything: dict[str, Any], tmp_path: Path
) -> None:
    everything["pairs"] = dataset_of("pairs", [pair(9, ("da", 1.0), ("da", 0.0))], "others")
    report.run(out=tmp_path / "out", **everything)
    (warning,) = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["warnings"]
    assert warning["input"] == "training"
    assert re.fullmatch(r"made from pairs [0-9a-f]{12}, not from those reported here", warning["text"])


def test_the_decision_of_promote_is_shown_with_every_check(tmp_path: Path) -> None:
    given = evaluations(tmp_path / "given", Model(weights("c"), gain={"da": 3.0, "de": -3.0}))
    given.pop("training")
    decision = tmp_path / "decision"
    promote.run(**given, out=decision)
    report.run(out=tmp_path / "out", **given, decision=decision)
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    written = json.loads((decision / "decision.json").read_text(encoding="utf-8"))
    assert numbers["promotion"]["checks"] == written["checks"]
    assert numbers["summary"][0]["section"] == "promotion" and "EuroEval in German" in numbers["summary"][0]["text"]
    page = html.unescape((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    section = page[page.index('<section id="promotion"') : page.index('<section id="benchmarks"')]
    lines = html.unescape((tmp_path / "out" / "report.md").read_text(encoding="utf-8")).splitlines()
    for check in written["checks"]:
        assert f"<td>{check['text']}</td>" in section
        assert any(line.startswith("| ") and report.markdown(check["text"]) in line for line in lines)
    assert section.count("✕ refused") == len(written["reasons"]) == 1
    assert numbers["warnings"] == []


def test_a_decision_on_other_evaluations_is_warned_of(tmp_path: Path) -> None:
    first, other = (evaluations(tmp_path / str(gain), Model(weights("c"), gain=gain)) for gain in (1.0, 2.0))
    for given in (first, other):
        given.pop("training")
    promote.run(**first, out=tmp_path / "decision")
    report.run(out=tmp_path / "out", **other, decision=tmp_path / "decision")
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert {row["input"] for row in numbers["warnings"]} == {"decision"}


def test_a_decision_that_was_edited_is_refused(tmp_path: Path) -> None:
    decision = reported.decided(tmp_path / "decision", "Danish: -2 points")
    text = (decision / "decision.json").read_text(encoding="utf-8")
    (decision / "decision.json").write_text(text.replace("false", "true"), encoding="utf-8")
    with pytest.raises(ValueError, match="not the one its manifest lists; run `python -m croco promote`"):
        report.run(out=tmp_path / "out", decision=decision)


def test_broken_utf8_of_a_model_or_a_judge_shows_as_text(everything: dict[str, Any], tmp_path: Path) -> None:
    for name, contract, column in (("answers_tuned", "answers", "output"), ("verdicts", "verdicts", "judge_text")):
        table = dataset.read(everything[name], contract)
        texts = [b"a\xffb <script>" for _ in range(len(table))]
        ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
        broken = pa.Array.from_buffers(
            pa.string(), len(texts), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
        )
        manifest = dataset.load_manifest(everything[name])
        writer = Writer(tmp_path / "broken" / name, contract, stage="test", version=1, config={})
        writer.add(table.set_column(table.schema.get_field_index(column), column, broken))
        writer.finish(manifest.counts, metrics=manifest.metrics)
        everything[name] = writer.out
    report.run(out=tmp_path / "out", **everything)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("a\\xffb &lt;script&gt;") == 3  # one answer, two verdicts
