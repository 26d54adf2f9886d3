"""The rules of DESIGN §4, as checks: of a running engine at any moment, and of what the disk has
at the end. Each violation names its rule.

`Ledger` notes what the simulation saw from outside (acknowledgements, answers, steps that ran), so
that the journal can be compared with it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from engine.base.ids import RunId, TenantId
from engine.core.apply import UNREAD_KINDS, apply
from engine.core.state import RunState, decode_state
from engine.ext.offsets import decode_record, split_key
from engine.journal.layout import OPEN_RUN_TAG, RUN_TAG
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    RunAccepted,
    RunCompleted,
    RunFailed,
    RunRetrying,
    RunStarted,
    SignalReceived,
    StateChanged,
    StateScope,
    StepCompleted,
    StepFailed,
    WaitCreated,
    WaitKind,
    WaitOutcome,
    WaitResolved,
)
from engine.model.records import RecordKind
from engine.model.runs import RunStatus
from engine.runtime.engine import Engine
from engine.runtime.writer.tenant import TenantRuntime
from engine.wire import journal
from tests.simulation import programs
from tests.simulation.disk import Disk, TenantFiles

# Of other reports the engine writes what it makes of them.
_TAKEN_AS_THEY_ARE: Final = frozenset(
    {
        RecordKind.STEP_COMPLETED,
        RecordKind.STEP_FAILED,
        RecordKind.CHILD_STARTED,
        RecordKind.USAGE_REPORTED,
        RecordKind.RUN_COMPLETED,
    }
)


class Violation(AssertionError):
    """A rule did not hold."""


def require(holds: object, rule: str, what: str) -> None:
    if not holds:
        raise Violation(f"{rule}: {what}")


class Ledger:
    """What was seen from outside."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.raws: list[tuple[TenantId, RunId, bytes]] = []
        self.executions: list[tuple[TenantId, RunId, int, int]] = []
        self.granted: dict[tuple[TenantId, RunId], int] = {}
        self.started: dict[tuple[TenantId, str], RunId] = {}
        self.signals: list[tuple[TenantId, RunId, str]] = []
        self.cancelled: set[tuple[TenantId, RunId]] = set()
        self.cancel_asked: set[tuple[TenantId, RunId]] = set()
        self.outcomes: dict[tuple[TenantId, RunId], tuple[RunStatus, bytes | None]] = {}

    def acknowledged(self, tenant: TenantId, run: RunId, entries: list[tuple[int, bytes]]) -> None:
        """An acknowledgement leaves: what it is about must be on the disk by now."""
        kept = _payloads(self._disk.files(tenant), run)
        for kind, raw in entries:
            if kind in _TAKEN_AS_THEY_ARE:
                require(raw in kept, "NO_LOST_ACK", f"{RecordKind(kind).name} is not durable")
                self.raws.append((tenant, run, raw))

    def dispatched(self, tenant: TenantId, run: RunId, epoch: int) -> None:
        before = self.granted.get((tenant, run), 0)
        require(
            epoch >= before, "AT_MOST_ONE_LEASE_HOLDER", f"epoch {epoch} granted after {before}"
        )
        self.granted[tenant, run] = epoch

    def executed(self, tenant: TenantId, run: RunId, epoch: int, position: int) -> None:
        self.executions.append((tenant, run, epoch, position))

    def start_answered(self, tenant: TenantId, key: str, run: RunId) -> None:
        first = self.started.setdefault((tenant, key), run)
        require(first == run, "START_IDEMPOTENT", f"key {key} started two runs")

    def ended(self, tenant: TenantId, run: RunId, status: RunStatus, output: bytes | None) -> None:
        told = self.outcomes.setdefault((tenant, run), (status, output))
        require(told == (status, output), "TERMINAL_ONCE", f"{told} and then {status}")


def _payloads(files: TenantFiles, run: RunId) -> list[bytes]:
    pairs = files.records.pairs(run, run + b"\xff" * 9)
    return [decode_record(value)[4] for _, value in pairs]


# ---- at any moment ----


def check_engine(engine: Engine) -> None:
    for tenant in engine.open_tenants():
        _check_leases(tenant)


