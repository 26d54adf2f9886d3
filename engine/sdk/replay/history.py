"""A run's journal as the replay needs it: what was asked at each position, and what came of it.

A fold over the entries of a dispatch. Knows neither the code nor what it will ask.

Attempts: when a run is tried again, its code starts over, and what is recorded is not repeated. A
step whose failure was final is the exception: it gets another chance; and so does a change of
shared state that lost a race which the code did not catch, with the read before it. From the
earliest of these on, the code of the new attempt may take another way than the old one did, so the
records behind it are *loose*: used where the code asks for the very same, passed over where it does
not. Behind it in the journal, that is, since what was recorded before was asked for before. Code
that reads which attempt it is may go another way from there on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec

from engine.model.payloads import (
    ChildFinished,
    ChildMode,
    ChildStarted,
    Error,
    Payload,
    RunAccepted,
    RunRetrying,
    RunStarted,
    StateChanged,
    StateConflicted,
    StateRead,
    StateScope,
    StepCompleted,
    StepFailed,
    UsageReported,
    WaitCreated,
    WaitKind,
    WaitOutcome,
    WaitResolved,
)
from engine.model.runs import RunStatus
from engine.sdk.errors import StateConflict
from engine.sdk.replay import records
from engine.sdk.replay.operations import (
    ChangeState,
    Child,
    Operation,
    Outcome,
    Raised,
    ReadState,
    ReportUsage,
    Resume,
    Returned,
    StateIs,
    StateLost,
    Step,
    TimedOut,
    Wait,
    is_shared,
)
from engine.sdk.replay.paths import branch_number

# kind, payload, offset, timestamp_us: as a dispatch carries it
Entry = tuple[int, bytes, int, int]


class Recorded(msgspec.Struct):
    """What the journal has at a position."""

    operation: Operation
    loose: bool = False
    is_earlier: bool = False  # of an attempt that has failed
    is_partial: bool = False  # not all of the operation is recorded
    due_ms: int = 0  # of an open wait
    has_default: bool = False  # of a wait
    revision: int = 0  # of a change of state


class Tries(msgspec.Struct):
    """The tries of a step so far, none of which is its outcome."""

    failed: int = 0
    first_started_ms: int = 0
    retry_at_ms: int = 0


class History:
    def __init__(self) -> None:
        self.accepted = RunAccepted()
        self.started_us = 0
        self._has_started = False
        self.recorded: dict[int, Recorded] = {}
        self.tries: dict[int, Tries] = {}
        self.resumes: list[Resume] = []
        self.revisions: dict[str, int] = {}
        # Of each branch the first position that no record of the attempts so far has, at the end
        # of each attempt.
        self.bases: dict[int, list[int]] = {}

    def feed(self, entries: list[Entry]) -> None:
        for kind, data, _, timestamp_us in entries:
            payload = records.decode(kind, data)
            if payload is not None:
                self._take(payload, timestamp_us)

    def _take(self, payload: Payload, timestamp_us: int) -> None:
        resume = resume_of(payload, timestamp_us, self._has_default)
        if resume is not None:
            self.resumes.append(resume)
        match payload:
            case StepCompleted():
                self._step(payload)
                self.tries.pop(payload.position, None)
            case StepFailed():
                self._step(payload)
                self._count_try(payload)
            case WaitCreated():
                self._wait(payload)
            case ChildStarted():
                mode = ChildMode(payload.mode)
                child = Child(payload.component, mode, payload.input, payload.entity_key)
                self._record(payload.position, child)
            case StateChanged():
                self._state_changed(payload)
            case StateRead():
                read = ReadState(payload.name, StateScope(payload.scope))
                self._record(payload.position, read)
            case StateConflicted():
                lost = ChangeState(payload.name, None, StateScope(payload.scope))
                self._record(payload.position, lost).is_partial = True
            case UsageReported():
                self._usage(payload)
            case RunAccepted():
                self.accepted = payload
                self.started_us = timestamp_us
            case RunStarted() if not self._has_started:
                self._has_started = True
                self.started_us = timestamp_us
            case RunRetrying():
                self._start_over(payload.error)
            case _:
                pass

    def _has_default(self, position: int) -> bool:
        recorded = self.recorded.get(position)
        return recorded is not None and recorded.has_default

    def _record(self, position: int, operation: Operation) -> Recorded:
        known = self.recorded.get(position)
        if known is None or known.loose or known.operation.identity != operation.identity:
            self.recorded.pop(position, None)  # it comes last: the order is the journal's
            known = self.recorded[position] = Recorded(operation)
        return known

    def _step(self, payload: StepCompleted | StepFailed) -> None:
        self._record(payload.position, Step(payload.name, payload.key, payload.tool, payload.input))

    def _count_try(self, payload: StepFailed) -> None:
        if not payload.retry_at_ms:
            self.tries.pop(payload.position, None)
            return
        tries = self.tries.setdefault(payload.position, Tries())
        tries.failed = payload.attempt
        tries.first_started_ms = tries.first_started_ms or payload.started_ms
        tries.retry_at_ms = payload.retry_at_ms

    def _wait(self, payload: WaitCreated) -> None:
        if payload.kind == WaitKind.CHILD:
            return  # parks on a child that its own record names
        wait = Wait(kind=WaitKind(payload.kind), name=payload.name, question=payload.question)
        recorded = self._record(payload.position, wait)
        recorded.due_ms = payload.due_ms
        recorded.has_default = payload.has_default

    def _state_changed(self, payload: StateChanged) -> None:
        value = None if payload.deleted else payload.value
        change = ChangeState(payload.name, value, StateScope(payload.scope or StateScope.RUN))
        self._record(payload.position, change).revision = payload.revision
        if not is_shared(change):
            self.revisions[payload.name] = payload.revision

    def _usage(self, payload: UsageReported) -> None:
        known = self.recorded.get(payload.position)
        if known is None or not isinstance(known.operation, Step):  # else: usage within a step
            self._record(payload.position, ReportUsage(model=payload.model))

    def _start_over(self, error: Error | None) -> None:
        """The attempt failed: see the module's docstring."""
        failed = {
            resume.position
            for resume in self.resumes
            if isinstance(resume.outcome, Raised) and not resume.outcome.status
        }
        if error is not None and error.code == StateConflict.code:
            failed |= self._lost_race()
        self._add_bases()
        for recorded in self.recorded.values():
            recorded.is_earlier = True
        if not failed:
            return
        self.resumes = [resume for resume in self.resumes if resume.position not in failed]
        is_behind = False
        for position, recorded in self.recorded.items():
            is_behind = is_behind or position in failed
            recorded.loose = recorded.loose or is_behind

    def loosen(self) -> None:
        """The code has been told that there were other attempts."""
        for recorded in self.recorded.values():
            recorded.loose = recorded.loose or recorded.is_earlier

    def _add_bases(self) -> None:
        last: dict[int, int] = {}
        for position in self.recorded:
            number = branch_number(position)
            last[number] = max(position, last.get(number, 0))
        for number, position in last.items():
            self.bases.setdefault(number, []).append(position + 1)

    def _lost_race(self) -> set[int]:
        """The attempt ended on a conflict, the last one: it is to be tried again with what is read
        anew. A conflict that the code caught stays what it was, like any other answer."""
        lost = next(
            (resume for resume in reversed(self.resumes) if isinstance(resume.outcome, StateLost)),
            None,
        )
        if lost is None:
            return set()
        change = self.recorded[lost.position].operation
        assert isinstance(change, ChangeState)
        read = ReadState(change.name, change.scope).identity
        before = itertools.takewhile(lambda position: position != lost.position, self.recorded)
        reads = [at for at in before if self.recorded[at].operation.identity == read]
        number = branch_number(lost.position)
        in_branch = [at for at in reads if branch_number(at) == number]
        return {lost.position, *(in_branch or reads)[-1:]}


