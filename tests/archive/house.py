"""What the archive's tests work with: one tenant's journal and archive, opened together, and what
a reader sees of it: the files of a snapshot and its hot tables, put together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from engine.archive.archive import Archive, open_archive
from engine.archive.steps import OnStep, go_on
from engine.archive.tenant import TenantArchive
from engine.base.clock import ManualClock
from engine.base.ids import TenantId
from engine.config.archive import ArchiveSettings
from engine.journal.tenant import TenantJournal
from engine.model.query import Window
from tests.journal.harness import journal_at

ACME = TenantId("acme")
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


class House(NamedTuple):
    journal: TenantJournal
    archive: Archive
    tenant: TenantArchive
    clock: ManualClock
    data_dir: Path


@asynccontextmanager
async def open_house(
    data_dir: Path,
    clock: ManualClock | None = None,
    *,
    on_step: OnStep = go_on,
    services: bool = False,
    **settings: Any,
) -> AsyncIterator[House]:
    clock = clock or ManualClock()
    async with (
        journal_at(data_dir, clock=clock) as journals,
        journals.use(ACME) as journal,
        open_archive(
            ArchiveSettings(**settings), data_dir, clock, services=services, on_step=on_step
        ) as archive,
    ):
        archive.store.ensure_ready()
        yield House(journal, archive, archive.tenant_opened(journal), clock, data_dir)
        await archive.tenant_closing(ACME)


def seen(tenant: TenantArchive, window: Window | None = None) -> list[str]:
    """The run ids that a reader of a local archive sees now, sorted; twice if it sees it twice."""
    snapshot = tenant.snapshot(window)
    tables = [pq.read_table(file, partitioning=None) for file in snapshot.run_files]
    return sorted(
        text
        for table in (*tables, snapshot.hot_runs())
        for text in table.column("run_id").to_pylist()
    )


def cold(tenant: TenantArchive, data_set: str = "runs") -> pa.Table:
    """The rows in files."""
    snapshot = tenant.snapshot()
    files = snapshot.run_files if data_set == "runs" else snapshot.step_files
    return pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])
