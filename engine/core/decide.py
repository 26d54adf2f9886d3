"""What a command leads to: records to append and effects to perform, or a named refusal.

`decide` never changes the state and never looks anywhere but at its arguments. The caller applies
the records (`apply.py`), appends them as one transition, does the bookkeeping at once and releases
the rest after the commit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

import msgspec

from engine.base import limits
from engine.base.errors import LimitExceeded, RunTerminal, StaleFence, UnknownWait
from engine.core.report import decide_report
from engine.core.state import RunState, signal_bytes, text_bytes
from engine.core.values import Decision, Entry, end_run, resolve
from engine.model import effects
from engine.model.commands import (
    BeginExecution,
    CancelRun,
    ChildEnded,
    Command,
    LoseLease,
    Report,
    ResolveWait,
    SendSignal,
    StartRun,
    TimeHasCome,
)
from engine.model.payloads import (
    ChildFinished,
    Error,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunYielded,
    SignalReceived,
    WaitKind,
    WaitOutcome,
)
from engine.model.records import RecordKind
from engine.model.runs import RunStatus


def decide(state: RunState, command: Command, now_ms: int) -> Decision:
    return _DECIDERS[type(command)](state, command, now_ms)


def _start(state: RunState, command: StartRun, now_ms: int) -> Decision:
    assert state.status is None
    accepted = command.accepted
    decision = Decision([Entry(RecordKind.RUN_ACCEPTED, accepted)])
    if accepted.start_at_ms > now_ms:
        decision.bookkeeping.append(effects.SetTimer(state.run_id, accepted.start_at_ms))
    else:
        decision.bookkeeping.append(effects.Enqueue(state.run_id))
    return decision


def _begin(state: RunState, command: BeginExecution, now_ms: int) -> Decision:
    """The run goes to a worker, unless it has taken down every worker that had it."""
    if state.fruitless_starts >= limits.fruitless_starts_max:
        error = Error(
            code="worker_crashed",
            message=f"the run was handed out {state.fruitless_starts} times and each worker went "
            f"away before anything was recorded, last {state.worker_id!r}; look at what the "
            "component does first, and at the workers' memory",
            non_retryable=True,
        )
        return end_run(state, RecordKind.RUN_FAILED, RunFailed(error=error), RunStatus.FAILED)
    is_new_attempt = state.attempt == 0 or state.status is RunStatus.RETRYING
    started = RunStarted(
        attempt=state.attempt + is_new_attempt,
        lease_epoch=state.lease_epoch + 1,
        worker_id=command.worker_id,
        lease_until_ms=command.lease_until_ms,
    )
    return Decision(
        [Entry(RecordKind.RUN_STARTED, started)],
        after_commit=[effects.Dispatch(state.run_id, started.lease_epoch)],
    )


def _lose_lease(state: RunState, command: LoseLease, now_ms: int) -> Decision:
    if state.lease_epoch != command.lease_epoch or state.status is not RunStatus.RUNNING:
        return Decision([])  # somebody else has it by now, or it has ended
    return Decision(
        [
            Entry(
                RecordKind.RUN_YIELDED,
                RunYielded(lease_epoch=command.lease_epoch, reason=command.reason),
            )
        ],
        bookkeeping=[
            effects.ReleaseLease(state.run_id, command.lease_epoch),
            effects.Enqueue(state.run_id),
        ],
    )


def _signal(state: RunState, command: SendSignal, now_ms: int) -> Decision:
    _refuse_if_ended(state, "be signalled")
    if command.signal_id in state.signal_ids or command.signal_id in state.signals:
        return Decision([])  # the same signal twice counts once
    if len(state.signals) >= limits.signals_buffered_max:
        raise LimitExceeded(
            f"{len(state.signals)} signals wait for this run, which is the limit; it has to take "
            "some first",
            signals=len(state.signals),
        )
    # The one that was asked for first.
    _, first = next(state.waits.named(command.name), (None, None))
    _check_signal_size(state, command, is_taken=first is not None)
    received = SignalReceived(
        signal_id=command.signal_id,
        name=command.name,
        payload=command.payload,
        sender=command.sender,
    )
    decision = Decision([Entry(RecordKind.SIGNAL_RECEIVED, received)])
    if first is not None:
        resolve(
            state,
            decision,
            first,
            WaitOutcome.SIGNALLED,
            value=command.payload,
            signal_id=command.signal_id,
        )
    return decision


def _check_signal_size(state: RunState, command: SendSignal, *, is_taken: bool) -> None:
    """What waits for a run stands in its state row until the run takes it."""
    size = signal_bytes(command.name, command.signal_id, command.payload)
    if size > limits.signals_buffered_bytes_max:
        raise LimitExceeded(
            f"the signal {command.name!r} has {size} bytes, the limit is "
            f"{limits.signals_buffered_bytes_max}; store large values elsewhere and send a "
            "reference",
            field="payload",
        )
    if not is_taken and state.signals_bytes + size > limits.signals_buffered_bytes_max:
        raise LimitExceeded(
            f"signals of {state.signals_bytes} bytes wait for this run and {size} more would be "
            f"over the limit of {limits.signals_buffered_bytes_max}; it has to take some first, "
            "or send references to values that are stored elsewhere",
            signals_bytes=state.signals_bytes,
        )


def _resolve_wait(state: RunState, command: ResolveWait, now_ms: int) -> Decision:
    _refuse_if_ended(state, "be answered")
    if len(command.value) > limits.input_bytes_max:
        raise LimitExceeded(
            f"the answer has {len(command.value)} bytes, the limit is {limits.input_bytes_max}; "
            "store large values elsewhere and answer with a reference",
            field="value",
        )
    wait = state.waits.get(command.wait_id)
    if wait is None or wait.kind != WaitKind.USER:
        questions = (w.wait_id for w in state.waits.values() if w.kind == WaitKind.USER)
        open_ids = [*itertools.islice(questions, limits.names_shown_max + 1)]
        shown = ", ".join(open_ids[: limits.names_shown_max]) or "none"
        more = " and more" if len(open_ids) > limits.names_shown_max else ""
        raise UnknownWait(
            f"the run asks no open question {command.wait_id!r}; open are {shown}{more}",
            wait_id=command.wait_id,
        )
    decision = Decision([])
    resolve(state, decision, wait, WaitOutcome.ANSWERED, value=command.value)
    return decision


def _time_has_come(state: RunState, command: TimeHasCome, now_ms: int) -> Decision:
    decision = Decision([])
    if state.is_terminal:
        return decision
    over, is_more_over = state.waits.over(now_ms)
    for wait in over:
        timed_out = wait.kind != WaitKind.TIMER
        resolve(
            state,
            decision,
            wait,
            WaitOutcome.TIMED_OUT if timed_out else WaitOutcome.FIRED,
            value=wait.default,
        )
    if state.begins_at_ms is not None and state.begins_at_ms <= now_ms:
        decision.bookkeeping.append(effects.Enqueue(state.run_id))
    due_ms = now_ms if is_more_over else state.next_due_ms(after_ms=now_ms)
    if due_ms is not None:
        decision.bookkeeping.append(effects.SetTimer(state.run_id, due_ms))
    return decision


def _cancel(state: RunState, command: CancelRun, now_ms: int) -> Decision:
    if state.status is RunStatus.CANCELLED:
        return Decision([])
    _refuse_if_ended(state, "be cancelled")
    if text_bytes(command.reason) > limits.error_bytes_max:
        raise LimitExceeded(
            f"the reason has {text_bytes(command.reason)} bytes, the limit is "
            f"{limits.error_bytes_max}; give a shorter one",
            field="reason",
        )
    decision = end_run(
        state,
        RecordKind.RUN_CANCELLED,
        RunCancelled(reason=command.reason),
        RunStatus.CANCELLED,
        error=Error(code="cancelled", message=command.reason, non_retryable=True),
    )
    if state.status is RunStatus.RUNNING:
        decision.after_commit.append(
            effects.Revoke(state.run_id, state.lease_epoch, 1, command.reason)
        )
    return decision


def _child_ended(state: RunState, command: ChildEnded, now_ms: int) -> Decision:
    if state.is_terminal or command.position not in state.children:
        return Decision([])  # told already, or nobody is left to be told
    finished = ChildFinished(
        position=command.position,
        child_run_id=command.child_run_id,
        status=command.status,
        output=command.output,
        error=command.error,
    )
    decision = Decision([Entry(RecordKind.CHILD_FINISHED, finished)])
    # Its wait has its position for a name, so that a parent of thousands is not searched for each.
    wait = state.waits.get(str(command.position))
    if wait is not None and wait.kind == WaitKind.CHILD:
        resolve(
            state,
            decision,
            wait,
            WaitOutcome.CHILD_FINISHED,
            value=command.output,
            error=command.error,
        )
    return decision


def _refuse_if_ended(state: RunState, verb: str) -> None:
    if state.is_terminal:
        assert state.status is not None
        raise RunTerminal(
            f"the run is {state.status.name} and can no longer {verb}",
            status=state.status.name,
        )


def refuse_stale(state: RunState, lease_epoch: int) -> None:
    """The fence: only the latest grant may write."""
    if state.lease_epoch != lease_epoch or state.status is not RunStatus.RUNNING:
        raise StaleFence(
            f"lease epoch {lease_epoch} is not the current one ({state.lease_epoch}, "
            f"{state.status.name if state.status else 'no run'}); nothing was changed",
            lease_epoch=lease_epoch,
            current_epoch=state.lease_epoch,
        )


def _report(state: RunState, command: Report, now_ms: int) -> Decision:
    refuse_stale(state, command.lease_epoch)
    return decide_report(state, command, now_ms)


_DECIDERS: Final[dict[type[msgspec.Struct], Callable[[RunState, Any, int], Decision]]] = {
    StartRun: _start,
    BeginExecution: _begin,
    Report: _report,
    LoseLease: _lose_lease,
    SendSignal: _signal,
    ResolveWait: _resolve_wait,
    TimeHasCome: _time_has_come,
    CancelRun: _cancel,
    ChildEnded: _child_ended,
}
