"""Whose turn it is: so many at once, each tenant its share of them and of the line, and from the
line the tenants one after the other. Whoever finds the line full, or waits too long in it, is told
when to come again. Knows not what is done in a turn.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio

from engine.base import limits
from engine.base.clock import Clock, system_clock
from engine.base.errors import QueryBusy
from engine.base.ids import TenantId


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    running_max: int
    running_per_tenant_max: int
    waiting_max: int
    waiting_per_tenant_max: int
    wait_ms_max: int


class _Place:
    """In the line."""

    def __init__(self) -> None:
        self.reached = trio.Event()


class Turns:
    def __init__(self, shares: Shares, clock: Clock = system_clock) -> None:
        self._shares = shares
        self._clock = clock
        self._running: Counter[TenantId] = Counter()
        # The tenant whose turn was longest ago comes first.
        self._lines: OrderedDict[TenantId, deque[_Place]] = OrderedDict()
        self._turn_us = 0.0  # how long one takes, lately

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._lines.values()))

    @asynccontextmanager
    async def turn(self, tenant: TenantId) -> AsyncIterator[None]:
        if tenant in self._lines or not self._has_room(tenant):
            await self._wait(tenant)
        else:
            self._running[tenant] += 1
        began_us = self._clock.monotonic_us()
        try:
            yield
        finally:
            took_us = self._clock.monotonic_us() - began_us
            self._turn_us += (took_us - self._turn_us) / 8
            self._release(tenant)

    async def _wait(self, tenant: TenantId) -> None:
        line = self._lines.get(tenant, ())
        if (
            self.waiting >= self._shares.waiting_max
            or len(line) >= self._shares.waiting_per_tenant_max
        ):
            raise self._busy(f"{self.waiting} queries wait already, {len(line)} of them yours")
        place = _Place()
        self._lines.setdefault(tenant, deque()).append(place)
        try:
            with trio.move_on_after(self._shares.wait_ms_max / 1_000):
                await place.reached.wait()
                return
        except trio.Cancelled:
            self._leave(tenant, place)
            raise
        if not place.reached.is_set():
            self._leave(tenant, place)
            raise self._busy(f"it was not this query's turn within {self._shares.wait_ms_max} ms")

    def _leave(self, tenant: TenantId, place: _Place) -> None:
        if place.reached.is_set():
            self._release(tenant)
            return
        self._lines[tenant].remove(place)
        if not self._lines[tenant]:
            del self._lines[tenant]

    def _release(self, tenant: TenantId) -> None:
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        for waiting in list(self._lines):
            if self._has_room(waiting):
                self._running[waiting] += 1
                self._lines[waiting].popleft().reached.set()
                self._lines.move_to_end(waiting)
                if not self._lines[waiting]:
                    del self._lines[waiting]

    def _has_room(self, tenant: TenantId) -> bool:
        return (
            self.running < self._shares.running_max
            and self._running[tenant] < self._shares.running_per_tenant_max
        )

    def _busy(self, why: str) -> QueryBusy:
        waited_s = self.waiting * self._turn_us / 1e6 / self._shares.running_max
        retry_after_s = min(max(1, math.ceil(waited_s)), limits.query_retry_after_s_max)
        return QueryBusy(f"{why}; come again in {retry_after_s} s", retry_after_s=retry_after_s)
