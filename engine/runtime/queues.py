"""Runs that can move and wait for a worker, in the order in which they became able to.

One queue per deployment and component of a tenant. A run that ended in the meantime is passed over
when its turn comes, so that cancelling needs no search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from engine.base.ids import DeploymentId, TenantId
from engine.runtime.live import LiveRun
from engine.runtime.pools import PooledWorker, WorkerPools

Route = tuple[DeploymentId, str]


class RunQueues:
    """`grant` hands a run to a worker and says whether the run took the slot."""

    def __init__(
        self,
        tenant: TenantId,
        pools: WorkerPools,
        grant: Callable[[LiveRun, PooledWorker], bool],
    ) -> None:
        self._tenant = tenant
        self._pools = pools
        self._grant = grant
        self._queues: dict[Route, deque[LiveRun]] = {}

    def add(self, live: LiveRun) -> None:
        """The run takes its place, and goes at once if a worker is free."""
        if live.is_queued:
            return
        live.is_queued = True
        route = _route(live)
        self._queues.setdefault(route, deque()).append(live)
        self.pump(route)

    def pump(self, route: Route) -> int:
        """Hand out as many runs of a route as there are free workers; how many."""
        waiting = self._queues.get(route)
        granted = 0
        while waiting and (worker := self._pools.choose(self._tenant, *route)) is not None:
            live = waiting.popleft()
            live.is_queued = False
            granted += self._grant(live, worker)
        if not waiting:
            self._queues.pop(route, None)
        return granted

    def pump_worker(self, worker: PooledWorker) -> None:
        """The worker has a free slot: whatever it serves may go. The longest queue first, so that
        no component waits behind another one's steady arrivals for ever."""
        routes = [
            route
            for name in worker.components
            if (route := (worker.deployment_id, name)) in self._queues
        ]
        for route in sorted(routes, key=lambda route: -len(self._queues[route])):
            if not worker.may_be_chosen:
                return
            self.pump(route)

    def waiting_before(self, live: LiveRun) -> int:
        """How many runs are ahead of this one."""
        return next(
            (at for at, other in enumerate(self._queues.get(_route(live), ())) if other is live),
            0,
        )

    def depth(self) -> int:
        return sum(len(waiting) for waiting in self._queues.values())


def _route(live: LiveRun) -> Route:
    return DeploymentId(live.state.deployment_id), live.state.component
