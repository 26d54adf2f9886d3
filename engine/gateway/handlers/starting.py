"""How a request becomes the start of a run: what its path, headers, query and body say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from engine.base.ids import DeploymentId, deployment_id
from engine.gateway.api import reading, routes, shapes
from engine.gateway.door.door import Door
from engine.model.context import RequestContext
from engine.model.runs import ComponentKind
from engine.model.views import Started, StartRequest

_NO_OPTIONS: Final = shapes.StartOptions()
_NO_TAGS: Final[Mapping[str, str]] = {}


class Caller(NamedTuple):
    """What the headers of a request say about the runs it starts."""

    deployment_id: DeploymentId
    idempotency_key: str | None
    session_id: str
    user_id: str
    is_user_settled: bool  # the key belongs to a user, so nothing in the request names another
    trace_id: str


class Target(NamedTuple):
    kind: ComponentKind
    component: str
    options: shapes.StartOptions
    tags: Mapping[str, str]


def caller_of(door: Door, headers: Mapping[str, str], context: RequestContext) -> Caller:
    deployment = headers.get("x-deployment-id")
    session = reading.name_header(headers, "X-Session-ID")
    user = reading.name_header(headers, "X-User-ID")
    return Caller(
        door.deployment_default if deployment is None else deployment_id(deployment),
        reading.idempotency_key(headers),
        session or "",
        context.user_id or user or "",
        bool(context.user_id),
        reading.trace_of(headers.get("traceparent")),
    )


def target_of(parameters: tuple[str, ...], query: str) -> Target:
    """Of a path like `/v1/{kind}/{component}/run` and its query string."""
    kind = routes.kind_named(parameters[0])
    if not query:
        return Target(kind, parameters[1], _NO_OPTIONS, _NO_TAGS)
    options, tags = reading.query_and_tags(shapes.StartOptions, query)
    return Target(kind, parameters[1], options, tags)


def start_request(
    target: Target, caller: Caller, json_input: bytes, idempotency_key: str | None
) -> StartRequest:
    return StartRequest(
        component=target.component,
        kind=target.kind,
        input=json_input,
        deployment_id=caller.deployment_id,
        idempotency_key=idempotency_key,
        session_id=caller.session_id,
        user_id=caller.user_id,
        trace_id=caller.trace_id,
        correlation_id=target.options.correlation_id,
        tags=target.tags,
        prompt_version=target.options.prompt_version,
        start_at_ms=target.options.start_at_ms,
        entity_key=target.options.entity_key,
    )


async def start(door: Door, context: RequestContext, request: StartRequest) -> Started:
    started = await door.handle.start(context, request)
    door.metrics.starts_total += 1
    return started
