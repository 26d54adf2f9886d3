"""The world of a scenario: a real engine over a real journal in a temporary directory, a clock that
moves when it is told to, workers, and runs that have names.

`settle` lets everything happen that follows from what was done, so that a command has one outcome.
"""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import trio
import trio.testing

from engine.base.clock import ManualClock
from engine.base.ids import ProjectId, RunId, TenantId
from engine.config.settings import JournalSettings
from engine.model.context import AuthMode, RequestContext
from engine.runtime.engine import Engine, open_engine
from engine.runtime.handle import Handle
from engine.runtime.writer.tenant import TenantRuntime
from tests.runtime.worker import Held
from tests.scenarios.workers import ShopWorker, ToldWorker

TENANT = "acme"


class World:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lives = 0
        self._stack = AsyncExitStack()
        self.clock = ManualClock()
        self.told: list[str] = []
        self.runs: dict[str, RunId] = {}
        self.tenants: dict[str, str] = {}  # of each run
        self.workers: dict[str, ToldWorker | ShopWorker] = {}
        self.engine: Engine
        self.handle: Handle

    # ---- the runtime ----

    @property
    def _data_dir(self) -> Path:
        return self._folder / f"data-{self._lives}"

    async def open(self) -> None:
        opened = open_engine(self._data_dir, JournalSettings(), clock=self.clock)
        self.engine = await self._stack.enter_async_context(opened)
        self.handle = Handle(self.engine)

    async def close(self) -> None:
        await self._stack.aclose()

    async def kill(self, later_us: int = 0) -> None:
        """What is on the disk at this moment is what the next life begins with."""
        dead = self._data_dir
        self._lives += 1
        shutil.copytree(dead, self._data_dir)
        for worker in self.workers.values():
            worker.session = None
        await self.close()
        self.told.clear()  # what it said while it was put away, nobody heard
        self.clock.advance_us(later_us)
        await self.open()
        await self.time_passes(0)

    async def settle(self) -> None:
        before = -1
        while before != len(self.told):
            before = len(self.told)
            for tenant in self.engine.open_tenants():
                await tenant.journal.barrier()
            await trio.testing.wait_all_tasks_blocked()
            for worker in self.workers.values():
                if isinstance(worker, ShopWorker) and worker.session is not None:
                    while worker.move():
                        await self.tenant().journal.barrier()

    async def time_passes(self, by_us: int, *, jump: bool = False) -> None:
        if jump:
            self.clock.jump_wall_us(by_us)
        else:
            self.clock.advance_us(by_us)
        for tenant, run in self.engine.timers.take_due():
            self.engine.time_has_come(tenant, run)

    # ---- names ----

    def context(self, tenant: str = TENANT) -> RequestContext:
        return RequestContext(TenantId(tenant), ProjectId("shop"), AuthMode.LOOPBACK)

    def context_of(self, run: str, tenant: str | None = None) -> RequestContext:
        return self.context(tenant or self.tenants[run])

    def tenant(self, tenant: str = TENANT) -> TenantRuntime:
        found = [each for each in self.engine.open_tenants() if each.tenant_id == tenant]
        return found[0]

    def name_of(self, run: bytes) -> str:
        return next((name for name, known in self.runs.items() if known == run), "a child")

    def told_worker(self, name: str) -> ToldWorker:
        worker = self.workers[name]
        assert isinstance(worker, ToldWorker), f"{name} runs the shop by itself"
        return worker

    def lease_of(self, worker: str, run: str, epoch: int | None) -> Held:
        leases = self.told_worker(worker).leases
        if epoch is None:
            epoch = max(lease for held, lease in leases if held == self.runs[run])
        return leases[self.runs[run], epoch]
