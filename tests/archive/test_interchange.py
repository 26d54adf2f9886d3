"""Answers as Parquet files: whole, and never half there."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.archive.files.interchange import arrow_to_parquet, stream_of

SCHEMA = pa.schema([("run_id", pa.string()), ("tags", pa.map_(pa.string(), pa.string()))])


def table(rows: int) -> pa.Table:
    ids = [f"run-{number}" for number in range(rows)]
    return pa.table([ids, [[("team", name)] for name in ids]], schema=SCHEMA)


def read(stream: bytes) -> pa.Table:
    return pa.ipc.open_stream(stream).read_all()


def test_a_parquet_file_has_the_same_rows(tmp_path: Path) -> None:
    stream = b"".join(stream_of(table(5)))
    arrow_to_parquet(stream, tmp_path / "runs.parquet")
    found = pq.read_table(tmp_path / "runs.parquet")
    assert found.equals(read(stream))
    assert found.equals(table(5))
    assert [path.name for path in tmp_path.iterdir()] == ["runs.parquet"]


def test_a_stream_that_broke_off_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "runs.parquet"
    file.write_bytes(b"earlier")
    stream = b"".join(stream_of(table(100)))
    with pytest.raises(OSError, match=r"\w"):
        arrow_to_parquet(stream[: len(stream) // 2], file)
    assert file.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [file]
