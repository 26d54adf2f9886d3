"""The engine of a process: every tenant's runtime over one journal, one set of worker pools and
one heap of timers. Made by `open_engine`; the doors get a `Handle` over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from engine.base import limits
from engine.base.clock import Clock, system_clock
from engine.base.errors import EngineError
from engine.base.ids import RunId, TenantId
from engine.config.settings import JournalSettings
from engine.journal.committer import Release
from engine.journal.tenants import Journal, open_journal
from engine.runtime.performing import perform_all
from engine.runtime.pools import WorkerPools
from engine.runtime.tenant import TenantRuntime
from engine.runtime.timers import Timers


class Engine:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.pools = WorkerPools()
        self.timers = Timers(clock)
        self.recovered_runs = 0
        self._tenants: dict[TenantId, TenantRuntime] = {}
        self._opening = trio.Lock()
        self._journal: Journal | None = None

    @property
    def journal(self) -> Journal:
        assert self._journal is not None
        return self._journal

    async def recover(self, journal: Journal) -> None:
        """Take up what was under way when the process before ended."""
        self._journal = journal
        for tenant in journal.tenant_ids():
            self.recovered_runs += await self._open(tenant)

    async def tenant(self, tenant: TenantId) -> TenantRuntime:
        """The tenant's runtime, opened and recovered if it is not yet."""
        found = self._tenants.get(tenant)
        if found is None:
            async with self._opening:
                if tenant not in self._tenants:
                    await self._open(tenant)
            found = self._tenants[tenant]
        return found

    async def _open(self, tenant: TenantId) -> int:
        # Pinned for as long as the process lives: its timers and its workers' runs are here.
        opened = await self.journal.pin(tenant)
        runtime = TenantRuntime(opened, pools=self.pools, timers=self.timers, clock=self.clock)
        self._tenants[tenant] = runtime
        return runtime.recover()

    def release_of(self, tenant: TenantId) -> Release:
        """What the tenant's committer calls with the effects of a durable batch."""

        def release(effects: Sequence[object]) -> None:
            perform_all(self._tenants[tenant], effects)

        return release

    def time_has_come(self, tenant: TenantId, run: RunId) -> None:
        """What cannot be done now, because the tenant is stopped or its queue is full, is looked
        at again a little later; it is no reason to stop the others."""
        try:
            self._tenants[tenant].time_has_come(run)
        except EngineError:
            self.timers.add(self.clock.now_ms() + limits.timer_look_ms_max, tenant, run)

    def open_tenants(self) -> list[TenantRuntime]:
        return list(self._tenants.values())

    async def aclose(self) -> None:
        for runtime in self._tenants.values():
            self.journal.unpin(runtime.journal)


@asynccontextmanager
async def open_engine(
    data_dir: Path, settings: JournalSettings, *, clock: Clock = system_clock
) -> AsyncIterator[Engine]:
    """The engine over a data directory: recovered, its timers running, until the block ends."""
    engine = Engine(clock)
    async with open_journal(data_dir, settings, clock=clock, release=engine.release_of) as journal:
        await engine.recover(journal)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.timers.run, engine.time_has_come)
                yield engine
                nursery.cancel_scope.cancel()
        finally:
            await engine.aclose()
