"""Group commit: one task per tenant that takes what has gathered, makes it durable, and only then
lets its effects out.

Adaptive: while one commit is under way the next batch fills; when the disk is idle a commit begins
at once. `choose_lane` decides for each batch whether it is written on the event loop's own thread
(a quick disk answers in less time than two thread switches take) or on a commit thread. A commit
that fails stops the tenant, since memory is then ahead of the disk; what was not acknowledged is
told so. Knows no run and no rule.
"""

from __future__ import annotations

import enum
import functools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import outcome
import trio

from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import EngineError, JournalClosed, TenantFailed
from engine.ext.append import PendingBatch, PendingQueue, SegmentHead
from engine.journal.faults import StoreStalled
from engine.journal.lanes import InlineEstimate, Lane, LoopBudget, choose_lane
from engine.journal.threads import CommitChain, CommitJob, CommitThreads

_log = logging.getLogger(__name__)


class Durability(enum.StrEnum):
    COMMIT = "commit"  # fsync before the acknowledgement
    INTERVAL = "interval"  # acknowledged when the OS has it; fsync every N ms
    OS = "os"  # acknowledged when the OS has it; no fsync


class CommitStore(Protocol):
    """What the committer needs of a store; `Store` has it, and so has the simulation's."""

    def prepare(self, batch: PendingBatch) -> Any: ...
    def write(self, prepared: Any, *, sync: bool, may_stall: bool = True) -> None: ...
    def sync_wal(self) -> None: ...


Release = Callable[[Sequence[object]], None]


def release_calls(effects: Sequence[object]) -> None:
    """The plainest release: each effect is a callable without arguments."""
    for effect in effects:
        effect()  # type: ignore[operator]


class CommitStatistics(msgspec.Struct, frozen=True):
    commits: int
    records: int
    inline: int
    threaded: int
    syncs: int
    pending_records: int
    pending_bytes: int
    expected_us: float


