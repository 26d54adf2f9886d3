"""A large state is written once for all transitions of a commit; and whatever batch a crash leaves
as the last one, its row says what the records up to it lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.base import limits
from engine.base.ids import RunId
from engine.core.state import RunState, decode_state, encode_state
from engine.ext.append import PendingBatch, PendingQueue
from engine.journal.layout import open_run_key
from engine.journal.upkeep.inspect import verify
from engine.model.commands import SendSignal
from engine.model.rows import LateRow
from engine.runtime.handle import Handle
from engine.runtime.reading.rebuild import JournaledStates
from engine.runtime.writer import appending
from engine.runtime.writer.tenant import TenantRuntime
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_rebuild import live_through_runs
from tests.runtime.test_runs import PARKED, connected, request

SIGNALS = 10


async def parked(handle: Handle) -> tuple[TenantRuntime, RunId]:
    """A run that waits for a signal that does not come in these tests."""
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    worker.report(held, PARKED)
    await worker.wait_acknowledged(held)
    return await handle._engine.tenant(TENANT), started.run_id


def signal(tenant: TenantRuntime, run: RunId, count: int) -> None:
    live = tenant.find(run)
    for number in range(count):
        signal_id = f"{live.state.next_offset}-{number}"
        tenant.carry_out(
            live, SendSignal(name="other", signal_id=signal_id, payload=b"1", sender="")
        )


@pytest.fixture
def every_row_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "late_row_bytes_min", 0)


@pytest.mark.usefixtures("every_row_is_late")
async def test_a_commit_writes_a_large_state_once(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(state: RunState) -> bytes:
        made.append(state.next_offset)
        return encode_state(state)

    tenant, run = await parked(handle)
    monkeypatch.setattr(appending, "encode_state", counted)
    first = tenant.find(run).state.next_offset
    signal(tenant, run, SIGNALS)
    assert made == [], "nothing is made before the batch is written"
    await tenant.journal.barrier()
    assert made == [first + SIGNALS]
    row = tenant.journal.row(open_run_key(run))
    assert row is not None
    assert len(decode_state(row).signals) == SIGNALS


@pytest.mark.usefixtures("every_row_is_late")
async def test_the_row_of_each_batch_is_what_its_records_lead_to(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, run = await parked(handle)
    key = open_run_key(run)
    values = [*tenant.find(run).segment.read_values()]
    written: list[tuple[int, bytes]] = []
    store = tenant.journal.store
    prepare = store.prepare

    def noted(batch: PendingBatch) -> object:
        prepared = prepare(batch)
        values.extend(batch.values)
        rows = [value for found, value in batch.rows if found == key]
        written.extend((len(values), row.made()) for row in rows if isinstance(row, LateRow))
        return prepared

    monkeypatch.setattr(store, "prepare", noted)
    tenant.journal.committer.pending = PendingQueue(batch_records_max=3)
    signal(tenant, run, SIGNALS)
    await tenant.journal.barrier()
    signal(tenant, run, 2)
    await tenant.journal.barrier()
    monkeypatch.undo()
    counts = [count for count, _ in written]
    assert counts == sorted(set(counts)), "one row in each batch"
    assert len(counts) >= SIGNALS // 3
    for count, row in written:
        assert JournaledStates().rows_of(run, values[:count]) == {key: row}


@pytest.mark.usefixtures("every_row_is_late")
async def test_a_state_that_shrinks_or_ends_has_its_last_row(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, run = await parked(handle)
    signal(tenant, run, 3)
    monkeypatch.setattr(limits, "late_row_bytes_min", 1 << 20)
    signal(tenant, run, 1)  # its row comes after the late one, in the same batch
    monkeypatch.setattr(limits, "late_row_bytes_min", 0)
    signal(tenant, run, 1)
    await tenant.journal.barrier()
    row = tenant.journal.row(open_run_key(run))
    assert row is not None
    assert len(decode_state(row).signals) == 5
    signal(tenant, run, 1)
    await handle.cancel(CONTEXT, run, "enough")
    assert tenant.journal.row(open_run_key(run)) is None


@pytest.mark.usefixtures("every_row_is_late")
async def test_what_is_stored_is_sound(tmp_path: Path) -> None:
    await live_through_runs(tmp_path)
    report = verify(tmp_path, states=JournaledStates())
    assert report.is_sound, report
