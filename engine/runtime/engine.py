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
from engine.runtime.pools import WorkerPools
from engine.runtime.roster import Roster, TenantFollower
from engine.runtime.timers import Timers
from engine.runtime.writer.performing import perform_all
from engine.runtime.writer.tenant import TenantRuntime


class Engine:
    def __init__(
        self,
        clock: Clock,
        *,
        lease_ms: int = limits.lease_ms,
        followers: Sequence[TenantFollower] = (),
    ) -> None:
        self.clock = clock
        self.pools = WorkerPools()
        self.timers = Timers(clock)
        self._lease_ms = lease_ms
        self._followers = followers
        self._journal: Journal | None = None
        self._roster: Roster | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def journal(self) -> Journal:
        assert self._journal is not None
        return self._journal

    @property
    def roster(self) -> Roster:
        assert self._roster is not None
        return self._roster

    @property
    def nursery(self) -> trio.Nursery:
        """Of the engine's services; what a follower does for a tenant runs in it as well."""
        assert self._nursery is not None
        return self._nursery

    @property
    def recovered_runs(self) -> int:
        return self.roster.recovered_runs

    async def start(self, journal: Journal, nursery: trio.Nursery) -> None:
        """Take up what was under way when the process before ended, then watch the time."""
        self._journal, self._nursery = journal, nursery
        self._roster = Roster(
            journal,
            pools=self.pools,
            timers=self.timers,
            clock=self.clock,
            lease_ms=self._lease_ms,
            followers=self._followers,
        )
        await self._roster.take_up_all()
        nursery.start_soon(self.timers.run, self.time_has_come)
        nursery.start_soon(self._roster.run_wakes)
        nursery.start_soon(self._roster.run_idle)

    async def tenant(self, tenant: TenantId) -> TenantRuntime:
        """The tenant's runtime, opened and recovered if it is not yet."""
        return await self.roster.tenant(tenant)

    def open_tenants(self) -> list[TenantRuntime]:
        return self.roster.open_tenants()

    def refused_tenants(self) -> dict[TenantId, EngineError]:
        """Tenants that do not work, and why; the others are not concerned."""
        return self.roster.refused()

    def release_of(self, tenant: TenantId) -> Release:
        """What the tenant's committer calls with the effects of a durable batch."""

        def release(effects: Sequence[object]) -> None:
            runtime = self.roster.writing(tenant)
            if runtime is not None:  # one that could not be taken up has nobody to tell
                perform_all(runtime, effects)

        return release

    def time_has_come(self, tenant: TenantId, run: RunId) -> None:
        """What cannot be done now, because the tenant's queue is full, is looked at again a little
        later; it is no reason to stop the others."""
        runtime = self.roster.get(tenant)
        if runtime is None:
            return  # it sleeps, and its first timer will wake it
        try:
            runtime.time_has_come(run)
        except EngineError:
            self.timers.add(self.clock.now_ms() + limits.timer_look_ms_max, tenant, run)
        except Exception as failure:  # noqa: BLE001 - one tenant's defect stops that tenant
            runtime.failed_unexpectedly(failure, "what is due by time")


@asynccontextmanager
async def open_engine(
    data_dir: Path,
    settings: JournalSettings,
    *,
    clock: Clock = system_clock,
    lease_ms: int = limits.lease_ms,
    followers: Sequence[TenantFollower] = (),
) -> AsyncIterator[Engine]:
    """The engine over a data directory: recovered, its timers running, until the block ends."""
    engine = Engine(clock, lease_ms=lease_ms, followers=followers)
    async with open_journal(data_dir, settings, clock=clock, release=engine.release_of) as journal:
        try:
            async with trio.open_nursery() as nursery:
                await engine.start(journal, nursery)
                yield engine
                nursery.cancel_scope.cancel()
        finally:
            await engine.roster.aclose()
