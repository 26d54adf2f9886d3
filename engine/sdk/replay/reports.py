"""What a run has to report and has not yet: entries in order, cut into numbered reports.

An entry's place in the order is a count, and so is how far the engine has acknowledged; whoever
depends on an entry waits until the second reaches the first. Knows no operation and no position.
"""

from __future__ import annotations

from collections import deque

import msgspec

from engine.base.limits import (
    report_children_max,
    report_entries_max,
    report_waits_bytes_max,
)
from engine.model.payloads import ChildStarted, Payload, WaitCreated
from engine.sdk import limits
from engine.sdk.replay import records


class Report(msgspec.Struct, frozen=True):
    """One transition of the run: the engine takes all of it or nothing."""

    sequence: int
    entries: list[tuple[int, bytes]]


class ReportQueue:
    def __init__(self) -> None:
        self._waiting: list[Payload] = []
        self._sent: deque[tuple[int, int]] = deque()  # sequence, entries up to and with it
        self._sequence = 0
        self.taken = 0
        self.acknowledged = 0

    @property
    def added(self) -> int:
        """How many entries there have been, the waiting ones included."""
        return self.taken + len(self._waiting)

    @property
    def last(self) -> Payload | None:
        """The last entry that waits to be reported; it may still be replaced."""
        return self._waiting[-1] if self._waiting else None

    def add(self, entry: Payload) -> None:
        self._waiting.append(entry)

    def replace_last(self, entry: Payload) -> None:
        self._waiting[-1] = entry

    def take(self) -> list[Report]:
        """All that waits, in as many reports as its size asks for."""
        reports: list[Report] = []
        entries: list[tuple[int, bytes]] = []
        size = waits = children = 0
        for waiting in self._waiting:
            entry = records.encode(waiting)
            starts = isinstance(waiting, ChildStarted)
            asks = len(entry[1]) if isinstance(waiting, WaitCreated) else 0
            full = (
                len(entries) >= report_entries_max
                or (starts and children >= report_children_max)
                or (asks and waits > 0 and waits + asks > report_waits_bytes_max)
                or size + len(entry[1]) > limits.report_bytes_max
            )
            if entries and full:
                reports.append(self._numbered(entries))
                entries, size, waits, children = [], 0, 0, 0
            entries.append(entry)
            size += len(entry[1])
            waits += asks
            children += starts
        if entries:
            reports.append(self._numbered(entries))
        self._waiting.clear()
        return reports

    def _numbered(self, entries: list[tuple[int, bytes]]) -> Report:
        self._sequence += 1
        self.taken += len(entries)
        self._sent.append((self._sequence, self.taken))
        return Report(self._sequence, entries)

    def acknowledge(self, sequence: int) -> bool:
        """Everything up to this report is durable; False if that was known."""
        moved = False
        while self._sent and self._sent[0][0] <= sequence:
            self.acknowledged = self._sent.popleft()[1]
            moved = True
        return moved
