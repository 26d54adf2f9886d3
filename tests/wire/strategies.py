"""What the wire tests draw: the Struct of any message with any values, and bytes that were damaged.
Knows the messages from their descriptors, so that a new field is drawn as soon as it is declared.
"""

from __future__ import annotations

from typing import Any

import betterproto2
from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]
from hypothesis import strategies as st

from engine.model import payloads, worker_frames
from tests.wire import google_messages

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 8) | st.integers(0, 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.TYPE_STRING: st.text(max_size=12),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=40),
}


def structs(message: Descriptor) -> st.SearchStrategy[Any]:
    """Of the Struct that has the message's name."""
    struct_type = getattr(payloads, message.name, None) or getattr(worker_frames, message.name)
    return st.builds(struct_type, **{field.name: values(field) for field in message.fields})


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if google_messages.is_map(field):
        key, value = field.message_type.fields
        return st.dictionaries(values(key), values(value), max_size=3)
    one = _SCALARS[field.type] if field.message_type is None else structs(field.message_type)
    if field.is_repeated:
        return st.lists(one, max_size=3).map(tuple)
    return one if field.message_type is None else st.none() | one


def mutated(data: bytes, draw: st.DataObject) -> bytes:
    at = draw.draw(st.integers(0, len(data)), "at")
    cut = draw.draw(st.integers(0, 4), "cut")
    return data[:at] + draw.draw(st.binary(max_size=4), "in its place") + data[at + cut :]


def of_newer_version() -> bytes:
    """One field of every wire type, with numbers that no message has given."""
    return b"".join(
        betterproto2.encode_varint(number << 3 | wire_type) + value
        for number, wire_type, value in [
            (500, 0, b"\x07"),
            (501, 1, b"12345678"),
            (502, 2, b"\x03new"),
            (503, 5, b"1234"),
        ]
    )
