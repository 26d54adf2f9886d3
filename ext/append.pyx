"""Records on their way to the disk: offsets are given out here, and batches wait here.

A segment's head knows three offsets: the first that is still kept, the next to be given out, and
the first that is not yet durable. A queue gathers records into batches; whoever commits takes one
batch at a time and marks it durable afterwards. Everything here runs on the event loop's thread
and calls no Python code, so a transition is in a batch whole or not at all. Knows no store and no
Trio: effects and waiters are carried, not understood. Specification: tests/twins/append.py.
"""

from collections import deque

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from engine.ext.offsets cimport (
    HEADER_BYTES,
    KEY_BYTES,
    KIND_MAX,
    RUN_BYTES,
    build_record,
    record_key,
)

from engine.base import limits
from engine.base.errors import AppendConflict, JournalBusy, LimitExceeded, SegmentSealed


cdef class SegmentHead:
    """Where a run's segment begins and ends, in memory and on disk."""

    def __cinit__(self, bytes run not None, uint64_t first_offset=0, uint64_t next_offset=0,
                  bint sealed=False):
        assert PyBytes_GET_SIZE(run) == RUN_BYTES
        assert first_offset <= next_offset
        self.run = run
        self.first_offset = first_offset
        self.next_offset = next_offset
        self.durable_offset = next_offset
        self.sealed = sealed
        self.tail_lot = None


cdef class PendingBatch:
    """Records, rows and range deletions that become durable together, and what to release then."""

    def __cinit__(self):
        self.keys = []
        self.values = []
        self.rows = []
        self.ranges = []
        self.effects = []
        self.waiters = []
        self.heads = []
        self.byte_count = 0

    def __len__(self):
        return len(self.keys)

    @property
    def is_empty(self):
        # A waiter or an effect alone makes a batch as well: it is owed its turn.
        return not (self.keys or self.rows or self.ranges or self.waiters or self.effects)

    cdef void put(self, SegmentHead head, bytes key, bytes value):
        self.keys.append(key)
        self.values.append(value)
        self.heads.append(head)
        self.byte_count += KEY_BYTES + PyBytes_GET_SIZE(value)

    def mark_durable(self):
        """Move each head's durable offset past this batch; the heads somebody is tailing."""
        cdef SegmentHead head
        cdef list tailed = []
        for head in self.heads:
            head.durable_offset += 1
            if head.tail_lot is not None:
                tailed.append(head)
        return tailed


