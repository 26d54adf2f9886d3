"""A journal that has no room for a moment: the doors are told, and what the engine owes is done
later and not forgotten. A transition that is refused has changed nothing."""

from __future__ import annotations

import pytest
import trio

from engine.base import limits
from engine.base.errors import EngineError, JournalBusy, LimitExceeded
from engine.base.ids import RunId, child_run_id
from engine.core.state import encode_state
from engine.ext.append import PendingQueue
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    Error,
    RunCompleted,
    RunFailed,
    WaitCreated,
    WaitKind,
)
from engine.model.records import RecordKind
from engine.model.runs import RunStatus
from engine.model.views import Started
from engine.runtime.handle import Handle
from engine.runtime.writer.tenant import TenantRuntime
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import DONE, connected, request, step
from tests.runtime.worker import Held, ScriptedWorker


async def small_queue(handle: Handle, records_max: int) -> TenantRuntime:
    """The tenant, whose journal takes so many records between two commits."""
    tenant = await handle._engine.tenant(TENANT)
    assert tenant.journal.committer.is_quiet
    tenant.journal.committer.pending = PendingQueue(pending_records_max=records_max)
    return tenant


def child(parent: RunId, position: int) -> ChildStarted:
    return ChildStarted(
        position=position,
        child_run_id=child_run_id(parent, position),
        component="checkout",
        mode=ChildMode.JOIN,
        input=b"1",
    )


