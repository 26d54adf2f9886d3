"""The specification of the protobuf scanners: what is a whole field, in the plainest Python.

Owns the meaning of bytes as fields, for the compiled scanner and the one in `engine/wire` to be
held against. Knows no message. Not quick, and not used by the product.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5

TAG_BYTES_MAX = 5  # a field number has 29 bits, a wire type 3
NUMBER_BYTES_MAX = 10  # 64 bits, seven to a byte


def scan(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yields (field number, wire type, value) until the end; ValueError where no field begins.

    The value is a number, or the bytes of a length-delimited field. The fields before the one that
    is at fault have been yielded by then: whoever must not act on half a message scans to the end
    first.
    """
    while data:
        tag, data = _split_varint(data, TAG_BYTES_MAX, 2**32 - 1)
        number, wire_type = divmod(tag, 8)
        if number == 0:
            raise ValueError("field number 0")
        value: int | bytes
        if wire_type == VARINT:
            value, data = _split_varint(data, NUMBER_BYTES_MAX, 2**64 - 1)
        elif wire_type == FIXED64:
            part, data = _split(data, 8)
            value = int.from_bytes(part, "little")
        elif wire_type == FIXED32:
            part, data = _split(data, 4)
            value = int.from_bytes(part, "little")
        elif wire_type == LENGTH_DELIMITED:
            length, data = _split_varint(data, NUMBER_BYTES_MAX, 2**64 - 1)
            value, data = _split(data, length)
        else:
            raise ValueError(f"wire type {wire_type}: groups are not in proto3, 6 and 7 in nothing")
        yield number, wire_type, value


def _split_varint(data: bytes, bytes_max: int, value_max: int) -> tuple[int, bytes]:
    """A number that need not be in its shortest form, and what follows it."""
    for index, byte in enumerate(data[:bytes_max]):
        if byte < 0x80:
            digits = [byte & 0x7F for byte in data[: index + 1]]
            value = sum(digit << 7 * place for place, digit in enumerate(digits))
            if value > value_max:
                raise ValueError(f"{value} is over {value_max}")
            return value, data[index + 1 :]
    raise ValueError("a number without an end")


def _split(data: bytes, length: int) -> tuple[bytes, bytes]:
    if length > len(data):
        raise ValueError(f"{length} bytes announced, {len(data)} left")
    return data[:length], data[length:]
