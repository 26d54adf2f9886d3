"""When a failed attempt is tried again, for a run as for a step: delays, ends, and rules that make
no sense."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import limits
from engine.model.payloads import Error, RetryKind, RetryPolicy
from engine.model.retry import (
    DEFAULT_RULE,
    GiveUp,
    RetryAt,
    RetryRule,
    chance,
    decide_retry,
    delay_ms,
    rule_of,
    wrong_in,
)

SEED = b"a run/3"
NO_BOUND = limits.retry_delay_ms_max


def rule(kind: RetryKind = RetryKind.EXPONENTIAL, **fields: object) -> RetryRule:
    settled: dict[str, object] = {"initial_ms": 100, "interval_ms_max": 0, "jitter": 0.0, **fields}
    return RetryRule(kind=kind, **settled)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (rule(RetryKind.CONSTANT), [100, 100, 100, 100, 100]),
        (rule(RetryKind.CONSTANT, factor=7.0), [100, 100, 100, 100, 100]),
        (rule(RetryKind.LINEAR), [100, 200, 300, 400, 500]),
        (rule(RetryKind.LINEAR, factor=7.0), [100, 200, 300, 400, 500]),
        (rule(), [100, 200, 400, 800, 1_600]),
        (rule(factor=1.0), [100, 100, 100, 100, 100]),
        (rule(factor=1.5), [100, 150, 225, 337, 506]),
        (rule(factor=10.0), [100, 1_000, 10_000, 100_000, 1_000_000]),
        (rule(interval_ms_max=300), [100, 200, 300, 300, 300]),
        (rule(RetryKind.LINEAR, interval_ms_max=300), [100, 200, 300, 300, 300]),
        (rule(RetryKind.CONSTANT, interval_ms_max=30), [30, 30, 30, 30, 30]),
        (rule(initial_ms=0), [0, 0, 0, 0, 0]),
    ],
)
def test_delays(of: RetryRule, expected: list[int]) -> None:
    assert [delay_ms(of, attempt, SEED) for attempt in range(1, 6)] == expected


@pytest.mark.parametrize(
    ("of", "attempt", "expected"),
    [
        (rule(factor=1.01), 1_001, int(100 * 1.01**1_000)),  # slow, and still growing
        (rule(), 34, 100 * 2**33),
        (rule(), 35, NO_BOUND),
        (rule(initial_ms=1), 41, NO_BOUND),
        (rule(initial_ms=1), 40, 2**39),
        (rule(factor=1_000.0), 2**31, NO_BOUND),
        (rule(factor=1_000.0, interval_ms_max=5), 2**31, 5),
        (rule(initial_ms=0, factor=1_000.0), 2**31, 0),
        (rule(RetryKind.LINEAR), 2**31, 100 * 2**31),
        (rule(RetryKind.LINEAR, initial_ms=2**40), 2**31, NO_BOUND),
    ],
)
def test_delays_after_many_attempts(of: RetryRule, attempt: int, expected: int) -> None:
    assert delay_ms(of, attempt, SEED) == expected


def test_chance_shortens_and_is_the_same_each_time() -> None:
    shaken = rule(RetryKind.CONSTANT, initial_ms=1_000, jitter=0.5)
    delays = [delay_ms(shaken, attempt, SEED) for attempt in range(1, 50)]
    assert all(500 <= delay <= 1_000 for delay in delays)
    assert len(set(delays)) > 10
    assert delays == [delay_ms(shaken, attempt, SEED) for attempt in range(1, 50)]
    assert delays != [delay_ms(shaken, attempt, b"another") for attempt in range(1, 50)]


def test_chance_is_spread() -> None:
    drawn = [chance(SEED, number) for number in range(1_000)]
    assert all(0 <= one < 1 for one in drawn)
    assert 0.45 < sum(drawn) / len(drawn) < 0.55


EDGES_OF_NUMBERS = [0, 1, 2, 2**31, 2**32, 2**40, 2**53, 2**63, 2**64 - 1]
EDGES_OF_FLOATS = [
    *(math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, -1.0, 0.5, 1.0),
    *(1.0000000001, 2.0, 1e3, 1e5, 1e200, 1e308),
]


@given(
    st.integers(-1, 5),
    st.sampled_from(EDGES_OF_NUMBERS),
    st.sampled_from(EDGES_OF_NUMBERS),
    st.one_of(st.sampled_from(EDGES_OF_FLOATS), st.floats()),
    st.one_of(st.sampled_from(EDGES_OF_FLOATS), st.floats()),
    st.sampled_from([1, 2, 3, 63, 64, 65, 66, 10_000, 2**31, 2**32 - 1, 2**63]),
)
def test_any_numbers_give_a_delay_within_its_bounds(
    kind: int, initial_ms: int, bound_ms: int, factor: float, jitter: float, attempt: int
) -> None:
    """Also those that no border lets through: a delay is no place to fail."""
    of = RetryRule(kind, initial_ms, bound_ms, factor, jitter)
    assert 0 <= delay_ms(of, attempt, SEED) <= min(bound_ms or NO_BOUND, NO_BOUND)


def decide(of: RetryRule, error: Error, attempt: int = 1) -> RetryAt | GiveUp:
    return decide_retry(of, error, attempt=attempt, first_started_ms=1_000, now_ms=2_000, seed=SEED)


def test_when_to_try_again() -> None:
    three = rule(attempts_max=3)
    assert decide(three, Error(code="X")) == RetryAt(2_100)
    assert decide(three, Error(code="X"), attempt=2) == RetryAt(2_200)
    assert decide(three, Error(code="X"), attempt=3) == GiveUp("attempt 3 was the last of 3")
    for_ever = rule(attempts_max=0, interval_ms_max=30_000)
    assert decide(for_ever, Error(code="X"), attempt=99) == RetryAt(32_000)
    assert isinstance(decide(three, Error(code="X", non_retryable=True)), GiveUp)


def test_a_time_is_an_end_as_well() -> None:
    until = rule(attempts_max=0, elapsed_ms_max=1_100)
    assert decide(until, Error(code="X")) == RetryAt(2_100), "just in time"
    assert isinstance(decide(until, Error(code="X"), attempt=2), GiveUp)


def test_codes_and_types_that_are_not_tried_again() -> None:
    choosy = rule(non_retryable_codes=("card_declined",))
    assert isinstance(decide(choosy, Error(code="card_declined")), GiveUp)
    assert isinstance(decide(choosy, Error(code="x", type="card_declined")), GiveUp)
    assert isinstance(decide(choosy, Error(code="x", type="y")), RetryAt)


def test_rules_come_from_policies() -> None:
    assert rule_of(None) is DEFAULT_RULE
    policy = RetryPolicy(
        kind=RetryKind.LINEAR,
        initial_ms=1,
        interval_ms_max=2,
        factor=3.0,
        jitter=0.4,
        attempts_max=5,
        elapsed_ms_max=6,
        non_retryable_codes=("x",),
    )
    assert rule_of(policy) == RetryRule(RetryKind.LINEAR, 1, 2, 3.0, 0.4, 5, 6, ("x",))
    assert rule_of(RetryPolicy(kind=RetryKind.EXPONENTIAL)).factor == 2.0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": 4}, "kind 4"),
        ({"kind": -1}, "kind -1"),
        ({"factor": math.nan}, "factor nan"),
        ({"factor": math.inf}, "factor inf"),
        ({"factor": -2.0}, "factor -2.0"),
        ({"factor": 0.99}, r"factor 0\.99"),
        ({"factor": 1_000.1}, r"factor 1000\.1"),
        ({"jitter": math.nan}, "jitter nan"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.1}, "jitter"),
        ({"initial_ms": 2**40 + 1}, "initial_ms"),
        ({"interval_ms_max": 2**64 - 1}, "interval_ms_max"),
        ({"elapsed_ms_max": 2**41}, "elapsed_ms_max"),
        ({"attempts_max": 2**31 + 1}, "attempts_max"),
        ({"non_retryable_codes": ("x",) * 101}, "at most 100 kinds"),
        ({"non_retryable_codes": ("x" * 257,)}, "at most 256 characters"),
    ],
)
def test_what_makes_no_sense_is_named(fields: dict[str, object], says: str) -> None:
    wrong = wrong_in(RetryPolicy(**fields))  # type: ignore[arg-type]
    assert wrong is not None
    assert re.search(says, wrong), wrong


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"factor": 1.0, "jitter": 1.0},
        {"factor": 1_000.0, "jitter": 0.0, "attempts_max": 2**31},
        {"initial_ms": 2**40, "interval_ms_max": 2**40, "elapsed_ms_max": 2**40},
        {"non_retryable_codes": ("x" * 256,) * 100},
    ],
)
def test_the_last_values_that_make_sense(fields: dict[str, object]) -> None:
    assert wrong_in(RetryPolicy(**fields)) is None  # type: ignore[arg-type]
