"""Chosen fields of a message: one suite over the compiled reader and its twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.errors import MalformedRecord
from engine.ext import fields as compiled
from engine.model import payloads
from engine.wire import journal
from tests.ext.implementations import outcome_of
from tests.twins import fields as twin

Read = Callable[[bytes, int, bytes], list[object]]

NUMBER, TEXT, DATA, DOUBLE, FLAG, LIST = range(1, 7)
ALL = bytes((0, NUMBER, TEXT, DATA, DOUBLE, FLAG, LIST))


@pytest.fixture(params=[compiled, twin], ids=["compiled", "twin"])
def read_fields(request: pytest.FixtureRequest) -> Read:
    read: Read = request.param.read_fields
    return read


def test_fields_of_a_record(read_fields: Read) -> None:
    message = journal.encode(
        payloads.StepCompleted(position=300, name="größe", output=b"\x00\xff", tool=True)
    )
    table = bytes((0, NUMBER, TEXT, 0, 0, DATA, 0, 0, 0, 0, FLAG))
    assert read_fields(message, 0, table) == [
        None, 300, "größe", None, None, b"\x00\xff", None, None, None, None, True,
    ]  # fmt: skip
    assert read_fields(b"headerbytes" + message, 11, table)[1] == 300


def test_what_is_not_there(read_fields: Read) -> None:
    assert read_fields(b"", 0, ALL) == [None, 0, "", b"", 0.0, False, ()]


def test_the_last_of_several_counts_and_lists_have_all(read_fields: Read) -> None:
    assert read_fields(b"\x08\x01\x08\x02", 0, ALL)[1] == 2
    assert read_fields(b"\x32\x01a\x32\x00\x32\x01b", 0, ALL)[6] == (b"a", b"", b"b")


def test_another_wire_type_is_passed_over(read_fields: Read) -> None:
    assert read_fields(b"\x0a\x01a\x10\x05\x18\x05\x20\x05\x2a\x00\x30\x01", 0, ALL) == [
        None, 0, "", b"", 0.0, False, (),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a\x01a",
        b"\x10\x05",
        b"\x18\x05",
        b"\x20\x05",
        b"\x2a\x00",
        b"\x30\x01",
        b"\x12\x03a\xffb",
        b"\x12\x03\xed\xa0\x80",
        b"\x08\x05\x08\x05",
        b"\x12\x00\x12\x00",
        b"\x1a\x00\x08\x05\x1a\x00",
        b"\x28\x01\x28\x00",
    ],
)
def test_what_comes_in_is_what_the_table_says_or_refused(read_fields: Any, message: bytes) -> None:
    read_fields(message, 0, ALL)
    with pytest.raises(MalformedRecord):
        read_fields(message, 0, ALL, is_strict=True)
    assert read_fields(message, 0, bytes(7), is_strict=True) == [None] * 7


def test_strict_reads_the_same_of_what_is_right(read_fields: Any) -> None:
    message = b"\x08\x05\x12\x03\xc3\xa9b\x1a\x02\xff\x00\x28\x01\x32\x00\x78\x01"
    assert read_fields(message, 0, ALL, is_strict=True) == read_fields(message, 0, ALL)


def test_text_that_is_none_is_read_with_replacements(read_fields: Read) -> None:
    assert read_fields(b"\x12\x03a\xffb", 0, ALL)[2] == "a\ufffdb"
    assert read_fields(b"\x12\x03\xed\xa0\x80", 0, ALL)[2] == "\ufffd" * 3


@pytest.mark.parametrize("broken", [b"\x08", b"\x12\x05ab", b"\x07", b"\x00\x00", b"\x0b"])
def test_what_is_not_protobuf(read_fields: Read, broken: bytes) -> None:
    with pytest.raises(MalformedRecord):
        read_fields(broken, 0, ALL)


def test_begins_outside(read_fields: Read) -> None:
    for begin in (-1, 4):
        with pytest.raises(MalformedRecord):
            read_fields(b"\x08\x01\x08", begin, ALL)


@given(
    st.binary(max_size=60),
    st.integers(0, 3),
    st.lists(st.integers(0, 6), max_size=8).map(bytes),
    st.booleans(),
)
def test_both_say_the_same_of_any_bytes(
    message: bytes, begin: int, table: bytes, is_strict: bool
) -> None:
    def said(by: Any) -> object:
        read = by.read_fields
        return outcome_of(lambda: repr(read(message, begin, table, is_strict=is_strict)))

    assert said(compiled) == said(twin)