class Committer:
    """Commits one tenant's pending queue until it is closed or a commit fails."""

    def __init__(
        self,
        store: CommitStore,
        *,
        durability: Durability,
        release: Release,
        threads: CommitThreads,
        budget: LoopBudget,
        clock: Clock,
        on_stop: Callable[[EngineError], None],
    ) -> None:
        self.pending = PendingQueue()
        self.stopped_by: EngineError | None = None
        self._store = store
        self._sync = durability is Durability.COMMIT
        self._release = release
        self._threads = threads
        self._chain = CommitChain(threads)
        self._budget = budget
        self._clock = clock
        self._on_stop = on_stop
        self._estimate = InlineEstimate()
        self._task: trio.lowlevel.Task | None = None
        self._is_parked = False
        self._wakes_only_if_full = False
        self._in_flight: deque[tuple[PendingBatch, CommitJob]] = deque()
        self._is_closing = False
        self._finished = trio.Event()
        self._room_lot = trio.lowlevel.ParkingLot()
        self._commits = self._records = self._inline = self._threaded = self._syncs = 0
        self.unsynced = False

    # ---- called by the segments, on the event loop's thread ----

    def wake(self) -> None:
        """Something was put into `pending`: commit it in the next pass of the event loop.

        Not in this pass, so that everything that is runnable now gets into the same fsync.
        """
        if self._is_parked and (not self._wakes_only_if_full or self.pending.has_full):
            self._unpark()

    def raise_if_stopped(self) -> None:
        if self.stopped_by is not None:
            raise self.stopped_by.again()
        if self._is_closing:
            raise JournalClosed("the tenant's store is being closed; open it again")

    def stop(self, error: EngineError) -> None:
        """Stop for a reason that was found elsewhere, such as damage met while reading."""
        if self.stopped_by is None:
            self._stop(error, [])

    def resume(self, store: CommitStore) -> None:
        """Go on with a store that was opened anew. The caller has put the heads right."""
        assert self.stopped_by is not None
        assert self.pending.is_empty
        self._store = store
        self._chain = CommitChain(self._threads)
        self.stopped_by = None
        self.unsynced = False

    @property
    def is_quiet(self) -> bool:
        """Nothing is pending and nothing is being written."""
        return self.pending.is_empty and not self._in_flight

    def has_room_for(self, record_count: int, byte_count: int) -> bool:
        """Whether the pending queue could take so much more."""
        return (
            self.pending.has_room_for(record_count)
            and self.pending.byte_count + byte_count <= limits.pending_bytes_max
        )

    async def wait_for_room(self, record_count: int, byte_count: int) -> None:
        """Until the pending queue can take so much more, or the tenant is stopped."""
        while not self.has_room_for(record_count, byte_count) and self.stopped_by is None:
            await self._room_lot.park()

    def statistics(self) -> CommitStatistics:
        return CommitStatistics(
            commits=self._commits,
            records=self._records,
            inline=self._inline,
            threaded=self._threaded,
            syncs=self._syncs,
            pending_records=self.pending.record_count,
            pending_bytes=self.pending.byte_count,
            expected_us=self._estimate.expect_us(1),
        )

    # ---- the task ----

    async def run(self) -> None:
        self._task = trio.lowlevel.current_task()
        # Shielded: what was given an offset is committed, whatever is being cancelled around it.
        # `close` ends the loop once nothing is pending.
        with trio.CancelScope(shield=True):
            try:
                while await self._wait_for_work():
                    await self._commit_what_is_pending()
            finally:
                self._finished.set()

    async def aclose(self) -> None:
        """Commit what is pending, then end."""
        self._is_closing = True
        self.wake()
        with trio.CancelScope(shield=True):
            await self._finished.wait()
        if self.stopped_by is None:
            self.stopped_by = JournalClosed("the tenant's store was closed; open it again")

    async def sync(self) -> None:
        """For the durability mode `interval`: make what was acknowledged durable."""
        if not self.unsynced or self.stopped_by is not None:
            return
        self.unsynced = False
        self._syncs += 1
        done = trio.Event()
        with trio.CancelScope(shield=True):
            job = self._chain.submit(self._store.sync_wal, done.set)
            await done.wait()
        if isinstance(job.result, outcome.Error):
            self.stop(_storage_error(job.result))

    async def _wait_for_work(self) -> bool:
        if self.pending.is_empty or self.stopped_by is not None:
            if self._is_closing:
                return False
            await self._park()
        else:
            await trio.lowlevel.checkpoint()
        return True

    async def _park(self, *, wakes_only_if_full: bool = False) -> None:
        self._wakes_only_if_full = wakes_only_if_full
        self._is_parked = True
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def _unpark(self) -> None:
        if self._is_parked:
            self._is_parked = False
            assert self._task is not None
            trio.lowlevel.reschedule(self._task)

    async def _commit_what_is_pending(self) -> None:
        batch = self.pending.take()
        if batch is None or self.stopped_by is not None:
            return
        try:
            is_durable = self._try_inline(batch)
        except EngineError as error:
            self._stop(error, [batch])
            return
        except Exception as failure:  # noqa: BLE001 - one tenant's defect stops that tenant
            self._stop(_unforeseen(failure), [batch])
            return
        if is_durable:
            self._finish(batch)  # not in the `try`: an effect that fails is no failed commit
            return
        await self._commit_on_thread(batch)

    async def _commit_on_thread(self, first: PendingBatch) -> None:
        """Commit this batch and what is pending behind it, until the disk has caught up.

        While the disk writes one batch, a second that is full is ready behind it, the batch before
        is being released, and the next one fills.
        """
        in_flight = self._in_flight
        in_flight.append(self._submit(first))
        while in_flight:
            while len(in_flight) < limits.batches_in_flight_max and self.pending.has_full:
                in_flight.append(self._submit(self.pending.take()))
            batch, job = in_flight[0]
            if job.result is None:
                await self._park(wakes_only_if_full=True)
                continue
            in_flight.popleft()
            if isinstance(job.result, outcome.Error):
                error = _storage_error(job.result)
                behind = [waiting for waiting, _ in in_flight]
                in_flight.clear()
                self._stop(error, [batch, *behind])
                return
            if not in_flight and not self.pending.is_empty:
                # Before the release: then the disk and the event loop both have work.
                in_flight.append(self._submit(self.pending.take()))
            self._finish(batch)

    def _submit(self, batch: PendingBatch | None) -> tuple[PendingBatch, CommitJob]:
        assert batch is not None
        self._threaded += 1
        write = functools.partial(self._store.write, self._store.prepare(batch), sync=self._sync)
        return batch, self._chain.submit(write, self._unpark)

    def _lane_for(self, batch: PendingBatch) -> Lane:
        # A record brings a row or two with it; thousands of rows alone (the archive's) weigh too.
        expected_us = self._estimate.expect_us(max(len(batch), len(batch.rows) // 2))
        return choose_lane(
            expected_us,
            budget_left_us=self._budget.left_us,
            queued_behind=self.pending.record_count,
            probe=expected_us > limits.inline_commit_us_max and self._estimate.is_probe_due(),
        )

    def _try_inline(self, batch: PendingBatch) -> bool:
        """Commit here and now if that is the better way; False if it belongs on a thread."""
        if self._lane_for(batch) is Lane.THREAD:
            return False
        began_us = self._clock.monotonic_us()
        try:
            self._store.write(self._store.prepare(batch), sync=self._sync, may_stall=False)
        except StoreStalled:
            return False
        took_us = self._clock.monotonic_us() - began_us
        self._estimate.observe(len(batch), took_us)
        self._budget.spend(took_us)
        self._inline += 1
        return True

    def _finish(self, batch: PendingBatch) -> None:
        """The batch is durable: say so to everyone who waits for it, in order."""
        self._commits += 1
        self._records += len(batch)
        self.unsynced = self.unsynced or not self._sync
        for head in batch.mark_durable():
            wake_tail(head)
        for task in batch.waiters:
            trio.lowlevel.reschedule(task)  # type: ignore[arg-type]
        if batch.effects:
            self._release(batch.effects)
        if self._room_lot:
            self._room_lot.unpark_all()

    def _stop(self, error: EngineError, batches: list[PendingBatch]) -> None:
        """Fail-stop: nothing more is written, and whoever waits is told why."""
        self.stopped_by = error
        while (batch := self.pending.take()) is not None:
            batches.append(batch)
        for failed in batches:
            for task in failed.waiters:
                trio.lowlevel.reschedule(task, outcome.Error(error.again()))  # type: ignore[arg-type]
        self._room_lot.unpark_all()
        self._on_stop(error)


def wake_tail(head: SegmentHead) -> None:
    lot = head.tail_lot
    if isinstance(lot, trio.lowlevel.ParkingLot):
        lot.unpark_all()
        head.tail_lot = None


def _storage_error(result: outcome.Error) -> EngineError:
    """The typed error that a commit failed with; anything else is a defect, and stops the tenant
    as well: nobody can say what of the batch is on the disk before it is read again."""
    if isinstance(result.error, EngineError):
        return result.error
    return _unforeseen(result.error)


def _unforeseen(failure: BaseException) -> TenantFailed:
    _log.error("a commit failed", exc_info=failure)
    return TenantFailed.by(failure, "a commit")
