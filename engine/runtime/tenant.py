"""The single writer of one tenant's runs.

Every change of a run goes through `carry_out`: decide, apply in memory, append the records with
the new state as one transition, do the bookkeeping at once; what the outside can notice is released
by the committer after the commit and performed in `performing.py`. All of it is synchronous.

What the engine owes because of a transition (a parent is told, a lost run goes back into its queue)
stands in `books` until it is done: a journal that is full for a moment delays it and loses nothing.
"""

from __future__ import annotations

import functools
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
    JournalBusy,
    SegmentSealed,
    TenantFailed,
    UnknownRun,
)
from engine.base.ids import RunId, TenantId, run_id_text
from engine.core.decide import decide
from engine.core.state import RunState, decode_state
from engine.core.transition import plan
from engine.core.values import Decision, Entry
from engine.journal.layout import expiry_key, open_run_key, run_key
from engine.journal.tenant import TenantJournal
from engine.model import effects
from engine.model.commands import BeginExecution, Command, StartRun, TimeHasCome
from engine.model.effects import Effect
from engine.model.payloads import RunAccepted
from engine.model.records import NewRecord
from engine.model.runs import RunStatus
from engine.model.worker_frames import RevokeReason
from engine.runtime import appending
from engine.runtime.bookkeeping import NO_RUN, Books, LeftBehind, Lost, Mingled, start_child
from engine.runtime.live import Ending, Lease, LiveRun, RunEnded, ended_as, ending_of
from engine.runtime.performing import Call, revoke_frame
from engine.runtime.pools import Lease as HeldLease
from engine.runtime.pools import PooledWorker, WorkerPools
from engine.runtime.queues import RunQueues
from engine.runtime.recovery import recover
from engine.runtime.shared_state import SharedState
from engine.runtime.timers import Timers
from engine.runtime.waiters import Waiters