def resume_of(
    payload: Payload, timestamp_us: int, has_default: Callable[[int], bool]
) -> Resume | None:
    """The outcome that a record gives to a position; None if it gives none."""
    outcome: Outcome
    now_us = timestamp_us
    match payload:
        case StepCompleted():
            outcome = Returned(payload.output)
            now_us = payload.finished_ms * 1_000
        case StepFailed() if not payload.retry_at_ms:
            assert payload.error is not None
            outcome = Raised(payload.error)
            now_us = payload.finished_ms * 1_000
        case WaitResolved() if payload.outcome != WaitOutcome.CHILD_FINISHED:
            timed_out = payload.outcome == WaitOutcome.TIMED_OUT
            lost = timed_out and not has_default(payload.position)
            outcome = TimedOut() if lost else Returned(payload.value)
        case StateRead():
            outcome = StateIs(payload.value if payload.found else None, payload.revision)
        case StateChanged() if payload.scope not in (0, StateScope.RUN):
            outcome = StateIs(None if payload.deleted else payload.value, payload.revision)
        case StateConflicted():
            outcome = StateLost(payload.expected_revision, payload.revision)
        case ChildFinished() if payload.status == RunStatus.COMPLETED:
            outcome = Returned(payload.output)
        case ChildFinished():
            outcome = _child_failed(payload)
        case _:
            return None
    return Resume(payload.position, outcome, now_us)


def _child_failed(payload: ChildFinished) -> Raised:
    status = RunStatus(payload.status).name
    return Raised(payload.error or Error(code=status.lower()), status=status)
