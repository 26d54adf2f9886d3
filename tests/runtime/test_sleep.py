"""Tenants that sleep: closed while nobody needs them, opened again when asked for and when their
first timer is due (TIMER_NEVER_EARLY_NEVER_LOST), whatever was killed when. And tenants that cannot
be opened, which keep nobody else from anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from engine.base import limits
from engine.base.clock import ManualClock
from engine.base.errors import EngineError, StorageDamaged, StorageFull
from engine.base.ids import ProjectId, RunId, TenantId
from engine.config.settings import JournalSettings
from engine.journal.layout import store_path
from engine.journal.system import SystemStore
from engine.model.context import AuthMode, RequestContext
from engine.model.payloads import WaitCreated, WaitKind
from engine.runtime.engine import Engine, open_engine
from engine.runtime.handle import Handle
from engine.runtime.writer.tenant import TenantRuntime
from tests.journal.harness import files_as_they_are
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import PARKED, completes, connected, request
from tests.runtime.worker import Held, ScriptedWorker

HOUR_MS = 3_600_000
OTHER = TenantId("other")
OTHERS_CONTEXT = RequestContext(OTHER, ProjectId("shop"), AuthMode.LOOPBACK)


def timer(due_ms: int) -> WaitCreated:
    return WaitCreated(position=1, wait_id="1", kind=WaitKind.TIMER, due_ms=due_ms, parks=True)


async def sleeping_run(handle: Handle, due_ms: int | None) -> RunId:
    """A run that waits for a time, or for a signal; its worker has left."""
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held: Held = await worker.wait_held(started.run_id)
    worker.report(held, PARKED if due_ms is None else timer(due_ms))
    await worker.wait_acknowledged(held)
    assert worker.session is not None
    worker.session.disconnect()
    return started.run_id


async def fall_asleep(engine: Engine, clock: ManualClock) -> int:
    clock.advance_us(JournalSettings().tenant_idle_close_s * 1_000_000)
    return await engine.roster.close_idle()


async def wait_open(engine: Engine, tenant: TenantId) -> TenantRuntime:
    while True:
        runtime = engine.roster.get(tenant)
        if runtime is not None:
            return runtime
        await trio.lowlevel.checkpoint()


async def test_a_tenant_that_nobody_needs_is_closed(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_engine(tmp_path, JournalSettings(), clock=clock) as engine:
        handle = Handle(engine)
        run = await sleeping_run(handle, None)
        assert await engine.roster.close_idle() == 0, "it was used until just now"
        assert await fall_asleep(engine, clock) == 1
        assert engine.open_tenants() == []
        assert engine.journal.open_tenants() == []
        assert engine.journal.system.wake_of(TENANT) is not None
        view = await handle.get_run(CONTEXT, run)
        assert view.status == "WAITING", "who asks for it finds it"
        assert engine.journal.system.wake_of(TENANT) is None
        await handle.signal(CONTEXT, run, "paid", b"1", "s-1")
        worker = await connected(handle)
        assert (await worker.wait_held(run)).epoch == 2


async def test_a_tenant_with_a_worker_a_waiter_or_a_listener_stays_open(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_engine(tmp_path, JournalSettings(), clock=clock) as engine:
        handle = Handle(engine)
        run = await sleeping_run(handle, None)
        async with handle.events(CONTEXT, run, None):
            assert await fall_asleep(engine, clock) == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.wait_outcome, CONTEXT, run)
            await trio.testing.wait_all_tasks_blocked()
            assert await fall_asleep(engine, clock) == 0
            nursery.cancel_scope.cancel()
        worker = await connected(handle)
        assert await fall_asleep(engine, clock) == 0
        assert worker.session is not None
        worker.session.disconnect()
        assert await fall_asleep(engine, clock) == 1


async def test_a_timer_wakes_its_tenant(tmp_path: Path) -> None:
    clock = ManualClock()
    due_ms = clock.now_ms() + HOUR_MS
    async with open_engine(tmp_path, JournalSettings(), clock=clock) as engine:
        handle = Handle(engine)
        run = await sleeping_run(handle, due_ms)
        assert await fall_asleep(engine, clock) == 1
        assert engine.journal.system.wake_of(TENANT) == due_ms
        assert await engine.roster.wake_due()
        assert engine.open_tenants() == [], "not before its time"
        clock.advance_us((due_ms - clock.now_ms()) * 1_000)
        runtime = await wait_open(engine, TENANT)
        while runtime.look(run).state.waits:
            await trio.lowlevel.checkpoint()
        assert clock.now_ms() >= due_ms


async def test_asleep_across_restarts(tmp_path: Path) -> None:
    clock = ManualClock()
    due_ms = clock.now_ms() + HOUR_MS
    async with open_engine(tmp_path, JournalSettings(), clock=clock) as engine:
        run = await sleeping_run(Handle(engine), due_ms)
        await engine.open_tenants()[0].journal.barrier()
    async with open_engine(tmp_path, JournalSettings(), clock=clock) as engine:
        assert engine.open_tenants() == [], "it needs nothing before its time"
    clock.advance_us(HOUR_MS * 1_000)
    async with open_engine(tmp_path, JournalSettings(), clock=clock) as engine:
        worker = await connected(Handle(engine))
        assert (await worker.wait_held(run)).epoch == 2


@pytest.mark.parametrize("moment", ["open", "asleep", "woken by a request"])
async def test_killed_at_any_time_no_timer_is_lost(tmp_path: Path, moment: str) -> None:
    """What a SIGKILL leaves at each of the moments, started again after the time has come."""
    clock = ManualClock()
    due_ms = clock.now_ms() + HOUR_MS
    async with open_engine(tmp_path / "before", JournalSettings(), clock=clock) as engine:
        handle = Handle(engine)
        run = await sleeping_run(handle, due_ms)
        if moment != "open":
            await fall_asleep(engine, clock)
        if moment == "woken by a request":
            await handle.get_run(CONTEXT, run)
        files_as_they_are(tmp_path / "before", tmp_path / "after")
    clock.advance_us((due_ms - clock.now_ms()) * 1_000)
    async with open_engine(tmp_path / "after", JournalSettings(), clock=clock) as engine:
        runtime = await wait_open(engine, TENANT)
        while runtime.look(run).state.waits:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("with_row", [False, True])
async def test_killed_between_the_wake_row_and_the_closing(tmp_path: Path, with_row: bool) -> None:
    """The row is written when everything is on the disk, and taken away before anything changes:
    with it and without it, the start after the kill finds the timer."""
    clock = ManualClock()
    due_ms = clock.now_ms() + HOUR_MS
    async with open_engine(tmp_path / "before", JournalSettings(), clock=clock) as engine:
        run = await sleeping_run(Handle(engine), due_ms)
        if with_row:
            runtime = engine.open_tenants()[0]
            await runtime.journal.barrier()
            assert engine.roster._note_wake(runtime, 2**63 - 1, with_queue=False)
        files_as_they_are(tmp_path / "before", tmp_path / "after")
    async with open_engine(tmp_path / "after", JournalSettings(), clock=clock) as engine:
        assert [each.tenant_id for each in engine.open_tenants()] == ([] if with_row else [TENANT])
        clock.advance_us((due_ms - clock.now_ms()) * 1_000)
        runtime = await wait_open(engine, TENANT)
        while runtime.look(run).state.waits:
            await trio.lowlevel.checkpoint()


async def test_more_tenants_than_may_be_open(tmp_path: Path) -> None:
    settings = JournalSettings(tenants_open_max=2)
    contexts = [
        RequestContext(TenantId(f"tenant-{n}"), ProjectId("shop"), AuthMode.LOOPBACK)
        for n in range(5)
    ]
    runs: list[RunId] = []
    async with open_engine(tmp_path, settings) as engine:
        handle = Handle(engine)
        for context in contexts:
            worker = ScriptedWorker(capacity=1)
            await worker.connect(handle, context.tenant_id, "checkout")
            await handle.start(context, request())
            runs.append((await handle.start(context, request())).run_id)
            assert worker.session is not None
            worker.session.disconnect()
            await engine.open_tenants()[-1].journal.barrier()
            assert len(engine.open_tenants()) <= 2
    async with open_engine(tmp_path, settings) as engine:
        handle = Handle(engine)
        for context, run in zip(contexts, runs, strict=True):
            worker = completes(ScriptedWorker())
            await worker.connect(handle, context.tenant_id, "checkout")
            assert (await handle.wait_outcome(context, run)).output == b'"ok"'
            assert worker.session is not None
            worker.session.disconnect()


# ---- followers ----


class Follower:
    def __init__(self) -> None:
        self.told: list[tuple[str, TenantId]] = []

    def tenant_opened(self, tenant: TenantRuntime) -> None:
        self.told.append(("opened", tenant.tenant_id))

    async def tenant_closing(self, tenant: TenantRuntime) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(("closing", tenant.tenant_id))


async def test_followers_hear_of_each_tenant(tmp_path: Path) -> None:
    clock, follower = ManualClock(), Follower()
    async with open_engine(
        tmp_path, JournalSettings(), clock=clock, followers=[follower]
    ) as engine:
        await engine.tenant(TENANT)
        pinned = await engine.journal.pin(TENANT)
        assert await fall_asleep(engine, clock) == 0, "a follower is at work in it"
        engine.journal.unpin(pinned)
        assert await fall_asleep(engine, clock) == 1
        await engine.tenant(TENANT)
    assert follower.told == [("opened", TENANT), ("closing", TENANT)] * 2


# ---- tenants that cannot be opened ----


async def two_tenants(data_dir: Path) -> None:
    async with open_engine(data_dir, JournalSettings()) as engine:
        handle = Handle(engine)
        for context in (CONTEXT, OTHERS_CONTEXT):
            worker = ScriptedWorker()
            await worker.connect(handle, context.tenant_id, "checkout")
            started = await handle.start(context, request())
            await worker.wait_held(started.run_id)


async def test_a_damaged_tenant_keeps_nobody_else_from_anything(tmp_path: Path) -> None:
    await two_tenants(tmp_path)
    (store_path(tmp_path, TENANT) / "CURRENT").write_bytes(b"MANIFEST-999999\n")
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        assert set(engine.refused_tenants()) == {TENANT}
        for _ in range(2):
            with pytest.raises(EngineError) as caught:
                await handle.start(CONTEXT, request())
            assert caught.value.code == engine.refused_tenants()[TENANT].code
        worker = completes(ScriptedWorker())
        await worker.connect(handle, OTHER, "checkout")
        started = await handle.start(OTHERS_CONTEXT, request())
        assert (await handle.wait_outcome(OTHERS_CONTEXT, started.run_id)).output == b'"ok"'


async def test_a_tenant_whose_recovery_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_tenants(tmp_path)
    clock = ManualClock()
    recover = TenantRuntime.recover

    def fails(runtime: TenantRuntime) -> int:
        if runtime.tenant_id == TENANT:
            raise StorageDamaged("block 7 is not what was written")
        return recover(runtime)

    monkeypatch.setattr(TenantRuntime, "recover", fails)
    async with open_engine(tmp_path, JournalSettings(), clock=clock) as engine:
        assert engine.recovered_runs == 1
        assert [each.tenant_id for each in engine.open_tenants()] == [OTHER]
        monkeypatch.undo()
        with pytest.raises(StorageDamaged, match="block 7"):
            await engine.tenant(TENANT)
        clock.advance_us(5_000_000)
        await engine.tenant(TENANT)
        assert engine.refused_tenants() == {}


async def test_a_tenant_that_nobody_asks_for_is_tried_again_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_tenants(tmp_path)
    clock = ManualClock()

    def fails(runtime: TenantRuntime) -> int:
        raise StorageDamaged("block 7 is not what was written")

    monkeypatch.setattr(TenantRuntime, "recover", fails)
    async with open_engine(tmp_path, JournalSettings(), clock=clock) as engine:
        assert engine.open_tenants() == []
        monkeypatch.undo()
        assert await engine.roster.wake_due()  # nobody is due yet
        assert engine.open_tenants() == []
        clock.advance_us(limits.tenant_reopen_ms * 1_000)
        assert await engine.roster.wake_due()
        assert {each.tenant_id for each in engine.open_tenants()} == {TENANT, OTHER}


async def test_a_tenant_stays_open_when_its_wake_cannot_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    async with open_engine(tmp_path, JournalSettings(), clock=clock) as engine:
        await sleeping_run(Handle(engine), clock.now_ms() + HOUR_MS)

        def full(*_: object) -> None:
            raise StorageFull("no room")

        with monkeypatch.context() as patch:
            patch.setattr(SystemStore, "set_wake", full)
            assert await fall_asleep(engine, clock) == 0
        assert len(engine.open_tenants()) == len(engine.timers) == 1
        assert await fall_asleep(engine, clock) == 1
