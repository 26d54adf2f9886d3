"""The plain twin of ext/fields.pyx: the chosen fields of a message, as a table says. The
specification; slow, and never used by the product."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from engine.base.errors import MalformedRecord
from tests.twins.protobuf import FIXED64, LENGTH_DELIMITED, VARINT, scan

NUMBER, TEXT, DATA, DOUBLE, FLAG, LIST = range(1, 7)

NOTHING: dict[int, object] = {
    0: None,
    NUMBER: 0,
    TEXT: "",
    DATA: b"",
    DOUBLE: 0.0,
    FLAG: False,
    LIST: (),
}
READ: dict[tuple[int, int], Callable[[Any, Any], object]] = {
    (NUMBER, VARINT): lambda value, before: value,
    (FLAG, VARINT): lambda value, before: value != 0,
    (DOUBLE, FIXED64): lambda value, before: struct.unpack("<d", struct.pack("<Q", value))[0],
    (TEXT, LENGTH_DELIMITED): lambda value, before: value.decode("utf-8", "replace"),
    (DATA, LENGTH_DELIMITED): lambda value, before: value,
    (LIST, LENGTH_DELIMITED): lambda value, before: (*before, value),
}


def read_fields(
    message: bytes, begin: int, table: bytes, *, is_strict: bool = False
) -> list[object]:
    if not 0 <= begin <= len(message):
        raise MalformedRecord("the message does not reach so far")
    values = [NOTHING[sort] for sort in table]
    try:
        fields = list(scan(message[begin:]))
    except ValueError as error:
        raise MalformedRecord(f"not protobuf: {error}") from error
    seen: set[int] = set()
    for number, wire_type, value in fields:
        if number >= len(table) or not table[number]:
            continue
        if is_strict and table[number] != LIST and number in seen:
            raise MalformedRecord(f"field {number} comes twice")
        seen.add(number)
        if is_strict and (table[number], wire_type) not in READ:
            raise MalformedRecord(f"field {number} is of another type")
        if is_strict and table[number] == TEXT and not _is_utf8(value):
            raise MalformedRecord(f"field {number} is not UTF-8")
        if (table[number], wire_type) in READ:
            values[number] = READ[table[number], wire_type](value, values[number])
    return values


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
