"""How long a run that only waits stays with its worker before it parks.

Parking and coming back costs a dispatch and a replay, which is too much for what is about to come:
child runs, as long as they come in, and timers that are nearly due. Counts what is open, so that a
run with thousands of children is not looked through each time one of them ends.
"""

from __future__ import annotations

from engine.model.payloads import WaitKind
from engine.sdk import limits
from engine.sdk.replay.operations import Child, Operation, Wait


class Parking:
    def __init__(self) -> None:
        self._children = 0
        self._timers: dict[int, int] = {}  # position -> due_ms
        self._stay_for_timers_until_ms = 0

    def opened(self, position: int, operation: Operation, due_ms: int) -> None:
        if isinstance(operation, Child):
            self._children += 1
        elif isinstance(operation, Wait) and operation.kind == WaitKind.TIMER:
            self._timers[position] = due_ms

    def closed(self, position: int, operation: Operation) -> None:
        self._children -= isinstance(operation, Child)
        self._timers.pop(position, None)

    def stay_ms(self, moved_ms: int, now_ms: int) -> int:
        """From now; 0 or less: park. `moved_ms` is when the run moved last."""
        stay_ms = self._for_timers_until_ms(now_ms) - now_ms
        if self._children:
            more_ms = (self._children - 1) * limits.park_linger_per_child_ms
            linger_ms = min(limits.park_linger_ms + more_ms, limits.park_linger_ms_max)
            stay_ms = max(stay_ms, moved_ms + linger_ms - now_ms)
        return stay_ms

    def _for_timers_until_ms(self, now_ms: int) -> int:
        """The timers are looked through again when the answer of the last time has run out."""
        if now_ms >= self._stay_for_timers_until_ms:
            linger_ms = limits.park_linger_ms
            soon = (due_ms for due_ms in self._timers.values() if due_ms - now_ms <= linger_ms)
            self._stay_for_timers_until_ms = max(soon, default=0) + linger_ms
        return self._stay_for_timers_until_ms
