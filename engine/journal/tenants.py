"""The journal of a data directory: opens tenants' stores on demand and closes them when idle.

At most `tenants_open_max` stores are open at once; the one that was used longest ago makes room.
All of them share the block cache, the bound on unflushed memory and the commit threads. Whoever
uses a tenant pins it, and a pinned store is never closed under its user.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio

from engine.base.clock import Clock, system_clock
from engine.base.errors import EngineError, JournalBusy, JournalClosed, TenantLimitReached
from engine.base.ids import TenantId
from engine.config.settings import JournalSettings
from engine.journal.committer import Durability, Release, release_calls
from engine.journal.directory import DataDirectory
from engine.journal.durable import sync_folder
from engine.journal.faults import translate
from engine.journal.keepers import run_keepers
from engine.journal.lanes import LoopBudget
from engine.journal.layout import segments_path, store_path, tenant_path, tenants_on_disk
from engine.journal.store import OpenMode, Store, StoreResources
from engine.journal.system import SystemStore
from engine.journal.tenant import TenantJournal, TenantStatistics, unknown_tenant
from engine.journal.threads import CommitThreads
from engine.journal.wal import WalReport, check_wal, cut_unfinished_ends

_log: Final = logging.getLogger(__name__)
_DELETED: Final = ".deleted-"


class JournalStatistics(msgspec.Struct, frozen=True):
    tenants_open: int
    opened: int
    closed: int
    cache_bytes: int
    tenants: tuple[TenantStatistics, ...]


class Journal:
    """Made by `open_journal`. Every method that touches a tenant takes the tenant."""

    def __init__(
        self,
        directory: DataDirectory,
        settings: JournalSettings,
        nursery: trio.Nursery,
        *,
        clock: Clock,
        release: Callable[[TenantId], Release],
    ) -> None:
        self.path = directory.path
        self.settings = settings
        self.clock = clock
        self._nursery = nursery
        self._release = release
        self._resources = StoreResources(
            block_cache_bytes=settings.block_cache_bytes,
            write_buffer_bytes=settings.write_buffer_bytes,
        )
        self.system = SystemStore(self.path, self._resources)
        self._threads = CommitThreads()
        self._budget = LoopBudget()
        trio.lowlevel.add_instrument(self._budget)
        self._open: dict[TenantId, TenantJournal] = {}
        # Who opens, closes or deletes a tenant does it alone; an entry lives while it is used.
        self._locks: dict[TenantId, tuple[trio.Lock, list[None]]] = {}
        self._room_lock = trio.Lock()
        self._opening_count = 0
        self._is_closing = False
        self._stopped = trio.Event()
        self._opened_count = self._closed_count = 0

    @asynccontextmanager
    async def use(self, tenant: TenantId, *, create: bool = True) -> AsyncIterator[TenantJournal]:
        """The tenant's journal, kept open for the length of the block."""
        opened = await self._get(tenant, create=create)
        try:
            yield opened
        finally:
            opened.pins -= 1
            opened.used_us = self.clock.monotonic_us()

    async def pin(self, tenant: TenantId, *, create: bool = True) -> TenantJournal:
        """As `use`, until `unpin`; for who uses a tenant longer than a block lasts."""
        return await self._get(tenant, create=create)

    def unpin(self, opened: TenantJournal) -> None:
        assert opened.pins > 0
        opened.pins -= 1
        opened.used_us = self.clock.monotonic_us()

    async def wait_stopped(self) -> None:
        """Until a tenant stops; one that did since the last call counts."""
        await self._stopped.wait()
        self._stopped = trio.Event()

    def tenant_ids(self) -> list[TenantId]:
        return tenants_on_disk(self.path)

    def open_tenants(self) -> list[TenantJournal]:
        return list(self._open.values())

    async def _get(self, tenant: TenantId, *, create: bool) -> TenantJournal:
        """The open tenant, with one more pin."""
        await trio.lowlevel.checkpoint_if_cancelled()
        found = self._open.get(tenant)
        if found is None:
            async with self._alone_with(tenant):
                found = self._open.get(tenant) or await self._open_tenant(tenant, create=create)
                found.pins += 1
        else:
            found.pins += 1
        found.used_us = self.clock.monotonic_us()
        return found

    @asynccontextmanager
    async def _alone_with(self, tenant: TenantId) -> AsyncIterator[None]:
        lock, users = self._locks.setdefault(tenant, (trio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[tenant]

    async def _open_tenant(self, tenant: TenantId, *, create: bool) -> TenantJournal:
        self._refuse_if_closing()
        path = store_path(self.path, tenant)
        if not create and not path.exists():
            raise unknown_tenant(tenant)
        async with self._room_lock:
            await self._make_room()
            self._opening_count += 1
        try:
            with trio.CancelScope(shield=True):
                store, report = await trio.to_thread.run_sync(self._open_store, path)
                try:
                    self._refuse_if_closing()
                except JournalClosed:
                    await trio.to_thread.run_sync(store.close)
                    raise
            return self._take_up(tenant, store, report)
        finally:
            self._opening_count -= 1

    def _refuse_if_closing(self) -> None:
        if self._is_closing:
            raise JournalClosed("the journal is being closed; start it again to use it")

    def _take_up(self, tenant: TenantId, store: Store, report: WalReport) -> TenantJournal:
        opened = TenantJournal(
            tenant,
            store,
            resources=self._resources,
            durability=Durability(self.settings.durability),
            release=self._release(tenant),
            threads=self._threads,
            budget=self._budget,
            clock=self.clock,
            wal_report=report,
            on_stop=lambda: self._stopped.set(),
        )
        self._open[tenant] = opened
        self._opened_count += 1
        self._nursery.start_soon(opened.committer.run, name=f"commits of {tenant}")
        return opened

    def _open_store(self, path: Path) -> tuple[Store, WalReport]:
        try:
            path.mkdir(parents=True, exist_ok=True)
            # A record that is durable in a directory that is not is lost with the directory. Each
            # time, since whoever made it may have been killed before it came to this.
            for folder in (path.parent, path.parent.parent):
                sync_folder(folder)
        except OSError as error:
            raise translate(error, path) from error
        report = check_wal(path)
        cut = cut_unfinished_ends(report)
        if cut is not None:
            _log.warning("%s", cut)
        return Store(path, self._resources, OpenMode.READ_WRITE), report

    async def _make_room(self) -> None:
        while len(self._open) + self._opening_count >= self.settings.tenants_open_max:
            idle = [opened for opened in self._open.values() if opened.is_idle]
            if not idle:
                raise TenantLimitReached(
                    f"{len(self._open) + self._opening_count} tenants are open and in use, which "
                    "is the limit; raise journal.tenants_open_max or call again later",
                    tenants_open_max=self.settings.tenants_open_max,
                )
            await self.close_tenant(min(idle, key=lambda opened: opened.used_us))

    async def close_tenant(self, opened: TenantJournal) -> None:
        """Close a tenant's store if nobody uses it; it opens again when somebody needs it."""
        async with self._alone_with(opened.tenant_id):
            if self._open.get(opened.tenant_id) is opened and opened.pins == 0:
                await self._close_alone(opened)

    async def _close_alone(self, opened: TenantJournal) -> None:
        # Out of the table first: who asks from now on waits for the lock and opens it anew.
        del self._open[opened.tenant_id]
        with trio.CancelScope(shield=True):
            await opened.aclose()
        self._closed_count += 1

    async def delete_tenant(self, tenant: TenantId) -> None:
        """Delete everything a tenant has in the journal. Refused while somebody uses it."""
        async with self._alone_with(tenant):
            opened = self._open.get(tenant)
            if opened is not None and opened.pins:
                raise JournalBusy(
                    f"tenant {tenant!r} is in use by {opened.pins}; stop its workers and requests "
                    "first",
                    tenant_id=tenant,
                )
            if opened is not None:
                await self._close_alone(opened)
            path = tenant_path(self.path, tenant)
            if not path.exists():
                raise unknown_tenant(tenant)
            with trio.CancelScope(shield=True):
                doomed = await trio.to_thread.run_sync(self._mark_deleted, path)
                self.system.forget_tenant(tenant)
                await trio.to_thread.run_sync(shutil.rmtree, doomed)

    def _mark_deleted(self, path: Path) -> Path:
        """From this rename on the tenant is gone, whatever crashes; the rest is cleaning up."""
        doomed = path.with_name(f"{_DELETED}{self.clock.now_us()}-{os.getpid()}-{path.name}")
        path.rename(doomed)
        sync_folder(doomed.parent)
        return doomed

    def finish_deletions(self) -> None:
        """What a crash left of deleted tenants."""
        for doomed in segments_path(self.path).glob(f"{_DELETED}*"):
            name = doomed.name.partition("tenant=")[2]
            if not tenant_path(self.path, TenantId(name)).exists():
                self.system.forget_tenant(TenantId(name))
            shutil.rmtree(doomed)

    def statistics(self) -> JournalStatistics:
        return JournalStatistics(
            tenants_open=len(self._open),
            opened=self._opened_count,
            closed=self._closed_count,
            cache_bytes=self._resources.cache_used_bytes(),
            tenants=tuple(opened.statistics() for opened in self._open.values()),
        )

    async def aclose(self) -> None:
        """Commit what is pending in every tenant, then close them all, also where one fails."""
        self._is_closing = True
        failures: list[EngineError] = []
        with trio.CancelScope(shield=True):
            for opened in list(self._open.values()):
                try:
                    await opened.aclose()
                except EngineError as error:
                    failures.append(error)
            self._open.clear()
            self._threads.close()
            trio.lowlevel.remove_instrument(self._budget)
            self.system.close()
        if failures:
            raise failures[0]


@asynccontextmanager
async def open_journal(
    data_dir: Path,
    settings: JournalSettings,
    *,
    clock: Clock = system_clock,
    release: Callable[[TenantId], Release] = lambda _: release_calls,
) -> AsyncIterator[Journal]:
    """The journal of a data directory, held by this process until the block ends."""
    directory = DataDirectory(data_dir)
    try:
        async with trio.open_nursery() as nursery:
            journal = Journal(directory, settings, nursery, clock=clock, release=release)
            try:
                await trio.to_thread.run_sync(journal.finish_deletions)
                async with trio.open_nursery() as keepers:
                    keepers.start_soon(run_keepers, journal)
                    yield journal
                    keepers.cancel_scope.cancel()
            finally:
                await journal.aclose()
    finally:
        directory.close()
