"""ASGI on both sides of the door.

`Front` is the application that Hypercorn serves: the hot routes are answered by the door, the rest
by the Quart application. `bridge` is the other way round: it lets a plain connection have one
request answered by an ASGI application, so that a client that asks for a list between two starts
keeps its quick connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import unquote

import trio

from engine.base.errors import EngineError
from engine.gateway import routes
from engine.gateway.door import Door, failure
from engine.gateway.exchange import (
    NO_CONTENT,
    Disconnected,
    Exchange,
    Header,
    Response,
    header_map,
)
from engine.gateway.plain import PlainExchange
from engine.gateway.problems import BodyTooLarge, MalformedRequest, problem_response

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Front:
    """The ASGI application of the gateway."""

    def __init__(self, door: Door, rest: Application) -> None:
        self._door = door
        self._rest = rest

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        exchange = AsgiExchange(
            scope, receive, send, read_stall_s_max=self._door.settings.read_stall_s_max
        )
        try:
            if not exchange.path:
                raise MalformedRequest("the request has no path; it begins with /", field="path")
            # What GET answers, HEAD answers; the server leaves out the body.
            method = "GET" if exchange.method == "HEAD" else exchange.method
            found = routes.find(method, exchange.path)
        except EngineError as error:
            await exchange.respond(problem_response(error))
            return
        if found is None or not found.route.is_hot:
            await self._rest(scope, receive, send)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.watch, nursery.cancel_scope)
            await self._answer(exchange, found)
            nursery.cancel_scope.cancel()

    async def _answer(self, exchange: AsgiExchange, found: routes.Found) -> None:
        try:
            response = await self._door.answer(exchange, found.route, found.parameters)
        except Disconnected:
            return  # without a last message, the server breaks the connection off
        if response is not None:
            await exchange.respond(response)
        else:
            await exchange.end()


class AsgiExchange(Exchange):
    __slots__ = (
        "_has_body",
        "_is_answered",
        "_read_bytes",
        "_read_stall_s_max",
        "_receive",
        "_send",
    )

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Receive,
        send: Send,
        *,
        read_stall_s_max: float,
    ) -> None:
        client = scope.get("client")
        super().__init__(
            scope["method"],
            scope["raw_path"].decode("latin-1"),
            scope["query_string"].decode("latin-1"),
            header_map(scope["headers"]),
            client[0] if client else None,
        )
        self._receive = receive
        self._read_stall_s_max = read_stall_s_max
        self._read_bytes = 0
        self._send = send
        self._has_body = trio.Event()
        if self.method != "POST":
            self._has_body.set()
        self._is_answered = False

    async def watch(self, scope: trio.CancelScope) -> None:
        """Once the body is read: drops what else may come and, when the client goes before it has
        its answer, stops the handler."""
        await self._has_body.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._is_answered:
            scope.cancel()

    def _finish(self) -> None:
        """Before the last message: the server tells of its end as of a disconnect, and waits until
        what is left of the body has been taken."""
        self._is_answered = True
        self._has_body.set()

    async def read(self, bytes_max: int) -> bytes:
        pieces = []
        while piece := await self.read_piece(bytes_max):
            pieces.append(piece)
        return b"".join(pieces)

    async def read_piece(self, bytes_max: int) -> bytes:
        while not self._has_body.is_set():
            message = await self._next_message()
            piece: bytes = message.get("body", b"")
            self._read_bytes += len(piece)
            if self._read_bytes > bytes_max:
                raise BodyTooLarge(
                    f"the body has more than {bytes_max} bytes; put large data elsewhere and pass "
                    "a reference to it",
                    limit=bytes_max,
                )
            if not message.get("more_body", False):
                self._has_body.set()
            if piece:
                return piece
        return b""

    async def _next_message(self) -> Message:
        with trio.move_on_after(self._read_stall_s_max):
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            return message
        raise MalformedRequest("the body broke off; send it again")

    async def respond(self, response: Response) -> None:
        self._finish()
        headers = [*response.all_headers()]
        if response.status != NO_CONTENT:
            headers.append((b"content-length", b"%d" % len(response.body)))
        await self._start(response.status, headers)
        await self._send({"type": "http.response.body", "body": response.body})

    async def begin(self, status: int, headers: Sequence[Header]) -> None:
        self.is_begun = True
        await self._start(status, headers)

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        self._finish()
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, headers: Sequence[Header]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


class Bridge:
    """Has requests of plain connections answered by an ASGI application."""

    def __init__(self, application: Application, *, body_bytes_max: int) -> None:
        self._application = application
        self._body_bytes_max = body_bytes_max

    async def __call__(self, exchange: PlainExchange) -> None:
        try:
            body = await exchange.read(self._body_bytes_max)
        except EngineError as error:
            await exchange.respond(problem_response(error))
            return
        answer = _BridgedAnswer(exchange, body)
        try:
            await self._application(scope_of(exchange), answer.receive, answer.send)
        except Exception as error:  # noqa: BLE001 - one request's defect must not end the process
            problem = failure(error, exchange.path)
            if not exchange.is_begun and not answer.is_whole:
                await exchange.respond(problem_response(problem))
                return
        if not answer.is_whole:
            raise Disconnected


class _BridgedAnswer:
    def __init__(self, exchange: PlainExchange, body: bytes) -> None:
        self._exchange = exchange
        self._body: bytes | None = body
        self._status = 500
        self._headers: Sequence[Header] = ()
        self._pieces: list[bytes] = []
        self._is_streamed = False
        self._is_gone = False
        self.is_whole = False

    async def receive(self) -> Message:
        if self._body is None:
            # Whoever watches the connections cancels all of this when the client goes.
            await trio.sleep_forever()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers: list[Header] = message["headers"]
            self._headers = [h for h in headers if h[0].lower() != b"content-length"]
            # A body of known length is there already, if in pieces; others are streamed.
            self._is_streamed = len(self._headers) == len(headers)
            return
        try:
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        except Disconnected:
            # Inside the application's nurseries it would not arrive as what it is; see __call__.
            self._is_gone = True

    async def _send_body(self, body: bytes, more: bool) -> None:
        if self._is_gone:
            return
        if not self._is_streamed:
            self._pieces.append(body)
            if not more:
                body = b"".join(self._pieces)
                await self._exchange.respond_raw(self._status, self._headers, body)
                self.is_whole = True
            return
        if not self._exchange.is_begun:
            await self._exchange.begin(self._status, self._headers)
        await self._exchange.write(body)
        if not more:
            await self._exchange.end()
            self.is_whole = True


def scope_of(exchange: Exchange) -> MutableMapping[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": "1.1",
        "method": exchange.method,
        "scheme": "http",
        "path": unquote(exchange.path),
        "raw_path": exchange.path.encode("latin-1"),
        "query_string": exchange.query.encode("latin-1"),
        "root_path": "",
        "headers": [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in exchange.headers.items()
        ],
        "client": (exchange.peer, 0),
        "server": None,
        "state": {},
        "extensions": {},
    }
