"""Answers as they travel: the rows of a query as an Arrow stream, and such a stream as a Parquet
file for somebody to take away.

Not an object of the archive: those are written by `parquet.py`, in their own layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

_UNFINISHED: Final = ".unfinished"


def stream_of(table: object) -> list[bytes]:
    """The rows of an Arrow table as an IPC stream, in one piece."""
    assert isinstance(table, pa.Table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return [sink.getvalue().to_pybytes()]


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
