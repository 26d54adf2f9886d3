"""What a start takes up: timers of every sort, families that a crash tore apart, and the others
when one run cannot be read."""

from __future__ import annotations

from pathlib import Path

import trio

from engine.base.ids import RunId, child_run_id
from engine.config.settings import JournalSettings
from engine.core.state import decode_state, encode_state
from engine.journal.layout import finished_key, open_run_key, run_key
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    Error,
    RetryKind,
    RetryPolicy,
    RunFailed,
    RunStarted,
    WaitCreated,
    WaitKind,
)
from engine.model.records import RecordKind
from engine.model.runs import ComponentKind, RunStatus
from engine.model.worker_frames import Component
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_rebuild import change, stored_rows
from tests.runtime.test_runs import PARKED, completes, connected, request
from tests.runtime.worker import ScriptedWorker

SLOWLY = RetryPolicy(kind=RetryKind.CONSTANT, initial_ms=3_600_000, attempts_max=5)
SOON_MS = 40


async def test_the_waits_of_a_run_that_backs_off_go_on(tmp_path: Path) -> None:
    """Its next attempt is an hour away, its question times out at once; also after a restart."""
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = ScriptedWorker()
        checkout = Component(name="checkout", kind=ComponentKind.WORKFLOW, retry=SLOWLY)
        await worker.connect(handle, TENANT, components=(checkout,))
        runs: list[RunId] = []
        due_ms = engine.clock.now_ms() + SOON_MS
        for _ in range(2):
            started = await handle.start(CONTEXT, request())
            held = await worker.wait_held(started.run_id)
            wait = WaitCreated(
                position=1, wait_id="1", kind=WaitKind.SIGNAL, name="a", due_ms=due_ms
            )
            worker.report(held, wait, RunFailed(error=Error(code="x", message="not now")))
            await worker.wait_acknowledged(held)
            runs.append(started.run_id)
        assert (await handle.get_status(CONTEXT, runs[0])).status == "RETRYING"
    async with open_engine(tmp_path, JournalSettings()) as engine:
        runtime = await engine.tenant(TENANT)
        for run in runs:
            while runtime.look(run).state.waits:
                await trio.lowlevel.checkpoint()
            assert runtime.look(run).state.status is RunStatus.RETRYING
        assert engine.clock.now_ms() >= due_ms


async def test_one_run_that_cannot_be_read_is_left_and_the_others_go_on(tmp_path: Path) -> None:
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = await connected(handle)
        runs = [(await handle.start(CONTEXT, request())).run_id for _ in range(5)]
        for run in runs:
            await worker.wait_held(run)
    change(tmp_path, (open_run_key(runs[2]), b"not a state"))
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        tenant = await engine.tenant(TENANT)
        assert list(tenant.unrecovered) == [runs[2]]
        assert "engine journal verify" in tenant.unrecovered[runs[2]].message
        completes(await connected(handle))
        for run in (*runs[:2], *runs[3:]):
            assert (await handle.wait_outcome(CONTEXT, run)).status is RunStatus.COMPLETED


async def parent_and_child(data_dir: Path) -> tuple[RunId, RunId]:
    async with open_engine(data_dir, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = await connected(handle)
        parent = (await handle.start(CONTEXT, request())).run_id
        held = await worker.wait_held(parent)
        child = child_run_id(parent, 1)
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
        worker.report(await worker.wait_held(child), PARKED)
        await worker.wait_acknowledged(worker.held[child])
        return parent, child


async def test_a_child_of_a_cancelled_parent_is_cancelled(tmp_path: Path) -> None:
    """A crash came between the parent's last record and the child's."""
    parent, child = await parent_and_child(tmp_path)
    state = decode_state(stored_rows(tmp_path)[open_run_key(parent)])
    state.status, state.ended_ms = RunStatus.CANCELLED, 1
    change(
        tmp_path,
        (open_run_key(parent), None),
        (run_key(parent), encode_state(state)),
        (finished_key(1, parent), b""),
    )
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        outcome = await handle.wait_outcome(CONTEXT, child)
        assert outcome.status is RunStatus.CANCELLED
        assert outcome.error is not None
        assert outcome.error.message == "the parent was cancelled"


async def test_a_child_is_of_the_kind_that_its_component_is(handle: Handle) -> None:
    worker = ScriptedWorker()
    components = (
        Component(name="checkout", kind=ComponentKind.WORKFLOW),
        Component(name="charge", kind=ComponentKind.FUNCTION, retry=SLOWLY),
    )
    await worker.connect(handle, TENANT, components=components)
    parent = (await handle.start(CONTEXT, request())).run_id
    held = await worker.wait_held(parent)
    children = {name: child_run_id(parent, at) for at, name in enumerate(("charge", "later"), 1)}
    worker.report(
        held,
        *(
            ChildStarted(
                position=at,
                child_run_id=child,
                component=name,
                mode=ChildMode.JOIN,
                input=b"2",
            )
            for at, (name, child) in enumerate(children.items(), 1)
        ),
    )
    charging = await worker.wait_held(children["charge"])
    assert (await handle.get_run(CONTEXT, children["charge"])).kind == "function"
    worker.report(charging, RunFailed(error=Error(code="x", message="not now")))
    assert (await handle.get_status(CONTEXT, children["charge"])).status == "RETRYING"
    # Nobody had registered this one; the worker that does is told its own kind.
    other = ScriptedWorker("other")
    tool = Component(name="later", kind=ComponentKind.TOOL)
    await other.connect(handle, TENANT, components=(tool,))
    await other.wait_held(children["later"])
    assert other.kinds[children["later"]] == ComponentKind.TOOL


async def test_a_lease_is_as_long_as_the_setting_says(tmp_path: Path) -> None:
    async with open_engine(tmp_path, JournalSettings(), lease_ms=60_000) as engine:
        handle = Handle(engine)
        worker = await connected(handle)
        run = (await handle.start(CONTEXT, request())).run_id
        held = await worker.wait_held(run)
        (started,) = [found for kind, found in held.journal if kind is RecordKind.RUN_STARTED]
        assert isinstance(started, RunStarted)
        (record,) = (await handle.read_journal(CONTEXT, run, 1, 1))[:1]
        assert started.lease_until_ms - record.timestamp_us // 1_000 in (59_999, 60_000)


async def test_a_status_costs_one_row(handle: Handle) -> None:
    """It says what the state says and reads no record."""
    worker = await connected(handle)
    run = (await handle.start(CONTEXT, request())).run_id
    held = await worker.wait_held(run)
    worker.report(held, PARKED)
    await worker.wait_acknowledged(held)
    tenant = await handle._engine.tenant(TENANT)
    whole = await handle.get_run(CONTEXT, run)
    tenant.journal.values_of = None  # type: ignore[method-assign, assignment]
    tenant.journal.fold = None  # type: ignore[method-assign, assignment]
    status = await handle.get_status(CONTEXT, run)
    assert (status.status, status.next_offset) == (whole.status, whole.next_offset)
    assert tenant.live(run) is None, "a run that is only looked at stays on the disk"
