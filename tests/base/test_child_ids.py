"""A child's run id follows from its parent's and a position, and is a run id like any other."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.ids import (
    RunId,
    child_run_id,
    new_run_id,
    parse_run_id,
    run_created_ms,
    run_id_text,
)

PARENTS = st.binary(min_size=16, max_size=16).map(RunId)
POSITIONS = st.integers(0, 2**64 - 1) | st.integers(0, 20)


@given(parent=PARENTS, position=POSITIONS)
def test_a_child_id_is_a_version_7_uuid_of_its_parents_millisecond(
    parent: RunId, position: int
) -> None:
    child = child_run_id(parent, position)
    read = uuid.UUID(bytes=child)
    assert read.version == 7
    assert read.variant == uuid.RFC_4122
    assert run_created_ms(child) == run_created_ms(parent)
    assert parse_run_id(run_id_text(child)) == child


@given(parent=PARENTS, position=POSITIONS)
def test_whoever_computes_it_gets_the_same(parent: RunId, position: int) -> None:
    assert child_run_id(parent, position) == child_run_id(RunId(bytes(parent)), position)


def test_it_is_the_same_for_ever() -> None:
    """A journal names children by these ids: what they follow from may not change."""
    parent = parse_run_id("01890a5d-ac96-774b-bcce-b302099a8057")
    assert [run_id_text(child_run_id(parent, position)) for position in (0, 1, 2**64 - 1)] == [
        "01890a5d-ac96-726d-850e-246aa24f1429",
        "01890a5d-ac96-765f-9610-fb76c0b7105a",
        "01890a5d-ac96-7a3e-905c-5692f200f8be",
    ]


def test_children_differ_from_each_other_and_from_their_family() -> None:
    parent = new_run_id()
    children = {child_run_id(parent, position) for position in range(1, 10_001)}
    grandchildren = {child_run_id(child, 1) for child in children}
    assert len(children | grandchildren | {parent}) == 20_001


@given(parent=PARENTS, bit=st.integers(0, 127), position=POSITIONS)
def test_another_parent_has_other_children(parent: RunId, bit: int, position: int) -> None:
    """Even one that differs in the version or in the time only."""
    other = RunId((int.from_bytes(parent, "big") ^ 1 << bit).to_bytes(16, "big"))
    assert child_run_id(parent, position)[6:] != child_run_id(other, position)[6:]


@pytest.mark.parametrize(
    ("parent", "position"),
    [(bytes(15), 1), (bytes(17), 1), (bytes(16), -1), (bytes(16), 2**64)],
)
def test_what_is_no_parent_or_position_stops(parent: bytes, position: int) -> None:
    with pytest.raises(AssertionError):
        child_run_id(RunId(parent), position)
