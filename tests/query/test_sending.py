"""Answers as Arrow streams: whole, bounded in rows and bytes, in parts that a frame can carry."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from engine.base import limits
from engine.query.child.sending import send_arrow

SCHEMA = pa.schema([("run_id", pa.string()), ("tags", pa.map_(pa.string(), pa.string()))])
PLENTY = 1 << 30


class Parts(list[bytes]):
    """What was handed over."""

    def part(self, data: bytes) -> None:
        self.append(data)

    def restart(self) -> None:
        self.clear()

    def table(self) -> pa.Table:
        return pa.ipc.open_stream(b"".join(self)).read_all()


def batch(first: int, rows: int) -> pa.RecordBatch:
    ids = [f"run-{number}" for number in range(first, first + rows)]
    return pa.record_batch([ids, [[("team", name)] for name in ids]], schema=SCHEMA)


def found(*rows: int) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    batches = [batch(sum(rows[:index]), count) for index, count in enumerate(rows)]
    return SCHEMA, iter(batches)


def test_everything_there_is() -> None:
    parts = Parts()
    assert not send_arrow(parts, found(2, 0, 3), 5, PLENTY), "as many rows as may be are none more"
    assert parts.table().column("run_id").to_pylist() == [f"run-{n}" for n in range(5)]
    assert parts.table().schema == SCHEMA


@pytest.mark.parametrize("rows_max", [1, 2, 3, 4])
def test_no_more_rows_than_may_be(rows_max: int) -> None:
    parts = Parts()
    assert send_arrow(parts, found(2, 3), rows_max, PLENTY)
    assert parts.table().num_rows == rows_max


def test_no_rows_have_their_columns() -> None:
    parts = Parts()
    assert not send_arrow(parts, found(), 5, PLENTY)
    assert (parts.table().num_rows, parts.table().schema) == (0, SCHEMA)


def test_bytes_are_bounded() -> None:
    room = 2 * batch(0, 100).nbytes + 2_000
    parts = Parts()
    assert send_arrow(parts, found(100, 100, 100), 1_000, room)
    assert parts.table().num_rows == 200
    assert sum(map(len, parts)) <= room + 1_000, "no more than the mark of its end is beyond"
    assert not send_arrow(Parts(), found(100, 0), 1_000, room), "nothing is behind it"


def test_a_large_batch_travels_in_parts_of_bounded_size() -> None:
    parts = Parts()
    assert not send_arrow(parts, found(40_000), 40_000, PLENTY)
    assert len(parts) > 3
    assert max(map(len, parts)) <= limits.process_part_bytes_max
    assert parts.table().num_rows == 40_000


def test_what_a_reader_raises_is_passed_on() -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield batch(0, 1)
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):
        send_arrow(Parts(), (SCHEMA, batches()), 5, PLENTY)
