"""What is due by time: one heap for all tenants, and the service that calls when something is due.

Due times are wall-clock times in milliseconds, as the journal has them. A timer never fires early:
it is compared with the clock each time. If the clock jumps, the service notices within
`timer_look_ms_max`, since it never sleeps longer than that. A timer is a hint to look at a run and
not a promise that something is due there; a stale one costs a look.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import trio

from engine.base import limits
from engine.base.clock import Clock
from engine.base.ids import RunId, TenantId

Due = Callable[[TenantId, RunId], None]


class Timers:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, TenantId, RunId]] = []
        self._earlier = trio.Event()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due_ms: int, tenant: TenantId, run: RunId) -> None:
        is_first = not self._heap or due_ms < self._heap[0][0]
        heapq.heappush(self._heap, (due_ms, tenant, run))
        if is_first:
            self._earlier.set()

    def forget(self, tenant: TenantId) -> None:
        """Take out everything of a tenant that is stopped or put to sleep."""
        self._heap = [timer for timer in self._heap if timer[1] != tenant]
        heapq.heapify(self._heap)

    def next_of(self, tenant: TenantId) -> int | None:
        """When the tenant's first timer is due."""
        return min((due_ms for due_ms, owner, _ in self._heap if owner == tenant), default=None)

    def next_due_ms(self) -> int | None:
        return self._heap[0][0] if self._heap else None

    def take_due(self) -> list[tuple[TenantId, RunId]]:
        """Everything that is due now, earliest first, each run once."""
        now_ms = self._clock.now_ms()
        due: dict[tuple[TenantId, RunId], None] = {}
        while self._heap and self._heap[0][0] <= now_ms and len(due) < limits.timers_per_look_max:
            _, tenant, run = heapq.heappop(self._heap)
            due[tenant, run] = None
        return list(due)

    async def run(self, on_due: Due) -> None:
        """Call `on_due` for each run whose time has come, until cancelled."""
        while True:
            begun_us = self._clock.monotonic_us()
            for tenant, run in self.take_due():
                on_due(tenant, run)
                now_us = self._clock.monotonic_us()
                if now_us - begun_us > limits.loop_slice_us:
                    await trio.lowlevel.checkpoint()
                    begun_us = now_us
            await self._wait_until_next()

    async def _wait_until_next(self) -> None:
        due_ms = self.next_due_ms()
        if due_ms is None:
            # Nothing is pending, so no clock can make anything due: an idle engine does not wake.
            self._earlier = trio.Event()
            await self._earlier.wait()
            return
        wait_ms = min(max(due_ms - self._clock.now_ms(), 0), limits.timer_look_ms_max)
        self._earlier = trio.Event()
        with trio.move_on_after(wait_ms / 1_000):
            await self._earlier.wait()
