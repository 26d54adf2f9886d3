"""One simulated process of the runtime: the real engine over a simulated journal, which can be
killed at any moment, in the middle of a commit too, or asked to stop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from engine.base.errors import EngineError
from engine.base.ids import RunId, TenantId
from engine.config.settings import JournalSettings
from engine.runtime.engine import Engine
from engine.runtime.handle import Handle
from tests.simulation.journal import SimulatedJournal

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
_SETTINGS = JournalSettings(tenant_idle_close_s=8)


class Unreachable(Exception):
    """No answer came: the process is down, or ended before it had answered."""


class Process:
    def __init__(self, world: World) -> None:
        self.engine = Engine(world.clock, lease_ms=world.lease_ms)
        self.handle = Handle(self.engine, new_run_id=world.new_run_id)
        self.is_up = False
        self.is_dead = False
        self.ended = trio.Event()
        self.journal: SimulatedJournal | None = None
        self._world = world
        self._calls: set[trio.CancelScope] = set()
        self._services = trio.CancelScope()

    async def run(self) -> None:
        """From its start until it is dead and buried, also when the simulation itself fails."""
        async with trio.open_nursery() as nursery:
            self.journal = SimulatedJournal(
                self._world.disk,
                _SETTINGS,
                nursery,
                clock=self._world.clock,
                release=self.engine.release_of,
            )
            try:
                await self._serve(self.journal)
            finally:
                self.kill()
                with trio.CancelScope(shield=True):
                    await self.journal.bury()
                self.ended.set()
            nursery.cancel_scope.cancel()

    async def _serve(self, journal: SimulatedJournal) -> None:
        with self._services:
            async with trio.open_nursery() as services:
                await self.engine.start(journal, services)  # type: ignore[arg-type]
                self.is_up = True
                self._world.trace(f"the runtime is up, {self.engine.recovered_runs} runs")
                await trio.sleep_forever()
        if not self.is_dead:
            await self.engine.roster.aclose()
            await journal.aclose()

    def kill(self) -> None:
        """From this moment nothing of it reaches the disk, the network or a client."""
        if self.is_dead:
            return
        self.is_dead, self.is_up = True, False
        if self.journal is not None:
            self.journal.die()
        self._cut_off()

    def stop(self) -> None:
        """SIGTERM."""
        self.is_up = False
        for link in list(self._world.links):
            if link.process is self:
                link.end_here("the runtime is stopping")
        self._cut_off()

    def _cut_off(self) -> None:
        for link in list(self._world.links):
            if link.process is self:
                link.end_here("the runtime went away")
        for scope in self._calls:
            scope.cancel()
        self._services.cancel()

    async def ask(self, call: Callable[[Handle], Awaitable[T]]) -> T:
        """A request over the network: answered, refused with an error, or no answer."""
        await trio.sleep(self._world.latency())
        if not self.is_up:
            raise Unreachable
        with trio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                answer = await call(self.handle)
            except EngineError:
                if not self.is_up:
                    raise Unreachable from None
                raise
            finally:
                self._calls.discard(scope)
        if scope.cancelled_caught or not self.is_up or self._world.loses_answer():
            raise Unreachable
        return answer

    # ---- looking inside ----

    def next_offset(self, tenant: TenantId, run: RunId) -> int | None:
        runtime = self.engine.roster.get(tenant)
        return None if runtime is None else runtime.look(run).state.next_offset
