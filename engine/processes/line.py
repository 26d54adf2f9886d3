"""The other end of the socket, in the program beside the engine. Blocks.

Knows no kinds.
"""

from __future__ import annotations

import socket
import threading

from engine.processes import frames


class Line:
    """The socket to the engine. Read by one thread, written by one at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._sending = threading.Lock()

    def send(self, kind: int, data: bytes | memoryview = b"") -> None:
        with self._sending:
            self._socket.sendall(frames.head(kind, len(data)))
            self._socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """Raises EOFError once the engine has ended or has hung up."""
        size, kind = frames.parsed_head(self._exactly(frames.HEAD.size))
        return kind, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        room = memoryview(data)
        while room:
            count = self._socket.recv_into(room)
            if not count:
                raise EOFError
            room = room[count:]
        return bytes(data)
