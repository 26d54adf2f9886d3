"""The Quart application, which serves every route that is not hot by the views in `views.py`.

It is asked by the door, through `Cold`: by then it is known who asks, and the body has been read.
Nothing but this adapter touches Quart's request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

import quart
import trio
from quart_trio import QuartTrio

from engine.base.errors import EngineError
from engine.gateway.api.exchange import Exchange, Header, Response
from engine.gateway.api.problems import problem_response
from engine.gateway.door.door import Door, Handler, OpenHandler, failure
from engine.gateway.handlers.asked import Asked
from engine.gateway.handlers.views import OPEN_VIEWS, VIEWS
from engine.model.context import RequestContext

# Under which the request's own facts stand in the scope.
_ASKING: Final = "engine.asking"

_Asking = tuple[Door, RequestContext | None, Asked]


class Cold:
    """Handlers for the door that ask the application."""

    def __init__(self) -> None:
        self._application: Any = application()  # its types say the same of ASGI in other words
        self.handlers: Final[Mapping[str, Handler]] = {name: self._handler(name) for name in VIEWS}
        self.open_handlers: Final[Mapping[str, OpenHandler]] = {
            name: self._open_handler(name) for name in OPEN_VIEWS
        }

    def _handler(self, name: str) -> Handler:
        async def handle(
            door: Door,
            context: RequestContext,
            exchange: Exchange,
            parameters: tuple[str, ...],
        ) -> Response:
            return await self._ask(name, (door, context, await _asked(door, exchange, parameters)))

        return handle

    def _open_handler(self, name: str) -> OpenHandler:
        async def handle(door: Door, exchange: Exchange, parameters: tuple[str, ...]) -> Response:
            return await self._ask(name, (door, None, await _asked(door, exchange, parameters)))

        return handle

    async def _ask(self, name: str, asking: _Asking) -> Response:
        answer = _Answer()
        await self._application(_scope_of(name, asking), answer.receive, answer.send)
        return answer.response()


async def _asked(door: Door, exchange: Exchange, parameters: tuple[str, ...]) -> Asked:
    body = await exchange.read(door.settings.body_bytes_max)
    return Asked(parameters, exchange.query, exchange.headers, body)


class _Answer:
    """What the application says, gathered."""

    def __init__(self) -> None:
        self._status = 0
        self._headers: Sequence[Header] = ()
        self._pieces: list[bytes] = []
        self._is_asked = False

    async def receive(self) -> MutableMapping[str, Any]:
        if self._is_asked:
            # Whoever watches the connection cancels all of this when the client goes.
            await trio.sleep_forever()
        self._is_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], message["headers"]
        else:
            self._pieces.append(message.get("body", b""))

    def response(self) -> Response:
        assert self._status, "the application has answered nothing"
        found = {name.lower(): value for name, value in self._headers}
        return Response(
            b"".join(self._pieces),
            self._status,
            found.pop(b"content-type"),
            tuple((name, value) for name, value in found.items() if name != b"content-length"),
        )


def application() -> QuartTrio:
    app = QuartTrio("engine.gateway", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    # A view takes as long as it takes; who does not read the answer is cut off by the exchange.
    app.config["RESPONSE_TIMEOUT"] = None
    for name in (*VIEWS, *OPEN_VIEWS):
        app.add_url_rule(f"/{name}", name, _bound(name), methods=["POST"])
    app.register_error_handler(EngineError, _problem)
    app.register_error_handler(Exception, _failed)
    return app


def _bound(name: str) -> Callable[[], Awaitable[quart.Response]]:
    async def bound() -> quart.Response:
        door, context, asked = _asking()
        if context is None:
            return _as_quart(await OPEN_VIEWS[name](door, asked))
        return _as_quart(await VIEWS[name](door, context, asked))

    return bound


def _asking() -> _Asking:
    found: _Asking = quart.request.scope[_ASKING]  # type: ignore[typeddict-item]
    return found


def _as_quart(response: Response) -> quart.Response:
    answer = quart.Response(
        response.body, status=response.status, content_type=response.content_type.decode()
    )
    for name, value in response.headers:
        answer.headers[name.decode("latin-1")] = value.decode("latin-1")
    return answer


async def _problem(error: EngineError) -> quart.Response:
    return _as_quart(problem_response(error))


async def _failed(error: Exception) -> quart.Response:
    return _as_quart(problem_response(failure(error, quart.request.path)))


def _scope_of(name: str, asking: _Asking) -> MutableMapping[str, Any]:
    """The route has been found already: what is asked for is its name, which no path can be
    mistaken for."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": f"/{name}",
        "raw_path": f"/{name}".encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"engine")],
        "client": None,
        "server": None,
        "state": {},
        "extensions": {},
        _ASKING: asking,
    }
