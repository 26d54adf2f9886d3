"""Which batches become one: few are left of a day that grows, and no run is written anew often."""

from __future__ import annotations

import itertools
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.archive.batches import Batch, BatchState, ObjectFact
from engine.archive.moving.grouping import class_of, groups_to_compact
from engine.base import limits
from engine.base.limits import KIB, MIB

DAY = "2026-01-01"
FAN_IN = limits.archive_compacted_fan_in
SMALL = limits.archive_compacted_bytes_aim // 4
FOOTERS = 30 * KIB  # of the objects of a batch, whatever is in them
FLUSHES_PER_DAY = 8_640
LOOK_EVERY = 30  # flushes


def batch(
    number: int, day: str = DAY, size: int = 1_000, runs: int = 1, hot: int = 0, count: int = 1
) -> Batch:
    """`count`: of flushes that are in it."""
    return Batch(
        batch_id=f"{number:06}",
        state=BatchState.ACKNOWLEDGED,
        day=day,
        runs=runs,
        planned_ms=0,
        hot=bytes(24 * hot),
        objects={"runs": ObjectFact(size, 1)},
        from_ms=number,
        to_ms=number + count - 1,
    )


# ---- a day that is over ----


def test_all_small_ones_of_a_day_that_is_over() -> None:
    small = [batch(number, runs=7**number) for number in range(3)]
    other_day = [batch(number, "2026-01-02") for number in (5, 6)]
    alone = batch(9, "2026-01-03")
    large = batch(4, size=limits.archive_compacted_bytes_aim)
    today = [batch(number, "2026-01-09") for number in (7, 8)]
    found = groups_to_compact([*today, large, alone, *other_day, *reversed(small)], "2026-01-09")
    assert found == [small, other_day]


def test_no_object_becomes_larger_than_it_should() -> None:
    size = limits.archive_compacted_bytes_aim // 5
    found = groups_to_compact([batch(number, size=size) for number in range(12)], "2026-01-09")
    assert [len(group) for group in found] == [5, 5, 2]


def test_the_hot_ids_of_a_group_are_bounded() -> None:
    """They are in one row, which has a greatest size."""
    each = limits.archive_compacted_hot_bytes_max // 24 // 4
    hot = [batch(number, hot=each) for number in range(10)]
    assert [len(group) for group in groups_to_compact(hot, "2026-01-09")] == [4, 4, 2]
    cold = [msgspec.structs.replace(one, hot=b"") for one in hot]
    assert groups_to_compact(cold, "2026-01-09") == [cold]


# ---- a day that grows ----


def test_classes_are_powers() -> None:
    counts = (0, 1, FAN_IN - 1, FAN_IN, FAN_IN**2 - 1, FAN_IN**2, FAN_IN**3)
    assert [class_of(runs) for runs in counts] == [0, 0, 0, 1, 1, 2, 3]


def test_the_oldest_of_a_class_become_one_when_there_are_enough() -> None:
    members = [batch(number, runs=40) for number in range(FAN_IN + 3)]
    assert groups_to_compact(members[: FAN_IN - 1], DAY) == []
    assert groups_to_compact(reversed(members), DAY) == [members[:FAN_IN]]


def test_another_class_between_them_keeps_nobody_apart() -> None:
    tiny = [batch(2 * number, runs=2) for number in range(FAN_IN)]
    larger = [batch(2 * number + 1, runs=50) for number in range(FAN_IN)]
    assert groups_to_compact([*tiny, *larger], DAY) == [tiny, larger]


def test_days_are_not_mixed() -> None:
    for_tomorrow = [batch(number, "2026-01-02") for number in range(FAN_IN // 2)]
    today = [batch(100 + number) for number in range(FAN_IN // 2)]
    assert groups_to_compact([*today, *for_tomorrow], DAY) == []


def test_what_does_not_rise_is_left_alone() -> None:
    """Two batches fill the row of hot ids, and would make one that is no better."""
    runs = FAN_IN**2
    each = limits.archive_compacted_hot_bytes_max // 24 // 2
    members = [batch(number, runs=runs, hot=each) for number in range(6)]
    assert groups_to_compact(members, DAY) == []
    assert len(groups_to_compact([batch(n, size=SMALL - 1) for n in range(FAN_IN)], DAY)) == 7


def flushed_day(flushes: list[tuple[int, int]]) -> tuple[int, int, int]:
    """Runs and bytes of each flush through a whole day: the most batches that there were before and
    after a look, and how often a run was written anew at most."""
    kept: list[Batch] = []
    rewritten: Counter[str] = Counter()
    before = after = 0
    for number, (runs, size) in enumerate(flushes):
        kept.append(batch(number, runs=runs, size=size + FOOTERS))
        if (number + 1) % LOOK_EVERY:
            continue
        before = max(before, len(kept))
        while groups := groups_to_compact(kept, DAY):
            for group in groups:
                made = one_of(group)
                rewritten[made.batch_id] = 1 + max(rewritten.pop(one.batch_id, 0) for one in group)
                assert all(a.from_ms < b.from_ms for a, b in itertools.pairwise(group))
                kept = [one for one in kept if one not in group] + [made]
        after = max(after, len(kept))
    assert sum(one.runs for one in kept) == sum(runs for runs, _ in flushes)
    return before, after, max(rewritten.values(), default=0)


def one_of(group: list[Batch]) -> Batch:
    return msgspec.structs.replace(
        group[0],
        batch_id=group[-1].batch_id,
        runs=sum(one.runs for one in group),
        to_ms=group[-1].to_ms,
        objects={"runs": ObjectFact(sum(one.stored_bytes - FOOTERS for one in group) + FOOTERS, 1)},
    )


@pytest.mark.parametrize("runs", [1, 12, 100, 1_000])
def test_a_day_with_a_flush_every_ten_seconds(runs: int) -> None:
    before, after, rewritten = flushed_day([(runs, runs * 800)] * FLUSHES_PER_DAY)
    assert before <= 100
    assert after <= 70
    assert rewritten == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2_048), st.integers(200, 20 * KIB)), min_size=1, max_size=400)
)
def test_few_are_left_and_nothing_is_rewritten_often(day: list[tuple[int, int]]) -> None:
    flushes = [(runs, runs * size) for runs, size in day]
    _, after, rewritten = flushed_day(flushes)
    large = sum(size for _, size in flushes) // (SMALL - MIB)
    classes = class_of(sum(runs for runs, _ in flushes)) + 1
    assert after <= classes * (FAN_IN - 1) + large
    assert rewritten <= classes
