"""A run stays what it is when it moves: the Handle over a real archive in a directory and a real
DuckDB, with the moves made by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import trio

from engine.archive.steps import Step
from engine.base import limits
from engine.base.clock import system_clock
from engine.base.errors import RunTerminal, UnknownRun
from engine.base.ids import RunId, new_run_id, run_id_text
from engine.config.archive import ArchiveSettings
from engine.journal.layout import run_key
from engine.model.runs import RunStatus
from engine.model.views import RunEvent, RunFilter, RunPage, RunView, StartRequest
from engine.runtime.engine import Engine
from engine.runtime.handle import Handle
from engine.runtime.reading.tiers import Tiers
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.tiered import opened, worker_at
from tests.runtime.worker import DEPLOYMENT, ScriptedWorker

# Nothing moves by itself while a test runs.
BY_HAND = ArchiveSettings(flush_interval_ms=limits.archive_interval_ms_max, hot_retention_s=0)


class Moving(NamedTuple):
    engine: Engine
    handle: Handle
    tiers: Tiers
    worker: ScriptedWorker

    async def run(self, **fields: object) -> RunId:
        """A run that has ended."""
        started = await self.handle.start(CONTEXT, request(**fields))
        await self.handle.wait_outcome(CONTEXT, started.run_id)
        return started.run_id

    async def archive(self) -> None:
        await self.handle.archive_flush(CONTEXT)

    async def delete_hot(self) -> None:
        await self.tiers.archive.retain_now(TENANT)

    async def is_hot(self, run: RunId) -> bool:
        tenant = await self.engine.tenant(TENANT)
        return tenant.journal.row(run_key(run)) is not None


def request(**fields: object) -> StartRequest:
    return StartRequest(
        component="checkout",
        input='{"cart": "Tee, 茶, شاي"}'.encode(),
        deployment_id=DEPLOYMENT,
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture
async def moving(tmp_path: Path) -> AsyncIterator[Moving]:
    async with opened(tmp_path, BY_HAND) as (engine, tiers):
        handle = Handle(engine, tiers)
        yield Moving(engine, handle, tiers, await worker_at(handle))


async def events_of(handle: Handle, run: RunId, after: int | None = None) -> list[RunEvent]:
    async with handle.events(CONTEXT, run, after) as events:
        return [event async for event in events]


async def test_an_archived_run_is_read_like_a_hot_one(moving: Moving) -> None:
    handle = moving.handle
    run = await moving.run(tags={"team": "tea"}, session_id="s-1")

    async def seen() -> tuple[object, ...]:
        return (
            await handle.get_run(CONTEXT, run),
            await handle.get_status(CONTEXT, run),
            await handle.read_journal(CONTEXT, run, 0, 100),
            await handle.read_journal(CONTEXT, run, 1, 1),
            await handle.wait_outcome(CONTEXT, run),
            await handle.why(CONTEXT, run),
            await events_of(handle, run),
            await events_of(handle, run, after=1),
        )

    while_hot = await seen()
    await moving.archive()
    assert await seen() == while_hot
    await moving.delete_hot()
    assert not await moving.is_hot(run)
    assert await seen() == while_hot


async def test_what_would_change_an_archived_run_is_refused(moving: Moving) -> None:
    run = await moving.run()
    await moving.archive()
    await moving.delete_hot()
    with pytest.raises(RunTerminal):
        await moving.handle.cancel(CONTEXT, run, "too late")
    with pytest.raises(RunTerminal):
        await moving.handle.signal(CONTEXT, run, "paid", b"1")
    with pytest.raises(UnknownRun):
        await moving.handle.get_run(CONTEXT, new_run_id())


async def test_an_idempotency_key_outlives_the_hot_copy(moving: Moving) -> None:
    run = await moving.run(idempotency_key="order-1")
    await moving.archive()
    await moving.delete_hot()
    again = await moving.handle.start(CONTEXT, request(idempotency_key="order-1"))
    assert (again.run_id, again.is_new) == (run, False)
    outcome = await moving.handle.wait_outcome(CONTEXT, again.run_id)
    assert (outcome.status, outcome.output) == (RunStatus.COMPLETED, b'"paid"')


async def test_a_list_shows_each_run_once_while_they_move(moving: Moving) -> None:
    runs = []
    for number in range(24):
        runs.append(await moving.run())
        if number % 5 == 4:
            await moving.archive()
        if number % 10 == 9:
            await moving.delete_hot()
    shown: list[str] = []
    page = RunPage(())
    cursor: str | None = None
    for moves in (moving.archive, moving.delete_hot, moving.archive, moving.delete_hot, None, None):
        page = await moving.handle.list_runs(CONTEXT, RunFilter(limit=5, cursor=cursor))
        shown += [view.run_id for view in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
        if moves is not None:
            await moves()
    assert shown == [run_id_text(run) for run in sorted(runs, reverse=True)]


async def test_filters_mean_the_same_in_both_tiers(moving: Moving) -> None:
    archived = await moving.run(tags={"team": "tea", "tier": "cold"})
    await moving.run(tags={"team": "coffee"})
    await moving.archive()
    await moving.delete_hot()
    hot = await moving.run(tags={"team": "tea", "tier": "hot"})
    chosen = RunFilter(status=RunStatus.COMPLETED, tags={"team": "tea"})
    page = await moving.handle.list_runs(CONTEXT, chosen)
    assert [view.run_id for view in page.runs] == [run_id_text(hot), run_id_text(archived)]
    failed = await moving.handle.list_runs(CONTEXT, RunFilter(status=RunStatus.FAILED))
    assert failed == RunPage(())


async def test_a_run_that_waited_looks_the_same_in_both_tiers(moving: Moving) -> None:
    run = await moving.run(start_at_ms=system_clock.now_ms() + 50, tags={"team": "tea"})

    async def seen() -> tuple[RunView, RunView]:
        page = await moving.handle.list_runs(CONTEXT, RunFilter())
        (listed,) = page.runs
        # The archive has no column for when a run was not to begin before.
        listed = msgspec.structs.replace(listed, start_at_ms=0)
        return listed, await moving.handle.get_run(CONTEXT, run)

    hot, hot_alone = await seen()
    assert 0 < hot.updated_ms == hot.completed_ms
    assert hot.duration_ms == hot.completed_ms - hot.started_ms < hot.completed_ms - hot.created_ms
    await moving.archive()
    await moving.delete_hot()
    assert await seen() == (hot, hot_alone)
    answer = await moving.handle.query(CONTEXT, "SELECT duration_ms FROM runs")
    assert answer.rows == ((hot.duration_ms,),)


async def test_a_query_counts_each_run_once_wherever_it_is(moving: Moving) -> None:
    async def counted() -> dict[str, int]:
        sql = "SELECT status, count(*), count(DISTINCT run_id) FROM runs GROUP BY ALL"
        answer = await moving.handle.query(CONTEXT, sql)
        assert all(count == distinct for _, count, distinct in answer.rows)
        return {str(status): int(count) for status, count, _ in answer.rows}

    for _ in range(3):
        await moving.run()
    moving.worker.on_dispatch = None  # this one stays with its worker
    await moving.handle.start(CONTEXT, request())
    expected = {"COMPLETED": 3, "RUNNING": 1}
    assert await counted() == expected
    await moving.archive()
    assert await counted() == expected
    await moving.delete_hot()
    assert await counted() == expected
    steps = await moving.handle.query(CONTEXT, "SELECT name, output FROM steps WHERE kind = 'step'")
    assert steps.rows == (("charge", "42"),) * 3


async def test_a_slow_reader_of_events_goes_on_in_the_archive(moving: Moving) -> None:
    run = await moving.run()
    expected = await events_of(moving.handle, run)
    async with moving.handle.events(CONTEXT, run, None) as events:
        found = [await anext(events)]
        await moving.archive()
        await moving.delete_hot()
        found += [event async for event in events]
    assert found == expected
    # From where it was, and whoever was cut off and comes back later, too.
    assert await events_of(moving.handle, run, after=0) == expected[1:]


async def test_everything_that_ended_is_archived_by_itself(tmp_path: Path) -> None:
    at_once = ArchiveSettings(flush_interval_ms=limits.archive_interval_ms_min)
    async with opened(tmp_path, at_once) as (engine, tiers):
        handle = Handle(engine, tiers)
        await worker_at(handle)
        acknowledged = trio.Event()

        def watch(step: Step) -> None:
            if step is Step.ACKNOWLEDGED:
                acknowledged.set()

        tiers.archive.tenant(TENANT).on_step = watch
        started = await handle.start(CONTEXT, request())
        await handle.wait_outcome(CONTEXT, started.run_id)
        with trio.fail_after(20):
            await acknowledged.wait()
        assert (await handle.archive_status(CONTEXT)).archived_runs == 1
        assert (await handle.archive_verify(CONTEXT)).problems == ()


async def test_a_tenant_that_sleeps_is_woken_for_its_archive(tmp_path: Path) -> None:
    """What ended before the engine was closed is archived by the next one, and its hot copy goes
    when its time has come, although nobody asks for the tenant."""
    async with opened(tmp_path, BY_HAND) as (engine, tiers):
        handle = Handle(engine, tiers)
        worker = await worker_at(handle)
        run = (await handle.start(CONTEXT, request())).run_id
        await handle.wait_outcome(CONTEXT, run)
        assert worker.session is not None
        worker.session.disconnect()
    for is_archived in (False, True):
        async with opened(tmp_path, BY_HAND) as (engine, tiers):
            assert [tenant.tenant_id for tenant in engine.open_tenants()] == [TENANT]
            status = await tiers.status(TENANT)
            assert (status.archived_runs, status.waiting_runs) == (is_archived, not is_archived)
            await tiers.flush(TENANT)
            if is_archived:
                await tiers.archive.retain_now(TENANT)
    async with opened(tmp_path, BY_HAND) as (engine, tiers):
        assert engine.open_tenants() == []  # nothing is left to be done
        assert (await Handle(engine, tiers).get_status(CONTEXT, run)).status == "COMPLETED"
