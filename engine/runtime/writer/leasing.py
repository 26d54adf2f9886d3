"""Who holds a run: handing one out, and taking back what a worker held that is gone. What follows
is owed to the books, so that a worker of ten thousand runs holds up nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.base.errors import EngineError, JournalBusy
from engine.base.ids import RunId
from engine.model import effects
from engine.model.commands import BeginExecution
from engine.model.worker_frames import RevokeReason
from engine.runtime.pools import Lease as HeldLease
from engine.runtime.pools import PooledWorker
from engine.runtime.writer.bookkeeping import Books, LeftBehind, Lost
from engine.runtime.writer.live import Lease, LiveRun
from engine.runtime.writer.performing import revoke_frame
from engine.runtime.writer.tenancy import Tenancy


class Accounted(Tenancy, Protocol):
    books: Books


class Leasing:
    def __init__(self, tenant: Accounted, lease_ms: int) -> None:
        self._tenant = tenant
        self._lease_ms = lease_ms

    def grant(self, live: LiveRun, worker: PooledWorker) -> bool:
        """Hand a queued run to a worker; False if it cannot move any more."""
        tenant = self._tenant
        if live.state.is_terminal or live.lease is not None:
            return False
        # The slot is taken first: what is owed from before may hand out runs as well.
        lease = live.lease = Lease(live.state.lease_epoch + 1, worker)
        tenant.pools.hold(worker, live.run_id, lease.epoch, alone=live.state.is_suspect)
        until_ms = tenant.clock.now_ms() + self._lease_ms
        begin = BeginExecution(worker_id=worker.worker_id, lease_until_ms=until_ms)
        try:
            tenant.carry_out(live, begin)
        finally:
            # Refused, or it had taken down every worker so far and is not given another.
            if live.state.lease_epoch != lease.epoch:
                live.lease = None
                tenant.pools.release(tenant.tenant_id, live.run_id, lease.epoch)
        return live.lease is lease

    def comes_again(self, live: LiveRun, error: EngineError) -> bool:
        """Whether a run that could not be granted keeps its place in the queue."""
        if isinstance(error, JournalBusy):
            self._tenant.books.settle_later()
            return True
        self._tenant.books.report(effects.Enqueue(live.run_id), error)
        return False

    def take_back(self, leases: Sequence[HeldLease], reason: str) -> None:
        self._owe([Lost(held.run_id, held.lease_epoch, reason) for held in leases])

    def hand_on(self, leases: Sequence[HeldLease]) -> None:
        self._owe([LeftBehind(held.run_id, held.lease_epoch) for held in leases])

    def _owe(self, owed: Sequence[Lost | LeftBehind]) -> None:
        self._tenant.books.owe(owed)
        self._tenant.books.settle()

    def let_go(self, run: RunId, lease_epoch: int, reason: str) -> None:
        """Nobody holds the run any more, and who did is told."""
        worker = self._tenant.pools.release(self._tenant.tenant_id, run, lease_epoch)
        if worker is not None:
            worker.port.send(revoke_frame(run, lease_epoch, RevokeReason.EXPIRED, reason))

    def let_go_of_all(self, reason: str) -> None:
        for worker in self._tenant.pools.workers(self._tenant.tenant_id):
            for lease in worker.leases:
                self.let_go(lease.run_id, lease.lease_epoch, reason)
