"""Who may be let in: a rate for each key and a number of waiting requests for each project.

Plain counters over times that are passed in; knows no clock, no header and no tenant.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

_US: Final = 1_000_000


class TokenBuckets:
    """Each key may take `rate_per_s` a second on average and `burst` at once.

    Remembers the keys that came last, `keys_max` of them. A key that is forgotten comes back with a
    full bucket, which it would have had anyway unless more keys than that are busy at once.
    """

    def __init__(self, *, rate_per_s: float, burst: int, keys_max: int) -> None:
        assert rate_per_s > 0
        assert burst >= 1
        assert keys_max >= 1
        self._per_us = rate_per_s / _US
        self._burst = float(burst)
        self._keys_max = keys_max
        self._levels: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def take(self, key: Hashable, now_us: int) -> float:
        """0 when the key may go on, else after how many seconds it may come again."""
        level, then_us = self._levels.pop(key, (self._burst, now_us))
        level = min(self._burst, level + max(0, now_us - then_us) * self._per_us)
        wait_us = 0.0 if level >= 1 else (1 - level) / self._per_us
        self._levels[key] = (level - 1 if wait_us == 0 else level, now_us)
        if len(self._levels) > self._keys_max:
            self._levels.popitem(last=False)
        return wait_us / _US


class InFlight:
    """How many are inside, for each key; a key with nobody inside takes no memory."""

    def __init__(self, limit: int) -> None:
        assert limit >= 1
        self._limit = limit
        self._counts: dict[Hashable, int] = {}

    def enter(self, key: Hashable) -> bool:
        count = self._counts.get(key, 0)
        if count >= self._limit:
            return False
        self._counts[key] = count + 1
        return True

    def leave(self, key: Hashable) -> None:
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]

    def count(self, key: Hashable) -> int:
        return self._counts.get(key, 0)
