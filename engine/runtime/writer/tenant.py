"""The single writer of one tenant's runs.

Every change of a run goes through `carry_out`: decide, apply in memory, append the records with
the new state as one transition, do the bookkeeping at once; what the outside can notice is released
by the committer after the commit and performed in `performing.py`. All of it is synchronous.

What the engine owes because of a transition (a parent is told, a lost run goes back into its queue)
stands in `books` until it is done: a journal that is full for a moment delays it and loses nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import (
    AppendConflict,
    EngineError,
    SegmentSealed,
    TenantFailed,
    UnknownRun,
)
from engine.base.ids import RunId, TenantId, run_id_text
from engine.core.decide import decide
from engine.core.state import RunState
from engine.core.values import Decision
from engine.journal.tenant import TenantJournal
from engine.model import effects
from engine.model.commands import Command, StartRun, TimeHasCome
from engine.model.effects import Effect
from engine.model.payloads import RunAccepted
from engine.runtime.pools import Lease as HeldLease
from engine.runtime.pools import WorkerPools
from engine.runtime.queues import RunQueues
from engine.runtime.timers import Timers
from engine.runtime.writer import appending
from engine.runtime.writer.bookkeeping import NO_RUN, Books, Mingled, start_child
from engine.runtime.writer.idempotency import IdempotencyKeys
from engine.runtime.writer.leasing import Leasing
from engine.runtime.writer.live import Ending, LiveRun, RunEnded
from engine.runtime.writer.memory import RunMemory
from engine.runtime.writer.recovery import recover
from engine.runtime.writer.room import check_room, check_writable, wait_for_room
from engine.runtime.writer.shared_state import SharedState
from engine.runtime.writer.waiters import Waiters
from engine.runtime.writer.writing import Writer

_log: Final = logging.getLogger(__name__)


class TenantRuntime:
    def __init__(
        self,
        journal: TenantJournal,
        *,
        pools: WorkerPools,
        timers: Timers,
        clock: Clock,
        lease_ms: int = limits.lease_ms,
    ) -> None:
        self.tenant_id: TenantId = journal.tenant_id
        self.journal = journal
        self.clock = clock
        self.pools = pools
        self.books = Books(self)
        self._leasing = leasing = Leasing(self, lease_ms)
        self.queues = RunQueues(
            self.tenant_id, pools, leasing.grant, leasing.comes_again, self.books.go_on_soon
        )
        self.used_us = clock.monotonic_us()
        # Open runs that could not be taken up, and why.
        self.unrecovered: dict[RunId, EngineError] = {}
        self._timers = timers
        self.waiters = Waiters()
        self._keys = IdempotencyKeys(journal, clock)
        self._memory = RunMemory(journal, lambda: self.queues.are_long)
        self._writer = Writer(journal, clock, self._memory.put_down)
        # Told of each run that has ended, once that is durable, one after the other.
        self.subscribers: list[Callable[[RunEnded], object]] = []

    @property
    def shared_state(self) -> SharedState:
        return self._writer.shared_state

    # ---- finding runs ----

    def find(self, run: RunId) -> LiveRun:
        return self._memory.find(run)

    def look(self, run: RunId) -> LiveRun:
        return self._memory.look(run)

    def live(self, run: RunId) -> LiveRun | None:
        return self._memory.live(run)

    def exists(self, run: RunId) -> bool:
        return self._memory.exists(run)

    def adopt(self, state: RunState) -> LiveRun:
        return self._memory.adopt(state)

    def ending_of(self, run: RunId) -> Ending | None:
        return self._memory.ending_of(run)

    def all_live(self) -> list[LiveRun]:
        return self._memory.all_live()

    def enqueue_taken_up(self, live: LiveRun) -> None:
        """At a start: the run waits for a worker, as one of very many."""
        self.queues.add(live)
        if live.is_queued and live.is_written and self.queues.are_long:
            live.rest()

    # ---- changing runs ----

    def start(self, run: RunId, accepted: RunAccepted) -> LiveRun:
        self.check_room()
        return self.start_child(run, accepted)

    def start_child(self, run: RunId, accepted: RunAccepted) -> LiveRun:
        """As `start`, in the room that is kept for what the engine does itself."""
        return self._begin(run, accepted)

    def start_idempotent(self, run: RunId, accepted: RunAccepted, key: bytes, entry: bytes) -> None:
        """Start, and note under the key which run it was; in memory too until it is durable."""
        self.check_room()
        written, rows = self._keys.take(run, key, entry)
        try:
            self._begin(run, accepted, [written], rows)
        except EngineError:
            self._keys.forget(key)
            raise

    def _begin(
        self,
        run: RunId,
        accepted: RunAccepted,
        extra: Sequence[Effect] = (),
        rows: Sequence[tuple[bytes, bytes | None]] = (),
    ) -> LiveRun:
        live = self._memory.new(run)
        try:
            self.carry_out(live, StartRun(accepted=accepted), extra, rows)
        except EngineError:
            self._memory.drop(run)  # refused: it must not look as if it were there
            raise
        return live

    def idempotency_entry(self, key: bytes) -> bytes | None:
        return self._keys.entry(key)

    def carry_out(
        self,
        live: LiveRun,
        command: Command,
        extra: Sequence[Effect] = (),
        rows: Sequence[tuple[bytes, bytes | None]] = (),
    ) -> None:
        """Decide, apply, append, keep the books. `extra` and `rows` go with the transition. An
        error means that nothing was changed, or that the tenant is stopped."""
        try:
            self._carry_out(live, command, extra, rows)
        except EngineError:
            raise
        except Exception as failure:
            raise self.failed_unexpectedly(failure, f"a {type(command).__name__}") from failure

    def _carry_out(
        self,
        live: LiveRun,
        command: Command,
        extra: Sequence[Effect],
        rows: Sequence[tuple[bytes, bytes | None]],
    ) -> None:
        decision = decide(live.state, command, self.clock.now_ms())
        if decision.entries:
            self._append(live, decision, extra, rows)
        elif extra:
            self.release_after_pending(live, extra)
        self.books.owe(decision.bookkeeping)
        if live.state.is_terminal:
            self.queues.ended(live)
        self.books.settle()
        if not decision.entries:
            self.put_down(live)  # nothing has come of it, and it may have been loaded for this

    def release_after_pending(self, live: LiveRun, extra: Sequence[Effect]) -> None:
        """Nothing is to be written, but what is answered may rest on what is still on its way."""
        live.segment.append_many_nowait([], effects=extra)

    def _append(
        self,
        live: LiveRun,
        decision: Decision,
        extra: Sequence[Effect],
        rows: Sequence[tuple[bytes, bytes | None]],
    ) -> None:
        payloads = appending.payloads_of(decision.entries)
        check_writable(self.journal, len(payloads))
        children = [one for one in decision.bookkeeping if isinstance(one, effects.StartChild)]
        if children:
            # Written before the record that names them: after a crash in between, the parent starts
            # the same child again and finds it there. So what is refused is refused before.
            appending.check_transitions(live.state, decision.entries)
            for child in children:
                start_child(self, child)
                check_writable(self.journal, len(payloads))  # it has taken some of the room
        try:
            self._writer.write(live, decision, payloads, extra, rows)
        except (AppendConflict, SegmentSealed) as error:
            self._lose(live, error)
            raise
        if live.lease is not None and live.lease.worker.alone and not live.state.is_suspect:
            self.pools.mingle(live.lease.worker)
            self.books.owe([Mingled(live.run_id, live.lease.worker)])

    def _lose(self, live: LiveRun, error: EngineError) -> None:
        """Somebody else wrote to the run's journal, so what memory knows of the run is not what is
        there. It leaves memory and its worker stops; the next start looks at it anew."""
        _log.error("run %s is lost to this process: %s", run_id_text(live.run_id), error.message)
        self.unrecovered[live.run_id] = error
        self._leasing.let_go(live.run_id, live.state.lease_epoch, error.message)
        live.lease = None
        self._memory.drop(live.run_id)
        if live.late is not None:
            # A row on its way to the disk would say less than the records.
            self.journal.committer.stop(error)

    # ---- whether there is room ----

    async def wait_for_room(self) -> None:
        await wait_for_room(self.journal)

    def check_room(self) -> None:
        check_room(self.journal)

    # ---- leases ----

    def take_back(self, leases: Sequence[HeldLease], reason: str) -> None:
        """What a worker held that is gone goes to another one."""
        self._leasing.take_back(leases, reason)

    def hand_on(self, leases: Sequence[HeldLease]) -> None:
        """What a worker held that has left in an orderly way: as after a restart of the engine,
        nothing is written and nothing is held against the run."""
        self._leasing.hand_on(leases)

    # ---- leaving memory ----

    def put_down(self, live: LiveRun) -> None:
        self._memory.put_down(live)

    def forget(self, run: RunId) -> None:
        live = self._memory.drop(run)
        if live is not None:
            # One that was cancelled stands in its queue until a worker comes, and without it all.
            live.entries = None

    # ---- time ----

    def look_at(self, due_ms: int, run: RunId) -> None:
        self._timers.add(due_ms, self.tenant_id, run)

    def time_has_come(self, run: RunId) -> None:
        if self.journal.committer.stopped_by is not None:
            return  # when it resumes, every run's timer is set anew
        if run == NO_RUN:
            self.books.look_again()
            self.queues.pump_all()
            return
        self.books.settle()
        try:
            live = self.find(run)
        except UnknownRun:
            return
        self.carry_out(live, TimeHasCome())

    # ---- stopping, resuming, resting ----

    def recover(self) -> Iterator[RunId]:
        """Take up every open run from the disk, one with each step. Nobody else may change the
        tenant's runs before the last of them."""
        with self.books.held_back():  # what follows is done when all of them are there
            yield from recover(self)

    def stopped(self, error: EngineError) -> None:
        """Memory may be ahead of the disk: nothing of it counts any more."""
        self._forget_everything(error.message)
        self.waiters.fail(error)

    def failed_unexpectedly(self, failure: Exception, doing: str) -> EngineError:
        """For whatever works for this tenant and nobody else: a failure that nobody foresaw stops
        the tenant, as damage to its journal does, and no other one. It goes on from the disk, since
        nobody can say what its memory is worth. What came of it, for whoever waits."""
        if isinstance(failure, EngineError):
            _log.error("tenant %s stops: %s", self.tenant_id, failure.message)
            self.journal.committer.stop(failure)
            return failure
        _log.error("tenant %s stops: %s failed", self.tenant_id, doing, exc_info=failure)
        told = TenantFailed.by(failure, doing)
        self.journal.committer.stop(told)
        return told

    def resumed(self) -> None:
        """The journal writes again, from what is on the disk; so does the memory of the runs."""
        self._forget_everything("the journal of its tenant was stopped and goes on")
        try:
            deque(self.recover(), maxlen=0)
        except Exception as failure:  # noqa: BLE001 - one tenant's defect stops that tenant
            self.failed_unexpectedly(failure, "taking up its runs")

    def _forget_everything(self, reason: str) -> None:
        self._leasing.let_go_of_all(reason)
        self._memory.clear()
        self._keys.clear()
        self.books.clear()
        self.unrecovered.clear()
        self._writer.forget()
        self.queues.clear()
        self._timers.forget(self.tenant_id)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """For who reads longer than a moment: the tenant is not closed meanwhile. A store that is
        closed under a snapshot keeps its lock, and could not be opened again."""
        self.journal.pins += 1
        try:
            yield
        finally:
            self.journal.pins -= 1
            self.used_us = self.clock.monotonic_us()

    def may_rest(self, *, with_queue: bool) -> bool:
        """Whether the tenant can be closed until somebody asks for it or a timer of it is due.
        Runs that wait for a worker can wait on the disk too: the worker opens the tenant."""
        return (
            self.journal.pins == 1  # nobody but the engine itself
            and self.journal.committer.stopped_by is None
            and self.journal.committer.is_quiet
            and self.books.are_settled
            and not self.waiters.is_anybody_there
            and not self.pools.workers(self.tenant_id)
            and (with_queue or all(live.is_on_disk for live in self._memory.all_live()))
        )
