"""Two things at once: a tenant that falls asleep while a timer becomes due or while somebody reads,
a run that is deleted while somebody asks how it ended, a start among very many runs; and what must
not stay in memory behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.base import limits
from engine.base.clock import ManualClock
from engine.base.errors import InvalidInput, OffsetTrimmed, StorageDamaged, UnknownRun
from engine.base.ids import RunId, child_run_id
from engine.cli.composing.tiers import open_tiers
from engine.config.archive import ArchiveSettings
from engine.config.settings import JournalSettings, Settings
from engine.journal.layout import open_run_key
from engine.model import effects
from engine.model.payloads import ChildMode, ChildStarted, StateRead, StateScope, StepCompleted
from engine.model.runs import RunStatus
from engine.runtime.engine import Engine, open_engine
from engine.runtime.handle import Handle
from engine.runtime.writer import bookkeeping
from engine.runtime.writer.performing import Call
from engine.runtime.writer.tenant import TenantRuntime
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import DONE, completes, connected, request
from tests.runtime.test_sleep import HOUR_MS, fall_asleep, sleeping_run, wait_open
from tests.runtime.worker import Held, ScriptedWorker

LARGE = b'"' + b"x" * 2 * limits.MIB + b'"'


class SlowFollower:
    """Has something to finish before its tenant may be closed; meanwhile time goes on."""

    def __init__(self, clock: ManualClock) -> None:
        self.engine: Engine | None = None
        self._clock = clock

    def tenant_opened(self, tenant: TenantRuntime) -> None:
        """Nothing to be done."""

    async def tenant_closing(self, tenant: TenantRuntime) -> int | None:
        engine, self.engine = self.engine, None
        if engine is not None:
            self._clock.advance_us(2_000)
            while len(engine.timers):  # until the timer has been taken
                await trio.lowlevel.checkpoint()
        return None


async def test_a_timer_that_is_due_while_its_tenant_falls_asleep(tmp_path: Path) -> None:
    """TIMER_NEVER_EARLY_NEVER_LOST"""
    clock = ManualClock()
    follower = SlowFollower(clock)
    due_ms = clock.now_ms() + HOUR_MS
    async with open_engine(
        tmp_path, JournalSettings(), clock=clock, followers=[follower]
    ) as engine:
        run = await sleeping_run(Handle(engine), due_ms)
        clock.advance_us(1_000 * (due_ms - clock.now_ms() - 1))
        follower.engine = engine
        assert await engine.roster.close_idle() == 0, "it is needed after all"
        runtime = await wait_open(engine, TENANT)
        assert runtime.look(run).state.waits == {}


async def test_a_tenant_is_not_closed_under_a_query(tmp_path: Path) -> None:
    """Its snapshot would keep the lock of the closed store, and nobody could open it again."""
    clock = ManualClock()
    archive = ArchiveSettings(flush_interval_ms=limits.archive_interval_ms_max)
    settings = Settings(data_dir=str(tmp_path), archive=archive)
    async with (
        open_tiers(settings) as tiers,
        open_engine(tmp_path, settings.journal, clock=clock, followers=[tiers]) as engine,
    ):
        handle = Handle(engine, tiers)
        run = await sleeping_run(handle, None)
        async with trio.open_nursery() as nursery:
            endless = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b, runs"
            nursery.start_soon(handle.query, CONTEXT, endless)
            while tiers._query._pool.statistics().running == 0:
                await trio.lowlevel.checkpoint()
            assert await fall_asleep(engine, clock) == 0
            nursery.cancel_scope.cancel()
        assert await fall_asleep(engine, clock) == 1
        assert (await handle.get_status(CONTEXT, run)).status == "WAITING"


async def test_asking_for_an_outcome_while_the_run_is_deleted_stops_nobody(handle: Handle) -> None:
    """A reader that finds less than the state row told of is not the witness of a damage."""
    completes(await connected(handle))
    runs = [(await handle.start(CONTEXT, request())).run_id for _ in range(20)]
    for run in runs:
        await handle.wait_outcome(CONTEXT, run)
    tenant = await handle._engine.tenant(TENANT)
    found: list[RunStatus | None] = []

    async def ask(run: RunId) -> None:
        try:
            found.append((await handle.wait_outcome(CONTEXT, run)).status)
        except UnknownRun:
            found.append(None)

    async with trio.open_nursery() as nursery:
        for run in runs:
            nursery.start_soon(ask, run)
            nursery.start_soon(tenant.journal.delete_runs, [[run]], [])
            nursery.start_soon(ask, run)
    assert set(found) <= {RunStatus.COMPLETED, None}
    assert tenant.journal.committer.stopped_by is None


async def test_a_run_that_is_gone_before_its_reader_is_told(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the commit of the deletion and the moment in which the journal hears of it, somebody
    reads on who began when the run was there."""
    completes(await connected(handle))
    run, other = [(await handle.start(CONTEXT, request())).run_id for _ in range(2)]
    for each in (run, other):
        await handle.wait_outcome(CONTEXT, each)
    tenant = await handle._engine.tenant(TENANT)
    change_rows = tenant.journal._change_rows
    trimmed: list[int] = []

    async def with_a_reader(*changes: Any) -> None:
        segment = tenant.look(run).segment

        def read_on() -> None:
            with pytest.raises(OffsetTrimmed):
                segment.read(0)
            with pytest.raises(OffsetTrimmed):
                segment.fold()
            trimmed.append(segment.first_offset)

        tenant.release_after_pending(tenant.look(other), [Call(run, read_on)])
        await change_rows(*changes)

    monkeypatch.setattr(tenant.journal, "_change_rows", with_a_reader)
    await tenant.journal.delete_runs([[run]], [])
    assert trimmed == [0], "the run's head said nothing yet"
    assert tenant.journal.committer.stopped_by is None


