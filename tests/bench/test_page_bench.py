"""The bench of the report: all of it at a tiny size, and its arithmetic by hand."""

from pathlib import Path

import pytest

from bench import page


def test_the_report_is_of_all_rows(tmp_path: Path) -> None:
    found = page.measure(tmp_path, prompts=80, samples=4, rounds=1)
    assert [(run["side"], run["rows"]) for run in found.detail["runs"]] == [
        ("checksums", 7 * 80 * 4),
        ("report", 7 * 80 * 4),
    ]
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"{7 * 80 * 4:,}" in html
    assert found.figures[2].value == pytest.approx(len(html.encode()) / 1e6)


def test_the_figures_by_hand() -> None:
    def one(side: str, seconds: float, peak: int) -> dict[str, float | str]:
        return {"side": side, "rows": 10, "seconds": seconds, "peak": peak}

    runs = [one("checksums", 2.0, 0), one("report", 10.0, 2**30), one("checksums", 1.0, 0), one("report", 20.0, 2**29)]
    time, peak, size = page.figures(runs, 500_000)
    assert (time.value, time.low, time.high, time.limit, time.met) == (15.0, 10.0, 20.0, 1.0, True)
    assert (peak.value, peak.high, peak.met) == (0.75, 1.0, True)
    assert (size.value, size.unit) == (0.5, "MB")
