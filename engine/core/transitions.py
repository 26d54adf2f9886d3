"""Which record may follow in which status, and the status after it. The table is the rule; the
diagram in docs/run-states.md is drawn from it.

Two entries depend on the payload and are named below the table: a wait parks the run only when it
says so, and a resolved wait queues only a run that was parked.
"""

from __future__ import annotations

from typing import Final

from engine.base.errors import EngineError
from engine.model.records import RecordKind
from engine.model.runs import TERMINAL_STATUSES, RunStatus

K = RecordKind
S = RunStatus

# What a worker reports while it holds the run; none of it moves the status.
_REPORTS: Final = dict.fromkeys(
    (
        K.STEP_COMPLETED,
        K.STEP_FAILED,
        K.CHILD_STARTED,
        K.STATE_READ,
        K.STATE_CHANGED,
        K.STATE_CONFLICTED,
        K.USAGE_REPORTED,
    )
)
# What reaches a run from outside at any time; none of it moves the status by itself.
_ARRIVALS: Final = dict.fromkeys((K.SIGNAL_RECEIVED, K.CHILD_FINISHED, K.CANCEL_REQUESTED))

# status -> {record: status after it, or None where it stays}
TRANSITIONS: Final[dict[RunStatus | None, dict[RecordKind, RunStatus | None]]] = {
    None: {K.RUN_ACCEPTED: S.QUEUED},
    S.QUEUED: {
        **_ARRIVALS,
        K.WAIT_RESOLVED: None,
        K.RUN_STARTED: S.RUNNING,
        K.RUN_FAILED: S.FAILED,
        K.RUN_CANCELLED: S.CANCELLED,
    },
    S.RUNNING: {
        **_ARRIVALS,
        **_REPORTS,
        K.WAIT_CREATED: None,
        K.WAIT_RESOLVED: None,
        # The lease of the execution before was lost without a word, as after a restart.
        K.RUN_STARTED: S.RUNNING,
        K.RUN_YIELDED: S.QUEUED,
        K.RUN_RETRYING: S.RETRYING,
        K.RUN_COMPLETED: S.COMPLETED,
        K.RUN_FAILED: S.FAILED,
        K.RUN_CANCELLED: S.CANCELLED,
    },
    S.WAITING: {
        **_ARRIVALS,
        K.WAIT_RESOLVED: S.QUEUED,
        # It parked while a resolution was on its way to its worker: it has to look again.
        K.RUN_YIELDED: S.QUEUED,
        K.RUN_FAILED: S.FAILED,
        K.RUN_CANCELLED: S.CANCELLED,
    },
    S.RETRYING: {
        **_ARRIVALS,
        K.WAIT_RESOLVED: None,
        K.RUN_STARTED: S.RUNNING,
        K.RUN_FAILED: S.FAILED,
        K.RUN_CANCELLED: S.CANCELLED,
    },
    **{status: {} for status in TERMINAL_STATUSES},
}
# WAIT_CREATED with `parks` in RUNNING.
STATUS_PARKED: Final = S.WAITING


class IllegalTransition(EngineError):
    """A record that may not follow in this status; nothing was changed."""

    code = "illegal_transition"


def status_after(status: RunStatus | None, kind: RecordKind, *, parks: bool = False) -> RunStatus:
    """The status after a record, or `IllegalTransition`."""
    row = TRANSITIONS[status]
    if kind not in row:
        raise IllegalTransition(
            f"a {kind.name} record cannot follow in status "
            f"{status.name if status else 'NONE'}; allowed are "
            f"{', '.join(allowed.name for allowed in row) or 'none, the run has ended'}",
            status=status.name if status else None,
            kind=kind.name,
        )
    if parks and kind is RecordKind.WAIT_CREATED:
        return STATUS_PARKED
    after = row[kind] or status
    assert after is not None
    return after
