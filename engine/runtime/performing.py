"""Performs what the outside can notice, after the commit: one function for each sort of effect.

Called by a tenant's committer with the effects of a batch, in order. Nothing here changes a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from engine.base import limits
from engine.base.ids import RunId
from engine.ext import frames
from engine.model import effects
from engine.model.effects import Effect
from engine.model.worker_frames import Revoke, RevokeReason
from engine.runtime.live import JournalEntryBytes
from engine.runtime.pools import WorkerPort
from engine.wire.worker import encode as encode_cold

if TYPE_CHECKING:
    from engine.runtime.tenant import TenantRuntime


class Call(Effect, frozen=True):
    """Tell somebody inside the process, such as a request that waits for its start."""

    call: Callable[[], object]


class AckTo(effects.Ack, frozen=True):
    """With the worker it goes to: by the time it leaves, the lease may have ended."""

    port: WorkerPort


class RevokeTo(effects.Revoke, frozen=True):
    port: WorkerPort


def perform_all(tenant: TenantRuntime, released: Sequence[object]) -> None:
    for effect in released:
        _PERFORMERS[type(effect)](tenant, effect)


def _dispatch(tenant: TenantRuntime, effect: effects.Dispatch) -> None:
    live = tenant.live(RunId(effect.run_id))
    if live is None or live.lease is None or live.lease.epoch != effect.lease_epoch:
        return  # lost or ended between the decision and the commit
    state = live.state
    pages = list(_pages(tenant.entries_of(live)))
    for at, page in enumerate(pages):
        live.lease.worker.port.send(
            frames.build_dispatch(
                state.run_id,
                effect.lease_epoch,
                state.attempt,
                state.component,
                state.component_kind,
                page,
                at < len(pages) - 1,
            )
        )


def _pages(entries: list[JournalEntryBytes]) -> list[list[JournalEntryBytes]]:
    """A long journal goes in several frames, each of a size that a message can carry."""
    pages: list[list[JournalEntryBytes]] = [[]]
    page_bytes = 0
    for entry in entries:
        page_bytes += len(entry[1])
        if pages[-1] and page_bytes > limits.dispatch_page_bytes_max:
            pages.append([])
            page_bytes = len(entry[1])
        pages[-1].append(entry)
    return pages


def _ack(_: TenantRuntime, effect: AckTo) -> None:
    effect.port.send(frames.build_ack(effect.run_id, effect.lease_epoch, effect.sequence))


def _deliver(tenant: TenantRuntime, effect: effects.Deliver) -> None:
    live = tenant.live(RunId(effect.run_id))
    if live is None or live.lease is None or live.lease.epoch != effect.lease_epoch:
        return
    end = effect.first_offset + effect.count
    entries = [entry for entry in tenant.entries_of(live) if effect.first_offset <= entry[2] < end]
    live.lease.worker.port.send(frames.build_deliver(effect.run_id, effect.lease_epoch, entries))


def _revoke(_: TenantRuntime, effect: RevokeTo) -> None:
    revoke = Revoke(
        run_id=effect.run_id,
        lease_epoch=effect.lease_epoch,
        reason=RevokeReason(effect.reason),
        message=effect.message,
    )
    effect.port.send(encode_cold(revoke))


def _notify(tenant: TenantRuntime, effect: effects.NotifyWaiter) -> None:
    run = RunId(effect.run_id)
    live = tenant.live(run)
    tenant.forget(run)
    if live is not None and live.ending is not None:
        tenant.waiters.tell(run, live.ending)


def _call(_: TenantRuntime, effect: Call) -> None:
    effect.call()


_PERFORMERS: Final[dict[type[object], Callable[[TenantRuntime, Any], None]]] = {
    effects.Dispatch: _dispatch,
    AckTo: _ack,
    effects.Deliver: _deliver,
    RevokeTo: _revoke,
    effects.NotifyWaiter: _notify,
    Call: _call,
}
