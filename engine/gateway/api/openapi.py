"""The OpenAPI document, made from the route table and the types of `shapes.py`."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

import engine
from engine.base.limits import (
    idempotency_key_bytes_max,
    key_length_max,
    name_length_max,
)
from engine.gateway.api import exchange, routes, shapes
from engine.gateway.api.problems import PROBLEM_TYPE, STATUS_OF_CODE, Problem
from engine.gateway.api.routes import ROUTES, Route
from engine.model.query import ANALYTICS

_REFERENCE: Final = "#/components/schemas/{name}"
_COMMON_PROBLEMS: Final = (
    "unauthorized",
    "rate_limited",
    "malformed_request",
    "invalid_input",
    "invalid_name",
    "internal_error",
    "not_ready",
)
_BODY_PROBLEMS: Final = ("malformed_json", "body_too_large")
# Its name, what it is for, and what it may hold.
Header = tuple[str, str, dict[str, Any]]
# Of other routes no body is null, the defaults, or no line.
_BODY_NEEDED: Final = frozenset({"batch", "query"})
_TEXT_SCHEMA: Final[dict[str, Any]] = {"type": "string"}


def _visible(length_max: int) -> dict[str, Any]:
    """Of a header; what is white at its ends is not part of it."""
    pattern = rf"^[!-~]([ -~]{{0,{length_max - 2}}}[!-~])?$"
    return _TEXT_SCHEMA | {"pattern": pattern}


_IDEMPOTENCY_SCHEMA: Final = _visible(idempotency_key_bytes_max)
_KEY_SCHEMA: Final = _visible(key_length_max)
_NAME_SCHEMA: Final = _TEXT_SCHEMA | {"pattern": f"^[A-Za-z0-9_-]{{1,{name_length_max}}}$"}
_START_HEADERS: Final[Sequence[Header]] = (
    ("Idempotency-Key", "The same key and input start nothing twice", _IDEMPOTENCY_SCHEMA),
    ("X-Deployment-ID", "Which deployment of the component", _NAME_SCHEMA),
    ("X-Session-ID", "The session whose state the run sees", _KEY_SCHEMA),
    ("X-User-ID", "The user whose state the run sees, unless the key has one", _KEY_SCHEMA),
    ("traceparent", "W3C trace context; the run belongs to its trace", _TEXT_SCHEMA),
)
# Not Accept: a document says by the media types of its answers what may be asked for.
_HEADERS_OF: Final[Mapping[str, Sequence[Header]]] = {
    "run": _START_HEADERS,
    "submit": _START_HEADERS,
    "stream": _START_HEADERS,
    "batch": _START_HEADERS,
    "runs_batch": _START_HEADERS[1:],
    "signal": (
        ("Idempotency-Key", "The signal's id: the same id twice counts once", _IDEMPOTENCY_SCHEMA),
    ),
    "events": (
        (
            "Last-Event-ID",
            "The `id` of the last event that was read",
            _TEXT_SCHEMA | {"pattern": "^[0-9]{0,18}$"},
        ),
    ),
}
_CSV: Final[dict[str, Any]] = {exchange.CSV_TYPE.decode(): {"schema": _TEXT_SCHEMA}}
_ARROW: Final[dict[str, Any]] = {exchange.ARROW_TYPE.decode(): {"schema": {}}}
# What a route takes and gives beside its own media type.
_MORE_BODIES: Final = {
    "query": {name: {"schema": _TEXT_SCHEMA} for name in ("application/sql", "text/plain")}
}
_MORE_ANSWERS: Final[dict[str, dict[str, Any]]] = {"query": _CSV | _ARROW, "analytics": _CSV}


@functools.lru_cache(maxsize=4)
def document(result_wait_s_max: float) -> bytes:
    """Of a gateway that lets nobody wait for longer than that."""
    types = _types()
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schema_of = dict(zip(types, schemas, strict=True))
    components[shapes.ResultQuery.__name__]["properties"]["wait_s"]["maximum"] = result_wait_s_max
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        operation = _operation(route, schema_of, components)
        paths.setdefault(route.pattern, {})[route.method.lower()] = operation
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "durable-engine",
                "version": engine.__version__,
                "description": "Durable runs over HTTP. Errors are RFC 9457 problem documents.",
            },
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                },
            },
            "security": [{"bearer": []}, {"key": []}],
        }
    )


def _types() -> Sequence[Any]:
    """Every type that a route speaks of, once."""
    found: list[Any] = [Problem]
    for route in ROUTES:
        for one in (route.query, route.body and route.body[1], route.answer[2]):
            if one is not None and one not in found:
                found.append(one)
    return found


def _operation(
    route: Route, schema_of: dict[Any, Any], components: dict[str, Any]
) -> dict[str, Any]:
    status, media_type, answer_type = route.answer
    answer = schema_of.get(answer_type, {})
    if route.name == "runs_batch":
        answer = {"anyOf": [answer, schema_of[Problem]]}  # a line
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [*_path(route), *_query(route, components), *_headers(route)],
        "responses": {
            str(status): {
                "description": route.summary,
                "content": {media_type: {"schema": answer}} | _MORE_ANSWERS.get(route.name, {}),
            },
            **_problems(route, schema_of[Problem]),
        },
    }
    if route.name == "result":
        operation["responses"]["202"] = {
            "description": "The run has not ended",
            "content": {routes.JSON: {"schema": schema_of[shapes.StatusAnswer]}},
        }
    if route.name == "events":
        operation["responses"]["204"] = {"description": "The run has ended; there is no more"}
    if route.body is not None:
        body_type, body = route.body
        content = {body_type: {"schema": schema_of[body]}} | _MORE_BODIES.get(route.name, {})
        operation["requestBody"] = {"content": content, "required": route.name in _BODY_NEEDED}
    if route.is_open:
        operation["security"] = []
    return operation


def _path(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _path_schema(name)}
        for name in re.findall(r"{(\w+)}", route.pattern)
    ]


def _path_schema(name: str) -> dict[str, Any]:
    if name == "kind":
        return {"type": "string", "enum": sorted(routes.KINDS)}
    if name == "analysis":
        return {"type": "string", "enum": list(ANALYTICS)}
    if name == "run_id":
        return {"type": "string", "format": "uuid"}
    return (
        _TEXT_SCHEMA | {"minLength": 1} | ({"maxLength": key_length_max} if name == "name" else {})
    )


def _query(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    properties = components[route.query.__name__]["properties"]
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _headers(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "description": text, "schema": schema}
        for name, text, schema in _HEADERS_OF.get(route.name, ())
    ]


def _problems(route: Route, schema: dict[str, Any]) -> dict[str, Any]:
    codes = [*route.problems]
    if not route.is_open:
        codes += _COMMON_PROBLEMS
    if route.body is not None:
        codes += _BODY_PROBLEMS
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(STATUS_OF_CODE[code], []).append(code)
    return {
        str(status): {
            "description": "code: " + ", ".join(f"`{code}`" for code in sorted(found)),
            "content": {PROBLEM_TYPE.decode(): {"schema": schema}},
        }
        for status, found in sorted(by_status.items())
    }
