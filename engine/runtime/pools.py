"""Which worker may be given a run, and which worker holds which.

The table is keyed by tenant first, then deployment, then component: another tenant's worker cannot
be chosen because it is not in the structure that is searched. The leases here are the only record
of who holds what. A worker's free slots are its capacity less the leases it holds, so no counter
can drift from them.

Plain data, changed by synchronous calls on one thread. Knows no Trio, no clock and no frame; when a
run is dispatched, and what becomes of the leases of a worker that left, is for the caller.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from engine.base import limits
from engine.base.errors import DuplicateComponent, LimitExceeded, UnknownComponent
from engine.base.ids import DeploymentId, RunId, TenantId
from engine.base.nearest import nearest_names
from engine.model.runs import ComponentKind
from engine.model.worker_frames import Component


class WorkerPort(Protocol):
    """The way to one connected worker; the coordinator's side of a session."""

    @property
    def worker_id(self) -> str: ...

    def send(self, frame: bytes) -> None:
        """One encoded EngineFrame. Never blocks; what is ready leaves in one message."""

    def send_each(self, later: Iterator[bytes]) -> None:
        """Frames that are made when there is room for them, in order with what is sent before and
        after: the way for a long journal, of which the worker's buffer must not hold the whole."""

    def close(self, reason: str, *, code: str = ...) -> None:
        """Ends the session after what was sent; the worker is told the code and the reason."""


class Lease(NamedTuple):
    run_id: RunId
    lease_epoch: int


class PooledWorker:
    """One connected worker as the pools see it. Only `WorkerPools` changes it."""

    def __init__(
        self,
        number: int,
        tenant_id: TenantId,
        deployment_id: DeploymentId,
        components: Mapping[str, Component],
        *,
        capacity: int,
        port: WorkerPort,
    ) -> None:
        self.number: Final = number  # of the session: a later session has a higher one
        self.tenant_id: Final = tenant_id
        self.deployment_id: Final = deployment_id
        self.worker_id: Final = port.worker_id
        self.components: Final = components
        self.capacity: Final = capacity
        self.port: Final = port
        self.epochs: Final[dict[RunId, int]] = {}  # of the leases it holds
        self.draining = False  # finishes what it holds and gets nothing more
        self.paused = False  # has not yet read what was sent to it
        self.alone = False  # with a run that may be what its workers died of
        self.present = True
        self.turn = 0  # when it last changed its place among its equals

    @property
    def slots_free(self) -> int:
        return self.capacity - len(self.epochs)

    @property
    def may_be_chosen(self) -> bool:
        is_closed = self.draining or self.paused or self.alone
        return self.present and not is_closed and self.slots_free > 0

    @property
    def leases(self) -> tuple[Lease, ...]:
        return tuple(Lease(run_id, epoch) for run_id, epoch in self.epochs.items())


class Admission(NamedTuple):
    worker: PooledWorker
    fenced: PooledWorker | None  # the session of the same worker id that this one replaces
    orphaned: tuple[Lease, ...]  # what the fenced session held


class ServedComponent(NamedTuple):
    name: str
    kind: ComponentKind
    deployment_id: DeploymentId
    workers: int


class Standing(NamedTuple):
    """How a component is served just now; what an explanation of a queued run is made of."""

    workers: int
    draining: int
    paused: int
    slots: int
    slots_held: int


class _Crew:
    """The workers of a deployment that serve the same set of components.

    They are compared with one another only, so a lease moves one worker in one place however many
    components it serves.
    """

    def __init__(self, components: frozenset[str]) -> None:
        self.components: Final = components
        self.workers: Final[dict[PooledWorker, int | None]] = {}  # where each is in `_by_held`
        self._by_held: Final[dict[int, OrderedDict[PooledWorker, None]]] = {}

    def place(self, worker: PooledWorker) -> None:
        """Puts the worker behind its equals: after joining and after every change of it."""
        self._lift(worker)
        held = len(worker.epochs) if worker.may_be_chosen else None
        self.workers[worker] = held
        if held is not None:
            self._by_held.setdefault(held, OrderedDict())[worker] = None

    def remove(self, worker: PooledWorker) -> None:
        self._lift(worker)
        del self.workers[worker]

    def first(self) -> PooledWorker | None:
        """The worker that holds fewest; of several, the one that waits longest for its turn."""
        if not self._by_held:
            return None
        return next(iter(self._by_held[min(self._by_held)]))

    def _lift(self, worker: PooledWorker) -> None:
        held = self.workers.get(worker)
        if held is not None:
            equals = self._by_held[held]
            del equals[worker]
            if not equals:
                del self._by_held[held]


