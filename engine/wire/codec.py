"""Between a Struct of the model and the generated betterproto2 message of the same name: one
conversion for all of them, driven by a table that is built from both, once, at import.

Stricter than betterproto2, which reads a cut field as a shorter one and takes a number where text
belongs: a message is read as the protobuf specification reads it, or refused. Knows no message by
name, and no record kind.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import operator
import struct
import typing
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

import betterproto2
import msgspec

from engine.wire import scan

_WIRE_TYPE: Final = {
    betterproto2.TYPE_BOOL: scan.VARINT,
    betterproto2.TYPE_ENUM: scan.VARINT,
    betterproto2.TYPE_UINT32: scan.VARINT,
    betterproto2.TYPE_UINT64: scan.VARINT,
    betterproto2.TYPE_DOUBLE: scan.FIXED64,
    betterproto2.TYPE_STRING: scan.LENGTH_DELIMITED,
    betterproto2.TYPE_BYTES: scan.LENGTH_DELIMITED,
    betterproto2.TYPE_MESSAGE: scan.LENGTH_DELIMITED,
    betterproto2.TYPE_MAP: scan.LENGTH_DELIMITED,
}

# What a number may be. Ours are never negative; a type that is not in these two tables (an int32,
# a sint64) fails at import, before it can be written by a rule that nobody has thought through.
_INTEGER_MAX: Final = {
    betterproto2.TYPE_ENUM: 2**31 - 1,
    betterproto2.TYPE_UINT32: 2**32 - 1,
    betterproto2.TYPE_UINT64: 2**64 - 1,
}


_DOUBLE: Final = struct.Struct("<d")
_ONE_BYTE: Final = tuple(bytes([value]) for value in range(0x80))


class Field(msgspec.Struct, frozen=True):
    name: str
    wire_type: int
    integer_max: int | None
    repeated: bool
    enum_type: type[enum.IntEnum] | None
    is_text: bool
    is_bool: bool
    is_map: bool
    shape: Shape | None  # of a message
    inside: Mapping[int, Field] | None  # what is in a message, or in an entry of a map


class Shape(msgspec.Struct, frozen=True):
    """A Struct, its message, and what lies between them, by field number."""

    struct_type: type[msgspec.Struct]
    fields: Mapping[int, Field]
    values_of: Callable[[msgspec.Struct], tuple[Any, ...]]  # of all fields, in their order
    written: tuple[tuple[bytes, Field], ...]  # each with its tag


def shape_of(struct_type: type[msgspec.Struct], generated: ModuleType) -> Shape:
    message_type = getattr(generated, struct_type.__name__)
    metas = {
        field.name: betterproto2.FieldMetadata.get(field)
        for field in dataclasses.fields(message_type)
    }
    assert struct_type.__struct_fields__ == tuple(metas), f"{struct_type} is not its message"
    hints = typing.get_type_hints(struct_type)
    fields = {
        meta.number: _field(name, meta, hints[name], generated) for name, meta in metas.items()
    }
    written = tuple((_tag(number, field.wire_type), field) for number, field in fields.items())
    return Shape(struct_type, fields, _values_of(tuple(metas)), written)


def _values_of(names: tuple[str, ...]) -> Callable[[msgspec.Struct], tuple[Any, ...]]:
    take = operator.attrgetter(*names)
    return take if len(names) > 1 else lambda value: (take(value),)


def _field(
    name: str, meta: betterproto2.FieldMetadata, hint: object, generated: ModuleType
) -> Field:
    types = [part for part in (hint, *typing.get_args(hint)) if isinstance(part, type)]
    structs = [part for part in types if issubclass(part, msgspec.Struct)]
    enums = [part for part in types if issubclass(part, enum.IntEnum)]
    shape = shape_of(structs[0], generated) if structs else None
    inside = shape.fields if shape is not None else None
    if meta.map_meta is not None:
        inside = {part.number: _field(name, part, None, generated) for part in meta.map_meta}
    in_lists = (betterproto2.TYPE_STRING, betterproto2.TYPE_BYTES, betterproto2.TYPE_MESSAGE)
    assert not meta.repeated or meta.proto_type in in_lists, f"{name}: no rule for such a list"
    return Field(
        name=name,
        wire_type=_WIRE_TYPE[meta.proto_type],
        integer_max=_INTEGER_MAX.get(meta.proto_type),
        repeated=bool(meta.repeated),
        enum_type=enums[0] if enums else None,
        is_text=meta.proto_type == betterproto2.TYPE_STRING,
        is_bool=meta.proto_type == betterproto2.TYPE_BOOL,
        is_map=meta.map_meta is not None,
        shape=shape,
        inside=inside,
    )


def encode(shape: Shape, value: msgspec.Struct) -> bytes:
    """Raises ValueError for a value that its type on the wire cannot hold."""
    parts: list[bytes] = []
    _write(shape, value, parts)
    return b"".join(parts)


def decode(shape: Shape, data: bytes) -> msgspec.Struct:
    """Raises ValueError for bytes that are not such a message."""
    return _read(shape, data)


# Written and read here and not by betterproto2, from its own description of the messages: it takes
# some 50 to 130 us for each, and the engine writes one of these for each start and each execution.
# That both give the same bytes is a property test.


def _write(shape: Shape, written: msgspec.Struct, parts: list[bytes]) -> None:
    # What is 0 or empty is left out (a message is never either), which is most fields of most
    # messages: all values are taken at once, and the ones that say something picked, in C.
    values = shape.values_of(written)
    for value, (tag, field) in itertools.compress(zip(values, shape.written, strict=True), values):
        if field.repeated:
            for one in value:
                _write_one(tag, field, one, parts)
        elif field.is_map:
            for pair in value.items():
                _write_pair(tag, field, pair, parts)
        else:
            _write_one(tag, field, value, parts)


def _write_one(tag: bytes, field: Field, value: Any, parts: list[bytes]) -> None:
    if field.is_text:
        value = value.encode()
    elif field.wire_type == scan.VARINT:
        if field.integer_max is not None and not 0 <= value <= field.integer_max:
            raise ValueError(f"{field.name} is {value}, not from 0 to {field.integer_max}")
        parts += (tag, _varint(int(value)))
        return
    elif field.wire_type == scan.FIXED64:
        parts += (tag, _DOUBLE.pack(value))
        return
    elif field.shape is not None:
        inner: list[bytes] = []
        _write(field.shape, value, inner)
        value = b"".join(inner)
    length = len(value)
    parts += (tag, _ONE_BYTE[length] if length < 0x80 else _varint(length), value)


def _write_pair(tag: bytes, field: Field, pair: tuple[Any, Any], parts: list[bytes]) -> None:
    assert field.inside is not None
    inner: list[bytes] = []
    for (number, part), value in zip(field.inside.items(), pair, strict=True):
        # Of a pair both are written, also empty.
        _write_one(_tag(number, part.wire_type), part, value, inner)
    entry = b"".join(inner)
    parts += (tag, _varint(len(entry)), entry)


@functools.cache
def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _read(shape: Shape, data: bytes) -> msgspec.Struct:
    values: dict[str, Any] = {}
    for number, wire_type, raw in scan.scan(data):
        field = shape.fields.get(number)
        if field is None:
            continue  # a newer version's
        if wire_type != field.wire_type:
            raise ValueError(f"{field.name} has wire type {wire_type}, not {field.wire_type}")
        if field.repeated:
            values.setdefault(field.name, []).append(_value(field, raw))
        elif field.is_map:
            key, value = _pair(field, raw)
            values.setdefault(field.name, {})[key] = value
        elif field.shape is not None and field.name in values:
            # The specification merges a message that comes twice, and no writer writes one.
            raise ValueError(f"{field.name} comes twice")
        else:
            values[field.name] = _value(field, raw)
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    return shape.struct_type(**values)


def _value(field: Field, raw: int | bytes) -> Any:
    if isinstance(raw, int):
        if field.integer_max is not None and raw > field.integer_max:
            raise ValueError(f"{field.name} is {raw}, over {field.integer_max}")
        if field.wire_type == scan.FIXED64:
            return _DOUBLE.unpack(raw.to_bytes(8, "little"))[0]
        if field.enum_type is not None:
            return _named(field.enum_type, raw)
        return bool(raw) if field.is_bool else raw
    if field.shape is not None:
        return _read(field.shape, raw)
    return raw.decode() if field.is_text else raw


def _pair(field: Field, raw: int | bytes) -> tuple[Any, Any]:
    assert field.inside is not None
    assert isinstance(raw, bytes)
    pair: dict[int, Any] = {1: "", 2: ""}
    for number, wire_type, value in scan.scan(raw):
        part = field.inside.get(number)
        if part is None:
            continue
        if wire_type != part.wire_type:
            raise ValueError(f"{field.name} has wire type {wire_type}, not {part.wire_type}")
        pair[number] = _value(part, value)
    return pair[1], pair[2]


def _named(enum_type: type[enum.IntEnum], number: int) -> int:
    """The enum's member, or the bare number that a newer version wrote."""
    try:
        return enum_type(number)
    except ValueError:
        return number
