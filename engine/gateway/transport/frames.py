"""How many HTTP/2 frames that carry nothing a connection may send.

A reset, a ping, a change of settings costs its sender next to nothing and us something. Each has a
price, a connection has an allowance that comes back with time, and who has used it up is told to
calm down. Reads the heads of frames and nothing else; what they mean is the protocol's matter.
"""

from __future__ import annotations

from typing import Final

from engine.base.allowance import Allowance

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

# A browser or a proxy that gives up a request now and then sends a few resets a minute, one that
# measures its line some pings a second. What is not named here costs 1.
_PRICES: Final = {HEADERS: 0.0, RST_STREAM: 10.0, SETTINGS: 5.0, PING: 5.0, CONTINUATION: 5.0}
# Data is paid for by who asks, but not data in crumbs.
_CRUMB_BYTES: Final = 32
_CRUMB_PRICE: Final = 0.1
_EMPTY_PRICE: Final = 1.0

allowance_max: Final = 1_000.0
allowance_per_s: Final = 100.0
# Who is sent much has to open the window for it often.
bytes_per_allowance: Final = 1_024


class FrameBudget:
    """What one connection may still send, from its first byte on."""

    def __init__(self, now: float) -> None:
        self._allowance = Allowance(allowance_max, allowance_per_s, now)
        self._skip = len(PREFACE)
        self._head = b""

    @property
    def left(self) -> float:
        return self._allowance.left

    def earn(self, sent_bytes: int) -> None:
        self._allowance.earn(sent_bytes / bytes_per_allowance)

    def spend(self, data: bytes, now: float) -> bool:
        """Takes what the frames that begin in `data` cost; whether there was enough."""
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
                continue
            taken = data[position : position + HEAD_BYTES - len(self._head)]
            position += len(taken)
            self._head += taken
            if len(self._head) < HEAD_BYTES:
                break
            self._skip = int.from_bytes(self._head[:3], "big")
            price = _price(self._head[3], self._skip)
            self._head = b""
            if self._allowance.spend(price, now):
                return False
        return True


def _price(kind: int, length: int) -> float:
    if kind != DATA:
        return _PRICES.get(kind, 1.0)
    if length >= _CRUMB_BYTES:
        return 0.0
    return _CRUMB_PRICE if length else _EMPTY_PRICE
