"""Virtual time: the engine's clock over Trio's virtual one, events in the order of time, and a
scheduler that does the same for the same seed.

Knows nothing of what happens at those times.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio
from trio._core import _run as trio_scheduler

_EPOCH_US = 1_767_225_600_000_000


class SimulatedClock:
    """The engine's clock. Virtual time passes only when everybody waits; wall time can be set."""

    def __init__(self, virtual: trio.abc.Clock) -> None:
        self._virtual = virtual
        self._wall_us = _EPOCH_US
        self.set_back_us = 0  # in all

    def monotonic_us(self) -> int:
        return round(self._virtual.current_time() * 1_000_000)

    def now_us(self) -> int:
        return self._wall_us + self.monotonic_us()

    def now_ms(self) -> int:
        return self.now_us() // 1_000

    def jump(self, by_us: int) -> None:
        """Somebody sets the wall clock."""
        self._wall_us += by_us
        self.set_back_us += max(0, -by_us)


class Agenda:
    """What is to happen when. Calls at the same moment come in the order in which they were
    asked for."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._earlier = trio.Event()

    def after(self, delay_s: float, call: Callable[[], object]) -> None:
        due = trio.current_time() + delay_s
        if not self._calls or due < self._calls[0][0]:
            self._earlier.set()
        heapq.heappush(self._calls, (due, next(self._numbers), call))

    async def run(self, then: Callable[[], None]) -> None:
        """Make the calls when they are due, and `then` after each, until cancelled."""
        while True:
            self._earlier = trio.Event()
            due = self._calls[0][0] if self._calls else float("inf")
            if due > trio.current_time():
                with trio.move_on_at(due):
                    await self._earlier.wait()
                continue
            _, _, call = heapq.heappop(self._calls)
            call()
            then()
            await trio.lowlevel.checkpoint()


@contextmanager
def deterministic_scheduling(seed: int) -> Iterator[None]:
    """Trio runs tasks of one pass in an order of chance, on purpose. Here the seed is the chance.

    The switch is Trio's own, for Hypothesis; tasks are sorted before they are shuffled.
    """
    before = trio_scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    state = trio_scheduler._r.getstate()
    trio_scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio_scheduler._r.seed(seed)
    try:
        yield
    finally:
        trio_scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before
        trio_scheduler._r.setstate(state)
