"""Errors as HTTP says them: RFC 9457 problem documents with the engine's stable codes.

Owns the one table from code to status, and the errors that only a request over HTTP can make. A
document's `detail` says what to do; `errors` names the field, if one is to blame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import msgspec

from engine.base.errors import EngineError
from engine.gateway.api.exchange import Header, Response

PROBLEM_TYPE: Final = b"application/problem+json"


class UnknownRoute(EngineError):
    """Nothing is served under this path."""

    code = "unknown_route"


class MethodNotAllowed(EngineError):
    """The path is served, but not with this method."""

    code = "method_not_allowed"


class MalformedRequest(EngineError):
    """A part of the request other than its body cannot be read."""

    code = "malformed_request"


class MalformedJson(EngineError):
    """The body is not JSON; says where."""

    code = "malformed_json"


class BodyTooLarge(EngineError):
    """The body is over its bound. Nothing was started for the part that was not read."""

    code = "body_too_large"


class NotAcceptable(EngineError):
    """The route gives none of the media types that the header Accept asks for."""

    code = "not_acceptable"


class UnknownAnalysis(EngineError):
    """There are no analytics of this name; names the nearest."""

    code = "unknown_analysis"


class InvalidSignature(EngineError):
    """The body was not signed with the webhook's secret, or too long ago; or there is no webhook of
    this name, which is not told."""

    code = "invalid_signature"


class NotReady(EngineError):
    """The process is starting or stopping; another one, or a later try, will answer."""

    code = "not_ready"


STATUS_OF_CODE: Final[Mapping[str, int]] = MappingProxyType(
    {
        "address_in_use": 500,
        "append_conflict": 503,
        "archive_damaged": 500,
        "archive_refused": 503,
        "archive_unreachable": 503,
        "backup_invalid": 500,
        "body_too_large": 413,
        "directory_in_use": 500,
        "duplicate_component": 409,
        "engine_error": 500,
        "gone": 410,
        "idempotency_conflict": 409,
        "internal_error": 500,
        "invalid_endpoint": 400,
        "invalid_input": 422,
        "invalid_name": 400,
        "invalid_query": 400,
        "invalid_settings": 500,
        "invalid_signature": 401,
        "journal_busy": 503,
        "journal_closed": 503,
        "limit_exceeded": 413,
        "malformed_json": 400,
        "malformed_record": 500,
        "malformed_request": 400,
        "method_not_allowed": 405,
        "no_state_scope": 409,
        "not_acceptable": 406,
        "not_deterministic": 500,
        "not_ready": 503,
        "not_serializable": 422,
        "offset_trimmed": 410,
        "query_busy": 503,
        "query_refused": 403,
        "query_timeout": 504,
        "query_too_large": 422,
        "rate_limited": 429,
        "run_terminal": 409,
        "segment_sealed": 409,
        "stale_fence": 409,
        "storage_damaged": 500,
        "storage_failed": 503,
        "storage_full": 503,
        "tenant_limit_reached": 503,
        "tenant_unknown": 404,
        "unauthorized": 401,
        "unknown_analysis": 404,
        "unknown_component": 404,
        "unknown_route": 404,
        "unknown_run": 404,
        "unknown_wait": 404,
        "unsupported_sdk": 400,
    }
)


class FieldError(msgspec.Struct, frozen=True):
    field: str
    message: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457, with the engine's `code` and the facts behind the message."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    facts: dict[str, Any] = {}


def problem_of(error: EngineError) -> Problem:
    facts = dict(error.details)
    field = facts.pop("field", None)
    return Problem(
        type=f"urn:durable-engine:problem:{error.code}",
        title=error.code.replace("_", " "),
        status=STATUS_OF_CODE.get(error.code, 500),
        code=error.code,
        detail=error.message,
        errors=(FieldError(str(field), error.message),) if field is not None else (),
        facts=facts,
    )


def problem_bytes(error: EngineError) -> bytes:
    # A fact may be of any type; one that JSON has no form for is shown as text.
    return msgspec.json.encode(problem_of(error), enc_hook=str)


def problem_response(error: EngineError) -> Response:
    status = STATUS_OF_CODE.get(error.code, 500)
    return Response(
        status=status,
        body=problem_bytes(error),
        content_type=PROBLEM_TYPE,
        headers=tuple(_headers(status, error)),
    )


def retry_after_s(error: EngineError) -> int:
    given = error.details.get("retry_after_s")
    return max(1, math.ceil(given)) if isinstance(given, int | float) else 1


def _headers(status: int, error: EngineError) -> list[Header]:
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return [(b"retry-after", b"%d" % retry_after_s(error))]
    if status == HTTPStatus.UNAUTHORIZED:
        return [(b"www-authenticate", b"Bearer")]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = error.details.get("allowed")
        methods = ", ".join(allowed) if isinstance(allowed, list) else ""
        return [(b"allow", methods.encode("ascii"))]
    return []
