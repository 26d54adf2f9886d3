"""What a worker with a valid key reports, with values that nobody means: the run fails and says
why, and neither this tenant's other runs nor another tenant's notice."""

from __future__ import annotations

import math

import pytest

from engine.base.errors import MalformedRecord
from engine.base.ids import ProjectId, TenantId
from engine.model.context import AuthMode, RequestContext
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    RunCompleted,
    StepCompleted,
    UsageReported,
    WaitCreated,
    WaitKind,
)
from engine.model.records import RecordKind
from engine.model.runs import RunStatus
from engine.runtime.handle import Handle
from engine.wire.journal import encode, kind_of
from tests.runtime.conftest import CONTEXT
from tests.runtime.test_runs import DONE, connected, request, step
from tests.runtime.worker import Held, ScriptedWorker

OTHER = RequestContext(TenantId("globex"), ProjectId("shop"), AuthMode.LOOPBACK)

Reported = tuple[int, bytes]


def said(payload: object) -> Reported:
    return int(kind_of(payload)), encode(payload)  # type: ignore[arg-type]


def child_of(child_run_id: bytes) -> Reported:
    mode, name = ChildMode.JOIN, "checkout"
    return said(ChildStarted(position=1, child_run_id=child_run_id, component=name, mode=mode))  # type: ignore[arg-type]


WRONG: dict[str, Reported] = {
    **{f"child-id-of-{size}": child_of(b"x" * size) for size in (0, 1, 15, 17, 1_000)},
    "output-not-json": said(RunCompleted(output=b'1,"injected":true}')),
    "output-not-utf8": said(RunCompleted(output=b'"\xff"')),
    "output-deep": said(RunCompleted(output=b"[" * 200_000)),
    "output-forging-events": said(RunCompleted(output=b'"x"\r\revent: run.failed\rdata: {}')),
    "cost-nan": said(UsageReported(position=1, cost_usd=math.nan)),
    "cost-infinite": said(UsageReported(position=1, cost_usd=-math.inf)),
    "tokens": said(UsageReported(position=1, tokens_in=2**64 - 1)),
    "position": said(StepCompleted(position=2**64 - 1, name="s")),
    "due": said(WaitCreated(position=1, wait_id="w", kind=WaitKind.TIMER, due_ms=2**64 - 1)),
    "random-step": (RecordKind.STEP_COMPLETED, bytes(range(7, 200, 3))),
    "random-usage": (RecordKind.USAGE_REPORTED, b"\xff" * 50),
    "empty-child": (RecordKind.CHILD_STARTED, b""),
    "kind-of-the-engine": (RecordKind.RUN_ACCEPTED, b""),
    "kind-unknown": (200, b""),
    "kind-huge": (2**32 - 1, b""),
}


def report(worker: ScriptedWorker, held: Held, entry: Reported) -> None:
    assert worker.session is not None
    held.sequence += 1
    worker.session.report(held.run, held.epoch, held.sequence, [entry])


@pytest.mark.parametrize("entry", WRONG.values(), ids=WRONG.keys())
async def test_a_value_that_nobody_means_costs_its_run_and_nothing_else(
    handle: Handle, entry: Reported
) -> None:
    neighbour = ScriptedWorker("neighbour")
    await neighbour.connect(handle, OTHER.tenant_id, "checkout")
    worker = await connected(handle)
    poisoned = await worker.wait_held((await handle.start(CONTEXT, request())).run_id)
    beside = await worker.wait_held((await handle.start(CONTEXT, request())).run_id)
    report(worker, poisoned, entry)
    outcome = await handle.wait_outcome(CONTEXT, poisoned.run)
    assert outcome.status is RunStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.message
    worker.report(beside, step(1), DONE)
    assert (await handle.wait_outcome(CONTEXT, beside.run)).status is RunStatus.COMPLETED
    theirs = await neighbour.wait_held((await handle.start(OTHER, request())).run_id)
    neighbour.report(theirs, DONE)
    assert (await handle.wait_outcome(OTHER, theirs.run)).status is RunStatus.COMPLETED
    # Whatever was taken of the run can be read.
    assert (await handle.get_run(CONTEXT, poisoned.run)).status == "FAILED"
    assert [entry.kind for entry in await handle.read_journal(CONTEXT, poisoned.run, 0, 9)][-1] is (
        RecordKind.RUN_FAILED
    )


@pytest.mark.parametrize("size", [0, 15, 17, 1_000])
async def test_a_frame_about_a_run_that_cannot_be_is_refused(handle: Handle, size: int) -> None:
    worker = await connected(handle)
    assert worker.session is not None
    with pytest.raises(MalformedRecord):
        worker.session.report(b"x" * size, 1, 1, [])
    with pytest.raises(MalformedRecord):
        worker.session.emit(b"x" * size, 1, "log.x", b"1")
