"""Made-up lives of runs: legal sequences of records, the same ones for the same seed.

Owns which record may follow in which situation, as far as a plausible history needs it; the rules
themselves are `core`'s. Every kind of record occurs, with fields small, large and absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from engine.model import payloads
from engine.model.payloads import Payload
from engine.model.records import STATUS_AFTER, NewRecord, RecordKind
from engine.model.runs import TERMINAL_STATUSES, ComponentKind, RunStatus
from engine.wire import journal

BEGIN_US = 1_767_225_600_000_000

_WORDS = ("charge_card", "reserve", "großes Glück", "支付", "e" * 200, "")


class _Draw:
    """Field values by seed."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.chance = random.random
        self.choice = random.choice

    def number(self, bits: int = 40) -> int:
        return self._random.getrandbits(self._random.randint(0, bits))

    def text(self) -> str:
        return self._random.choice(_WORDS)

    def data(self) -> bytes:
        return self._random.randbytes(self._random.choice((0, 1, 30, 300)))

    def error(self) -> payloads.Error:
        return payloads.Error(code=self.text(), message=self.text(), traceback=self.text())


class RunHistory:
    """One run, record by record: `next_record` until `is_over`, or for as long as one likes."""

    def __init__(self, random: Random) -> None:
        self._draw = _Draw(random)
        self._status: RunStatus | None = None
        self._waits_open = 0
        self._now_us = BEGIN_US
        self._attempt = 0

    @property
    def is_over(self) -> bool:
        return self._status in TERMINAL_STATUSES

    def next_record(self) -> NewRecord:
        kind = self._next_kind()
        payload = PAYLOADS[kind](self._draw)
        self._follow(kind, payload)
        self._now_us += self._draw.number(24)
        return NewRecord(kind, journal.encode(payload), self._now_us, self._draw.number(8))

    def _next_kind(self) -> RecordKind:
        if self._status is None:
            return RecordKind.RUN_ACCEPTED
        # An end is rare, so that histories get long enough for everything else.
        if self._draw.chance() < 0.03:
            return self._draw.choice(ENDS[self._status])
        kinds = [*ANYTIME, *KINDS_IN[self._status]]
        if self._waits_open > 0:
            kinds.append(RecordKind.WAIT_RESOLVED)
        return self._draw.choice(kinds)

    def _follow(self, kind: RecordKind, payload: Payload) -> None:
        if isinstance(payload, payloads.WaitCreated):
            self._waits_open += 1
            if payload.parks:
                self._status = RunStatus.WAITING
        elif isinstance(payload, payloads.WaitResolved):
            self._waits_open -= 1
            if self._status is RunStatus.WAITING:
                self._status = RunStatus.QUEUED
        self._status = STATUS_AFTER.get(kind, self._status)


def history(seed: int, length_max: int = 60) -> list[NewRecord]:
    """A run from its first record to its last, or cut off at a length."""
    run = RunHistory(Random(seed))
    records: list[NewRecord] = []
    while not run.is_over and len(records) < length_max:
        records.append(run.next_record())
    return records


def transitions(seed: int, length_max: int = 60) -> Iterator[list[NewRecord]]:
    """The same history in portions of one to five records, as a runtime would append it."""
    random = Random(seed)
    rest = history(seed, length_max)
    while rest:
        count = random.randint(1, 5)
        yield rest[:count]
        rest = rest[count:]


ANYTIME = (
    RecordKind.SIGNAL_RECEIVED,
    RecordKind.CANCEL_REQUESTED,
    RecordKind.CHILD_FINISHED,
)
KINDS_IN = {
    RunStatus.QUEUED: [RecordKind.RUN_STARTED] * 5,
    RunStatus.RETRYING: [RecordKind.RUN_STARTED] * 5,
    RunStatus.WAITING: [RecordKind.WAIT_RESOLVED] * 3,
    RunStatus.RUNNING: [
        *[RecordKind.STEP_COMPLETED] * 4,
        RecordKind.STEP_FAILED,
        RecordKind.WAIT_CREATED,
        RecordKind.CHILD_STARTED,
        RecordKind.STATE_CHANGED,
        RecordKind.STATE_READ,
        RecordKind.STATE_CONFLICTED,
        *[RecordKind.USAGE_REPORTED] * 2,
        RecordKind.RUN_RETRYING,
        RecordKind.RUN_YIELDED,
    ],
}
ENDS = {
    RunStatus.QUEUED: (RecordKind.RUN_CANCELLED,),
    RunStatus.RETRYING: (RecordKind.RUN_CANCELLED, RecordKind.RUN_FAILED),
    RunStatus.WAITING: (RecordKind.RUN_CANCELLED,),
    RunStatus.RUNNING: (
        RecordKind.RUN_COMPLETED,
        RecordKind.RUN_FAILED,
        RecordKind.RUN_CANCELLED,
    ),
}

