"""How long the event loop is held: the time from one look at what has come in to the next, in which
whatever can go on does, and everybody else waits. Owns the figures and their text, not the loop.

Of the loop's hooks the two around that look are the cheap ones: they are called once for all tasks
that go on in between, where those around a task's step would cost more than some of the steps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from engine.base import limits
from engine.base.clock import system_clock

_LINES: Final = (
    "# HELP engine_loop_pass_seconds_max The longest pass of the event loop, in which nobody else "
    "had a turn, of the last one to two minutes.",
    "# TYPE engine_loop_pass_seconds_max gauge",
    "engine_loop_pass_seconds_max {longest:.6f}",
    "# HELP engine_loop_passes_total Passes of the event loop.",
    "# TYPE engine_loop_passes_total counter",
    "engine_loop_passes_total {passes}",
    "# HELP engine_loop_passes_long_total Passes longer than the {bound:g} s a message may take.",
    "# TYPE engine_loop_passes_long_total counter",
    "engine_loop_passes_long_total {long}",
)


class LoopPasses(trio.abc.Instrument):
    def __init__(self, monotonic_us: Callable[[], int] = system_clock.monotonic_us) -> None:
        self._monotonic_us = monotonic_us
        self._begun_us = monotonic_us()
        self.passes_total = 0
        self.long_total = 0
        # Of this minute, and of the one before it.
        self._longest_us = self._longest_before_us = 0
        self._minute_ends_us = self._begun_us + limits.loop_passes_window_us

    def after_io_wait(self, timeout: float) -> None:
        self._begun_us = self._monotonic_us()

    def before_io_wait(self, timeout: float) -> None:
        now_us = self._monotonic_us()
        took_us = now_us - self._begun_us
        self.passes_total += 1
        if now_us >= self._minute_ends_us:
            self._turn_over(now_us)
        if took_us > self._longest_us:
            self._longest_us = took_us
        if took_us > limits.loop_pass_us_max:
            self.long_total += 1

    @property
    def longest_us(self) -> int:
        now_us = self._monotonic_us()
        if now_us >= self._minute_ends_us:
            self._turn_over(now_us)
        return max(self._longest_us, self._longest_before_us)

    def _turn_over(self, now_us: int) -> None:
        window_us = limits.loop_passes_window_us
        was_just_now = now_us < self._minute_ends_us + window_us
        self._longest_before_us = self._longest_us if was_just_now else 0
        self._longest_us = 0
        self._minute_ends_us = now_us + window_us

    def text(self) -> str:
        """In Prometheus' text format."""
        return "\n".join((*_LINES, "")).format(
            longest=self.longest_us / 1_000_000,
            passes=self.passes_total,
            long=self.long_total,
            bound=limits.loop_pass_us_max / 1_000_000,
        )


@asynccontextmanager
async def measured_passes() -> AsyncIterator[LoopPasses]:
    """The passes of this event loop are measured until the block ends."""
    passes = LoopPasses()
    trio.lowlevel.add_instrument(passes)
    try:
        yield passes
    finally:
        trio.lowlevel.remove_instrument(passes)
