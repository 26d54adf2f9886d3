"""The ASGI application that Hypercorn serves: an Exchange over `receive` and `send`, answered by
the door like any other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import trio

from engine.gateway.api.exchange import (
    NO_CONTENT,
    Disconnected,
    Exchange,
    Header,
    Response,
    header_map,
)
from engine.gateway.api.problems import BodyTooLarge, MalformedRequest, problem_response
from engine.gateway.door.bodies import patience_s, reading_s_max
from engine.gateway.door.door import Door

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Under which the state of a connection holds what watches it.
CONNECTION: Final = "engine.connection"
_NO_WEBSOCKET: Final = problem_response(
    MalformedRequest("there are no WebSockets here; GET /v1/runs/{run_id}/events streams a run")
)


class Watcher(Protocol):
    def serving(self, exchange: Exchange, /) -> AbstractContextManager[None]: ...


class Front:
    """The ASGI application of the gateway."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _refuse_websocket(send)
            return
        assert scope["type"] == "http", scope["type"]
        exchange = AsgiExchange(scope, receive, send, self._door)
        watcher: Watcher = scope["state"][CONNECTION]
        with watcher.serving(exchange):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange.watch, nursery.cancel_scope)
                await self._answer(exchange)
                nursery.cancel_scope.cancel()

    async def _answer(self, exchange: AsgiExchange) -> None:
        try:
            response = await self._door.answer(exchange)
            if response is not None:
                await exchange.respond(response)
            else:
                await exchange.end()
        except Disconnected:
            return  # without a last message, the server breaks the answer off


class AsgiExchange(Exchange):
    __slots__ = (
        "_came_bytes",
        "_has_body",
        "_is_answered",
        "_receive",
        "_send",
        "_settings",
        "_waited_s",
    )

    def __init__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, door: Door
    ) -> None:
        client = scope.get("client")
        super().__init__(
            scope["method"],
            _path_of(scope["raw_path"].decode("latin-1")),
            scope["query_string"].decode("latin-1"),
            header_map(scope["headers"]),
            client[0] if client else None,
            door.bodies,
        )
        self._receive = receive
        self._send = send
        self._settings = door.settings
        self._came_bytes = 0
        self._waited_s = 0.0
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

    async def read_piece(self, bytes_max: int) -> bytes:
        while not self._has_body.is_set():
            message = await self._next_message()
            piece: bytes = message.get("body", b"")
            self._came_bytes += len(piece)
            if self._came_bytes > bytes_max:
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
        begun = trio.current_time()
        with trio.move_on_after(patience_s(self._settings, self._came_bytes, self._waited_s)):
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            self._waited_s += trio.current_time() - begun
            return message
        raise MalformedRequest("the body broke off, or came too slowly; send it again")

    async def respond(self, response: Response) -> None:
        self._finish()
        headers = [*response.all_headers()]
        if response.status != NO_CONTENT:
            headers.append((b"content-length", b"%d" % len(response.body)))
        await self._start(response.status, headers)
        await self._send_body(response.body, more=False)

    async def begin(self, status: int, headers: Sequence[Header]) -> None:
        self.is_begun = True
        await self._start(status, headers)

    async def write(self, data: bytes) -> None:
        await self._send_body(data, more=True)

    async def end(self) -> None:
        self._finish()
        await self._send_body(b"", more=False)

    async def _start(self, status: int, headers: Sequence[Header]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        """A reader has a while to take it, however many ways there are not to (a window that stays
        shut, say): what it does not take is not kept."""
        with trio.move_on_after(reading_s_max(self._settings, len(body))):
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            return
        raise Disconnected


def _path_of(target: str) -> str:
    """Of a target that may name the whole address, as it does for a proxy."""
    scheme, separator, rest = target.partition("://")
    if not separator or "/" in scheme:
        return target
    return rest[rest.find("/") :] if "/" in rest else "/"


async def _refuse_websocket(send: Send) -> None:
    headers = [*_NO_WEBSOCKET.all_headers(), (b"content-length", b"%d" % len(_NO_WEBSOCKET.body))]
    await send(
        {
            "type": "websocket.http.response.start",
            "status": _NO_WEBSOCKET.status,
            "headers": headers,
        }
    )
    await send({"type": "websocket.http.response.body", "body": _NO_WEBSOCKET.body})
