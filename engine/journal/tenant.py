"""One tenant's journal: its store, its committer, and the heads of its open segments.

Opened and closed by `tenants.py`. A stopped tenant refuses to write and goes on reading; one that
stopped because the disk was full comes back by itself once there is room, with its heads read anew
from the disk, since what was pending when it stopped may or may not have been written.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import (
    EngineError,
    JournalClosed,
    OffsetTrimmed,
    StorageDamaged,
    StorageFull,
    TenantFailed,
    TenantUnknown,
)
from engine.base.ids import RunId, TenantId
from engine.ext.append import SegmentHead
from engine.ext.offsets import record_key, split_key
from engine.ext.replay import RunFold
from engine.journal.committer import CommitStatistics, Committer, Durability, Release, wake_tail
from engine.journal.lanes import LoopBudget
from engine.journal.layout import HEAD_TAG, decode_head, encode_head, head_key, run_key
from engine.journal.segment import Segment
from engine.journal.store import OpenMode, Store, StoreResources, StoreSnapshot
from engine.journal.threads import CommitThreads
from engine.journal.wal import WalReport
from engine.model.runs import RunSummary

_LAST_OFFSET_KEY = b"\xff" * 8


class TenantStatistics(msgspec.Struct, frozen=True):
    tenant_id: TenantId
    commits: CommitStatistics
    store: dict[str, int]
    segments_open: int
    stopped_by: str | None


class JournalFollower(Protocol):
    """Who keeps in memory what follows from the records, and must not be ahead of the disk."""

    def stopped(self, error: EngineError) -> None:
        """Nothing is written from now on, and what was not acknowledged may not be there."""

    def resumed(self) -> None:
        """Writing goes on, with every head read anew from the disk."""


class TenantJournal:
    """What the layers above hold of a tenant: segments, rows, and nothing of RocksDB."""

    def __init__(
        self,
        tenant: TenantId,
        store: Store,
        *,
        resources: StoreResources,
        durability: Durability,
        release: Release,
        threads: CommitThreads,
        budget: LoopBudget,
        clock: Clock,
        wal_report: WalReport,
        on_stop: Callable[[], object] = lambda: None,
    ) -> None:
        self.tenant_id = tenant
        self.wal_report = wal_report
        self.pins = 0
        self.follower: JournalFollower | None = None
        self.used_us = clock.monotonic_us()
        self.committer = Committer(
            store,
            durability=durability,
            release=release,
            threads=threads,
            budget=budget,
            clock=clock,
            on_stop=self._on_stop,
        )
        self.store = store
        self._resources = resources
        self._threads = threads
        self._clock = clock
        self._tell_stopped = on_stop
        self._resumed_us = 0
        self._resume_lock = trio.Lock()
        self._heads: weakref.WeakValueDictionary[bytes, SegmentHead] = weakref.WeakValueDictionary()
        # Runs whose records may be gone from one moment to the next.
        self._being_deleted: set[RunId] = set()

    # ---- segments ----

    def open_segment(self, run: RunId, *, next_offset: int | None = None) -> Segment:
        """The view of a run's records, whether there are any or not. Who has read in a row, which
        is written with the records, where they end, says so, and the disk is not searched for it.
        """
        head = self._heads.get(run)
        if head is None:
            head = self._load_head(run) if next_offset is None else self._head_at(run, next_offset)
            self._heads[run] = head
        elif next_offset is not None and next_offset > head.next_offset:
            # It was made by a reader from a row that has been written again since.
            head.next_offset = head.durable_offset = next_offset
        return Segment(self, run, head)

    def new_segment(self, run: RunId) -> Segment:
        """As `open_segment`, for a run id made just now: the disk is not asked."""
        head = self._heads.get(run)
        if head is None:
            head = self._heads[run] = SegmentHead(run)
        # A child run that was lost with a failed write is started again under the same id, and
        # somebody may still hold the head that it had; it was read anew when writing went on.
        assert head.next_offset == 0
        return Segment(self, run, head)

    def _load_head(self, run: bytes) -> SegmentHead:
        head = self._head_at(run, 0)
        # Past the greatest offset: the last record of the run is the greatest key below that.
        last = self.store.last_record_key(
            record_key(run, head.first_offset), run + _LAST_OFFSET_KEY
        )
        if last is not None:
            head.next_offset = max(head.next_offset, split_key(last)[1] + 1)
            head.durable_offset = head.next_offset
        return head

    def _head_at(self, run: bytes, next_offset: int) -> SegmentHead:
        """Where a segment ends of which nothing is on its way to the disk: at the given offset, or
        further on if it was sealed or trimmed there."""
        row = self.store.row(head_key(run))
        if row is None:
            return SegmentHead(run, 0, next_offset)
        head = decode_head(run, row)
        head.next_offset = head.durable_offset = max(head.next_offset, next_offset)
        return head

    def runs(self) -> Iterator[RunId]:
        """Every run that has a record, in the order of their ids. Skips from run to run."""
        begin = b"\x00" * 24
        while True:
            first = next(self.store.records(begin, b"\xff" * 25), None)
            if first is None:
                return
            run = split_key(first[0])[0]
            yield RunId(run)
            begin = run + _LAST_OFFSET_KEY + b"\x00"

    # ---- rows ----

    def row(self, key: bytes) -> bytes | None:
        return self.store.row(key)

    def rows(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self.store.rows(prefix)

    def rows_backwards(self, tag: bytes, below: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows of a tag whose rest of the key is less than `below`, greatest first."""
        return self.store.rows_backwards(tag, tag + below)

    def snapshot(self) -> StoreSnapshot:
        """Everything that is durable at this moment, to be read later and on any thread."""
        return self.store.snapshot()

    async def delete_runs(
        self,
        neighbours: Sequence[Sequence[RunId]],
        rows: Sequence[tuple[bytes, bytes | None]],
    ) -> None:
        """Delete ended runs: their records, heads and state rows, and change `rows` with them, in
        one batch. Who still reads one of them is told that its records were trimmed.

        Each of `neighbours` are runs between whose first and last, by id, no other run lies nor
        will lie: their records go as one range, since many small ones slow every read down.
        """
        await self.wait_until_writable()
        changes = list(rows)
        ranges = [
            (record_key(runs[0], 0), runs[-1] + _LAST_OFFSET_KEY + b"\x00") for runs in neighbours
        ]
        doomed = {run for runs in neighbours for run in runs}
        for run in doomed:
            changes += ((head_key(run), None), (run_key(run), None))
        # Until it is durable a run is there for whoever asks; a reader that began before that may
        # find less than it was told, which is no damage.
        self._being_deleted |= doomed
        try:
            await self._change_rows(changes, ranges)
            for run in doomed:
                head = self._heads.get(run)
                if head is not None:
                    head.first_offset = head.next_offset
        finally:
            self._being_deleted -= doomed

    async def write_rows(self, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Rows without a record, durable when this returns."""
        assert not any(key.startswith(HEAD_TAG) for key, _ in rows)
        await self.wait_until_writable()
        await self._change_rows(list(rows), [])

    async def barrier(self) -> None:
        """Until everything that was appended so far is durable; raises if it will not be."""
        self.committer.raise_if_stopped()
        if not self.committer.is_quiet:
            await self._change_rows([], [])

    async def write_head(
        self, head: SegmentHead, *, ranges: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """For `Segment`: where it begins and ends, and which records go with that."""
        await self._change_rows([(head_key(head.run), encode_head(head))], list(ranges))

    async def _change_rows(
        self, rows: list[tuple[bytes, bytes | None]], ranges: list[tuple[bytes, bytes]]
    ) -> None:
        self.committer.pending.change_rows(rows, ranges, trio.lowlevel.current_task())
        self.committer.wake()
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    # ---- reading for segments ----

    def values_of(self, run: RunId, begin: int, end: int) -> Iterator[bytes]:
        """The bytes of a run's records [begin, end), all of them or an error."""
        begin_key, end_key = record_key(run, begin), record_key(run, end)
        count = 0
        for value in self.store.record_values(begin_key, end_key):
            count += 1
            yield value
        head = self._heads.get(run)
        if count < end - begin and head is not None and head.first_offset > begin:
            raise OffsetTrimmed(
                f"records before offset {head.first_offset} were trimmed while they were read; "
                "read from there",
                first_offset=head.first_offset,
            )
        self._check_count(run, begin_key, end_key, count, end - begin)

    def fold(self, run: RunId, head: SegmentHead) -> RunSummary:
        if head.first_offset > 0:
            raise OffsetTrimmed(
                f"run {run.hex()} was trimmed before offset {head.first_offset}; its state is in "
                "its state row, its history in the archive",
                first_offset=head.first_offset,
            )
        fold = RunFold()
        begin_key, end_key = record_key(run, 0), record_key(run, head.durable_offset)
        count = fold.feed_all(self.store.record_values(begin_key, end_key))
        self._check_count(run, begin_key, end_key, count, head.durable_offset)
        return fold.summary()

    def _check_count(
        self, run: RunId, begin_key: bytes, end_key: bytes, count: int, owed: int
    ) -> None:
        if count == owed:
            return
        if run in self._being_deleted:
            raise OffsetTrimmed(
                f"the records of run {run.hex()} were deleted while they were read; its history is "
                "in the archive"
            )
        error = self.store.explain_short_read(begin_key, end_key)
        if isinstance(error, StorageDamaged):
            self.committer.stop(error)
        raise error

    # ---- stopping and resuming ----

    async def wait_until_writable(self, record_count: int = 1, byte_count: int = 0) -> None:
        """Until the queue has room; raises if the tenant is stopped for good or closed."""
        committer = self.committer
        if committer.stopped_by is not None and not await self.try_resume():
            committer.raise_if_stopped()
        if not committer.has_room_for(record_count, byte_count):
            await committer.wait_for_room(record_count, byte_count)
        committer.raise_if_stopped()

    async def try_resume(self) -> bool:
        """After a full disk, or a failure that was not the disk's: if there is room, reopen and go
        on. True if writing goes."""
        async with self._resume_lock:
            if self.committer.stopped_by is None:
                return True
            now_us = self._clock.monotonic_us()
            if (
                not isinstance(self.committer.stopped_by, StorageFull | TenantFailed)
                or not self.committer.is_quiet  # what was on its way when it stopped
                or now_us - self._resumed_us < limits.resume_interval_ms * 1_000
                or self.store.free_bytes() < limits.resume_free_bytes_min
            ):
                return False
            self._resumed_us = now_us
            try:
                await self._reopen()
            except EngineError:
                return False  # still stopped; the next call looks again
            return True

    async def _reopen(self) -> None:
        """Read-only first, so that reads go on while the other is closed and opened anew. A store
        that met a fault may not close cleanly; what it owes is in its log."""
        with trio.CancelScope(shield=True):
            stopped = self.store
            self.store = reader = await self._open_again(stopped, OpenMode.READ_ONLY)
            with contextlib.suppress(EngineError):
                await self._threads.call(stopped.close)
            self.store = await self._open_again(reader, OpenMode.READ_WRITE)
            with contextlib.suppress(EngineError):
                await self._threads.call(reader.close)
        for run, head in list(self._heads.items()):
            found = self._load_head(run)
            head.first_offset = found.first_offset
            head.next_offset = found.next_offset
            head.durable_offset = found.durable_offset
            head.sealed = found.sealed
        self.committer.resume(self.store)
        if self.follower is not None:
            self.follower.resumed()

    async def _open_again(self, store: Store, mode: OpenMode) -> Store:
        return await self._threads.call(lambda: store.open_again(self._resources, mode))

    def _on_stop(self, error: EngineError) -> None:
        """Who tails a segment of a stopped tenant is woken, to be told."""
        for head in list(self._heads.values()):
            wake_tail(head)
        if self.follower is not None:
            self.follower.stopped(error)
        self._tell_stopped()

    # ---- for the keeper of all tenants ----

    def checkpoint(self, path: Path) -> int:
        """A consistent copy at `path`; the store's sequence number in it is at least this."""
        sequence = self.store.sequence_number()
        self.store.checkpoint(path)
        return sequence

    def flush(self) -> None:
        """Write out what is in memory, so that the next open has nothing to replay."""
        self.store.flush()

    def hint_compaction(self, first: RunId, last: RunId) -> None:
        """Blocking. Between these two much was deleted: a good time to give the room back."""
        self.store.compact_records(record_key(first, 0), last + _LAST_OFFSET_KEY + b"\x00")
        # Of rows all: there are few left of those that go by time and not by run.
        self.store.compact_rows()

    def compact(self) -> None:
        self.store.compact_records(None, None)

    @property
    def is_idle(self) -> bool:
        return self.pins == 0 and self.committer.pending.is_empty

    def statistics(self) -> TenantStatistics:
        stopped_by = self.committer.stopped_by
        return TenantStatistics(
            tenant_id=self.tenant_id,
            commits=self.committer.statistics(),
            store=self.store.statistics(),
            segments_open=len(self._heads),
            stopped_by=None if stopped_by is None else stopped_by.code,
        )

    async def aclose(self) -> None:
        """Commit what is pending, then close the store. Views of it raise from now on."""
        await self.committer.aclose()
        self._on_stop(JournalClosed("closed"))
        await self._threads.call(self.store.close)


def unknown_tenant(tenant: TenantId) -> TenantUnknown:
    return TenantUnknown(
        f"tenant {tenant!r} has no journal here; check the name, or start a run to create it",
        tenant_id=tenant,
    )
