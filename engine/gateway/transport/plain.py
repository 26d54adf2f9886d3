"""A connection that speaks plain HTTP/1.1: reads a request, has it answered, writes the answer.

One task and two system calls a request, since this is the path of every busy client; the measured
alternatives are in docs/decisions. Pipelined requests wait in the buffer for their turn. What is
not plain (`head.py`) is not judged here: `serve` returns the bytes it has read and the caller gives
them, with the connection, to a full HTTP server.

Never waits with a timer of its own: `connections.py` looks after all connections at once, and asks
each `is_overdue` and `is_forsaken`.
"""

from __future__ import annotations

import contextlib
import math
import re
import socket
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, Protocol

import trio

from engine.base.clock import Clock
from engine.gateway.api.exchange import Disconnected, Exchange, Header, Response, Room
from engine.gateway.api.problems import BodyTooLarge
from engine.gateway.door.bodies import patience_s, reading_s_max
from engine.gateway.settings import (
    GatewaySettings,
    drop_bytes_max,
    head_bytes_max,
    linger_s_max,
)
from engine.gateway.transport.head import Head, parse_head

RECEIVE_BYTES: Final = 64 * 1024

# An empty line after any line end: what h11 takes for the end of a head.
_LAX_HEAD_END: Final = re.compile(rb"\n\r?\n")
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
# What is sent is what it says it is: no browser takes JSON for a page.
_NO_SNIFFING: Final = b"x-content-type-options: nosniff\r\n"
_CLOSE: Final = b"connection: close\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_NO_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class Answering(Protocol):
    async def __call__(self, exchange: Exchange, /) -> Response | None: ...