def _check_leases(tenant: TenantRuntime) -> None:
    held: dict[RunId, int] = {}
    for worker in tenant.pools.workers(tenant.tenant_id):
        require(
            len(worker.leases) <= worker.capacity,
            "SLOTS_EQUAL_LIVE_LEASES",
            f"{worker.worker_id} holds {len(worker.leases)} of {worker.capacity}",
        )
        for lease in worker.leases:
            require(lease.run_id not in held, "AT_MOST_ONE_LEASE_HOLDER", lease.run_id.hex())
            held[lease.run_id] = lease.lease_epoch
            live = tenant.live(lease.run_id)
            require(
                live is not None
                and live.lease is not None
                and live.lease.worker is worker
                and live.lease.epoch == lease.lease_epoch,
                "SLOTS_EQUAL_LIVE_LEASES",
                f"{worker.worker_id} has a slot for {lease.run_id.hex()} without a lease",
            )
            assert live is not None
            require(
                live.state.status is RunStatus.RUNNING,
                "WAITING_HOLDS_NO_SLOT",
                f"{live.state.status} and holds a slot of {worker.worker_id}",
            )
    for live in tenant.all_live():
        if live.lease is not None:
            require(
                held.get(live.run_id) == live.lease.epoch,
                "SLOTS_EQUAL_LIVE_LEASES",
                f"run {live.run_id.hex()} has a lease that no slot is held for",
            )
        require(
            not (live.is_queued and live.lease is not None),
            "AT_MOST_ONE_LEASE_HOLDER",
            f"run {live.run_id.hex()} is held and queued",
        )


# ---- at the end ----


class Told:
    """One run, from its records alone."""

    def __init__(self, tenant: TenantId, run: RunId) -> None:
        self.tenant = tenant
        self.run = run
        self.state = RunState(run_id=run)
        self.accepted = RunAccepted()
        self.begun_at: dict[int, int] = {}  # lease epoch -> offset
        self.completed_at: dict[int, int] = {}  # position of a step -> offset
        self.waits: dict[str, WaitCreated] = {}
        self.received: dict[str, list[str]] = {}
        self.consumed: dict[str, list[str]] = {}
        self.children: list[ChildStarted] = []
        self.output: bytes | None = None
        self.failed: RunFailed | None = None
        self.counted = 0
        self.retries = 0
        self.signal_ids: list[str] = []
        self._last_retry: RunRetrying | None = None

    def tell(self, offset: int, value: bytes) -> None:
        number, _, low, timestamp_us, raw = decode_record(value)
        kind = RecordKind(number)
        require(low == offset == self.state.next_offset, "CONTIGUOUS_SEQUENCE", f"at {offset}")
        require(not self.state.is_terminal, "TERMINAL_ONCE", f"{kind.name} after the end")
        payload = journal.decode(kind, raw)
        epoch = getattr(payload, "lease_epoch", 0)
        if epoch and kind is not RecordKind.RUN_STARTED:
            require(
                epoch == self.state.lease_epoch,
                "NO_STALE_FENCE_WRITE",
                f"{kind.name} of epoch {epoch} under {self.state.lease_epoch}",
            )
        self._note(offset, payload, timestamp_us)
        apply(self.state, kind, None if kind in UNREAD_KINDS else payload, timestamp_us)

    def _note(self, offset: int, payload: Any, timestamp_us: int) -> None:
        match payload:
            case RunAccepted():
                self.accepted = payload
            case RunStarted():
                self._note_start(offset, payload, timestamp_us)
            case StepCompleted():
                require(
                    payload.position not in self.completed_at,
                    "REPLAY_NEVER_REEXECUTES",
                    f"step {payload.position} completed twice",
                )
                self.completed_at[payload.position] = offset
            case StepFailed() if not payload.retry_at_ms:
                self.completed_at[payload.position] = offset
            case WaitCreated():
                self.waits.setdefault(payload.wait_id, payload)
            case WaitResolved():
                self._note_resolved(payload, timestamp_us)
            case SignalReceived():
                require(
                    payload.signal_id not in self.signal_ids,
                    "SIGNAL_FIFO_NO_LOSS",
                    f"signal {payload.signal_id} counted twice",
                )
                self.signal_ids.append(payload.signal_id)
                self.received.setdefault(payload.name, []).append(payload.signal_id)
            case ChildStarted():
                self.children.append(payload)
            case StateChanged() if payload.scope == StateScope.GLOBAL:
                self.counted += 1
            case RunRetrying():
                self.retries += 1
                self._last_retry = payload
            case RunCompleted():
                self.output = payload.output
            case RunFailed():
                self.failed = payload
            case _:
                pass

    def _note_start(self, offset: int, payload: RunStarted, timestamp_us: int) -> None:
        require(
            payload.attempt == self.retries + 1,
            "TRANSPORT_RETRY_IS_NOT_AN_ATTEMPT",
            f"attempt {payload.attempt} after {self.retries} retries",
        )
        require(
            payload.lease_epoch == self.state.lease_epoch + 1,
            "AT_MOST_ONE_LEASE_HOLDER",
            f"epoch {payload.lease_epoch} after {self.state.lease_epoch}",
        )
        self.begun_at[payload.lease_epoch] = offset
        retry = self._last_retry
        if retry is not None:
            require(
                timestamp_us // 1_000 >= retry.retry_at_ms,
                "TIMER_NEVER_EARLY_NEVER_LOST",
                f"attempt {payload.attempt} began before its backoff was over",
            )
            self._last_retry = None  # handed out again, it has no backoff any more

    def _note_resolved(self, payload: WaitResolved, timestamp_us: int) -> None:
        wait = self.waits.get(payload.wait_id)
        require(wait is not None, "SIGNAL_FIFO_NO_LOSS", f"no wait {payload.wait_id} was open")
        assert wait is not None
        if payload.outcome in (WaitOutcome.FIRED, WaitOutcome.TIMED_OUT):
            require(
                timestamp_us // 1_000 >= wait.due_ms > 0,
                "TIMER_NEVER_EARLY_NEVER_LOST",
                f"wait {payload.wait_id} fired before it was due",
            )
        if payload.outcome == WaitOutcome.SIGNALLED:
            self.consumed.setdefault(wait.name, []).append(payload.signal_id)

    def check_signals(self) -> None:
        for name, taken in self.consumed.items():
            require(
                taken == self.received.get(name, [])[: len(taken)],
                "SIGNAL_FIFO_NO_LOSS",
                f"{name}: received {self.received.get(name)}, taken {taken}",
            )
        for wait in self.state.waits.values():
            if wait.kind == WaitKind.SIGNAL:
                require(
                    all(signal.name != wait.name for signal in self.state.signals.values()),
                    "SIGNAL_FIFO_NO_LOSS",
                    f"the wait for {wait.name} is open and a signal is there",
                )


