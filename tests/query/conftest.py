"""A lake in a directory, and a query tier that reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.archive.files.interchange import stream_of
from engine.base import limits
from engine.base.clock import ManualClock
from engine.config.query import QuerySettings
from engine.query.child.database import Databases
from engine.query.pool import QueryPool, open_pool
from engine.query.ports import StoreAccess
from engine.query.query import QueryTier
from tests.query.lake import Lake

SETTINGS = QuerySettings(instances_max=4, running_max=4, threads=2, time_limit_ms=20_000)


class Reports(list[tuple[str, str, str]]):
    """What was reported as unreadable: tenant, file, reason."""

    def __call__(self, tenant: str, file: str, reason: str) -> None:
        self.append((tenant, file, reason))


@pytest.fixture(autouse=True)
def processes_are_not_nice(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no engine here that comes first, but other tests beside these. That they step back
    is shown in `test_confinement.py`, which says itself how far."""
    monkeypatch.setattr(limits, "query_niceness", 0)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def pool(lake: Lake) -> AsyncIterator[QueryPool]:
    async with open_pool(SETTINGS, StoreAccess(root=lake.root)) as pool:
        yield pool


@pytest.fixture
def databases(lake: Lake, tmp_path: Path) -> Iterator[Databases]:
    """As a process of queries has them, without the walls around the process."""
    scratch = tmp_path / "scratch-of-databases"
    scratch.mkdir()
    databases = Databases(SETTINGS, StoreAccess(root=lake.root), scratch, open_max=4)
    yield databases
    databases.close()


@asynccontextmanager
async def tier_over(
    access: StoreAccess, reports: Reports | None = None, settings: QuerySettings = SETTINGS
) -> AsyncIterator[QueryTier]:
    async with open_pool(settings, access) as pool:
        yield QueryTier(pool, settings, Reports() if reports is None else reports, stream_of)


@pytest.fixture
def tier(pool: QueryPool, reports: Reports, clock: ManualClock) -> QueryTier:
    return QueryTier(pool, SETTINGS, reports, stream_of, clock)
