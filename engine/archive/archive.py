"""The archive of a process: the store, the services, and the tenants that are open.

Made by `open_archive`; the runtime tells it which tenants are open and asks it for everything else.
A store that is down, or that does not let us in, stops nothing: runs stay hot, `status` says why.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from engine.archive.files.lookup import ArchivedRun
from engine.archive.files.rehydrate import Rehydrated, rehydrate_tenant
from engine.archive.files.verify import verify_tenant
from engine.archive.moving.builder import Builder
from engine.archive.moving.compaction import compact_tenant
from engine.archive.moving.deletion import delete_objects
from engine.archive.moving.flusher import Flusher, adopt_and_flush
from engine.archive.moving.retention import Retained, retain
from engine.archive.services import Periodic
from engine.archive.steps import OnStep, go_on
from engine.archive.store.opening import open_store
from engine.archive.store.stores import ObjectStore, S3Access
from engine.archive.tenant import TenantArchive
from engine.base import limits
from engine.base.clock import Clock, system_clock
from engine.base.errors import ArchiveRefused, ArchiveUnreachable, EngineError, TenantUnknown
from engine.base.ids import RunId, TenantId
from engine.config.archive import ArchiveSettings
from engine.journal.tenant import TenantJournal
from engine.model.query import ArchiveFlushed, ArchiveStatus, ArchiveVerified


class Archive:
    """Made by `open_archive`. Every method that touches a tenant takes the tenant."""

    def __init__(
        self,
        settings: ArchiveSettings,
        store: ObjectStore,
        data_dir: Path,
        clock: Clock,
        on_step: OnStep,
    ) -> None:
        self.settings = settings
        self.store = store
        self._clock = clock
        self._on_step = on_step
        self._outgoing = data_dir / "outgoing"
        self._requests = trio.CapacityLimiter(limits.archive_requests_at_once_max)
        self._tenants: dict[TenantId, TenantArchive] = {}
        interval_ms = settings.flush_interval_ms
        self._builder = Builder(self._outgoing, clock)
        self._flusher = Flusher(self._tenants, self._builder, interval_ms=interval_ms, clock=clock)
        self._retention = Periodic(
            self._tenants, retain, interval_ms=min(interval_ms, limits.archive_retention_ms_max)
        )
        self._compaction = Periodic(
            self._tenants,
            compact_tenant,
            interval_ms=max(interval_ms, limits.archive_compaction_ms),
        )
        # Why the store cannot be used, as far as is known; "" if it can.
        self.problem = ""

    # ---- tenants come and go ----

    def tenant_opened(self, journal: TenantJournal) -> TenantArchive:
        """From now on the services look after it. Reads its manifest: brief, and blocking."""
        assert journal.tenant_id not in self._tenants
        archive = TenantArchive(
            journal,
            self.store,
            self.settings,
            self._clock,
            self._outgoing,
            self._requests,
            self._builder,
            self._on_step,
        )
        self._tenants[journal.tenant_id] = archive
        return archive

    async def tenant_closing(self, tenant: TenantId) -> None:
        """Waits until no service is at it, which is soon; before its journal is closed."""
        archive = self._tenants.pop(tenant, None)
        if archive is not None:
            await archive.close()

    def tenant(self, tenant: TenantId) -> TenantArchive:
        archive = self._tenants.get(tenant)
        if archive is None:
            raise TenantUnknown(f"tenant {tenant!r} is not open here", tenant_id=tenant)
        return archive

    def note_ended(self, tenant: TenantId, count: int = 1) -> None:
        """Runs have ended and are durable; called for each, so it does next to nothing."""
        archive = self._tenants.get(tenant)
        if archive is not None:
            archive.ended_count += count
            if archive.ended_count >= self.settings.flush_threshold:
                self._flusher.wake()

    # ---- what an operator asks for; errors are raised ----

    async def flush_now(self, tenant: TenantId) -> ArchiveFlushed:
        archive = self.tenant(tenant)
        try:
            return await adopt_and_flush(archive)
        except (ArchiveUnreachable, ArchiveRefused) as error:
            archive.failed(error)
            raise

    async def retain_now(self, tenant: TenantId) -> Retained:
        return await retain(self.tenant(tenant))

    async def compact_now(self, tenant: TenantId) -> int:
        return await compact_tenant(self.tenant(tenant))

    async def status(self, tenant: TenantId) -> ArchiveStatus:
        return await self.tenant(tenant).status()

    async def verify(self, tenant: TenantId) -> ArchiveVerified:
        return await verify_tenant(self.tenant(tenant))

    async def rehydrate(self, tenant: TenantId) -> Rehydrated:
        return await rehydrate_tenant(self.tenant(tenant))

    async def lookup(self, tenant: TenantId, run: RunId) -> ArchivedRun | None:
        return await self.tenant(tenant).lookup(run)

    async def delete_tenant(self, tenant: TenantId) -> int:
        """Everything the tenant has in the store; how many objects. Its journal must be closed, or
        be deleted next: its manifest goes with it."""
        await self.tenant_closing(tenant)
        return await trio.to_thread.run_sync(delete_objects, self.store, tenant)

    # ---- the store ----

    @property
    def access(self) -> S3Access | None:
        """For the query side: how to read the bucket; None if it is a directory."""
        return self.store.access

    async def check(self) -> None:
        """Raises what is wrong with the store, if anything is; for the start and for `doctor`."""
        try:
            await trio.to_thread.run_sync(self.store.ensure_ready, abandon_on_cancel=True)
            self.problem = ""
        except EngineError as error:
            self.problem = error.message
            raise

    async def run(self) -> None:
        """The services, until cancelled."""
        while True:
            try:
                await self.check()
                break
            except EngineError as error:
                for archive in list(self._tenants.values()):
                    archive.failed(error)
                self._flusher.backoff.failed()
                await trio.sleep(self._flusher.backoff.delay_ms / 1_000)
        self._flusher.backoff.succeeded()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flusher.run)
            nursery.start_soon(self._retention.run)
            if self.settings.compaction:
                nursery.start_soon(self._compaction.run)

    async def aclose(self) -> None:
        self.store.close()
        await self._builder.aclose()


@asynccontextmanager
async def open_archive(
    settings: ArchiveSettings,
    data_dir: Path,
    clock: Clock = system_clock,
    *,
    services: bool = True,
    on_step: OnStep = go_on,
) -> AsyncIterator[Archive]:
    """The archive of a data directory; `services` off: only what is asked for is done."""
    store = open_store(settings, data_dir)
    archive = Archive(settings, store, data_dir, clock, on_step)
    try:
        async with trio.open_nursery() as nursery:
            if services and settings.enabled:
                nursery.start_soon(archive.run)
            yield archive
            nursery.cancel_scope.cancel()
    finally:
        await archive.aclose()
