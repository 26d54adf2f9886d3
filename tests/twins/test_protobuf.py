"""Every protobuf scanner against the twin's specification, and the twin against the two protobuf
libraries: betterproto2, which the product writes with, and Google's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import betterproto2
import pytest
from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from engine.wire import scan as wire_scan
from tests.twins import protobuf as twin

Field = tuple[int, int, int | bytes]
Scanner = Callable[[bytes], Iterator[Field]]

SCANNERS: list[Scanner] = [twin.scan, wire_scan.scan]

every_scanner = pytest.mark.parametrize("scanner", SCANNERS, ids=lambda scanner: scanner.__module__)


def written(field: Field) -> bytes:
    number, wire_type, value = field
    tag = betterproto2.encode_varint(number << 3 | wire_type)
    if isinstance(value, bytes):
        return tag + betterproto2.encode_varint(len(value)) + value
    if wire_type == twin.VARINT:
        return tag + betterproto2.encode_varint(value)
    return tag + value.to_bytes(8 if wire_type == twin.FIXED64 else 4, "little")


def verdict(scanner: Scanner, data: bytes) -> tuple[list[Field], bool]:
    """The fields until the end or the fault, and whether there was no fault."""
    fields: list[Field] = []
    try:
        fields.extend(scanner(data))  # keeps what came before a fault
    except ValueError:
        return fields, False
    return fields, True


NUMBERS = st.integers(1, 2**29 - 1) | st.integers(1, 20)
FIELDS = st.lists(
    st.tuples(NUMBERS, st.just(twin.VARINT), st.integers(0, 2**64 - 1))
    | st.tuples(NUMBERS, st.just(twin.FIXED64), st.integers(0, 2**64 - 1))
    | st.tuples(NUMBERS, st.just(twin.FIXED32), st.integers(0, 2**32 - 1))
    | st.tuples(NUMBERS, st.just(twin.LENGTH_DELIMITED), st.binary(max_size=200)),
    max_size=8,
)
# Bytes that look like fields more often than bytes drawn blindly do.
NEAR_FIELDS = st.lists(
    st.sampled_from([b"\x00", b"\x08", b"\x12", b"\x1d", b"\x21", b"\x2b", b"\x34"])
    | st.sampled_from([b"\x80", b"\xff", b"\x80" * 4, b"\xff" * 9, b"\x01", b"\x02", b"\x0f"])
    | st.binary(max_size=9),
    max_size=12,
).map(b"".join)
MUTATED = st.builds(
    lambda data, at, byte: data[: at % (len(data) + 1)] + byte + data[at % (len(data) + 1) + 1 :],
    FIELDS.map(lambda fields: b"".join(map(written, fields))),
    st.integers(0, 2000),
    st.binary(max_size=1),
)
ANY_BYTES = NEAR_FIELDS | MUTATED | st.binary(max_size=60)


@every_scanner
@given(fields=FIELDS)
def test_what_was_written_is_read(scanner: Scanner, fields: list[Field]) -> None:
    assert list(scanner(b"".join(map(written, fields)))) == fields


@every_scanner
@given(data=ANY_BYTES)
def test_any_bytes_get_the_verdict_of_the_twin(scanner: Scanner, data: bytes) -> None:
    assert verdict(scanner, data) == verdict(twin.scan, data)


@given(data=ANY_BYTES)
def test_the_twin_accepts_nothing_that_google_refuses(data: bytes) -> None:
    _, whole = verdict(twin.scan, data)
    try:
        Empty.FromString(data)
    except DecodeError:
        assert not whole


@given(fields=FIELDS)
def test_the_twin_reads_what_betterproto2_reads(fields: list[Field]) -> None:
    data = b"".join(map(written, fields))
    theirs = [
        (part.number, part.wire_type, part.value)
        if part.wire_type in (twin.VARINT, twin.LENGTH_DELIMITED)
        else (part.number, part.wire_type, int.from_bytes(part.value, "little"))
        for part in betterproto2.parse_fields(data)
    ]
    assert list(twin.scan(data)) == theirs


@every_scanner
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x00\x00", id="field number 0"),
        pytest.param(b"\x0b\x0c", id="a group"),
        pytest.param(b"\x0e", id="wire type 6"),
        pytest.param(b"\x0f", id="wire type 7"),
        pytest.param(b"\x08", id="no value"),
        pytest.param(b"\x80", id="half a tag"),
        pytest.param(b"\x08\x80", id="half a number"),
        pytest.param(b"\x08" + b"\x80" * 10 + b"\x00", id="a number of 11 bytes"),
        pytest.param(b"\x08" + b"\xff" * 9 + b"\x02", id="a number of 65 bits"),
        pytest.param(b"\x88\x80\x80\x80\x80\x00\x01", id="a tag of 6 bytes"),
        pytest.param(b"\x88\x80\x80\x80\x10\x01", id="a tag of 33 bits"),
        pytest.param(b"\x0d\x01\x02\x03", id="fixed32 of 3 bytes"),
        pytest.param(b"\x09" + b"\x01" * 7, id="fixed64 of 7 bytes"),
        pytest.param(b"\x0a\x03ab", id="text of 3 bytes in 2"),
        pytest.param(b"\x0a" + b"\xff" * 9 + b"\x01", id="text of 2^64-1 bytes"),
    ],
)
def test_no_field(scanner: Scanner, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(scanner(data))


@every_scanner
def test_the_longest_that_is_allowed(scanner: Scanner) -> None:
    assert list(scanner(b"\x08" + b"\xff" * 9 + b"\x01")) == [(1, 0, 2**64 - 1)]
    assert list(scanner(b"\x08\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00")) == [(1, 0, 1)]
    assert list(scanner(b"\xf8\xff\xff\xff\x0f\x05")) == [(2**29 - 1, 0, 5)]
    assert list(scanner(b"")) == []
