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
from engine.base.clock import monotonic_ns

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
_WINDOW_NS: Final = 1_000 * limits.loop_passes_window_us
_LONG_NS: Final = 1_000 * limits.loop_pass_us_max


class LoopPasses(trio.abc.Instrument):
    """Called for every pass: the clock is the machine's own, and what is rare is elsewhere."""

    __slots__ = (
        "_begun_ns",
        "_longest_before_ns",
        "_longest_ns",
        "_minute_ends_ns",
        "_monotonic_ns",
        "_noted_ns",
        "long_total",
        "passes_total",
    )

    def __init__(self, monotonic_ns: Callable[[], int] = monotonic_ns) -> None:
        self._monotonic_ns = monotonic_ns
        self._begun_ns = monotonic_ns()
        self.passes_total = 0
        self.long_total = 0
        # Of this minute, and of the one before it.
        self._longest_ns = self._longest_before_ns = 0
        self._minute_ends_ns = self._begun_ns + _WINDOW_NS
        # What a pass must be longer than to be noted.
        self._noted_ns = 0

    def after_io_wait(self, timeout: float) -> None:
        self._begun_ns = self._monotonic_ns()

    def before_io_wait(self, timeout: float) -> None:
        self.passes_total += 1
        took_ns = self._monotonic_ns() - self._begun_ns
        if took_ns > self._noted_ns or self._begun_ns > self._minute_ends_ns:
            self._note(took_ns)

    def _note(self, took_ns: int) -> None:
        self._turn_over(self._begun_ns + took_ns)
        self._longest_ns = max(self._longest_ns, took_ns)
        self._noted_ns = min(self._longest_ns, _LONG_NS)
        self.long_total += took_ns > _LONG_NS

    @property
    def longest_us(self) -> int:
        self._turn_over(self._monotonic_ns())
        return max(self._longest_ns, self._longest_before_ns) // 1_000

    def _turn_over(self, now_ns: int) -> None:
        if now_ns < self._minute_ends_ns:
            return
        was_just_now = now_ns < self._minute_ends_ns + _WINDOW_NS
        self._longest_before_ns = self._longest_ns if was_just_now else 0
        self._longest_ns = self._noted_ns = 0
        self._minute_ends_ns = now_ns + _WINDOW_NS

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
