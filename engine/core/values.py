"""What a decision is made of, and the two moves that several decisions share: resolving a wait and
ending a run."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.core.held import BufferedSignal, OpenWait
from engine.core.state import RunState
from engine.model import effects
from engine.model.effects import Effect
from engine.model.payloads import Error, Payload, WaitOutcome, WaitResolved
from engine.model.records import RecordKind
from engine.model.runs import RunStatus


class Entry(msgspec.Struct):
    """A record to append: as the bytes that came over the wire, or as a value to encode."""

    kind: RecordKind
    payload: Payload | None
    raw: bytes | None = None


class Decision(msgspec.Struct):
    entries: list[Entry]
    bookkeeping: list[Effect] = msgspec.field(default_factory=list)
    after_commit: list[Effect] = msgspec.field(default_factory=list)
    # What stands in the entries, for whoever would have to look through all of them for it.
    resolved: set[str] = msgspec.field(default_factory=set)  # by wait id
    children: set[int] = msgspec.field(default_factory=set)  # by position
    # Of each name: the signals that no wait of this decision has taken.
    signals_left: dict[str, Iterator[tuple[str, BufferedSignal]]] = msgspec.field(
        default_factory=dict
    )


def resolve(
    state: RunState,
    decision: Decision,
    wait: OpenWait,
    outcome: WaitOutcome,
    *,
    value: bytes = b"",
    signal_id: str = "",
    error: Error | None = None,
) -> None:
    """The wait is over. A parked run becomes able to move; a held one hears of it."""
    was_parked = state.status is RunStatus.WAITING
    already = bool(decision.resolved)
    decision.resolved.add(wait.wait_id)
    decision.entries.append(
        Entry(
            RecordKind.WAIT_RESOLVED,
            WaitResolved(
                position=wait.position,
                wait_id=wait.wait_id,
                outcome=outcome,
                value=value,
                signal_id=signal_id,
                error=error,
            ),
        )
    )
    if was_parked and not already:
        decision.bookkeeping.append(effects.Enqueue(state.run_id))


def end_run(
    state: RunState,
    kind: RecordKind,
    payload: Payload,
    status: RunStatus,
    *,
    output: bytes = b"",
    error: Error | None = None,
    raw: bytes | None = None,
) -> Decision:
    """The run's last record, and everybody who has to know."""
    decision = Decision(
        [Entry(kind, payload, raw)],
        after_commit=[effects.NotifyWaiter(state.run_id, status)],
    )
    if state.status is RunStatus.RUNNING:
        decision.bookkeeping.append(effects.ReleaseLease(state.run_id, state.lease_epoch))
    if status is RunStatus.CANCELLED:
        decision.bookkeeping.extend(
            effects.CancelChild(state.run_id, child, "the parent was cancelled")
            for child in state.children.values()
        )
    if state.parent_run_id:
        decision.bookkeeping.append(
            effects.TellParent(
                state.run_id, state.parent_run_id, state.parent_position, status, output, error
            )
        )
    return decision
