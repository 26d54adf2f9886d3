"""A door in front of the runtime that breaks one answer in the middle, as networks do."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes bytes on, and keeps the heads of the requests that it saw. The first answer that
    contains `cut_behind` ends right behind it, without a word."""

    def __init__(self, target: str, cut_behind: bytes) -> None:
        parts = urlsplit(target)
        assert parts.hostname
        assert parts.port
        self._target = (parts.hostname, parts.port)
        self._cut_behind: bytes | None = cut_behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.requests: list[bytes] = []
        self.url = "http://{}:{}".format(*self._listener.getsockname())

    def accept_all(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            for passing in (self._pass_requests, self._pass_answers):
                thread = threading.Thread(target=passing, args=(near, far))
                thread.start()
                self._threads.append(thread)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _pass_requests(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                self.requests.append(data)
                far.sendall(data)
        _shut(far)

    def _pass_answers(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            seen = b""
            while data := far.recv(1 << 16):
                seen += data
                at = seen.find(self._cut_behind) if self._cut_behind else -1
                if at >= 0:
                    assert self._cut_behind
                    excess = len(seen) - at - len(self._cut_behind)
                    near.sendall(data[: len(data) - excess])
                    self._cut_behind = None
                    break
                near.sendall(data)
            _shut(near)
            _shut(far)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is gone already
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(target: str, *, behind: bytes) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(target, behind)
    acceptor = threading.Thread(target=proxy.accept_all)
    acceptor.start()
    try:
        yield proxy
    finally:
        proxy.close()
        acceptor.join()