async def test_a_parent_is_told_at_a_start_among_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child's end reached the disk, and what tells its parent did not. The parent, about which
    something is on its way to the disk, stays in memory."""
    monkeypatch.setattr(limits, "queued_in_memory_max", 2)
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        other = ScriptedWorker("other")
        await other.connect(handle, TENANT, "unserved")
        assert other.session is not None
        other.session.disconnect()
        for _ in range(4):
            await handle.start(CONTEXT, request("unserved"))
        worker = await connected(handle)
        parent = (await handle.start(CONTEXT, request())).run_id
        child = child_run_id(parent, 1)
        started = ChildStarted(
            position=1, child_run_id=child, component="checkout", mode=ChildMode.JOIN
        )
        worker.report(await worker.wait_held(parent), started)
        of_child = await worker.wait_held(child)
        with monkeypatch.context() as patch:
            patch.setitem(bookkeeping._BOOKKEEPERS, effects.TellParent, lambda *_: None)
            worker.report(of_child, DONE)
            await worker.wait_acknowledged(of_child)
    async with open_engine(tmp_path, JournalSettings()) as engine:
        tenant = await engine.tenant(TENANT)
        assert not tenant.find(parent).state.children


class HurtFollower:
    """Cannot read what it keeps of the tenant, the first time."""

    def __init__(self) -> None:
        self.is_hurt = True

    def tenant_opened(self, tenant: TenantRuntime) -> None:
        if self.is_hurt:
            raise StorageDamaged("the batch row is not one")

    async def tenant_closing(self, tenant: TenantRuntime) -> int | None:
        assert not self.is_hurt, "it was never told of that tenant"
        return None


async def test_a_tenant_that_a_follower_refuses_is_not_half_open(tmp_path: Path) -> None:
    clock, follower = ManualClock(), HurtFollower()
    async with open_engine(
        tmp_path, JournalSettings(), clock=clock, followers=[follower]
    ) as engine:
        for _ in range(2):
            with pytest.raises(StorageDamaged, match="batch row"):
                await engine.tenant(TENANT)
            assert engine.open_tenants() == []
            assert engine.journal.open_tenants() == []
        follower.is_hurt = False
        clock.advance_us(limits.tenant_retry_ms * 1_000)
        await engine.tenant(TENANT)
        assert await fall_asleep(engine, clock) == 1


# ---- frames that a stream can carry ----


class MeasuringWorker(ScriptedWorker):
    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def send(self, frame: bytes) -> None:
        self.largest = max(self.largest, len(frame))
        super().send(frame)


async def large_run(handle: Handle, worker: ScriptedWorker) -> Held:
    run = (await handle.start(CONTEXT, request())).run_id
    held = await worker.wait_held(run)
    for position in range(1, 6):
        worker.report(held, StepCompleted(position=position, name="scan", output=LARGE))
        await worker.wait_acknowledged(held)
    return held


async def test_a_short_journal_of_large_outputs_is_dispatched_in_pages(handle: Handle) -> None:
    """The coordinator's outbox takes no frame that is larger than a message may be."""
    worker = MeasuringWorker()
    await worker.connect(handle, TENANT, "checkout")
    held = await large_run(handle, worker)
    assert worker.session is not None
    worker.session.disconnect()
    again = MeasuringWorker()
    dispatched = trio.Event()
    again.on_dispatch = lambda _: dispatched.set()
    await again.connect(handle, TENANT, "checkout")
    await dispatched.wait()
    assert len(again.held[held.run].journal) == 9, "with another grant"
    assert again.largest < limits.stream_message_bytes_max