PAYLOADS: dict[RecordKind, Callable[[_Draw], Payload]] = {
    RecordKind.RUN_ACCEPTED: lambda draw: payloads.RunAccepted(
        project_id=draw.text(),
        deployment_id=draw.text(),
        component=draw.text(),
        component_kind=draw.choice(list(ComponentKind)),
        input=draw.data(),
        trace_id=draw.text(),
        correlation_id=draw.text(),
        parent_run_id=draw.data()[:16],
        tags={draw.text(): draw.text()},
        prompt_version=draw.text(),
        retry=payloads.RetryPolicy(kind=payloads.RetryKind.LINEAR, factor=2.5),
    ),
    RecordKind.RUN_STARTED: lambda draw: payloads.RunStarted(
        attempt=draw.number(6), lease_epoch=draw.number(), worker_id=draw.text()
    ),
    RecordKind.STEP_COMPLETED: lambda draw: payloads.StepCompleted(
        position=draw.number(), name=draw.text(), output=draw.data(), tool=draw.chance() < 0.5
    ),
    RecordKind.STEP_FAILED: lambda draw: payloads.StepFailed(
        position=draw.number(), name=draw.text(), error=draw.error(), tool=draw.chance() < 0.5
    ),
    RecordKind.WAIT_CREATED: lambda draw: payloads.WaitCreated(
        wait_id=draw.text(),
        kind=draw.choice(list(payloads.WaitKind)),
        options=("yes", "no"),
        default=draw.data(),
        parks=draw.chance() < 0.5,
    ),
    RecordKind.WAIT_RESOLVED: lambda draw: payloads.WaitResolved(
        wait_id=draw.text(), outcome=draw.choice(list(payloads.WaitOutcome)), value=draw.data()
    ),
    RecordKind.SIGNAL_RECEIVED: lambda draw: payloads.SignalReceived(
        signal_id=draw.text(), name=draw.text(), payload=draw.data()
    ),
    RecordKind.CHILD_STARTED: lambda draw: payloads.ChildStarted(
        child_run_id=draw.data()[:16], mode=draw.choice(list(payloads.ChildMode))
    ),
    RecordKind.CHILD_FINISHED: lambda draw: payloads.ChildFinished(
        status=draw.choice(list(RunStatus)), output=draw.data(), error=draw.error()
    ),
    RecordKind.STATE_CHANGED: lambda draw: payloads.StateChanged(
        scope=draw.choice(list(payloads.StateScope)), name=draw.text(), value=draw.data()
    ),
    RecordKind.STATE_READ: lambda draw: payloads.StateRead(
        scope=draw.choice(list(payloads.StateScope)), name=draw.text(), value=draw.data()
    ),
    RecordKind.STATE_CONFLICTED: lambda draw: payloads.StateConflicted(
        name=draw.text(), expected_revision=draw.number(), revision=draw.number()
    ),
    RecordKind.USAGE_REPORTED: lambda draw: payloads.UsageReported(
        model=draw.text(),
        tokens_in=draw.number(),
        tokens_out=draw.number(),
        cost_usd=draw.number() / 1024,
        tool_calls=draw.number(6),
    ),
    RecordKind.RUN_RETRYING: lambda draw: payloads.RunRetrying(
        attempt=draw.number(6), error=draw.error(), retry_at_ms=draw.number()
    ),
    RecordKind.RUN_YIELDED: lambda draw: payloads.RunYielded(reason=draw.text()),
    RecordKind.CANCEL_REQUESTED: lambda draw: payloads.CancelRequested(reason=draw.text()),
    RecordKind.RUN_COMPLETED: lambda draw: payloads.RunCompleted(output=draw.data()),
    RecordKind.RUN_FAILED: lambda draw: payloads.RunFailed(error=draw.error()),
    RecordKind.RUN_CANCELLED: lambda draw: payloads.RunCancelled(reason=draw.text()),
}
assert set(PAYLOADS) == set(RecordKind)
