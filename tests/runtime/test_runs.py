"""Runs through the engine with the real journal and a scripted worker: what the doors see."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from engine.base import limits
from engine.base.errors import (
    IdempotencyConflict,
    RunTerminal,
    UnknownComponent,
    UnknownRun,
)
from engine.base.ids import RunId, TenantId, child_run_id, new_run_id
from engine.config.settings import JournalSettings
from engine.model.context import RequestContext
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    RunCompleted,
    StepCompleted,
    WaitCreated,
    WaitKind,
)
from engine.model.runs import RunStatus
from engine.model.views import RunFilter, Started, StartRequest
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.worker import DEPLOYMENT, Held, ScriptedWorker

DONE = RunCompleted(output=b'"ok"')
PARKED = WaitCreated(position=2, wait_id="2", kind=WaitKind.SIGNAL, name="paid", parks=True)


def request(component: str = "checkout", **fields: object) -> StartRequest:
    return StartRequest(
        component=component,
        input=b'{"cart": 1}',
        deployment_id=DEPLOYMENT,
        **fields,  # type: ignore[arg-type]
    )


def step(position: int) -> StepCompleted:
    return StepCompleted(position=position, name="charge", output=b"1")


async def connected(handle: Handle, worker_id: str = "worker-1", **options: int) -> ScriptedWorker:
    worker = ScriptedWorker(worker_id, **options)
    await worker.connect(handle, TENANT, "checkout")
    return worker


def completes(worker: ScriptedWorker) -> ScriptedWorker:
    worker.on_dispatch = lambda held: worker.report(held, DONE)
    return worker


async def test_a_run_goes_through(handle: Handle) -> None:
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    worker.report(held, step(1))
    await worker.wait_acknowledged(held)
    worker.report(held, DONE)
    outcome = await handle.wait_outcome(CONTEXT, started.run_id)
    assert (outcome.status, outcome.output) == (RunStatus.COMPLETED, b'"ok"')
    view = await handle.get_run(CONTEXT, started.run_id)
    assert (view.status, view.steps_completed, view.attempt) == ("COMPLETED", 1, 1)
    again = await handle.wait_outcome(CONTEXT, started.run_id)
    assert again == outcome, "asked after the end, it is read from the journal"


async def test_an_unknown_component_names_the_nearest(handle: Handle) -> None:
    await connected(handle)
    with pytest.raises(UnknownComponent, match="did you mean checkout"):
        await handle.start(CONTEXT, request("chekout"))


async def test_of_many_wrong_names_the_first_are_told_the_nearest(handle: Handle) -> None:
    await connected(handle)
    asked = [request(f"chekout{number}") for number in range(20)]
    refused = await handle.start_many(CONTEXT, [*asked, request()])
    assert isinstance(refused.pop(), Started)
    messages = [error.message for error in refused if isinstance(error, UnknownComponent)]
    assert len(messages) == len(asked)
    told = ["did you mean checkout" in message for message in messages]
    assert told == [number < limits.nearest_names_per_call_max for number in range(20)]
    assert all("checkout" in message for message in messages), "the others are told what there is"


async def test_start_idempotent(handle: Handle) -> None:
    completes(await connected(handle))
    first = await handle.start(CONTEXT, request(idempotency_key="order-1"))
    second = await handle.start(CONTEXT, request(idempotency_key="order-1"))
    assert (second.run_id, second.is_new) == (first.run_id, False)
    other = StartRequest(
        component="checkout", input=b"{}", deployment_id=DEPLOYMENT, idempotency_key="order-1"
    )
    with pytest.raises(IdempotencyConflict):
        await handle.start(CONTEXT, other)
    both = await handle.start_many(CONTEXT, [request(idempotency_key="order-2")] * 2)
    assert both[0].run_id == both[1].run_id  # type: ignore[union-attr]


async def test_tenant_isolation(handle: Handle) -> None:
    completes(await connected(handle))
    started = await handle.start(CONTEXT, request())
    stranger = RequestContext(TenantId("other"), CONTEXT.project_id, CONTEXT.auth_mode)
    with pytest.raises(UnknownRun):
        await handle.get_run(stranger, started.run_id)
    with pytest.raises(UnknownRun):
        await handle.cancel(stranger, started.run_id, "not mine")
    with pytest.raises(UnknownComponent):
        await handle.start(stranger, request())
    assert handle.components(stranger) == []


async def test_waiting_holds_no_slot_and_a_signal_wakes(handle: Handle) -> None:
    worker = await connected(handle, capacity=1)
    first = await handle.start(CONTEXT, request())
    second = await handle.start(CONTEXT, request())
    held = await worker.wait_held(first.run_id)
    assert second.run_id not in worker.held, "the one slot is taken"
    assert "queued behind 0" in await handle.why(CONTEXT, second.run_id)
    worker.report(held, step(1), PARKED)
    await worker.wait_held(second.run_id)
    assert "waiting for signal 'paid'" in await handle.why(CONTEXT, first.run_id)
    del worker.held[first.run_id]
    worker.report(worker.held[second.run_id], DONE)
    await handle.signal(CONTEXT, first.run_id, "paid", b"42", "s1")
    woken = await worker.wait_held(first.run_id)
    assert [kind.name for kind, _ in woken.journal] == [
        "RUN_ACCEPTED",
        "RUN_STARTED",
        "STEP_COMPLETED",
        "WAIT_CREATED",
        "SIGNAL_RECEIVED",
        "WAIT_RESOLVED",
        "RUN_STARTED",
    ]
    assert (woken.epoch, woken.attempt) == (2, 1)


async def test_at_most_one_lease_holder_and_slots_equal_live_leases(handle: Handle) -> None:
    first = await connected(handle, "first")
    started = await handle.start(CONTEXT, request())
    held = await first.wait_held(started.run_id)
    second = await connected(handle, "second")
    assert first.session is not None
    first.session.disconnect()
    taken = await second.wait_held(started.run_id)
    assert (taken.epoch, taken.attempt) == (held.epoch + 1, 1)
    first.report(held, step(1))
    assert first.acknowledged == []
    assert len(first.cold) == 1, "it is told that it lost the run"
    second.report(taken, DONE)
    assert (await handle.wait_outcome(CONTEXT, started.run_id)).status is RunStatus.COMPLETED


async def test_the_same_worker_again_fences_the_old_session(handle: Handle) -> None:
    old = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await old.wait_held(started.run_id)
    new = await connected(handle)
    assert old.closed_because is not None
    assert (await new.wait_held(started.run_id)).epoch == held.epoch + 1


async def test_a_report_twice_is_taken_once(handle: Handle) -> None:
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    worker.report(held, step(1))
    worker.report(held, step(1), sequence=1)
    await worker.wait_acknowledged(Held(held.run, held.epoch, 1, [], sequence=1))
    journal = await handle.read_journal(CONTEXT, started.run_id, 0, 100)
    assert [entry.kind.name for entry in journal].count("STEP_COMPLETED") == 1


async def test_a_long_journal_is_dispatched_whole(handle: Handle) -> None:
    first = await connected(handle, "first")
    started = await handle.start(CONTEXT, request())
    held = await first.wait_held(started.run_id)
    for batch in range(12):
        first.report(held, *(step(batch * 250 + number) for number in range(250)))
    await first.wait_acknowledged(held)
    second = await connected(handle, "second")
    assert first.session is not None
    first.session.disconnect()
    taken = await second.wait_held(started.run_id)
    steps = [payload for kind, payload in taken.journal if kind.name == "STEP_COMPLETED"]
    assert [found.position for found in steps] == list(range(3_000))  # type: ignore[attr-defined]


async def test_cancel_reaches_the_worker(handle: Handle) -> None:
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    await handle.cancel(CONTEXT, started.run_id, "changed my mind")
    outcome = await handle.wait_outcome(CONTEXT, started.run_id)
    assert outcome.status is RunStatus.CANCELLED
    assert len(worker.cold) == 1
    worker.report(held, DONE)
    assert (await handle.get_run(CONTEXT, started.run_id)).status == "CANCELLED"
    with pytest.raises(RunTerminal):
        await handle.signal(CONTEXT, started.run_id, "paid", b"1")


async def test_children_are_joined(handle: Handle) -> None:
    worker = await connected(handle)
    parent = await handle.start(CONTEXT, request())
    held = await worker.wait_held(parent.run_id)
    child = child_run_id(parent.run_id, 1)
    worker.report(
        held,
        ChildStarted(
            position=1,
            child_run_id=child,
            component="checkout",
            mode=ChildMode.JOIN,
            input=b"2",
        ),
        WaitCreated(position=1, wait_id="1", kind=WaitKind.CHILD, parks=True),
    )
    working = await worker.wait_held(child)
    del worker.held[parent.run_id]
    worker.report(working, RunCompleted(output=b"4"))
    woken = await worker.wait_held(parent.run_id)
    assert [kind.name for kind, _ in woken.journal][-3:] == [
        "CHILD_FINISHED",
        "WAIT_RESOLVED",
        "RUN_STARTED",
    ]
    view = await handle.get_run(CONTEXT, child)
    assert view.parent_run_id


async def test_a_timer_fires(handle: Handle) -> None:
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    now_ms = handle._engine.clock.now_ms()
    wait = WaitCreated(position=1, wait_id="1", kind=WaitKind.TIMER, due_ms=now_ms + 30, parks=True)
    worker.report(held, wait)
    del worker.held[started.run_id]
    await worker.wait_held(started.run_id)
    assert handle._engine.clock.now_ms() >= now_ms + 30


async def test_events_are_neither_lost_nor_repeated(handle: Handle) -> None:
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    names: list[str] = []
    offsets: list[int | None] = []

    async def listen() -> None:
        async with handle.events(CONTEXT, started.run_id, None) as events:
            async for event in events:
                names.append(event.name)
                offsets.append(event.offset)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        held = await worker.wait_held(started.run_id)
        worker.report(held, step(1))
        await worker.wait_acknowledged(held)
        worker.report(held, DONE)
    assert names == ["run.queued", "run.started", "workflow.step.completed", "run.completed"]
    assert offsets == [0, 1, 2, 3]
    async with handle.events(CONTEXT, started.run_id, 1) as events:
        assert [event.offset async for event in events] == [2, 3]


async def test_lists_have_a_stable_cursor(handle: Handle) -> None:
    completes(await connected(handle))
    runs = [(await handle.start(CONTEXT, request())).run_id for _ in range(7)]
    for run in runs:
        await handle.wait_outcome(CONTEXT, run)
    page = await handle.list_runs(CONTEXT, RunFilter(limit=3))
    late = await handle.start(CONTEXT, request())
    rest = await handle.list_runs(CONTEXT, RunFilter(limit=10, cursor=page.next_cursor))
    seen = [view.run_id for view in (*page.runs, *rest.runs)]
    assert len(seen) == len(set(seen)) == 7
    assert late.run_id.hex() not in "".join(seen).replace("-", "")
    none = await handle.list_runs(CONTEXT, RunFilter(status=RunStatus.FAILED))
    assert none.runs == ()


async def test_a_restart_takes_up_every_open_run(tmp_path: Path) -> None:
    """Queued, running and waiting runs, and a child whose end its parent never heard of."""
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = await connected(handle, capacity=2)
        waiting = await handle.start(CONTEXT, request())
        held = await worker.wait_held(waiting.run_id)
        worker.report(held, step(1), PARKED)
        await worker.wait_acknowledged(held)
        running = await handle.start(CONTEXT, request())
        held = await worker.wait_held(running.run_id)
        worker.report(held, step(1))
        await worker.wait_acknowledged(held)
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        assert (await handle.get_run(CONTEXT, running.run_id)).status == "QUEUED"
        worker = await connected(handle)
        replayed = await worker.wait_held(running.run_id)
        assert replayed.epoch == 2
        assert "STEP_COMPLETED" in [kind.name for kind, _ in replayed.journal]
        worker.report(replayed, DONE)
        await handle.signal(CONTEXT, waiting.run_id, "paid", b"1")
        worker.report(await worker.wait_held(waiting.run_id), DONE)
        for run in (running.run_id, waiting.run_id):
            assert (await handle.wait_outcome(CONTEXT, run)).status is RunStatus.COMPLETED


async def test_an_unknown_run_is_named(handle: Handle) -> None:
    with pytest.raises(UnknownRun, match="check the id"):
        await handle.get_run(CONTEXT, RunId(new_run_id()))


async def test_a_restart_queues_a_run_that_still_has_a_wait_with_a_time(tmp_path: Path) -> None:
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = await connected(handle)
        started = await handle.start(CONTEXT, request())
        held = await worker.wait_held(started.run_id)
        due_ms = engine.clock.now_ms() + 3_600_000
        waits = [
            WaitCreated(
                position=position,
                wait_id=str(position),
                kind=WaitKind.SIGNAL,
                name=name,
                due_ms=due_ms,
                parks=position == 2,
            )
            for position, name in ((1, "a"), (2, "b"))
        ]
        worker.report(held, *waits)
        await worker.wait_acknowledged(held)
        assert worker.session is not None
        worker.session.disconnect()
        await handle.signal(CONTEXT, started.run_id, "a", b"1")
    async with open_engine(tmp_path, JournalSettings()) as engine:
        worker = await connected(Handle(engine))
        assert (await worker.wait_held(started.run_id)).epoch == 2
