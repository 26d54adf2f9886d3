"""Questions about a month of archived runs in a bucket: 1M runs of 20 tenants over 30 days.

The store is a process of its own on loopback, so the figures have its requests in them but no
distance. Cold is a tenant whose database is not open: nothing cached, not even a connection. The
store's own requests are counted by the store. What questions cost others is measured by
`bench/beside.py`, over real processes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from bench import beside
from bench.lake import (
    DAY_MS,
    DAYS,
    MONTH_MS,
    RECORDS_PER_RUN,
    Month,
    tenant_name,
    write_month,
)
from bench.static_store import StaticStore, static_store
from engine.archive.archive import open_archive
from engine.archive.files.interchange import stream_of
from engine.archive.snapshot import TenantSnapshot
from engine.archive.tenant import TenantArchive
from engine.base.ids import TenantId, parse_run_id
from engine.config.archive import ArchiveSettings
from engine.config.query import QuerySettings
from engine.config.settings import JournalSettings
from engine.journal.tenants import open_journal
from engine.model.query import AnalyticsFilter, Window
from engine.model.runs import RunStatus
from engine.model.views import RunFilter, RunPage
from engine.query.pool import open_pool
from engine.query.ports import StoreAccess
from engine.query.query import QueryTier

TENANTS = 20
RUNS = 1_000_000
RUNS_LONG = 5_000_000
TENANT = TenantId(tenant_name(7))
COLD_ROUNDS = 7
WARM_ROUNDS = 30
LAST_FAILED = RunFilter(status=RunStatus.FAILED, limit=50)
THE_MONTH = AnalyticsFilter(from_ms=MONTH_MS, to_ms=MONTH_MS + DAYS * DAY_MS)
NO_HOT_RUNS = RunPage(())

Question = Callable[[QueryTier], Awaitable[object]]


class _Asking:
    """One tenant's archive, asked through query tiers that are fresh or have been asked before."""

    def __init__(self, archive: TenantArchive, store: StaticStore, root: str) -> None:
        self.archive = archive
        self.store = store
        self._access = StoreAccess(
            root=root, endpoint=store.endpoint, access_key="a", secret_key="b", secure=False
        )

    def snapshot_of(self, window: Window) -> TenantSnapshot:
        return self.archive.snapshot(window)

    @asynccontextmanager
    async def tier(self) -> AsyncIterator[QueryTier]:
        async with open_pool(QuerySettings(), self._access) as pool:
            yield QueryTier(pool, QuerySettings(), self._unreadable, stream_of)

    async def cold(self, ask: Question) -> tuple[float, int]:
        """The median in ms, and the requests of one."""
        took: list[float] = []
        requests = 0
        for _ in range(COLD_ROUNDS):
            self.store.take_requests()
            async with self.tier() as tier:
                took.append(await _timed(ask, tier))
            requests = len(self.store.take_requests())
        return statistics.median(took), requests

    async def warm(self, ask: Question) -> tuple[float, int]:
        async with self.tier() as tier:
            await ask(tier)
            self.store.take_requests()
            took = [await _timed(ask, tier) for _ in range(WARM_ROUNDS)]
        return statistics.median(took), len(self.store.take_requests())

    @staticmethod
    def _unreadable(tenant: TenantId, file: str, reason: str) -> None:
        raise AssertionError(f"{file} of {tenant} cannot be read: {reason}")


async def _timed(ask: Question, tier: QueryTier) -> float:
    began = time.perf_counter()
    await ask(tier)
    return (time.perf_counter() - began) * 1e3


async def _lookups_ms(asking: _Asking, run_ids: list[str]) -> tuple[float, float]:
    """By id: of runs spread over the month, the median first time and when asked before."""
    rounds: list[list[float]] = []
    for _ in range(2):
        took: list[float] = []
        for text in run_ids:
            began = time.perf_counter()
            found = await asking.archive.lookup(parse_run_id(text))
            took.append((time.perf_counter() - began) * 1e3)
            assert found is not None
            assert len(found.records) == RECORDS_PER_RUN
        rounds.append(took)
    return statistics.median(rounds[0]), statistics.median(rounds[1])


async def _measure(scratch: Path, store: StaticStore, month: Month) -> dict[str, object]:
    settings = ArchiveSettings(
        url="s3://bucket/engine",
        endpoint=f"http://{store.endpoint}",
        access_key="access",
        secret_key="secret-key",
    )
    async with (
        open_journal(scratch / "data", JournalSettings()) as journals,
        journals.use(TENANT) as journal,
        open_archive(settings, scratch / "data", services=False) as archive,
    ):
        asking = _Asking(archive.tenant_opened(journal), store, settings.url)
        adopted = await archive.rehydrate(TENANT)
        assert adopted.runs == len(month.run_ids), adopted
        figures = await _ask(asking, month)
        await archive.tenant_closing(TENANT)
    return figures


async def _ask(asking: _Asking, month: Month) -> dict[str, object]:
    async def listing(tier: QueryTier) -> object:
        snapshot = asking.snapshot_of(Window())
        page = await tier.list_runs(TENANT, LAST_FAILED, NO_HOT_RUNS, snapshot)
        assert len(page.runs) == LAST_FAILED.limit
        return page

    async def tokens(tier: QueryTier) -> object:
        answer = await tier.analytics(TENANT, "tokens", THE_MONTH, asking.snapshot_of)
        assert len(answer.rows) == 9, "three projects with three models"
        return answer

    listing_cold_ms, listing_requests = await asking.cold(listing)
    listing_warm_ms, listing_requests_warm = await asking.warm(listing)
    tokens_cold_ms, tokens_requests = await asking.cold(tokens)
    tokens_warm_ms, _ = await asking.warm(tokens)
    every = max(1, len(month.run_ids) // 40)
    run_cold_ms, run_ms = await _lookups_ms(asking, month.run_ids[::every])
    return {
        "listing_warm_ms": round(listing_warm_ms, 2),
        "listing_cold_ms": round(listing_cold_ms, 1),
        "tokens_month_ms": round(tokens_warm_ms, 1),
        "tokens_month_cold_ms": round(tokens_cold_ms, 1),
        "store_requests_listing": listing_requests,
        "store_requests_listing_warm": listing_requests_warm,
        "store_requests_tokens_month": tokens_requests,
        "archived_run_ms": round(run_ms, 2),
        "archived_run_cold_ms": round(run_cold_ms, 2),
    }


def measure(scratch: Path, *, long: bool) -> dict[str, object]:
    runs = RUNS_LONG if long else RUNS
    began = time.perf_counter()
    month = write_month(
        scratch / "store" / "bucket", tenants=TENANTS, runs_per_day=runs // TENANTS // DAYS
    )
    made_s = time.perf_counter() - began
    with static_store(scratch / "store") as store:
        figures = trio.run(_measure, scratch, store, month)
    return {
        "runs": len(month.run_ids) * TENANTS,
        "tenants": TENANTS,
        "days": DAYS,
        "made_s": round(made_s, 1),
        "bytes_per_run": round(month.bytes / len(month.run_ids)),
        **figures,
        **beside.measure(scratch / "beside", long=long),
    }
