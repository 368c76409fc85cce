"""Spill: rows by slab and datasets by small batches come back whole and in order, however many pieces they were."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from croco import dataset
from croco.rows import conform
from croco.spill import WAITING_BYTES, Spill, scan
from croco.writer import Writer


def test_rows_put_away_in_several_turns_come_back_in_order(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill", pa.schema({"key": pa.int64(), "text": pa.string()}))
    for start in range(0, 6, 2):  # each is more than waits
        text = ["x" * (WAITING_BYTES // 2)] * 2
        spill.add(np.array([0, 1]), pa.table({"key": [start, start + 1], "text": text}))
    assert [spill.read(slab)["key"].to_pylist() for slab in range(3)] == [[0, 2, 4], [1, 3, 5], []]
    with pytest.raises(AssertionError, match="add after read"):
        spill.add(np.array([0]), pa.table({"key": [7], "text": ["late"]}))


def test_a_file_of_several_row_groups_is_read_in_its_order(tmp_path: Path) -> None:
    rows = [{"prompt_id": f"p{n}", "language": "da", "sample_index": n, "reward": float(n)} for n in range(40)]
    writer = Writer(tmp_path / "scores", "scores", stage="test", version=1, config={})
    path = writer.next_part()
    pq.write_table(conform(rows, "scores"), path, row_group_size=3)
    writer.enter(path, len(rows))
    writer.finish([dataset.Count("scores", "da", 40, 40)])
    assert pq.read_metadata(path).num_row_groups == 14

    def indices(table: pa.Table) -> list[int]:
        return table["sample_index"].to_pylist()

    read = list(scan([tmp_path / "scores"], "scores", ["prompt_id", "sample_index"], indices, "reading"))
    assert [index for some in read for index in some] == list(range(40))
