"""A run that takes its worker down with it: it is found out, and whoever was beside it is not."""

from __future__ import annotations

from engine.base.ids import RunId
from engine.model.runs import RunStatus
from engine.runtime.handle import Handle
from tests.runtime.conftest import CONTEXT
from tests.runtime.test_runs import DONE, connected, request, step
from tests.runtime.worker import ScriptedWorker


async def test_whoever_was_beside_it_does_not_fail_with_it(handle: Handle) -> None:
    """Each worker dies as soon as it has the guilty run; what else it had was in the middle."""
    first = await connected(handle, "starter")
    runs = [(await handle.start(CONTEXT, request())).run_id for _ in range(6)]
    guilty, *others = runs
    await first.wait_held(runs[-1])
    worker, deaths = first, 0
    while (await handle.get_status(CONTEXT, guilty)).status != "FAILED":
        assert worker.session is not None
        worker.session.disconnect()
        deaths += 1
        assert deaths <= 20
        worker = await connected(handle, f"worker-{deaths}")
        await work_until_it_is_there(handle, worker, guilty, others)
    assert deaths == 5
    for run in others:
        if run in worker.held:
            worker.report(worker.held[run], DONE)
        assert (await handle.wait_outcome(CONTEXT, run)).status is RunStatus.COMPLETED
    outcome = await handle.wait_outcome(CONTEXT, guilty)
    assert outcome.error is not None
    assert outcome.error.code == "worker_crashed"


async def work_until_it_is_there(
    handle: Handle, worker: ScriptedWorker, guilty: RunId, others: list[RunId]
) -> None:
    """Until it holds the guilty run, or that has ended; it ends what it has alone."""
    while True:
        await handle._engine.open_tenants()[0].journal.barrier()
        if guilty in worker.held or (await handle.get_status(CONTEXT, guilty)).status == "FAILED":
            return
        for run in [run for run in others if run in worker.held]:
            worker.report(worker.held.pop(run), DONE)


async def test_a_suspect_is_alone_until_it_gets_somewhere(handle: Handle) -> None:
    run = await suspect(handle)
    worker = await connected(handle, "the fourth", capacity=10)
    held = await worker.wait_held(run)
    other = (await handle.start(CONTEXT, request())).run_id
    await handle._engine.open_tenants()[0].journal.barrier()
    assert set(worker.held) == {run}
    worker.report(held, step(1))
    await worker.wait_held(other)


async def test_a_suspect_waits_for_a_worker_that_holds_nothing(handle: Handle) -> None:
    busy = await connected(handle, "busy", capacity=2)
    first, second = [(await handle.start(CONTEXT, request())).run_id for _ in range(2)]
    await busy.wait_held(second)
    run = await suspect(handle)
    busy.report(busy.held[first], DONE)
    await handle.wait_outcome(CONTEXT, first)
    assert run not in busy.held, "it has a free slot, and somebody to take down"
    assert "the next one has it alone" in await handle.why(CONTEXT, run)
    busy.report(busy.held[second], DONE)
    await busy.wait_held(run)


async def suspect(handle: Handle) -> RunId:
    """A run that three workers went away with, one after the other."""
    worker = await connected(handle, "doomed")
    run = (await handle.start(CONTEXT, request())).run_id
    for number in range(3):
        await worker.wait_held(run)
        assert worker.session is not None
        worker.session.disconnect()
        if number < 2:
            worker = await connected(handle, f"doomed-{number}")
    return run


async def test_nothing_is_held_against_a_run_whose_workers_leave_in_order(handle: Handle) -> None:
    """One long first step, and a deployment of the workers every hour."""
    run = None
    for number in range(10):
        worker = await connected(handle, f"worker-{number}")
        if run is None:
            run = (await handle.start(CONTEXT, request())).run_id
        held = await worker.wait_held(run)
        assert held.epoch == number + 1
        assert worker.session is not None
        worker.session.drain()
        worker.session.disconnect()
        assert (await handle.get_status(CONTEXT, run)).status == "QUEUED"
    last = await connected(handle, "the last one")
    assert run is not None
    last.report(await last.wait_held(run), DONE)
    assert (await handle.wait_outcome(CONTEXT, run)).status is RunStatus.COMPLETED
