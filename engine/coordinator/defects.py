"""Failures that nobody foresaw while a stream was served: counted, and told to the log.

A peer that comes back with what brought one about, as often as it can, must not fill the log: each
place is told whole once in a while, and beyond that only how many there were. Knows no stream.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

from engine.base import limits
from engine.base.clock import Clock

_log = logging.getLogger(__name__)

_Place = tuple[str, str, int]  # of a failure: its type, and the file and line that raised it


class Defects:
    def __init__(self, clock: Clock) -> None:
        self._clock: Final = clock
        self._places: Final[dict[_Place, int]] = {}  # when each was told whole
        self._number_told_us = clock.monotonic_us()
        self.count = 0

    def note(self, doing: str, failure: BaseException) -> None:
        self.count += 1
        now_us = self._clock.monotonic_us()
        if self._is_to_be_told(_place_of(failure), now_us):
            _log.error("%s failed", doing, exc_info=failure)
        elif now_us - self._number_told_us >= limits.defects_told_ms * 1_000:
            self._number_told_us = now_us
            kind = type(failure).__name__
            _log.error("%d failures so far, the last: %s failed: %s", self.count, doing, kind)

    def _is_to_be_told(self, place: _Place, now_us: int) -> bool:
        told_us = self._places.get(place)
        if told_us is None:
            is_due = len(self._places) < limits.defect_places_max
        else:
            is_due = now_us - told_us >= limits.defect_told_again_ms * 1_000
        if is_due:
            self._places[place] = now_us
        return is_due


def _place_of(failure: BaseException) -> _Place:
    """Not what it says, which may hold whatever a peer has sent."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    *_, (frame, line) = traceback.walk_tb(failure.__traceback__)
    return type(failure).__name__, frame.f_code.co_filename, line