class _Deployment:
    def __init__(self, deployment_id: DeploymentId) -> None:
        self.deployment_id: Final = deployment_id
        # Remembered after their last worker left, so that a start in the meantime is queued
        # instead of refused. The latest registration is at the end.
        self.known: Final[OrderedDict[str, Component]] = OrderedDict()
        self._names: list[str] | None = None
        self._crews: Final[dict[frozenset[str], _Crew]] = {}
        self._routes: Final[dict[str, list[_Crew]]] = {}

    def workers(self, component: str) -> Iterator[PooledWorker]:
        for crew in self._routes.get(component, ()):
            yield from crew.workers

    @property
    def names(self) -> Sequence[str]:
        """What is known, sorted; made when somebody asks after a registration."""
        if self._names is None:
            self._names = sorted(self.known)
        return self._names

    def is_served(self, component: str) -> bool:
        return component in self._routes

    @property
    def has_workers(self) -> bool:
        return bool(self._crews)

    def choose(self, component: str) -> PooledWorker | None:
        crews = self._routes.get(component, ())
        firsts = [first for crew in crews if (first := crew.first()) is not None]
        if len(firsts) <= 1:
            return firsts[0] if firsts else None
        return min(firsts, key=lambda worker: (len(worker.epochs), worker.turn))

    def crew_of(self, worker: PooledWorker) -> _Crew:
        return self._crews[frozenset(worker.components)]

    def join(self, worker: PooledWorker) -> None:
        key = frozenset(worker.components)
        crew = self._crews.get(key)
        if crew is None:
            crew = self._crews[key] = _Crew(key)
            for name in key:
                self._routes.setdefault(name, []).append(crew)
        crew.place(worker)
        self._remember(worker.components)

    def leave(self, worker: PooledWorker) -> None:
        crew = self.crew_of(worker)
        crew.remove(worker)
        if crew.workers:
            return
        del self._crews[crew.components]
        for name in crew.components:
            self._routes[name].remove(crew)
            if not self._routes[name]:
                del self._routes[name]

    def _remember(self, components: Mapping[str, Component]) -> None:
        self._names = None
        for name, component in components.items():
            self.known[name] = component
            self.known.move_to_end(name)
        surplus = len(self.known) - limits.components_known_max
        for name in [name for name in self.known if not self.is_served(name)][: max(surplus, 0)]:
            del self.known[name]


class _Tenant:
    def __init__(self) -> None:
        self.deployments: Final[OrderedDict[DeploymentId, _Deployment]] = OrderedDict()
        self.workers: Final[dict[str, PooledWorker]] = {}  # by worker id
        self.holders: Final[dict[RunId, PooledWorker]] = {}

    def deployment(self, deployment_id: DeploymentId) -> _Deployment:
        """The deployment, made if need be; the oldest that nobody serves makes room for it."""
        found = self.deployments.get(deployment_id)
        if found is None:
            found = self.deployments[deployment_id] = _Deployment(deployment_id)
            surplus = len(self.deployments) - limits.deployments_known_max
            deserted = [known for known in self.deployments.values() if not known.has_workers]
            for known in deserted[: max(surplus, 0)]:
                if known is not found:
                    del self.deployments[known.deployment_id]
        return found


