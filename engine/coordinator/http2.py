"""The border to grpclib: what its public interface does not offer, in one file.

grpclib reads a message of any length into memory, keeps any number of connections, and leaves them
open when it stops. Here a message is bounded before it is read, connections are counted, and both
ends of a goodbye are carried out. Only this file touches grpclib's inner attributes, so a new
version of it (pinned to a minor one) is checked here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import h2.exceptions
from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream

from engine.base import limits
from engine.base.errors import InvalidInput, LimitExceeded
from engine.coordinator.ports import Peer

_log = logging.getLogger(__name__)

BytesStream = Stream[bytes, bytes]

_PREFIX_BYTES: Final = 5  # one for "compressed", four for the length
_ABORT_AFTER_S: Final = 1.0


class BytesCodec(CodecBase):
    """Messages stay bytes: frames are packed and scanned elsewhere."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


class Disconnected(Exception):
    """The connection or the stream is gone; nothing more can be read or sent."""


_GONE: Final = (h2.exceptions.ProtocolError, StreamTerminatedError)


async def send(stream: BytesStream, message: bytes) -> None:
    """Returns when the worker has made room for the whole message and it is on its way."""
    try:
        await stream.send_message(message)
    except _GONE as error:
        raise Disconnected from error


async def finish(stream: BytesStream) -> None:
    """Ends our side in order: the worker reads all that was sent, and then that this was all."""
    try:
        await stream.send_trailing_metadata(status=Status.OK)
    except _GONE as error:
        raise Disconnected from error


async def receive(stream: BytesStream, bytes_max: int) -> bytes | None:
    """The next message, or None when the worker has ended its side."""
    inner = stream._stream
    try:
        prefix = await inner.recv_data(_PREFIX_BYTES)
        if not prefix:
            return None
        length = int.from_bytes(prefix[1:], "big")
        if prefix[0]:
            raise InvalidInput("a message is compressed: send it plain", field="message")
        if length > bytes_max:
            raise LimitExceeded(
                f"a message has {length} bytes, and at most {bytes_max} are taken here: keep "
                "large values in a store of your own and pass their address",
                bytes_max=bytes_max,
            )
        return await inner.recv_data(length)
    except _GONE as error:
        raise Disconnected from error
    except AssertionError as error:  # grpclib's way to say that the stream ended early
        raise InvalidInput(
            "the stream ended in the middle of a message", field="message"
        ) from error


def peer_of(stream: BytesStream) -> Peer:
    address = stream.peer.addr()
    return Peer(*address[:2]) if address else Peer("unknown", 0)


def is_open(stream: BytesStream) -> bool:
    return stream._stream.closable


def hang_up(stream: BytesStream, reason: str) -> None:
    """Ends the whole connection, telling the reason if the other side still takes bytes."""
    connection = stream._stream.connection
    if connection.is_closing():
        return
    protocol = connection._transport.get_protocol()
    assert isinstance(protocol, _Connection)
    protocol.say_goodbye(reason)


class _Connection(H2Protocol):
    """One TCP connection, known to the server for as long as it lasts."""

    server: BoundedServer
    streams_seen = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        # A frame type that h2 does not know must be ignored, says RFC 9113; grpclib raises.
        known: Any = self.processor.processors
        self.processor.processors = defaultdict(_ignoring, known)
        self._transport: asyncio.Transport = transport
        if len(self.server.connections) >= limits.stream_connections_max:
            _log.warning("%d connections are open: refused another", len(self.server.connections))
            transport.abort()
        self.server.connections.add(self)
        self._look_for_streams()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.server.connections.discard(self)
        super().connection_lost(exc)

    def _look_for_streams(self) -> None:
        """A connection on which nothing was opened for a while is closed: it may be half of one."""
        seen, self.streams_seen = self.streams_seen, self.connection.streams_started
        if seen == self.streams_seen and not self.processor.streams:
            self.say_goodbye("no stream is open on this connection")
        if not self._transport.is_closing():
            loop = asyncio.get_running_loop()
            loop.call_later(self.server.unused_s_max, self._look_for_streams)

    def say_goodbye(self, reason: str) -> None:
        if self._transport.is_closing():
            return
        if not self.connection.write_ready.is_set():
            self._transport.abort()  # it does not read; the goodbye would wait for ever too
            return
        self.connection._connection.close_connection(additional_data=reason.encode())
        self.connection.flush()
        transport = self._transport
        transport.close()
        asyncio.get_running_loop().call_later(_ABORT_AFTER_S, transport.abort)


def _ignoring() -> Callable[[object], None]:
    return lambda event: None


class BoundedServer(Server):
    """grpclib's server with connections that are counted and closed."""

    def __init__(self, *handlers: Any, unused_s_max: float) -> None:
        super().__init__(handlers, codec=BytesCodec())
        self.unused_s_max: Final = unused_s_max
        self.connections: Final[set[_Connection]] = set()

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        connection = _Connection(made.handler, made.config, made.h2_config)
        connection.server = self
        return connection

    async def shut(self, reason: str) -> None:
        """Stops listening, says goodbye to everybody, and returns when all is closed."""
        self.close()
        for connection in list(self.connections):
            connection.say_goodbye(reason)
        await self.wait_closed()