async def test_what_a_report_is_answered_is_delivered_in_pages(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "dispatch_page_records_max", 200)
    worker = MeasuringWorker()
    await worker.connect(handle, TENANT, "checkout")
    held = await worker.wait_held((await handle.start(CONTEXT, request())).run_id)
    asked = [
        StateRead(position=position, scope=StateScope.GLOBAL, name=f"key-{position}")
        for position in range(1, limits.report_entries_max + 1)
    ]
    worker.report(held, *asked)
    await worker.wait_acknowledged(held)
    await handle._engine.open_tenants()[0].journal.barrier()
    page = limits.dispatch_page_records_max
    assert [len(kinds) for _, kinds in worker.delivered] == [page, len(asked) - page]


# ---- what must not stay in memory, or in nobody's hands ----


async def test_who_asks_about_a_waiting_run_leaves_it_on_the_disk(tmp_path: Path) -> None:
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        run = await sleeping_run(handle, None)
        tenant = await engine.tenant(TENANT)
        with trio.move_on_after(0.05):
            await handle.wait_outcome(CONTEXT, run)
        assert tenant.live(run) is None
        for _ in range(2):
            await handle.signal(CONTEXT, run, "other", b"1", "s-1")
            await tenant.journal.barrier()
        assert tenant.live(run) is None, "the second one changed nothing"


async def test_a_worker_is_let_in_although_a_run_cannot_be_read(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that wait for it on the disk one is damaged: it is passed over and reported."""
    monkeypatch.setattr(limits, "queued_in_memory_max", 0)
    worker = await connected(handle)
    assert worker.session is not None
    worker.session.disconnect()
    runs = [(await handle.start(CONTEXT, request())).run_id for _ in range(3)]
    tenant = await handle._engine.tenant(TENANT)
    await tenant.journal.write_rows([(open_run_key(runs[1]), b"\xff\xff")])
    worker = await connected(handle, "worker-2")
    await worker.wait_held(runs[2])
    assert set(worker.held) == {runs[0], runs[2]}


async def test_a_large_state_does_not_keep_its_batch(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "late_row_bytes_min", 0)
    worker = await connected(handle)
    run = (await handle.start(CONTEXT, request())).run_id
    held = await worker.wait_held(run)
    worker.report(held, StepCompleted(position=1, name="scan", output=b"1"))
    tenant = await handle._engine.tenant(TENANT)
    live = tenant.find(run)
    assert live.late is not None
    await worker.wait_acknowledged(held)
    await tenant.journal.barrier()
    assert live.late is None


async def test_a_cancelled_run_stands_in_its_queue_without_its_journal(handle: Handle) -> None:
    worker = await connected(handle)
    assert worker.session is not None
    worker.session.disconnect()
    run = (await handle.start(CONTEXT, request())).run_id
    live = (await handle._engine.tenant(TENANT)).find(run)
    assert live.entries
    await handle.cancel(CONTEXT, run, "nobody serves it")
    assert live.is_queued
    assert not live.entries


async def test_a_cursor_behind_the_end_is_refused(handle: Handle) -> None:
    """It would wait for an event that never comes, and miss the one that ends the run."""
    worker = completes(await connected(handle))
    run = (await handle.start(CONTEXT, request())).run_id
    await worker.wait_held(run)
    await handle.wait_outcome(CONTEXT, run)
    with pytest.raises(InvalidInput, match="no event 1000"):
        async with handle.events(CONTEXT, run, 1_000):
            """Not reached."""
