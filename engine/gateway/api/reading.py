"""What clients send, as typed values; or an error that says where it is wrong.

Bodies are JSON, checked here once and passed on as the bytes they are; query strings and headers
are text. Nothing here starts or changes anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from engine.base.errors import InvalidInput
from engine.base.limits import idempotency_key_bytes_max, key_length_max
from engine.gateway.api.problems import MalformedJson, MalformedRequest
from engine.gateway.settings import query_parameters_max, tag_bytes_max, tags_max
from engine.wire.json_text import NotJson, check_json

T = TypeVar("T")

NULL: Final = b"null"
TAG_PREFIX: Final = "tag."

_PATH: Final = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`")
_NAMED: Final = re.compile(r"field `([^`]+)`")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_TOO_DEEP: Final = "it is nested too deeply or has a number that is too long"
_NO_TRACE: Final = "0" * 32


def checked_json(body: bytes, what: str = "the body") -> bytes:
    """The same bytes, if they are JSON in all its parts. An empty body is null."""
    if not body:
        return NULL
    try:
        check_json(body)
    except NotJson as error:
        raise malformed_json(body, error, what) from error
    return body


def typed_json(decoder: msgspec.json.Decoder[T], body: bytes, what: str = "the body") -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error, what) from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise malformed_json(body, error, what) from error


def typed_query(query_type: type[T], query: str) -> T:
    return _converted(query_type, pairs_of(query))


def query_and_tags(query_type: type[T], query: str) -> tuple[T, dict[str, str]]:
    """The parameters whose name begins with `tag.` are the tags."""
    pairs = pairs_of(query)
    tags = {
        name.removeprefix(TAG_PREFIX): pairs.pop(name)
        for name in list(pairs)
        if name.startswith(TAG_PREFIX)
    }
    if len(tags) > tags_max:
        raise InvalidInput(f"{len(tags)} tags are too many: at most {tags_max}", field="tag")
    for name, text in tags.items():
        if not name or len(name) > tag_bytes_max or len(text) > tag_bytes_max:
            raise InvalidInput(
                f"a tag has a name, and name and value have at most {tag_bytes_max} characters",
                field=f"{TAG_PREFIX}{name[:64]}",
            )
    return _converted(query_type, pairs), tags


def pairs_of(query: str) -> dict[str, str]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=query_parameters_max
        )
    except ValueError as error:
        raise MalformedRequest(
            f"the query string cannot be read: {error}; it has at most {query_parameters_max} "
            "parameters, percent-encoded UTF-8",
            field="query",
        ) from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedRequest("a query parameter is given twice; give it once", field="query")
    return found


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    return _bounded(headers, "Idempotency-Key", idempotency_key_bytes_max)


def name_header(headers: Mapping[str, str], header: str) -> str | None:
    """A header that names something (a session, a user), if it was sent."""
    return _bounded(headers, header, key_length_max)


def _bounded(headers: Mapping[str, str], header: str, bytes_max: int) -> str | None:
    text = headers.get(header.lower())  # a character for each byte that was sent
    if text is not None and not 0 < len(text) <= bytes_max:
        raise InvalidInput(
            f"the header {header} has 1 to {bytes_max} bytes, this one has {len(text)}",
            field=header,
        )
    return text


def trace_of(traceparent: str | None) -> str:
    """The trace id of a W3C traceparent. One that is malformed is ignored, as its standard says."""
    if traceparent is None:
        return ""
    found = _TRACEPARENT.match(traceparent)
    return found[1] if found is not None and found[1] != _NO_TRACE else ""


def event_offset(last_event_id: str | None, after: int | None) -> int | None:
    if last_event_id is None or last_event_id == "":
        return after
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 20):
        raise InvalidInput(
            f"Last-Event-ID {last_event_id[:64]!r} is not an offset: send the `id` of the last "
            "event that was read, or leave the header out to read from the first",
            field="Last-Event-ID",
        )
    return int(last_event_id)


def malformed_json(body: bytes, error: Exception, what: str) -> MalformedJson:
    """An error that says at which line and column the JSON goes wrong."""
    found = error if isinstance(error, NotJson) else _located(body, error)
    before = body[: found.at]
    line = before.count(b"\n") + 1
    column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
    return MalformedJson(
        f"{what} is not JSON: {found.reason}, at line {line} column {column}",
        line=line,
        column=column,
    )


def _located(body: bytes, error: Exception) -> NotJson:
    """What is wrong, and where, with what the codec did not take; in the codec's own words only
    where the scan sees nothing wrong."""
    try:
        check_json(body)
    except NotJson as found:
        return found
    return NotJson(str(error), 0)


def invalid(error: msgspec.ValidationError, what: str) -> InvalidInput:
    """An error that names the field."""
    text = str(error)
    path = _PATH.search(text)
    named = _NAMED.search(text)
    field = path[1] if path is not None and path[1] else ""
    if named is not None:
        field = f"{field}.{named[1]}" if field else named[1]
    reason = _PATH.sub("", text)
    reason = reason[:1].lower() + reason[1:]
    place = f" at {field}" if field else ""
    return InvalidInput(f"{what} is not what is asked for{place}: {reason}", field=field or what)


def _converted(query_type: type[T], pairs: dict[str, str]) -> T:
    values: Any = pairs
    try:
        return msgspec.convert(values, query_type, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, "the query string") from error