def read_runs(tenant: TenantId, files: TenantFiles) -> dict[RunId, Told]:
    runs: dict[RunId, Told] = {}
    for key, value in files.all_records():
        run, offset = split_key(key)
        told = runs.get(RunId(run))
        if told is None:
            told = runs[RunId(run)] = Told(tenant, RunId(run))
        told.tell(offset, value)
    return runs


def check_rebuild(tenant: TenantId, files: TenantFiles) -> dict[RunId, Told]:
    """Folding the journal gives the stored states, all of them and no others."""
    runs = read_runs(tenant, files)
    stored = {key[1:]: (key[:1], row) for key, row in files.all_rows(OPEN_RUN_TAG)}
    stored.update({key[1:]: (key[:1], row) for key, row in files.all_rows(RUN_TAG)})
    require(set(stored) == set(runs), "REBUILD_EQUALS_STATE", "other runs than states")
    for run, told in runs.items():
        tag, row = stored[run]
        expected = RUN_TAG if told.state.is_terminal else OPEN_RUN_TAG
        require(
            tag == expected and decode_state(row) == told.state,
            "REBUILD_EQUALS_STATE",
            f"run {run.hex()}: {decode_state(row)} is stored, {told.state} is told",
        )
        told.check_signals()
    return runs


def check_at_the_end(disk: Disk, ledger: Ledger) -> None:
    everything: dict[tuple[TenantId, RunId], Told] = {}
    for tenant, files in disk.tenants.items():
        runs = check_rebuild(tenant, files)
        everything.update({(tenant, run): told for run, told in runs.items()})
        _check_counters(files, runs)
    for tenant, run, raw in ledger.raws:
        require(raw in _payloads(disk.files(tenant), run), "NO_LOST_ACK", f"of run {run.hex()}")
    _check_answers(ledger, everything)
    _check_executions(ledger, everything)
    for (tenant, run), told in everything.items():
        _check_ending(ledger, everything, told)
        others = [other for other, known in everything if known == run and other != tenant]
        require(not others, "TENANT_ISOLATION", f"run {run.hex()} is in {others} too")


