"""So much at once and so much a second, for whoever has to be kept from asking more. Knows no clock
and no asker.
"""

from __future__ import annotations

from typing import Final


class Allowance:
    """What is overspent has to be made good."""

    def __init__(self, at_once: float, per_s: float, now_s: float) -> None:
        self._at_once: Final = at_once
        self._per_s: Final = per_s
        self.left = at_once
        self._counted_s = now_s

    def spend(self, amount: float, now_s: float) -> float:
        """In how many seconds this is made good; 0 if nothing is overspent."""
        earned = (now_s - self._counted_s) * self._per_s
        self._counted_s = now_s
        self.left = min(self.left + earned, self._at_once) - amount
        return max(-self.left / self._per_s, 0.0)

    def earn(self, amount: float) -> None:
        """Beside what comes with time."""
        self.left = min(self.left + amount, self._at_once)
