"""The gateway as one object, and how a request becomes an answer.

Whatever way a request came, it is answered here: who asks, whether it may come in, what its route
does, and what is said when that fails. Knows no socket and no framework.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from engine.base.clock import Clock
from engine.base.errors import EngineError, InternalFailure, RateLimited
from engine.base.ids import DeploymentId, deployment_id
from engine.gateway.api import routes
from engine.gateway.api.exchange import Disconnected, Exchange, Response
from engine.gateway.api.problems import (
    MalformedRequest,
    MethodNotAllowed,
    UnknownRoute,
    problem_response,
)
from engine.gateway.door.admission import InFlight, TokenBuckets
from engine.gateway.door.bodies import Bodies
from engine.gateway.door.metrics import GatewayMetrics
from engine.gateway.ports import Authenticate, Handle, MoreMetrics, Readiness
from engine.gateway.settings import (
    GatewaySettings,
    bodies_bytes_max,
    bodies_peer_bytes_max,
    bodies_share_bytes_max,
    rate_keys_max,
)
from engine.model.context import RequestContext

_log: Final = logging.getLogger(__name__)
_UNLIMITED: Final = nullcontext()

# A handler of a route that asks who asks is told; one of an open route has nobody to be told of.
Handler = Callable[["Door", RequestContext, Exchange, tuple[str, ...]], Awaitable[Response | None]]
OpenHandler = Callable[["Door", Exchange, tuple[str, ...]], Awaitable[Response | None]]


def _always_ready() -> None:
    return None


class Door:
    def __init__(
        self,
        handle: Handle,
        authenticate: Authenticate,
        *,
        clock: Clock,
        settings: GatewaySettings,
        handlers: Mapping[str, Handler],
        open_handlers: Mapping[str, OpenHandler],
        readiness: Readiness = _always_ready,
        more_metrics: MoreMetrics = str,
    ) -> None:
        self.handle: Final = handle
        self.clock: Final = clock
        self.settings: Final = settings
        self.metrics: Final = GatewayMetrics()
        self.bodies: Final = Bodies(bytes_max=bodies_bytes_max)
        self.webhooks: Final = {hook.name: hook for hook in settings.webhooks}
        self.more_metrics: Final = more_metrics
        self.deployment_default: Final[DeploymentId] = deployment_id(settings.deployment_default)
        self.is_stopping = False
        self._readiness = readiness
        self._authenticate = authenticate
        self._handlers = handlers
        self._open_handlers = open_handlers
        self._rate = (
            TokenBuckets(
                rate_per_s=settings.requests_per_s_max,
                burst=settings.requests_burst_max or max(1, int(settings.requests_per_s_max)),
                keys_max=rate_keys_max,
            )
            if settings.requests_per_s_max
            else None
        )
        self._waiting = (
            InFlight(settings.concurrency_per_project_max)
            if settings.concurrency_per_project_max
            else None
        )
        for is_open, found in ((False, set(handlers)), (True, set(open_handlers))):
            odd = {route.name for route in routes.ROUTES if route.is_open is is_open} ^ found
            assert not odd, f"routes and their handlers do not match: {odd}"

    def admit(self, headers: Mapping[str, str], peer: str | None) -> RequestContext:
        """Who asks; raises if nobody we know, or if it asks too often."""
        context = self._authenticate(headers, peer)
        if self._rate is not None:
            # The tenant, which is what a key is known by: not the headers, since somebody can send
            # a key in one of them and anything in another.
            wait_s = self._rate.take(context.tenant_id, self.clock.monotonic_us())
            if wait_s:
                raise RateLimited(
                    f"more than {self.settings.requests_per_s_max:g} requests a second for tenant "
                    f"{context.tenant_id}; come again when Retry-After says",
                    retry_after_s=wait_s,
                )
        return context

    def waiting(self, context: RequestContext) -> AbstractContextManager[None]:
        """Around what holds a connection while a run goes on."""
        return _UNLIMITED if self._waiting is None else self._counted(self._waiting, context)

    @contextmanager
    def _counted(self, waiting: InFlight, context: RequestContext) -> Iterator[None]:
        key = (context.tenant_id, context.project_id)
        if not waiting.enter(key):
            raise RateLimited(
                f"{self.settings.concurrency_per_project_max} requests of project "
                f"{context.project_id} are waiting for runs already; submit the run and ask for "
                "its result later, or come again when Retry-After says",
                retry_after_s=1,
            )
        try:
            yield
        finally:
            waiting.leave(key)

    def why_not_ready(self) -> str | None:
        return "the process is stopping" if self.is_stopping else self._readiness()

    async def answer(self, exchange: Exchange) -> Response | None:
        """The answer to any request, whatever way it came. None: it was streamed, whole.

        Who asks is settled here and before anything is read: no handler can forget it.
        """
        begun_us = self.clock.monotonic_us()
        name = "unknown"
        try:
            found = _found(exchange)
            name = found.route.name
            if found.route.is_open:
                exchange.payers = (
                    ("strangers", bodies_share_bytes_max),
                    (("peer", exchange.peer), bodies_peer_bytes_max),
                )
                response = await self._open_handlers[name](self, exchange, found.parameters)
            else:
                context = self.admit(exchange.headers, exchange.peer)
                exchange.is_admitted = True
                exchange.payers = ((context.tenant_id, bodies_share_bytes_max),)
                response = await self._handlers[name](self, context, exchange, found.parameters)
        except EngineError as error:
            response = problem_response(_unless_begun(exchange, name, error))
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001 - one request's defect must not end the process
            response = problem_response(_unless_begun(exchange, name, failure(error, name)))
        status = 200 if response is None else response.status
        self.metrics.observe(name, status, self.clock.monotonic_us() - begun_us)
        return response


def _found(exchange: Exchange) -> routes.Found:
    if not exchange.path:
        raise MalformedRequest("the request has no path; it begins with /", field="path")
    # What GET answers, HEAD answers; the server leaves out the body.
    method = "GET" if exchange.method == "HEAD" else exchange.method
    found = routes.find(method, exchange.path)
    if found is None:
        raise unknown(exchange.method, exchange.path)
    return found


def _unless_begun(exchange: Exchange, route: str, error: EngineError) -> EngineError:
    """An answer that has begun cannot become a problem document; all that is left is to break it
    off, which the client can tell from an answer that has ended."""
    if exchange.is_begun:
        _log.error("the answer to a request of route %r broke off: %s", route, error.message)
        raise Disconnected from error
    return error


def failure(error: BaseException, route: str) -> EngineError:
    """What is said of an exception that nobody expected; the log has the rest."""
    _log.error("a request of route %r failed", route, exc_info=error)
    return InternalFailure(
        "the engine failed on this request, which is a defect; its log has the cause"
    )


def unknown(method: str, path: str) -> EngineError:
    """What is said when no route was found."""
    allowed = routes.methods_of(path)
    if allowed:
        return MethodNotAllowed(
            f"{path[:200]} does not take {method}; use {' or '.join(allowed)}", allowed=allowed
        )
    return UnknownRoute(f"nothing is served at {path[:200]}; GET /openapi.json lists what is")
