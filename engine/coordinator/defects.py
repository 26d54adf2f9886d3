"""Failures that nobody foresaw while a stream was served: counted, and told to the log.

A peer that comes back with what brought one about, as often as it can, must not fill the log: one
failure in a while is told whole, and the others by their number. Knows no stream.
"""

from __future__ import annotations

import logging
from typing import Final

from engine.base import limits
from engine.base.clock import Clock

_log = logging.getLogger(__name__)


class Defects:
    def __init__(self, clock: Clock) -> None:
        self._clock: Final = clock
        self._told_us: int | None = None
        self._untold = 0
        self.count = 0

    def note(self, doing: str, failure: BaseException) -> None:
        self.count += 1
        now_us = self._clock.monotonic_us()
        if self._told_us is not None and now_us - self._told_us < limits.defect_told_ms * 1_000:
            self._untold += 1
            return
        untold, self._untold, self._told_us = self._untold, 0, now_us
        more = f" ({untold} more since the last that was told)" if untold else ""
        _log.error("%s failed%s", doing, more, exc_info=failure)
