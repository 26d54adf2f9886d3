"""A defect of ours that shows while one worker's frame or one request is handled: its tenant stops
and goes on from the disk, however often that happens, and the other tenants notice nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from engine.base import limits
from engine.base.errors import TenantFailed
from engine.base.ids import ProjectId, TenantId
from engine.journal.committer import Committer
from engine.model.context import AuthMode, RequestContext
from engine.model.runs import RunStatus
from engine.runtime import workers
from engine.runtime.handle import Handle
from engine.runtime.pools import WorkerPools
from engine.runtime.writer import tenant as tenant_module
from engine.runtime.writer import writing
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import DONE, connected, request, step
from tests.runtime.worker import Held, ScriptedWorker

OTHER = RequestContext(TenantId("globex"), ProjectId("shop"), AuthMode.LOOPBACK)


def defective(*_: object, **__: object) -> None:
    raise ZeroDivisionError("a defect of ours")


async def started(handle: Handle, context: RequestContext, worker: ScriptedWorker) -> Held:
    return await worker.wait_held((await handle.start(context, request())).run_id)


async def stopped_and_taken_up(handle: Handle, planted: pytest.MonkeyPatch) -> None:
    tenant = await handle._engine.tenant(TENANT)
    assert isinstance(tenant.journal.committer.stopped_by, TenantFailed)
    assert "a defect of ours" not in tenant.journal.committer.stopped_by.message
    planted.undo()
    planted.setattr(limits, "resume_interval_ms", 0)
    assert await tenant.journal.try_resume()
    planted.undo()


async def completes(handle: Handle, context: RequestContext, worker: ScriptedWorker) -> None:
    held = await started(handle, context, worker)
    worker.report(held, step(1), DONE)
    assert (await handle.wait_outcome(context, held.run)).status is RunStatus.COMPLETED


Doing = Callable[[ScriptedWorker, Held], object]
FRAMES: dict[str, tuple[object, str, Doing]] = {
    "report": (workers, "check_record", lambda worker, held: worker.report(held, DONE)),
    "decision": (tenant_module, "decide", lambda worker, held: worker.report(held, DONE)),
    "plan": (writing, "plan", lambda worker, held: worker.report(held, DONE)),
    "emit": (
        workers,
        "check_emit",
        lambda worker, held: worker.session.emit(held.run, held.epoch, "log.x", b"1"),  # type: ignore[union-attr]
    ),
    "drain": (WorkerPools, "drain", lambda worker, held: worker.session.drain()),  # type: ignore[union-attr]
    "pause": (WorkerPools, "pause", lambda worker, held: worker.session.pause()),  # type: ignore[union-attr]
    "resume": (WorkerPools, "resume", lambda worker, held: worker.session.resume()),  # type: ignore[union-attr]
    "disconnect": (WorkerPools, "leave", lambda worker, held: worker.session.disconnect()),  # type: ignore[union-attr]
}


@pytest.mark.parametrize(("owner", "name", "doing"), FRAMES.values(), ids=FRAMES.keys())
async def test_a_frame_that_meets_a_defect_costs_its_tenant_a_pause(
    handle: Handle, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, doing: Doing
) -> None:
    neighbour = ScriptedWorker("neighbour")
    await neighbour.connect(handle, OTHER.tenant_id, "checkout")
    for round_number in range(3):  # it comes back with the same
        worker = ScriptedWorker(f"worker-{round_number}")
        await worker.connect(handle, TENANT, "checkout")
        held = await started(handle, CONTEXT, worker)
        monkeypatch.setattr(owner, name, defective)
        with pytest.raises(TenantFailed):
            doing(worker, held)
        monkeypatch.undo()
        await completes(handle, OTHER, neighbour)
        await stopped_and_taken_up(handle, monkeypatch)
        assert worker.session is not None
        worker.session.disconnect()
    last = ScriptedWorker("last")
    last.on_dispatch = lambda held: last.report(held, DONE)
    await last.connect(handle, TENANT, "checkout")
    outcome = await handle.wait_outcome(CONTEXT, held.run)
    assert outcome.status is RunStatus.COMPLETED


Asking = Callable[[Handle, Held], Awaitable[object]]
REQUESTS: dict[str, Asking] = {
    "start": lambda handle, held: handle.start(CONTEXT, request()),
    "cancel": lambda handle, held: handle.cancel(CONTEXT, held.run, ""),
}


@pytest.mark.parametrize("asking", REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_request_that_meets_a_defect_costs_its_tenant_a_pause(
    handle: Handle, monkeypatch: pytest.MonkeyPatch, asking: Asking
) -> None:
    neighbour = ScriptedWorker("neighbour")
    await neighbour.connect(handle, OTHER.tenant_id, "checkout")
    worker = await connected(handle)
    held = await started(handle, CONTEXT, worker)
    with monkeypatch.context() as planted:
        planted.setattr(tenant_module, "decide", defective)
        with pytest.raises(TenantFailed, match="nobody foresaw"):
            await asking(handle, held)
    await completes(handle, OTHER, neighbour)
    await stopped_and_taken_up(handle, monkeypatch)
    await completes(handle, CONTEXT, worker)


@pytest.mark.parametrize("lane", ["_try_inline", "_submit"])
async def test_a_commit_that_meets_a_defect_costs_its_tenant_a_pause(
    handle: Handle, monkeypatch: pytest.MonkeyPatch, lane: str
) -> None:
    neighbour = ScriptedWorker("neighbour")
    await neighbour.connect(handle, OTHER.tenant_id, "checkout")
    worker = await connected(handle)
    await started(handle, CONTEXT, worker)
    tenant = await handle._engine.tenant(TENANT)
    failing_store = tenant.journal.committer._store
    with monkeypatch.context() as planted:
        if lane == "_submit":
            planted.setattr(Committer, "_try_inline", lambda committer, batch: False)
        planted.setattr(failing_store, "write", defective)
        with pytest.raises(TenantFailed):
            await handle.start(CONTEXT, request())
    await completes(handle, OTHER, neighbour)
    await stopped_and_taken_up(handle, monkeypatch)
    worker.held.clear()
    await completes(handle, CONTEXT, worker)
