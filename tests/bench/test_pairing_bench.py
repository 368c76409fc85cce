"""The bench of pairing: all of it at a tiny size, the released procedure against ours, its arithmetic by hand."""

import json
from pathlib import Path

import pytest

from bench import answers, pairing
from croco import dataset, pair
from croco.pair import PairConfig

ROWS = 7 * 80 * 16


def test_every_side_pairs_all_rows_at_every_size(tmp_path: Path) -> None:
    found = pairing.measure(tmp_path, prompts=80, samples=16, some=3)
    rows = {side: [run["rows"] for run in found.detail["runs"] if run["side"] == side] for side in ("mono", "multi")}
    assert rows["mono"] == rows["multi"] == sorted(rows["mono"]) and rows["mono"][-1] == ROWS
    assert [run["rows"] for run in found.detail["runs"] if run["side"] == "read"] == [ROWS]
    assert {run["rows"] for run in found.detail["runs"] if "reference" in run["side"]} == {7 * 3 * 16}
    assert all(run["peak"] > 2**20 for run in found.detail["runs"])
    assert len(found.figures) == 8


@pytest.mark.parametrize(("side", "pool"), pairing.POOLS.items())
def test_the_released_procedure_pairs_the_same_answers(tmp_path: Path, side: str, pool: str) -> None:
    [group] = answers.make(tmp_path / "data", 1, prompts=20, samples=16)
    pairing.jsonl(group, tmp_path / "jsonl", 20)
    assert pairing.reference(tmp_path / "jsonl", pool, tmp_path / "pairs.jsonl") == 7 * 20 * 16
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    given = {name: [path] for name, path in group.items()}
    pair.run(**given, out=tmp_path / "pairs", config=PairConfig(pool=pool, cut_may_win=True))
    ours = dataset.read(tmp_path / "pairs", "pairs", ["chosen", "rejected"]).to_pylist()
    assert sorted((line["chosen"][0]["content"], line["rejected"][0]["content"]) for line in lines) == sorted(
        (row["chosen"].strip(), row["rejected"].strip()) for row in ours
    )


def test_the_figures_by_hand() -> None:
    def one(side: str, rows: int, seconds: float, peak: int) -> dict[str, float | str]:
        return {"side": side, "rows": rows, "seconds": seconds, "work_seconds": seconds, "base": 0, "peak": peak}

    runs = [one("read", 1000, 2.0, 0)]
    for side in pairing.POOLS:
        runs += [one(side, 100, 1.0, 2**30), one(side, 300, 2.0, 2**30 + 2000), one(side, 1000, 4.0, 2**30 + 9000)]
        runs += [one(f"reference {side}", 10, seconds, 2**20) for seconds in (0.1, 0.2, 0.4)]
    found = pairing.figures(runs)[:4]
    assert [(figure.value, figure.unit) for figure in found] == [
        (4.0, "s"),
        (pytest.approx(1.0, abs=1e-5), "GiB"),
        (10.0, "bytes/row"),
        (pytest.approx(5.0), "x reference"),
    ]
    assert (found[0].limit, found[3].low, found[3].high) == (2.0, pytest.approx(2.5), pytest.approx(10.0))
    assert found[0].note == "the released procedure, scaled from 10 rows: 20 s, 0.1 GiB"
