"""Show: any stage's output in words: its manifest and its first rows."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from croco import dataset


def run(directory: Path, /, rows: int = 3) -> None:
    """Print what a directory holds, after checking that it is whole.

    Args:
        directory: Any stage's output.
        rows: How many rows to print.
    """
    manifest = dataset.verify(directory)
    what = f"{manifest.rows} {manifest.contract}" if manifest.contract else "files"
    print(f"{what} written by {manifest.stage}, digest {manifest.digest[:12]}")
    for count in manifest.counts:
        dropped = ", ".join(f"{reason} {number}" for reason, number in count.dropped.items()) or "none"
        numbers = f"in {count.rows_in}, out {count.rows_out}, dropped: {dropped}"
        print(f"  {count.unit:10} {count.language or 'all':6} {numbers}")
    for row in manifest.ledger:
        done = f"{row.shards_computed} shards computed, {row.shards_reused} reused, {row.run_seconds:.1f} s in this run"
        print(f"  took {row.seconds:.1f} s, tokens {row.tokens_in} in, {row.tokens_out} out ({row.language}): {done}")
    for name in ("config", "models", "inputs", "metrics", "libraries"):
        print(f"{name}: {json.dumps(getattr(manifest, name), ensure_ascii=True)}")
    for warning in manifest.warnings:
        print(f"warning: {warning}")
    for file in manifest.files:
        print(f"  {file['path']}  {file['bytes']} bytes  sha256 {file['sha256'][:12]}")
    for file in manifest.files:
        if file["rows"]:
            for row in pq.ParquetFile(directory / file["path"]).iter_batches(batch_size=rows):
                # ASCII escapes: a model's text may hold control characters that a terminal would obey.
                print("\n".join(json.dumps(values, ensure_ascii=True) for values in row.to_pylist()))
                return
