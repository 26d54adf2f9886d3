"""A connected worker as the runtime sees it: what it reports, and what becomes of what it held.

The door (coordinator) translates frames into calls of `WorkerSession`; all of them are synchronous.
A report of an earlier lease changes nothing and is told so. A report twice is taken once. Where one
is missing, since the stream lost it or there was no room for it for too long, the run is taken back
and goes to a worker anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec

from engine.base import limits
from engine.base.errors import (
    EngineError,
    InvalidInput,
    LimitExceeded,
    MalformedRecord,
    NoStateScope,
    StaleFence,
    UnknownRun,
)
from engine.base.ids import RunId
from engine.core.apply import UNREAD_KINDS
from engine.core.transitions import IllegalTransition
from engine.model.commands import Report, ReportedEntry
from engine.model.payloads import Error, RunFailed
from engine.model.records import RecordKind
from engine.model.views import RunEvent
from engine.model.worker_frames import Refused, RevokeReason
from engine.runtime.pools import Lease, PooledWorker
from engine.runtime.writer.live import LiveRun
from engine.runtime.writer.performing import AckTo, revoke_frame
from engine.wire.journal import decode, encode
from engine.wire.rules import check_emit, check_record, check_report, checked_run_id
from engine.wire.worker import encode as encode_cold

if TYPE_CHECKING:
    from engine.runtime.writer.tenant import TenantRuntime

_KINDS: Final = {int(kind): kind for kind in RecordKind}
# Kinds that the rules look into; the rest goes into the journal unread.
_READ_KINDS: Final = frozenset(RecordKind) - UNREAD_KINDS | {RecordKind.RUN_COMPLETED}


_Arguments = ParamSpec("_Arguments")


def contained(
    method: Callable[Concatenate[WorkerSession, _Arguments], None],
) -> Callable[Concatenate[WorkerSession, _Arguments], None]:
    """What a worker's frame brings about that nobody foresaw stops the worker's tenant, which goes
    on from its disk; the other tenants notice nothing."""

    @functools.wraps(method)
    def call(session: WorkerSession, /, *args: _Arguments.args, **named: _Arguments.kwargs) -> None:
        try:
            method(session, *args, **named)
        except EngineError:
            raise
        except Exception as failure:
            raise session.failed(failure, method.__name__) from failure

    return call


class WorkerSession:
    def __init__(self, tenant: TenantRuntime, worker: PooledWorker) -> None:
        self._tenant = tenant
        self.worker = worker
        # The last reports of leases that ended with them, the newest last: epoch, sequence.
        self._last: dict[RunId, tuple[int, int]] = {}

    @property
    def number(self) -> int:
        return self.worker.number

    @contained
    def report(
        self,
        run_id: bytes,
        lease_epoch: int,
        sequence: int,
        entries: Sequence[tuple[int, bytes]],
    ) -> None:
        """One transition of a run that this worker holds."""
        run = checked_run_id(run_id)
        try:
            live = self._held(run, lease_epoch)
            lease = live.lease
            assert lease is not None
            acknowledge = AckTo(run, lease_epoch, sequence, self.worker.port)
            if sequence <= lease.sequence:
                self._tenant.release_after_pending(live, [acknowledge])  # a duplicate
                return
            if sequence != lease.sequence + 1:
                self._take_back(run, lease_epoch, f"report {lease.sequence + 1} is missing")
                return
            check_report(entries)
            reported = tuple(_reported(kind, raw) for kind, raw in entries)
            command = Report(
                lease_epoch=lease_epoch,
                entries=reported,
                resolved_meanwhile=lease.resolved,
                shared=self._tenant.shared_state.asked_for(live.state, reported),
            )
            self._tenant.check_room()
            self._tenant.carry_out(live, command, [acknowledge])
            lease.sequence = sequence
            if live.lease is not lease:
                self._keep_last(run, lease_epoch, sequence)
        except (StaleFence, UnknownRun) as error:
            if not self._acknowledge_again(run, lease_epoch, sequence):
                self._revoke(run, lease_epoch, RevokeReason.FENCED, error.message)
        except (
            MalformedRecord,
            LimitExceeded,
            IllegalTransition,
            InvalidInput,
            NoStateScope,
        ) as error:
            self._refuse(run, lease_epoch, sequence, error)

    @contained
    def emit(self, run_id: bytes, lease_epoch: int, event: str, data: bytes) -> None:
        """Something for who listens now; from a worker that lost the run it is noise."""
        run = checked_run_id(run_id)
        check_emit(event, data)
        live = self._tenant.live(run)
        if live is not None and live.lease is not None and live.lease.epoch == lease_epoch:
            self._tenant.waiters.emit(run, RunEvent(None, event, data))

    def heartbeat(self) -> None:
        """The stream's liveness is the coordinator's; nothing is kept per run."""

    @contained
    def pause(self) -> None:
        self._tenant.pools.pause(self.worker)

    @contained
    def resume(self) -> None:
        self._tenant.pools.resume(self.worker)
        self._tenant.queues.pump_worker(self.worker)

    @contained
    def drain(self) -> None:
        """It finishes what it holds and gets nothing more."""
        self._tenant.pools.drain(self.worker)

    @contained
    def disconnect(self, reason: str = "the worker went away") -> None:
        """The stream has ended: what it held goes back into the queue. Twice is harmless."""
        leases = self._tenant.pools.leave(self.worker)
        if self.worker.draining:
            self._tenant.hand_on(leases)
        else:
            self._tenant.take_back(leases, reason)

    def failed(self, failure: Exception, doing: str) -> EngineError:
        where = f"the {doing} of worker {self.worker.worker_id}"
        return self._tenant.failed_unexpectedly(failure, where)

    def _held(self, run: RunId, lease_epoch: int) -> LiveRun:
        live = self._tenant.find(run)
        lease = live.lease
        if lease is None or lease.epoch != lease_epoch or lease.worker is not self.worker:
            raise StaleFence(
                f"lease epoch {lease_epoch} of run {run.hex()} is not this worker's any more; "
                "nothing was changed",
                lease_epoch=lease_epoch,
                current_epoch=live.state.lease_epoch,
            )
        return live

    def _keep_last(self, run: RunId, lease_epoch: int, sequence: int) -> None:
        self._last.pop(run, None)
        self._last[run] = lease_epoch, sequence
        if len(self._last) > limits.last_reports_kept_max:
            del self._last[next(iter(self._last))]

    def _acknowledge_again(self, run: RunId, lease_epoch: int, sequence: int) -> bool:
        """A report that was written, of a lease that it or a later one ended, has come again."""
        epoch, last = self._last.get(run, (0, 0))
        if epoch != lease_epoch or sequence > last:
            return False
        acknowledge = AckTo(run, lease_epoch, sequence, self.worker.port)
        self._tenant.release_after_pending(self._tenant.look(run), [acknowledge])
        return True

    def _refuse(self, run: RunId, lease_epoch: int, sequence: int, error: EngineError) -> None:
        """The report cannot be taken. The worker is told why, and the run fails: another worker
        would report the same."""
        refused = Refused(
            code=error.code, message=error.message, run_id=run, sequence=sequence, fatal=False
        )
        self.worker.port.send(encode_cold(refused))
        failed = RunFailed(
            error=Error(code=error.code, message=error.message, non_retryable=True),
            lease_epoch=lease_epoch,
        )
        entry = ReportedEntry(RecordKind.RUN_FAILED, encode(failed), failed)
        self._tenant.carry_out(
            self._tenant.find(run), Report(lease_epoch=lease_epoch, entries=(entry,))
        )
        self._revoke(run, lease_epoch, RevokeReason.EXPIRED, error.message)

    def _take_back(self, run: RunId, lease_epoch: int, reason: str) -> None:
        """The fault is the stream's: it is not another attempt of the run."""
        self._tenant.take_back([Lease(run, lease_epoch)], reason)
        self._revoke(run, lease_epoch, RevokeReason.EXPIRED, reason)

    def _revoke(self, run: RunId, lease_epoch: int, reason: RevokeReason, message: str) -> None:
        self.worker.port.send(revoke_frame(run, lease_epoch, reason, message))


def _reported(kind: int, raw: bytes) -> ReportedEntry:
    known = _KINDS.get(kind)
    if known is None:
        raise MalformedRecord(
            f"{kind} is not a kind of record that this engine knows; the worker's SDK is newer",
            kind=kind,
        )
    check_record(known, raw)
    return ReportedEntry(known, raw, decode(known, raw) if known in _READ_KINDS else None)
