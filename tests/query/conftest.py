"""A lake in a directory, and a query tier that reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.base.clock import ManualClock
from engine.config.query import QuerySettings
from engine.query.child.database import QueryPool
from engine.query.ports import StoreAccess
from engine.query.query import QueryTier
from tests.query.lake import Lake

SETTINGS = QuerySettings(instances_max=4, running_max=4, threads=2, time_limit_ms=20_000)


class Reports(list[tuple[str, str, str]]):
    """What was reported as unreadable: tenant, file, reason."""

    def __call__(self, tenant: str, file: str, reason: str) -> None:
        self.append((tenant, file, reason))


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
    pool = QueryPool(SETTINGS, StoreAccess(root=lake.root))
    yield pool
    await pool.aclose()


@pytest.fixture
def tier(pool: QueryPool, reports: Reports, clock: ManualClock) -> QueryTier:
    return QueryTier(pool, SETTINGS, reports, clock)
