"""The replay machine of one run: values in, values out; no event loop, no clock, no thread.

The driver owns the user's code and tells the machine what happens; the machine says what follows.

    machine.load(entries)            the journal that came with the dispatch, page by page
    position = machine.ask(step)     the code asked for something
    machine.next_resume()            the code cannot move: which position goes on, and with what
    machine.step_completed(...)      a step that `settle` said to begin has ended
    machine.acknowledge(sequence)    the engine says what is durable
    machine.deliver(entries)         the engine wrote something that the run waits for
    machine.complete(output)         the code returned
    machine.settle(now_ms)           nothing moves any more: what to begin, report, and whether
                                     the run parks

One rule makes replay exact: outcomes reach the code one at a time, in the order of the journal, and
the next one only when the code has come to rest. The order in which the code asks is then the same
in every replay, however its branches are interleaved. In a new attempt of the run it need not be,
because a step that failed is run again; so each branch counts its own positions.

The code goes on at a step's outcome before that is durable, but nothing that others could notice
happens: a step that it asks for then is held until the acknowledgement, and its end is reported
behind the outcome. While a wait is open the code does not run ahead, because what the engine
writes could come between.
"""

from __future__ import annotations

import enum
from collections import deque

import msgspec

from engine.base.ids import RunId
from engine.model.payloads import (
    ChildMode,
    Error,
    Payload,
    RunAccepted,
    RunCompleted,
    RunFailed,
    WaitCreated,
)
from engine.sdk.replay import entries as entry_of
from engine.sdk.replay import records
from engine.sdk.replay.entries import StepTry
from engine.sdk.replay.history import Entry, History, Tries, resume_of
from engine.sdk.replay.operations import (
    ChangeState,
    Child,
    Operation,
    Raised,
    ReadState,
    ReportUsage,
    Resume,
    Returned,
    Step,
    Wait,
    is_shared,
)
from engine.sdk.replay.parking import Parking
from engine.sdk.replay.positions import Positions
from engine.sdk.replay.reports import Report, ReportQueue


class Phase(enum.Enum):
    HELD = "held"  # a step that may not begin yet
    BEGUN = "begun"  # a step that runs
    OPEN = "open"  # a wait or a child that has not ended
    ASKED = "asked"  # shared state: the engine answers at once
    ENDED = "ended"  # its outcome is known, and the code may not have it yet
    RESUMED = "resumed"
    ABANDONED = "abandoned"  # the code does not want the outcome any more


class Begin(msgspec.Struct, frozen=True):
    """A step has to be run, not before `due_ms`."""

    position: int
    attempt: int = 1
    due_ms: int = 0
    first_started_ms: int = 0


class Turn(msgspec.Struct, frozen=True):
    """What the driver has to do, and after how many ms to call `settle` again if nothing comes."""

    begin: tuple[Begin, ...] = ()
    reports: tuple[Report, ...] = ()
    look_again_ms: int | None = None


class _Slot(msgspec.Struct):
    operation: Operation
    phase: Phase
    needs: int = 0  # entries that have to be acknowledged before a step may begin
    tries: Tries = msgspec.field(default_factory=Tries)
    due_ms: int = 0  # of a wait
    is_announced: bool = False  # a wait that the engine knows as such


