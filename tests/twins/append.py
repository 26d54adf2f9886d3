"""The plain twin of ext/append.pyx: how offsets are given out and how records gather into batches.
The specification; slow, and never used by the product.

Four rules, from which the rest follows. A call that raises has changed nothing. A transition is in
one batch, whole. What was put in first is taken first. What is taken is no longer counted.
"""

from __future__ import annotations

from engine.base import limits
from engine.base.errors import AppendConflict, JournalBusy, LimitExceeded, SegmentSealed
from tests.twins.offsets import encode_record, record_key

Row = tuple[bytes, bytes | None]
Range = tuple[bytes, bytes]
RecordParts = tuple[int, int, int, bytes]  # kind, flags, timestamp_us, payload


class SegmentHead:
    """first_offset <= durable_offset <= next_offset: kept from, durable up to, given out up to."""

    def __init__(
        self, run: bytes, first_offset: int = 0, next_offset: int = 0, sealed: bool = False
    ) -> None:
        assert len(run) == 16
        assert first_offset <= next_offset
        self.run = run
        self.first_offset = first_offset
        self.next_offset = next_offset
        self.durable_offset = next_offset  # what is not from this process is on the disk
        self.sealed = sealed
        self.tail_lot: object | None = None  # where those wait who tail the segment, if any do


class PendingBatch:
    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.rows: list[Row] = []
        self.ranges: list[Range] = []
        self.effects: list[object] = []
        self.waiters: list[object] = []
        self._heads: list[SegmentHead] = []  # of each record, the segment it is in

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def is_empty(self) -> bool:
        """A waiter or an effect alone makes a batch as well: it is owed its turn."""
        return not (self.keys or self.rows or self.ranges or self.waiters or self.effects)

    @property
    def byte_count(self) -> int:
        """Keys and values of records and rows. Deleted ranges and effects weigh nothing."""
        records = sum(map(len, self.keys)) + sum(map(len, self.values))
        return records + sum(map(_row_bytes, self.rows))

    def put(self, head: SegmentHead, value: bytes) -> None:
        self.keys.append(record_key(head.run, head.next_offset))
        self.values.append(value)
        self._heads.append(head)
        head.next_offset += 1

    def mark_durable(self) -> list[SegmentHead]:
        for head in self._heads:
            head.durable_offset += 1
        return [head for head in self._heads if head.tail_lot is not None]


