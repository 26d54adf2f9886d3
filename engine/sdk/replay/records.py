"""Journal payloads in the worker: values to protobuf bytes and back, quickly.

`engine.wire.journal` does the same by betterproto2 at about 100 us a payload, which a worker cannot
pay per step. This one is driven by the Structs of `engine.model.payloads` alone: a field's number
is its place, its encoding follows from its type. `tests/sdk/test_records.py` holds it byte for
byte against `engine.wire.journal`.

Knows no kind by name. Trusts the engine's bytes to be a message, and says so when they are not.
"""

from __future__ import annotations

import enum
import struct
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from engine.base.errors import MalformedRecord
from engine.model.payloads import PAYLOAD_TYPES, Payload
from engine.model.records import RecordKind

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5

_DOUBLE: Final = struct.Struct("<d")
_SMALL: Final = tuple(bytes((number,)) for number in range(128))

_Writer = Callable[[list[bytes], bytes, Any], None]
_Reader = Callable[[Any], Any]


class _Field(msgspec.Struct, frozen=True):
    name: str
    tag: bytes
    write: _Writer
    read: _Reader
    repeated: bool = False
    is_map: bool = False


class _Shape(msgspec.Struct, frozen=True):
    struct_type: type[msgspec.Struct]
    writers: tuple[tuple[bytes, _Writer], ...]
    by_tag: Mapping[int, _Field]


def varint(number: int) -> bytes:
    if number < 128:
        return _SMALL[number]
    if 1 << 35 <= number < 1 << 42:  # a time in ms, of which every step has two
        return bytes(
            (
                number & 0x7F | 0x80,
                number >> 7 & 0x7F | 0x80,
                number >> 14 & 0x7F | 0x80,
                number >> 21 & 0x7F | 0x80,
                number >> 28 & 0x7F | 0x80,
                number >> 35,
            )
        )
    out = bytearray()
    while number >= 128:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


# ---- writing: what is empty is left out, as proto3 does, before a writer sees it ----


def _write_number(parts: list[bytes], tag: bytes, value: int) -> None:
    parts += (tag, varint(value))


def _write_bytes(parts: list[bytes], tag: bytes, value: bytes) -> None:
    parts += (tag, varint(len(value)), value)


def _write_text(parts: list[bytes], tag: bytes, value: str) -> None:
    data = value.encode()
    parts += (tag, varint(len(data)), data)


def _write_double(parts: list[bytes], tag: bytes, value: float) -> None:
    parts += (tag, _DOUBLE.pack(value))


def _write_texts(parts: list[bytes], tag: bytes, values: tuple[str, ...]) -> None:
    for value in values:
        _write_text(parts, tag, value)


def _write_map(parts: list[bytes], tag: bytes, values: Mapping[str, str]) -> None:
    for key, value in values.items():
        entry: list[bytes] = []
        _write_text(entry, b"\x0a", key)
        _write_text(entry, b"\x12", value)
        _write_bytes(parts, tag, b"".join(entry))


def _message_writer(shape: _Shape) -> _Writer:
    def write(parts: list[bytes], tag: bytes, value: msgspec.Struct) -> None:
        _write_bytes(parts, tag, _encoded(shape, value))

    return write


def _encoded(shape: _Shape, value: msgspec.Struct) -> bytes:
    parts: list[bytes] = []
    for (tag, write), field in zip(shape.writers, msgspec.structs.astuple(value), strict=True):
        if field:
            write(parts, tag, field)
    return b"".join(parts)


# ---- reading ----


def _read_text(value: bytes) -> str:
    return value.decode()


def _read_entry(data: bytes) -> tuple[str, str]:
    found = {1: "", 2: ""}
    for tag, value in _scan(data):
        found[tag >> 3] = value.decode()
    return found[1], found[2]


def _enum_reader(enum_type: type[enum.IntEnum]) -> _Reader:
    members = {int(member): member for member in enum_type}
    return lambda number: members.get(number, number)  # a newer engine's number stays a number


def _read_double(value: bytes) -> float:
    return float(_DOUBLE.unpack(value)[0])


def _same(value: Any) -> Any:
    return value


