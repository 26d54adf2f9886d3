"""When a failed attempt is tried again: one computation, for the engine's runs and the SDK's steps.

Pure, and total: whatever numbers a rule holds, a delay comes out of it that is not negative and not
above the rule's bound. The share that is left to chance comes from a seed, so that the same failure
always leads to the same delay. Which numbers make sense is said by `wrong_in`, which the worker
door and the SDK both ask before a rule is taken.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import msgspec

from engine.base import limits
from engine.model.payloads import Error, RetryKind, RetryPolicy

_FACTOR_DEFAULT: Final = 2.0


class RetryRule(msgspec.Struct, frozen=True, array_like=True):
    """A retry policy as a run's state keeps it; 0 means "no bound"."""

    kind: int = RetryKind.EXPONENTIAL
    initial_ms: int = 1_000
    interval_ms_max: int = 60_000
    factor: float = _FACTOR_DEFAULT
    jitter: float = 0.1
    attempts_max: int = 5
    elapsed_ms_max: int = 0
    non_retryable_codes: tuple[str, ...] = ()


DEFAULT_RULE: Final = RetryRule()


class RetryAt(msgspec.Struct, frozen=True):
    due_ms: int


class GiveUp(msgspec.Struct, frozen=True):
    reason: str


def rule_of(policy: RetryPolicy | None) -> RetryRule:
    """The policy that came with the component, or the default."""
    if policy is None:
        return DEFAULT_RULE
    return RetryRule(
        kind=int(policy.kind),
        initial_ms=policy.initial_ms,
        interval_ms_max=policy.interval_ms_max,
        factor=policy.factor or _FACTOR_DEFAULT,
        jitter=policy.jitter,
        attempts_max=policy.attempts_max,
        elapsed_ms_max=policy.elapsed_ms_max,
        non_retryable_codes=tuple(policy.non_retryable_codes),
    )


def wrong_in(rule: RetryRule | RetryPolicy) -> str | None:
    """What makes no sense in it, as a sentence for whoever wrote it; None if all of it does."""
    if rule.kind not in (0, *RetryKind):
        known = ", ".join(kind.name.lower() for kind in RetryKind)
        return f"kind {rule.kind} is not one of {known}"
    factor = rule.factor or _FACTOR_DEFAULT  # the wire leaves out what was not set
    if not 1.0 <= factor <= limits.retry_factor_max:
        return f"factor {factor} is not from 1 to {limits.retry_factor_max}"
    if not 0.0 <= rule.jitter <= 1.0:
        return f"jitter {rule.jitter} is not from 0 to 1"
    for name in ("initial_ms", "interval_ms_max", "elapsed_ms_max"):
        if not 0 <= getattr(rule, name) <= limits.retry_delay_ms_max:
            return f"{name} {getattr(rule, name)} is not from 0 to {limits.retry_delay_ms_max}"
    if not 0 <= rule.attempts_max <= limits.retry_attempts_max:
        return f"attempts_max {rule.attempts_max} is not from 0 to {limits.retry_attempts_max}"
    if len(rule.non_retryable_codes) > limits.retry_codes_max:
        return f"at most {limits.retry_codes_max} kinds of errors can be named as not retryable"
    if any(len(code) > limits.retry_code_length_max for code in rule.non_retryable_codes):
        return f"an error's code has at most {limits.retry_code_length_max} characters"
    return None


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
    if error.code in rule.non_retryable_codes or error.type in rule.non_retryable_codes:
        return GiveUp(f"the policy does not retry {error.code!r}")
    if rule.attempts_max and attempt >= rule.attempts_max:
        return GiveUp(f"attempt {attempt} was the last of {rule.attempts_max}")
    due_ms = now_ms + delay_ms(rule, attempt, seed)
    if rule.elapsed_ms_max and due_ms - first_started_ms > rule.elapsed_ms_max:
        return GiveUp(f"the next attempt would be later than {rule.elapsed_ms_max} ms")
    return RetryAt(due_ms)


def delay_ms(rule: RetryRule, attempt: int, seed: bytes) -> int:
    """How long to wait after the failure of an attempt: never above `interval_ms_max`, since chance
    only shortens a delay."""
    assert attempt >= 1
    bound_ms = min(rule.interval_ms_max or limits.retry_delay_ms_max, limits.retry_delay_ms_max)
    grown_ms = min(_grown_ms(rule, attempt - 1), bound_ms)
    jitter = rule.jitter if 0.0 <= rule.jitter <= 1.0 else 0.0
    return max(0, int(grown_ms * (1.0 - jitter * chance(seed, attempt))))


def _grown_ms(rule: RetryRule, failures_before: int) -> float:
    """The delay without its bound. A power that would be past every bound is not worked out."""
    initial_ms = min(rule.initial_ms, limits.retry_delay_ms_max)
    if rule.kind == RetryKind.LINEAR:
        return float(initial_ms * (failures_before + 1))
    if rule.kind != RetryKind.EXPONENTIAL:
        return float(initial_ms)
    factor = rule.factor if 1.0 <= rule.factor <= limits.retry_factor_max else _FACTOR_DEFAULT
    if failures_before * math.log2(factor) >= limits.retry_delay_ms_max.bit_length():
        return float(limits.retry_delay_ms_max if initial_ms else 0)
    return float(initial_ms * factor**failures_before)


def chance(seed: bytes, number: int) -> float:
    """A number from 0 to 1 that is the same whenever it is asked for."""
    digest = hashlib.blake2b(seed + number.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
