"""The processes of queries: begun when there is something to ask, kept while they are asked, ended
at a limit. One that has served a tenant never serves another. Lists have processes and a line of
their own: they carry out SQL of ours alone, with what users say as bound parameters, so they may
hold many tenants' databases, and no query is before them.

Ends what takes more memory than it may, whatever the process itself believes. Knows no SQL.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import trio

from engine.base import limits
from engine.base.clock import Clock, system_clock
from engine.base.errors import EngineError, QueryBusy, QueryTimeout
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.query import messages, process
from engine.query.ports import StoreAccess
from engine.query.process import Answered, Hot, QueryProcess
from engine.query.scratch import remove_abandoned, scratch_of_ours
from engine.query.turns import Shares, Turns

_log: Final = logging.getLogger(__name__)


class PoolStatistics(NamedTuple):
    open: int  # processes
    running: int
    waiting: int
    opened: int  # since the start


class Lane:
    """Processes of one kind, and the line before them."""

    def __init__(self, prepared: messages.Prepare, shares: Shares, processes_max: int) -> None:
        self.prepared: Final = prepared
        self.turns: Final = Turns(shares)
        self.processes_max: Final = processes_max
        self.processes: set[QueryProcess] = set()
        self.idle: list[QueryProcess] = []  # used last comes last

    @property
    def is_for_lists(self) -> bool:
        return self.prepared.is_for_lists

    def idle_for(self, tenant: TenantId) -> QueryProcess | None:
        """The one that knows the tenant's files best."""
        known = [one for one in self.idle if not one.is_ended and one.served == tenant]
        if not known and self.is_for_lists:
            known = [one for one in self.idle if not one.is_ended]
        if not known:
            return None
        self.idle.remove(known[-1])
        return known[-1]


class Turn:
    """A process for one question after the other, until it is given back."""

    def __init__(
        self, pool: QueryPool, lane: Lane, tenant: TenantId, process: QueryProcess
    ) -> None:
        self._pool = pool
        self._lane = lane
        self._tenant = tenant
        self.process = process

    async def ask(self, request: messages.Request) -> messages.Answer:
        return (await self.process.ask(request)).answer

    async def read(
        self,
        request: messages.Select | messages.ListRuns,
        hot: Hot | None = None,
        *,
        parts_bytes_max: int = 0,
    ) -> Answered:
        """What reads files."""
        self.process = await self._pool.fitting(self._lane, self._tenant, self.process)
        return await self.process.ask(request, hot, parts_bytes_max=parts_bytes_max)


