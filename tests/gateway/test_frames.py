"""What HTTP/2 frames that carry nothing cost however they are cut; that allowance comes back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.gateway.transport import frames
from engine.gateway.transport.frames import FrameBudget


def frame(kind: int, payload: bytes = b"", stream: int = 0) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + struct.pack(">I", stream) + payload
    )


def lasts(kind: int, payload: bytes = b"") -> int:
    """How many of these in a row."""
    budget = FrameBudget(0.0)
    assert budget.spend(frames.PREFACE, 0.0)
    for number in range(100_000):
        if not budget.spend(frame(kind, payload), 0.0):
            return number
    return 100_000


@pytest.mark.parametrize(
    ("kind", "payload", "number"),
    [
        (frames.RST_STREAM, b"\0\0\0\x08", 100),
        (frames.PING, b"12345678", 200),
        (frames.SETTINGS, b"", 200),
        (frames.CONTINUATION, b"", 200),
        (frames.PRIORITY, b"12345", 1_000),
        (frames.WINDOW_UPDATE, b"\0\0\0\1", 1_000),
        (0xFA, b"unknown", 1_000),
        (frames.DATA, b"", 1_000),
        (frames.DATA, b"x", 10_000),
        (frames.DATA, b"x" * 100, 100_000),
        (frames.HEADERS, b"", 100_000),
    ],
)
def test_so_many_in_a_row(kind: int, payload: bytes, number: int) -> None:
    assert lasts(kind, payload) == pytest.approx(number, rel=0.01)


def test_what_was_spent_comes_back_with_time_and_with_what_is_sent() -> None:
    budget = FrameBudget(0.0)
    budget.spend(frames.PREFACE, 0.0)
    pings = frame(frames.PING, b"12345678") * 20
    for second in range(1_000):  # as many as come back
        assert budget.spend(pings, float(second))
    updates = frame(frames.WINDOW_UPDATE, b"\0\0\0\1") * 500
    for _ in range(100):
        assert budget.spend(updates, 1_000.0)
        budget.earn(500 * frames.bytes_per_allowance)
    budget.earn(1 << 40)
    assert budget.left == frames.allowance_max


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 3, 4, 6, 8, 9, 77]), st.binary(max_size=60)), max_size=20
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
)
def test_the_same_however_the_bytes_are_cut(
    found: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    data = frames.PREFACE + b"".join(frame(kind, payload) for kind, payload in found)
    whole, cut = FrameBudget(0.0), FrameBudget(0.0)
    assert whole.spend(data, 0.0)
    position, number = 0, 0
    while position < len(data):
        size = sizes[number % len(sizes)]
        assert cut.spend(data[position : position + size], 0.0)
        position, number = position + size, number + 1
    assert cut.left == pytest.approx(whole.left)