class WorkerPools:
    def __init__(self) -> None:
        self._tenants: Final[dict[TenantId, _Tenant]] = {}
        self._numbers = itertools.count(1)
        self._turns = itertools.count(1)

    # Joining and leaving.

    def register(
        self,
        tenant_id: TenantId,
        deployment_id: DeploymentId,
        components: Iterable[Component],
        *,
        capacity: int,
        port: WorkerPort,
    ) -> Admission:
        """Adds a worker. A session of the same worker id is fenced: it is out before this one is
        in. Refused registrations change nothing."""
        assert 0 < capacity <= limits.worker_capacity_max
        by_name = _by_name(components)
        tenant = self._tenants.get(tenant_id, _Tenant())
        fenced = tenant.workers.get(port.worker_id)
        if fenced is None and len(tenant.workers) >= limits.workers_per_tenant_max:
            raise LimitExceeded(
                f"{limits.workers_per_tenant_max} workers of this tenant are connected, which is "
                "the most: give the workers more capacity instead of starting more of them",
                limit="workers_per_tenant_max",
            )
        if (known := tenant.deployments.get(deployment_id)) is not None:
            _check_kinds_agree(known, by_name, fenced)
        orphaned = self.leave(fenced) if fenced is not None else ()
        self._tenants[tenant_id] = tenant
        worker = PooledWorker(
            next(self._numbers), tenant_id, deployment_id, by_name, capacity=capacity, port=port
        )
        worker.turn = next(self._turns)
        tenant.workers[worker.worker_id] = worker
        tenant.deployment(deployment_id).join(worker)
        return Admission(worker, fenced, orphaned)

    def leave(self, worker: PooledWorker) -> tuple[Lease, ...]:
        """Takes the worker out; the leases it held, none of which is held by it any more."""
        if not worker.present:
            return ()
        tenant = self._tenants[worker.tenant_id]
        tenant.deployments[worker.deployment_id].leave(worker)
        worker.present = False
        del tenant.workers[worker.worker_id]
        orphaned = worker.leases
        for run_id in worker.epochs:
            del tenant.holders[run_id]
        worker.epochs.clear()
        return orphaned

    def drain(self, worker: PooledWorker) -> None:
        """It keeps what it holds and is not chosen again."""
        worker.draining = True
        self._moved(worker)

    def pause(self, worker: PooledWorker) -> None:
        """It is not chosen until `resume`: what was sent to it has not been read yet."""
        worker.paused = True
        self._moved(worker)

    def resume(self, worker: PooledWorker) -> None:
        worker.paused = False
        self._moved(worker)

    # Leases.

    def choose(
        self, tenant_id: TenantId, deployment_id: DeploymentId, component: str
    ) -> PooledWorker | None:
        """A worker with a free slot: the one that holds fewest leases, in turn among equals."""
        tenant = self._tenants.get(tenant_id)
        deployment = tenant.deployments.get(deployment_id) if tenant is not None else None
        return deployment.choose(component) if deployment is not None else None

    def hold(
        self, worker: PooledWorker, run_id: RunId, lease_epoch: int, *, alone: bool = False
    ) -> None:
        """The worker takes one of its slots for the run; `alone`: and is given nothing else until
        `mingle` or the end of this lease. An older lease of the run ends here, so
        that a run has one holder whatever the caller forgot."""
        assert worker.present
        assert worker.slots_free > 0
        tenant = self._tenants[worker.tenant_id]
        older = tenant.holders.get(run_id)
        if older is not None:
            assert older.epochs[run_id] < lease_epoch, "an epoch is granted once, in rising order"
            self._end(tenant, older, run_id)
        assert not alone or not worker.epochs
        worker.alone = alone
        worker.epochs[run_id] = lease_epoch
        tenant.holders[run_id] = worker
        self._moved(worker)

    def mingle(self, worker: PooledWorker) -> None:
        """What it was alone with got somewhere: it may have other runs too."""
        worker.alone = False
        self._moved(worker)

    def release(self, tenant_id: TenantId, run_id: RunId, lease_epoch: int) -> PooledWorker | None:
        """Ends the lease of that epoch; the worker whose slot is free now, or None if the lease
        had ended already."""
        tenant = self._tenants.get(tenant_id)
        worker = tenant.holders.get(run_id) if tenant is not None else None
        if tenant is None or worker is None or worker.epochs[run_id] != lease_epoch:
            return None
        self._end(tenant, worker, run_id)
        return worker

    def holder(self, tenant_id: TenantId, run_id: RunId) -> PooledWorker | None:
        tenant = self._tenants.get(tenant_id)
        return tenant.holders.get(run_id) if tenant is not None else None

    # Looking.

    def workers(self, tenant_id: TenantId) -> tuple[PooledWorker, ...]:
        tenant = self._tenants.get(tenant_id)
        return tuple(tenant.workers.values()) if tenant is not None else ()

    def components(self, tenant_id: TenantId) -> list[ServedComponent]:
        """What the tenant's workers serve or served, by deployment and name."""
        tenant = self._tenants.get(tenant_id)
        deployments = tenant.deployments.values() if tenant is not None else ()
        return sorted(
            ServedComponent(
                component.name,
                ComponentKind(component.kind),
                deployment.deployment_id,
                sum(1 for _ in deployment.workers(component.name)),
            )
            for deployment in deployments
            for component in deployment.known.values()
        )

    def component(
        self,
        tenant_id: TenantId,
        deployment_id: DeploymentId,
        name: str,
        *,
        names_nearest: bool = True,
    ) -> Component:
        """As it was registered last. A name that no worker has registered is refused, with the
        names that come close, unless that has been said often enough: looking for them is slow."""
        found = self.known(tenant_id, deployment_id, name)
        if found is None:
            tenant = self._tenants.get(tenant_id)
            raise _unknown_component(tenant, deployment_id, name, names_nearest=names_nearest)
        return found

    def known(
        self, tenant_id: TenantId, deployment_id: DeploymentId, name: str
    ) -> Component | None:
        """As it was registered last, if it was."""
        tenant = self._tenants.get(tenant_id)
        deployment = tenant.deployments.get(deployment_id) if tenant is not None else None
        return deployment.known.get(name) if deployment is not None else None

    def standing(
        self, tenant_id: TenantId, deployment_id: DeploymentId, component: str
    ) -> Standing:
        tenant = self._tenants.get(tenant_id)
        deployment = tenant.deployments.get(deployment_id) if tenant is not None else None
        workers = list(deployment.workers(component)) if deployment is not None else []
        return Standing(
            workers=len(workers),
            draining=sum(worker.draining for worker in workers),
            paused=sum(worker.paused for worker in workers),
            slots=sum(worker.capacity for worker in workers),
            slots_held=sum(len(worker.epochs) for worker in workers),
        )

    def _end(self, tenant: _Tenant, worker: PooledWorker, run_id: RunId) -> None:
        del worker.epochs[run_id]
        del tenant.holders[run_id]
        worker.alone = False
        self._moved(worker)

    def _moved(self, worker: PooledWorker) -> None:
        if worker.present:
            worker.turn = next(self._turns)
            deployment = self._tenants[worker.tenant_id].deployments[worker.deployment_id]
            deployment.crew_of(worker).place(worker)


