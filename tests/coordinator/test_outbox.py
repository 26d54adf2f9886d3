"""Frames on their way out: order, the size of messages, and the two marks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import limits
from engine.coordinator.outbox import Level, Outbox


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {
        "stream_message_bytes_aim": 10,
        "stream_outgoing_bytes_resume": 20,
        "stream_outgoing_bytes_pause": 40,
        "stream_message_bytes_max": 60,
        "stream_outgoing_bytes_max": 300,
    }.items():
        monkeypatch.setattr(limits, name, size)


@given(
    groups=st.lists(st.tuples(st.booleans(), st.lists(st.integers(1, 15), max_size=4)), max_size=4)
)
def test_everything_leaves_once_and_in_order(groups: list[tuple[bool, list[int]]]) -> None:
    """Frames put in, and between them frames that are made later."""
    outbox = Outbox()
    frames: list[bytes] = []
    ready_bytes = 0
    for later, sizes in groups:
        group = [bytes([len(frames) + at]) * size for at, size in enumerate(sizes)]
        frames += group
        if later:
            outbox.push_each(iter(group))
        else:
            ready_bytes += sum(sizes)
            assert all(outbox.push(frame) is not Level.OVERFLOW for frame in group)
    assert outbox.bytes_waiting == ready_bytes
    messages = []
    while taken := outbox.take():
        messages.append(taken)
    assert [frame for taken in messages for frame in taken] == frames
    assert outbox.bytes_waiting == 0
    for taken in messages:
        assert len(taken) == 1 or sum(map(len, taken)) <= limits.stream_message_bytes_aim


def test_it_pauses_once_and_resumes_once() -> None:
    outbox = Outbox()
    levels = [outbox.push(b"x" * 10) for _ in range(6)]
    assert levels == [Level.UNCHANGED] * 4 + [Level.PAUSE, Level.UNCHANGED]
    resumed = []
    while outbox.take():
        resumed.append(outbox.resumes())
    assert resumed == [False, False, False, True, False, False]
    assert [outbox.push(b"x" * 10) for _ in range(5)][-1] is Level.PAUSE


def test_what_does_not_fit_seals_it() -> None:
    outbox = Outbox()
    for _ in range(5):
        assert outbox.push(b"x" * 50) is not Level.OVERFLOW
    assert outbox.push(b"y" * 51) is Level.OVERFLOW
    assert outbox.push(b"z") is Level.UNCHANGED
    outbox.push_each(iter([b"z"]))
    assert [outbox.take() for _ in range(6)] == [[b"x" * 50]] * 5 + [[]]


def test_a_frame_that_no_message_can_carry_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="pages"):
        Outbox().push(b"x" * limits.stream_message_bytes_max)


def test_what_is_made_later_is_made_when_it_leaves() -> None:
    made: list[int] = []

    def pages() -> Iterator[bytes]:
        for number in range(100):
            made.append(number)
            yield bytes(6)

    outbox = Outbox()
    outbox.push_each(pages())
    outbox.push_each(pages())
    assert (made, outbox.bytes_waiting) == ([], 0)
    assert outbox.take() == [bytes(6)]
    assert len(made) == 2  # the second did not fit, and waits
    assert outbox.bytes_waiting == 6
    assert outbox.take() == [bytes(6)]
    assert len(made) == 3


def test_the_first_place_can_be_taken_later() -> None:
    outbox = Outbox()
    outbox.push(b"second")
    outbox.push_first(b"1st")
    assert outbox.take() == [b"1st", b"second"]
