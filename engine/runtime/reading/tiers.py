"""The tiers behind the journal as the Handle asks them: runs whose hot copy is gone, lists over hot
and archived runs, queries and analytics, and how the archive is doing.

Brings together what must not know each other: the archive says what is where at a moment, the query
tier reads it, the runtime has what is hot. Knows neither Parquet nor SQL.
"""

from __future__ import annotations

from collections import OrderedDict

import trio

from engine.archive.archive import Archive
from engine.archive.snapshot import TenantSnapshot
from engine.archive.tenant import TenantArchive
from engine.base import limits
from engine.base.errors import UnknownRun
from engine.base.ids import RunId, TenantId
from engine.model.query import (
    AnalyticsFilter,
    ArchiveFlushed,
    ArchiveStatus,
    ArchiveVerified,
    ArrowAnswer,
    QueryAnswer,
    Window,
)
from engine.model.views import RunFilter, RunPage
from engine.query.query import QueryTier
from engine.runtime.reading.archived import archived_run
from engine.runtime.reading.listing import list_runs
from engine.runtime.writer.live import LiveRun, RunEnded
from engine.runtime.writer.tenant import TenantRuntime


class Tiers:
    """Follows the engine's tenants (`roster.TenantFollower`), so that what ends is archived."""

    def __init__(self, archive: Archive, query: QueryTier) -> None:
        self.archive = archive
        self._query = query
        # Archived runs that were asked for lately: whoever pages through a journal asks again.
        self._found: OrderedDict[tuple[TenantId, RunId], LiveRun] = OrderedDict()

    # ---- as a follower ----

    def tenant_opened(self, tenant: TenantRuntime) -> None:
        self.archive.tenant_opened(tenant.journal)
        if self._run_ended not in tenant.subscribers:  # one that stayed open is opened twice
            tenant.subscribers.append(self._run_ended)

    def _run_ended(self, ended: RunEnded) -> None:
        self.archive.note_ended(ended.tenant_id)

    async def tenant_closing(self, tenant: TenantRuntime) -> int | None:
        due_ms = self.archive.tenant(tenant.tenant_id).next_due_ms()
        await self.archive.tenant_closing(tenant.tenant_id)
        # It may be deleted before it is opened again, and one of its name made anew.
        for known in [known for known in self._found if known[0] == tenant.tenant_id]:
            del self._found[known]
        return due_ms

    # ---- runs ----

    async def look(self, tenant: TenantRuntime, run: RunId) -> LiveRun:
        """The run, wherever it is, to be read; `UnknownRun` if it is nowhere."""
        try:
            await trio.lowlevel.checkpoint()
            return tenant.look(run)
        except UnknownRun as unknown:
            found = await self._look_in_archive(tenant.tenant_id, run)
            if found is None:
                raise unknown
            return found

    async def _look_in_archive(self, tenant: TenantId, run: RunId) -> LiveRun | None:
        known = self._found.get((tenant, run))
        if known is not None:
            self._found.move_to_end((tenant, run))
            return known
        archived = await self._of(tenant).lookup(run)
        if archived is None:
            return None
        live = await archived_run(tenant, run, archived.records)
        size = sum(limits.archived_record_bytes + len(one.payload) for one in archived.records)
        if size <= limits.archived_run_bytes_kept_max:
            self._found[tenant, run] = live
            while len(self._found) > limits.archived_runs_kept_max:
                self._found.popitem(last=False)
        return live

    async def list_runs(self, tenant: TenantRuntime, chosen: RunFilter) -> RunPage:
        """The newest runs of both tiers."""
        # Both at this moment: a run that is moving is in one of the two, or in both.
        hot, cold = list_runs(tenant, chosen), self._snapshot(tenant.tenant_id)
        return await self._query.list_runs(tenant.tenant_id, chosen, await hot, cold)

    # ---- queries ----

    async def query(self, tenant: TenantId, sql: str, rows_max: int | None) -> QueryAnswer:
        return await self._query.run(
            tenant, sql, lambda window: self._snapshot(tenant, window), rows_max=rows_max
        )

    async def query_arrow(self, tenant: TenantId, sql: str, rows_max: int | None) -> ArrowAnswer:
        return await self._query.run_arrow(
            tenant,
            sql,
            lambda window: self._snapshot(tenant, window),
            rows_max=rows_max,
        )

    async def analytics(self, tenant: TenantId, name: str, chosen: AnalyticsFilter) -> QueryAnswer:
        return await self._query.analytics(
            tenant, name, chosen, lambda window: self._snapshot(tenant, window)
        )

    def _snapshot(self, tenant: TenantId, window: Window | None = None) -> TenantSnapshot:
        return self._of(tenant).snapshot(window)

    # ---- the archive ----

    async def status(self, tenant: TenantId) -> ArchiveStatus:
        return await self._of(tenant).status()

    async def flush(self, tenant: TenantId) -> ArchiveFlushed:
        return await self.archive.flush_now(tenant)

    async def verify(self, tenant: TenantId) -> ArchiveVerified:
        return await self.archive.verify(tenant)

    def _of(self, tenant: TenantId) -> TenantArchive:
        return self.archive.tenant(tenant)
