"""Which files could not be read lately. Knows no reason why."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from engine.base import limits
from engine.base.clock import Clock


class UnreadableFiles:
    """What could not be read lately, so that not every query finds it out again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_us: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def among(self, files: Iterable[str]) -> dict[str, str]:
        """Those to leave out, each with its reason."""
        now_us = self._clock.monotonic_us()
        while self._until_us and next(iter(self._until_us.values()))[0] <= now_us:
            self._until_us.popitem(last=False)
        if not self._until_us:
            return {}
        return {file: self._until_us[file][1] for file in files if file in self._until_us}

    def add(self, file: str, reason: str) -> None:
        until_us = self._clock.monotonic_us() + limits.query_unreadable_ms * 1_000
        self._until_us[file] = (until_us, reason)
        self._until_us.move_to_end(file)
        while len(self._until_us) > limits.query_unreadable_kept_max:
            self._until_us.popitem(last=False)
