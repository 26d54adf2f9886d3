"""What a run that nobody has costs in memory: an id if it waits for a worker, nothing if it waits
for anything else; and that it goes on as if it had never been put down."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.base import limits
from engine.base.ids import RunId
from engine.config.settings import JournalSettings
from engine.model.payloads import RunAccepted, RunCompleted, StepCompleted
from engine.model.records import RecordKind
from engine.model.runs import RunStatus
from engine.model.views import Started
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.runtime.writer.tenant import TenantRuntime
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import PARKED, completes, connected, request
from tests.runtime.worker import ScriptedWorker

RUNS = 12


@pytest.fixture(autouse=True)
def few_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "queued_in_memory_max", 3)


async def tenant_of(handle: Handle) -> TenantRuntime:
    return await handle._engine.tenant(TENANT)


async def queued(handle: Handle, *, start_at_ms: int = 0) -> list[RunId]:
    """Runs of a component that was served until a moment ago."""
    worker = await connected(handle, "gone")
    assert worker.session is not None
    worker.session.disconnect()
    started = await handle.start_many(
        CONTEXT, [request(start_at_ms=start_at_ms) for _ in range(RUNS)]
    )
    await (await tenant_of(handle)).journal.barrier()
    assert all(isinstance(one, Started) for one in started)
    return [one.run_id for one in started if isinstance(one, Started)]


def resting(tenant: TenantRuntime, runs: list[RunId]) -> int:
    return sum((live := tenant.live(run)) is not None and live.is_resting for run in runs)


async def finish(handle: Handle, runs: list[RunId]) -> ScriptedWorker:
    worker = completes(ScriptedWorker("here", capacity=2))
    await worker.connect(handle, TENANT, "checkout")
    for run in runs:
        assert (await handle.wait_outcome(CONTEXT, run)).status is RunStatus.COMPLETED
    return worker


async def test_runs_in_a_long_queue_rest_and_end_like_others(handle: Handle) -> None:
    runs = await queued(handle)
    tenant = await tenant_of(handle)
    assert resting(tenant, runs) == RUNS
    worker = await finish(handle, runs)
    assert list(worker.held) == runs, "in the order in which they came"
    for run in runs:
        kind, accepted = worker.held[run].journal[0]
        assert kind is RecordKind.RUN_ACCEPTED
        assert isinstance(accepted, RunAccepted)
        assert accepted.input == b'{"cart": 1}'
        kinds = [entry.kind for entry in await handle.read_journal(CONTEXT, run, 0, 9)]
        assert kinds == [RecordKind.RUN_ACCEPTED, RecordKind.RUN_STARTED, RecordKind.RUN_COMPLETED]
    assert all(tenant.live(run) is None for run in runs)


async def test_a_short_queue_stays_in_memory(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "queued_in_memory_max", RUNS)
    runs = await queued(handle)
    assert resting(await tenant_of(handle), runs) == 0
    await finish(handle, runs)


async def test_a_run_that_rests_can_be_looked_at_and_cancelled(handle: Handle) -> None:
    runs = await queued(handle)
    tenant = await tenant_of(handle)
    live = tenant.live(runs[5])
    assert live is not None
    assert (await handle.get_run(CONTEXT, runs[5])).status == "QUEUED"
    assert "no worker serves" in await handle.why(CONTEXT, runs[5])
    await handle.cancel(CONTEXT, runs[5], "changed my mind")
    worker = await finish(handle, [run for run in runs if run != runs[5]])
    assert runs[5] not in worker.held
    assert (await handle.wait_outcome(CONTEXT, runs[5])).status is RunStatus.CANCELLED


async def test_after_a_restart_the_queue_is_of_ids(tmp_path: Path) -> None:
    async with open_engine(tmp_path, JournalSettings()) as engine:
        runs = await queued(Handle(engine))
    async with open_engine(tmp_path, JournalSettings()) as engine:
        assert engine.recovered_runs == RUNS
        handle = Handle(engine)
        assert resting(await tenant_of(handle), runs) == RUNS - limits.queued_in_memory_max
        worker = await finish(handle, runs)
        assert sorted(worker.held) == sorted(runs)


async def test_what_waits_for_a_time_or_a_signal_is_not_in_memory(handle: Handle) -> None:
    tenant = await tenant_of(handle)
    later = await queued(handle, start_at_ms=tenant.clock.now_ms() + 3_600_000)
    assert all(tenant.live(run) is None for run in later)
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    worker.report(held, PARKED)
    await worker.wait_acknowledged(held)
    assert tenant.live(started.run_id) is None


async def test_a_reader_from_before_does_not_hold_the_end_of_a_run_back(handle: Handle) -> None:
    """It makes the head of the segment from a row that has been written again since."""
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    worker.report(held, PARKED)
    await worker.wait_acknowledged(held)
    tenant = await tenant_of(handle)
    reader = tenant.look(started.run_id)
    del worker.held[started.run_id]
    await handle.signal(CONTEXT, started.run_id, "paid", b"1", "s-1")
    again = await worker.wait_held(started.run_id)
    worker.report(again, StepCompleted(position=3, name="charge", output=b"1"))
    worker.report(again, RunCompleted(output=b"2"))
    await handle.wait_outcome(CONTEXT, started.run_id)
    assert reader.segment.next_offset < tenant.look(started.run_id).state.next_offset
    found = await handle.read_journal(CONTEXT, started.run_id, 0, 99)
    assert found[-1].kind is RecordKind.RUN_COMPLETED
    assert [entry.offset for entry in found] == list(range(len(found)))
