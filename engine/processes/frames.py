"""Frames on a socket between the engine and a program beside it: a length, a kind, and bytes.

Lengths are bounded, since who is read from may be a process that strangers have taken over. What a
kind means is said elsewhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from engine.base import limits

HEAD: Final = struct.Struct("<IB")


class BadFrame(Exception):
    """What came is no frame of ours."""


def head(kind: int, size: int) -> bytes:
    assert size <= limits.process_frame_bytes_max
    return HEAD.pack(size, kind)


def parsed_head(data: bytes | bytearray) -> tuple[int, int]:
    """Size and kind."""
    size, kind = HEAD.unpack_from(data)
    if size > limits.process_frame_bytes_max:
        raise BadFrame(f"a frame of {size} bytes")
    return size, kind


def pieces(data: bytes | memoryview) -> Iterator[memoryview]:
    """The bytes in parts that a frame can carry without holding up the others."""
    whole = memoryview(data)
    for first in range(0, len(whole), limits.process_part_bytes_max):
        yield whole[first : first + limits.process_part_bytes_max]
