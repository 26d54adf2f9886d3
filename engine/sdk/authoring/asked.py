"""What an operation of `ctx` gives the code: something to await, under way from the call on.

It can be awaited, given to `ctx.parallel` or to `asyncio.gather`, or made a task of; awaiting it
again gives the same result. Its position was taken when it was asked for, so it does not matter
when it is awaited. Knows no journal; the run tells it its outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar

from engine.sdk.replay.operations import Operation, Outcome

T = TypeVar("T")

_NOTHING: Any = object()


class Asking(Protocol):
    """The run that an operation belongs to."""

    def new_future(self) -> asyncio.Future[None]: ...
    def abandon(self, position: int) -> None: ...


class Asked(Coroutine[Any, Any, T]):
    __slots__ = (
        "_convert",
        "_error",
        "_futures",
        "_iterator",
        "_run",
        "_value",
        "_watchers",
        "operation",
        "position",
    )

    def __init__(
        self, run: Asking, operation: Operation, position: int, convert: Callable[[Outcome], T]
    ) -> None:
        """`convert` makes the result of an outcome, or raises."""
        self.operation = operation
        self.position = position
        self._run = run
        self._convert = convert
        self._value: T = _NOTHING
        self._error: BaseException | None = None
        self._futures: list[asyncio.Future[None]] = []
        self._watchers: list[Callable[[Asked[T]], None]] = []
        self._iterator: Generator[Any, None, T] | None = None

    def __repr__(self) -> str:
        return f"<{self.operation.describe()} at position {self.position}>"

    def __await__(self) -> Generator[Any, None, T]:
        if not self.done():
            future = self._run.new_future()
            self._futures.append(future)
            try:
                yield from future
            except asyncio.CancelledError:
                self._futures.remove(future)
                if not self._futures and not self._watchers:
                    self.cancel()
                raise
        return self.result()

    # ---- for the run ----

    def resolve(self, outcome: Outcome, value: Any = _NOTHING) -> None:
        """The outcome has come. `value`: what it converts to, where that is known already."""
        if self.done():
            return
        if value is not _NOTHING:
            self._value = value
        else:
            try:
                self._value = self._convert(outcome)
            except Exception as error:  # noqa: BLE001 - kept, and raised where it is awaited
                self._error = error
        for future in self._futures:
            if not future.done():
                future.set_result(None)
        for watcher in self._watchers:
            watcher(self)
        self._futures.clear()
        self._watchers.clear()

    # ---- as a future ----

    def done(self) -> bool:
        return self._value is not _NOTHING or self._error is not None

    def result(self) -> T:
        assert self.done()
        if self._error is not None:
            raise self._error
        return self._value

    def exception(self) -> BaseException | None:
        return self._error

    def cancel(self) -> None:
        """The code does not want the outcome any more; a step that runs is stopped."""
        if not self.done():
            self._error = asyncio.CancelledError()
            self._run.abandon(self.position)

    def add_done_callback(self, watcher: Callable[[Asked[T]], None]) -> None:
        if self.done():
            watcher(self)
        else:
            self._watchers.append(watcher)

    # ---- as a coroutine, which is what asyncio's tasks take ----

    def send(self, value: None) -> Any:
        if self._iterator is None:
            self._iterator = self.__await__()
        return self._iterator.send(value)

    def throw(self, *error: Any) -> Any:
        if self._iterator is None:
            self._iterator = self.__await__()
        return self._iterator.throw(*error)

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
