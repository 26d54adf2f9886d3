"""Random histories of joining, leaving, granting and ending leases, held against a plain list.

The model searches all workers of a tenant for every choice, which is the rule in one expression;
the pools must choose the same worker without the search.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.base.ids import DeploymentId, RunId, TenantId
from engine.model.runs import ComponentKind
from engine.model.worker_frames import Component
from engine.runtime.pools import PooledWorker, WorkerPools
from tests.coordinator.test_pools import Port

TENANTS = st.sampled_from([TenantId("acme"), TenantId("rival")])
DEPLOYMENTS = st.sampled_from([DeploymentId("blue"), DeploymentId("green")])
NAMES = st.sampled_from(["order", "refund", "ship"])
WORKER_IDS = st.sampled_from(["w1", "w2", "w3", "w4"])
RUNS = st.integers(0, 5).map(lambda number: RunId(number.to_bytes(16, "big")))


class PoolsMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.pools = WorkerPools()
        self.workers: list[PooledWorker] = []
        self.leases: dict[tuple[TenantId, RunId], tuple[PooledWorker, int]] = {}
        self.epoch = 0

    @rule(
        tenant=TENANTS,
        deployment=DEPLOYMENTS,
        worker_id=WORKER_IDS,
        names=st.sets(NAMES, min_size=1),
        capacity=st.integers(1, 3),
    )
    def join(
        self,
        tenant: TenantId,
        deployment: DeploymentId,
        worker_id: str,
        names: set[str],
        capacity: int,
    ) -> None:
        same = [w for w in self.workers if (w.tenant_id, w.worker_id) == (tenant, worker_id)]
        served = [Component(name=name, kind=ComponentKind.FUNCTION) for name in sorted(names)]
        admission = self.pools.register(
            tenant, deployment, served, capacity=capacity, port=Port(worker_id)
        )
        assert [admission.fenced] == (same or [None])
        if admission.fenced is not None:
            self._forget(admission.fenced)
        self.workers.append(admission.worker)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), what=st.sampled_from(["leave", "drain", "pause", "resume"]))
    def change(self, data: st.DataObject, what: str) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        held = {lease.run_id for lease in worker.leases}
        result = getattr(self.pools, what)(worker)
        if what == "leave":
            assert {lease.run_id for lease in result} == held
            self._forget(worker)

    @rule(tenant=TENANTS, deployment=DEPLOYMENTS, name=NAMES, run=RUNS)
    def grant(self, tenant: TenantId, deployment: DeploymentId, name: str, run: RunId) -> None:
        able = [
            worker
            for worker in self.workers
            if (worker.tenant_id, worker.deployment_id) == (tenant, deployment)
            if name in worker.components and worker.may_be_chosen
        ]
        expected = min(able, key=lambda w: (len(self._held_by(w)), w.turn), default=None)
        chosen = self.pools.choose(tenant, deployment, name)
        assert chosen is expected
        if chosen is not None:
            self.epoch += 1
            self.pools.hold(chosen, run, self.epoch)
            self.leases[tenant, run] = chosen, self.epoch

    @rule(tenant=TENANTS, run=RUNS, late=st.booleans())
    def end(self, tenant: TenantId, run: RunId, late: bool) -> None:
        worker, epoch = self.leases.get((tenant, run), (None, 0))
        ended = self.pools.release(tenant, run, epoch - late)
        if worker is None or late:
            assert ended is None
        else:
            assert ended is worker
            del self.leases[tenant, run]

    def _forget(self, worker: PooledWorker) -> None:
        self.workers.remove(worker)
        self.leases = {key: held for key, held in self.leases.items() if held[0] is not worker}

    def _held_by(self, worker: PooledWorker) -> dict[RunId, int]:
        return {run: epoch for (_, run), (who, epoch) in self.leases.items() if who is worker}

    @invariant()
    def slots_equal_live_leases(self) -> None:
        for worker in self.workers:
            held = self._held_by(worker)
            assert dict(worker.leases) == held
            assert worker.slots_free == worker.capacity - len(held) >= 0

    @invariant()
    def each_run_has_the_holder_that_holds_it(self) -> None:
        for (tenant, run), (worker, _) in self.leases.items():
            assert self.pools.holder(tenant, run) is worker
            assert worker.tenant_id == tenant

    @invariant()
    def tenants_see_their_own_workers(self) -> None:
        for tenant in (TenantId("acme"), TenantId("rival")):
            assert set(self.pools.workers(tenant)) == {
                worker for worker in self.workers if worker.tenant_id == tenant
            }


PoolsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestPools = PoolsMachine.TestCase
