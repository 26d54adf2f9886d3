"""Plays scenes with a replay machine, in words.

A scene says what the code asks, what steps do and what the engine writes; the machine's answers
come back as short lines. The journal is kept as the engine would keep it, so that the same scene
can be played again from it.

    begin 1                          a step is to be run
    begin 1, try 2, at +500 ms       again, after its first failure
    report 1: STEP_COMPLETED 1       a report and what is in it
    1 gave 42 · 1 raised ValueError · 1 timed out · 1 is 42 at 7 · 1 lost: 7, not 6
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.base.ids import RunId
from engine.model.payloads import (
    ChildFinished,
    Error,
    Payload,
    RunAccepted,
    RunRetrying,
    RunStarted,
    WaitCreated,
    WaitKind,
    WaitOutcome,
    WaitResolved,
)
from engine.model.records import RecordKind
from engine.model.runs import RunStatus
from engine.sdk.replay.entries import StepTry
from engine.sdk.replay.history import Entry
from engine.sdk.replay.machine import Machine, Turn
from engine.sdk.replay.operations import (
    Operation,
    Raised,
    ReportUsage,
    Resume,
    Returned,
    StateIs,
    StateLost,
    Step,
    TimedOut,
    Wait,
)
from engine.wire import journal

RUN = RunId(bytes(range(16)))
NOW_MS = 1_767_225_600_000

sleep_10_s = Wait(kind=WaitKind.TIMER, duration_ms=10_000)
sleep_50_ms = Wait(kind=WaitKind.TIMER, duration_ms=50)
signal_go = Wait(kind=WaitKind.SIGNAL, name="go")


class Play:
    def __init__(self, entries: list[Entry] | None = None, *, epoch: int = 1) -> None:
        self.now_ms = NOW_MS
        self.journal: list[Entry] = entries if entries is not None else []
        if entries is None:
            self.engine_writes(RunAccepted(component="scene", input=b"1"), deliver=False)
        self.engine_writes(RunStarted(attempt=1, lease_epoch=epoch), deliver=False)
        self.machine = Machine(RUN, epoch)
        self.machine.load(list(self.journal))
        self.machine.start()
        self.sequence = 0

    def again(self, *, keep: int | None = None) -> Play:
        """The worker is lost; another one plays from the journal, or from its first records."""
        kept = self.journal[:keep] if keep is not None else list(self.journal)
        play = Play(kept, epoch=self.machine.lease_epoch + 1)
        play.now_ms = self.now_ms
        return play

    # ---- the code ----

    def ask(self, *operations: Operation) -> list[int]:
        return [self.machine.ask(operation, self.now_ms) for operation in operations]

    def resumes(self) -> list[str]:
        """Everything that the code gets now, if it asks for nothing in between."""
        lines = []
        while (line := self.resume()) is not None:
            lines.append(line)
        return lines

    def resume(self) -> str | None:
        resume = self.machine.next_resume()
        return None if resume is None else _said(resume)

    def returns(self, value: Any = None) -> list[str]:
        self.machine.complete(msgspec.json.encode(value))
        return self.settle()

    def raises(self, error_type: str = "ValueError") -> list[str]:
        self.machine.fail(Error(code=error_type, type=error_type, message="so it is"))
        return self.settle()

    # ---- the worker ----

    def settle(self) -> list[str]:
        return self._lines(self.machine.settle(self.now_ms))

    def step_gives(self, position: int, value: Any) -> None:
        self.machine.step_completed(position, self._tried(), msgspec.json.encode(value))

    def step_raises(
        self, position: int, error_type: str = "ValueError", *, again_in_ms: int = 0
    ) -> None:
        error = Error(code=error_type, type=error_type, message="so it is")
        due_ms = self.now_ms + again_in_ms if again_in_ms else 0
        self.machine.step_failed(position, self._tried(), error, due_ms)

    def step_used(self, position: int, model: str) -> None:
        self.machine.step_used(position, ReportUsage(model=model))

    # ---- the engine ----

    def acknowledge(self, sequence: int | None = None) -> None:
        self.machine.acknowledge(self.sequence if sequence is None else sequence)

    def engine_writes(self, *payloads: Payload, deliver: bool = True) -> None:
        entries = []
        for payload in payloads:
            data = journal.encode(payload)
            entries.append((int(journal.kind_of(payload)), data, len(self.journal), self.now_us()))
            self.journal.append(entries[-1])
        if deliver:
            self.machine.deliver(entries)

    def fires(self, position: int) -> None:
        self._resolves(position, WaitOutcome.FIRED)

    def times_out(self, position: int, default: Any = ...) -> None:
        value = b"" if default is ... else msgspec.json.encode(default)
        self._resolves(position, WaitOutcome.TIMED_OUT, value)

    def signals(self, position: int, value: Any) -> None:
        self._resolves(position, WaitOutcome.SIGNALLED, msgspec.json.encode(value))

    def child_ends(self, position: int, value: Any = None, *, failed: str = "") -> None:
        error = Error(code=failed, type=failed, message="so it is") if failed else None
        self.engine_writes(
            ChildFinished(
                position=position,
                child_run_id=RUN,
                status=RunStatus.FAILED if failed else RunStatus.COMPLETED,
                output=b"" if failed else msgspec.json.encode(value),
                error=error,
            )
        )

    def retries(self, code: str = "x") -> None:
        """The engine tries the run again; to be followed by `again`."""
        self.engine_writes(RunRetrying(attempt=1, error=Error(code=code)), deliver=False)

    # ---- inside ----

    def now_us(self) -> int:
        return self.now_ms * 1_000

    def _resolves(self, position: int, outcome: WaitOutcome, value: bytes = b"") -> None:
        self.engine_writes(
            WaitResolved(position=position, wait_id=str(position), outcome=outcome, value=value)
        )

    def _tried(self) -> StepTry:
        return StepTry(self.now_ms - 5, self.now_ms)

    def _lines(self, turn: Turn) -> list[str]:
        lines = []
        for begin in turn.begin:
            line = f"begin {begin.position}"
            if begin.attempt > 1:
                line += f", try {begin.attempt}, at +{begin.due_ms - self.now_ms} ms"
            lines.append(line)
        for report in turn.reports:
            self.sequence = report.sequence
            lines.append(f"report {report.sequence}: {', '.join(self._take(report.entries))}")
        if turn.look_again_ms is not None:
            lines.append(f"look again in {turn.look_again_ms} ms")
        return lines

    def _take(self, entries: list[tuple[int, bytes]]) -> list[str]:
        said = []
        for kind, data in entries:
            self.journal.append((kind, data, len(self.journal), self.now_us()))
            payload = journal.decode(kind, data)
            position = getattr(payload, "position", "")
            words = [RecordKind(kind).name, str(position)]
            if isinstance(payload, WaitCreated) and payload.parks:
                words.append("parks")
            said.append(" ".join(word for word in words if word))
        return said


def _said(resume: Resume) -> str:
    match resume.outcome:
        case Returned(value=value):
            return f"{resume.position} gave {value.decode() or 'nothing'}"
        case Raised(error=error):
            return f"{resume.position} raised {error.type}"
        case TimedOut():
            return f"{resume.position} timed out"
        case StateIs(value=value, revision=revision):
            is_now = value.decode() if value is not None else "nothing"
            return f"{resume.position} is {is_now} at {revision}"
        case StateLost(expected=expected, revision=revision):
            return f"{resume.position} lost: {revision}, not {expected}"


def step(name: str, key: str = "", *, given: bytes = b"[]") -> Step:
    return Step(name, key, input=given)
