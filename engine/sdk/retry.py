"""Retry policies as users write them, and when a failed try is followed by another.

Pure: the share that is drawn by chance comes from a seed that the caller gives, so that the same
failure always gives the same delay. The engine decides by the same rules when a *run* is tried
again; here it is about one step of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from engine.model.payloads import Error, RetryKind
from engine.model.payloads import RetryPolicy as RecordedPolicy

_KINDS: Final = {
    "constant": RetryKind.CONSTANT,
    "linear": RetryKind.LINEAR,
    "exponential": RetryKind.EXPONENTIAL,
}


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often a failed step or run is tried again, and after which delays.

        RetryPolicy()                                    # 3 attempts, 0.1 s, 0.2 s between them
        RetryPolicy(attempts_max=10, initial_ms=1_000, interval_ms_max=60_000)
        RetryPolicy(kind="constant", initial_ms=500, attempts_max=0)   # for ever, twice a second
        RetryPolicy(non_retryable=[ValueError, "card_declined"])

    `kind` is how the delay grows: "constant", "linear" or "exponential" (by `factor`). `jitter` is
    the share of a delay that is left to chance. `attempts_max` and `elapsed_ms_max` end the trying;
    0 means no bound. What is named in `non_retryable`, by the exception's class, its name or its
    `code`, is not tried again.
    """

    attempts_max: int = 3
    initial_ms: int = 100
    kind: str = "exponential"
    factor: float = 2.0
    interval_ms_max: int = 30_000
    jitter: float = 0.1
    elapsed_ms_max: int = 0
    non_retryable: tuple[type[BaseException] | str, ...] | list[type[BaseException] | str] = ()

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(_KINDS)}")
        if not 0.0 <= self.jitter <= 1.0:
            raise ValueError(f"jitter {self.jitter} is not from 0 to 1")
        if min(self.attempts_max, self.initial_ms, self.interval_ms_max, self.elapsed_ms_max) < 0:
            raise ValueError("numbers of a retry policy are not negative")

    @property
    def non_retryable_codes(self) -> tuple[str, ...]:
        return tuple(_codes(self.non_retryable))

    def recorded(self) -> RecordedPolicy:
        """As the worker registers it with a component."""
        return RecordedPolicy(
            kind=_KINDS[self.kind],
            initial_ms=self.initial_ms,
            interval_ms_max=self.interval_ms_max,
            factor=self.factor,
            jitter=self.jitter,
            attempts_max=self.attempts_max,
            elapsed_ms_max=self.elapsed_ms_max,
            non_retryable_codes=self.non_retryable_codes,
        )


def _codes(named: Iterable[type[BaseException] | str]) -> Iterable[str]:
    for one in named:
        yield one if isinstance(one, str) else str(getattr(one, "code", one.__name__))


def next_try_ms(
    policy: RetryPolicy | None,
    error: Error,
    *,
    attempt: int,
    first_started_ms: int,
    now_ms: int,
    seed: bytes,
) -> int | None:
    """When to try again after the failure of `attempt` (1 for the first); None: not at all."""
    if policy is None or error.non_retryable:
        return None
    codes = policy.non_retryable_codes
    if error.code in codes or error.type in codes:
        return None
    if policy.attempts_max and attempt >= policy.attempts_max:
        return None
    due_ms = now_ms + delay_ms(policy, attempt, seed)
    if policy.elapsed_ms_max and due_ms - first_started_ms > policy.elapsed_ms_max:
        return None
    return due_ms


def delay_ms(policy: RetryPolicy, attempt: int, seed: bytes) -> int:
    """The delay after the failure of an attempt: at least 0, at most `interval_ms_max`."""
    assert attempt >= 1
    delay = float(policy.initial_ms)
    if policy.kind == "linear":
        delay *= attempt
    elif policy.kind == "exponential":
        # Bounded, because a float overflows sooner than a patient policy ends.
        delay *= policy.factor ** min(attempt - 1, 64)
    if policy.interval_ms_max:
        delay = min(delay, policy.interval_ms_max)
    delay *= 1.0 - policy.jitter * chance(seed, attempt)
    return int(min(delay, 2.0**53))


def chance(seed: bytes, number: int) -> float:
    """A number from 0 to 1 that is the same whenever it is asked for."""
    digest = hashlib.blake2b(seed + number.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