class PendingQueue:
    def __init__(
        self,
        *,
        batch_records_max: int = limits.batch_records_max,
        batch_bytes_max: int = limits.batch_bytes_max,
        batch_waiters_max: int = limits.batch_waiters_max,
        pending_records_max: int = limits.pending_records_max,
        pending_bytes_max: int = limits.pending_bytes_max,
        payload_bytes_max: int = limits.record_payload_bytes_max,
        records_per_run_max: int = limits.records_per_run_max,
    ) -> None:
        self.filling = PendingBatch()
        self._full: list[PendingBatch] = []
        self._batch_records_max = batch_records_max
        self._batch_bytes_max = batch_bytes_max
        self._batch_waiters_max = batch_waiters_max
        self._pending_records_max = pending_records_max
        self._pending_bytes_max = pending_bytes_max
        self._payload_bytes_max = payload_bytes_max
        self._records_per_run_max = records_per_run_max

    @property
    def record_count(self) -> int:
        return sum(map(len, self._batches()))

    @property
    def byte_count(self) -> int:
        return sum(batch.byte_count for batch in self._batches())

    @property
    def is_empty(self) -> bool:
        return all(batch.is_empty for batch in self._batches())

    @property
    def has_full(self) -> bool:
        """A batch is waiting that would not grow any more."""
        return bool(self._full) or self._is_full(0)

    @property
    def has_room(self) -> bool:
        return (
            self.record_count < self._pending_records_max
            and self.byte_count < self._pending_bytes_max
        )

    def has_room_for(self, records: int) -> bool:
        """By bytes before the bound is reached. By number as well, except that a queue without a
        record takes any transition, since it would not get emptier by waiting."""
        fits = self.record_count == 0 or self.record_count + records <= self._pending_records_max
        return fits and self.byte_count < self._pending_bytes_max

    def append(
        self,
        head: SegmentHead,
        expected: int | None,
        kind: int,
        payload: bytes,
        timestamp_us: int,
        effect: object | None = None,
        waiter: object | None = None,
        flags: int = 0,
    ) -> int:
        """A transition of one record."""
        effects = [] if effect is None else [effect]
        records = [(kind, flags, timestamp_us, payload)]
        return self.append_transition(head, expected, records, [], effects, waiter)

    def append_transition(
        self,
        head: SegmentHead,
        expected: int | None,
        records: list[RecordParts],
        rows: list[Row],
        effects: list[object],
        waiter: object | None = None,
    ) -> int:
        first = head.next_offset
        self._check_counts(records, rows)
        self._check_segment(head, expected, len(records))
        self._check_pending(len(records))
        values = [
            self._record(first + index, *parts) for index, parts in enumerate(records)
        ]  # not put yet: a later one may be refused
        _check_rows(rows)

        batch = self.batch_for(len(records))
        for value in values:
            batch.put(head, value)
        batch.rows.extend(rows)
        batch.effects.extend(effects)
        if waiter is not None:
            batch.waiters.append(waiter)
        return first

    def change_rows(
        self, rows: list[Row], ranges: list[Range], waiter: object | None = None
    ) -> None:
        _check_rows(rows)
        batch = self.batch_for(0)
        batch.rows.extend(rows)
        batch.ranges.extend(ranges)
        if waiter is not None:
            batch.waiters.append(waiter)

    def batch_for(self, records: int) -> PendingBatch:
        """The batch that is filling, or a new one if these records do not fit. What is larger
        than a batch may be has one to itself."""
        if self._is_full(records):
            self._full.append(self.filling)
            self.filling = PendingBatch()
        return self.filling

    def take(self) -> PendingBatch | None:
        if self._full:
            return self._full.pop(0)
        if self.filling.is_empty:
            return None
        batch, self.filling = self.filling, PendingBatch()
        return batch

    def _batches(self) -> list[PendingBatch]:
        return [*self._full, self.filling]

    def _is_full(self, records: int) -> bool:
        """Records: none above the bound. Bytes: nothing more once the bound is passed. Waiters:
        nothing more once it is reached. Rows alone need a place as a record does."""
        return self.filling.byte_count > 0 and (
            len(self.filling) + max(records, 1) > self._batch_records_max
            or self.filling.byte_count > self._batch_bytes_max
            or len(self.filling.waiters) >= self._batch_waiters_max
        )

    def _check_counts(self, records: list[RecordParts], rows: list[Row]) -> None:
        if (
            len(records) > limits.records_per_transition_max
            or len(rows) > limits.rows_per_transition_max
        ):
            raise LimitExceeded("split the transition", records=len(records), rows=len(rows))

    def _check_segment(self, head: SegmentHead, expected: int | None, records: int) -> None:
        if head.sealed:
            raise SegmentSealed("nothing follows the last record", next_offset=head.next_offset)
        if expected is not None and expected != head.next_offset:
            raise AppendConflict(
                "somebody else appended", expected=expected, next_offset=head.next_offset
            )
        if head.next_offset + records > self._records_per_run_max:
            raise LimitExceeded("continue in a new run", next_offset=head.next_offset)

    def _check_pending(self, records: int) -> None:
        """By number before it is exceeded; by bytes once it is, so that one record always fits."""
        if (
            self.record_count + records > self._pending_records_max
            or self.byte_count > self._pending_bytes_max
        ):
            raise JournalBusy(
                "wait for a commit",
                pending_records=self.record_count,
                pending_bytes=self.byte_count,
            )

    def _record(
        self, offset: int, kind: int, flags: int, timestamp_us: int, payload: bytes
    ) -> bytes:
        value = encode_record(kind, flags, offset, timestamp_us, payload)
        if len(payload) > self._payload_bytes_max:
            raise LimitExceeded("record a reference to it", length=len(payload))
        return value


def _row_bytes(row: Row) -> int:
    key, value = row
    return len(key) + (0 if value is None else len(value))


def _check_rows(rows: list[Row]) -> None:
    for key, value in rows:
        if not 1 <= len(key) <= limits.key_length_max:
            raise LimitExceeded("a key of another length", length=len(key))
        if value is not None and len(value) > limits.row_bytes_max:
            raise LimitExceeded("a smaller row", length=len(value))
