"""The positions of what the code asks for, and what the journal has there.

A branch counts its own operations, and a position is the branch's number and that count, so what
the branches before it in the queue did or did not do moves nobody's position. The number comes
from the branch's path (see `paths`); the root has 0, so its positions are 1, 2, 3.

Where an earlier attempt of the run went another way, the new way of a branch begins at a position
that none of the attempts before has used. Knows neither outcomes nor reports.
"""

from __future__ import annotations

import hashlib
from typing import Final

from engine.base.errors import LimitExceeded
from engine.model.payloads import Error
from engine.sdk import failures, limits
from engine.sdk.replay.history import History, Recorded
from engine.sdk.replay.operations import Operation, Step
from engine.sdk.replay.paths import branch_number, operation_count, position_of

_NUMBER_MAX: Final = 2**33 - 1  # with the count, what a JSON number says exactly
_HASHED_MIN: Final = 2**20


class Positions:
    def __init__(self, history: History) -> None:
        self._history = history
        self._numbers: dict[str, int] = {"": 0}
        self._paths: dict[int, str] = {0: ""}
        self._next: dict[int, int] = {0: position_of(0, 1)}  # by the branch's number

    def place(self, operation: Operation, path: str) -> tuple[int, Recorded | None, Error | None]:
        """The operation's position, what the journal has there, and whether they disagree."""
        number = self._numbers.get(path)
        if number is None:
            number = self._take_number(path)
        position = self._next[number]
        recorded = self._history.recorded.get(position)
        broken = None
        while recorded is not None and not _is_for(recorded, operation):
            if not recorded.loose:
                broken = self._disagree(position, recorded.operation, operation)
                break
            bases = self._history.bases[number]
            position = next(base for base in bases if base > position)
            recorded = self._history.recorded.get(position)
        if operation_count(position) > limits.branch_operations_max:
            raise LimitExceeded(
                f"a branch of a workflow asks for at most {limits.branch_operations_max:,} "
                "operations; start child runs for the parts of so long a work"
            )
        self._next[number] = position + 1
        return position, recorded, broken

    def taken(self, path: str) -> int:
        """The last position of the branch so far."""
        return self._next.get(self._numbers.get(path, -1), 1) - 1

    def left_out(self) -> int | None:
        """A position that the journal has and that the code has not come to."""
        missing = (
            position
            for position, recorded in self._history.recorded.items()
            if not recorded.loose and position >= self._next.get(branch_number(position), 0)
        )
        return min(missing, default=None)

    def differs(self, position: int, asked: str) -> Error:
        """The code does not ask for what the journal has there."""
        recorded = self._history.recorded[position].operation.describe()
        return failures.not_deterministic(self._describe(position), recorded, asked)

    def _disagree(self, position: int, recorded: Operation, asked: Operation) -> Error:
        was, now = recorded.describe(), asked.describe()
        if recorded.identity == asked.identity:
            assert isinstance(recorded, Step)
            assert isinstance(asked, Step)
            was, now = recorded.describe_input(asked), asked.describe_input(recorded)
        return failures.not_deterministic(self._describe(position), was, now)

    def _describe(self, position: int) -> str:
        number = branch_number(position)
        if number == 0:
            return f"position {position}"
        path = self._paths.get(number)
        of = f"branch {path}" if path is not None else "a branch that was not started this time"
        return f"position {operation_count(position)} of {of}"

    def _take_number(self, path: str) -> int:
        number = _number_of(path)
        while number in self._paths:
            number = number + 1 if number < _NUMBER_MAX else _HASHED_MIN
        self._numbers[path], self._paths[number] = number, path
        self._next[number] = position_of(number, 1)
        return number


def _number_of(path: str) -> int:
    """A branch of the root has its own count for a number, one of a branch has a hash of its path.

    Two paths with one hash are next to impossible; the one that asks later then gets the next.
    """
    if path.isdigit() and int(path) < _HASHED_MIN:
        return int(path)
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    return _HASHED_MIN + int.from_bytes(digest, "big") % (_NUMBER_MAX - _HASHED_MIN + 1)


def _is_for(recorded: Recorded, asked: Operation) -> bool:
    """Of a way that may have been another one, only the very same counts: an outcome is not to be
    taken for that of a step with other arguments, nor a value for another value."""
    had = recorded.operation
    if had.identity != asked.identity:
        return False
    if recorded.loose:
        return recorded.is_partial or had.details == asked.details
    return not isinstance(had, Step) or had.details == asked.details