cdef class PendingQueue:
    """All that waits for the disk in one tenant, cut into batches of bounded size."""

    def __cinit__(
        self,
        *,
        Py_ssize_t batch_records_max=limits.batch_records_max,
        Py_ssize_t batch_bytes_max=limits.batch_bytes_max,
        Py_ssize_t batch_waiters_max=limits.batch_waiters_max,
        Py_ssize_t pending_records_max=limits.pending_records_max,
        Py_ssize_t pending_bytes_max=limits.pending_bytes_max,
        Py_ssize_t payload_bytes_max=limits.record_payload_bytes_max,
        uint64_t records_per_run_max=limits.records_per_run_max,
    ):
        self.filling = PendingBatch()
        self._full = deque()
        self.record_count = 0
        self.byte_count = 0
        self._batch_records_max = batch_records_max
        self._batch_bytes_max = batch_bytes_max
        self._batch_waiters_max = batch_waiters_max
        self._pending_records_max = pending_records_max
        self._pending_bytes_max = pending_bytes_max
        self._payload_bytes_max = payload_bytes_max
        self._records_per_run_max = records_per_run_max

    @property
    def is_empty(self):
        return not self._full and self.filling.is_empty

    @property
    def has_full(self):
        """A batch is waiting that would not grow any more."""
        return bool(self._full) or self._is_full(0)

    @property
    def has_room(self):
        return (
            self.record_count < self._pending_records_max
            and self.byte_count < self._pending_bytes_max
        )

    def has_room_for(self, Py_ssize_t records):
        """Whether a transition of this many records can be taken now. An empty queue takes any."""
        if self.record_count == 0:
            return self.byte_count < self._pending_bytes_max
        return (
            self.record_count + records <= self._pending_records_max
            and self.byte_count < self._pending_bytes_max
        )

    def append(
        self,
        SegmentHead head not None,
        object expected,
        int kind,
        bytes payload not None,
        int64_t timestamp_us,
        object effect=None,
        object waiter=None,
        int flags=0,
    ):
        """One record at the end of a run; its offset. May I, is there room, write, advance."""
        self._admit(head, expected, 1)
        cdef bytes value = self._record(head, kind, flags, timestamp_us, payload)
        self._make_room(1)
        cdef uint64_t offset = head.next_offset
        self._put(head, value)
        if effect is not None:
            self.filling.effects.append(effect)
        if waiter is not None:
            self.filling.waiters.append(waiter)
        return offset

    def append_transition(
        self,
        SegmentHead head not None,
        object expected,
        list records not None,
        list rows not None,
        list effects not None,
        object waiter=None,
    ):
        """Records, rows and effects of one transition, in one batch; the first record's offset.

        `records` holds (kind, flags, timestamp_us, payload); `rows` holds (key, value), where the
        value None deletes the row. Everything is checked before anything is taken.
        """
        cdef Py_ssize_t count = len(records)
        if count > limits.records_per_transition_max or len(rows) > limits.rows_per_transition_max:
            raise LimitExceeded(
                f"a transition of {count} records and {len(rows)} rows is over the limit of "
                f"{limits.records_per_transition_max} records and "
                f"{limits.rows_per_transition_max} rows; split it",
                records=count,
                rows=len(rows),
            )
        self._admit(head, expected, count)
        cdef uint64_t first = head.next_offset
        cdef list values = []
        try:
            for kind, flags, timestamp_us, payload in records:
                values.append(self._record(head, kind, flags, timestamp_us, payload))
                head.next_offset += 1
        finally:
            head.next_offset = first
        self._check_rows(rows)
        self._make_room(count)
        for value in values:
            self._put(head, value)
        self._put_rows(rows)
        self.filling.effects.extend(effects)
        if waiter is not None:
            self.filling.waiters.append(waiter)
        return first

    def batch_for(self, Py_ssize_t records):
        """The batch that a transition of this many records will be in, if it comes next."""
        self._make_room(records)
        return self.filling

    def change_rows(self, list rows not None, list ranges not None, object waiter=None):
        """Rows, and deleted ranges of records (begin key, end key), without a record."""
        self._check_rows(rows)
        self._make_room(0)
        self._put_rows(rows)
        self.filling.ranges.extend(ranges)
        if waiter is not None:
            self.filling.waiters.append(waiter)

    def take(self):
        """The oldest batch, or None. The caller owns it from now on."""
        cdef PendingBatch batch
        if self._full:
            batch = self._full.popleft()
        elif self.filling.is_empty:
            return None
        else:
            batch = self.filling
            self.filling = PendingBatch()
        self.record_count -= len(batch.keys)
        self.byte_count -= batch.byte_count
        return batch

    def _put_rows(self, list rows):
        cdef Py_ssize_t length
        for row in rows:
            self.filling.rows.append(row)
            length = len(row[0]) + (len(row[1]) if row[1] is not None else 0)
            self.filling.byte_count += length
            self.byte_count += length

    def _check_rows(self, list rows):
        for key, value in rows:
            if not 0 < len(key) <= limits.key_length_max:
                raise LimitExceeded(
                    f"a row key of {len(key)} bytes is outside 1 to {limits.key_length_max}",
                    length=len(key),
                )
            if value is not None and len(value) > limits.row_bytes_max:
                raise LimitExceeded(
                    f"a row of {len(value)} bytes is over the limit of {limits.row_bytes_max}",
                    length=len(value),
                )

    cdef int _admit(self, SegmentHead head, object expected, Py_ssize_t records) except -1:
        if head.sealed:
            raise SegmentSealed(
                f"run {head.run.hex()} is sealed at offset {head.next_offset}; nothing follows "
                "its last record",
                next_offset=head.next_offset,
            )
        if expected is not None and expected != head.next_offset:
            raise AppendConflict(
                f"expected the next offset of run {head.run.hex()} to be {expected}, it is "
                f"{head.next_offset}; read what was appended and decide again",
                expected=expected,
                next_offset=head.next_offset,
            )
        if head.next_offset + records > self._records_per_run_max:
            raise LimitExceeded(
                f"a run holds at most {self._records_per_run_max} records; "
                "continue in a new run",
                next_offset=head.next_offset,
            )
        if (
            self.record_count + records > self._pending_records_max
            or self.byte_count > self._pending_bytes_max
        ):
            raise JournalBusy(
                f"{self.record_count} records ({self.byte_count} bytes) wait for the disk, which "
                "is the limit; wait for a commit and append again",
                pending_records=self.record_count,
                pending_bytes=self.byte_count,
            )
        return 0

    cdef int _make_room(self, Py_ssize_t records) except -1:
        """Start a new batch when this one is full. A transition is never cut in two."""
        if self._is_full(records):
            self._full.append(self.filling)
            self.filling = PendingBatch()
        return 0

    cdef bint _is_full(self, Py_ssize_t records):
        """Whether this many more records do not fit. Waiters count too: waking a task costs more
        than writing its record, so it is done in portions that overlap with the next commit."""
        cdef Py_ssize_t waiting = len(self.filling.keys)
        if self.filling.byte_count == 0:
            return False
        return (
            waiting + (records if records > 0 else 1) > self._batch_records_max
            or self.filling.byte_count > self._batch_bytes_max
            or len(self.filling.waiters) >= self._batch_waiters_max
        )

    cdef bytes _record(
        self, SegmentHead head, int kind, int flags, int64_t timestamp_us, bytes payload
    ):
        assert payload is not None  # a C function's `bytes` may be None
        assert 1 <= kind <= KIND_MAX and 0 <= flags <= 255 and timestamp_us >= 0
        if PyBytes_GET_SIZE(payload) > self._payload_bytes_max:
            raise LimitExceeded(
                f"a record of {len(payload)} bytes is over the limit of "
                f"{self._payload_bytes_max}; store large values elsewhere and record a reference",
                length=len(payload),
            )
        return build_record(kind, flags, head.next_offset, timestamp_us, payload)

    cdef int _put(self, SegmentHead head, bytes value) except -1:
        self.filling.put(head, record_key(head.run, head.next_offset), value)
        head.next_offset += 1
        self.record_count += 1
        self.byte_count += KEY_BYTES + PyBytes_GET_SIZE(value)
        return 0
