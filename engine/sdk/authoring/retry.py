"""Retry policies as users write them: a wrong one is refused where it is written.

What follows from a policy is worked out in `model/retry.py`, for a step here as for a run in the
engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from engine.base import limits
from engine.model.payloads import Error, RetryKind
from engine.model.payloads import RetryPolicy as RecordedPolicy
from engine.model.retry import RetryAt, decide_retry, rule_of, wrong_in

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
        if self.factor == 0:
            raise ValueError(f"factor 0 is not from 1 to {limits.retry_factor_max}")
        wrong = wrong_in(self.recorded())
        if wrong is not None:
            raise ValueError(f"a retry policy's {wrong}")

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
    if policy is None:
        return None
    follows = decide_retry(
        rule_of(policy.recorded()),
        error,
        attempt=attempt,
        first_started_ms=first_started_ms,
        now_ms=now_ms,
        seed=seed,
    )
    return follows.due_ms if isinstance(follows, RetryAt) else None
