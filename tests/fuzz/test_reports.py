"""What a worker with a valid key may report, made of each field's edges: whatever it is, it is
taken, or it is refused with a typed error, and the tenant beside it works on.

Beneath the door, where a report is a call; `test_worker_door.py` goes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from engine.archive.rows.columns import TableBuilder
from engine.base.errors import EngineError, MalformedRecord, StorageFailed
from engine.base.ids import ProjectId, RunId, TenantId
from engine.config.settings import JournalSettings
from engine.ext.offsets import record_key
from engine.journal.layout import OPEN_RUN_TAG, RUN_TAG
from engine.model.context import AuthMode, RequestContext
from engine.model.runs import RunStatus
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from tests.fuzz.courses import IDS, NUMBERS, SEED, TEXTS, VALUES, Course, seeds
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import DONE, request, step
from tests.runtime.worker import Held, ScriptedWorker

ROUNDS: Final = 6
REPORTS: Final = 150
OTHER: Final = RequestContext(TenantId("globex"), ProjectId("shop"), AuthMode.LOOPBACK)


async def poison(handle: Handle, worker: ScriptedWorker, course: Course) -> None:
    assert worker.session is not None
    started = await handle.start(CONTEXT, request())
    held: Held | None = await worker.wait_held(started.run_id)
    for _ in range(REPORTS):
        if held is None or worker.held.get(held.run) is not held:
            held = await another(handle, worker)
        count = course.random.choice((0, 1, 1, 1, 2, 5))
        course.run, course.epoch = held.run, held.epoch
        entries = [course.entry() for _ in range(count)]
        held.sequence += 1
        epoch = course.random.choice(NUMBERS) if course.random.random() < 0.02 else held.epoch
        run: bytes = course.random.choice(IDS) if course.random.random() < 0.02 else held.run
        refused = tried(
            lambda: worker.session.report(run, epoch, held.sequence, entries)  # type: ignore[union-attr] # noqa: B023
        )
        tried(
            lambda: worker.session.emit(  # type: ignore[union-attr]
                held.run,  # type: ignore[union-attr] # noqa: B023
                held.epoch,  # type: ignore[union-attr] # noqa: B023
                course.random.choice(TEXTS).decode(errors="replace"),
                course.random.choice(VALUES),
            )
        )
        await trio.lowlevel.checkpoint()
        view = await handle.get_run(CONTEXT, held.run)
        if refused or view.status != "RUNNING" or (run, epoch) != (held.run, held.epoch):
            worker.held.pop(held.run, None)
            held = None


async def another(handle: Handle, worker: ScriptedWorker) -> Held:
    """A run in its hands: its children, and those that came again, are among them."""
    started = await handle.start(CONTEXT, request())
    return await worker.wait_held(started.run_id)


def tried(what: Callable[[], None]) -> bool:
    """Whether it was refused. A tenant that stops is a defect that was contained."""
    try:
        what()
    except StorageFailed:
        raise
    except EngineError:
        return True
    return False


async def check_all_can_be_read(handle: Handle) -> int:
    """By whoever asks, and by the archive."""
    tenant = await handle._engine.tenant(TENANT)
    assert tenant.journal.committer.stopped_by is None
    count = 0
    for run in runs_of(tenant.journal):
        await handle.get_run(CONTEXT, run)
        for _ in await handle.read_journal(CONTEXT, run, 0, 1_000):
            count += 1
        values = list(tenant.journal.store.record_values(record_key(run, 0), run + b"\xff" * 9))
        builder = TableBuilder(with_journal=True)
        try:
            builder.add(run, values)
        except MalformedRecord as error:
            pytest.fail(f"a run that cannot be archived was taken: {error.message}")
        builder.tables()
    return count


def runs_of(journal: Any) -> Iterator[RunId]:
    for tag in (OPEN_RUN_TAG, RUN_TAG):
        for key, _ in journal.rows(tag):
            yield RunId(key[-16:])


async def course_of(seed: int, folder: Path) -> None:
    async with open_engine(folder, JournalSettings()) as engine:
        handle = Handle(engine)
        neighbour = ScriptedWorker("neighbour")
        await neighbour.connect(handle, OTHER.tenant_id, "checkout")
        worker = ScriptedWorker("poisoner", capacity=10_000)
        await worker.connect(handle, TENANT, "checkout")
        await poison(handle, worker, Course(seed))
        theirs = await neighbour.wait_held((await handle.start(OTHER, request())).run_id)
        neighbour.report(theirs, step(1), DONE)
        outcome = await handle.wait_outcome(OTHER, theirs.run)
        assert outcome.status is RunStatus.COMPLETED
        assert await check_all_can_be_read(handle) > REPORTS


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
async def test_whatever_is_reported_is_taken_or_refused(seed: int, tmp_path: Path) -> None:
    with trio.fail_after(60):
        await course_of(seed, tmp_path)


async def test_for_as_long_as_is_asked_for(tmp_path: Path) -> None:
    """Once at least; ENGINE_FUZZ_SECONDS says how long."""
    for seed in seeds(SEED + 1_000):
        await course_of(seed, tmp_path / str(seed))
