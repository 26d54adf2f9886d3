"""REBUILD_EQUALS_STATE, as an operator sees it: what the runtime stored is what the records lead
to, and where it was lost it is made anew."""

from __future__ import annotations

from pathlib import Path

import trio

from engine.base.ids import RunId, run_id_text
from engine.config.settings import JournalSettings
from engine.ext.offsets import encode_record, record_key
from engine.journal.layout import open_run_key, run_key, store_path
from engine.journal.store import OpenMode, Store
from engine.journal.upkeep.inspect import verify
from engine.journal.upkeep.readable import STATE_TAGS
from engine.journal.upkeep.salvage import salvage
from engine.model.payloads import (
    Error,
    Payload,
    RunCompleted,
    RunFailed,
    StepCompleted,
    WaitCreated,
    WaitKind,
)
from engine.model.records import RecordKind
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.runtime.reading.rebuild import JournaledStates
from engine.wire.journal import encode
from tests.journal.sound import batch_of, resources
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import connected, request

STATES = JournaledStates()
RUNS = 6


async def live_through_runs(data_dir: Path) -> list[RunId]:
    """Runs that ended well and badly, and one that waits."""
    async with open_engine(data_dir, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = await connected(handle)
        runs = []
        for number in range(RUNS):
            started = await handle.start(CONTEXT, request())
            runs.append(started.run_id)
            held = await worker.wait_held(started.run_id)
            worker.report(held, StepCompleted(position=1, name="charge", output=b"1"))
            worker.report(held, end_of(number))
            await worker.wait_acknowledged(held)
        await handle.signal(CONTEXT, runs[-1], "other", b"1", "s-1")
        return runs


def end_of(number: int) -> Payload:
    if number == RUNS - 1:
        return WaitCreated(position=2, wait_id="2", kind=WaitKind.SIGNAL, name="w", parks=True)
    if number % 2:
        return RunFailed(error=Error(code="declined", message="no money", non_retryable=True))
    return RunCompleted(output=b"2")


def change(
    data_dir: Path,
    *rows: tuple[bytes, bytes | None],
    without: tuple[bytes, bytes] | None = None,
) -> None:
    store = Store(store_path(data_dir, TENANT), resources(), OpenMode.READ_WRITE)
    batch = batch_of([], rows)
    if without is not None:
        batch.ranges.append(without)
    store.write(store.prepare(batch), sync=True)
    store.close()


def stored_rows(data_dir: Path) -> dict[bytes, bytes]:
    store = Store(store_path(data_dir, TENANT), resources(), OpenMode.READ_ONLY)
    try:
        return {key: row for tag in STATE_TAGS for key, row in store.rows(tag)}
    finally:
        store.close()


async def test_what_the_runtime_stores_is_what_the_records_lead_to(tmp_path: Path) -> None:
    runs = await live_through_runs(tmp_path)
    report = verify(tmp_path, states=STATES)
    assert report.is_sound, report
    rows = stored_rows(tmp_path)
    assert set(rows) == {*map(run_key, runs[:-1]), open_run_key(runs[-1])}
    assert all(STATES.recognizes(row) for row in rows.values())
    assert not STATES.recognizes(b"?")
    assert STATES.rows_of(runs[0], []) == {}


async def test_a_state_that_is_not_what_the_records_lead_to(tmp_path: Path) -> None:
    runs = await live_through_runs(tmp_path)
    rows = stored_rows(tmp_path)
    change(tmp_path, (run_key(runs[0]), rows[run_key(runs[2])]), (run_key(runs[1]), None))
    problems = verify(tmp_path, TENANT, states=STATES).stores[0].problems
    assert [problem.run_id for problem in problems] == sorted(map(run_id_text, runs[:2]))
    assert {problem.what for problem in problems} == {
        "the state row is not what the records lead to"
    }


async def test_salvaged_runs_go_on(tmp_path: Path) -> None:
    """A run that lost its end is open again, one that lost its state has it again."""
    runs = await live_through_runs(tmp_path)
    before = stored_rows(tmp_path)
    change(
        tmp_path,
        (run_key(runs[1]), None),
        without=(record_key(runs[0], 2), record_key(runs[0], 3)),
    )
    report = await trio.to_thread.run_sync(lambda: salvage(tmp_path, TENANT, states=STATES))
    assert [(loss.run_id, loss.state) for loss in report.losses] == [
        (run_id_text(runs[0]), "made anew")
    ]
    after = stored_rows(tmp_path)
    assert run_key(runs[0]) not in after
    assert {key: row for key, row in after.items() if key != open_run_key(runs[0])} == {
        key: row for key, row in before.items() if key != run_key(runs[0])
    }
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = await connected(handle)
        held = await worker.wait_held(runs[0])
        assert [kind for kind, _ in held.journal][:2] == [
            RecordKind.RUN_ACCEPTED,
            RecordKind.RUN_STARTED,
        ]
        worker.report(held, RunCompleted(output=b'"again"'))
        outcome = await handle.wait_outcome(CONTEXT, runs[0])
        assert outcome.output == b'"again"'


async def test_a_record_that_may_not_follow_is_named(tmp_path: Path) -> None:
    (run, *_) = await live_through_runs(tmp_path)
    store = Store(store_path(tmp_path, TENANT), resources(), OpenMode.READ_WRITE)
    payload = encode(StepCompleted(position=1, name="charge"))
    value = encode_record(RecordKind.STEP_COMPLETED, 0, 1, 1, payload)
    store.write(store.prepare(batch_of([(record_key(run, 1), value)])), sync=True)
    store.close()
    (problem,) = verify(tmp_path, TENANT, states=STATES).stores[0].problems
    assert (problem.run_id, problem.offset) == (run_id_text(run), 1)
    assert "cannot follow in status QUEUED" in problem.what
