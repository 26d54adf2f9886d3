"""Performs what the outside can notice, after the commit: one function for each sort of effect.

Called by a tenant's committer with the effects of a batch, in order. Nothing here changes a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from engine.base import limits
from engine.base.ids import RunId
from engine.ext import frames
from engine.model import effects
from engine.model.effects import Effect
from engine.model.worker_frames import Revoke, RevokeReason
from engine.runtime.pools import WorkerPort
from engine.runtime.writer.live import JournalEntryBytes, LiveRun, RunEnded
from engine.runtime.writer.tenancy import Tenancy
from engine.wire.worker import encode as encode_cold


class Call(Effect, frozen=True):
    """Tell somebody inside the process, such as a request that waits for its start."""

    call: Callable[[], object]


class AckTo(effects.Ack, frozen=True):
    """With the worker it goes to: by the time it leaves, the lease may have ended."""

    port: WorkerPort


class RevokeTo(effects.Revoke, frozen=True):
    port: WorkerPort


def perform_all(tenant: Tenancy, released: Sequence[object]) -> None:
    """Each of them, whatever becomes of the one before: one that cannot be performed, since the
    journal cannot be read or for a reason that nobody foresaw, stops its tenant and nobody else."""
    for effect in released:
        try:
            _PERFORMERS[type(effect)](tenant, effect)
        except Exception as failure:  # noqa: BLE001 - one tenant's defect stops that tenant
            tenant.failed_unexpectedly(failure, type(effect).__name__)


def _dispatch(tenant: Tenancy, effect: effects.Dispatch) -> None:
    live = tenant.live(RunId(effect.run_id))
    if live is None or live.lease is None or live.lease.epoch != effect.lease_epoch:
        return  # lost or ended between the decision and the commit
    port = live.lease.worker.port
    kind = int(live.lease.worker.components[live.state.component].kind)
    if live.entries is not None:
        port.send(_dispatch_frame(live, effect, kind, live.entries, more=False))
    else:
        # A long journal is read page by page, as the worker takes it. What is appended from now
        # on comes to it by Deliver, so the end is fixed here.
        end_offset = live.segment.durable_offset
        frames_later = (
            _dispatch_frame(live, effect, kind, page, more=page[-1][2] + 1 < end_offset)
            for page in _pages(live, 0, end_offset)
        )
        port.send_each(_or_stop(tenant, frames_later))


def _or_stop(tenant: Tenancy, pages: Iterator[bytes]) -> Iterator[bytes]:
    """The pages are read when the worker's stream has room for them: what cannot be read then stops
    the tenant, as in `perform_all`, and not the stream, on which all its other runs are."""
    try:
        yield from pages
    except Exception as failure:  # noqa: BLE001 - one tenant's defect stops that tenant
        tenant.failed_unexpectedly(failure, "reading a page of a journal")


def _dispatch_frame(
    live: LiveRun,
    effect: effects.Dispatch,
    kind: int,
    entries: list[JournalEntryBytes],
    *,
    more: bool,
) -> bytes:
    state = live.state
    return frames.build_dispatch(
        state.run_id,
        effect.lease_epoch,
        state.attempt,
        state.component,
        kind,
        entries,
        more,
    )


def _pages(live: LiveRun, first_offset: int, end_offset: int) -> Iterator[list[JournalEntryBytes]]:
    """Records from the disk, as many at a time as a frame may carry."""
    offset = first_offset
    while offset < end_offset:
        page = _entries_between(live, offset, end_offset)
        offset += len(page)
        yield page


def _entries_between(live: LiveRun, first_offset: int, end_offset: int) -> list[JournalEntryBytes]:
    count = min(end_offset - first_offset, limits.dispatch_page_records_max)
    return [
        (int(record.kind), record.payload, record.offset, record.timestamp_us)
        for record in live.segment.read(
            first_offset, records_max=count, bytes_max=limits.dispatch_page_bytes_max
        )
    ]


def _ack(_: Tenancy, effect: AckTo) -> None:
    effect.port.send(frames.build_ack(effect.run_id, effect.lease_epoch, effect.sequence))


def _deliver(tenant: Tenancy, effect: effects.Deliver) -> None:
    live = tenant.live(RunId(effect.run_id))
    if live is None or live.lease is None or live.lease.epoch != effect.lease_epoch:
        return
    end_offset = effect.first_offset + effect.count
    port = live.lease.worker.port
    if live.entries is not None:
        entries = live.entries[effect.first_offset : end_offset]
        port.send(frames.build_deliver(effect.run_id, effect.lease_epoch, entries))
    else:
        frames_later = (
            frames.build_deliver(effect.run_id, effect.lease_epoch, page)
            for page in _pages(live, effect.first_offset, end_offset)
        )
        port.send_each(_or_stop(tenant, frames_later))


def _revoke(_: Tenancy, effect: RevokeTo) -> None:
    reason = RevokeReason(effect.reason)
    effect.port.send(revoke_frame(effect.run_id, effect.lease_epoch, reason, effect.message))


def revoke_frame(run_id: bytes, lease_epoch: int, reason: RevokeReason, message: str) -> bytes:
    return encode_cold(
        Revoke(run_id=run_id, lease_epoch=lease_epoch, reason=reason, message=message)
    )


def _notify(tenant: Tenancy, effect: effects.NotifyWaiter) -> None:
    run = RunId(effect.run_id)
    ending = tenant.ending_of(run) if tenant.waiters.is_waited_for(run) else None
    tenant.forget(run)
    ended = RunEnded(tenant.tenant_id, run, effect.status)
    for subscriber in tenant.subscribers:
        subscriber(ended)
    if ending is not None:
        tenant.waiters.tell(run, ending)


def _call(_: Tenancy, effect: Call) -> None:
    effect.call()


_PERFORMERS: Final[dict[type[object], Callable[[Tenancy, Any], None]]] = {
    effects.Dispatch: _dispatch,
    AckTo: _ack,
    effects.Deliver: _deliver,
    RevokeTo: _revoke,
    effects.NotifyWaiter: _notify,
    Call: _call,
}
