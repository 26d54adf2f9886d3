"""Entities: of the runs with one key, one at a time, in the order in which they were accepted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.base.errors import InvalidInput
from engine.base.ids import RunId, run_id_text
from engine.config.settings import JournalSettings
from engine.core.state import RunState
from engine.model.runs import ComponentKind, RunStatus
from engine.model.worker_frames import Component
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.runtime.writer.entities import Entities
from engine.runtime.writer.live import LiveRun
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import DONE, PARKED, connected, request
from tests.runtime.worker import ScriptedWorker


async def started(handle: Handle, key: str) -> RunId:
    return (await handle.start(CONTEXT, request(entity_key=key))).run_id


async def end(handle: Handle, worker: ScriptedWorker, run: RunId) -> None:
    worker.report(worker.held.pop(run), DONE)
    await handle.wait_outcome(CONTEXT, run)


async def test_one_writer_per_key_in_order(handle: Handle) -> None:
    worker = await connected(handle)
    first, second, third = [await started(handle, "423") for _ in range(3)]
    other = await started(handle, "7")
    await worker.wait_held(other)
    assert set(worker.held) == {first, other}, "another key is not held up"
    assert await handle.why(CONTEXT, third) == (
        f"It is queued behind 1 others for entity key '423', held by run {run_id_text(first)}; "
        "runs of one key go one after the other."
    )
    await end(handle, worker, first)
    await worker.wait_held(second)
    assert third not in worker.held
    await end(handle, worker, second)
    await worker.wait_held(third)


async def test_a_waiting_run_keeps_its_key(handle: Handle) -> None:
    worker = await connected(handle)
    first, second = await started(handle, "423"), await started(handle, "423")
    worker.report(await worker.wait_held(first), PARKED)
    del worker.held[first]
    sentinel = await started(handle, "other")
    await worker.wait_held(sentinel)
    assert second not in worker.held
    await handle.signal(CONTEXT, first, "paid", b"1")
    await worker.wait_held(first)
    assert second not in worker.held
    await end(handle, worker, first)
    await worker.wait_held(second)


async def test_cancelled_in_line_it_holds_up_nobody(handle: Handle) -> None:
    worker = await connected(handle)
    first, second, third = [await started(handle, "423") for _ in range(3)]
    await handle.cancel(CONTEXT, second, "not needed")
    await handle.cancel(CONTEXT, first, "not needed either")
    await worker.wait_held(third)
    assert second not in worker.held


async def test_a_restart_keeps_the_order_and_the_turn(tmp_path: Path) -> None:
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = await connected(handle)
        runs = [await started(handle, "423") for _ in range(5)]
        worker.report(await worker.wait_held(runs[0]), PARKED)
        await handle.cancel(CONTEXT, runs[2], "not needed")
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = await connected(handle)
        sentinel = await started(handle, "other")
        await worker.wait_held(sentinel)
        assert set(worker.held) == {sentinel}, "who waits has the turn, before and after"
        await handle.signal(CONTEXT, runs[0], "paid", b"1")
        for run in (runs[0], runs[1], runs[3], runs[4]):
            await worker.wait_held(run)
            assert set(worker.held) == {sentinel, run}
            await end(handle, worker, run)


async def test_an_entity_without_a_key_is_refused(handle: Handle) -> None:
    worker = ScriptedWorker()
    components = (Component(name="account", kind=ComponentKind.ENTITY),)
    await worker.connect(handle, TENANT, components=components)
    with pytest.raises(InvalidInput, match="entity_key"):
        await handle.start(CONTEXT, request("account"))
    first = await handle.start(CONTEXT, request("account", entity_key="423"))
    second = await handle.start(CONTEXT, request("account", entity_key="423"))
    await worker.wait_held(first.run_id)
    assert second.run_id not in worker.held


@pytest.mark.parametrize("seed", range(40))
async def test_a_random_program_of_starts_cancels_and_ends(handle: Handle, seed: int) -> None:
    """Against the plainest model: a list for each key, whose first open run may be at work."""
    choose = random.Random(seed)
    worker = await connected(handle, capacity=choose.choice([1, 2, 100]))
    accepted: dict[str, list[RunId]] = {"a": [], "b": [], "c": []}
    ended: set[RunId] = set()
    for _ in range(60):
        key = choose.choice("abc")
        still_open = [run for run in accepted[key] if run not in ended]
        act = choose.random()
        if act < 0.5 or not still_open:
            accepted[key].append(await started(handle, key))
        elif act < 0.65:
            run = choose.choice(still_open)
            await handle.cancel(CONTEXT, run, "chance")
            worker.held.pop(run, None)
            ended.add(run)
        else:
            at_work = [run for run in still_open if run in worker.held]
            if at_work:
                await end(handle, worker, at_work[0])
                ended.add(at_work[0])
        for runs in accepted.values():
            first_open = [run for run in runs if run not in ended][:1]
            assert [run for run in runs if run in worker.held] in ([], first_open)
    while still_open := [run for runs in accepted.values() for run in runs if run not in ended]:
        firsts = [next((r for r in runs if r not in ended), None) for runs in accepted.values()]
        run = next(run for run in worker.held if run in firsts)
        await end(handle, worker, run)
        ended.add(run)
        await handle._engine.open_tenants()[0].journal.barrier()
        assert run in still_open


def test_runs_without_a_key_are_not_in_a_line() -> None:
    entities = Entities()
    live = LiveRun(RunState(run_id=b"1" * 16, status=RunStatus.QUEUED), object())  # type: ignore[arg-type]
    assert entities.admit(live)
    assert entities.ended(live) is None
    assert entities.standing(live) is None
    assert entities.waiting_count() == 0
