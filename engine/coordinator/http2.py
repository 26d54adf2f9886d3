"""The border to grpclib: what its public interface does not offer, in one file.

grpclib reads a message of any length into memory, keeps any number of connections, and leaves them
open when it stops. Here a message is bounded before it is read, connections are counted, and both
ends of a goodbye are carried out. Only this file touches grpclib's inner attributes, so a new
version of it (pinned to a minor one) is checked here.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Final

import h2.exceptions
from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream
from h2.events import (
    DataReceived,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    SettingsAcknowledged,
    StreamReset,
    UnknownFrameReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes

from engine.base import limits
from engine.base.allowance import Allowance
from engine.base.errors import InvalidInput, LimitExceeded
from engine.coordinator.ports import Peer
from engine.coordinator.shares import connections_max

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


def registered(stream: BytesStream) -> None:
    """Whoever it is, is known now: its connection is no stranger's any more."""
    protocol = stream._stream.connection._transport.get_protocol()
    assert isinstance(protocol, _Connection)
    protocol.server.is_known(protocol)


class _Connection(H2Protocol):
    """One TCP connection, known to the server for as long as it lasts."""

    server: BoundedServer
    streams_seen = -1
    peer_host = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._transport: asyncio.Transport = transport
        self._streams_count = 0
        self._resets_count = 0
        self._allowance = Allowance(
            limits.stream_control_frames_at_once_max,
            limits.stream_control_frames_per_s_max,
            asyncio.get_running_loop().time(),
        )
        self._window_updates = 0
        self._process_otherwise()
        # A worker needs one stream.
        self.connection._connection.update_settings(
            {SettingCodes.MAX_CONCURRENT_STREAMS: limits.stream_per_connection_at_once_max}
        )
        self.connection.flush()
        self.peer_host = (transport.get_extra_info("peername") or ("",))[0]
        why_not = self.server.why_not(self.peer_host)
        if why_not:
            self.server.refused(why_not)
            transport.abort()
        self.server.take_in(self)
        self._look_for_streams()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.server.let_go(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._transport.is_closing():  # what comes behind a goodbye is nobody's
            super().data_received(data)

    # grpclib keeps a stream whose handler was cancelled before its first step, so streams are
    # noted and let go of here; and whatever costs us something and its sender nothing is counted.

    def _process_otherwise(self) -> None:
        processor = self.processor
        # A frame type that h2 does not know must be ignored, says RFC 9113; grpclib raises.
        known: Any = defaultdict(lambda: self._costing(_ignore), processor.processors)
        known[RequestReceived] = self._accept
        known[StreamReset] = self._reset
        known[DataReceived] = self._data
        known[WindowUpdated] = self._window
        for event in (PingReceived, PingAckReceived, RemoteSettingsChanged, SettingsAcknowledged):
            known[event] = self._costing(known[event])
        known[PriorityUpdated] = self._costing(_ignore)
        known[UnknownFrameReceived] = self._costing(_ignore)
        self._known = known
        processor.processors = known

    def _costing(self, process: Callable[[Any], None]) -> Callable[[Any], None]:
        def processed(event: Any) -> None:
            self._spend()
            process(event)

        return processed

    def _spend(self) -> None:
        if self._allowance.spend(1, asyncio.get_running_loop().time()):
            self._end_for("it sends more frames that carry nothing than any worker has use for")

    def _accept(self, event: RequestReceived) -> None:
        self._streams_count += 1
        if self._streams_count > limits.stream_per_connection_max:
            self._end_for("a connection is for one stream, and this one has opened many")
        if self._transport.is_closing():
            return
        stream = self.connection.create_stream(stream_id=event.stream_id)
        self.processor.streams[event.stream_id] = stream
        release = functools.partial(self._release, event.stream_id)
        self.handler.accept(stream, event.headers, release)  # type: ignore[arg-type]

    def _release(self, stream_id: int) -> None:
        """By the handler at its end, or since the stream was reset: whichever comes first."""
        stream = self.processor.streams.pop(stream_id, None)
        if stream is None:
            return
        self.connection.stream_close_waiter.set()
        if not self.connection.is_closing():
            self.connection.ack(stream_id, stream.buffer.unacked_size())

    def _reset(self, event: StreamReset) -> None:
        self._resets_count += 1
        if self._resets_count > limits.stream_resets_max:
            self._end_for("it resets the streams that it opens")
        if event.stream_id in self.processor.streams:
            self.processor.process_stream_reset(event)
            self._release(event.stream_id)

    def _data(self, event: DataReceived) -> None:
        if not event.data:
            self._spend()
        self.processor.process_data_received(event)

    def _window(self, event: WindowUpdated) -> None:
        """Each is owed to something that was sent."""
        sent = self.connection.data_sent // limits.stream_window_update_bytes
        self._window_updates += 1
        if self._window_updates > sent + 4 * self.connection.messages_sent:
            self._spend()
        self.processor.process_window_updated(event)

    def _end_for(self, reason: str) -> None:
        if not self._transport.is_closing():
            self.server.refused(f"{self.peer_host}: {reason}")
            self.say_goodbye(reason)
            self.processor.close(reason)

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


def _ignore(event: object) -> None:
    """Nothing is to be done."""


class BoundedServer(Server):
    """grpclib's server with connections that are counted and closed."""

    def __init__(self, *handlers: Any, unused_s_max: float) -> None:
        super().__init__(handlers, codec=BytesCodec())
        self.unused_s_max: Final = unused_s_max
        self.connections: Final[set[_Connection]] = set()
        self._strangers: Final[Counter[str]] = Counter()  # by host
        self._unknown: Final[set[_Connection]] = set()
        self._connections_max: Final = connections_max()
        self._strangers_max: Final = min(
            limits.stream_strangers_per_peer_max, self._connections_max // 4
        )
        self.refused_count = 0
        self._told_s = 0.0

    def why_not(self, host: str) -> str:
        """Why another connection from there is not taken; empty if it is."""
        if len(self.connections) >= self._connections_max:
            return f"{len(self.connections)} connections are open"
        if self._strangers[host] >= self._strangers_max:
            return f"{self._strangers[host]} connections from {host} have not registered yet"
        return ""

    def take_in(self, connection: _Connection) -> None:
        self.connections.add(connection)
        self._unknown.add(connection)
        self._strangers[connection.peer_host] += 1

    def is_known(self, connection: _Connection) -> None:
        if connection not in self._unknown:
            return
        self._unknown.discard(connection)
        self._strangers[connection.peer_host] -= 1
        if not self._strangers[connection.peer_host]:
            del self._strangers[connection.peer_host]

    def let_go(self, connection: _Connection) -> None:
        self.is_known(connection)
        self.connections.discard(connection)

    def refused(self, reason: str) -> None:
        """Told to the log now and then: it is not a stranger's to fill."""
        self.refused_count += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._told_s >= limits.stream_refusals_told_ms / 1_000:
            self._told_s = now_s
            _log.warning("hung up (%d so far): %s", self.refused_count, reason)

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
