"""Journal records as JSON for people: kinds and enums by name, ids as text, and the JSON that users
put in as JSON again. Bytes that are none of these are shown in base64."""

from __future__ import annotations

import base64
import enum
from typing import Any

import msgspec

from engine.base.errors import MalformedRecord
from engine.base.ids import RUN_ID_BYTES, RunId, run_id_text
from engine.gateway.api.shapes import EntryAnswer
from engine.model.payloads import Error, Payload, RetryPolicy
from engine.model.views import JournalEntry
from engine.wire import journal as wire
from engine.wire.json_text import NotJson, check_json


def entry_view(entry: JournalEntry) -> EntryAnswer:
    try:
        payload = _fields(wire.decode(entry.kind, entry.payload))
    except MalformedRecord as error:
        # One bad record does not hide the others.
        payload = {"unreadable": error.message, "bytes": _base64(entry.payload)}
    return EntryAnswer(
        offset=entry.offset,
        kind=entry.kind.name,
        timestamp_us=entry.timestamp_us,
        payload=payload,
    )


def _fields(payload: Payload | Error | RetryPolicy) -> dict[str, Any]:
    """Only what was said: a field that has its default was not on the wire."""
    defaults = type(payload)()
    return {
        name: _shown(name, value)
        for name in payload.__struct_fields__
        if (value := getattr(payload, name)) != getattr(defaults, name)
    }


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return _shown_bytes(name, value)
    if isinstance(value, enum.IntEnum):
        return value.name
    if isinstance(value, Error | RetryPolicy):
        return _fields(value)
    return value


def _shown_bytes(name: str, value: bytes) -> Any:
    if name.endswith("run_id") and len(value) == RUN_ID_BYTES:
        return run_id_text(RunId(value))
    if name == "input_digest":
        return value.hex()
    try:
        check_json(value)
    except NotJson:
        return {"base64": _base64(value)}
    return msgspec.Raw(value)  # as it is: values made of it would be dropped at once


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
