"""The records that the benchmarks write: a finished step with about 200 bytes of payload."""

from __future__ import annotations

import struct

_HEADER = struct.Struct(">BBBBIq")


def _step_completed(position: int) -> bytes:
    """StepCompleted{position, name, output, started, finished, attempt} by hand, 200 bytes."""
    name = b"charge_card"
    head = bytes([0x08, position & 0x7F]) + bytes([0x12, len(name)]) + name
    times = bytes([0x30, 0x80, 0x89, 0x7A, 0x38, 0x85, 0x89, 0x7A, 0x40, 0x01])
    output = bytes((i * 7 + position) & 0xFF for i in range(200 - len(head) - len(times) - 3))
    return head + bytes([0x2A, 0x80 | len(output) & 0x7F, len(output) >> 7]) + output + times


PAYLOAD = _step_completed(3)
assert len(PAYLOAD) == 200


def header_and_payload(offset: int) -> bytes:
    return _HEADER.pack(1, 3, 0, 0, offset, 1) + PAYLOAD