def _scan(data: bytes) -> typing.Iterator[tuple[int, Any]]:
    """Tag and value of each field. An index past the end is an IndexError: the message is cut."""
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag >= 128:
            tag, at = _long_varint(data, at - 1)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value: Any = data[at]
            at += 1
            if value >= 128:
                value, at = _long_varint(data, at - 1)
            yield tag, value
            continue
        if wire_type == _BYTES:
            size = data[at]
            at += 1
            if size >= 128:
                size, at = _long_varint(data, at - 1)
        elif wire_type == _FIXED64:
            size = 8
        elif wire_type == _FIXED32:
            size = 4
        else:
            raise ValueError(f"wire type {wire_type}")
        value = data[at : at + size]
        at += size
        if at > end:
            raise IndexError("a field is cut short")
        yield tag, value


def _long_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def _decoded(shape: _Shape, data: bytes) -> msgspec.Struct:
    values: dict[str, Any] = {}
    by_tag = shape.by_tag
    for tag, value in _scan(data):
        field = by_tag.get(tag)
        if field is None:
            continue  # a newer engine's
        if field.is_map:
            key, text = field.read(value)
            values.setdefault(field.name, {})[key] = text
        elif field.repeated:
            values[field.name] = (*values.get(field.name, ()), field.read(value))
        else:
            values[field.name] = field.read(value)
    return shape.struct_type(**values)


# ---- the table, from the Structs ----


def _shape(struct_type: type[msgspec.Struct]) -> _Shape:
    hints = typing.get_type_hints(struct_type)
    fields = []
    for number, name in enumerate(struct_type.__struct_fields__, start=1):
        fields.append(_field(name, number, hints[name]))
    by_tag = {_long_varint(field.tag, 0)[0]: field for field in fields}
    writers = tuple((field.tag, field.write) for field in fields)
    return _Shape(struct_type, writers, by_tag)


def _field(name: str, number: int, hint: Any) -> _Field:
    def field(wire_type: int, write: _Writer, read: _Reader, **more: bool) -> _Field:
        return _Field(name, varint(number << 3 | wire_type), write, read, **more)

    if typing.get_origin(hint) is tuple:
        return field(_BYTES, _write_texts, _read_text, repeated=True)
    if isinstance(typing.get_origin(hint), type) and issubclass(typing.get_origin(hint), Mapping):
        return field(_BYTES, _write_map, _read_entry, is_map=True)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    first = options[0]
    if issubclass(first, msgspec.Struct):
        inner = _shape(first)
        return field(_BYTES, _message_writer(inner), lambda data: _decoded(inner, data))
    if issubclass(first, enum.IntEnum):
        return field(_VARINT, _write_number, _enum_reader(first))
    if first is bool:
        return field(_VARINT, _write_number, bool)
    if first is int:
        return field(_VARINT, _write_number, _same)
    if first is float:
        return field(_FIXED64, _write_double, _read_double)
    if first is str:
        return field(_BYTES, _write_text, _read_text)
    assert first is bytes, f"{name}: no rule for {hint}"
    return field(_BYTES, _write_bytes, _same)


_SHAPES: Final[dict[int, _Shape]] = {
    int(kind): _shape(payload_type) for kind, payload_type in PAYLOAD_TYPES.items()
}
_KIND_OF: Final[dict[type[Payload], int]] = {
    payload_type: int(kind) for kind, payload_type in PAYLOAD_TYPES.items()
}


def encode(payload: Payload) -> tuple[int, bytes]:
    """The record's kind and payload, as a report carries them."""
    kind = _KIND_OF[type(payload)]
    return kind, _encoded(_SHAPES[kind], payload)


def decode(kind: int, data: bytes) -> Payload | None:
    """What a record says; None for a kind that this version does not know."""
    shape = _SHAPES.get(kind)
    if shape is None:
        return None
    try:
        payload = _decoded(shape, data)
    except (AttributeError, IndexError, ValueError, struct.error) as error:
        raise MalformedRecord(
            f"the engine sent a {RecordKind(kind).name} record that cannot be read: {error}; "
            "worker and engine may be of versions that do not go together",
            kind=RecordKind(kind).name,
        ) from error
    assert isinstance(payload, Payload)
    return payload