async def test_a_refused_start_leaves_nothing(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key starts the run the next time, and is not answered with one that never was."""
    await connected(handle)
    monkeypatch.setattr(limits, "pending_records_reserve", limits.pending_records_max)
    requests = [request(idempotency_key=f"order-{number}") for number in range(3)]
    first, *refused = await handle.start_many(CONTEXT, requests)
    assert isinstance(first, Started)
    assert [type(each) for each in refused] == [JournalBusy, JournalBusy]
    started = await handle.start(CONTEXT, requests[1])
    assert started.is_new
    assert (await handle.get_run(CONTEXT, started.run_id)).status in ("QUEUED", "RUNNING")


async def test_the_engine_has_room_where_the_doors_have_none(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the worker of a cancelled parent's children held goes on being booked."""
    worker = await connected(handle)
    tenant = await handle._engine.tenant(TENANT)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    monkeypatch.setattr(limits, "pending_bytes_reserve", limits.pending_bytes_max + 1)
    with pytest.raises(JournalBusy):
        tenant.check_room()
    with pytest.raises(JournalBusy):
        worker.report(held, step(1))
    assert worker.session is not None
    worker.session.disconnect()
    assert tenant.find(started.run_id).state.status is RunStatus.QUEUED
    monkeypatch.undo()
    assert (await (await connected(handle)).wait_held(started.run_id)).epoch == 2


async def test_runs_whose_grant_finds_no_room_keep_their_place(handle: Handle) -> None:
    starter = await connected(handle, "starter", capacity=1)
    runs = [(await handle.start(CONTEXT, request())).run_id for _ in range(8)]
    await starter.wait_held(runs[0])
    await small_queue(handle, 2)
    second = await connected(handle, "second")
    for run in runs[1:]:
        await second.wait_held(run)
    assert [held.run for held in second.held.values()] == runs[1:], "in their order"


async def test_what_a_lost_worker_held_comes_back_however_full_the_journal_is(
    handle: Handle,
) -> None:
    worker = await connected(handle, "first")
    runs = [(await handle.start(CONTEXT, request())).run_id for _ in range(8)]
    for run in runs:
        await worker.wait_held(run)
    await handle._engine.open_tenants()[0].journal.barrier()
    await small_queue(handle, 2)
    assert worker.session is not None
    worker.session.disconnect()
    second = await connected(handle, "second")
    for run in runs:
        assert (await second.wait_held(run)).epoch == 2


async def test_a_parent_is_told_however_full_the_journal_is(handle: Handle) -> None:
    worker = await connected(handle)
    parent = await handle.start(CONTEXT, request())
    held = await worker.wait_held(parent.run_id)
    waits = [
        WaitCreated(position=n, wait_id=str(n), kind=WaitKind.CHILD, parks=n == 4)
        for n in range(1, 5)
    ]
    worker.report(held, *(child(parent.run_id, n) for n in range(1, 5)), *waits)
    children = [await worker.wait_held(child_run_id(parent.run_id, n)) for n in range(1, 5)]
    del worker.held[parent.run_id]
    await handle._engine.open_tenants()[0].journal.barrier()
    await small_queue(handle, 3)
    for working in children:
        await report_when_there_is_room(handle, worker, working)
    await worker.wait_held(parent.run_id)
    finished = 0
    while finished < 4:
        await trio.lowlevel.checkpoint()
        journal = await handle.read_journal(CONTEXT, parent.run_id, 0, 1_000)
        finished = [entry.kind for entry in journal].count(RecordKind.CHILD_FINISHED)


async def report_when_there_is_room(handle: Handle, worker: ScriptedWorker, held: Held) -> None:
    """As the coordinator does it: a report that finds no room is made again."""
    assert worker.session is not None
    tenant = await handle._engine.tenant(TENANT)
    while True:
        try:
            worker.report(held, RunCompleted(output=b"4"), sequence=1)
        except JournalBusy:
            await tenant.journal.barrier()
        else:
            return


async def test_a_deep_tree_is_cancelled_whole(handle: Handle) -> None:
    """Deeper than Python calls may be nested."""
    worker = await connected(handle, capacity=2_000)
    top = await handle.start(CONTEXT, request())
    runs = [top.run_id]
    for _ in range(400):
        held = await worker.wait_held(runs[-1])
        worker.report(held, child(runs[-1], 1))
        runs.append(child_run_id(runs[-1], 1))
    await worker.wait_held(runs[-1])
    await handle.cancel(CONTEXT, top.run_id, "enough")
    for run in runs:
        assert (await handle.get_status(CONTEXT, run)).status == "CANCELLED"
    assert (await handle._engine.tenant(TENANT)).pools.workers(TENANT)[0].leases == ()


# ---- a transition that cannot be written ----


async def test_a_row_that_would_be_too_large_changes_nothing(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    await handle.signal(CONTEXT, started.run_id, "a", b"1", "s-1")
    tenant = await handle._engine.tenant(TENANT)
    before = encode_state(tenant.find(started.run_id).state)
    row_bytes = tenant.find(started.run_id).row_bytes
    monkeypatch.setattr(limits, "row_bytes_max", row_bytes + 50)
    with pytest.raises(LimitExceeded, match="a row of"):
        await handle.signal(CONTEXT, started.run_id, "b", b'"' + b"x" * 100 + b'"', "s-2")
    state = tenant.find(started.run_id).state
    assert (state.next_offset, len(state.signals), state.signal_ids) == (3, 1, ["s-1"])
    assert encode_state(state) == before
    monkeypatch.undo()
    worker.report(held, DONE)
    assert (await handle.wait_outcome(CONTEXT, started.run_id)).status is RunStatus.COMPLETED


async def test_a_run_whose_append_is_refused_for_another_reason_is_let_go(handle: Handle) -> None:
    """Somebody else wrote into its journal: its worker is told to stop, the slot is free."""
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    tenant = await handle._engine.tenant(TENANT)
    segment = tenant.journal.open_segment(started.run_id)
    await segment.append(RecordKind.USAGE_REPORTED, b"", timestamp_us=1)
    with pytest.raises(EngineError):
        worker.report(held, step(1))
    assert tenant.pools.workers(TENANT)[0].leases == ()
    assert len(worker.cold) == 1
    assert started.run_id in tenant.unrecovered


@pytest.mark.parametrize("ended", ["output", "error"])
async def test_an_ending_that_no_parent_could_be_told_fails_the_run(
    handle: Handle, ended: str
) -> None:
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    if ended == "output":
        worker.report(held, RunCompleted(output=b'"%b"' % (b"1" * limits.output_bytes_max)))
    else:
        error = Error(code="x", message="m" * (limits.error_bytes_max + 1), non_retryable=True)
        worker.report(held, RunFailed(error=error))
    outcome = await handle.wait_outcome(CONTEXT, started.run_id)
    assert outcome.error is not None
    assert outcome.error.code == "limit_exceeded"
    assert ended in outcome.error.message


async def test_the_largest_output_reaches_the_parent(handle: Handle) -> None:
    worker = await connected(handle)
    parent = await handle.start(CONTEXT, request())
    held = await worker.wait_held(parent.run_id)
    wait = WaitCreated(position=1, wait_id="1", kind=WaitKind.CHILD, parks=True)
    worker.report(held, child(parent.run_id, 1), wait)
    working = await worker.wait_held(child_run_id(parent.run_id, 1))
    del worker.held[parent.run_id]
    worker.report(working, RunCompleted(output=b'"%b"' % (b"1" * (limits.output_bytes_max - 2))))
    with trio.fail_after(20):
        woken = await worker.wait_held(parent.run_id)
    assert RecordKind.WAIT_RESOLVED in [kind for kind, _ in woken.journal]
