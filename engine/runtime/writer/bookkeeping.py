"""What the engine does in its own memory because of a transition: one function for each sort of
effect, and the books of what is still owed.

What cannot be done now, since the journal is full for a moment, is owed until it can.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from engine.base import limits
from engine.base.errors import EngineError, JournalBusy, UnknownRun
from engine.base.ids import RUN_ID_BYTES, DeploymentId, RunId, run_id_text
from engine.model import effects
from engine.model.commands import CancelRun, ChildEnded, LoseLease
from engine.model.effects import Effect
from engine.model.payloads import RunAccepted
from engine.model.runs import ComponentKind
from engine.runtime.pools import PooledWorker
from engine.runtime.writer.tenancy import Tenancy

_log: Final = logging.getLogger(__name__)
# Of a timer that is no run's: look at what is owed.
NO_RUN: Final = RunId(bytes(RUN_ID_BYTES))


class Lost(Effect, frozen=True):
    """The worker that had the run is gone."""

    lease_epoch: int
    reason: str


class LeftBehind(Effect, frozen=True):
    """The worker that had the run has left in an orderly way."""

    lease_epoch: int


class Mingled(Effect, frozen=True):
    """The worker that had the run alone may have others too."""

    worker: PooledWorker


class Books:
    """What one tenant's transitions have led to and is not done yet, in order."""

    def __init__(self, tenant: Tenancy) -> None:
        self._tenant = tenant
        self._owed: deque[Effect] = deque()
        self._is_settling = False
        self._goes_on = False

    @property
    def are_settled(self) -> bool:
        return not self._owed

    def owe(self, effects_owed: Sequence[Effect]) -> None:
        self._owed.extend(effects_owed)

    def settle(self) -> None:
        """Do what is owed. Not recursive, however deep a tree of children is: what an effect leads
        to is owed behind the rest. And not all at once, if it is much: the rest comes when
        everybody else has had a turn."""
        if self._is_settling:
            return
        self._is_settling = True
        queues = self._tenant.queues
        until = queues.granted_total + limits.settled_per_look_max
        try:
            while self._owed:
                if queues.granted_total >= until:
                    self.go_on_soon()
                    return
                until -= 1
                effect = self._owed[0]
                try:
                    _BOOKKEEPERS[type(effect)](self._tenant, effect)
                except JournalBusy:
                    self.settle_later()
                    return
                except EngineError as error:
                    self.report(effect, error)
                except Exception as failure:  # noqa: BLE001 - one tenant's defect stops that tenant
                    self._tenant.failed_unexpectedly(failure, type(effect).__name__)
                if self._owed and self._owed[0] is effect:
                    self._owed.popleft()
        finally:
            self._is_settling = False

    def go_on_soon(self) -> None:
        """In one of the next passes of the event loop."""
        if not self._goes_on:
            self._goes_on = True
            self._tenant.look_at(self._tenant.clock.now_ms(), NO_RUN)

    def look_again(self) -> None:
        """Its time has come."""
        self._goes_on = False
        self.settle()

    def settle_later(self) -> None:
        self._tenant.look_at(self._tenant.clock.now_ms() + limits.settle_again_ms, NO_RUN)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Nothing is settled before the end of the block."""
        self._is_settling = True
        try:
            yield
        finally:
            self._is_settling = False
        self.settle()

    def report(self, effect: Effect, error: EngineError) -> None:
        """A stopped tenant owes nothing: when it resumes, everything is taken up from the disk."""
        if self._tenant.journal.committer.stopped_by is None:
            _log.error(
                "%s of run %s of tenant %s failed: %s",
                type(effect).__name__,
                run_id_text(RunId(effect.run_id)),
                self._tenant.tenant_id,
                error.message,
            )

    def clear(self) -> None:
        self._owed.clear()
        self._goes_on = False


def _enqueue(tenant: Tenancy, effect: effects.Enqueue) -> None:
    run = RunId(effect.run_id)
    tenant.queues.add(tenant.live(run) or tenant.find(run))


def _set_timer(tenant: Tenancy, effect: effects.SetTimer) -> None:
    tenant.look_at(effect.due_ms, RunId(effect.run_id))


def _release_lease(tenant: Tenancy, effect: effects.ReleaseLease) -> None:
    run = RunId(effect.run_id)
    live = tenant.live(run)
    if live is not None and live.lease is not None and live.lease.epoch == effect.lease_epoch:
        live.lease = None
    worker = tenant.pools.release(tenant.tenant_id, run, effect.lease_epoch)
    if worker is not None:
        tenant.queues.pump_worker(worker)


def start_child(tenant: Tenancy, effect: effects.StartChild) -> None:
    child = RunId(effect.child_run_id)
    parent = tenant.find(RunId(effect.run_id)).state
    if tenant.exists(child):
        return  # the parent is being replayed past this point
    known = tenant.pools.known(
        tenant.tenant_id, DeploymentId(parent.deployment_id), effect.component
    )
    tenant.start_child(
        child,
        RunAccepted(
            project_id=parent.project_id,
            deployment_id=parent.deployment_id,
            component=effect.component,
            # Nobody has registered it yet: whoever gets it is told the kind that it has.
            component_kind=ComponentKind.WORKFLOW if known is None else known.kind,
            retry=None if known is None else known.retry,
            input=effect.input,
            entity_key=effect.entity_key,
            session_id=parent.session_id,
            user_id=parent.user_id,
            correlation_id=parent.correlation_id,
            trace_id=parent.trace_id,
            parent_run_id=parent.run_id if effect.position else b"",
            parent_position=effect.position,
        ),
    )


def _started_before(_: Tenancy, __: effects.StartChild) -> None:
    """Children were started before the append."""


def _cancel_child(tenant: Tenancy, effect: effects.CancelChild) -> None:
    try:
        child = tenant.find(RunId(effect.child_run_id))
    except UnknownRun:
        return
    if not child.state.is_terminal:
        tenant.carry_out(child, CancelRun(reason=effect.reason))


def _tell_parent(tenant: Tenancy, effect: effects.TellParent) -> None:
    tenant.carry_out(
        tenant.find(RunId(effect.parent_run_id)),
        ChildEnded(
            position=effect.position,
            child_run_id=effect.run_id,
            status=effect.status,
            output=effect.output,
            error=effect.error,
        ),
    )


def _pump(tenant: Tenancy, effect: Mingled) -> None:
    tenant.queues.pump_worker(effect.worker)


def _hand_on(tenant: Tenancy, effect: LeftBehind) -> None:
    live = tenant.live(RunId(effect.run_id))
    if live is not None and live.lease is not None and live.lease.epoch == effect.lease_epoch:
        live.lease = None
        tenant.queues.add(live)


def _take_back(tenant: Tenancy, effect: Lost) -> None:
    live = tenant.live(RunId(effect.run_id))
    if live is not None and live.lease is not None:
        tenant.carry_out(live, LoseLease(lease_epoch=effect.lease_epoch, reason=effect.reason))


_BOOKKEEPERS: Final[dict[type[Effect], Callable[[Tenancy, Any], None]]] = {
    effects.Enqueue: _enqueue,
    effects.SetTimer: _set_timer,
    effects.ReleaseLease: _release_lease,
    effects.StartChild: _started_before,
    effects.CancelChild: _cancel_child,
    effects.TellParent: _tell_parent,
    LeftBehind: _hand_on,
    Lost: _take_back,
    Mingled: _pump,
}