class Machine:
    def __init__(self, run_id: RunId, lease_epoch: int) -> None:
        self.run_id = run_id
        self.lease_epoch = lease_epoch
        self._history = History()
        self._reports = ReportQueue()
        self._slots: dict[int, _Slot] = {}
        self._positions = Positions(self._history)
        self._offset_last = -1
        # Outcomes on their way to the code: at once; in order; and once they are durable.
        self._at_once: deque[Resume] = deque()
        self._arrivals: deque[Resume] = deque()
        self._unacknowledged: deque[tuple[int, Resume]] = deque()
        self._to_replay = 0
        # Loose outcomes whose position the code has not asked for.
        self._aside: dict[int, Resume] = {}
        self._known: set[int] = set()  # positions whose outcome the journal has
        self._held: deque[int] = deque()
        self._running: set[int] = set()
        self._open: dict[int, _Slot] = {}
        self._questions: set[int] = set()  # about shared state: the run stays until the answer
        self._parking = Parking()
        self._moved = True
        self._moved_ms = 0
        # What the code knows came from these entries: none of them may be lost any more when
        # something begins that others can notice. What the code only asked for is not among them,
        # since it would ask for the same again.
        self.rests_on = 0
        self._over_at: int | None = None  # entries after which nothing more is reported
        self.broken: Error | None = None
        self.parked = False
        self.now_us = 0

    # ---- what the engine says ----

    def load(self, entries: list[Entry]) -> None:
        """A page of the journal, before the code starts."""
        self._history.feed(entries)
        if entries:
            self._offset_last = max(self._offset_last, entries[-1][2])

    def start(self) -> None:
        """The journal is complete; the code may start."""
        self._arrivals.extend(self._history.resumes)
        self._to_replay = len(self._arrivals)
        self._known = {resume.position for resume in self._arrivals}
        self.now_us = self._history.started_us

    def deliver(self, entries: list[Entry]) -> None:
        """What the engine wrote while the worker holds the run; what is known counts once."""
        for kind, data, offset, timestamp_us in entries:
            if offset <= self._offset_last:
                continue
            self._offset_last = offset
            payload = records.decode(kind, data)
            if payload is not None and not self.is_over:
                resume = resume_of(payload, timestamp_us, self._has_default)
                if resume is not None:
                    self._arrivals.append(resume)

    def acknowledge(self, sequence: int) -> None:
        if not self._reports.acknowledge(sequence):
            return
        durable = self._reports.acknowledged
        while self._unacknowledged and self._unacknowledged[0][0] <= durable:
            self._arrivals.append(self._unacknowledged.popleft()[1])

    # ---- what the code asks ----

    def ask(self, operation: Operation, now_ms: int = 0, branch: str = "") -> int:
        """Gives the operation its position. `now_ms` is what the duration of a wait counts from,
        `branch` the path of who asks."""
        position, recorded, broken = self._positions.place(operation, branch)
        self.broken = self.broken or broken
        if self.broken is not None or self.is_over:
            return position
        self._moved = True
        is_ended = position in self._known
        slot = _Slot(operation, Phase.ENDED if is_ended else _first_phase(operation))
        self._slots[position] = slot
        if recorded is None or slot.phase is Phase.ASKED:
            self._announce(position, slot, now_ms)
        else:
            slot.due_ms, slot.is_announced = recorded.due_ms, isinstance(operation, Wait)
            slot.tries = self._history.tries.get(position, slot.tries)
        if position in self._aside:
            self._at_once.append(self._aside.pop(position))
        elif slot.phase is Phase.HELD:
            slot.needs = self.rests_on
            self._held.append(position)
        elif slot.phase is Phase.OPEN:
            self._open[position] = slot
            self._parking.opened(position, operation, slot.due_ms)
        elif slot.phase is Phase.ASKED:
            self._questions.add(position)
        return position

    def change_state(self, change: ChangeState, branch: str = "") -> tuple[bytes | None, int]:
        """The value that the code sees from now on, and its revision."""
        position = self.ask(change, branch=branch)
        recorded = self._history.recorded.get(position)
        if recorded is not None and isinstance(recorded.operation, ChangeState):
            return recorded.operation.value, recorded.revision
        return change.value, self._history.revisions.get(change.name, 0)

    def tell_attempt(self) -> None:
        """The code asks which attempt it is, and may decide by that."""
        self._history.loosen()

    def abandon(self, position: int) -> bool:
        """The code no longer waits for it; True if a step that runs is to be stopped."""
        slot = self._slots.get(position)
        if slot is None or slot.phase in (Phase.RESUMED, Phase.ABANDONED):
            return False
        was_running = slot.phase is Phase.BEGUN
        slot.phase = Phase.ABANDONED
        self._running.discard(position)
        self._close(position)
        return was_running

    def complete(self, output: bytes) -> None:
        """The code returned."""
        left_out = self._positions.left_out()
        if left_out is not None:
            self.broken = self._positions.differs(left_out, "nothing more: it returned")
        self._end(RunCompleted(output=output, lease_epoch=self.lease_epoch))

    def fail(self, error: Error) -> None:
        """The code raised."""
        self._end(RunFailed(error=error, lease_epoch=self.lease_epoch))

    # ---- what becomes of steps ----

    def step_completed(self, position: int, tried: StepTry, output: bytes) -> None:
        slot = self._begun(position)
        if slot is not None:
            assert isinstance(slot.operation, Step)
            entry = entry_of.step_completed(
                position,
                slot.operation,
                tried,
                output,
                attempt=slot.tries.failed + 1,
                lease_epoch=self.lease_epoch,
            )
            resume = Resume(position, Returned(output), tried.finished_ms * 1_000)
            self._step_ended(slot, entry, resume)

    def step_failed(
        self, position: int, tried: StepTry, error: Error, retry_at_ms: int = 0
    ) -> None:
        """A try failed. With `retry_at_ms` the step is tried again, else this is its outcome."""
        slot = self._begun(position)
        if slot is None:
            return
        assert isinstance(slot.operation, Step)
        entry = entry_of.step_failed(
            position,
            slot.operation,
            tried,
            error,
            retry_at_ms=retry_at_ms,
            attempt=slot.tries.failed + 1,
            lease_epoch=self.lease_epoch,
        )
        if not retry_at_ms:
            resume = Resume(position, Raised(error), tried.finished_ms * 1_000)
            self._step_ended(slot, entry, resume)
            return
        self._reports.add(entry)
        first_started_ms = slot.tries.first_started_ms or tried.started_ms
        slot.tries = Tries(slot.tries.failed + 1, first_started_ms, retry_at_ms)
        slot.phase, slot.needs = Phase.HELD, self._reports.added
        self._held.append(position)

    def step_used(self, position: int, usage: ReportUsage) -> None:
        """What a step consumed; told after its outcome, and reported with it."""
        if not self.is_over:
            self._reports.add(entry_of.usage_reported(position, usage, self.lease_epoch))

    def _begun(self, position: int) -> _Slot | None:
        """The slot of a running step; None if nobody wants to know how it ended."""
        slot = self._slots[position]
        self._running.discard(position)
        return slot if slot.phase is Phase.BEGUN and not self.is_over else None

    def _step_ended(self, slot: _Slot, entry: Payload, resume: Resume) -> None:
        slot.phase = Phase.ENDED
        self._reports.add(entry)
        self.rests_on = self._reports.added
        if self._open or self._questions or self._unacknowledged:
            self._unacknowledged.append((self._reports.added, resume))
        else:
            self._arrivals.append(resume)

    # ---- what follows ----

    def next_resume(self) -> Resume | None:
        """The next outcome for the code, when it has come to rest; None if there is none."""
        while self.broken is None and not self.is_over:
            if self._at_once:
                resume, is_replay = self._at_once.popleft(), False
            elif self._arrivals:
                resume, is_replay = self._arrivals.popleft(), self._to_replay > 0
                self._to_replay -= is_replay
            else:
                return None
            slot = self._slots.get(resume.position)
            if slot is None:
                self._not_asked(resume, strict=is_replay)
            elif slot.phase not in (Phase.RESUMED, Phase.ABANDONED):
                slot.phase = Phase.RESUMED
                self._close(resume.position)
                self.now_us = max(self.now_us, resume.now_us)
                self._moved = True
                return resume
        return None

    def settle(self, now_ms: int) -> Turn:
        """The code is at rest and has no outcome coming: everything that is to be done now."""
        if self._moved:
            self._moved, self._moved_ms = False, now_ms
        begin: tuple[Begin, ...] = ()
        look_again_ms = None
        if self.broken is not None and not self.is_over:
            self.fail(self.broken)
        elif not self.is_over:
            begin = self._begin_steps()
            moving = begin or self._running or self._held or self._unacknowledged
            if not (moving or self._questions):
                look_again_ms = self._rest(now_ms)
        return Turn(begin, tuple(self._reports.take()), look_again_ms)

    @property
    def is_replaying(self) -> bool:
        """The code does what it did before: nobody should hear of it twice."""
        return self._to_replay > 0

    @property
    def is_over(self) -> bool:
        """Nothing more is reported: the run ended or parked."""
        return self._over_at is not None

    @property
    def is_done(self) -> bool:
        """It is over, and the engine has it: the run may be forgotten."""
        return self._over_at is not None and self._reports.acknowledged >= self._over_at

    @property
    def accepted(self) -> RunAccepted:
        """The run's first record."""
        return self._history.accepted

    def positions_taken(self, branch: str) -> int:
        return self._positions.taken(branch)

    @property
    def entries_acknowledged(self) -> int:
        return self._reports.acknowledged

    # ---- inside ----

    def _announce(self, position: int, slot: _Slot, now_ms: int) -> None:
        """What the engine has to know when the code asks; of a step it hears at the end."""
        epoch = self.lease_epoch
        match slot.operation:
            case Wait(duration_ms=duration_ms):
                slot.due_ms = now_ms + duration_ms if duration_ms is not None else 0
                self._announce_wait(position, slot)
            case Child() as child:
                self._reports.add(entry_of.child_started(position, child, self.run_id, epoch))
            case ReadState() as read:
                self._reports.add(entry_of.state_read(position, read, epoch))
            case ChangeState() as change if is_shared(change):
                self._reports.add(entry_of.state_changed(position, change, 0, epoch))
            case ChangeState() as change:
                revision = self._history.revisions.get(change.name, 0) + 1
                self._history.revisions[change.name] = revision
                self._reports.add(entry_of.state_changed(position, change, revision, epoch))
            case ReportUsage() as usage:
                self._reports.add(entry_of.usage_reported(position, usage, epoch))
            case _:
                pass

    def _announce_wait(self, position: int, slot: _Slot, *, parks: bool = False) -> None:
        """Once more where it parks; in the place of its first record while that is not sent."""
        entry = entry_of.wait_created(
            position, slot.operation, slot.due_ms, self.lease_epoch, parks=parks
        )
        last = self._reports.last
        if parks and isinstance(last, WaitCreated) and last.position == position:
            self._reports.replace_last(entry)
        else:
            self._reports.add(entry)
        slot.is_announced = True

    def _close(self, position: int) -> None:
        self._questions.discard(position)
        slot = self._open.pop(position, None)
        if slot is not None:
            self._parking.closed(position, slot.operation)

    def _has_default(self, position: int) -> bool:
        slot = self._slots.get(position)
        wait = slot.operation if slot is not None else None
        return isinstance(wait, Wait) and wait.default is not None

    def _begin_steps(self) -> tuple[Begin, ...]:
        """The held steps that rest on nothing but durable records."""
        begin = []
        while self._held:
            position = self._held[0]
            slot = self._slots[position]
            if slot.phase is Phase.HELD and slot.needs > self._reports.acknowledged:
                break  # those behind it were asked for later
            self._held.popleft()
            if slot.phase is Phase.HELD:
                slot.phase = Phase.BEGUN
                self._running.add(position)
                tries = slot.tries
                begin.append(
                    Begin(position, tries.failed + 1, tries.retry_at_ms, tries.first_started_ms)
                )
        return tuple(begin)

    def _rest(self, now_ms: int) -> int | None:
        """Only waits can move the run: park it, or say how long to stay for what comes soon."""
        if not self._open:
            self.fail(
                Error(
                    code="workflow_stuck",
                    message="the workflow waits for something that is not a ctx operation, and "
                    "nothing can bring it about; wait with ctx.signal, ctx.sleep or ctx.call",
                    type="WorkflowStuck",
                    non_retryable=True,
                )
            )
            return None
        stay_ms = self._parking.stay_ms(self._moved_ms, now_ms)
        if stay_ms > 0:
            return stay_ms
        for position, slot in self._open.items():
            if not slot.is_announced:
                self._announce_wait(position, slot)
        position, slot = next(reversed(self._open.items()))
        self._announce_wait(position, slot, parks=True)
        self.parked = True
        self._over_at = self._reports.added
        return None

    def _not_asked(self, resume: Resume, *, strict: bool) -> None:
        recorded = self._history.recorded.get(resume.position)
        if strict and recorded is not None and not recorded.loose:
            asked = "nothing: it waits for something else"
            self.broken = self._positions.differs(resume.position, asked)
        else:
            self._aside[resume.position] = resume

    def _end(self, entry: RunCompleted | RunFailed) -> None:
        if self.is_over:
            return
        if self.broken is not None:
            entry = RunFailed(error=self.broken, lease_epoch=self.lease_epoch)
        self._reports.add(entry)
        self._over_at = self._reports.added


def _first_phase(operation: Operation) -> Phase:
    if isinstance(operation, Step):
        return Phase.HELD
    if isinstance(operation, Wait):
        return Phase.OPEN
    if isinstance(operation, Child) and operation.mode == ChildMode.JOIN:
        return Phase.OPEN
    return Phase.ASKED if is_shared(operation) else Phase.RESUMED  # nobody waits for the rest
