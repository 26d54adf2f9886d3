"""Nothing that a client, a webhook or a worker says can end an event of a stream or forge one.

Every record that is shown as an event is made with hostile text in each of its fields, and so is
what a worker emits; two readers of event streams that have nothing in common, the standard's rules
and the SDK's parser, must each see the one event that was meant, and the next one behind it.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.errors import EngineError
from engine.base.ids import RunId
from engine.gateway.api.reading import checked_json
from engine.gateway.handlers.streams import event_bytes
from engine.model.payloads import PAYLOAD_TYPES
from engine.model.records import Record, RecordKind
from engine.model.views import RunEvent
from engine.runtime.reading.events import _JSON_FIELDS, _NAMES, _event
from engine.sdk.client.sse import EventParser
from engine.wire.journal import encode
from engine.wire.rules import check_emit
from tests.gateway.test_streams import blocks_of

RUN = RunId(bytes(range(16)))
AFTER = RunEvent(7, "run.completed", b'{"output":1}')

# What ends lines and events for one reader or another, and what looks like a field of one.
LINE_ENDS = ["\r", "\n", "\r\n", "\r\r", "\n\n", "\x85", "\u2028", "\x0b", "\x0c", "\0"]
FIELDS = ["event: run.failed", "data: {}", "id: 9", ": ", '"', "\\", " ", "x"]
ENDS = st.sampled_from([*LINE_ENDS, *FIELDS])
TEXT = st.lists(ENDS | st.text(max_size=3), max_size=8).map("".join)
# Legal JSON with line ends wherever JSON allows them, beside JSON as codecs write it.
SPACE = st.text(" \t\r\n", max_size=4)


@st.composite
def spaced_json(draw: st.DrawFn, depth: int = 2) -> bytes:
    kinds = ["scalar"] if depth == 0 else ["scalar", "array", "object"]
    kind = draw(st.sampled_from(kinds))
    if kind == "scalar":
        value = draw(TEXT | st.integers(-9, 9) | st.booleans() | st.none())
        body = msgspec.json.encode(value)
    elif kind == "array":
        items = draw(st.lists(spaced_json(depth - 1), max_size=3))
        body = b"[%b%b]" % (draw(SPACE).encode(), b",".join(items))
    else:
        pairs = draw(st.lists(st.tuples(TEXT, spaced_json(depth - 1)), max_size=3))
        body = b"{%b%b}" % (
            draw(SPACE).encode(),
            b",".join(b"%b:%b" % (msgspec.json.encode(name), value) for name, value in pairs),
        )
    return draw(SPACE).encode() + body + draw(SPACE).encode()


def values_of(name: str, hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return values_of(name, arguments[0])
    if hint is bytes:
        if name in _JSON_FIELDS:
            return spaced_json()
        return st.binary(min_size=16, max_size=16) if name.endswith("run_id") else st.binary()
    if hint is str:
        return TEXT
    if hint is bool:
        return st.booleans()
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        return st.sampled_from(list(hint))
    if hint is int:
        return st.integers(0, 2**31)
    if hint is float:
        return st.floats(0, 1e9)
    if origin in (Mapping, dict):
        return st.dictionaries(TEXT, TEXT, max_size=3)
    if origin is tuple:
        return st.lists(values_of(name, arguments[0]), max_size=3).map(tuple)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return structs_of(hint)
    raise AssertionError(f"{name} has a type that nothing hostile is known for: {hint}")


def structs_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: values_of(name, hint) for name, hint in hints.items()})


def check_one_event(stream: bytes, name: str, offset: int | None, data: bytes) -> None:
    """Both readers see it, and the one behind it."""
    first, second = blocks_of(stream)
    fields = [field for field, _ in first]
    heads = [b"event"] if offset is None else [b"id", b"event"]
    assert fields[: len(heads)] == heads
    assert set(fields[len(heads) :]) == {b"data"}
    found = dict(first)
    assert found[b"event"].decode() == name
    assert found.get(b"id") == (None if offset is None else b"%d" % offset)
    said = b"\n".join(value for field, value in first if field == b"data")
    assert msgspec.json.decode(said) == msgspec.json.decode(data)
    assert second == [(b"id", b"7"), (b"event", b"run.completed"), (b"data", AFTER.data)]

    events = EventParser().feed(stream)
    assert [(event.name, event.id) for event in events] == [(name, offset), (AFTER.name, 7)]
    assert events[0].data == msgspec.json.decode(data)


@pytest.mark.parametrize("kind", list(_NAMES), ids=lambda kind: kind.name.lower())
@settings(max_examples=40)
@given(data=st.data())
def test_no_record_ends_or_forges_an_event(kind: RecordKind, data: st.DataObject) -> None:
    payload = data.draw(structs_of(PAYLOAD_TYPES[kind]))
    event = _event(RUN, Record(3, kind, 5_000, encode(payload)), "workflow")
    assert event.name == _NAMES[kind].format(kind="workflow")
    check_one_event(event_bytes(event) + event_bytes(AFTER), event.name, 3, event.data)


@given(TEXT, spaced_json())
def test_nothing_that_is_emitted_ends_or_forges_an_event(name: str, data: bytes) -> None:
    try:
        check_emit(name, data)
    except EngineError:
        return  # the worker is told, and nobody hears it
    check_one_event(event_bytes(RunEvent(None, name, data)) + event_bytes(AFTER), name, None, data)


@given(st.lists(ENDS.map(str.encode) | st.binary(max_size=4), max_size=8).map(b"".join))
def test_what_is_not_json_does_not_come_so_far(body: bytes) -> None:
    """From a client or a webhook, as an input, a payload, an answer; or from a worker."""
    for check in (checked_json, lambda found: check_emit("x", found)):
        try:
            check(body)
        except EngineError:
            continue
        check_one_event(
            event_bytes(RunEvent(3, "x", body or b"null")) + event_bytes(AFTER),
            "x",
            3,
            body or b"null",
        )
