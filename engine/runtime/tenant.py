"""The single writer of one tenant's runs.

Every change of a run goes through `carry_out`: decide, apply in memory, append the records with
the new state as one transition, do the bookkeeping at once; what the outside can notice is released
by the committer after the commit and performed in `performing.py`. All of it is synchronous.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import EngineError, JournalBusy, UnknownRun
from engine.base.ids import RunId, TenantId, run_id_text
from engine.core.apply import apply
from engine.core.decide import decide
from engine.core.state import RunState, decode_state, encode_state
from engine.core.transitions import status_after
from engine.core.values import Decision, Entry
from engine.journal.layout import expiry_key, finished_key, open_run_key, run_key
from engine.journal.tenant import TenantJournal
from engine.model import effects
from engine.model.commands import (
    BeginExecution,
    CancelRun,
    ChildEnded,
    Command,
    LoseLease,
    StartRun,
    TimeHasCome,
)
from engine.model.effects import Effect
from engine.model.payloads import (
    RunAccepted,
    WaitCreated,
    WaitResolved,
)
from engine.model.records import NewRecord, RecordKind
from engine.model.runs import ComponentKind, RunStatus
from engine.runtime.live import Lease, LiveRun, ending_of
from engine.runtime.performing import Call, RevokeTo
from engine.runtime.pools import Lease as HeldLease
from engine.runtime.pools import PooledWorker, WorkerPools
from engine.runtime.queues import RunQueues
from engine.runtime.timers import Timers
from engine.runtime.waiters import Waiters
from engine.wire.journal import encode

# A worker that will go on holding a run hears of what the engine wrote; these it must not miss.
_DELIVERED: Final = frozenset({RecordKind.WAIT_RESOLVED, RecordKind.CHILD_FINISHED})


class TenantRuntime:
    def __init__(
        self, journal: TenantJournal, *, pools: WorkerPools, timers: Timers, clock: Clock
    ) -> None:
        self.tenant_id: TenantId = journal.tenant_id
        self.journal = journal
        self.clock = clock
        self.pools = pools
        self.queues = RunQueues(self.tenant_id, pools, self._grant)
        self._timers = timers
        self.waiters = Waiters()
        self._idempotency: dict[bytes, bytes] = {}
        self._runs: dict[RunId, LiveRun] = {}

    # ---- finding runs ----

    def find(self, run: RunId) -> LiveRun:
        """The run, from memory or from its state row; `UnknownRun` if the tenant has none."""
        live = self._runs.get(run)
        if live is None:
            live = self._load(run)
            if live is None:
                raise UnknownRun(
                    f"there is no run {run_id_text(run)} here; check the id, and that the key "
                    "belongs to the tenant that started it",
                    run_id=run_id_text(run),
                )
            if not live.state.is_terminal:
                self._runs[run] = live
        return live

    def _load(self, run: RunId) -> LiveRun | None:
        row = self.journal.row(open_run_key(run)) or self.journal.row(run_key(run))
        if row is None:
            return None
        return LiveRun(decode_state(row), self.journal.open_segment(run))

    def live(self, run: RunId) -> LiveRun | None:
        """The run if it is in memory."""
        return self._runs.get(run)

    def exists(self, run: RunId) -> bool:
        live = self._runs.get(run) or self._load(run)
        return live is not None and live.state.status is not None

    def recover(self) -> int:
        """Take up every open run after a start: nobody holds any of them; how many there are."""
        count = 0
        for _, row in self.journal.rows(open_run_key(b"")):
            state = decode_state(row)
            count += 1
            self._recover_run(state)
        return count

    def _recover_run(self, state: RunState) -> None:
        run = RunId(state.run_id)
        due_ms = state.next_due_ms()
        if due_ms is not None:
            self._timers.add(due_ms, self.tenant_id, run)
        for position, child in list(state.children.items()):
            self._tell_if_child_ended(run, position, RunId(child))
        waits_for_time = state.status is RunStatus.RETRYING or (
            state.status is RunStatus.QUEUED
            and state.attempt == 0
            and state.start_at_ms > self.clock.now_ms()
        )
        if state.status in (RunStatus.QUEUED, RunStatus.RUNNING) and not waits_for_time:
            self.queues.add(self.find(run))

    def _tell_if_child_ended(self, parent: RunId, position: int, child: RunId) -> None:
        """A crash between the child's last record and its parent's is made good here."""
        row = self.journal.row(run_key(child))
        if row is None:
            return
        state = decode_state(row)
        record = self.journal.open_segment(child).read(state.outcome_offset, records_max=1)[0]
        ending = ending_of(record.kind, record.payload)
        assert state.status is not None
        self.carry_out(
            self.find(parent),
            ChildEnded(
                position=position,
                child_run_id=child,
                status=state.status,
                output=ending.output,
                error=ending.error,
            ),
        )

    # ---- changing runs ----

    def start(self, run: RunId, accepted: RunAccepted, extra: Sequence[Effect] = ()) -> LiveRun:
        live = LiveRun(RunState(run_id=run), self.journal.new_segment(run), entries=[])
        self._runs[run] = live
        try:
            self.carry_out(live, StartRun(accepted=accepted), extra)
        except EngineError:
            self._runs.pop(run, None)  # refused: it must not look as if it were there
            raise
        return live

    def start_idempotent(self, run: RunId, accepted: RunAccepted, key: bytes, entry: bytes) -> None:
        """Start, and note under the key which run it was; in memory too until it is durable."""
        self._idempotency[key] = entry
        forget = Call(run, functools.partial(self._idempotency.pop, key, None))
        live = LiveRun(RunState(run_id=run), self.journal.new_segment(run), entries=[])
        self._runs[run] = live
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
        """Decide, apply, append, keep the books. `extra` and `rows` go with the transition."""
        decision = decide(live.state, command, self.clock.now_ms())
        for effect in decision.bookkeeping:
            # Children are written before the record that names them: after a crash in between,
            # the parent starts the same child again and finds it there.
            if isinstance(effect, effects.StartChild):
                self._start_child(effect)
        if decision.entries:
            self._append(live, decision, extra, rows)
        elif extra:
            self.release_after_pending(live, extra)
        for effect in decision.bookkeeping:
            _BOOKKEEPERS[type(effect)](self, effect)

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
        state = live.state
        self._check_transitions(state, decision.entries)
        self._check_room()
        first_offset = state.next_offset
        now_us = self.clock.now_us()
        records: list[NewRecord] = []
        for entry in decision.entries:
            raw = entry.raw
            if raw is None:
                assert entry.payload is not None
                raw = encode(entry.payload)
            records.append(NewRecord(entry.kind, raw, now_us))
            if live.entries is not None:
                live.entries.append((entry.kind, raw, state.next_offset, now_us))
            apply(state, entry.kind, entry.payload, now_us)
        self._note_ending(live, decision.entries[-1])
        released = [
            *self._addressed(live, decision.after_commit),
            *extra,
            *self._deliveries(live, decision, first_offset),
        ]
        if state.status is RunStatus.WAITING:
            released.append(Call(state.run_id, functools.partial(self.forget_if_parked, live)))
        try:
            live.segment.append_many_nowait(
                records,
                rows=[*self._state_rows(state), *rows],
                effects=released,
                expected=first_offset,
            )
        except EngineError:
            # Memory is ahead of the disk: what is on the disk is read again when it is needed.
            self._runs.pop(RunId(state.run_id), None)
            raise
        if live.entries is not None and len(live.entries) > limits.dispatch_entries_cached_max:
            live.entries = None

    def _state_rows(self, state: RunState) -> list[tuple[bytes, bytes | None]]:
        """Open runs have a row of their own sort, so that a start finds them and only them."""
        if state.is_terminal:
            return [
                (open_run_key(state.run_id), None),
                (run_key(state.run_id), encode_state(state)),
                # Until a batch of the archive that holds the run is acknowledged.
                (finished_key(state.ended_ms, state.run_id), b""),
            ]
        return [(open_run_key(state.run_id), encode_state(state))]

    @staticmethod
    def _check_transitions(state: RunState, entries: Sequence[Entry]) -> None:
        """All of them are legal, before the first one is applied."""
        status = state.status
        for entry in entries:
            parks = isinstance(entry.payload, WaitCreated) and entry.payload.parks
            status = status_after(status, entry.kind, parks=parks)

    def _check_room(self) -> None:
        committer = self.journal.committer
        if committer.stopped_by is not None:
            committer.raise_if_stopped()
        if not committer.pending.has_room:
            raise JournalBusy(
                f"{committer.pending.record_count} records wait for the disk, which is the limit; "
                "try again in a moment"
            )

    def _note_ending(self, live: LiveRun, entry: Entry) -> None:
        if live.state.is_terminal:
            live.ending = ending_of(entry.kind, entry.raw, entry.payload)

    @staticmethod
    def _addressed(live: LiveRun, released: Sequence[Effect]) -> list[Effect]:
        """A revocation goes to the worker that holds the run now; after it nobody does."""
        addressed: list[Effect] = []
        for effect in released:
            if not isinstance(effect, effects.Revoke):
                addressed.append(effect)
            elif live.lease is not None:
                port = live.lease.worker.port
                addressed.append(
                    RevokeTo(effect.run_id, effect.lease_epoch, effect.reason, effect.message, port)
                )
        return addressed

    def _deliveries(
        self, live: LiveRun, decision: Decision, first_offset: int
    ) -> list[effects.Effect]:
        """What the worker that holds the run, and goes on holding it, has to hear."""
        lease = live.lease
        if lease is None or live.state.status is not RunStatus.RUNNING:
            return []
        if not any(entry.kind in _DELIVERED for entry in decision.entries):
            return []
        for entry in decision.entries:
            if isinstance(entry.payload, WaitResolved):
                lease.resolved.add(entry.payload.wait_id)
        return [
            effects.Deliver(live.state.run_id, lease.epoch, first_offset, len(decision.entries))
        ]

    # ---- bookkeeping: one function for each sort ----

    def _grant(self, live: LiveRun, worker: PooledWorker) -> bool:
        """Hand a queued run to a worker; False if it cannot move any more."""
        if live.state.is_terminal or live.lease is not None:
            return False
        until_ms = self.clock.now_ms() + limits.lease_ms
        self.carry_out(live, BeginExecution(worker_id=worker.worker_id, lease_until_ms=until_ms))
        if live.ending is not None:
            return False  # it had taken down every worker so far and is not given another
        live.lease = Lease(live.state.lease_epoch, worker)
        self.pools.hold(worker, live.run_id, live.lease.epoch)
        return True

    def take_back(self, leases: Sequence[HeldLease], reason: str) -> None:
        """What a worker held that is gone goes to another one."""
        for held in leases:
            live = self._runs.get(held.run_id)
            if live is not None and live.lease is not None:
                self.carry_out(live, LoseLease(lease_epoch=held.lease_epoch, reason=reason))

    def _book_enqueue(self, effect: effects.Enqueue) -> None:
        self.queues.add(self.find(RunId(effect.run_id)))

    def _book_timer(self, effect: effects.SetTimer) -> None:
        self._timers.add(effect.due_ms, self.tenant_id, RunId(effect.run_id))

    def _book_release(self, effect: effects.ReleaseLease) -> None:
        run = RunId(effect.run_id)
        live = self._runs.get(run)
        if live is not None and live.lease is not None and live.lease.epoch == effect.lease_epoch:
            live.lease = None
        worker = self.pools.release(self.tenant_id, run, effect.lease_epoch)
        if worker is not None:
            self.queues.pump_worker(worker)

    def _start_child(self, effect: effects.StartChild) -> None:
        child = RunId(effect.child_run_id)
        parent = self.find(RunId(effect.run_id)).state
        if self.exists(child):
            return  # the parent is being replayed past this point
        self.start(
            child,
            RunAccepted(
                project_id=parent.project_id,
                deployment_id=parent.deployment_id,
                component=effect.component,
                component_kind=ComponentKind.WORKFLOW,
                input=effect.input,
                correlation_id=parent.correlation_id,
                trace_id=parent.trace_id,
                parent_run_id=parent.run_id if effect.position else b"",
                parent_position=effect.position,
            ),
        )

    def _book_cancel_child(self, effect: effects.CancelChild) -> None:
        child = self._runs.get(RunId(effect.child_run_id)) or self._load(RunId(effect.child_run_id))
        if child is not None and not child.state.is_terminal:
            self._runs.setdefault(RunId(effect.child_run_id), child)
            self.carry_out(child, CancelRun(reason=effect.reason))

    def _book_tell_parent(self, effect: effects.TellParent) -> None:
        parent = self.find(RunId(effect.parent_run_id))
        self.carry_out(
            parent,
            ChildEnded(
                position=effect.position,
                child_run_id=effect.run_id,
                status=effect.status,
                output=effect.output,
                error=effect.error,
            ),
        )

    # ---- leaving memory ----

    def forget_if_parked(self, live: LiveRun) -> None:
        """A run that waits needs no memory once its row has all: whoever wakes it loads it."""
        is_parked = live.state.status is RunStatus.WAITING and live.lease is None
        if is_parked and live.segment.durable_offset == live.state.next_offset:
            self._runs.pop(live.run_id, None)

    def forget(self, run: RunId) -> None:
        self._runs.pop(run, None)

    def time_has_come(self, run: RunId) -> None:
        try:
            live = self.find(run)
        except UnknownRun:
            return
        self.carry_out(live, TimeHasCome())


def _done_before(_: TenantRuntime, __: effects.StartChild) -> None:
    """Children were started before the append."""


_BOOKKEEPERS: Final[dict[type[Effect], Callable[[TenantRuntime, Any], None]]] = {
    effects.Enqueue: TenantRuntime._book_enqueue,
    effects.SetTimer: TenantRuntime._book_timer,
    effects.ReleaseLease: TenantRuntime._book_release,
    effects.StartChild: _done_before,
    effects.CancelChild: TenantRuntime._book_cancel_child,
    effects.TellParent: TenantRuntime._book_tell_parent,
}
