"""Outcomes on their way to the code: in the order of the journal, and one at a time.

First those that the journal had when the run came; then what the engine writes and what steps bring
about, some of it not before it is durable. What nobody has asked for yet is kept aside. Knows
neither the code nor what it asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from engine.sdk.replay.operations import Resume


class Arrivals:
    def __init__(self) -> None:
        self._at_once: deque[Resume] = deque()
        self._in_order: deque[Resume] = deque()
        self._not_durable: deque[tuple[int, Resume]] = deque()
        self._aside: dict[int, Resume] = {}
        self._to_replay = 0
        self.known: set[int] = set()  # positions whose outcome the journal had

    def begin(self, recorded: Iterable[Resume]) -> None:
        self._in_order.extend(recorded)
        self._to_replay = len(self._in_order)
        self.known = {resume.position for resume in self._in_order}

    def add(self, resume: Resume) -> None:
        self._in_order.append(resume)

    def add_once_durable(self, resume: Resume, entries: int) -> None:
        """Not before so many entries are."""
        self._not_durable.append((entries, resume))

    def are_durable(self, entries: int) -> None:
        while self._not_durable and self._not_durable[0][0] <= entries:
            self._in_order.append(self._not_durable.popleft()[1])

    def put_aside(self, resume: Resume) -> None:
        """Until the code asks at its position."""
        self._aside[resume.position] = resume

    def take_aside(self, position: int) -> bool:
        """The code has asked there: what was put aside is the next; whether there was something."""
        resume = self._aside.pop(position, None)
        if resume is not None:
            self._at_once.append(resume)
        return resume is not None

    def next(self) -> tuple[Resume, bool] | None:
        """And whether the code did the same before."""
        if self._at_once:
            return self._at_once.popleft(), False
        if not self._in_order:
            return None
        is_replay = self._to_replay > 0
        self._to_replay -= is_replay
        return self._in_order.popleft(), is_replay

    @property
    def is_replaying(self) -> bool:
        return self._to_replay > 0

    @property
    def waits_for_the_disk(self) -> bool:
        return bool(self._not_durable)
