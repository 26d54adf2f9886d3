"""All examples in one module, so that one worker serves them to their tests."""

from examples.approval import expenses, pay, tell
from examples.fanout import count_primes, count_slice, primes_below
from examples.shop import charge, checkout, refund, release, reserve, ship
from examples.sleeper import delete_data, send, trial

__all__ = [
    "charge",
    "checkout",
    "count_primes",
    "count_slice",
    "delete_data",
    "expenses",
    "pay",
    "primes_below",
    "refund",
    "release",
    "reserve",
    "send",
    "ship",
    "tell",
    "trial",
]
