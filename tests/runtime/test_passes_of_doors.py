"""No request, and nothing that becomes due, holds the event loop for long: the largest of each."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
import trio

from engine.base import limits
from engine.base.clock import ManualClock, system_clock
from engine.base.ids import RunId
from engine.gateway.settings import batch_chunk_starts_max
from engine.model.payloads import Payload, StepCompleted, WaitCreated, WaitKind
from engine.model.views import RunFilter, Started
from engine.runtime.handle import Handle
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.held import ALLOWED_US, QuietWorker, Steps, hold, measured, quiet
from tests.runtime.test_passes import Holding, array, child
from tests.runtime.test_runs import request

# Open waits and children of a run.
MANY = limits.waits_open_max
# Runs of a tenant, or of a worker: more than go in many slices.
RUNS = 4_000


class WallClock(ManualClock):
    """Stands still by the calendar only."""

    def monotonic_us(self) -> int:
        return system_clock.monotonic_us()


async def test_a_batch_of_starts(tmp_path: Path) -> None:
    requests = [request(idempotency_key=f"k{n}") for n in range(batch_chunk_starts_max)]

    async def scene(handle: Handle) -> Steps:
        await Holding.begun(handle)
        async with measured() as steps:
            started = await handle.start_many(CONTEXT, requests)
            await quiet(await handle._engine.tenant(TENANT))
        assert all(isinstance(each, Started) for each in started)
        return steps

    assert await hold(tmp_path, scene) <= ALLOWED_US


async def test_a_start_with_the_largest_input(tmp_path: Path) -> None:
    largest = msgspec.structs.replace(request(), input=array(limits.input_bytes_max))

    async def scene(handle: Handle) -> Steps:
        holding = await Holding.begun(handle)
        async with measured() as steps:
            await handle.start(CONTEXT, largest)
            await holding.settle()
        return steps

    assert await hold(tmp_path, scene) <= ALLOWED_US


async def with_waits(handle: Handle, kind: WaitKind, count: int, due_ms: int = 0) -> Holding:
    holding = await Holding.begun(handle)
    await holding.filled(
        WaitCreated(
            position=n,
            wait_id=str(n),
            kind=kind,
            name=f"s{n}" if kind is WaitKind.SIGNAL else "",
            due_ms=due_ms,
        )
        for n in range(1, count + 1)
    )
    return holding


async def with_children(handle: Handle, *, capacity: int) -> Holding:
    holding = await Holding.begun(handle, capacity=capacity)
    await holding.filled(
        (child(holding.run, n) for n in range(1, MANY + 1)), limits.report_children_max
    )
    return holding


@pytest.mark.parametrize("kind", [WaitKind.SIGNAL, WaitKind.TIMER, WaitKind.USER])
async def test_cancelling_a_run_of_many_waits(tmp_path: Path, kind: WaitKind) -> None:
    async def scene(handle: Handle) -> Steps:
        holding = await with_waits(handle, kind, MANY)
        async with measured() as steps:
            await handle.cancel(CONTEXT, holding.run, "enough")
            await holding.settle()
        return steps

    assert await hold(tmp_path, scene) <= ALLOWED_US


@pytest.mark.parametrize("capacity", [1, limits.worker_capacity_max])
async def test_cancelling_a_run_of_many_children(tmp_path: Path, capacity: int) -> None:
    """Their worker has them, or they wait for one."""

    async def scene(handle: Handle) -> Steps:
        holding = await with_children(handle, capacity=capacity)
        async with measured() as steps:
            await handle.cancel(CONTEXT, holding.run, "enough")
            await holding.settle()
        return steps

    assert await hold(tmp_path, scene) <= ALLOWED_US


@pytest.mark.parametrize("name", ["s1", "s9999", "another"])
async def test_a_signal_to_a_run_of_many_waits(tmp_path: Path, name: str) -> None:
    async def scene(handle: Handle) -> Steps:
        holding = await with_waits(handle, WaitKind.SIGNAL, MANY)
        async with measured() as steps:
            await handle.signal(
                CONTEXT, holding.run, name, array(limits.signals_buffered_bytes_max - 512)
            )
            await holding.settle()
        return steps

    assert await hold(tmp_path, scene) <= ALLOWED_US


async def test_the_timers_of_one_run_all_at_once(tmp_path: Path) -> None:
    clock = WallClock()

    async def scene(handle: Handle) -> Steps:
        due_ms = clock.now_ms() + 60_000
        holding = await with_waits(handle, WaitKind.TIMER, MANY, due_ms)
        clock.advance_us(61_000_000)
        async with measured() as steps:
            handle._engine.timers.add(clock.now_ms(), TENANT, holding.run)
            while holding.live().state.next_offset < 2 * MANY:  # noqa: ASYNC110
                await trio.sleep(0.002)
            await holding.settle()
        return steps

    assert await hold(tmp_path, scene, clock=clock) <= ALLOWED_US


async def test_the_timers_of_many_runs_all_at_once(tmp_path: Path) -> None:
    clock = WallClock()

    async def scene(handle: Handle) -> Steps:
        await Holding.begun(handle, capacity=limits.worker_capacity_max)
        due_ms = clock.now_ms() + 60_000
        for _ in range(RUNS // 500):
            await handle.start_many(CONTEXT, [request(start_at_ms=due_ms)] * 500)
        clock.advance_us(61_000_000)
        tenant = await handle._engine.tenant(TENANT)
        async with measured() as steps:
            handle._engine.timers.add(clock.now_ms(), TENANT, RunId(bytes(16)))
            while tenant.queues.granted_total < RUNS - 1:  # noqa: ASYNC110
                await trio.sleep(0.002)
            await quiet(tenant)
        return steps

    assert await hold(tmp_path, scene, clock=clock) <= ALLOWED_US


async def with_journal(handle: Handle, payloads: list[Payload], *, per_report: int) -> Holding:
    holding = await Holding.begun(handle)
    await holding.filled(iter(payloads), per_report)
    return holding


def steps_of(count: int, size: int) -> list[Payload]:
    output = array(size) if size > 2 else b"1"
    return [StepCompleted(position=n, name="a", output=output) for n in range(1, count + 1)]


JOURNALS = {"many records": (10_000, 1, 256), "large records": (30, limits.output_bytes_max, 1)}


@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize("asking", ["view", "status", "why", "journal", "events"])
async def test_asking_for_the_largest_run(tmp_path: Path, asking: str, journal: str) -> None:
    count, size, per_report = JOURNALS[journal]

    async def scene(handle: Handle) -> Steps:
        holding = await with_journal(handle, steps_of(count, size), per_report=per_report)
        run = holding.run
        async with measured() as steps:
            if asking == "view":
                await handle.get_run(CONTEXT, run)
            elif asking == "status":
                await handle.get_status(CONTEXT, run)
            elif asking == "why":
                await handle.why(CONTEXT, run)
            elif asking == "journal":
                await handle.read_journal(CONTEXT, run, 0, limits.read_page_records_max)
            else:
                async with handle.events(CONTEXT, run, None) as events, aclosing(events) as each:
                    for _ in range(min(count, 3_000)):
                        await anext(each)
                        await trio.lowlevel.checkpoint()  # it is written to somebody
        return steps

    assert await hold(tmp_path, scene) <= ALLOWED_US


@pytest.mark.parametrize("journal", JOURNALS)
async def test_handing_out_the_largest_run(tmp_path: Path, journal: str) -> None:
    count, size, per_report = JOURNALS[journal]

    async def scene(handle: Handle) -> Steps:
        holding = await with_journal(handle, steps_of(count, size), per_report=per_report)
        other = QuietWorker("other")
        await other.connect(handle, TENANT, "checkout")
        async with measured() as steps:
            assert holding.worker.session is not None
            holding.worker.session.disconnect()
            await holding.settle()
            await other.take_all()
        return steps

    assert await hold(tmp_path, scene) <= ALLOWED_US


@pytest.mark.parametrize("how", ["vanishes", "drains", "comes anew"])
async def test_a_worker_that_holds_very_many_runs(tmp_path: Path, how: str) -> None:
    async def scene(handle: Handle) -> Steps:
        holding = await Holding.begun(handle, capacity=limits.worker_capacity_max)
        for _ in range(RUNS // 500 - 1):
            await handle.start_many(CONTEXT, [request()] * 500)
        await holding.settle()
        other = QuietWorker("other", capacity=limits.worker_capacity_max)
        await other.connect(handle, TENANT, "checkout")
        session = holding.worker.session
        assert session is not None
        async with measured() as steps:
            if how == "comes anew":
                again = QuietWorker(capacity=limits.worker_capacity_max)
                await again.connect(handle, TENANT, "checkout")
            else:
                if how == "drains":
                    session.drain()
                session.disconnect()
            await holding.settle()
        return steps

    assert await hold(tmp_path, scene) <= ALLOWED_US


async def test_a_list_of_the_largest_runs(tmp_path: Path) -> None:
    async def scene(handle: Handle) -> Steps:
        for number in range(20):
            worker = QuietWorker(f"w{number}", capacity=1)
            await worker.connect(handle, TENANT, "checkout")
            started = await handle.start(CONTEXT, request())
            holding = Holding(handle, worker, started.run_id)
            await holding.settle()
            await holding.filled(
                WaitCreated(position=n, wait_id=str(n), kind=WaitKind.SIGNAL, name=f"s{n}")
                for n in range(1, MANY // 2)
            )
        async with measured() as steps:
            page = await handle.list_runs(CONTEXT, RunFilter(limit=limits.list_runs_max))
        assert len(page.runs) == 20
        return steps

    assert await hold(tmp_path, scene) <= ALLOWED_US


async def test_a_tenant_of_many_runs_is_opened(tmp_path: Path) -> None:
    async def scene(handle: Handle) -> Steps:
        roster = handle._engine.roster
        await Holding.begun(handle, capacity=1)
        for _ in range(RUNS // 500):
            await handle.start_many(CONTEXT, [request()] * 500)
        tenant = await handle._engine.tenant(TENANT)
        await quiet(tenant)
        for worker in tenant.pools.workers(TENANT):
            tenant.pools.leave(worker)
        assert await roster._put_to_sleep(tenant, with_queue=True)
        async with measured() as steps:
            again = await handle._engine.tenant(TENANT)
            await quiet(again)
        return steps

    assert await hold(tmp_path, scene) <= ALLOWED_US
