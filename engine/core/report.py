"""What a worker's report leads to. The fence has been checked; here it is about the contents.

A report is one transition: all of its records or none. The records go into the journal as the
bytes that came; the engine adds what it knows already (a signal that was there before its wait, a
timer that is due, a child that has ended), and replaces a failure that the policy retries and a
question about shared state.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from engine.base import limits
from engine.base.errors import LimitExceeded, MalformedRecord
from engine.core.held import BufferedSignal, OpenWait
from engine.core.shared import asks_shared, decide_shared
from engine.core.state import RunState, text_bytes, wait_bytes
from engine.core.values import Decision, Entry, end_run, resolve
from engine.model import effects
from engine.model.commands import Report, ReportedEntry
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    Error,
    RunCompleted,
    RunFailed,
    RunRetrying,
    RunYielded,
    StateChanged,
    StateScope,
    WaitCreated,
    WaitKind,
    WaitOutcome,
)
from engine.model.records import RecordKind
from engine.model.retry import GiveUp, decide_retry
from engine.model.runs import RunStatus

REPORTABLE: Final = frozenset(
    {
        RecordKind.STEP_COMPLETED,
        RecordKind.STEP_FAILED,
        RecordKind.WAIT_CREATED,
        RecordKind.CHILD_STARTED,
        RecordKind.STATE_READ,
        RecordKind.STATE_CHANGED,
        RecordKind.USAGE_REPORTED,
        RecordKind.RUN_COMPLETED,
        RecordKind.RUN_FAILED,
    }
)
_ENDINGS: Final = frozenset({RecordKind.RUN_COMPLETED, RecordKind.RUN_FAILED})
# They leave nothing in the state that would have to be bounded.
_PLAIN: Final = frozenset(
    {RecordKind.STEP_COMPLETED, RecordKind.STEP_FAILED, RecordKind.USAGE_REPORTED}
)
assert _PLAIN < REPORTABLE


def decide_report(state: RunState, command: Report, now_ms: int) -> Decision:
    _check(state, command.entries)
    decision = Decision([])
    shared = dict(command.shared)
    for reported in command.entries:
        kind = reported.kind
        if kind is RecordKind.WAIT_CREATED:
            _wait_created(state, decision, reported, now_ms, command.resolved_meanwhile)
        elif kind is RecordKind.CHILD_STARTED:
            _child_started(state, decision, reported)
        elif kind in _ENDINGS:
            _ended(state, decision, reported, now_ms)
        elif asks_shared(reported.payload):
            decide_shared(state, decision, reported.payload, shared)
        else:
            decision.entries.append(Entry(kind, reported.payload, reported.raw))
    return decision


def _check(state: RunState, entries: tuple[ReportedEntry, ...]) -> None:
    if len(entries) == 1 and entries[0].kind in _PLAIN:
        return  # by far the most reports, and nothing below concerns it
    for at, reported in enumerate(entries):
        if reported.kind not in REPORTABLE:
            raise MalformedRecord(
                f"a worker may not report a {reported.kind.name} record; the engine writes it",
                kind=reported.kind.name,
            )
        is_last = at == len(entries) - 1
        ends = reported.kind in _ENDINGS
        parks = isinstance(reported.payload, WaitCreated) and reported.payload.parks
        if (ends or parks) and not is_last:
            raise MalformedRecord(
                f"nothing may follow the {reported.kind.name} record that ends or parks the run",
                kind=reported.kind.name,
            )
    if len(state.waits) + len(entries) > limits.waits_open_max + limits.children_open_max:
        raise LimitExceeded(
            f"a run has at most {limits.waits_open_max} open waits; wait for some first",
            waits=len(state.waits),
        )
    _check_waits(state, [e.payload for e in entries if isinstance(e.payload, WaitCreated)])
    _check_names(state, [e.payload for e in entries if isinstance(e.payload, StateChanged)])


def _check_waits(state: RunState, created: list[WaitCreated]) -> None:
    """Open waits stand in the state row, with their questions and defaults."""
    size = sum(map(wait_bytes, created))
    if state.waits_bytes + size > limits.waits_open_bytes_max:
        raise LimitExceeded(
            f"the questions, names and defaults of the run's open waits would have "
            f"{state.waits_bytes + size} bytes, the limit is {limits.waits_open_bytes_max}; store "
            "large values elsewhere and use a reference",
            waits_bytes=state.waits_bytes + size,
        )
    for wait in created:
        if len(wait.wait_id) > limits.wait_id_length_max:
            raise LimitExceeded(
                f"a wait's id has at most {limits.wait_id_length_max} characters, this one has "
                f"{len(wait.wait_id)}",
                field="wait_id",
            )


def _check_names(state: RunState, changed: list[StateChanged]) -> None:
    names = {change.name for change in changed if change.scope in (0, StateScope.RUN)}
    for name in names:
        if text_bytes(name) > limits.state_name_bytes_max:
            raise LimitExceeded(
                f"the name of a piece of state has 1 to {limits.state_name_bytes_max} bytes, this "
                f"one has {text_bytes(name)}",
                field="name",
            )
    if names and len(names | state.revisions.keys()) > limits.state_names_max:
        raise LimitExceeded(
            f"a run has at most {limits.state_names_max} pieces of state; keep what belongs "
            "together in one",
            names=len(state.revisions),
        )


def _wait_created(
    state: RunState,
    decision: Decision,
    reported: ReportedEntry,
    now_ms: int,
    resolved_meanwhile: AbstractSet[str],
) -> None:
    payload = reported.payload
    assert isinstance(payload, WaitCreated)
    # A worker asks and, when it has nothing else to do, parks on the same wait: once is enough, and
    # what has come for it is not to be taken twice.
    is_over = payload.wait_id in resolved_meanwhile or payload.wait_id in decision.resolved
    if not is_over:
        decision.entries.append(Entry(reported.kind, payload, reported.raw))
        if not _resolve_at_once(state, decision, payload, now_ms) and payload.due_ms:
            decision.bookkeeping.append(effects.SetTimer(state.run_id, payload.due_ms))
    if payload.parks:
        _park(state, decision, resolved_meanwhile, is_written=not is_over)


def _park(
    state: RunState,
    decision: Decision,
    resolved_meanwhile: AbstractSet[str],
    *,
    is_written: bool,
) -> None:
    """The run gives its slot back. It sleeps only if nothing that it waits for has come, be it on
    its way to the worker or in this very report."""
    decision.bookkeeping.append(effects.ReleaseLease(state.run_id, state.lease_epoch))
    if not resolved_meanwhile and not decision.resolved:
        return
    if not is_written or decision.entries[-1].kind is not RecordKind.WAIT_RESOLVED:
        # Parked by its last record, or held by nobody without it: either way it has to go on.
        yielded = RunYielded(lease_epoch=state.lease_epoch, reason="a wait was resolved")
        decision.entries.append(Entry(RecordKind.RUN_YIELDED, yielded))
    decision.bookkeeping.append(effects.Enqueue(state.run_id))


def _resolve_at_once(
    state: RunState, decision: Decision, payload: WaitCreated, now_ms: int
) -> bool:
    """What the wait is for may be here already."""
    wait = OpenWait(payload.position, payload.wait_id, int(payload.kind), payload.name)
    if payload.kind == WaitKind.SIGNAL:
        signal_id, signal = _next_signal(state, decision, payload.name)
        if signal is not None:
            resolve(
                state,
                decision,
                wait,
                WaitOutcome.SIGNALLED,
                value=signal.payload,
                signal_id=signal_id,
            )
            return True
    if payload.kind == WaitKind.CHILD and not _is_child_open(state, decision, payload.position):
        resolve(state, decision, wait, WaitOutcome.CHILD_FINISHED)
        return True
    if payload.due_ms and payload.due_ms <= now_ms:
        is_timer = payload.kind == WaitKind.TIMER
        resolve(
            state,
            decision,
            wait,
            WaitOutcome.FIRED if is_timer else WaitOutcome.TIMED_OUT,
            value=payload.default,
        )
        return True
    return False


def _next_signal(
    state: RunState, decision: Decision, name: str
) -> tuple[str, BufferedSignal] | tuple[str, None]:
    """The first of this name that has come and that no wait of this report has taken."""
    left = decision.signals_left.get(name)
    if left is None:
        left = decision.signals_left[name] = state.signals.named(name)
    return next(left, ("", None))


def _is_child_open(state: RunState, decision: Decision, position: int) -> bool:
    """Started and not ended; it may be this very report that starts it."""
    return position in state.children or position in decision.children


def _child_started(state: RunState, decision: Decision, reported: ReportedEntry) -> None:
    payload = reported.payload
    assert isinstance(payload, ChildStarted)
    decision.children.add(payload.position)
    children = len(state.children) + len(decision.children)
    if payload.mode == ChildMode.JOIN and children > limits.children_open_max:
        raise LimitExceeded(
            f"a run has at most {limits.children_open_max} open children; join some first",
            children=len(state.children),
        )
    if len(payload.input) > limits.input_bytes_max:
        raise LimitExceeded(
            f"the input of child {payload.component!r} has {len(payload.input)} bytes, the limit "
            f"is {limits.input_bytes_max}; store large values elsewhere and pass a reference",
            field="input",
        )
    decision.entries.append(Entry(reported.kind, payload, reported.raw))
    decision.bookkeeping.append(
        effects.StartChild(
            state.run_id,
            payload.position if payload.mode == ChildMode.JOIN else 0,
            payload.child_run_id,
            payload.component,
            payload.input,
            payload.entity_key,
        )
    )


def _ended(state: RunState, decision: Decision, reported: ReportedEntry, now_ms: int) -> None:
    payload = reported.payload
    if isinstance(payload, RunFailed):
        error = payload.error or Error(code="unknown", message="the worker gave no reason")
        _check_error(error)
        follows = decide_retry(
            state.retry,
            error,
            attempt=state.attempt,
            first_started_ms=state.started_ms,
            now_ms=now_ms,
            seed=state.run_id,
        )
        if not isinstance(follows, GiveUp):
            _retry_later(state, decision, error, follows.due_ms)
            return
        ending = end_run(
            state, reported.kind, payload, RunStatus.FAILED, error=error, raw=reported.raw
        )
    else:
        assert isinstance(payload, RunCompleted)
        if len(payload.output) > limits.output_bytes_max:
            raise LimitExceeded(
                f"the output of {state.component!r} has {len(payload.output)} bytes, the limit is "
                f"{limits.output_bytes_max}; store large values elsewhere and return a reference",
                field="output",
            )
        ending = end_run(
            state,
            reported.kind,
            payload,
            RunStatus.COMPLETED,
            output=payload.output,
            raw=reported.raw,
        )
    decision.entries.extend(ending.entries)
    decision.bookkeeping.extend(ending.bookkeeping)
    decision.after_commit.extend(ending.after_commit)


def _check_error(error: Error) -> None:
    size = sum(map(text_bytes, (error.code, error.message, error.type, error.traceback)))
    if size > limits.error_bytes_max:
        raise LimitExceeded(
            f"the error {error.code[:80]!r} has {size} bytes with its traceback, the limit is "
            f"{limits.error_bytes_max}; raise it with a shorter message",
            field="error",
        )


def _retry_later(state: RunState, decision: Decision, error: Error, due_ms: int) -> None:
    retrying = RunRetrying(
        attempt=state.attempt, error=error, retry_at_ms=due_ms, lease_epoch=state.lease_epoch
    )
    decision.entries.append(Entry(RecordKind.RUN_RETRYING, retrying))
    decision.bookkeeping.append(effects.ReleaseLease(state.run_id, state.lease_epoch))
    decision.bookkeeping.append(effects.SetTimer(state.run_id, due_ms))
