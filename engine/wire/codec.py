"""Between a Struct of the model and the generated betterproto2 message of the same name: one
conversion for all of them, driven by a table that is built from both, once, at import.

Also the strictness that betterproto2 does not have: it reads a cut field as a shorter one and
takes a number where text belongs. Bytes pass `_check` first, so that a message is either read as
the protobuf specification reads it or refused. Knows no message by name, and no record kind.
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Mapping
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


class _Field(msgspec.Struct, frozen=True):
    name: str
    wire_type: int
    integer_max: int | None
    repeated: bool
    enum_type: type[enum.IntEnum] | None
    shape: Shape | None  # of a message
    inside: Mapping[int, _Field] | None  # what is in a message, or in an entry of a map


class Shape(msgspec.Struct, frozen=True):
    """A Struct, its message, and what lies between them, by field number."""

    struct_type: type[msgspec.Struct]
    message_type: type[betterproto2.Message]
    fields: Mapping[int, _Field]


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
    return Shape(struct_type, message_type, fields)


def _field(
    name: str, meta: betterproto2.FieldMetadata, hint: object, generated: ModuleType
) -> _Field:
    types = [part for part in (hint, *typing.get_args(hint)) if isinstance(part, type)]
    structs = [part for part in types if issubclass(part, msgspec.Struct)]
    enums = [part for part in types if issubclass(part, enum.IntEnum)]
    shape = shape_of(structs[0], generated) if structs else None
    inside = shape.fields if shape is not None else None
    if meta.map_meta is not None:
        inside = {part.number: _field(name, part, None, generated) for part in meta.map_meta}
    assert not (shape is not None and meta.repeated), f"{name}: no rule for a list of messages"
    return _Field(
        name=name,
        wire_type=_WIRE_TYPE[meta.proto_type],
        integer_max=_INTEGER_MAX.get(meta.proto_type),
        repeated=bool(meta.repeated),
        enum_type=enums[0] if enums else None,
        shape=shape,
        inside=inside,
    )


def encode(shape: Shape, struct: msgspec.Struct) -> bytes:
    """Raises ValueError for a value that its type on the wire cannot hold."""
    return bytes(_message(shape, struct))


def decode(shape: Shape, data: bytes) -> msgspec.Struct:
    """Raises ValueError for bytes that are not such a message."""
    _check(shape.fields, data)
    return _struct(shape, shape.message_type.parse(data))


def _message(shape: Shape, struct: msgspec.Struct) -> betterproto2.Message:
    values: dict[str, Any] = {}
    for field in shape.fields.values():
        value = getattr(struct, field.name)
        if field.integer_max is not None and not 0 <= value <= field.integer_max:
            raise ValueError(f"{field.name} is {value}, not from 0 to {field.integer_max}")
        if field.shape is not None and value is not None:
            value = _message(field.shape, value)
        values[field.name] = list(value) if field.repeated else value
    return shape.message_type(**values)


def _struct(shape: Shape, message: betterproto2.Message) -> msgspec.Struct:
    values: dict[str, Any] = {}
    for field in shape.fields.values():
        value = getattr(message, field.name)
        if field.shape is not None and value is not None:
            value = _struct(field.shape, value)
        elif field.enum_type is not None:
            value = _named(field.enum_type, int(value))
        values[field.name] = tuple(value) if field.repeated else value
    return shape.struct_type(**values)


def _named(enum_type: type[enum.IntEnum], number: int) -> int:
    """The enum's member, or the bare number that a newer version wrote."""
    try:
        return enum_type(number)
    except ValueError:
        return number


def _check(fields: Mapping[int, _Field], data: bytes) -> None:
    seen = set()
    for number, wire_type, value in scan.scan(data):
        field = fields.get(number)
        if field is None:
            continue  # a newer version's
        if wire_type != field.wire_type:
            raise ValueError(f"{field.name} has wire type {wire_type}, not {field.wire_type}")
        if isinstance(value, int):
            if field.integer_max is not None and value > field.integer_max:
                raise ValueError(f"{field.name} is {value}, over {field.integer_max}")
        elif field.inside is not None:
            # The specification merges a message that comes twice; betterproto2 drops the first.
            if field.shape is not None and number in seen:
                raise ValueError(f"{field.name} comes twice")
            seen.add(number)
            _check(field.inside, value)
