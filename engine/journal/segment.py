"""A run's segment: the view through which one run's records are appended, read and tailed.

A view can address that run's records only; it is made by `TenantJournal.open_segment`. Offsets are
given out when an append is called, in the order of the calls; `append` returns once the record is
durable, `append_nowait` at once and its effect is released once it is. What is not durable is
never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import trio

from engine.base import limits
from engine.base.errors import LimitExceeded, MalformedRecord, OffsetTrimmed, SegmentSealed
from engine.base.ids import RunId, TenantId
from engine.ext.append import SegmentHead
from engine.ext.offsets import decode_record, record_key
from engine.journal.committer import Committer
from engine.journal.layout import HEAD_TAG
from engine.model.records import NewRecord, Record, RecordKind
from engine.model.rows import RowValue
from engine.model.runs import RunSummary

Row = tuple[bytes, RowValue]


class Owner(Protocol):
    """What a view needs of the journal that its run is in."""

    tenant_id: TenantId
    committer: Committer

    async def wait_until_writable(self, record_count: int = 1, byte_count: int = 0, /) -> None: ...

    def values_of(self, run: RunId, begin: int, end: int, /) -> Iterator[bytes]: ...

    def fold(self, run: RunId, head: SegmentHead, /) -> RunSummary: ...

    async def barrier(self) -> None: ...

    async def write_head(
        self, head: SegmentHead, *, ranges: Sequence[tuple[bytes, bytes]] = ()
    ) -> None: ...


class Segment:
    __slots__ = ("_head", "_tenant", "run_id", "tenant_id")

    def __init__(self, tenant: Owner, run: RunId, head: SegmentHead) -> None:
        self.tenant_id: TenantId = tenant.tenant_id
        self.run_id = run
        self._tenant = tenant
        self._head = head

    @property
    def first_offset(self) -> int:
        """The oldest record that is still kept."""
        return self._head.first_offset

    @property
    def next_offset(self) -> int:
        """The offset the next append gets; what a caller passes as `expected`."""
        return self._head.next_offset

    @property
    def durable_offset(self) -> int:
        """Every record before this offset is durable and can be read."""
        return self._head.durable_offset

    @property
    def is_sealed(self) -> bool:
        return self._head.sealed

    # ---- appending ----

    async def append(
        self,
        kind: RecordKind,
        payload: bytes,
        *,
        timestamp_us: int,
        expected: int | None = None,
    ) -> int:
        """Append one record and wait until it is durable; its offset."""
        await trio.lowlevel.checkpoint_if_cancelled()
        committer = self._tenant.committer
        await self._tenant.wait_until_writable()
        offset = committer.pending.append(
            self._head, expected, kind, payload, timestamp_us, None, trio.lowlevel.current_task()
        )
        committer.wake()
        # Not cancellable: the record has its offset and will be durable either way.
        await trio.lowlevel.wait_task_rescheduled(_never_abort)
        return offset

    def append_nowait(
        self,
        kind: RecordKind,
        payload: bytes,
        *,
        timestamp_us: int,
        effect: object,
        expected: int | None = None,
    ) -> int:
        """Give the record its offset now; `effect` is released once it is durable."""
        committer = self._tenant.committer
        committer.raise_if_stopped()
        offset = committer.pending.append(self._head, expected, kind, payload, timestamp_us, effect)
        committer.wake()
        return offset

    async def append_many(
        self,
        records: Sequence[NewRecord],
        *,
        rows: Sequence[Row] = (),
        expected: int | None = None,
    ) -> int:
        """Append a transition, whole or not at all, and wait; the first record's offset."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._tenant.wait_until_writable(len(records))
        first = self._put_transition(
            records, rows, (), expected, waiter=trio.lowlevel.current_task()
        )
        await trio.lowlevel.wait_task_rescheduled(_never_abort)
        return first

    def append_many_nowait(
        self,
        records: Sequence[NewRecord],
        *,
        effects: Sequence[object],
        rows: Sequence[Row] = (),
        expected: int | None = None,
    ) -> int:
        """As `append_many`, without waiting: the effects are released after the commit."""
        self._tenant.committer.raise_if_stopped()
        return self._put_transition(records, rows, effects, expected, waiter=None)

    def _put_transition(
        self,
        records: Sequence[NewRecord],
        rows: Sequence[Row],
        effects: Sequence[object],
        expected: int | None,
        *,
        waiter: trio.lowlevel.Task | None,
    ) -> int:
        assert not any(key.startswith(HEAD_TAG) for key, _ in rows), "head rows are the journal's"
        committer = self._tenant.committer
        first = committer.pending.append_transition(
            self._head,
            expected,
            [(new.kind, new.flags, new.timestamp_us, new.payload) for new in records],
            list(rows),
            list(effects),
            waiter,
        )
        committer.wake()
        return first

    # ---- reading ----

    def read(
        self,
        from_offset: int = 0,
        *,
        records_max: int = limits.read_page_records_max,
        bytes_max: int | None = None,
    ) -> list[Record]:
        """Durable records from an offset on, at most a page of them; one at least, if there is."""
        bytes_max = limits.read_page_bytes_max if bytes_max is None else bytes_max
        records: list[Record] = []
        page_bytes = 0
        for offset, value in enumerate(self.read_values(from_offset, records_max), from_offset):
            page_bytes += len(value)
            if records and page_bytes > bytes_max:
                break
            records.append(self._record(offset, value))
        return records

    def read_values(
        self, from_offset: int = 0, records_max: int = limits.read_page_records_max
    ) -> Iterator[bytes]:
        """The records' bytes, as they lie on disk; for replay, which folds them compiled."""
        if records_max < 1:
            raise LimitExceeded("records_max must be at least 1", records_max=records_max)
        if from_offset < self._head.first_offset:
            raise OffsetTrimmed(
                f"records before offset {self._head.first_offset} were trimmed; read from there",
                first_offset=self._head.first_offset,
            )
        records_max = min(records_max, limits.read_page_records_max)
        end = min(self._head.durable_offset, from_offset + records_max)
        if from_offset >= end:
            return iter(())
        return self._tenant.values_of(self.run_id, from_offset, end)

    def fold(self) -> RunSummary:
        """The summary of a run whose first record is still kept."""
        return self._tenant.fold(self.run_id, self._head)

    async def wait_beyond(self, offset: int) -> int:
        """Wait until the record at `offset` is durable; the durable offset then."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._head.durable_offset <= offset:
            self._tenant.committer.raise_if_stopped()
            if self._head.sealed and offset >= self._head.next_offset:
                raise SegmentSealed(
                    f"run {self.run_id.hex()} is sealed at offset {self._head.next_offset}; there "
                    "will be no record to wait for",
                    next_offset=self._head.next_offset,
                )
            lot = self._head.tail_lot
            if not isinstance(lot, trio.lowlevel.ParkingLot):
                lot = self._head.tail_lot = trio.lowlevel.ParkingLot()
            await lot.park()
        return self._head.durable_offset

    def _record(self, offset: int, value: bytes) -> Record:
        kind, flags, offset_low, timestamp_us, payload = decode_record(value)
        if offset_low != offset & 0xFFFF_FFFF:
            raise MalformedRecord(
                f"the record at offset {offset} of run {self.run_id.hex()} says it is at "
                f"{offset_low}; run `engine journal verify`",
                offset=offset,
                found=offset_low,
            )
        return Record(offset, RecordKind(kind), timestamp_us, payload, flags)

    # ---- ending ----

    async def seal(self) -> int:
        """No record follows, from now on and after every restart; the offset of the end."""
        await self._tenant.wait_until_writable()
        if self._head.sealed:
            # Somebody else's seal may still be on its way to the disk.
            await self._tenant.barrier()
        else:
            self._head.sealed = True
            await self._tenant.write_head(self._head)
        return self._head.next_offset

    async def trim(self, before_offset: int) -> None:
        """Delete the records before an offset. Offsets are not reused and do not move."""
        await self._tenant.wait_until_writable()
        if not self._head.first_offset <= before_offset <= self._head.durable_offset:
            raise LimitExceeded(
                f"can trim up to an offset from {self._head.first_offset} to "
                f"{self._head.durable_offset}, not {before_offset}",
                first_offset=self._head.first_offset,
                durable_offset=self._head.durable_offset,
            )
        if before_offset == self._head.first_offset:
            # Somebody else's trim may still be on its way to the disk.
            await self._tenant.barrier()
            return
        begin = record_key(self.run_id, self._head.first_offset)
        self._head.first_offset = before_offset
        await self._tenant.write_head(
            self._head, ranges=[(begin, record_key(self.run_id, before_offset))]
        )


def _never_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
