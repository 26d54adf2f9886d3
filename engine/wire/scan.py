"""Reads the structure of protobuf bytes, strictly: whole fields with legal tags, or ValueError.

Knows no message and no field's meaning. Values longer than 64 bits, tags longer than 32, field
number 0 and groups (which proto3 does not have) are refused rather than guessed at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
LENGTH_DELIMITED: Final = 2
FIXED32: Final = 5

_FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}


def scan(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Field number, wire type and value; a number, or the bytes of a length-delimited field."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at, 32)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("0 is not a field number")
        if wire_type == VARINT:
            value, at = _varint(data, at, 64)
            yield number, wire_type, value
            continue
        if wire_type == LENGTH_DELIMITED:
            length, at = _varint(data, at, 64)
        elif wire_type in _FIXED_BYTES:
            length = _FIXED_BYTES[wire_type]
        else:
            raise ValueError(f"field {number} has wire type {wire_type}")
        if length > end - at:
            raise ValueError(f"field {number} is cut short")
        part, at = data[at : at + length], at + length
        yield number, wire_type, part if wire_type == LENGTH_DELIMITED else _fixed(part)


def _fixed(part: bytes) -> int:
    return int.from_bytes(part, "little")


def _varint(data: bytes, at: int, bits_max: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, bits_max, 7):
        if at == len(data):
            raise ValueError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> bits_max:
                break
            return value, at
    raise ValueError(f"a number is longer than {bits_max} bits")
