"""A tenant that stops because its disk is full, and goes on: nothing that was not on the disk
counts any more, and whoever waits is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.base import limits
from engine.base.errors import StorageDamaged, StorageFull
from engine.base.ids import RunId, TenantId
from engine.config.settings import JournalSettings
from engine.journal import tenants
from engine.model import effects
from engine.model.payloads import RunCompleted, StepCompleted, WaitCreated, WaitKind
from engine.model.runs import RunStatus
from engine.model.views import RunEvent
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.runtime.writer import bookkeeping, performing
from engine.runtime.writer import tenant as tenant_module
from engine.runtime.writer.live import RunEnded
from engine.runtime.writer.tenant import TenantRuntime
from tests.journal.stores import Gate, GatedStore
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import DONE, connected, request, step
from tests.runtime.worker import Held, ScriptedWorker

FULL = StorageFull("no room")


class Disk:
    """The disk of an engine, which can be full for a while."""

    def __init__(self, handle: Handle, tenant: TenantRuntime, gate: Gate) -> None:
        self.handle = handle
        self.tenant = tenant
        self._gate = gate

    def fill(self) -> None:
        self._gate.fail_with(FULL)

    async def make_room(self) -> None:
        self._gate.fail_with(None)
        assert await self.tenant.journal.try_resume()

    async def wait_stopped(self) -> None:
        while self.tenant.journal.committer.stopped_by is None:
            await trio.lowlevel.checkpoint()

    async def stop_with(self, worker: ScriptedWorker, held: Held) -> None:
        """The worker reports a step that does not get onto the disk."""
        self.fill()
        worker.report(held, step(9))
        await self.wait_stopped()


@pytest.fixture
async def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Disk]:
    gate = Gate()
    monkeypatch.setattr(tenants, "Store", lambda *of: GatedStore(*of, gate=gate))
    async with open_engine(tmp_path, JournalSettings()) as engine:
        yield Disk(Handle(engine), await engine.tenant(TENANT), gate)
        gate.fail_with(None)


async def held_run(disk: Disk, worker: ScriptedWorker) -> Held:
    started = await disk.handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    worker.report(held, step(1))
    await worker.wait_acknowledged(held)
    return held


async def steps_of(handle: Handle, run: RunId) -> list[int]:
    journal = await handle.read_journal(CONTEXT, run, 0, 100)
    return [entry.offset for entry in journal if entry.kind.name == "STEP_COMPLETED"]


async def take_all(events: AsyncIterator[RunEvent], names: list[str]) -> None:
    async for event in events:
        names.append(event.name)  # noqa: PERF401 - what came before the error counts


async def test_after_a_full_disk_runs_go_on_from_what_is_on_the_disk(disk: Disk) -> None:
    worker = await connected(disk.handle)
    held = await held_run(disk, worker)
    await disk.stop_with(worker, held)
    worker.held.clear()
    await disk.make_room()
    again = await worker.wait_held(held.run)
    assert again.epoch == held.epoch + 1
    steps = [found for kind, found in again.journal if kind.name == "STEP_COMPLETED"]
    assert [found.position for found in steps if isinstance(found, StepCompleted)] == [1]
    worker.report(again, DONE)
    assert (await disk.handle.wait_outcome(CONTEXT, held.run)).status is RunStatus.COMPLETED


async def test_a_stop_takes_the_leases_and_tells_the_workers(disk: Disk) -> None:
    worker = await connected(disk.handle)
    held = await held_run(disk, worker)
    await disk.stop_with(worker, held)
    assert len(worker.cold) == 1, "it is told to stop working on the run"
    assert disk.tenant.pools.workers(TENANT)[0].leases == ()
    assert disk.tenant.live(held.run) is None
    view = await disk.handle.get_run(CONTEXT, held.run)
    assert view.steps_completed == 1, "what can be read is what is on the disk"


async def test_who_waits_for_an_end_is_told_of_the_stop(disk: Disk) -> None:
    worker = await connected(disk.handle)
    held = await held_run(disk, worker)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(StorageFull, match="no room"):
                await disk.handle.wait_outcome(CONTEXT, held.run)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await disk.stop_with(worker, held)
    with pytest.raises(StorageFull):
        await disk.handle.wait_outcome(CONTEXT, held.run)


async def test_who_listens_is_told_of_the_stop(disk: Disk) -> None:
    """With the error itself: what reads the stream does not look into groups."""
    worker = await connected(disk.handle)
    held = await held_run(disk, worker)
    seen: list[str] = []
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            async with disk.handle.events(CONTEXT, held.run, None) as events:
                with pytest.raises(StorageFull, match="no room"):
                    await take_all(events, seen)

        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        await disk.stop_with(worker, held)
    assert seen == ["run.queued", "run.started", "workflow.step.completed"]


async def test_a_key_whose_start_was_lost_starts_anew(disk: Disk) -> None:
    await connected(disk.handle)
    disk.fill()
    with pytest.raises(StorageFull):
        await disk.handle.start(CONTEXT, request(idempotency_key="order-1"))
    await disk.make_room()
    started = await disk.handle.start(CONTEXT, request(idempotency_key="order-1"))
    assert started.is_new
    again = await disk.handle.start(CONTEXT, request(idempotency_key="order-1"))
    assert (again.run_id, again.is_new) == (started.run_id, False)


async def test_timers_are_not_lost_by_a_stop(disk: Disk) -> None:
    worker = await connected(disk.handle)
    held = await held_run(disk, worker)
    sleeper = await held_run(disk, worker)
    due_ms = disk.tenant.clock.now_ms() + 50
    worker.report(
        sleeper,
        WaitCreated(position=2, wait_id="2", kind=WaitKind.TIMER, due_ms=due_ms, parks=True),
    )
    await worker.wait_acknowledged(sleeper)
    await disk.stop_with(worker, held)
    assert len(disk.handle._engine.timers) == 0
    worker.held.clear()
    await disk.make_room()
    assert (await worker.wait_held(sleeper.run)).epoch == 2
    assert disk.tenant.clock.now_ms() >= due_ms


async def test_an_effect_that_cannot_be_performed_stops_its_tenant_only(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the effects behind it are performed: what they say is durable."""
    worker = await connected(disk.handle)
    held = await held_run(disk, worker)

    def damaged(_: object, __: object) -> None:
        raise StorageDamaged("block 7 is not what was written")

    monkeypatch.setitem(performing._PERFORMERS, effects.Deliver, damaged)
    told: list[int] = []
    performing.perform_all(
        disk.tenant,
        [
            effects.Deliver(held.run, held.epoch, 0, 1),
            performing.Call(held.run, lambda: told.append(1)),
        ],
    )
    assert told == [1]
    refused = disk.handle._engine.refused_tenants()
    assert {tenant: error.code for tenant, error in refused.items()} == {TENANT: "storage_damaged"}
    with pytest.raises(StorageDamaged):
        await disk.handle.start(CONTEXT, request())


