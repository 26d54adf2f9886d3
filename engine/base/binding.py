"""Binding a listening socket to its port, and who has the port when that fails.

Ports that services like ours are given by default lie in the range from which Linux takes the ports
of outgoing connections. So a port may be taken though nobody listens there: for a moment, which is
worth waiting for, and to be told as it is. Knows neither door and neither event loop.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from engine.base.limits import bind_patience_ms, bind_retry_ms

_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTENS: Final = "0A"
_ENDED: Final = "06"  # TIME_WAIT

_LISTENER: Final = "another process listens there"
_OUTGOING: Final = "no process listens there, but a connection of this machine has that port"
_OVER: Final = (
    "no process listens there, but a connection that has ended keeps that port for up to a minute"
)
_UNKNOWN: Final = "something of this machine has that port"


async def bind_patiently(
    sock: socket.socket, where: Any, sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Waits a moment for a port that nobody listens on. Raises OSError like `bind`, and `holder_of`
    says what is in the way."""
    waited_ms = 0
    while True:
        try:
            sock.bind(where)
            return
        except OSError as error:
            is_held = error.errno != errno.EADDRINUSE or holder_of(where[1]) == _LISTENER
            if is_held or waited_ms >= bind_patience_ms:
                raise
        await sleep(bind_retry_ms / 1_000)
        waited_ms += bind_retry_ms


def holder_of(port: int) -> str:
    """Who has a port that cannot be bound, in half a sentence."""
    states = _states_of(port)
    if _LISTENS in states:
        return _LISTENER
    if not states:
        return _UNKNOWN
    return _OVER if states == {_ENDED} else _OUTGOING


def _states_of(port: int) -> set[str]:
    """Of the sockets on the port, as the kernel writes them; none where it writes nothing."""
    states: set[str] = set()
    for table in _TABLES:
        try:
            _, *lines = Path(table).read_text().splitlines()
        except (OSError, ValueError):
            continue
        for line in lines:
            _, local, _, state = line.split()[:4]
            if int(local.rpartition(":")[2], 16) == port:
                states.add(state)
    return states
