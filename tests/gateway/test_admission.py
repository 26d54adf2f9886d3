"""A rate is kept over any stretch of time, and who waits is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.gateway.door.admission import InFlight, TokenBuckets


def buckets(rate_per_s: float = 10, burst: int = 3, keys_max: int = 100) -> TokenBuckets:
    return TokenBuckets(rate_per_s=rate_per_s, burst=burst, keys_max=keys_max)


def test_a_burst_and_then_the_rate() -> None:
    found = buckets()
    assert [found.take("a", 0) for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)]
    assert found.take("a", 50_000) == pytest.approx(0.05)
    assert found.take("a", 100_000) == 0
    assert found.take("a", 100_001) > 0


def test_keys_do_not_share() -> None:
    found = buckets(burst=1)
    assert found.take("a", 0) == 0
    assert found.take("b", 0) == 0
    assert found.take("a", 0) > 0


def test_the_key_that_was_not_seen_for_longest_is_forgotten() -> None:
    found = buckets(burst=1, keys_max=2)
    for key in ("a", "b", "a", "c"):
        found.take(key, 0)
    assert found.take("a", 0) > 0
    assert found.take("b", 0) == 0


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    found = buckets(burst=1)
    assert found.take("a", 1_000_000) == 0
    assert found.take("a", 0) > 0


@given(
    st.lists(st.integers(0, 400_000), max_size=60),
    st.sampled_from([1.0, 10.0, 33.3]),
    st.integers(1, 5),
)
def test_never_more_than_burst_and_rate_allow(
    gaps_us: list[int], rate_per_s: float, burst: int
) -> None:
    found = buckets(rate_per_s, burst)
    now_us = 0
    admitted: list[int] = []
    for gap_us in gaps_us:
        now_us += gap_us
        wait_s = found.take("a", now_us)
        if wait_s == 0:
            admitted.append(now_us)
        else:
            # Who comes again when told is let in.
            now_us += int(wait_s * 1_000_000) + 1
            assert found.take("a", now_us) == 0
            admitted.append(now_us)
    for first, begin_us in enumerate(admitted):
        for last in range(first, len(admitted)):
            allowed = burst + (admitted[last] - begin_us) / 1_000_000 * rate_per_s
            assert last - first + 1 <= allowed + 0.001


def test_who_is_inside_is_counted_and_then_forgotten() -> None:
    inside = InFlight(2)
    assert inside.enter("a")
    assert inside.enter("a")
    assert not inside.enter("a")
    assert inside.enter("b")
    inside.leave("a")
    assert inside.enter("a")
    for key in ("a", "a", "b"):
        inside.leave(key)
    assert (inside.count("a"), inside.count("b")) == (0, 0)
    assert not inside._counts
