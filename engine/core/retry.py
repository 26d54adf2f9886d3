"""When a failed attempt is tried again: a pure function of the policy, the attempt and a seed.

Jitter comes from the seed and not from a random source, so that the decision can be repeated.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from engine.model.payloads import Error, RetryKind, RetryPolicy


class RetryRule(msgspec.Struct, frozen=True, array_like=True):
    """A retry policy as a run's state keeps it; 0 means "no bound"."""

    kind: int = RetryKind.EXPONENTIAL
    initial_ms: int = 1_000
    interval_ms_max: int = 60_000
    factor: float = 2.0
    jitter: float = 0.1
    attempts_max: int = 5
    elapsed_ms_max: int = 0
    non_retryable_codes: tuple[str, ...] = ()


DEFAULT_RULE: Final = RetryRule()


def rule_of(policy: RetryPolicy | None) -> RetryRule:
    """The policy that came with the component, or the default."""
    if policy is None:
        return DEFAULT_RULE
    return RetryRule(
        kind=int(policy.kind),
        initial_ms=policy.initial_ms,
        interval_ms_max=policy.interval_ms_max,
        factor=policy.factor,
        jitter=policy.jitter,
        attempts_max=policy.attempts_max,
        elapsed_ms_max=policy.elapsed_ms_max,
        non_retryable_codes=tuple(policy.non_retryable_codes),
    )


class RetryAt(msgspec.Struct, frozen=True):
    due_ms: int


class GiveUp(msgspec.Struct, frozen=True):
    reason: str


def decide_retry(
    rule: RetryRule,
    error: Error,
    *,
    attempt: int,
    first_started_ms: int,
    now_ms: int,
    seed: bytes,
) -> RetryAt | GiveUp:
    """What follows the failure of an attempt (1 for the first)."""
    if error.non_retryable:
        return GiveUp("the error is marked as not retryable")
    if error.code in rule.non_retryable_codes:
        return GiveUp(f"the policy does not retry {error.code!r}")
    if rule.attempts_max and attempt >= rule.attempts_max:
        return GiveUp(f"attempt {attempt} was the last of {rule.attempts_max}")
    due_ms = now_ms + backoff_ms(rule, attempt, seed)
    if rule.elapsed_ms_max and due_ms - first_started_ms > rule.elapsed_ms_max:
        return GiveUp(f"the next attempt would be later than {rule.elapsed_ms_max} ms")
    return RetryAt(due_ms)


def backoff_ms(rule: RetryRule, attempt: int, seed: bytes) -> int:
    """How long to wait after an attempt, at least 0 and at most the policy's bound."""
    assert attempt >= 1
    base = float(rule.initial_ms)
    if rule.kind == RetryKind.LINEAR:
        base *= attempt
    elif rule.kind == RetryKind.EXPONENTIAL:
        # The exponent is bounded so that a float cannot overflow; the interval's bound is lower.
        base *= (rule.factor or 2.0) ** min(attempt - 1, 64)
    if rule.interval_ms_max:
        base = min(base, rule.interval_ms_max)
    base *= 1.0 + rule.jitter * _spread(seed, attempt)
    return max(0, min(int(base), 2**53))


def _spread(seed: bytes, attempt: int) -> float:
    """A number in [-1, 1) that is the same whenever it is asked for."""
    digest = hashlib.blake2b(seed + attempt.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**63 - 1.0
