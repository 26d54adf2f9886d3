"""The worker's own codec of journal payloads, held against the one that the engine uses."""

from __future__ import annotations

import contextlib
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.errors import MalformedRecord
from engine.model.payloads import PAYLOAD_TYPES, Error, Payload, RetryPolicy, StepCompleted
from engine.sdk.replay import records
from engine.wire import journal

U64 = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 127, 128, 2**35 - 1, 2**35, 2**42 - 1, 2**42, 2**63]),
)
U32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

# Fields that are 32 bits wide; all other numbers have 64.
NARROW = {"attempt", "attempts_max", "tool_calls"}


def values_of(struct_type: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(struct_type)
    return st.builds(struct_type, **{name: _values_of(name, hint) for name, hint in hints.items()})


def _values_of(name: str, hint: Any) -> st.SearchStrategy[Any]:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return st.lists(TEXT, max_size=3).map(tuple)
    if origin is not None and hasattr(origin, "keys"):
        return st.dictionaries(TEXT, TEXT, max_size=3)
    first = parts[0] if parts else hint
    if first in (Error, RetryPolicy):
        return st.none() | values_of(first)
    if first is bool:
        return st.booleans()
    if first is int:
        return U32 if name in NARROW else U64
    if first is float:
        return st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0])
    if first is str:
        return TEXT
    if first is bytes:
        return st.binary(max_size=200)
    return st.sampled_from([0, *first])


payloads = st.one_of([values_of(payload_type) for payload_type in PAYLOAD_TYPES.values()])


@given(payloads)
def test_bytes_are_the_engines(payload: Payload) -> None:
    kind, data = records.encode(payload)
    assert kind == journal.kind_of(payload)
    assert data == journal.encode(payload)


@given(payloads)
def test_values_are_the_engines(payload: Payload) -> None:
    kind, data = int(journal.kind_of(payload)), journal.encode(payload)
    assert records.decode(kind, data) == journal.decode(kind, data)


@given(payloads, st.data())
def test_a_cut_record_is_an_error_or_shorter_never_a_crash(
    payload: Payload, data: st.DataObject
) -> None:
    kind, encoded = records.encode(payload)
    cut = encoded[: data.draw(st.integers(0, len(encoded)))]
    with contextlib.suppress(MalformedRecord):
        records.decode(kind, cut)


@given(st.sampled_from(list(PAYLOAD_TYPES)), st.binary(max_size=40))
def test_any_bytes_are_a_record_or_an_error(kind: int, data: bytes) -> None:
    with contextlib.suppress(MalformedRecord):
        records.decode(kind, data)


def test_a_kind_of_a_newer_version_is_none() -> None:
    assert records.decode(99, b"\xff") is None


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a tag of more than 64 bits
        b"\x0b",  # a group
        b"\x12\x05ab",  # text that is cut short
        b"\x12\x01\xff",  # text that is not UTF-8
        b"\x08",  # a number that is missing
    ],
)
def test_what_is_no_message_says_so(data: bytes) -> None:
    with pytest.raises(MalformedRecord, match="STEP_COMPLETED"):
        records.decode(3, data)


def test_a_field_of_a_newer_version_is_passed_over() -> None:
    _, data = records.encode(StepCompleted(position=7))
    newer = data + b"\xfa\x01\x03abc" + b"\xf8\x01\x05" + b"\xfd\x01abcd" + b"\xf9\x01abcdefgh"
    assert records.decode(3, newer) == StepCompleted(position=7)
