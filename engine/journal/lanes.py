"""Where a batch is committed: on the event loop's own thread, if the disk is quick and the loop can
afford it, or on a commit thread.

`choose_lane` decides from what it is given; what it is given is measured here. Knows neither the
store nor what is in a batch.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

import trio

from engine.base import limits


class Lane(enum.Enum):
    INLINE = "inline"
    THREAD = "thread"


class InlineEstimate:
    """How long an inline commit would take: a fixed part (the fsync) and a part per record.

    The fixed part is the median of the latest inline commits, so that one hiccup of the disk
    changes nothing and a disk that has become slow is noticed within a few. What a commit thread
    measures is left out: it contains the wait for the interpreter. So that a disk which has become
    quick again is noticed too, a commit is tried inline now and then; each try that was too slow
    doubles the distance to the next.
    """

    _WINDOW: Final = 9
    _PER_RECORD_US: Final = 1.5
    _PROBE_DISTANCE_MIN: Final = 16
    _PROBE_DISTANCE_MAX: Final = 4_096

    def __init__(self) -> None:
        self._fixed_us: deque[float] = deque([0.0], maxlen=self._WINDOW)
        self._median_us = 0.0
        self._probe_distance = self._PROBE_DISTANCE_MIN
        self._commits_to_probe = self._PROBE_DISTANCE_MIN

    def expect_us(self, record_count: int) -> float:
        return self._median_us + self._PER_RECORD_US * record_count

    def observe(self, record_count: int, took_us: float) -> None:
        self._fixed_us.append(max(0.0, took_us - self._PER_RECORD_US * record_count))
        self._median_us = sorted(self._fixed_us)[len(self._fixed_us) // 2]
        if took_us > limits.inline_commit_us_max:
            self._probe_distance = min(2 * self._probe_distance, self._PROBE_DISTANCE_MAX)
        else:
            self._probe_distance = self._PROBE_DISTANCE_MIN
        self._commits_to_probe = self._probe_distance

    def is_probe_due(self) -> bool:
        """Count one commit that seems too slow to be inline; True when it is time for a try."""
        self._commits_to_probe -= 1
        return self._commits_to_probe <= 0


class LoopBudget(trio.abc.Instrument):
    """How much of the present pass of the event loop has gone into inline commits.

    Shared by all tenants of a journal: one tenant's quick disk may hold the loop for a moment,
    three hundred of them in a row may not. A pass ends when the loop looks for I/O.
    """

    def __init__(self) -> None:
        self.left_us: float = limits.inline_pass_us_max

    def spend(self, took_us: float) -> None:
        self.left_us -= took_us

    def before_io_wait(self, timeout: float) -> None:
        self.left_us = limits.inline_pass_us_max


def choose_lane(
    expected_us: float, *, budget_left_us: float, queued_behind: int, probe: bool
) -> Lane:
    """Inline if it is quick, if the loop can afford it, and if nothing could overlap with it.

    A probe may turn out slow: it is tried as long as this pass has anything left at all.
    """
    if queued_behind > 0 or budget_left_us <= 0:
        return Lane.THREAD
    if probe:
        return Lane.INLINE
    affordable_us = min(budget_left_us, limits.inline_commit_us_max)
    return Lane.INLINE if expected_us <= affordable_us else Lane.THREAD