async def test_an_ending_is_told_from_the_disk_when_memory_has_lost_it(disk: Disk) -> None:
    worker = await connected(disk.handle)
    held = await held_run(disk, worker)
    async with trio.open_nursery() as nursery:
        outputs: list[bytes | None] = []

        async def wait() -> None:
            outputs.append((await disk.handle.wait_outcome(CONTEXT, held.run)).output)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        worker.report(held, RunCompleted(output=b"7"))
        disk.tenant.forget(held.run)
    assert outputs == [b"7"]


class SlowWorker(ScriptedWorker):
    """Takes the pages of a long journal later than they were offered, as a stream does."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(worker_id)
        self.pages: list[Iterator[bytes]] = []

    def send_each(self, later: Iterator[bytes]) -> None:
        self.pages.append(later)


async def test_pages_that_cannot_be_read_stop_the_tenant_and_not_the_stream(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await connected(disk.handle, "first")
    held = await held_run(disk, first)
    first.report(held, *(step(number) for number in range(200)))
    await first.wait_acknowledged(held)
    slow = SlowWorker("slow")
    await slow.connect(disk.handle, TENANT, "checkout")
    assert first.session is not None
    first.session.disconnect()
    await disk.tenant.journal.barrier()

    def damaged(*_: object) -> None:
        raise StorageDamaged("block 7 is not what was written")

    monkeypatch.setattr(disk.tenant.journal, "values_of", damaged)
    assert [list(pages) for pages in slow.pages] == [[]]
    assert isinstance(disk.tenant.journal.committer.stopped_by, StorageDamaged)


# ---- what nobody foresaw ----


@pytest.fixture
def defect() -> Iterator[pytest.MonkeyPatch]:
    """Can be taken away without the disk's own."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def defective(*_: object) -> None:
    raise ZeroDivisionError("a defect of ours")


async def goes_on(disk: Disk, defect: pytest.MonkeyPatch) -> None:
    """The tenant is reported as stopped, another one works meanwhile, and it is taken up again."""
    refused = disk.handle._engine.refused_tenants()
    assert {tenant: error.code for tenant, error in refused.items()} == {TENANT: "storage_failed"}
    assert "ZeroDivisionError" in refused[TENANT].message
    assert "a defect of ours" not in refused[TENANT].message
    other = await disk.handle._engine.tenant(TenantId("other"))
    await other.wait_for_room()
    defect.undo()
    defect.setattr(limits, "resume_interval_ms", 0)
    assert await disk.tenant.journal.try_resume()
    assert disk.handle._engine.refused_tenants() == {}


async def test_a_performer_with_a_defect_stops_its_tenant_which_goes_on_from_the_disk(
    disk: Disk, defect: pytest.MonkeyPatch
) -> None:
    worker = await connected(disk.handle)
    held = await held_run(disk, worker)
    defect.setitem(performing._PERFORMERS, effects.NotifyWaiter, defective)
    worker.report(held, RunCompleted(output=b"7"))
    await trio.testing.wait_all_tasks_blocked(0.05)
    await goes_on(disk, defect)
    assert (await disk.handle.wait_outcome(CONTEXT, held.run)).output == b"7"


async def test_bookkeeping_with_a_defect_stops_its_tenant_which_goes_on_from_the_disk(
    disk: Disk, defect: pytest.MonkeyPatch
) -> None:
    worker = await connected(disk.handle)
    held = await held_run(disk, worker)
    defect.setitem(bookkeeping._BOOKKEEPERS, effects.ReleaseLease, defective)
    worker.report(held, RunCompleted(output=b"7"))
    await goes_on(disk, defect)


async def test_a_timer_with_a_defect_stops_its_tenant_and_not_the_timers(
    disk: Disk, defect: pytest.MonkeyPatch
) -> None:
    worker = await connected(disk.handle)
    held = await held_run(disk, worker)
    defect.setattr(tenant_module, "TimeHasCome", defective)
    disk.handle._engine.time_has_come(TENANT, held.run)
    await goes_on(disk, defect)


async def test_a_subscriber_is_told_of_each_run_that_has_ended(disk: Disk) -> None:
    """Several can subscribe, and each hears what is durable."""
    worker = await connected(disk.handle)
    first: list[RunEnded] = []
    second: list[RunEnded] = []
    held = await held_run(disk, worker)
    disk.tenant.subscribers += [first.append, second.append]
    worker.report(held, RunCompleted(output=b"7"))
    await disk.handle.wait_outcome(CONTEXT, held.run)
    assert first == second == [RunEnded(TENANT, held.run, RunStatus.COMPLETED)]