def _check_answers(ledger: Ledger, runs: dict[tuple[TenantId, RunId], Told]) -> None:
    for (tenant, key), run in ledger.started.items():
        require((tenant, run) in runs, "NO_LOST_ACK", f"the start with key {key} is lost")
    by_key: dict[tuple[TenantId, str], RunId] = {}
    for (tenant, run), told in runs.items():
        key = told.accepted.idempotency_key
        if key:
            first = by_key.setdefault((tenant, key), run)
            require(first == run, "START_IDEMPOTENT", f"key {key} has two runs")
    for tenant, run, signal_id in ledger.signals:
        told = runs[tenant, run]
        require(signal_id in told.signal_ids, "SIGNAL_FIFO_NO_LOSS", f"{signal_id} is lost")
    for place in ledger.cancelled:
        status = runs[place].state.status
        require(status is RunStatus.CANCELLED, "CANCEL_RACE_ONE_WINNER", f"it is {status}")
    for place, (status, output) in ledger.outcomes.items():
        told = runs[place]
        require(told.state.status is status, "TERMINAL_ONCE", f"{status} was told")
        require(output is None or told.output == output, "NO_LOST_ACK", "another output was told")


def _check_executions(ledger: Ledger, runs: dict[tuple[TenantId, RunId], Told]) -> None:
    for tenant, run, epoch, position in ledger.executions:
        told = runs[tenant, run]
        begun_at = told.begun_at.get(epoch)
        require(begun_at is not None, "NO_LOST_ACK", f"epoch {epoch} ran and was not begun")
        recorded_at = told.completed_at.get(position)
        require(
            begun_at is None or recorded_at is None or recorded_at > begun_at,
            "REPLAY_NEVER_REEXECUTES",
            f"step {position} of run {run.hex()} ran again under epoch {epoch}",
        )


def _check_counters(files: TenantFiles, runs: dict[RunId, Told]) -> None:
    """What all runs counted together is in the shared value."""
    counted = sum(told.counted for told in runs.values())
    rows = [row for key, row in files.all_rows(b"s") if key.endswith(b"count")]
    found = msgspec.json.decode(msgspec.msgpack.decode(rows[0])[1]) if rows else 0
    require(found == counted, "NO_LOST_ACK", f"counted {counted} times, the value is {found}")


def _check_ending(ledger: Ledger, runs: dict[tuple[TenantId, RunId], Told], told: Told) -> None:
    state, accepted = told.state, told.accepted
    require(state.is_terminal, "EVENTUAL_PROGRESS", f"run {told.run.hex()} is {state.status}")
    for child in told.children:
        found = runs.get((told.tenant, RunId(child.child_run_id)))
        require(found is not None, "NO_LOST_ACK", f"child {child.position} is lost")
        assert found is not None
        if child.mode == ChildMode.JOIN and state.status is RunStatus.CANCELLED:
            require(found.state.is_terminal, "EVENTUAL_PROGRESS", "a child outlives its parent")
    if state.status is RunStatus.CANCELLED:
        place = (told.tenant, RunId(accepted.parent_run_id or told.run))
        parent = runs.get(place)
        require(
            place in ledger.cancel_asked
            or (parent is not None and parent.state.status is RunStatus.CANCELLED),
            "CANCEL_RACE_ONE_WINNER",
            "nobody had asked for it",
        )
        return
    if accepted.component == "broken":
        require(state.status is RunStatus.FAILED, "EVENTUAL_PROGRESS", f"it is {state.status}")
        return
    error = told.failed.error if told.failed is not None else None
    require(
        state.status is RunStatus.COMPLETED, "EVENTUAL_PROGRESS", f"{accepted.component}: {error}"
    )
    if accepted.component == "program_run":
        program = msgspec.json.decode(accepted.input)
        assert told.output is not None
        wrong = programs.mismatch(program, msgspec.json.decode(told.output))
        require(wrong is None, "REPLAY_NEVER_REEXECUTES", str(wrong))
