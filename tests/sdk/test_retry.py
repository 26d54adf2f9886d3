"""Retry policies: the delays they give, and when they give up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.payloads import Error, RetryKind
from engine.sdk import NonRetryable, RetryPolicy
from engine.sdk.retry import chance, delay_ms, next_try_ms

SEED = b"a run/3"


def delays(policy: RetryPolicy, count: int = 5) -> list[int]:
    return [delay_ms(policy, attempt, SEED) for attempt in range(1, count + 1)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetryPolicy(kind="constant", jitter=0), [100, 100, 100, 100, 100]),
        (RetryPolicy(kind="linear", jitter=0), [100, 200, 300, 400, 500]),
        (RetryPolicy(jitter=0), [100, 200, 400, 800, 1_600]),
        (RetryPolicy(jitter=0, interval_ms_max=300), [100, 200, 300, 300, 300]),
        (RetryPolicy(jitter=0, factor=1.5), [100, 150, 225, 337, 506]),
        (RetryPolicy(jitter=0, initial_ms=0), [0, 0, 0, 0, 0]),
    ],
)
def test_delays(policy: RetryPolicy, expected: list[int]) -> None:
    assert delays(policy) == expected


def test_jitter_shortens_and_is_the_same_each_time() -> None:
    policy = RetryPolicy(kind="constant", initial_ms=1_000, jitter=0.5)
    assert all(500 <= delay <= 1_000 for delay in delays(policy))
    assert len(set(delays(policy))) > 1
    assert delays(policy) == delays(policy)


@given(
    st.sampled_from(["constant", "linear", "exponential"]),
    st.integers(0, 2**40),
    st.floats(0, 100),
    st.floats(0, 1),
    st.integers(0, 2**40),
    st.integers(1, 10_000),
)
def test_no_delay_is_outside_its_bounds(
    kind: str, initial_ms: int, factor: float, jitter: float, interval_ms_max: int, attempt: int
) -> None:
    policy = RetryPolicy(
        kind=kind,
        initial_ms=initial_ms,
        factor=factor,
        jitter=jitter,
        interval_ms_max=interval_ms_max,
    )
    delay = delay_ms(policy, attempt, SEED)
    assert 0 <= delay <= (interval_ms_max or 2**53)


def decide(policy: RetryPolicy | None, error: Error, attempt: int = 1) -> int | None:
    return next_try_ms(
        policy, error, attempt=attempt, first_started_ms=1_000, now_ms=2_000, seed=SEED
    )


def test_when_to_try_again() -> None:
    policy = RetryPolicy(jitter=0)
    assert decide(policy, Error(code="X")) == 2_100
    assert decide(policy, Error(code="X"), attempt=3) is None
    assert decide(RetryPolicy(jitter=0, attempts_max=0), Error(code="X"), attempt=99) == 32_000
    assert decide(None, Error(code="X")) is None
    assert decide(policy, Error(code="X", non_retryable=True)) is None


def test_a_time_is_an_end_as_well() -> None:
    policy = RetryPolicy(jitter=0, attempts_max=0, elapsed_ms_max=1_100)
    assert decide(policy, Error(code="X")) == 2_100
    assert decide(policy, Error(code="X"), attempt=2) is None


def test_what_is_excluded() -> None:
    class Declined(NonRetryable):
        code = "card_declined"

    policy = RetryPolicy(non_retryable=[ValueError, "timeout", Declined])
    assert policy.non_retryable_codes == ("ValueError", "timeout", "card_declined")
    for code in policy.non_retryable_codes:
        assert decide(policy, Error(code=code)) is None
        assert decide(policy, Error(code="other", type=code)) is None


def test_as_it_is_recorded() -> None:
    recorded = RetryPolicy(kind="linear", non_retryable=["x"]).recorded()
    assert recorded.kind is RetryKind.LINEAR
    assert recorded.non_retryable_codes == ("x",)


@pytest.mark.parametrize(
    "wrong", [{"kind": "quadratic"}, {"jitter": 1.5}, {"attempts_max": -1}, {"initial_ms": -1}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"kind|jitter|negative"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_chance_is_spread() -> None:
    drawn = [chance(SEED, number) for number in range(1_000)]
    assert all(0 <= one < 1 for one in drawn)
    assert 0.45 < sum(drawn) / len(drawn) < 0.55
