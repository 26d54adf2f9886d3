"""Request bodies that are still on their way: what they hold in memory, and how long one may take.

What counts is what has come, never what was announced. Everything that is held has payers (the
tenant of who asks; of a request that nobody is asked for, where it came from), and no payer gets
more than its share, so that one of them cannot make bodies wait for all. Knows no socket.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from engine.base.errors import RateLimited
from engine.gateway.api.exchange import Payer
from engine.gateway.api.problems import NotReady
from engine.gateway.settings import GatewaySettings


class Bodies:
    def __init__(self, *, bytes_max: int) -> None:
        self.held_bytes = 0
        self._bytes_max = bytes_max
        self._held_by: dict[Hashable, int] = {}

    def held_by(self, payer: Hashable) -> int:
        return self._held_by.get(payer, 0)

    @contextmanager
    def holding(self, payers: Sequence[Payer]) -> Iterator[Holding]:
        """Around the reading of one body; what was added is given back at the end."""
        holding = Holding(self, payers)
        try:
            yield holding
        finally:
            self._change(payers, -holding.bytes)

    def check_room(self, payers: Sequence[Payer], count: int) -> None:
        for payer, share_bytes_max in payers:
            if self.held_by(payer) + count > share_bytes_max:
                raise RateLimited(
                    f"request bodies of yours hold {self.held_by(payer)} bytes already while they "
                    "are on their way; send fewer large ones at once, or this one in a moment",
                    retry_after_s=1,
                )
        if self.held_bytes + count > self._bytes_max:
            raise NotReady("too many large requests at once; send it again in a moment")

    def _change(self, payers: Sequence[Payer], count: int) -> None:
        self.held_bytes += count
        for payer, _ in payers:
            held = self.held_by(payer) + count
            if held:
                self._held_by[payer] = held
            else:
                self._held_by.pop(payer, None)


class Holding:
    """What one body holds."""

    __slots__ = ("_bodies", "_payers", "bytes")

    def __init__(self, bodies: Bodies, payers: Sequence[Payer]) -> None:
        self._bodies = bodies
        self._payers = payers
        self.bytes = 0

    def add(self, count: int) -> None:
        """Raises, and holds no more than before, when there is no room."""
        if count > 0:
            self._bodies.check_room(self._payers, count)
        self._bodies._change(self._payers, count)
        self.bytes += count


def patience_s(settings: GatewaySettings, came_bytes: int, waited_s: float) -> float:
    """How much longer to wait for more of a body of which so much has come in so long."""
    earned_s = settings.body_patience_s + came_bytes / settings.body_bytes_per_s_min
    return max(0.0, min(settings.read_stall_s_max, earned_s - waited_s))


def reading_s_max(settings: GatewaySettings, answer_bytes: int) -> float:
    """How long a client has to take so much of an answer."""
    return settings.write_stall_s_max + answer_bytes / settings.body_bytes_per_s_min
