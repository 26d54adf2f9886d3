"""The plain twin of ext/offsets.pyx: what a key and a record's bytes are, as directly as it can
be said. The specification; slow, and never used by the product."""

from __future__ import annotations

import struct

from engine.base.errors import MalformedRecord

VERSION = 1
KIND_MAX = 19
HEADER = struct.Struct(">BBBBIq")


def record_key(run: bytes, offset: int) -> bytes:
    assert len(run) == 16
    return run + offset.to_bytes(8, "big")


def split_key(key: bytes) -> tuple[bytes, int]:
    if len(key) != 24:
        raise MalformedRecord(f"a record key has 24 bytes, this one has {len(key)}")
    return key[:16], int.from_bytes(key[16:], "big")


def encode_record(kind: int, flags: int, offset: int, timestamp_us: int, payload: bytes) -> bytes:
    assert 1 <= kind <= KIND_MAX and 0 <= flags <= 255 and timestamp_us >= 0
    return HEADER.pack(VERSION, kind, flags, 0, offset & 0xFFFF_FFFF, timestamp_us) + payload


def decode_record(value: bytes) -> tuple[int, int, int, int, bytes]:
    if len(value) < HEADER.size:
        raise MalformedRecord(f"a record has at least {HEADER.size} bytes")
    version, kind, flags, reserved, offset_low, timestamp_us = HEADER.unpack_from(value)
    if version != VERSION:
        raise MalformedRecord(f"record version {version} is not {VERSION}")
    if not 1 <= kind <= KIND_MAX or reserved != 0 or timestamp_us < 0:
        raise MalformedRecord("a record's header is not one this engine writes")
    return kind, flags, offset_low, timestamp_us, value[HEADER.size :]
