"""Effects: what follows from a transition besides its records, as values.

Two sorts, kept apart by a decision: bookkeeping of the running process, done as soon as the state
has changed, and what the outside can notice, released only after the records are durable. This
file names them; the runtime has one function that performs each.
"""

from __future__ import annotations

import msgspec

from engine.model.payloads import Error
from engine.model.runs import RunStatus


class Effect(msgspec.Struct, frozen=True):
    run_id: bytes


# ---- bookkeeping ----


class Enqueue(Effect, frozen=True):
    """The run can move as soon as a worker is free for it."""


class SetTimer(Effect, frozen=True):
    """Time alone will change something about the run at `due_ms`."""

    due_ms: int


class ReleaseLease(Effect, frozen=True):
    """The run is held by nobody any more; its worker has a free slot."""

    lease_epoch: int


class StartChild(Effect, frozen=True):
    position: int
    child_run_id: bytes
    component: str
    input: bytes
    entity_key: str = ""


class CancelChild(Effect, frozen=True):
    child_run_id: bytes
    reason: str


class TellParent(Effect, frozen=True):
    """A joined child has ended; its parent's journal gets to know."""

    parent_run_id: bytes
    position: int
    status: RunStatus
    output: bytes
    error: Error | None


# ---- released after the commit ----


class Dispatch(Effect, frozen=True):
    """Hand the run to the worker that has its lease."""

    lease_epoch: int


class Ack(Effect, frozen=True):
    """Tell the worker that its reports up to `sequence` are durable."""

    lease_epoch: int
    sequence: int


class Deliver(Effect, frozen=True):
    """Give the worker that holds the run the records that the engine wrote."""

    lease_epoch: int
    first_offset: int
    count: int


class Revoke(Effect, frozen=True):
    """Tell the worker to stop working on the run."""

    lease_epoch: int
    reason: int
    message: str


class NotifyWaiter(Effect, frozen=True):
    """Whoever waits for the run's outcome is told."""

    status: RunStatus
