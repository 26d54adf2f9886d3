"""An engine small enough to read: journals in memory, one worker, frames in and out as bytes.

It keeps the worker's side of the contract: a report is taken once, in order, and only under the
current lease; what is acknowledged is in the journal; a park takes the lease back; a wait that is
resolved while the worker holds the run is delivered, and otherwise brings the run back with a new
lease. Time stands still until it is moved. Tests say when acknowledgements leave, and when the
worker loses what it holds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from engine.base.clock import ManualClock
from engine.base.ids import RunId, RunIdFactory
from engine.ext import frames
from engine.model.payloads import (
    ChildFinished,
    ChildMode,
    ChildStarted,
    Error,
    Payload,
    RunAccepted,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunRetrying,
    RunStarted,
    SignalReceived,
    StateChanged,
    StateConflicted,
    StateRead,
    StateScope,
    WaitCreated,
    WaitKind,
    WaitOutcome,
    WaitResolved,
)
from engine.model.records import RecordKind
from engine.model.runs import ComponentKind, RunStatus
from engine.model.worker_frames import (
    Drain,
    Register,
    Registered,
    Revoke,
    RevokeReason,
)
from engine.wire import journal
from engine.wire import worker as wire

Entry = tuple[int, bytes, int, int]


@dataclasses.dataclass
class FakeRun:
    run_id: RunId
    component: str
    status: RunStatus = RunStatus.QUEUED
    journal: list[Entry] = dataclasses.field(default_factory=list)
    epoch: int = 0
    attempt: int = 0
    held: bool = False
    sequence: int = 0
    resolved_in_lease: bool = False
    waits: dict[str, WaitCreated] = dataclasses.field(default_factory=dict)
    signals: list[SignalReceived] = dataclasses.field(default_factory=list)
    children: dict[int, RunId] = dataclasses.field(default_factory=dict)
    parent: tuple[RunId, int] | None = None
    output: bytes | None = None
    error: Error | None = None
    reports: int = 0

    def kinds(self) -> list[str]:
        return [RecordKind(entry[0]).name for entry in self.journal]

    def payloads(self) -> list[Payload]:
        return [journal.decode(entry[0], entry[1]) for entry in self.journal]

    def of(self, payload_type: type[Any]) -> list[Any]:
        return [payload for payload in self.payloads() if isinstance(payload, payload_type)]

    def result(self) -> Any:
        assert self.status is RunStatus.COMPLETED, (self.status, self.error, self.kinds())
        assert self.output is not None
        return msgspec.json.decode(self.output)


class FakeEngine:
    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self._new_id = RunIdFactory(self.clock)
        self.runs: dict[RunId, FakeRun] = {}
        self.registers: list[Register] = []
        self.emitted: list[tuple[str, Any]] = []
        self.heartbeats = 0
        self.drained = False
        self.attempts_max = 1
        self.holds_acks = False
        # Shared state, as if there were one session, one user and one entity: revision and value.
        self.shared: dict[tuple[int, str], tuple[int, bytes | None]] = {}
        self.serves = True
        self.page_entries = 10_000
        self._out: list[bytes] = []
        self._held: list[bytes] = []

    # ---- for tests ----

    def start(self, component: str, value: Any = None, **accepted: Any) -> FakeRun:
        return self._start(self._new_id(), component, msgspec.json.encode(value), **accepted)

    def signal(self, run: FakeRun, name: str, value: Any = None) -> None:
        received = SignalReceived(
            signal_id=str(len(run.journal)), name=name, payload=msgspec.json.encode(value)
        )
        self._append(run, received)
        run.signals.append(received)
        self._match_signals(run)

    def answer(self, run: FakeRun, wait_id: str, value: Any) -> None:
        self._resolve(run, wait_id, WaitOutcome.ANSWERED, msgspec.json.encode(value))

    def cancel(self, run: FakeRun) -> None:
        self._append(run, RunCancelled(reason="asked to"))
        run.status, run.held = RunStatus.CANCELLED, False
        self._send_cold(
            Revoke(run_id=run.run_id, lease_epoch=run.epoch, reason=RevokeReason.CANCELLED)
        )

    def advance(self, seconds: float) -> None:
        self.clock.advance_us(int(seconds * 1_000_000))
        now_ms = self.clock.now_ms()
        for run in list(self.runs.values()):
            for wait in list(run.waits.values()):
                if wait.due_ms and wait.due_ms <= now_ms:
                    fired = wait.kind == WaitKind.TIMER
                    outcome = WaitOutcome.FIRED if fired else WaitOutcome.TIMED_OUT
                    self._resolve(run, wait.wait_id, outcome, wait.default)

    def lose_worker(self) -> None:
        """The worker is gone, or the stream: its runs are granted again."""
        self._out.clear()
        self._held.clear()
        for run in self.runs.values():
            run.held = False

    def dispatch_waiting(self) -> None:
        for run in list(self.runs.values()):
            queued = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.RETRYING)
            if self.serves and not run.held and run.status in queued:
                self._grant(run)

    def release_acks(self) -> None:
        self._out.extend(self._held)
        self._held.clear()

    def take(self) -> bytes | None:
        """The next message for the worker."""
        self.dispatch_waiting()
        if not self._out:
            return None
        message = frames.pack_frames(self._out)
        self._out.clear()
        return bytes(message)

    def receive(self, message: bytes) -> None:
        for frame in frames.scan_worker_frames(message):
            if frame[0] == "report":
                self._report(frame[1], frame[2], frame[3], frame[4])
            elif frame[0] == "heartbeat":
                self.heartbeats += 1
            elif frame[0] == "emit":
                self.emitted.append((frame[3], msgspec.json.decode(frame[4])))
            else:
                self._cold(wire.decode_worker_frame(frame[1], frame[2]))

    # ---- inside ----

    def _cold(self, frame: Any) -> None:
        if isinstance(frame, Register):
            self.registers.append(frame)
            self._send_cold(
                Registered(worker_id=frame.worker_id, session=len(self.registers), heartbeat_ms=20)
            )
        elif isinstance(frame, Drain):
            self.drained, self.serves = True, False

    def _send(self, frame: bytes) -> None:
        """What follows from a commit leaves in the order of the journal, also when it is held."""
        if self._held or self.holds_acks:
            self._held.append(frame)
        else:
            self._out.append(frame)

    def _send_cold(self, frame: Any) -> None:
        self._out.append(wire.encode_engine_frame(frame))

    def _start(self, run_id: RunId, component: str, data: bytes, **accepted: Any) -> FakeRun:
        run = self.runs[run_id] = FakeRun(run_id, component)
        self._append(run, RunAccepted(component=component, input=data, **accepted))
        return run

    def _append(self, run: FakeRun, payload: Payload, raw: bytes | None = None) -> Entry:
        data = raw if raw is not None else journal.encode(payload)
        kind = int(journal.kind_of(payload))
        entry = (kind, data, len(run.journal), self.clock.now_us())
        self.clock.advance_us(1)
        run.journal.append(entry)
        return entry

    def _grant(self, run: FakeRun) -> None:
        run.epoch += 1
        if run.attempt == 0 or run.status is RunStatus.RETRYING:
            run.attempt += 1
        self._append(run, RunStarted(attempt=run.attempt, lease_epoch=run.epoch))
        run.status, run.held, run.sequence = RunStatus.RUNNING, True, 0
        run.resolved_in_lease = False
        for at in range(0, len(run.journal), self.page_entries):
            page = run.journal[at : at + self.page_entries]
            more = at + self.page_entries < len(run.journal)
            self._out.append(
                frames.build_dispatch(
                    run.run_id,
                    run.epoch,
                    run.attempt,
                    run.component,
                    int(ComponentKind.WORKFLOW),
                    page,
                    more,
                )
            )

    def _report(
        self, run_id: RunId, epoch: int, sequence: int, entries: list[tuple[int, bytes]]
    ) -> None:
        run = self.runs[run_id]
        if epoch != run.epoch or not run.held:
            self._send_cold(Revoke(run_id=run_id, lease_epoch=epoch, reason=RevokeReason.FENCED))
            return
        assert sequence == run.sequence + 1, "reports are numbered without a gap"
        run.sequence = sequence
        run.reports += 1
        delivered: list[Entry] = []
        for at, (kind, raw) in enumerate(entries):
            payload = journal.decode(kind, raw)
            is_last = at == len(entries) - 1
            delivered.extend(self._take(run, payload, raw, is_last=is_last))
        ack = frames.build_ack(run_id, epoch, sequence)
        self._send(ack)
        if delivered and run.held:
            self._deliver(run, delivered)

    def _take(self, run: FakeRun, payload: Payload, raw: bytes, *, is_last: bool) -> list[Entry]:
        assert not run.status.is_terminal, "nothing follows the end of a run"
        if isinstance(payload, RunFailed) and self._retries(run, payload):
            return []
        if isinstance(payload, StateRead):
            return [self._append(run, self._read_shared(payload))]
        if isinstance(payload, StateChanged) and payload.scope != StateScope.RUN:
            return [self._append(run, self._change_shared(payload))]
        self._append(run, payload, raw)
        match payload:
            case WaitCreated():
                return self._wait_created(run, payload, is_last=is_last)
            case ChildStarted():
                self._child_started(run, payload)
            case RunCompleted() | RunFailed():
                assert is_last
                self._ended(run, payload)
            case _:
                pass
        return []

    def _retries(self, run: FakeRun, payload: RunFailed) -> bool:
        error = payload.error
        assert error is not None
        if error.non_retryable or run.attempt >= self.attempts_max:
            return False
        self._append(run, RunRetrying(attempt=run.attempt, error=error))
        run.status, run.held = RunStatus.RETRYING, False
        return True

    def _read_shared(self, asked: StateRead) -> StateRead:
        revision, value = self.shared.get((int(asked.scope), asked.name), (0, None))
        return msgspec.structs.replace(
            asked, value=value or b"", revision=revision, found=value is not None
        )

    def _change_shared(self, asked: StateChanged) -> StateChanged | StateConflicted:
        place = int(asked.scope), asked.name
        revision, _ = self.shared.get(place, (0, None))
        if asked.has_expected and asked.expected_revision != revision:
            return StateConflicted(
                position=asked.position,
                scope=asked.scope,
                name=asked.name,
                expected_revision=asked.expected_revision,
                revision=revision,
            )
        self.shared[place] = revision + 1, None if asked.deleted else asked.value
        return msgspec.structs.replace(asked, revision=revision + 1)

    def _wait_created(self, run: FakeRun, wait: WaitCreated, *, is_last: bool) -> list[Entry]:
        run.waits.setdefault(wait.wait_id, wait)
        before = len(run.journal)
        if wait.kind == WaitKind.CHILD and wait.position not in run.children:
            run.waits.pop(wait.wait_id)
            run.resolved_in_lease = True
        self._match_signals(run, deliver=False)
        if wait.parks:
            assert is_last, "nothing follows the wait that parks the run"
            run.held = False
            parked = not run.resolved_in_lease
            run.status = RunStatus.WAITING if parked else RunStatus.QUEUED
        return run.journal[before:]

    def _match_signals(self, run: FakeRun, *, deliver: bool = True) -> None:
        for wait in sorted(run.waits.values(), key=lambda wait: wait.position):
            if wait.kind != WaitKind.SIGNAL:
                continue
            signal = next((one for one in run.signals if one.name == wait.name), None)
            if signal is not None:
                run.signals.remove(signal)
                self._resolve(
                    run, wait.wait_id, WaitOutcome.SIGNALLED, signal.payload, deliver=deliver
                )

    def _resolve(
        self,
        run: FakeRun,
        wait_id: str,
        outcome: WaitOutcome,
        value: bytes,
        *,
        deliver: bool = True,
    ) -> None:
        wait = run.waits.pop(wait_id)
        entry = self._append(
            run,
            WaitResolved(position=wait.position, wait_id=wait_id, outcome=outcome, value=value),
        )
        run.resolved_in_lease = True
        self._wake(run, [entry], deliver=deliver)

    def _wake(self, run: FakeRun, entries: list[Entry], *, deliver: bool = True) -> None:
        if run.status is RunStatus.WAITING:
            run.status = RunStatus.QUEUED
        elif run.held and deliver:
            self._deliver(run, entries)

    def _deliver(self, run: FakeRun, entries: list[Entry]) -> None:
        self._send(frames.build_deliver(run.run_id, run.epoch, entries))

    def _child_started(self, run: FakeRun, payload: ChildStarted) -> None:
        child_id = RunId(payload.child_run_id)
        if payload.mode == ChildMode.JOIN:
            run.children[payload.position] = child_id
        if child_id not in self.runs:
            child = self._start(
                child_id, payload.component, payload.input, parent_run_id=run.run_id
            )
            if payload.mode == ChildMode.JOIN:
                child.parent = (run.run_id, payload.position)

    def _ended(self, run: FakeRun, payload: RunCompleted | RunFailed) -> None:
        run.held = False
        run.waits.clear()
        if isinstance(payload, RunCompleted):
            run.status, run.output = RunStatus.COMPLETED, payload.output
        else:
            run.status, run.error = RunStatus.FAILED, payload.error
        if run.parent is not None:
            self._tell_parent(run, *run.parent)

    def _tell_parent(self, child: FakeRun, parent_id: RunId, position: int) -> None:
        parent = self.runs[parent_id]
        if parent.children.pop(position, None) is None or parent.status.is_terminal:
            return
        entry = self._append(
            parent,
            ChildFinished(
                position=position,
                child_run_id=child.run_id,
                status=child.status,
                output=child.output or b"",
                error=child.error,
            ),
        )
        if parent.waits.pop(str(position), None) is not None:
            parent.resolved_in_lease = True
            resolved = WaitResolved(
                position=position, wait_id=str(position), outcome=WaitOutcome.CHILD_FINISHED
            )
            self._wake(parent, [entry, self._append(parent, resolved)])
        elif parent.held:
            self._deliver(parent, [entry])
