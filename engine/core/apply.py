"""What each record does to a run's state. The one place where a state changes.

`apply` takes the payload as a value; it is the caller who decodes. A record that may not follow
raises `IllegalTransition` before anything is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.base import limits
from engine.core.held import BufferedSignal, BufferedSignals, OpenWait, OpenWaits
from engine.core.state import RunState, signal_bytes, wait_bytes
from engine.core.transitions import status_after
from engine.model.payloads import (
    ChildFinished,
    ChildMode,
    ChildStarted,
    Error,
    Payload,
    RunAccepted,
    RunCancelled,
    RunFailed,
    RunRetrying,
    RunStarted,
    SignalReceived,
    StateChanged,
    StateScope,
    WaitCreated,
    WaitKind,
    WaitResolved,
)
from engine.model.records import RecordKind
from engine.model.retry import rule_of

_PROGRESS: Final = frozenset(
    {
        RecordKind.STEP_COMPLETED,
        RecordKind.STEP_FAILED,
        RecordKind.WAIT_CREATED,
        RecordKind.WAIT_RESOLVED,
        RecordKind.CHILD_STARTED,
        RecordKind.STATE_READ,
        RecordKind.STATE_CHANGED,
        RecordKind.STATE_CONFLICTED,
        # A worker that reports a failure is alive.
        RecordKind.RUN_RETRYING,
    }
)
# Kinds whose payload the state does not need; the caller need not decode them.
UNREAD_KINDS: Final = frozenset(
    {
        RecordKind.STEP_COMPLETED,
        RecordKind.STEP_FAILED,
        RecordKind.STATE_CONFLICTED,
        RecordKind.USAGE_REPORTED,
        RecordKind.RUN_YIELDED,
        RecordKind.RUN_COMPLETED,
        RecordKind.CANCEL_REQUESTED,
    }
)

# What the state holds that a record of each kind changes in place; the others change nothing so, or
# put something new there. A test holds it against what they do.
CHANGED_IN_PLACE: Final[dict[RecordKind, tuple[str, ...]]] = {
    RecordKind.WAIT_CREATED: ("waits",),
    RecordKind.WAIT_RESOLVED: ("waits", "signals"),
    RecordKind.SIGNAL_RECEIVED: ("signals", "signal_ids"),
    RecordKind.CHILD_STARTED: ("children",),
    RecordKind.CHILD_FINISHED: ("children",),
    RecordKind.STATE_CHANGED: ("revisions",),
}


def apply(state: RunState, kind: RecordKind, payload: Payload | None, timestamp_us: int) -> None:
    """Change the state as this record says. `payload` may be None for `UNREAD_KINDS`."""
    parks = isinstance(payload, WaitCreated) and payload.parks
    state.status = status_after(state.status, kind, parks=parks)
    handler = _HANDLERS.get(kind)
    if handler is not None:
        handler(state, payload, timestamp_us)
    if kind in _PROGRESS:
        state.fruitless_starts = 0
    if state.status.is_terminal:
        state.ended_ms = timestamp_us // 1_000
        state.outcome_offset = state.next_offset
        state.waits, state.signals, state.children = OpenWaits(), BufferedSignals(), {}
        state.signals_bytes = state.waits_bytes = 0
    state.next_offset += 1


def _accepted(state: RunState, payload: RunAccepted, timestamp_us: int) -> None:
    state.created_ms = timestamp_us // 1_000
    state.project_id = payload.project_id
    state.deployment_id = payload.deployment_id
    state.component = payload.component
    state.component_kind = int(payload.component_kind)
    state.entity_key = payload.entity_key
    state.correlation_id = payload.correlation_id
    state.trace_id = payload.trace_id
    state.parent_run_id = payload.parent_run_id
    state.tags = dict(payload.tags)
    state.parent_position = payload.parent_position
    state.start_at_ms = payload.start_at_ms
    state.session_id = payload.session_id
    state.user_id = payload.user_id
    state.retry = rule_of(payload.retry)


def _started(state: RunState, payload: RunStarted, timestamp_us: int) -> None:
    state.attempt = payload.attempt
    state.lease_epoch = payload.lease_epoch
    state.worker_id = payload.worker_id
    state.started_ms = state.started_ms or timestamp_us // 1_000


def _yielded(state: RunState, _: Payload, __: int) -> None:
    # Counted where the worker was lost and not at the start: when the engine itself went away, it
    # was nobody's fault.
    state.fruitless_starts += 1


def _step_completed(state: RunState, _: Payload, __: int) -> None:
    state.steps_completed += 1


def _step_failed(state: RunState, _: Payload, __: int) -> None:
    state.steps_failed += 1


def _wait_created(state: RunState, payload: WaitCreated, _: int) -> None:
    if payload.wait_id in state.waits:
        return
    state.waits_bytes += wait_bytes(payload)
    wait = OpenWait(
        position=payload.position,
        wait_id=payload.wait_id,
        kind=int(payload.kind),
        name=payload.name,
        due_ms=payload.due_ms,
        has_default=payload.has_default,
        default=payload.default,
        question=payload.question,
        input_type=payload.input_type,
        options=payload.options,
    )
    state.waits.put(wait.wait_id, wait)


def _wait_resolved(state: RunState, payload: WaitResolved, _: int) -> None:
    wait = state.waits.pop(payload.wait_id, None)
    if wait is not None:
        state.waits_bytes -= wait_bytes(wait)
    if wait is not None and wait.kind == WaitKind.SIGNAL and payload.signal_id:
        signal = state.signals.pop(payload.signal_id, None)
        if signal is not None:
            state.signals_bytes -= signal_bytes(signal.name, payload.signal_id, signal.payload)


def _signal_received(state: RunState, payload: SignalReceived, _: int) -> None:
    before = state.signals.pop(payload.signal_id, None)
    if before is not None:
        state.signals_bytes -= signal_bytes(before.name, payload.signal_id, before.payload)
    state.signals.put(payload.signal_id, BufferedSignal(payload.name, payload.payload))
    state.signals_bytes += signal_bytes(payload.name, payload.signal_id, payload.payload)
    state.signal_ids.append(payload.signal_id)
    # Bounded: an id older than this many signals may count a second time.
    del state.signal_ids[: -limits.signal_ids_kept_max]


def _child_started(state: RunState, payload: ChildStarted, _: int) -> None:
    if payload.mode == ChildMode.JOIN:
        state.children[payload.position] = payload.child_run_id


def _child_finished(state: RunState, payload: ChildFinished, _: int) -> None:
    state.children.pop(payload.position, None)


def _state_changed(state: RunState, payload: StateChanged, _: int) -> None:
    if payload.scope in (0, StateScope.RUN):  # shared state is not the run's
        state.revisions[payload.name] = payload.revision


def _retrying(state: RunState, payload: RunRetrying, _: int) -> None:
    state.retry_at_ms = payload.retry_at_ms
    _note_error(state, payload.error)


def _failed(state: RunState, payload: RunFailed, _: int) -> None:
    _note_error(state, payload.error)


def _cancelled(state: RunState, payload: RunCancelled, _: int) -> None:
    state.error_code, state.error_message = "cancelled", payload.reason


def _completed(state: RunState, _: Payload, __: int) -> None:
    state.error_code = state.error_message = ""


def _note_error(state: RunState, error: Error | None) -> None:
    state.error_code = error.code if error else ""
    state.error_message = error.message if error else ""


_HANDLERS: Final[dict[RecordKind, Callable[[RunState, Any, int], None]]] = {
    RecordKind.RUN_ACCEPTED: _accepted,
    RecordKind.RUN_STARTED: _started,
    RecordKind.RUN_YIELDED: _yielded,
    RecordKind.STEP_COMPLETED: _step_completed,
    RecordKind.STEP_FAILED: _step_failed,
    RecordKind.WAIT_CREATED: _wait_created,
    RecordKind.WAIT_RESOLVED: _wait_resolved,
    RecordKind.SIGNAL_RECEIVED: _signal_received,
    RecordKind.CHILD_STARTED: _child_started,
    RecordKind.CHILD_FINISHED: _child_finished,
    RecordKind.STATE_CHANGED: _state_changed,
    RecordKind.RUN_RETRYING: _retrying,
    RecordKind.RUN_COMPLETED: _completed,
    RecordKind.RUN_FAILED: _failed,
    RecordKind.RUN_CANCELLED: _cancelled,
}
