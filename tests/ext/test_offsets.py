"""The key and header codec: order, round trips, bounds, and bytes that are neither."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.errors import MalformedRecord
from engine.model.records import RECORD_HEADER_BYTES, RecordKind
from tests.ext.implementations import (
    COMPILED,
    PROGRAMMER_ERRORS,
    TWIN,
    Implementation,
    outcome_of,
)

OFFSET_MAX = 2**64 - 1
TIMESTAMP_MAX = 2**63 - 1
RUN = bytes(range(16))

OFFSETS = st.integers(0, OFFSET_MAX) | st.sampled_from(
    [0, 1, 255, 256, 2**32 - 1, 2**32, 2**63, OFFSET_MAX]
)
RUNS = st.binary(min_size=16, max_size=16)
RECORDS = st.tuples(
    st.integers(1, 19),
    st.integers(0, 255),
    OFFSETS,
    st.integers(0, TIMESTAMP_MAX),
    st.binary(max_size=300),
)

Place = tuple[bytes, int]


@given(left=st.tuples(RUNS, OFFSETS), right=st.tuples(RUNS, OFFSETS))
def test_keys_are_in_the_order_of_run_and_offset(
    implementation: Implementation, left: Place, right: Place
) -> None:
    left_key = implementation.offsets.record_key(*left)
    right_key = implementation.offsets.record_key(*right)
    assert (left_key < right_key) == (left < right)
    assert (left_key == right_key) == (left == right)


@given(run=RUNS, offset=OFFSETS)
def test_a_key_is_split_into_what_it_was_made_of(
    implementation: Implementation, run: bytes, offset: int
) -> None:
    key = implementation.offsets.record_key(run, offset)
    assert len(key) == 24
    assert implementation.offsets.split_key(key) == (run, offset)


@pytest.mark.parametrize(
    ("offset", "tail"),
    [
        (0, "0000000000000000"),
        (1, "0000000000000001"),
        (2**32, "0000000100000000"),
        (OFFSET_MAX, "ffffffffffffffff"),
    ],
)
def test_a_key_is_the_run_and_the_offset_big_endian(
    implementation: Implementation, offset: int, tail: str
) -> None:
    assert implementation.offsets.record_key(RUN, offset) == RUN + bytes.fromhex(tail)


@pytest.mark.parametrize("run", [b"", RUN[:15], RUN + b"\x00"])
def test_a_run_of_another_length_is_a_programmer_error(
    implementation: Implementation, run: bytes
) -> None:
    with pytest.raises(AssertionError):
        implementation.offsets.record_key(run, 0)


@pytest.mark.parametrize("offset", [-1, OFFSET_MAX + 1])
def test_an_offset_outside_64_bits_is_a_programmer_error(
    implementation: Implementation, offset: int
) -> None:
    with pytest.raises(OverflowError):
        implementation.offsets.record_key(RUN, offset)


@pytest.mark.parametrize("length", [0, 1, 16, 23, 25, 48])
def test_a_key_of_another_length_is_malformed(implementation: Implementation, length: int) -> None:
    with pytest.raises(MalformedRecord, match="24 bytes"):
        implementation.offsets.split_key(b"k" * length)


@given(parts=RECORDS)
def test_a_record_is_read_as_it_was_written(
    implementation: Implementation, parts: tuple[int, int, int, int, bytes]
) -> None:
    kind, flags, offset, timestamp_us, payload = parts
    value = implementation.offsets.encode_record(*parts)
    assert len(value) == RECORD_HEADER_BYTES + len(payload)
    assert implementation.offsets.decode_record(value) == (
        kind,
        flags,
        offset & 0xFFFF_FFFF,
        timestamp_us,
        payload,
    )


def test_the_layout_of_a_record(implementation: Implementation) -> None:
    value = implementation.offsets.encode_record(
        17, 0xA5, 2**32 + 0x01020304, 2**40 + 7, b"payload"
    )
    assert value.hex(" ") == (
        "01 11 a5 00 "  # version, kind, flags, reserved
        "01 02 03 04 "  # the offset's low 32 bits
        "00 00 01 00 00 00 00 07 "  # microseconds
        "70 61 79 6c 6f 61 64"
    )


@pytest.mark.parametrize("kind", [1, 19])
@pytest.mark.parametrize("flags", [0, 255])
@pytest.mark.parametrize("timestamp_us", [0, TIMESTAMP_MAX])
def test_every_field_may_be_at_its_bound(
    implementation: Implementation, kind: int, flags: int, timestamp_us: int
) -> None:
    value = implementation.offsets.encode_record(kind, flags, 0, timestamp_us, b"")
    assert implementation.offsets.decode_record(value) == (kind, flags, 0, timestamp_us, b"")


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((0, 0, 0, 0), id="kind 0"),
        pytest.param((20, 0, 0, 0), id="kind 20"),
        pytest.param((-1, 0, 0, 0), id="kind -1"),
        pytest.param((1, -1, 0, 0), id="flags -1"),
        pytest.param((1, 256, 0, 0), id="flags 256"),
        pytest.param((1, 0, 0, -1), id="time -1"),
    ],
)
def test_a_field_past_its_bound_is_a_programmer_error(
    implementation: Implementation, parts: tuple[int, int, int, int]
) -> None:
    with pytest.raises(AssertionError):
        implementation.offsets.encode_record(*parts, b"")


def test_kinds_end_where_the_model_ends() -> None:
    assert max(RecordKind) == TWIN.offsets.KIND_MAX
    with pytest.raises(AssertionError):
        COMPILED.offsets.encode_record(max(RecordKind) + 1, 0, 0, 0, b"")


def changed(value: bytes, at: int, byte: int) -> bytes:
    return value[:at] + bytes([byte]) + value[at + 1 :]


@pytest.mark.parametrize(
    ("at", "byte", "says"),
    [
        pytest.param(0, 0, "version 0", id="version 0"),
        pytest.param(0, 2, "version 2", id="a newer version"),
        pytest.param(1, 0, "header", id="kind 0"),
        pytest.param(1, 20, "header", id="a kind nobody knows"),
        pytest.param(3, 1, "header", id="the reserved byte in use"),
        pytest.param(8, 0x80, "header", id="a time before 1970"),
    ],
)
def test_a_header_nobody_writes_is_malformed(
    implementation: Implementation, at: int, byte: int, says: str
) -> None:
    value = implementation.offsets.encode_record(3, 0, 5, 1, b"payload")
    with pytest.raises(MalformedRecord, match=says):
        implementation.offsets.decode_record(changed(value, at, byte))


@pytest.mark.parametrize("length", range(RECORD_HEADER_BYTES))
def test_a_short_record_is_malformed(implementation: Implementation, length: int) -> None:
    value = implementation.offsets.encode_record(3, 0, 5, 1, b"")
    with pytest.raises(MalformedRecord, match="at least 16 bytes"):
        implementation.offsets.decode_record(value[:length])


def both(call: Callable[[Implementation], object]) -> tuple[object, object]:
    return outcome_of(lambda: call(COMPILED)), outcome_of(lambda: call(TWIN))


@given(
    kind=st.integers(-2, 20),
    flags=st.integers(-2, 258),
    offset=OFFSETS,
    timestamp_us=st.integers(-2, 2) | st.integers(0, TIMESTAMP_MAX),
    payload=st.binary(max_size=40),
)
def test_both_write_the_same_bytes(
    kind: int, flags: int, offset: int, timestamp_us: int, payload: bytes
) -> None:
    parts = (kind, flags, offset, timestamp_us, payload)
    compiled, twin = both(lambda one: one.offsets.encode_record(*parts))
    assert compiled == twin


@given(
    value=st.binary(max_size=40)
    | st.builds(
        lambda at, byte: changed(TWIN.offsets.encode_record(3, 0, 5, 1, b"pay"), at, byte),
        st.integers(0, 20),
        st.integers(0, 255),
    )
)
def test_both_read_the_same_from_any_bytes(value: bytes) -> None:
    compiled, twin = both(lambda one: one.offsets.decode_record(value))
    assert compiled == twin


@given(key=st.binary(max_size=30) | st.binary(min_size=24, max_size=24))
def test_both_split_any_key_alike(key: bytes) -> None:
    compiled, twin = both(lambda one: one.offsets.split_key(key))
    assert compiled == twin


@pytest.mark.parametrize("function", ["split_key", "decode_record"])
@pytest.mark.parametrize("argument", [None, "text", 7, bytearray(24)], ids=repr)
def test_what_is_not_bytes_is_refused(function: str, argument: object) -> None:
    """In the compiled code: a C pointer is taken from it."""
    with pytest.raises(PROGRAMMER_ERRORS):
        getattr(COMPILED.offsets, function)(argument)
    with pytest.raises(PROGRAMMER_ERRORS):
        COMPILED.offsets.record_key(argument, 0)
    with pytest.raises(PROGRAMMER_ERRORS):
        COMPILED.offsets.encode_record(1, 0, 0, 0, argument)
