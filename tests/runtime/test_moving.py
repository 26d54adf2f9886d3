"""No list and no query misses a run or shows it twice while everything moves at once: runs start
and end, batches are flushed, hot copies deleted, objects compacted and replaced ones swept."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from engine.base import limits
from engine.base.clock import SystemClock, system_clock
from engine.base.ids import parse_run_id, run_id_text
from engine.config.archive import ArchiveSettings
from engine.config.settings import JournalSettings
from engine.journal.layout import RUN_TAG, open_run_key
from engine.model.payloads import RunCompleted
from engine.model.runs import RunStatus
from engine.model.views import RunFilter, StartRequest
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.runtime.reading.tiers import Tiers
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.tiered import opened, worker_at
from tests.runtime.worker import DEPLOYMENT, ScriptedWorker

CLIENTS: Final = 8
RUNS: Final = 600
DAY_S: Final = 86_400
REQUEST: Final = StartRequest(component="checkout", input=b"7", deployment_id=DEPLOYMENT)


class Calendar(SystemClock):
    """The machine's clock, some days ahead: a day has to be over before it is compacted."""

    days = 0

    def now_us(self) -> int:
        return super().now_us() + self.days * DAY_S * 1_000_000

    def now_ms(self) -> int:
        return self.now_us() // 1_000


class House:
    """A runtime in which nothing keeps still, and what its clients were told."""

    def __init__(self, handle: Handle, tiers: Tiers, clock: Calendar) -> None:
        self.handle = handle
        self.tiers = tiers
        self.clock = clock
        self.started: list[str] = []
        self.ended: list[str] = []
        self.looks: Counter[str] = Counter()
        self.has_looked = trio.Event()
        self.compacted = 0
        self.is_over = False

    async def start(self) -> None:
        while len(self.started) < RUNS:
            run = (await self.handle.start(CONTEXT, REQUEST)).run_id
            self.started.append(run_id_text(run))
            await self.handle.wait_outcome(CONTEXT, run)
            self.ended.append(run_id_text(run))

    async def move(self) -> None:
        archive = self.tiers.archive
        while not self.is_over:
            for _ in range(3):
                await archive.flush_now(TENANT)
                await archive.retain_now(TENANT)
            # A replaced object is kept longer than a query takes; so are the days of this calendar.
            owed = {name: count + 2 for name, count in self.looks.items()}
            while not self.is_over and any(
                self.looks[name] < count for name, count in owed.items()
            ):
                await self.has_looked.wait()
            self.clock.days += 1
            self.compacted += await archive.compact_now(TENANT)

    async def look(self, name: str, look: Callable[[], Awaitable[None]]) -> None:
        self.looks[name] = 0
        while not self.is_over:
            await look()
            self.looks[name] += 1
            looked, self.has_looked = self.has_looked, trio.Event()
            looked.set()

    # ---- what clients see ----

    async def pages(self, chosen: RunFilter, owed: list[str]) -> None:
        shown: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            asked = RunFilter(status=chosen.status, limit=chosen.limit, cursor=cursor or None)
            page = await self.handle.list_runs(CONTEXT, asked)
            shown += [view.run_id for view in page.runs]
            cursor = page.next_cursor
        once_each(shown, owed)
        assert shown == sorted(shown, reverse=True)

    async def list_all(self) -> None:
        await self.pages(RunFilter(limit=limits.list_runs_max), list(self.started))

    async def list_ended(self) -> None:
        await self.pages(RunFilter(status=RunStatus.COMPLETED, limit=301), list(self.ended))

    async def query_runs(self) -> None:
        owed, ended = list(self.started), set(self.ended)
        answer = await self.handle.query(CONTEXT, "SELECT run_id, status FROM runs")
        assert answer.skipped == ()
        once_each([run for run, _ in answer.rows], owed)
        assert ended <= {run for run, status in answer.rows if status == "COMPLETED"}

    async def query_steps(self) -> None:
        owed = list(self.ended)
        answer = await self.handle.query(CONTEXT, "SELECT run_id FROM steps WHERE kind = 'step'")
        once_each([run for (run,) in answer.rows], owed)
        await self.get_some()

    async def get_some(self) -> None:
        for run in random.sample(self.ended, min(len(self.ended), 10)):
            view = await self.handle.get_run(CONTEXT, parse_run_id(run))
            assert (view.run_id, view.status) == (run, "COMPLETED")


def once_each(shown: list[str], owed: list[str]) -> None:
    twice = [run for run, count in Counter(shown).items() if count > 1]
    assert not twice
    assert not set(owed) - set(shown)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = Calendar()
    settings = ArchiveSettings(
        flush_interval_ms=limits.archive_interval_ms_max,  # `House.move` does it
        hot_retention_s=0,
        replaced_grace_s=DAY_S * 3 // 2,
    )
    async with opened(tmp_path, settings, clock) as (engine, tiers):
        handle = Handle(engine, tiers)
        await worker_at(handle)
        yield House(handle, tiers, clock)


async def test_nothing_is_missed_or_shown_twice_while_everything_moves(house: House) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as looking:
            for name in ("list_all", "list_ended", "query_runs", "query_steps"):
                looking.start_soon(house.look, name, getattr(house, name))
            looking.start_soon(house.move)
            async with trio.open_nursery() as starting:
                for _ in range(CLIENTS):
                    starting.start_soon(house.start)
            while min(house.looks.values()) < 2:  # a slow machine
                await house.has_looked.wait()
            house.is_over = True
    assert len(house.ended) >= RUNS
    assert house.compacted > 1


async def test_a_run_that_ends_while_a_list_begins_is_shown_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of open and of ended runs are read one after the other, and a commit does not wait
    for the event loop in between."""
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = ScriptedWorker()
        await worker.connect(handle, TENANT, "checkout")
        run = (await handle.start(CONTEXT, REQUEST)).run_id
        held = await worker.wait_held(run)
        journal = (await engine.tenant(TENANT)).journal
        rows_backwards = journal.rows_backwards

        def after_the_commit(tag: bytes, below: bytes) -> Iterator[tuple[bytes, bytes]]:
            deadline_us = system_clock.monotonic_us() + 5_000_000
            while tag == RUN_TAG and journal.row(open_run_key(run)) is not None:
                assert system_clock.monotonic_us() < deadline_us
            yield from rows_backwards(tag, below)

        monkeypatch.setattr(journal, "rows_backwards", after_the_commit)
        worker.report(held, RunCompleted(output=b'"paid"'))
        for _ in range(5):  # until a thread commits it
            await trio.lowlevel.checkpoint()
        page = await handle.list_runs(CONTEXT, RunFilter())
        assert [(view.run_id, view.status) for view in page.runs] == [
            (run_id_text(run), "COMPLETED")
        ]
