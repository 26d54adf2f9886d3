"""The journal of a simulated process: real tenant journals and committers over simulated stores,
with commit threads that are tasks in virtual time.

Stands where `engine.journal.tenants.Journal` stands in the product. Knows no run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from engine.base.errors import JournalClosed
from engine.base.ids import TenantId
from engine.config.settings import JournalSettings
from engine.journal.committer import Durability, Release
from engine.journal.keepers import resume_tenants
from engine.journal.lanes import LoopBudget
from engine.journal.tenant import TenantJournal
from engine.journal.threads import CommitChain
from engine.journal.wal import WalReport
from tests.simulation.disk import Disk, SimulatedStore
from tests.simulation.time import SimulatedClock

T = TypeVar("T")


class SimulatedThreads:
    """Commit threads: what they do takes time, and happens on this thread."""

    def __init__(self, disk: Disk, nursery: trio.Nursery) -> None:
        self.token = self  # a chain tells its results through the token
        self._disk = disk
        self._nursery = nursery
        self._waiting: list[CommitChain] = []
        self._results: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def start(self, chain: CommitChain) -> None:
        self._waiting.append(chain)
        self._nursery.start_soon(self._work, chain)

    def ended(self) -> None:
        """A chain ran out of jobs."""

    def run_sync_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        self._results.append((call, arguments))

    async def call(self, blocking: Callable[[], T]) -> T:
        await trio.sleep(0.001)
        return blocking()

    def finish_everything(self) -> None:
        while self._waiting:
            self._waiting.pop(0).run_jobs()
        self._tell()

    async def _work(self, chain: CommitChain) -> None:
        slow_s = self._disk.slow_s
        await trio.sleep(self._disk.chance.random() * slow_s)
        if chain not in self._waiting:
            return
        self._waiting.remove(chain)
        chain.run_jobs()
        # It is on the disk, and the event loop has not heard of it yet.
        await trio.sleep(self._disk.chance.random() * slow_s)
        self._tell()

    def _tell(self) -> None:
        while self._results:
            call, arguments = self._results.popleft()
            call(*arguments)


class SimulatedSystem:
    """The system store: small, and each write is durable when it returns."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.is_dead = False

    def set_wake(self, tenant: TenantId, due_ms: int | None) -> None:
        if self.is_dead:
            raise JournalClosed("the process has ended")
        if due_ms is None:
            self._disk.wakes.pop(tenant, None)
        else:
            self._disk.wakes[tenant] = due_ms

    def wake_of(self, tenant: TenantId) -> int | None:
        return self._disk.wakes.get(tenant)

    def due_tenants(self, now_ms: int) -> Iterator[tuple[int, TenantId]]:
        due = [(due_ms, name) for name, due_ms in self._disk.wakes.items() if due_ms <= now_ms]
        return iter(sorted(due))

    def next_wake_ms(self) -> int | None:
        return min(self._disk.wakes.values(), default=None)


class SimulatedJournal:
    def __init__(
        self,
        disk: Disk,
        settings: JournalSettings,
        nursery: trio.Nursery,
        *,
        clock: SimulatedClock,
        release: Callable[[TenantId], Release],
    ) -> None:
        self.path = Path("/nowhere")
        self.settings = settings
        self.clock = clock
        self.system = SimulatedSystem(disk)
        self.threads = SimulatedThreads(disk, nursery)
        self._disk = disk
        self._nursery = nursery
        self._release = release
        self._budget = LoopBudget()
        self._open: dict[TenantId, TenantJournal] = {}

    # ---- what the runtime asks ----

    def tenant_ids(self) -> list[TenantId]:
        return sorted(self._disk.tenants)

    def open_tenants(self) -> list[TenantJournal]:
        return list(self._open.values())

    async def pin(self, tenant: TenantId, *, create: bool = True) -> TenantJournal:
        await self.threads.call(lambda: None)
        opened = self._open.get(tenant) or self._open_tenant(tenant)
        opened.pins += 1
        return opened

    def unpin(self, opened: TenantJournal) -> None:
        assert opened.pins > 0
        opened.pins -= 1

    @asynccontextmanager
    async def use(self, tenant: TenantId) -> AsyncIterator[TenantJournal]:
        opened = await self.pin(tenant)
        try:
            yield opened
        finally:
            self.unpin(opened)

    async def close_tenant(self, opened: TenantJournal) -> None:
        if opened.pins == 0 and self._open.get(opened.tenant_id) is opened:
            del self._open[opened.tenant_id]
            await opened.aclose()

    def _open_tenant(self, tenant: TenantId) -> TenantJournal:
        if self.system.is_dead:
            raise JournalClosed("the process has ended")
        opened = TenantJournal(
            tenant,
            SimulatedStore(self._disk, tenant),  # type: ignore[arg-type]
            resources=None,  # type: ignore[arg-type]
            durability=Durability.COMMIT,
            release=self._release(tenant),
            threads=self.threads,  # type: ignore[arg-type]
            budget=self._budget,
            clock=self.clock,
            wal_report=WalReport(),
        )
        self._open[tenant] = opened
        self._nursery.start_soon(opened.committer.run)
        return opened

    # ---- what the simulation asks ----

    async def resume(self) -> None:
        """As the keeper does that looks for room on a full disk."""
        await resume_tenants(self)  # type: ignore[arg-type]

    async def aclose(self) -> None:
        for opened in self.open_tenants():
            await opened.aclose()

    def die(self) -> None:
        """From this moment nothing reaches the disk."""
        self.system.is_dead = True
        for opened in self._open.values():
            opened.store.is_dead = True  # type: ignore[attr-defined]

    async def bury(self) -> None:
        """The process is gone; let its tasks come to an end."""
        self.threads.finish_everything()
        for opened in self.open_tenants():
            await opened.committer.aclose()
