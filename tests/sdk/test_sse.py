"""Server-sent events, however their bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.errors import LimitExceeded
from engine.sdk import limits
from engine.sdk.client.sse import Event, EventParser

STREAM = (
    b": \n\n"
    b'id: 0\nevent: run.queued\ndata: {"a": 1}\n\n'
    b'event: output.delta\ndata: "x"\n\n'
    b": heartbeat\n\n"
    b"id: 7\r\nevent: run.completed\r\ndata: [\r\ndata: 1]\r\n\r\n"
    b"id: x\nretry: 5\nnonsense\n\n"
    b"event: half"
)
EVENTS = [
    Event("run.queued", {"a": 1}, 0),
    Event("output.delta", "x"),
    Event("run.completed", [1], 7),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_do_not_depend_on_how_they_are_cut(cuts: list[int]) -> None:
    parser = EventParser()
    places = [0, *sorted(cuts), len(STREAM)]
    found = []
    for start, end in itertools.pairwise(places):
        found.extend(parser.feed(STREAM[start:end]))
    assert found == EVENTS


def test_the_last_event_is_known() -> None:
    assert [event.is_last for event in EVENTS] == [False, False, True]


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    parser = EventParser()
    with pytest.raises(LimitExceeded):
        parser.feed(b"x" * (limits.event_line_bytes_max + 1))
