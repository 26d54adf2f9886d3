"""Answers as they travel: the rows of a query as an Arrow stream, and such a stream as a Parquet
file for somebody to take away.

Not an object of the archive: those are written by `parquet.py`, in their own layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

_UNFINISHED: Final = ".unfinished"


def write_stream(reader: object, rows_max: int, bytes_max: int) -> tuple[bytes, bool]:
    """The batches of a RecordBatchReader as an IPC stream, and whether something was left out. It
    may have one batch more than so many bytes."""
    assert isinstance(reader, pa.RecordBatchReader)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        is_truncated = _write_some(writer, reader, rows_max, lambda: sink.tell() > bytes_max)
    return bytes(sink.getvalue()), is_truncated


def _write_some(
    writer: Any, batches: Iterable[Any], rows_max: int, is_full: Callable[[], bool]
) -> bool:
    """Whether there was more."""
    rows_left = rows_max
    for batch in batches:
        if batch.num_rows and is_full():
            return True
        kept = batch.slice(0, rows_left)
        if kept.num_rows:
            writer.write_batch(kept)
        rows_left -= kept.num_rows
        if kept.num_rows < batch.num_rows:
            return True
    return False


def arrow_to_parquet(stream: bytes, path: Path) -> None:
    """The file appears whole or not at all. Raises OSError where it cannot be written."""
    unfinished = path.with_name(f"{path.name}{_UNFINISHED}")
    try:
        with (
            pa.ipc.open_stream(stream) as reader,
            pq.ParquetWriter(unfinished, reader.schema, compression="zstd") as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
