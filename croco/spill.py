"""Spill: rows on disk by slab, so that more of them than memory holds are worked on a slab at a time.

Datasets are read as narrowly as can be: only the columns asked for, a few thousand rows at a time, two row groups
at once, whatever the size of the files.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from croco import dataset, rows
from croco.writer import KEPT

READERS = 2
"""Row groups read at once: what a second core gains; each more would hold another one's rows."""
TEXT_ROWS, NARROW_ROWS = 1 << 12, 1 << 16
"""Rows decoded at once, with texts (4 MB, of a kilobyte each) and without."""
BUFFER_BYTES = 1 << 20
"""Of a column read from its file at once."""
WAITING_BYTES = 1 << 24
"""Of rows that wait to be put away together."""
PART_ROWS = 20_000
"""Of a file of pairs or of SFT rows."""

DICTIONARIES = ("prompt_id", "language", "finish_reason", "identified")
"""Columns of few distinct values in a file."""
NARROW = {*DICTIONARIES, "sample_index", "reward"}

Found = TypeVar("Found")


class Spill:
    """Rows of one schema, put away by slab and read back a slab at a time."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir()
        self.folder, self.schema = folder, schema
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        self._waiting: list[tuple[NDArray[np.int64], pa.Table]] = []
        self._bytes = 0
        self._ended = False

    def add(self, slab: NDArray[np.int64], table: pa.Table) -> None:
        """Put away rows; `slab` [rows] says where each goes. Not after a `read`, which ends the files."""
        assert not self._ended, "add after read"
        if not len(table):
            return
        self._waiting.append((slab, table))
        self._bytes += table.nbytes
        if self._bytes >= WAITING_BYTES:
            self._put_away()

    def read(self, slab: int) -> pa.Table:
        """The rows of `slab` in the order they were added; none can be added any more."""
        self._ended = True
        self._put_away()
        while self._writers:
            self._writers.popitem()[1].close()
        path = self._path(slab)
        if not path.exists():
            return self.schema.empty_table()
        with pa.OSFile(str(path)) as file:
            return pa.ipc.open_stream(file).read_all().combine_chunks()

    def _path(self, slab: int) -> Path:
        return self.folder / f"{slab}.arrow"

    def _put_away(self) -> None:
        if not self._waiting:
            return
        slabs = np.concatenate([slab for slab, _ in self._waiting])
        table = pa.concat_tables([table for _, table in self._waiting]).combine_chunks()
        self._waiting, self._bytes = [], 0
        order = np.argsort(slabs, kind="stable")
        slabs, table = slabs[order], table.take(order)
        starts = np.flatnonzero(np.diff(slabs, prepend=-1))
        for start, end in zip(starts, np.append(starts[1:], len(slabs)), strict=True):
            slab = int(slabs[start])
            if slab not in self._writers:
                self._writers[slab] = pa.ipc.new_stream(str(self._path(slab)), self.schema)
            self._writers[slab].write_table(table.slice(start, end - start))


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """An empty folder in a stage's output, gone afterwards; what a kill leaves of it, the next run removes."""
    folder = out / KEPT
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def scan(
    directories: Sequence[Path], contract: str, columns: Sequence[str], work: Callable[[pa.Table], Found], what: str
) -> Iterator[Found]:
    """`work` of every few rows of the datasets, in order; the narrow columns of keys come as dictionaries.

    Files are verified here while others read theirs. `what` heads the bar of progress.
    Raises: as dataset.parts; what `work` raises.
    """
    from tqdm import tqdm

    total = sum(len(dataset.load_manifest(directory, contract).files) for directory in directories)
    number = NARROW_ROWS if set(columns) <= NARROW else TEXT_ROWS
    names = [name for name in rows.CONTRACTS[contract].schema.names if name in columns and name in DICTIONARIES]

    def do(path: Path, group: int) -> list[Found]:
        file = pq.ParquetFile(path, read_dictionary=names, buffer_size=BUFFER_BYTES)
        batches = file.iter_batches(number, row_groups=[group], columns=list(columns), use_threads=False)
        return [work(pa.Table.from_batches([batch])) for batch in batches]

    waiting: deque[Future[list[Found]]] = deque()
    with ThreadPoolExecutor(READERS) as readers:
        for path in tqdm(dataset.parts(directories, contract), desc=what, unit="file", total=total, disable=None):
            for group in range(pq.read_metadata(path).num_row_groups):
                waiting.append(readers.submit(do, path, group))
                if len(waiting) > 2 * READERS:
                    yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def parts(tables: Iterable[pa.Table], size: int = PART_ROWS) -> Iterator[pa.Table]:
    """The rows of `tables` by `size`, the last fewer; each in one piece, as its file's bytes depend on that."""
    kept: list[pa.Table] = []
    for table in tables:
        kept.append(table)
        while sum(map(len, kept)) >= size:
            whole = pa.concat_tables(kept)
            yield whole.slice(0, size).combine_chunks()
            kept = [whole.slice(size)]
    if any(map(len, kept)):
        yield pa.concat_tables(kept).combine_chunks()
