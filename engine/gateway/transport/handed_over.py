"""Connections that are not plain, and the only place that knows Hypercorn.

Hypercorn gets such a connection together with the bytes that were read from it, and keeps it. What
it leaves to others is done here: it is told which protocol the connection speaks (none can be
changed to later), an HTTP/2 connection pays for frames that carry nothing, a stream whose answer
broke off is reset, and `HandedOver` says of a connection what the sweep has to know.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final

import h2.events
import h2.exceptions
import trio
from h2.errors import ErrorCodes
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from engine.gateway.api.exchange import Exchange
from engine.gateway.door.bodies import reading_s_max
from engine.gateway.settings import GatewaySettings, head_bytes_max, http2_streams_max
from engine.gateway.transport.asgi import CONNECTION, Front
from engine.gateway.transport.frames import FrameBudget
from engine.gateway.transport.plain import PlainConnection

_log: Final = logging.getLogger(__name__)
_KEEP_ALIVE_REQUESTS_MAX: Final = 1_000_000_000
# How long Hypercorn has to tell its application that a connection has ended.
_AFTER_END_S: Final = 0.5
_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\n"


class HandedOver:
    """What is known of a connection that Hypercorn has: its requests, and since when there are
    none. Those that are under way have deadlines of their own."""

    def __init__(self, settings: GatewaySettings, *, is_http2: bool, now: float) -> None:
        self._settings = settings
        self._is_http2 = is_http2
        self._idle_since = now
        self._half_since = now  # something has been read that is not a whole request yet
        self._exchanges: set[Exchange] = set()

    @contextlib.contextmanager
    def serving(self, exchange: Exchange) -> Iterator[None]:
        self._exchanges.add(exchange)
        self._half_since = math.inf
        try:
            yield
        finally:
            self._exchanges.discard(exchange)
            if not self._exchanges:
                self._idle_since = trio.current_time()

    def note_bytes(self) -> None:
        # HTTP/2 has frames that belong to no request, so there idle is what has no stream.
        if not self._exchanges and not self._is_http2 and self._half_since == math.inf:
            self._half_since = trio.current_time()

    def is_overdue(self, now: float) -> bool:
        return not self._exchanges and (
            now - self._idle_since > self._settings.keep_alive_s
            or now - self._half_since > self._settings.read_stall_s_max
        )

    @property
    def may_give_way(self) -> bool:
        return not any(exchange.is_admitted for exchange in self._exchanges)


class _Config(Config):
    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        return [*super().response_headers(protocol), (b"x-content-type-options", b"nosniff")]


class Hypercorn:
    """Serves connections that have been accepted and read from already."""

    def __init__(self, front: Front, settings: GatewaySettings) -> None:
        config = _Config()
        config.accesslog = None
        config.errorlog = _log
        config.include_server_header = False
        config.h11_max_incomplete_size = head_bytes_max
        config.h2_max_header_list_size = head_bytes_max
        config.h2_max_concurrent_streams = http2_streams_max
        config.keep_alive_timeout = settings.keep_alive_s
        config.keep_alive_max_requests = _KEEP_ALIVE_REQUESTS_MAX
        self._config = config
        self._settings = settings
        self._front: Any = ASGIWrapper(front)  # type: ignore[arg-type]
        self._context = WorkerContext(None)

    async def serve(self, connection: PlainConnection, read_already: bytes) -> None:
        is_http2 = read_already.startswith(_HTTP2)
        watched = HandedOver(self._settings, is_http2=is_http2, now=trio.current_time())
        connection.handed_over = watched
        with trio.CancelScope() as scope:
            stream: Any = _Resumed(connection, read_already, scope, watched)
            state = ConnectionState({CONNECTION: watched})
            server = _Server(self._front, self._config, self._context, state, stream)
            server.is_http2 = is_http2
            try:
                await server
            except Exception as error:  # noqa: BLE001 - see below
                # What a client sent lets exceptions escape from Hypercorn (it answers an error
                # while it closes, for one). Requests' own defects do not come this far.
                _log.info("a connection that Hypercorn served ended with %r", error)

    async def stop(self) -> None:
        """Idle connections are closed, the others end with their request."""
        await self._context.terminated.set()


class _Server(TCPServer):
    """With a protocol that is decided by the first bytes, and for good."""

    is_http2 = False

    async def _read_data(self) -> None:
        made = self.protocol
        speaks = _Http2 if self.is_http2 else _Http1
        made.protocol = speaks(
            made.app,
            made.config,
            made.context,
            made.task_group,
            made.state,
            made.ssl,
            made.client,
            made.server,
            made.send,
        )
        await made.initiate()
        await super()._read_data()


class _Http1(H11Protocol):
    """That stays what it is: an upgrade to HTTP/2 would go past whatever stands before us and reads
    HTTP/1.1, so the wish is not heard."""

    async def _check_protocol(self, event: Any) -> None:
        return None


class _Http2(H2Protocol):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._budget = FrameBudget(trio.current_time())
        self._ending: set[int] = set()  # answered; their last bytes are being sent

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData) and not self._budget.spend(event.data, trio.current_time()):
            await self._calm_down()
            return
        await super().handle(event)

    async def _calm_down(self) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.close_connection(error_code=ErrorCodes.ENHANCE_YOUR_CALM)
        await self._flush()
        await self.send(Closed())

    async def _handle_events(self, events: Sequence[h2.events.Event]) -> None:
        for event in events:
            # An answer does not always wait for the whole body.
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.connection.acknowledge_received_data(
                        event.flow_controlled_length or 0, event.stream_id
                    )
                continue
            await super()._handle_events([event])
        await self._flush()

    async def _flush(self) -> None:
        data = self.connection.data_to_send()
        if data:
            self._budget.earn(len(data))
            await self.send(RawData(data=data))

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, StreamClosed):
            await self._end(event.stream_id)
        await super().stream_send(event)

    async def _send_data(self, stream_id: int) -> None:
        await super()._send_data(stream_id)
        if stream_id in self._ending and stream_id not in self.stream_buffers:
            await self._end(stream_id)

    async def _end(self, stream_id: int) -> None:
        """Of an answer that is over, one way or another. What the client has not ended yet is reset
        (of a body nobody waits for, without blame), and what was not sent is forgotten."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and buffer.complete:
            self._ending.add(stream_id)
            return
        self._ending.discard(stream_id)
        code = ErrorCodes.NO_ERROR if buffer is None else ErrorCodes.CANCEL
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.reset_stream(stream_id, code)
        await self._flush()
        if buffer is not None:
            await buffer.close()
            self.priority.unblock(stream_id)  # so that the sending task finds it ended
            await self.has_data.set()


