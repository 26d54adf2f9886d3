"""The only place that reads the machine's clocks.

Everything that needs the time takes a `Clock`, so that tests can move it. Wall time may jump; what
must not (latencies, intervals) uses `monotonic_us`.
"""

from __future__ import annotations

import time
from typing import Final, Protocol


class Clock(Protocol):
    def now_us(self) -> int: ...
    def now_ms(self) -> int: ...
    def monotonic_us(self) -> int: ...


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1_000


class ManualClock:
    """A clock that stands still until it is moved; for tests and the simulation."""

    def __init__(self, now_us: int = 1_767_225_600_000_000) -> None:
        self._wall_us = now_us
        self._monotonic_us = 0

    def now_us(self) -> int:
        return self._wall_us

    def now_ms(self) -> int:
        return self._wall_us // 1_000

    def monotonic_us(self) -> int:
        return self._monotonic_us

    def advance_us(self, by_us: int) -> None:
        assert by_us >= 0
        self._wall_us += by_us
        self._monotonic_us += by_us

    def jump_wall_us(self, by_us: int) -> None:
        """Wall time jumps, as it does when an operator or NTP sets it; monotonic time does not."""
        self._wall_us += by_us


# For what reads the time at every turn and cannot pay for a method and a division.
monotonic_ns: Final = time.monotonic_ns
system_clock: Final = SystemClock()
