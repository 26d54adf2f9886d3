"""The Quart application: serves every route that is not hot, by the views in `views.py`.

Nothing but this adapter touches Quart's request. What Quart itself refuses (an unknown path, a
body over the bound) becomes a problem document like everything else.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import quart
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout

from engine.base.errors import EngineError
from engine.gateway import routes
from engine.gateway.asked import Asked
from engine.gateway.door import Door, failure, unknown
from engine.gateway.exchange import Response, header_map
from engine.gateway.problems import BodyTooLarge, MalformedRequest, problem_response
from engine.gateway.views import OPEN_VIEWS, VIEWS


def application(door: Door) -> QuartTrio:
    app = QuartTrio("engine.gateway", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = door.settings.body_bytes_max
    app.config["BODY_TIMEOUT"] = door.settings.read_stall_s_max
    # A large answer over a slow line takes as long as it takes; who stalls is cut off below.
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    for route in routes.ROUTES:
        if not route.is_hot:
            rule = route.pattern.replace("{", "<").replace("}", ">")
            app.add_url_rule(rule, route.name, _bound(door, route), methods=[route.method])
    app.register_error_handler(EngineError, _problem)
    app.register_error_handler(HTTPException, _refused_by_quart)
    app.register_error_handler(Exception, _failed)
    _measure(app, door)
    return app


def _bound(door: Door, route: routes.Route) -> Callable[..., Awaitable[quart.Response]]:
    names = re.findall(r"{(\w+)}", route.pattern)

    async def bound(**parameters: str) -> quart.Response:
        request = quart.request
        headers = header_map(request.scope["headers"])
        body = await request.get_data(as_text=False)
        assert isinstance(body, bytes)
        query = request.query_string.decode("latin-1")
        asked = Asked(tuple(parameters[name] for name in names), query, headers, body)
        if route.is_open:
            return _as_quart(await OPEN_VIEWS[route.name](door, asked))
        context = door.admit(headers, request.remote_addr)
        return _as_quart(await VIEWS[route.name](door, context, asked))

    return bound


def _as_quart(response: Response) -> quart.Response:
    answer = quart.Response(
        response.body, status=response.status, content_type=response.content_type.decode()
    )
    for name, value in response.headers:
        answer.headers[name.decode("latin-1")] = value.decode("latin-1")
    return answer


async def _problem(error: EngineError) -> quart.Response:
    return _as_quart(problem_response(error))


async def _refused_by_quart(error: HTTPException) -> quart.Response:
    request = quart.request
    if error.code in (404, 405):
        return _as_quart(problem_response(unknown(request.method, request.path)))
    if isinstance(error, RequestEntityTooLarge):
        bytes_max = request.max_content_length
        return _as_quart(
            problem_response(BodyTooLarge(f"the body has more than {bytes_max} bytes"))
        )
    if isinstance(error, RequestTimeout):
        return _as_quart(problem_response(MalformedRequest("the body broke off; send it again")))
    return _as_quart(problem_response(MalformedRequest(f"the request is refused: {error}")))


async def _failed(error: Exception) -> quart.Response:
    return _as_quart(problem_response(failure(error, quart.request.path)))


def _measure(app: QuartTrio, door: Door) -> None:
    async def begin() -> None:
        quart.g.begun_us = door.clock.monotonic_us()

    async def end(response: quart.Response) -> quart.Response:
        rule = quart.request.url_rule
        name = rule.endpoint if rule is not None else "unknown"
        duration_us = door.clock.monotonic_us() - quart.g.begun_us
        door.metrics.observe(name, response.status_code, duration_us)
        return response

    app.before_request(begin)
    app.after_request(end)