def _by_name(components: Iterable[Component]) -> dict[str, Component]:
    by_name: dict[str, Component] = {}
    for component in components:
        twin = by_name.setdefault(component.name, component)
        if twin is not component:
            raise DuplicateComponent(
                f"the worker registers two components named {component.name!r} (a "
                f"{_kind_name(twin)} and a {_kind_name(component)}): rename one of them",
                component=component.name,
            )
    return by_name


def _check_kinds_agree(
    deployment: _Deployment, by_name: Mapping[str, Component], fenced: PooledWorker | None
) -> None:
    """The workers that are there agree with each other, so one of them speaks for all."""
    for name, component in by_name.items():
        others = (worker for worker in deployment.workers(name) if worker is not fenced)
        other = next(others, None)
        if other is None or other.components[name].kind == component.kind:
            continue
        raise DuplicateComponent(
            f"{name!r} is a {_kind_name(component)} here and a "
            f"{_kind_name(other.components[name])} in worker {other.worker_id!r}, which serves "
            f"deployment {deployment.deployment_id!r} too: rename one of them, or give this "
            "worker another deployment",
            component=name,
            worker_id=other.worker_id,
        )


def _unknown_component(
    tenant: _Tenant | None, deployment_id: DeploymentId, name: str, *, names_nearest: bool
) -> UnknownComponent:
    deployments = tenant.deployments if tenant is not None else {}
    here = deployments.get(deployment_id)
    names = here.names if here is not None else ()
    near = nearest_names(name, names) if names_nearest else []
    elsewhere = (known.deployment_id for known in deployments.values() if name in known.known)
    deployment = next(elsewhere, None) if names_nearest and not near else None
    if near:
        advice = f"did you mean {' or '.join(near)}?"
    elif deployment is not None:
        advice = f"it is served in deployment {deployment!r}: name that one with the start"
    elif names:
        shown, more = names[: limits.names_shown_max], len(names) - limits.names_shown_max
        advice = f"it has {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")
    else:
        advice = "no worker has registered there yet: start one with `engine worker MODULE`"
    return UnknownComponent(
        f"no worker serves a component {name!r} in deployment {deployment_id!r}; {advice}",
        component=name,
        deployment_id=deployment_id,
        nearest=near,
    )


def _kind_name(component: Component) -> str:
    return ComponentKind(component.kind).name.lower()
