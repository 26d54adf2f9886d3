"""Effects: what the outside will notice of a transition, as values.

An effect waits with the records that cause it and is performed, by one function of the runtime,
only after they are durable. This file names them; it performs nothing.
"""

from __future__ import annotations

import msgspec

from engine.base.ids import DeploymentId, RunId
from engine.model.runs import RunStatus


class Effect(msgspec.Struct, frozen=True, tag=True):
    run_id: RunId


class Dispatch(Effect, frozen=True):
    """Offer the run to a worker that serves the component."""

    deployment_id: DeploymentId
    component: str


class Ack(Effect, frozen=True):
    """Tell the worker that what it reported up to a position is durable."""

    lease_epoch: int
    position: int


class NotifyWaiter(Effect, frozen=True):
    """Whoever waits for the run's outcome, or streams it, is told of its status."""

    status: RunStatus
    offset: int


class SetTimer(Effect, frozen=True):
    timer_id: str
    due_ms: int


class CancelTimer(Effect, frozen=True):
    timer_id: str


class ReleaseLease(Effect, frozen=True):
    """The run is held by nobody any more; its worker has a free slot."""

    lease_epoch: int


class Archive(Effect, frozen=True):
    """The run is terminal and may move to the cold tier."""

    completed_ms: int
