"""Whether bytes are JSON: the compiled scan says what the standard library's reader says."""

from __future__ import annotations

import json
import time
from random import Random

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from engine.base import limits
from engine.ext.json_scan import scan_json
from engine.wire.json_text import NotJson, check_json
from tests.twins.json_scan import is_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip
# What JSON is made of, and what it nearly is.
PIECES = st.sampled_from(
    [
        *(bytes((byte,)) for byte in b'{}[]:,0" \t\n\r\x0b\x00-\\'),
        *b"01 -0 1.5 1. .5 1e5 1e 1E+5 1e- +1 1e308 1e309 1E+0400 1e-400".split(),
        *b"true tru false null nul NaN Infinity -Infinity \\".split(),
        *rb'"a" "\u00e9" "\ud800" "\udc00" "\uD83D\uDE00" "\ud83d\u0041" "\ud83dx"'.split(),
        *rb'"\u12g4" "\x" "\/"'.split(),
        *'é€😀 "é€😀"'.encode().split(),
        b'"\xe9"',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\xe0\x9f\xbf"',
        b'"\xf0\x8f\xbf\xbf"',
        b'"\xf5\x80\x80\x80"',
        b'"\xc3',
        b'"\x7f"',
        b'"\x1f"',
        b"\xef\xbb\xbf",
    ]
)


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_what_was_written_as_json_is_json(value: object, indent: int | None, escaped: bool) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=escaped).encode()
    assert scan_json(data) is None


@given(st.lists(PIECES, max_size=8).map(b"".join))
@example(b"")
@example(b"-01")
@example(b'{"a":1,}')
@example(b"[1,]")
@example(b"[,1]")
@example(b'{"a"}')
@example(b'{"a":}')
@example(b"{1:2}")
@example(b"[1 2]")
@example(b"[1}")
@example(b'{"a":1]')
@example(b"1 1")
def test_made_of_pieces_it_is_what_the_reader_says(data: bytes) -> None:
    assert (scan_json(data) is None) == is_json(data)


@given(VALUES, st.integers(0, 200), st.integers(0, 255))
def test_with_one_byte_changed_it_is_what_the_reader_says(
    value: object, at: int, byte: int
) -> None:
    data = bytearray(json.dumps(value, ensure_ascii=False).encode())
    data[at % len(data)] = byte
    assert (scan_json(bytes(data)) is None) == is_json(bytes(data))
    cut = bytes(data[: at % len(data)])
    assert (scan_json(cut) is None) == is_json(cut)


@pytest.mark.parametrize(
    ("data", "at", "said"),
    [
        (b"", 0, "expecting value"),
        (b"[1, x]", 4, "expecting value"),
        (b"[1", 2, "ends too early"),
        (b"[1 2]", 3, "comma"),
        (b'{"a" 1}', 5, "colon"),
        (b"{1}", 1, "property name"),
        (b'{"a":1,}', 7, "property name"),
        (b'"a\nb"', 2, "control character"),
        (b'"\\x"', 2, "backslash"),
        (b'"\\u12g4"', 5, "four hexadecimal digits"),
        (b'"\\ud800"', 7, "surrogates"),
        (b'"\xff"', 1, "UTF-8"),
        (b'"\xe0\x80\x80"', 2, "UTF-8"),
        (b'"\xe2\x82"', 3, "UTF-8"),
        (b'"abc', 4, "truncated"),
        (b"1 2", 2, "extra data"),
        (b"1.x", 2, "a digit is missing"),
        (b"01", 1, "a number"),
        (b"1e309", 4, "out of range"),
        (b"[" + b"1" * 5_000, 1, "more than 4300"),
        (b"[" * 600, 512, "nested too deeply"),
    ],
)
def test_it_says_what_is_wrong_and_where(data: bytes, at: int, said: str) -> None:
    with pytest.raises(NotJson, match=said) as found:
        check_json(data)
    assert found.value.at == at


@given(st.lists(PIECES, max_size=8).map(b"".join))
def test_whatever_is_wrong_has_a_reason_in_words(data: bytes) -> None:
    assume(not is_json(data))
    with pytest.raises(NotJson) as found:
        check_json(data)
    assert 0 <= found.value.at <= len(data)
    assert found.value.reason


def test_how_deep_it_may_be() -> None:
    deep = limits.json_depth_max
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        inner = b"" if opening == b"[" else b"1"
        assert scan_json(opening * deep + inner + closing * deep) is None
        found = scan_json(opening * (deep + 1) + inner + closing * (deep + 1))
        assert found == (len(opening) * deep, "depth")
    assert scan_json(b"[" * 4_000_000) == (deep, "depth")


@given(
    st.integers(0, 3 * limits.json_number_length_max),
    st.integers(limits.json_number_length_max - 2, limits.json_number_length_max + 2),
    st.sampled_from([b"", b".5", b"e-1", b"e+01"]),
)
def test_how_long_a_number_may_be(before: int, length: int, tail: bytes) -> None:
    """Wherever it stands: the scan looks for long ones at some places only."""
    number = b"1" * (length - len(tail)) + tail
    for data in (number, b" " * before + number, b"[" + b"7," * (before // 2) + number + b"]"):
        is_short = length <= limits.json_number_length_max
        assert (scan_json(data) is None) == is_short == is_json(data)
        if not is_short:
            assert scan_json(data) == (data.index(number), "number too long")


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 16), st.integers(0, 255))
def test_texts_that_go_by_eights(text: str, at: int, byte: int) -> None:
    """A byte that is no plain one is found at each place of the eight."""
    data = bytearray(b'"' + b"x" * at + json.dumps(text, ensure_ascii=False).encode()[1:])
    assert scan_json(bytes(data)) is None
    data[at + 1] = byte
    assert (scan_json(bytes(data)) is None) == is_json(bytes(data))


# Two threads on one core of a machine that others use too take twice as long as one alone.
NOISE = 2


def mixed(*pieces: bytes) -> bytes:
    """The largest output there is, of pieces in an order that no branch can foresee."""
    random = Random(7)
    count = limits.output_bytes_max // (max(map(len, pieces)) + 1)
    return b"[" + b",".join(random.choices(pieces, k=count)) + b"]"


@pytest.mark.parametrize(
    "pieces",
    [
        (b"{}",),
        (b"1",),
        (b'"a"',),
        (b'"\\n"',),
        ('"é"'.encode(),),
        (b"1.5e5",),
        (b"[[]]", b"[]", b"{}", b"[1]", b'{"":1}'),
        (b'""', b'"a"', b'"ab"', b'"\\n"', '"é"'.encode()),
    ],
)
def test_the_largest_output_takes_a_part_of_a_pass(pieces: tuple[bytes, ...]) -> None:
    data = mixed(*pieces)
    best_s = float("inf")
    for _ in range(20):
        begun_s = time.thread_time()
        assert scan_json(data) is None
        best_s = min(best_s, time.thread_time() - begun_s)
        if best_s * 1_000_000 < NOISE * limits.loop_pass_us_max:
            return
    pytest.fail(f"{len(data)} bytes took {best_s * 1_000:.1f} ms at best")
