"""The gateway as a service, and the only place that knows Hypercorn.

A connection begins as a plain one. When it turns out to speak anything else, Hypercorn gets it
together with the bytes that were read, and keeps it: HTTP/2, chunked uploads, `Expect`, odd but
legal heads, and refusing what is not legal. Why not Hypercorn for all: docs/decisions.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from engine.base.clock import Clock
from engine.gateway import delivering, hot, intake, probes, streams
from engine.gateway.asgi import Front
from engine.gateway.cold import Cold
from engine.gateway.connections import Connections, open_listeners
from engine.gateway.door import Door, Handler, OpenHandler
from engine.gateway.plain import Shared
from engine.gateway.ports import Authenticate, Handle, MoreMetrics, Readiness
from engine.gateway.settings import GatewaySettings, head_bytes_max

HANDLERS: Final[Mapping[str, Handler]] = {
    "run": hot.run,
    "submit": hot.submit,
    "status": hot.status,
    "result": hot.result,
    "signal": hot.signal,
    "stream": streams.stream,
    "events": streams.events,
    "runs_batch": intake.runs_batch,
}
OPEN_HANDLERS: Final[Mapping[str, OpenHandler]] = {
    "healthz": probes.healthz,
    "readyz": probes.readyz,
    "metrics": probes.metrics,
    "webhook": delivering.webhook,
}
_log: Final = logging.getLogger(__name__)
_KEEP_ALIVE_REQUESTS_MAX: Final = 1_000_000_000
# How long Hypercorn has to tell its application that a connection has ended.
_AFTER_END_S: Final = 0.5


async def serve(
    handle: Handle,
    authenticate: Authenticate,
    *,
    clock: Clock,
    settings: GatewaySettings,
    host: str,
    port: int,
    stop: trio.Event,
    readiness: Readiness = lambda: None,
    more_metrics: MoreMetrics = str,
    tls: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until `stop` is set; `task_status` is told the address, with the port that was given
    when 0 was asked for."""
    cold = Cold()
    door = Door(
        handle,
        authenticate,
        clock=clock,
        settings=settings,
        handlers={**HANDLERS, **cold.handlers},
        open_handlers={**OPEN_HANDLERS, **cold.open_handlers},
        readiness=readiness,
        more_metrics=more_metrics,
    )
    shared = Shared(settings, clock, door.answer, door.bodies)
    hypercorn = Hypercorn(Front(door), settings)
    connections = Connections(shared, door.metrics, hypercorn.serve, tls)
    listeners = await open_listeners(host, port)
    try:
        task_status.started(listeners[0].getsockname()[:2])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_note_stop, stop, door, hypercorn)
            await connections.serve(listeners, stop)
    finally:
        for listener in listeners:
            listener.close()


async def _note_stop(stop: trio.Event, door: Door, hypercorn: Hypercorn) -> None:
    await stop.wait()
    door.is_stopping = True
    await hypercorn.stop()


class Hypercorn:
    """Serves connections that have been accepted and read from already."""

    def __init__(self, front: Front, settings: GatewaySettings) -> None:
        config = Config()
        config.accesslog = None
        config.errorlog = _log
        config.include_server_header = False
        config.h11_max_incomplete_size = head_bytes_max
        config.h2_max_header_list_size = head_bytes_max
        config.keep_alive_timeout = settings.keep_alive_s
        config.keep_alive_max_requests = _KEEP_ALIVE_REQUESTS_MAX
        config.read_timeout = None
        self._config = config
        self._write_stall_s_max = settings.write_stall_s_max
        self._front: Any = ASGIWrapper(front)  # type: ignore[arg-type]
        self._context = WorkerContext(None)

    async def serve(self, sock: socket.socket, read_already: bytes, peer: str) -> None:
        with trio.CancelScope() as scope:
            stream: Any = _Resumed(sock, read_already, peer, scope, self._write_stall_s_max)
            state = ConnectionState({})
            try:
                await TCPServer(self._front, self._config, self._context, state, stream)
            except Exception as error:  # noqa: BLE001 - see below
                # What a client sent lets exceptions escape from Hypercorn (it answers an error
                # while it closes, for one). Requests' own defects do not come this far.
                _log.info("a connection that Hypercorn served ended with %r", error)

    async def stop(self) -> None:
        """Idle connections are closed, the others end with their request."""
        await self._context.terminated.set()


class _Resumed:
    """A stream from whose beginning some bytes have been read already.

    Not a `trio.abc.Stream`: Hypercorn asks for the socket, and takes what has no `do_handshake` for
    a stream without TLS. When nothing more can be read or written, Hypercorn tells its application,
    but keeps the connection until its keep-alive time is over or for ever; the scope ends that.
    """

    def __init__(
        self,
        sock: socket.socket,
        read_already: bytes,
        peer: str,
        scope: trio.CancelScope,
        write_stall_s_max: float,
    ) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._stream = stream
        self._read_already = read_already
        self._scope = scope
        self._write_stall_s_max = write_stall_s_max
        self.socket: Any = stream.socket if sock.family != socket.AF_UNIX else _Named(peer)

    async def send_all(self, data: bytes) -> None:
        # Hypercorn sends under a shield: without a bound of its own, a reader that does not read
        # would keep the connection for ever.
        is_sent = False
        try:
            with trio.move_on_after(self._write_stall_s_max):
                await self._stream.send_all(data)
                is_sent = True
        except trio.BusyResourceError as error:
            # Hypercorn is closing the stream in another task, and does not expect this of it.
            raise trio.BrokenResourceError("the connection is being closed") from error
        finally:
            if not is_sent:
                self._end_soon()
        if not is_sent:
            raise trio.BrokenResourceError(f"nothing was read for {self._write_stall_s_max:g} s")

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._read_already:
            await trio.lowlevel.checkpoint()
            data, self._read_already = self._read_already, b""
            return data
        received: bytes | bytearray = b""
        try:
            received = await self._stream.receive_some(max_bytes)
        finally:
            if not received:
                self._end_soon()
        return received

    async def send_eof(self) -> None:
        self._end_soon()  # what follows may be cancelled by the application that is told of it
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._end_soon()
        await self._stream.aclose()

    def _end_soon(self) -> None:
        self._scope.deadline = trio.current_time() + _AFTER_END_S


class _Named:
    """What Hypercorn asks of a socket, where the one behind TLS does not know its client."""

    family = socket.AF_INET6  # of whose address Hypercorn takes the text as it is

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def getpeername(self) -> tuple[str, int]:
        return self._peer, 0

    def getsockname(self) -> tuple[str, int]:
        return "", 0
