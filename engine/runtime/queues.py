"""Runs that can move and wait for a worker, in the order in which they became able to.

One queue per deployment and component of a tenant. A run that ended in the meantime is passed over
when its turn comes, so that cancelling needs no search. A run of an entity stands in the entity's
line first and comes into the queue when it has the turn, so that it holds up nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from engine.base import limits
from engine.base.errors import EngineError
from engine.base.ids import DeploymentId, TenantId
from engine.runtime.pools import PooledWorker, WorkerPools
from engine.runtime.writer.entities import Entities
from engine.runtime.writer.live import LiveRun

Route = tuple[DeploymentId, str]
_Queues = dict[Route, deque[LiveRun]]


class RunQueues:
    """`grant` hands a run to a worker and says whether the run took the slot. When it cannot,
    `comes_again` says whether the run keeps its place; who says so pumps again later. A call hands
    out a bounded number of runs, and when more could go, `go_on` sees to a `pump_all` soon."""

    def __init__(
        self,
        tenant: TenantId,
        pools: WorkerPools,
        grant: Callable[[LiveRun, PooledWorker], bool],
        comes_again: Callable[[LiveRun, EngineError], bool],
        go_on: Callable[[], object],
    ) -> None:
        self._tenant = tenant
        self._pools = pools
        self._grant = grant
        self._comes_again = comes_again
        self._go_on = go_on
        self.granted_total = 0
        self.entities = Entities()
        # No queue is empty: what has been taken from the end of one takes it out of these.
        self._queues: _Queues = {}
        self._suspects: _Queues = {}

    def add(self, live: LiveRun) -> None:
        """The run takes its place, and goes at once if a worker is free."""
        if live.is_queued:
            return
        live.is_queued = True
        if self.entities.admit(live):
            self._enter(live)

    def ended(self, live: LiveRun) -> None:
        """The run has ended: the next one of its entity comes into the queue."""
        following = self.entities.ended(live)
        if following is not None:
            self._enter(following)

    def _enter(self, live: LiveRun) -> None:
        route = _route(live)
        self._queues.setdefault(route, deque()).append(live)
        self.pump(route)

    def pump(self, route: Route, tries: int = limits.grants_per_look_max) -> int:
        """Hand out runs of a route while there are free workers, with so many tries; how many of
        them are left."""
        # Looked up anew each time round: a grant may lead to another pump of the same route.
        while route in self._queues or route in self._suspects:
            worker = self._pools.choose(self._tenant, *route)
            if worker is None:
                break
            if not tries:
                self._go_on()
                break
            tries -= 1
            live = self._take(route, worker)
            if live is None:
                break
            live.is_queued = False
            self.granted_total += 1
            try:
                self._grant(live, worker)
            except EngineError as error:
                if self._comes_again(live, error):
                    live.is_queued = True
                    self._queues.setdefault(route, deque()).appendleft(live)
                    break
        return tries

    def _take(self, route: Route, worker: PooledWorker) -> LiveRun | None:
        """The next run for this worker. One that may be what its workers died of goes only to a
        worker that holds nothing, and is passed over until there is one."""
        is_idle = not worker.epochs
        if is_idle and route in self._suspects:
            return _first(self._suspects, route)
        while route in self._queues:
            live = _first(self._queues, route)
            if is_idle or not _is_suspect(live):
                return live
            self._suspects.setdefault(route, deque()).append(live)
        return None

    def pump_all(self) -> None:
        tries = limits.grants_per_look_max
        for route in [*self._queues, *self._suspects]:
            tries = self.pump(route, tries)

    def pump_worker(self, worker: PooledWorker) -> None:
        """The worker has a free slot: whatever it serves may go. The longest queue first, so that
        no component waits behind another one's steady arrivals for ever."""
        routes = [
            route
            for name in worker.components
            if (route := (worker.deployment_id, name)) in self._queues or route in self._suspects
        ]
        tries = limits.grants_per_look_max
        for route in sorted(routes, key=lambda route: -len(self._queues.get(route, ()))):
            if not worker.may_be_chosen:
                return
            tries = self.pump(route, tries)

    def waiting_before(self, live: LiveRun) -> int:
        """How many runs are ahead of this one."""
        return next(
            (at for at, other in enumerate(self._queues.get(_route(live), ())) if other is live),
            0,
        )

    @property
    def are_long(self) -> bool:
        """More runs wait than are kept in memory."""
        return sum(map(len, self._queues.values())) > limits.queued_in_memory_max

    def depth(self) -> int:
        queued = (*self._queues.values(), *self._suspects.values())
        return sum(map(len, queued)) + self.entities.waiting_count()

    def clear(self) -> None:
        self._queues.clear()
        self._suspects.clear()
        self.entities.clear()


def _first(queues: _Queues, route: Route) -> LiveRun:
    waiting = queues[route]
    live = waiting.popleft()
    if not waiting:
        del queues[route]
    return live


def _is_suspect(live: LiveRun) -> bool:
    """A run that rests on the disk is read for this; where it cannot be, granting it says so."""
    try:
        return live.state.is_suspect
    except EngineError:
        return False


def _route(live: LiveRun) -> Route:
    return DeploymentId(live.state.deployment_id), live.state.component
