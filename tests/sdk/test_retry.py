"""Retry policies as a user writes them: what they lead to, and which make no sense."""

from __future__ import annotations

import pytest

from engine.model.payloads import Error, RetryKind
from engine.sdk import NonRetryable, RetryPolicy
from engine.sdk.authoring.retry import next_try_ms

SEED = b"a run/3"


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
    ("wrong", "says"),
    [
        ({"kind": "quadratic"}, "kind 'quadratic' is not one of"),
        ({"jitter": 1.5}, "jitter 1.5 is not from 0 to 1"),
        ({"attempts_max": -1}, "attempts_max -1"),
        ({"initial_ms": -1}, "initial_ms -1"),
        ({"factor": 100_000.0}, "factor 100000.0 is not from 1 to 1000"),
        ({"factor": float("nan")}, "factor nan"),
        ({"factor": 0}, "factor 0"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