class DateHeader:
    """The Date header, formatted once a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = -1
        self._header = b""

    def __call__(self) -> bytes:
        second = self._clock.now_ms() // 1_000
        if second != self._second:
            self._second = second
            self._header = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
        return self._header


class Shared:
    """What all plain connections of a gateway have in common."""

    def __init__(
        self, settings: GatewaySettings, clock: Clock, answer: Answering, room: Room
    ) -> None:
        self.settings: Final = settings
        self.date: Final = DateHeader(clock)
        self.answer: Final = answer
        self.room: Final = room
        self.is_stopping = False


class Successor(Protocol):
    """What knows of a connection that is not plain whether to go on with it."""

    def is_overdue(self, now: float, /) -> bool: ...

    @property
    def may_give_way(self) -> bool: ...


class PlainConnection:
    __slots__ = (
        "_busy_since",
        "_deadline",
        "_exchange",
        "_last_head",
        "_last_head_bytes",
        "buffer",
        "handed_over",
        "peer",
        "scope",
        "shared",
        "sock",
    )

    def __init__(self, sock: socket.socket, peer: str, shared: Shared) -> None:
        self.sock: Final = sock
        self.peer: Final = peer
        self.shared: Final = shared
        self.buffer = b""
        self.scope = trio.CancelScope()
        self._deadline = math.inf
        self._busy_since = math.inf
        self._exchange: PlainExchange | None = None  # while it is being answered
        self.handed_over: Successor | None = None
        # The next request of a connection often begins with the same bytes.
        self._last_head: Head | None = None
        self._last_head_bytes = b""

    async def serve(self) -> bytes | None:
        """Until the other end leaves (None), or sends what is not plain: those bytes."""
        while True:
            try:
                head = await self._next_head()
                if head is None:
                    self._deadline = math.inf  # whoever gets the connection has deadlines too
                    return self.buffer
                exchange = PlainExchange(self, head)
                self._exchange = exchange
                goes_on = await self._serve_one(exchange)
                self._exchange = None
                if not goes_on:
                    return None
            except Disconnected:
                return None
            if self.buffer:
                # The next request is here already; others have their turn first.
                await trio.lowlevel.checkpoint()

    @property
    def is_idle(self) -> bool:
        """Between two requests."""
        return self._busy_since == math.inf and not self.buffer

    @property
    def may_give_way(self) -> bool:
        """To a new one, when there are too many: nobody whom we know is being answered."""
        if self.handed_over is not None:
            return self.handed_over.may_give_way
        return self._exchange is None or not self._exchange.is_admitted

    def is_overdue(self, now: float) -> bool:
        """Too slow in sending a request or in reading an answer, or idle for too long."""
        if self.handed_over is not None:
            return self.handed_over.is_overdue(now)
        return now > self._deadline

    def cut_off(self) -> None:
        if self.handed_over is not None:
            # Hypercorn sends under a shield; with nowhere to send to it ends at once.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        self.scope.cancel()

    def is_forsaken(self, now: float, patience_s: float) -> bool:
        """Its request has been under way for a while, and nobody is there any more to read the
        answer: the other end has closed."""
        if now - self._busy_since < patience_s:
            return False
        try:
            return not self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    # ---- reading ----

    async def _next_head(self) -> Head | None:
        settings = self.shared.settings
        self._deadline = trio.current_time() + (
            settings.read_stall_s_max if self.buffer else settings.keep_alive_s
        )
        while True:
            buffer = self.buffer
            if buffer:
                if self._last_head is not None and buffer.startswith(self._last_head_bytes):
                    self.buffer = buffer[len(self._last_head_bytes) :]
                    return self._last_head
                end = buffer.find(b"\r\n\r\n")
                if 0 <= end <= head_bytes_max:
                    head = parse_head(buffer[: end + 2].decode("latin-1"))
                    if head is not None:
                        self.buffer = buffer[end + 4 :]
                        self._last_head, self._last_head_bytes = head, buffer[: end + 4]
                    return head
                if _is_not_plain(buffer):
                    return None
            elif self.shared.is_stopping:
                raise Disconnected
            data = await self.receive()
            if not buffer:
                self._deadline = trio.current_time() + settings.read_stall_s_max
            self.buffer = buffer + data

    async def receive(self) -> bytes:
        """Some bytes; raises `Disconnected` when there will be no more."""
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            try:
                data = self.sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Disconnected from error
            if not data:
                raise Disconnected
            return data

    async def receive_body(self, patience_s: float) -> bytes:
        self._deadline = trio.current_time() + patience_s
        data = await self.receive()
        self._deadline = math.inf
        return data

    # ---- answering ----

    async def _serve_one(self, exchange: PlainExchange) -> bool:
        """Whether the connection can go on."""
        self._deadline = math.inf
        self._busy_since = trio.current_time()
        response = await self.shared.answer(exchange)
        if response is not None:
            await exchange.respond(response)
        else:
            await exchange.end()
        self._busy_since = math.inf
        if exchange.unread_bytes:
            await self._drop(exchange)
        return not exchange.closes

    async def _drop(self, exchange: PlainExchange) -> None:
        """Reads what the handler did not want; lingers if that is not worth it."""
        if not exchange.closes:
            while await exchange.read_piece(drop_bytes_max):
                pass
            return
        with trio.move_on_after(linger_s_max):
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise Disconnected from error
            while True:
                await self.receive()

    async def send(self, data: bytes) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise Disconnected from error
        if sent != len(data):
            await self._send_rest(memoryview(data)[sent:])

    async def _send_rest(self, rest: memoryview) -> None:
        settings = self.shared.settings
        last = trio.current_time() + reading_s_max(settings, len(rest))
        while rest:
            self._deadline = min(last, trio.current_time() + settings.write_stall_s_max)
            await trio.lowlevel.wait_writable(self.sock)
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Disconnected from error
        self._deadline = math.inf


class PlainExchange(Exchange):
    __slots__ = ("_came_bytes", "_connection", "_keeps_alive", "_waited_s", "unread_bytes")

    def __init__(self, connection: PlainConnection, head: Head) -> None:
        path, _, query = head.target.partition("?")
        super().__init__(
            head.method, path, query, head.headers, connection.peer, connection.shared.room
        )
        self._connection = connection
        self._came_bytes = 0
        self._waited_s = 0.0
        self._keeps_alive = head.keeps_alive
        self.unread_bytes = head.body_bytes

    @property
    def closes(self) -> bool:
        return (
            not self._keeps_alive
            or self.unread_bytes > drop_bytes_max
            or self._connection.shared.is_stopping
        )

    async def read(self, bytes_max: int) -> bytes:
        self._check(bytes_max)
        wanted = self.unread_bytes
        buffer = self._connection.buffer
        if len(buffer) >= wanted:
            self._connection.buffer = buffer[wanted:]
            self.unread_bytes = 0
            return buffer[:wanted]
        return await super().read(bytes_max)

    async def read_piece(self, bytes_max: int) -> bytes:
        self._check(bytes_max)
        if not self.unread_bytes:
            return b""
        connection = self._connection
        if not connection.buffer:
            connection.buffer = await self._receive(connection)
        piece = connection.buffer[: self.unread_bytes]
        connection.buffer = connection.buffer[len(piece) :]
        self.unread_bytes -= len(piece)
        return piece

    async def _receive(self, connection: PlainConnection) -> bytes:
        begun = trio.current_time()
        settings = connection.shared.settings
        data = await connection.receive_body(patience_s(settings, self._came_bytes, self._waited_s))
        self._waited_s += trio.current_time() - begun
        self._came_bytes += len(data)
        return data

    def _check(self, bytes_max: int) -> None:
        if self.unread_bytes > bytes_max:
            raise BodyTooLarge(
                f"the body has {self.unread_bytes} bytes, at most {bytes_max} are taken; put large "
                "data elsewhere and pass a reference to it",
                limit=bytes_max,
            )

    async def respond(self, response: Response) -> None:
        if response.status in _NO_BODY:
            await self._connection.send(self._head(response.status, response.all_headers(), b""))
            return
        framing = b"content-length: %d\r\n" % len(response.body)
        head = self._head(response.status, response.all_headers(), framing)
        await self._connection.send(head + response.body)

    async def begin(self, status: int, headers: Sequence[Header]) -> None:
        self.is_begun = True
        await self._connection.send(self._head(status, headers, b"transfer-encoding: chunked\r\n"))

    async def write(self, data: bytes) -> None:
        if data:
            await self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self._connection.send(_LAST_CHUNK)

    def _head(self, status: int, headers: Sequence[Header], framing: bytes) -> bytes:
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"%b%b%b%b%b%b\r\n" % (
            _STATUS_LINES[status],
            self._connection.shared.date(),
            _NO_SNIFFING,
            b"".join(lines),
            framing,
            _CLOSE if self.closes else b"",
        )


def _is_not_plain(buffer: bytes) -> bool:
    """Of a head that has not ended: it is too long, ends with bare line feeds, or is not one."""
    return (
        len(buffer) > head_bytes_max
        or not b"A" <= buffer[:1] <= b"Z"
        or _LAX_HEAD_END.search(buffer) is not None
    )
