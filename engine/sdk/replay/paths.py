"""Which branch of a workflow's code is running: every task of the code is one, with a path.

The body of the workflow is the root, the second task that it creates is `2`, and the first task
of that one is `2.1`. A path depends on nothing but the code that creates the task, not on how the
branches take turns, so a branch is known by it in every replay and in every attempt. Knows neither
the journal nor what a branch asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Final, TypeVar

from engine.sdk import limits

T = TypeVar("T")

_COUNT_BITS: Final = 20
_COUNT_MASK: Final = 2**_COUNT_BITS - 1

assert limits.branch_operations_max < _COUNT_MASK  # which none of them has


def position_of(branch_number: int, operation_count: int) -> int:
    return branch_number << _COUNT_BITS | operation_count


def branch_number(position: int) -> int:
    return position >> _COUNT_BITS


def operation_count(position: int) -> int:
    """Which of its branch's operations it is, from 1."""
    return position & _COUNT_MASK


class Branch:
    """A branch while its code runs: how many branches it has started, and drawn by chance."""

    __slots__ = ("draws", "path", "started")

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.started = 0
        self.draws = 0

    def next(self) -> Branch:
        """The next branch that this one starts."""
        self.started += 1
        return Branch(f"{self.path}.{self.started}" if self.path else str(self.started))


_current: Final[ContextVar[Branch]] = ContextVar("branch")


def current(otherwise: Branch) -> Branch:
    """The branch that runs; callbacks belong to the branch that asked to be called back."""
    return _current.get(otherwise)


def context_of(branch: Branch) -> Context:
    """A context for a new task, which then is that branch."""
    context = copy_context()
    context.run(_current.set, branch)
    return context


def call_in(branch: Branch, function: Callable[[], T]) -> T:
    """What the function asks for at once is asked by that branch."""
    token = _current.set(branch)
    try:
        return function()
    finally:
        _current.reset(token)


def next_branch() -> Branch:
    """The next branch that the running one starts, for whoever has no task for it."""
    return _current.get().next()
