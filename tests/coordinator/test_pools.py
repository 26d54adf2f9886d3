"""Routing of runs to workers: who is chosen, who holds what, and that tenants never meet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.base import limits
from engine.base.errors import DuplicateComponent, LimitExceeded, UnknownComponent
from engine.base.ids import DeploymentId, RunId, TenantId
from engine.model.runs import ComponentKind
from engine.model.worker_frames import Component
from engine.runtime.pools import Admission, Lease, PooledWorker, ServedComponent, WorkerPools

ACME = TenantId("acme")
RIVAL = TenantId("rival")
BLUE = DeploymentId("blue")
GREEN = DeploymentId("green")


class Port:
    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id

    def send(self, frame: bytes) -> None:
        raise AssertionError("the pools send nothing")

    def send_each(self, later: Iterator[bytes]) -> None:
        raise AssertionError("the pools send nothing")

    def close(self, reason: str, *, code: str = "") -> None:
        raise AssertionError("the pools close nothing")


def component(name: str, kind: ComponentKind = ComponentKind.WORKFLOW) -> Component:
    return Component(name=name, kind=kind)


def join(
    pools: WorkerPools,
    worker_id: str,
    *names: str,
    tenant: TenantId = ACME,
    deployment: DeploymentId = BLUE,
    capacity: int = 2,
) -> Admission:
    served = [component(name) for name in names or ("order",)]
    return pools.register(tenant, deployment, served, capacity=capacity, port=Port(worker_id))


def run(number: int) -> RunId:
    return RunId(number.to_bytes(16, "big"))


def grant(pools: WorkerPools, number: int, name: str = "order", epoch: int = 1) -> PooledWorker:
    worker = pools.choose(ACME, BLUE, name)
    assert worker is not None
    pools.hold(worker, run(number), epoch)
    return worker


@pytest.fixture
def pools() -> WorkerPools:
    return WorkerPools()


def test_nobody_is_chosen_where_nobody_is(pools: WorkerPools) -> None:
    assert pools.choose(ACME, BLUE, "order") is None
    join(pools, "w1", "order")
    assert pools.choose(ACME, BLUE, "other") is None
    assert pools.choose(ACME, GREEN, "order") is None
    assert pools.choose(RIVAL, BLUE, "order") is None


def test_the_worker_that_holds_fewest_is_chosen(pools: WorkerPools) -> None:
    join(pools, "big", capacity=10)
    join(pools, "small", capacity=1)
    chosen = [grant(pools, number).worker_id for number in range(5)]
    assert chosen == ["big", "small", "big", "big", "big"]


def test_equals_take_turns(pools: WorkerPools) -> None:
    for worker_id in ("a", "b", "c"):
        join(pools, worker_id, capacity=100)
    seen = []
    for number in range(9):
        worker = grant(pools, number)
        seen.append(worker.worker_id)
        pools.release(ACME, run(number), 1)
    assert seen == ["a", "b", "c"] * 3


def test_equals_take_turns_across_different_sets_of_components(pools: WorkerPools) -> None:
    join(pools, "a", "order", "refund", capacity=100)
    join(pools, "b", "order", capacity=100)
    join(pools, "c", "order", "ship", capacity=100)
    assert [grant(pools, number).worker_id for number in range(6)] == ["a", "b", "c"] * 2
    assert grant(pools, 9, "ship").worker_id == "c"
    assert grant(pools, 10).worker_id == "a"


def test_a_lease_takes_a_slot_of_every_component(pools: WorkerPools) -> None:
    worker = join(pools, "a", "order", "refund", capacity=2).worker
    grant(pools, 1, "order")
    grant(pools, 2, "refund")
    assert worker.slots_free == 0
    assert pools.choose(ACME, BLUE, "order") is None
    assert pools.release(ACME, run(1), 1) is worker
    assert pools.choose(ACME, BLUE, "refund") is worker


def test_a_lease_ends_once_and_only_for_its_epoch(pools: WorkerPools) -> None:
    worker = join(pools, "a").worker
    grant(pools, 1, epoch=4)
    assert pools.release(ACME, run(1), 3) is None
    assert pools.release(RIVAL, run(1), 4) is None
    assert pools.holder(ACME, run(1)) is worker
    assert pools.release(ACME, run(1), 4) is worker
    assert pools.release(ACME, run(1), 4) is None
    assert worker.slots_free == worker.capacity


def test_a_later_epoch_moves_the_run(pools: WorkerPools) -> None:
    first = join(pools, "a").worker
    grant(pools, 1, epoch=1)
    second = join(pools, "b").worker
    pools.hold(second, run(1), 2)
    assert first.leases == ()
    assert second.leases == (Lease(run(1), 2),)
    assert pools.holder(ACME, run(1)) is second
    with pytest.raises(AssertionError, match="granted once"):
        pools.hold(first, run(1), 2)


def test_a_full_worker_holds_nothing_more(pools: WorkerPools) -> None:
    worker = join(pools, "a", capacity=1).worker
    pools.hold(worker, run(1), 1)
    with pytest.raises(AssertionError):
        pools.hold(worker, run(2), 1)


def test_who_leaves_gives_everything_back(pools: WorkerPools) -> None:
    worker = join(pools, "a").worker
    grant(pools, 1, epoch=7)
    grant(pools, 2, epoch=8)
    assert pools.leave(worker) == (Lease(run(1), 7), Lease(run(2), 8))
    assert pools.leave(worker) == ()
    assert pools.holder(ACME, run(1)) is None
    assert pools.choose(ACME, BLUE, "order") is None
    assert pools.workers(ACME) == ()
    assert pools.release(ACME, run(1), 7) is None


def test_the_same_worker_id_again_fences_the_old_session(pools: WorkerPools) -> None:
    old = join(pools, "a").worker
    pools.hold(old, run(1), 1)
    new, fenced, orphaned = join(pools, "a")
    assert fenced is old
    assert orphaned == (Lease(run(1), 1),)
    assert new.number > old.number
    assert not old.may_be_chosen
    assert pools.workers(ACME) == (new,)
    assert pools.choose(ACME, BLUE, "order") is new
    pools.drain(old)  # a fenced session may still say things
    pools.leave(old)
    assert pools.choose(ACME, BLUE, "order") is new


def test_the_same_worker_id_of_another_tenant_is_another_worker(pools: WorkerPools) -> None:
    ours = join(pools, "a").worker
    assert join(pools, "a", tenant=RIVAL).fenced is None
    assert pools.workers(ACME) == (ours,)


def test_a_draining_worker_keeps_what_it_has(pools: WorkerPools) -> None:
    worker = join(pools, "a").worker
    grant(pools, 1)
    pools.drain(worker)
    assert pools.choose(ACME, BLUE, "order") is None
    assert pools.holder(ACME, run(1)) is worker
    pools.release(ACME, run(1), 1)
    assert pools.choose(ACME, BLUE, "order") is None


def test_a_paused_worker_is_passed_over_until_it_is_resumed(pools: WorkerPools) -> None:
    slow, quick = join(pools, "slow").worker, join(pools, "quick").worker
    pools.pause(slow)
    assert grant(pools, 1) is quick
    assert pools.choose(ACME, BLUE, "order") is quick
    pools.resume(slow)
    assert pools.choose(ACME, BLUE, "order") is slow


def test_two_components_of_one_name_are_refused_and_nothing_changes(pools: WorkerPools) -> None:
    old = join(pools, "a").worker
    served = [component("order"), component("order", ComponentKind.FUNCTION)]
    with pytest.raises(DuplicateComponent, match=r"a workflow and a function.*rename"):
        pools.register(ACME, BLUE, served, capacity=1, port=Port("a"))
    assert pools.workers(ACME) == (old,)
    assert pools.choose(ACME, BLUE, "order") is old


def test_workers_agree_about_what_a_name_is(pools: WorkerPools) -> None:
    join(pools, "a")
    function = [component("order", ComponentKind.FUNCTION)]
    with pytest.raises(DuplicateComponent, match="function here and a workflow in worker 'a'"):
        pools.register(ACME, BLUE, function, capacity=1, port=Port("b"))
    assert [worker.worker_id for worker in pools.workers(ACME)] == ["a"]
    # Elsewhere the name is free, and so it is for the worker that had it alone.
    pools.register(ACME, GREEN, function, capacity=1, port=Port("b"))
    pools.register(RIVAL, BLUE, function, capacity=1, port=Port("a"))
    pools.register(ACME, BLUE, function, capacity=1, port=Port("a"))
    assert pools.component(ACME, BLUE, "order").kind is ComponentKind.FUNCTION


def test_what_was_served_is_remembered(pools: WorkerPools) -> None:
    pools.leave(join(pools, "a", "order", "refund").worker)
    join(pools, "b", "order", deployment=GREEN)
    assert pools.component(ACME, BLUE, "refund").name == "refund"
    assert pools.components(ACME) == [
        ServedComponent("order", ComponentKind.WORKFLOW, BLUE, 0),
        ServedComponent("order", ComponentKind.WORKFLOW, GREEN, 1),
        ServedComponent("refund", ComponentKind.WORKFLOW, BLUE, 0),
    ]
    assert pools.components(RIVAL) == []


def test_memory_of_what_was_served_is_bounded(
    pools: WorkerPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "components_known_max", 3)
    monkeypatch.setattr(limits, "deployments_known_max", 2)
    live = join(pools, "live", "kept").worker
    for number in range(5):
        pools.leave(join(pools, "a", f"c{number}").worker)
    names = [served.name for served in pools.components(ACME)]
    assert names == ["c3", "c4", "kept"]
    for number in range(5):
        pools.leave(join(pools, "a", deployment=DeploymentId(f"d{number}")).worker)
    deployments = {served.deployment_id for served in pools.components(ACME)}
    assert deployments == {BLUE, DeploymentId("d4")}
    assert pools.choose(ACME, BLUE, "kept") is live


def test_workers_of_a_tenant_are_bounded(
    pools: WorkerPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "workers_per_tenant_max", 1)
    join(pools, "a")
    with pytest.raises(LimitExceeded, match="more capacity"):
        join(pools, "b")
    assert join(pools, "a").fenced is not None
    join(pools, "b", tenant=RIVAL)


@pytest.mark.parametrize(
    ("asked", "deployment", "advice"),
    [
        ("chekout", BLUE, "did you mean checkout?"),
        ("zzz", BLUE, "it has checkout, refund"),
        ("checkout", GREEN, "it is served in deployment 'blue'"),
        ("zzz", GREEN, "start one with `engine worker MODULE`"),
    ],
)
def test_an_unknown_component_is_answered_with_advice(
    pools: WorkerPools, asked: str, deployment: DeploymentId, advice: str
) -> None:
    join(pools, "a", "checkout", "refund")
    join(pools, "b", "secret", tenant=RIVAL)
    with pytest.raises(UnknownComponent) as caught:
        pools.component(ACME, deployment, asked)
    assert advice in caught.value.message
    assert "secret" not in str(caught.value.details) + caught.value.message


def test_how_a_component_stands(pools: WorkerPools) -> None:
    assert pools.standing(ACME, BLUE, "order") == (0, 0, 0, 0, 0)
    join(pools, "a", capacity=3)
    pools.drain(join(pools, "b", capacity=5).worker)
    pools.pause(join(pools, "c", capacity=7).worker)
    grant(pools, 1)
    assert pools.standing(ACME, BLUE, "order") == (3, 1, 1, 15, 1)
