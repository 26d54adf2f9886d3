"""Answers as Arrow streams and as Parquet files: whole, bounded, and never half there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.archive.interchange import arrow_to_parquet, write_stream

SCHEMA = pa.schema([("run_id", pa.string()), ("tags", pa.map_(pa.string(), pa.string()))])
PLENTY = 1 << 30


def batch(first: int, rows: int) -> pa.RecordBatch:
    ids = [f"run-{number}" for number in range(first, first + rows)]
    return pa.record_batch([ids, [[("team", name)] for name in ids]], schema=SCHEMA)


def reader(*rows: int) -> pa.RecordBatchReader:
    batches = [batch(sum(rows[:index]), count) for index, count in enumerate(rows)]
    return pa.RecordBatchReader.from_batches(SCHEMA, batches)


def read(stream: bytes) -> pa.Table:
    return pa.ipc.open_stream(stream).read_all()


def test_everything_there_is() -> None:
    stream, is_truncated = write_stream(reader(2, 0, 3), 5, PLENTY)
    assert read(stream).column("run_id").to_pylist() == [f"run-{n}" for n in range(5)]
    assert read(stream).schema == SCHEMA
    assert not is_truncated, "as many rows as may be are not too many"


@pytest.mark.parametrize("rows_max", [1, 2, 3, 4])
def test_no_more_rows_than_may_be(rows_max: int) -> None:
    stream, is_truncated = write_stream(reader(2, 3), rows_max, PLENTY)
    assert read(stream).num_rows == rows_max
    assert is_truncated


def test_no_rows_have_their_columns() -> None:
    stream, is_truncated = write_stream(reader(), 5, PLENTY)
    assert (read(stream).num_rows, read(stream).schema, is_truncated) == (0, SCHEMA, False)


def test_bytes_are_bounded_by_the_batch() -> None:
    stream, is_truncated = write_stream(reader(100, 100, 100), 1_000, 2_000)
    assert (read(stream).num_rows, is_truncated) == (100, True)
    stream, is_truncated = write_stream(reader(100, 0), 1_000, 2_000)
    assert (read(stream).num_rows, is_truncated) == (100, False), "nothing is behind it"


def test_what_a_reader_raises_is_passed_on() -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield batch(0, 1)
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):
        write_stream(pa.RecordBatchReader.from_batches(SCHEMA, batches()), 5, PLENTY)


def test_a_parquet_file_has_the_same_rows(tmp_path: Path) -> None:
    stream, _ = write_stream(reader(2, 3), 5, PLENTY)
    arrow_to_parquet(stream, tmp_path / "runs.parquet")
    found = pq.read_table(tmp_path / "runs.parquet")
    assert found.equals(read(stream))
    assert [path.name for path in tmp_path.iterdir()] == ["runs.parquet"]


def test_a_stream_that_broke_off_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "runs.parquet"
    file.write_bytes(b"earlier")
    stream, _ = write_stream(reader(100), 100, PLENTY)
    with pytest.raises(OSError, match=r"\w"):
        arrow_to_parquet(stream[: len(stream) // 2], file)
    assert file.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [file]