class _Resumed:
    """A stream from whose beginning some bytes have been read already.

    Not a `trio.abc.Stream`: Hypercorn asks for the socket, and takes what has no `do_handshake` for
    a stream without TLS. When nothing more can be read or written, Hypercorn tells its application,
    but keeps the connection until its keep-alive time is over or for ever; the scope ends that.
    """

    def __init__(
        self,
        connection: PlainConnection,
        read_already: bytes,
        scope: trio.CancelScope,
        watched: HandedOver,
    ) -> None:
        sock = connection.sock
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._stream = stream
        self._read_already = read_already
        self._scope = scope
        self._settings = connection.shared.settings
        self._watched = watched
        named = sock.family != socket.AF_UNIX
        self.socket: Any = stream.socket if named else _Named(connection.peer)

    async def send_all(self, data: bytes) -> None:
        # Hypercorn sends under a shield: without a bound of its own, a reader that does not read
        # would keep the connection for ever.
        is_sent = False
        seconds = reading_s_max(self._settings, len(data))
        try:
            with trio.move_on_after(seconds):
                await self._stream.send_all(data)
                is_sent = True
        except trio.BusyResourceError as error:
            # Hypercorn is closing the stream in another task, and does not expect this of it.
            raise trio.BrokenResourceError("the connection is being closed") from error
        finally:
            if not is_sent:
                self._end_soon()
        if not is_sent:
            raise trio.BrokenResourceError(f"{len(data)} bytes were not read in {seconds:g} s")

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._read_already:
            await trio.lowlevel.checkpoint()
            data, self._read_already = self._read_already, b""
            return data
        received: bytes | bytearray = b""
        try:
            received = await self._stream.receive_some(max_bytes)
            self._watched.note_bytes()
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
