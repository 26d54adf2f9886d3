"""Hands out the rows of an answer in parts of bounded size, and no more of them than may be.

Knows no sockets: it is given where the parts go.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import pyarrow as pa

from engine.base import limits
from engine.processes import frames
from engine.query import messages
from engine.query.child import values
from engine.query.child.database import Selected as Relation


class Sink(Protocol):
    """Where the parts of an answer go. Waits while nobody takes them."""

    def part(self, data: bytes) -> None: ...

    def restart(self) -> None:
        """What was handed over so far does not count."""


# ---- rows ----


def send_rows(sink: Sink, relation: Relation, rows_max: int, bytes_max: int) -> bool:
    """Rows of values that JSON can carry; whether there were more than may be answered."""
    readers = values.readers(relation.types)
    part: list[tuple[Any, ...]] = []
    part_bytes = 0
    room = bytes_max
    is_truncated = False
    # One more than is asked for, to know whether there are more.
    for number, row in enumerate(_plain_rows(relation, rows_max + 1, readers)):
        size = sum(map(values.size_of, row))
        room -= size
        if number == rows_max or room < 0:
            is_truncated = True
            break
        part.append(row)
        part_bytes += size
        if part_bytes >= limits.process_part_bytes_max:
            sink.part(messages.encode(part))
            part, part_bytes = [], 0
    if part:
        sink.part(messages.encode(part))
    return is_truncated


def _plain_rows(
    relation: Relation, rows_max: int, readers: Sequence[Callable[[Any], Any]]
) -> Iterator[tuple[Any, ...]]:
    for row in relation.rows(values.projection(relation.types), rows_max):
        yield tuple([read(value) for read, value in zip(readers, row, strict=True)])


# ---- Arrow ----


class _Parts:
    """A file to write to, whose bytes are handed over in parts."""

    closed: Final = False

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.written = 0

    def write(self, data: Any) -> int:
        self._waiting.append(bytes(data))
        self._waiting_bytes += len(self._waiting[-1])
        self.written += len(self._waiting[-1])
        if self._waiting_bytes >= limits.process_part_bytes_max:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if self._waiting:
            for piece in frames.pieces(b"".join(self._waiting)):
                self._sink.part(bytes(piece))
            self._waiting, self._waiting_bytes = [], 0

    def close(self) -> None:
        self.flush()

    def writable(self) -> bool:
        return True


def send_arrow(
    sink: Sink,
    found: tuple[pa.Schema, Iterator[pa.RecordBatch]],
    rows_max: int,
    bytes_max: int,
) -> bool:
    """An Arrow IPC stream of the rows, the types as they are; whether there were more."""
    schema, batches = found
    parts = _Parts(sink)
    is_truncated = False
    rows_left = rows_max
    with pa.ipc.new_stream(parts, schema) as writer:
        for batch in batches:
            # A batch that is larger than what is left of the bytes is taken in smaller ones.
            for some in _sliced(batch.slice(0, rows_left)):
                if parts.written + some.nbytes > bytes_max:
                    is_truncated = True
                    break
                writer.write_batch(some)
            is_truncated = is_truncated or batch.num_rows > rows_left
            rows_left -= min(batch.num_rows, rows_left)
            if is_truncated:
                break
    parts.flush()
    return is_truncated


def _sliced(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if not batch.num_rows:
        return
    rows = max(1, limits.process_part_bytes_max * batch.num_rows // max(1, batch.nbytes))
    for first in itertools.count(0, rows):
        if first >= batch.num_rows:
            return
        yield batch.slice(first, rows)
