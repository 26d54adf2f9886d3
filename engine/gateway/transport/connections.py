"""All connections of the gateway: accepts them, looks after them, lets them go.

One task goes over all of them now and then and cancels what is too slow, idle for too long, or
waits for an answer that nobody is there to read. That costs less than a deadline for every read of
every request. Knows the plain protocol by `plain.py`; what is not plain is given to `hand_over`.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from engine.base.binding import bind_patiently, holder_of
from engine.base.errors import AddressInUse, InvalidSettings
from engine.gateway.api.problems import NotReady, problem_bytes
from engine.gateway.door.metrics import GatewayMetrics
from engine.gateway.transport.plain import PlainConnection, Shared
from engine.gateway.transport.tls import behind_tls

_log: Final = logging.getLogger(__name__)

# With what has been read of it.
HandOver = Callable[[PlainConnection, bytes], Awaitable[None]]

_BACKLOG: Final = 1_024
_ACCEPTS_MAX: Final = 64  # in a row, before everybody else has a turn
_NO_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_RESOURCES_PAUSE_S: Final = 0.1
_FULL: Final = problem_bytes(
    NotReady("too many connections; close some that are idle, or come again in a moment")
)
_FULL_ANSWER: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n"
    b"x-content-type-options: nosniff\r\n"
    b"retry-after: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_FULL), _FULL)
)


_Line = OrderedDict[PlainConnection, None]
_ABSENT: Final = object()
# Of connections, to find one that may give way: so many are looked at for each that comes.
_LOOKED_AT_MAX: Final = 64


class Connections:
    def __init__(
        self,
        shared: Shared,
        metrics: GatewayMetrics,
        hand_over: HandOver,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._shared = shared
        self._settings = shared.settings
        self._metrics = metrics
        self._hand_over = hand_over
        # The oldest first, or those that were looked at longest ago; and the same of each peer.
        self._open = _Line()
        self._by_peer: dict[str, _Line] = {}
        self._some_are_open = trio.Event()
        self._none_is_open = trio.Event()

    async def serve(self, listeners: Sequence[socket.socket], stop: trio.Event) -> None:
        """Until `stop`; then no new connection, and those with a request under way have
        `graceful_stop_s` to finish it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep_for_ever)
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(self._accept_for_ever, listener, nursery)
                await stop.wait()
                accepting.cancel_scope.cancel()
            for listener in listeners:
                listener.close()  # or the kernel would go on accepting
            await self._stop()
            nursery.cancel_scope.cancel()

    async def _stop(self) -> None:
        self._shared.is_stopping = True
        for connection in self._open:
            if connection.is_idle:
                connection.scope.cancel()
        with trio.move_on_after(self._settings.graceful_stop_s):
            while self._open:
                self._none_is_open = trio.Event()
                await self._none_is_open.wait()

    # ---- accepting ----

    async def _accept_for_ever(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            for _ in range(_ACCEPTS_MAX):
                try:
                    sock, address = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _NO_RESOURCES:
                        _log.error("a connection cannot be accepted: %s", error)
                        await trio.sleep(_NO_RESOURCES_PAUSE_S)
                        break
                    continue  # that one has gone already
                peer = str(address[0])
                if not self._has_room(peer):
                    _refuse(sock)
                    continue
                if self._tls is not None:
                    sock = behind_tls(sock, self._tls, nursery)
                connection = PlainConnection(sock, peer, self._shared)
                self._add(connection)
                nursery.start_soon(self._serve_one, connection)

    async def _serve_one(self, connection: PlainConnection) -> None:
        sock = connection.sock
        try:
            with connection.scope:
                sock.setblocking(False)
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                rest = await connection.serve()
                if rest is not None:
                    self._metrics.handed_over_total += 1
                    await self._hand_over(connection, rest)
        except OSError:
            pass  # it has gone
        except Exception:  # noqa: BLE001 - a defect of one connection must not end the others
            _log.exception("a connection ended with a defect")
        finally:
            sock.close()
            self._remove(connection)

    def _has_room(self, peer: str) -> bool:
        """For one more of this peer; one on which nothing is being done gives way to it."""
        settings = self._settings
        of_peer = self._by_peer.get(peer)
        per_peer = settings.connections_per_peer_max or max(1, settings.connections_max // 2)
        if of_peer is not None and len(of_peer) >= per_peer and not self._give_way(of_peer):
            return False
        return len(self._open) < settings.connections_max or self._give_way(self._open)

    def _give_way(self, line: _Line) -> bool:
        for _ in range(min(len(line), _LOOKED_AT_MAX)):
            connection = next(iter(line))
            if connection.may_give_way:
                self._forget(connection)
                self._metrics.given_way_total += 1
                connection.cut_off()
                return True
            line.move_to_end(connection)
        return False

    def _add(self, connection: PlainConnection) -> None:
        self._open[connection] = None
        self._by_peer.setdefault(connection.peer, _Line())[connection] = None
        self._metrics.connections += 1
        self._some_are_open.set()

    def _forget(self, connection: PlainConnection) -> None:
        if self._open.pop(connection, _ABSENT) is _ABSENT:
            return
        of_peer = self._by_peer[connection.peer]
        del of_peer[connection]
        if not of_peer:
            del self._by_peer[connection.peer]

    def _remove(self, connection: PlainConnection) -> None:
        self._forget(connection)
        self._metrics.connections -= 1
        if not self._open:
            self._some_are_open = trio.Event()
            self._none_is_open.set()

    # ---- looking after them ----

    async def _sweep_for_ever(self) -> None:
        """Sleeps while there is nobody to look after: an idle gateway does nothing."""
        while True:
            await self._some_are_open.wait()
            await trio.sleep(self._settings.sweep_s)
            self.sweep_once(trio.current_time())

    def sweep_once(self, now: float) -> int:
        """Lets go of those that are to be let go of; returns how many."""
        hopeless = [
            connection
            for connection in self._open
            if connection.is_overdue(now) or connection.is_forsaken(now, self._settings.sweep_s)
        ]
        for connection in hopeless:
            connection.cut_off()
        return len(hopeless)


async def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of the host, all on one port."""
    listeners: list[socket.socket] = []
    try:
        found = await trio.socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            listeners.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = port or (listeners[0].getsockname()[1] if len(listeners) > 1 else 0)
            await bind_patiently(sock, (address[0], port, *address[2:]), trio.sleep)
            sock.listen(_BACKLOG)
    except OSError as error:
        for sock in listeners:
            sock.close()
        message = f"cannot listen on {host}:{port}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"{message}: {holder_of(port)}; wait for its end, or choose another address with "
                "--http HOST:PORT"
            ) from error
        raise InvalidSettings(
            f"{message}; give an address of this machine with --http HOST:PORT", field="http"
        ) from error
    return listeners


def _refuse(sock: socket.socket) -> None:
    with sock:
        sock.setblocking(False)
        try:
            sock.send(_FULL_ANSWER)
        except OSError:
            return  # it has gone, or does not read: either way there is nothing to tell it