class QueryPool:
    def __init__(
        self,
        settings: QuerySettings,
        access: StoreAccess,
        nursery: trio.Nursery,
        scratch: Path,
        clock: Clock = system_clock,
    ) -> None:
        self.access: Final = access
        self._settings = settings
        self._nursery = nursery
        self._scratch = scratch
        self._clock = clock
        self._begun = 0
        self._is_closed = False
        self._something_runs = trio.Event()
        self.queries: Final = self._lane(is_for_lists=False)
        self.lists: Final = self._lane(is_for_lists=True)

    def statistics(self) -> PoolStatistics:
        lanes = (self.queries, self.lists)
        return PoolStatistics(
            sum(len(lane.processes) for lane in lanes),
            sum(lane.turns.running for lane in lanes),
            sum(lane.turns.waiting for lane in lanes),
            self._begun,
        )

    @asynccontextmanager
    async def use(
        self, tenant: TenantId, lane: Lane | None = None, *, time_limit_ms: int | None = None
    ) -> AsyncIterator[Turn]:
        """A turn with a process that is the tenant's. What runs in it is stopped when the caller is
        cancelled or the time is over; waiting for the turn does not count."""
        lane = lane or self.queries
        limit_ms = time_limit_ms or self._settings.time_limit_ms
        async with lane.turns.turn(tenant):
            self._something_runs.set()
            turn = Turn(self, lane, tenant, await self._taken(lane, tenant))
            try:
                with trio.move_on_after(limit_ms / 1_000):
                    yield turn
                    return
            finally:
                self._give_back(lane, turn.process)
        raise QueryTimeout(
            f"the query was stopped after {limit_ms} ms; read fewer days (WHERE day >= ...), or "
            "fewer columns",
            time_limit_ms=limit_ms,
        )

    def forget(self, tenant: TenantId) -> None:
        """The tenant's next question goes to a process that remembers nothing of the files."""
        for lane in (self.queries, self.lists):
            for one in [one for one in lane.processes if lane.is_for_lists or one.tenant == tenant]:
                if one in lane.idle:
                    lane.idle.remove(one)
                    self._discard(lane, one)
                else:
                    one.is_stale = True

    async def fitting(self, lane: Lane, tenant: TenantId, taken: QueryProcess) -> QueryProcess:
        """This one, or another, if directories have come since it was shut in with those that
        were there. To be asked once it is known which files are to be read."""
        if taken.places == self._places(lane, tenant):
            return taken
        self._discard(lane, taken)
        return await self._new(lane, tenant)

    # ---- processes ----

    async def _taken(self, lane: Lane, tenant: TenantId) -> QueryProcess:
        taken = lane.idle_for(tenant) or await self._new(lane, tenant)
        taken.served = tenant
        return taken

    async def _new(self, lane: Lane, tenant: TenantId) -> QueryProcess:
        """There is room for it: no more run at once than there may be."""
        while len(lane.processes) >= lane.processes_max and lane.idle:
            self._discard(lane, lane.idle.pop(0))
        self._begun += 1
        scratch = self._scratch / f"{self._begun}"
        begun = process.begin(scratch)
        begun.places = self._places(lane, tenant)
        begun.served = tenant
        lane.processes.add(begun)
        try:
            with trio.fail_after(limits.query_process_start_ms / 1_000):
                prepared = msgspec.structs.replace(lane.prepared, scratch=str(scratch))
                await begun.prepare(prepared)
                await begun.open(None if lane.is_for_lists else tenant)
        except (EngineError, trio.TooSlowError) as error:
            self._discard(lane, begun)
            _log.error("a process of queries could not be begun: %s", error)
            raise QueryBusy("no process for the query could be begun; come again later") from error
        except BaseException:
            self._discard(lane, begun)
            raise
        return begun

    def _give_back(self, lane: Lane, taken: QueryProcess) -> None:
        taken.used_us = self._clock.monotonic_us()
        if (
            taken.is_ended
            or taken.is_stale
            or self._is_closed
            or taken.reserved_bytes() > self._kept_bytes_max(lane)
        ):
            self._discard(lane, taken)
        else:
            lane.idle.append(taken)

    def _discard(self, lane: Lane, one: QueryProcess) -> None:
        one.end()
        lane.processes.discard(one)
        self._nursery.start_soon(self._gone, one)

    async def _gone(self, one: QueryProcess) -> None:
        with trio.CancelScope(shield=True):
            await one.aclose()
            await trio.to_thread.run_sync(shutil.rmtree, one.scratch, True)

    async def watch(self) -> None:
        """Ends what is too large, and what nobody has asked for long."""
        while True:
            running = [
                (lane, one)
                for lane in (self.queries, self.lists)
                for one in lane.processes
                if one not in lane.idle
            ]
            for lane, one in running:
                if one.taken_bytes() > lane.prepared.data_bytes_max:
                    _log.warning("a query of tenant %s took too much memory", one.served)
                    one.end_as_too_large()
            self.end_the_unused()
            if running:
                await trio.sleep(limits.query_watch_ms / 1_000)
            else:
                self._something_runs = trio.Event()
                with trio.move_on_after(limits.query_process_idle_ms / 1_000):
                    await self._something_runs.wait()

    def end_the_unused(self) -> None:
        """Those that nobody has asked for long, but for one for lists."""
        until_us = self._clock.monotonic_us() - limits.query_process_idle_ms * 1_000
        for lane in (self.queries, self.lists):
            # Whoever has listed will list again, and not wait for a process to be begun.
            kept = lane.idle[-1:] if lane.is_for_lists else []
            for one in lane.idle[:]:
                if one.is_ended or (one.used_us < until_us and one not in kept):
                    lane.idle.remove(one)
                    self._discard(lane, one)

    def close(self) -> None:
        self._is_closed = True
        for lane in (self.queries, self.lists):
            lane.idle.clear()
            for one in list(lane.processes):
                self._discard(lane, one)

    def _kept_bytes_max(self, lane: Lane) -> int:
        """Of one that does nothing: its database's part, and the interpreter's."""
        return lane.prepared.data_bytes_max - limits.query_process_bytes // 2

    def _places(self, lane: Lane, tenant: TenantId) -> tuple[tuple[int, int] | None, ...]:
        """Which directories are where its files lie: a right to read is one to an inode."""
        if self.access.is_s3:
            return ()
        places = [self.access.root] if lane.is_for_lists else self.access.directories(tenant)
        return tuple(map(_identity, places))

    def _lane(self, *, is_for_lists: bool) -> Lane:
        settings = self._settings
        databases = settings.instances_max if is_for_lists else 1
        prepared = messages.Prepare(
            settings=settings,
            access=self.access,
            scratch="",
            niceness=limits.query_lists_niceness if is_for_lists else limits.query_niceness,
            data_bytes_max=settings.instance_bytes * databases + limits.query_process_bytes,
            is_for_lists=is_for_lists,
        )
        running_max = settings.lists_running_max if is_for_lists else settings.running_max
        per_tenant = settings.running_per_tenant_max
        shares = Shares(
            running_max=running_max,
            running_per_tenant_max=max(1, running_max // 2) if is_for_lists else per_tenant,
            waiting_max=settings.waiting_max,
            waiting_per_tenant_max=max(1, settings.waiting_max // 4),
            wait_ms_max=settings.time_limit_ms,
        )
        return Lane(prepared, shares, running_max if is_for_lists else settings.instances_max)


def _identity(place: str) -> tuple[int, int] | None:
    try:
        found = os.stat(place)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@asynccontextmanager
async def open_pool(
    settings: QuerySettings, access: StoreAccess, clock: Clock = system_clock
) -> AsyncIterator[QueryPool]:
    folder = Path(settings.temporary_directory or tempfile.gettempdir())
    await trio.to_thread.run_sync(remove_abandoned, folder)
    with scratch_of_ours(folder) as scratch:
        async with trio.open_nursery() as nursery:
            pool = QueryPool(settings, access, nursery, scratch, clock)
            nursery.start_soon(pool.watch)
            try:
                yield pool
            finally:
                pool.close()
                nursery.cancel_scope.cancel()
