"""Errors of the engine as they arrive: by code, turned back into the classes they were.

Knows neither HTTP nor gRPC; who reads a refusal or a problem document calls it with what is there.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from engine.base import errors
from engine.base.errors import EngineError

_BY_CODE: Final = {
    error_type.code: error_type
    for error_type in vars(errors).values()
    if isinstance(error_type, type) and issubclass(error_type, EngineError)
}


class _FieldError(msgspec.Struct):
    field: str = ""


class _Problem(msgspec.Struct):
    code: str = ""
    title: str = ""
    detail: str = ""
    errors: list[_FieldError] = []
    facts: dict[str, Any] = {}


_DECODER: Final = msgspec.json.Decoder(_Problem)


def error_of(code: str, message: str, **details: object) -> EngineError:
    """The error's own class where this version has one, else an EngineError with that code."""
    error = _BY_CODE.get(code, EngineError)(message, **details)
    if error.code != code:
        error.code = code  # type: ignore[misc]
    return error


def error_of_problem(status: int, body: bytes) -> EngineError:
    """Of an RFC 9457 document, or of whatever else a proxy has put in its place."""
    try:
        problem = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        problem = _Problem()
    if not problem.code:
        text = body[:200].decode(errors="replace").strip()
        return error_of(
            "unexpected_answer",
            f"the server answered with status {status} and no problem document: {text!r}; is this "
            "the address of the engine's gateway?",
            status=status,
        )
    details = {**problem.facts, "status": status}
    if problem.errors:
        details["field"] = problem.errors[0].field
    return error_of(problem.code, problem.detail or problem.title, **details)