_log: Final = logging.getLogger(__name__)
# In these no worker has the run.
_STILL: Final = frozenset({RunStatus.QUEUED, RunStatus.WAITING, RunStatus.RETRYING})


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
        self.queues = RunQueues(
            self.tenant_id, pools, self._grant, self._comes_again, self.books.go_on_soon
        )
        self.used_us = clock.monotonic_us()
        # Open runs that could not be taken up, and why.
        self.unrecovered: dict[RunId, EngineError] = {}
        self._lease_ms = lease_ms
        self._timers = timers
        self.waiters = Waiters()
        self._idempotency: dict[bytes, bytes] = {}
        self.shared_state = SharedState(journal)
        self._runs: dict[RunId, LiveRun] = {}
        # Told of each run that has ended, once that is durable, one after the other.
        self.subscribers: list[Callable[[RunEnded], object]] = []

    # ---- finding runs ----

    def find(self, run: RunId) -> LiveRun:
        """The run, from memory or from its state row; `UnknownRun` if the tenant has none."""
        live = self.look(run)
        if not live.state.is_terminal:
            self._runs.setdefault(run, live)
        return live

    def look(self, run: RunId) -> LiveRun:
        """As `find`, for who only reads: a run that rests on the disk stays there."""
        live = self._runs.get(run) or self._load(run)
        if live is None:
            raise UnknownRun(
                f"there is no run {run_id_text(run)} here; check the id, and that the key belongs "
                "to the tenant that started it",
                run_id=run_id_text(run),
            )
        return live

    def adopt(self, state: RunState) -> LiveRun:
        """The run of a state that was just read, in memory from now on."""
        run = RunId(state.run_id)
        live = self._runs.get(run)
        if live is None:
            live = self._runs[run] = LiveRun(state, journal=self.journal)
        return live

    def enqueue_taken_up(self, live: LiveRun) -> None:
        """At a start: the run waits for a worker, as one of very many."""
        self.queues.add(live)
        if live.is_queued and live.is_written and self.queues.are_long:
            live.rest()

    def ending_of(self, run: RunId) -> Ending | None:
        """How a run ended whose last record is durable."""
        live = self._runs.get(run)
        if live is None or live.ending is None:
            live = self._load(run)
        if live is None or not live.state.is_terminal:
            return None
        return live.ending or ended_as(live)

    def _load(self, run: RunId) -> LiveRun | None:
        row = self.journal.row(open_run_key(run)) or self.journal.row(run_key(run))
        if row is None:
            return None
        return LiveRun(decode_state(row), journal=self.journal, row_bytes=len(row))

    def live(self, run: RunId) -> LiveRun | None:
        """The run if it is in memory."""
        return self._runs.get(run)

    def exists(self, run: RunId) -> bool:
        live = self._runs.get(run) or self._load(run)
        return live is not None and live.state.status is not None

    # ---- changing runs ----

    def start(self, run: RunId, accepted: RunAccepted) -> LiveRun:
        self.check_room()
        return self.start_child(run, accepted)

    def start_child(self, run: RunId, accepted: RunAccepted) -> LiveRun:
        """As `start`, in the room that is kept for what the engine does itself."""
        live = self._new(run)
        try:
            self.carry_out(live, StartRun(accepted=accepted))
        except EngineError:
            self._runs.pop(run, None)  # refused: it must not look as if it were there
            raise
        return live

    def _new(self, run: RunId) -> LiveRun:
        segment = self.journal.new_segment(run)
        live = LiveRun(RunState(run_id=run), segment, journal=self.journal, entries=[])
        self._runs[run] = live
        return live

    def start_idempotent(self, run: RunId, accepted: RunAccepted, key: bytes, entry: bytes) -> None:
        """Start, and note under the key which run it was; in memory too until it is durable."""
        self.check_room()
        self._idempotency[key] = entry
        forget = Call(run, functools.partial(self._idempotency.pop, key, None))
        live = self._new(run)
        try:
            rows = [(key, entry), (expiry_key(self.clock.now_ms(), key), b"")]
            self.carry_out(live, StartRun(accepted=accepted), [forget], rows)
        except EngineError:
            self._runs.pop(run, None)
            self._idempotency.pop(key, None)
            raise

    def idempotency_entry(self, key: bytes) -> bytes | None:
        return self._idempotency.get(key) or self.journal.row(key)

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
        appending.check_transitions(live.state, decision.entries)
        payloads = appending.payloads_of(decision.entries)
        self._check_writable(len(payloads))
        for effect in decision.bookkeeping:
            # Children are written before the record that names them: after a crash in between,
            # the parent starts the same child again and finds it there.
            if isinstance(effect, effects.StartChild):
                start_child(self, effect)
                self._check_writable(len(payloads))  # it has taken some of the room
        batch = self.journal.committer.pending.batch_for(len(payloads))
        appending.make_late_row(live, batch)
        may_outgrow = appending.may_outgrow(live, payloads)
        planned = plan(live.state, decision, self.clock.now_us())
        state = planned.state
        # Opened where the state, as it is now, says that it ends.
        segment = live.segment
        released = [
            *appending.addressed(live, planned.after_commit),
            *extra,
            *appending.deliveries(live, planned),
        ]
        if state.status in _STILL:
            released.append(Call(live.run_id, functools.partial(self.put_down, live)))
        changes = self.shared_state.changes_in(state, planned.entries)
        if changes:
            released.append(self.shared_state.when_durable(live.run_id, changes))
        state_rows, late, row_bytes = appending.rows_of(
            live, state, batch, payloads, now=may_outgrow
        )
        if late is not None:
            released.append(
                Call(live.run_id, functools.partial(appending.late_row_written, live, late))
            )
        # What is refused up to here, or here, has changed nothing.
        try:
            segment.append_many_nowait(
                [
                    NewRecord(entry.kind, payload, planned.timestamp_us)
                    for entry, payload in zip(planned.entries, payloads, strict=True)
                ],
                rows=[*state_rows, *self.shared_state.rows(changes), *rows],
                effects=released,
                expected=planned.first_offset,
            )
        except (AppendConflict, SegmentSealed) as error:
            self._lose(live, error)
            raise
        live.state, live.late, live.row_bytes = state, late, row_bytes
        self.shared_state.hold(changes)
        self._note(live, planned.entries, payloads, planned.first_offset, planned.timestamp_us)

    def _note(
        self,
        live: LiveRun,
        entries: Sequence[Entry],
        payloads: Sequence[bytes],
        first_offset: int,
        now_us: int,
    ) -> None:
        """What memory keeps of a transition beside the state."""
        appending.note_resolved(live, entries)
        if live.lease is not None and live.lease.worker.alone and not live.state.is_suspect:
            self.pools.mingle(live.lease.worker)
            self.books.owe([Mingled(live.run_id, live.lease.worker)])
        if live.state.is_terminal:
            live.ending = ending_of(entries[-1].kind, payloads[-1], entries[-1].payload)
        appending.note_entries(live, entries, payloads, first_offset, now_us)

    def _lose(self, live: LiveRun, error: EngineError) -> None:
        """Somebody else wrote to the run's journal, so what memory knows of the run is not what is
        there. It leaves memory and its worker stops; the next start looks at it anew."""
        _log.error("run %s is lost to this process: %s", run_id_text(live.run_id), error.message)
        self.unrecovered[live.run_id] = error
        self._let_go_of_lease(live.run_id, live.state.lease_epoch, error.message)
        live.lease = None
        self._runs.pop(live.run_id, None)
        if live.late is not None:
            # A row on its way to the disk would say less than the records.
            self.journal.committer.stop(error)

    # ---- whether there is room ----

    async def wait_for_room(self) -> None:
        """For the doors: until the journal can take what they bring. Raises if it is stopped."""
        await self.journal.wait_until_writable(
            limits.pending_records_reserve, limits.pending_bytes_reserve
        )

    def check_room(self) -> None:
        """For the doors: they leave a reserve, in which the engine writes what follows from what
        it has taken."""
        committer = self.journal.committer
        committer.raise_if_stopped()
        if not committer.has_room_for(limits.pending_records_reserve, limits.pending_bytes_reserve):
            raise self._busy()

    def _check_writable(self, record_count: int) -> None:
        committer = self.journal.committer
        committer.raise_if_stopped()
        if not committer.has_room_for(record_count, 0):
            raise self._busy()

    def _busy(self) -> JournalBusy:
        pending = self.journal.committer.pending
        return JournalBusy(
            f"{pending.record_count} records ({pending.byte_count} bytes) wait for the disk, which "
            "is the limit; try again in a moment"
        )

    # ---- leases ----

    def _grant(self, live: LiveRun, worker: PooledWorker) -> bool:
        """Hand a queued run to a worker; False if it cannot move any more."""
        if live.state.is_terminal or live.lease is not None:
            return False
        # The slot is taken first: what is owed from before may hand out runs as well.
        lease = live.lease = Lease(live.state.lease_epoch + 1, worker)
        self.pools.hold(worker, live.run_id, lease.epoch, alone=live.state.is_suspect)
        until_ms = self.clock.now_ms() + self._lease_ms
        begin = BeginExecution(worker_id=worker.worker_id, lease_until_ms=until_ms)
        try:
            self.carry_out(live, begin)
        finally:
            # Refused, or it had taken down every worker so far and is not given another.
            if live.state.lease_epoch != lease.epoch:
                live.lease = None
                self.pools.release(self.tenant_id, live.run_id, lease.epoch)
        return live.lease is lease

    def _comes_again(self, live: LiveRun, error: EngineError) -> bool:
        """Whether a run that could not be granted keeps its place in the queue."""
        if isinstance(error, JournalBusy):
            self.books.settle_later()
            return True
        self.books.report(effects.Enqueue(live.run_id), error)
        return False

    def take_back(self, leases: Sequence[HeldLease], reason: str) -> None:
        """What a worker held that is gone goes to another one."""
        self.books.owe([Lost(held.run_id, held.lease_epoch, reason) for held in leases])
        self.books.settle()

    def hand_on(self, leases: Sequence[HeldLease]) -> None:
        """What a worker held that has left in an orderly way: as after a restart of the engine,
        nothing is written and nothing is held against the run."""
        self.books.owe([LeftBehind(held.run_id, held.lease_epoch) for held in leases])
        self.books.settle()

    # ---- leaving memory ----

    def put_down(self, live: LiveRun) -> None:
        """A run that nobody has needs no memory once its row has all: whoever moves it loads it. If
        it waits for a worker its id has to stay, and while few do, it stays as it is: its turn is
        near."""
        if self._runs.get(live.run_id) is not live or live.lease is not None or live.is_resting:
            return
        if not live.is_written or live.state.status not in _STILL:
            return
        if not live.is_queued:
            del self._runs[live.run_id]
        elif self.queues.are_long:
            live.rest()

    def forget(self, run: RunId) -> None:
        live = self._runs.pop(run, None)
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
        for worker in self.pools.workers(self.tenant_id):
            for lease in worker.leases:
                self._let_go_of_lease(lease.run_id, lease.lease_epoch, reason)
        for live in self._runs.values():
            live.lease, live.is_queued = None, False
        self._runs.clear()
        self._idempotency.clear()
        self.books.clear()
        self.unrecovered.clear()
        self.shared_state = SharedState(self.journal)
        self.queues.clear()
        self._timers.forget(self.tenant_id)

    def _let_go_of_lease(self, run: RunId, lease_epoch: int, reason: str) -> None:
        """Nobody holds the run any more, and who did is told."""
        worker = self.pools.release(self.tenant_id, run, lease_epoch)
        if worker is not None:
            worker.port.send(revoke_frame(run, lease_epoch, RevokeReason.EXPIRED, reason))

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
            and (with_queue or all(live.is_on_disk for live in self._runs.values()))
        )
