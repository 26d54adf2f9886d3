"""A job: one call of the user's function, with its outcome and its timing.

The function's exceptions stop here, whatever they are: a job always ends with a value or an error.
How a job gets onto a loop or into a thread is the host's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from engine.base.clock import Clock
from engine.sdk import values
from engine.sdk.authoring.step_context import StepContext
from engine.sdk.errors import StepTimedOut

# Runs a call that may take so long; raises StepTimedOut if it takes longer.
Within = Callable[[float, Awaitable[Any]], Awaitable[Any]]
# Whether an exception is the host's way to stop the job, and must go on.
IsStop = Callable[["Job", BaseException], bool]

_NO_NAMES: Final[dict[str, Any]] = {}


class Job:
    __slots__ = (
        "_clock",
        "_decoder",
        "_what",
        "arguments",
        "context",
        "error",
        "finished_ms",
        "function",
        "is_async",
        "is_stopped",
        "named",
        "output",
        "started_ms",
        "stop",
        "timeout_s",
        "value",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        what: str,
        is_async: bool,
        clock: Clock,
        named: dict[str, Any] = _NO_NAMES,
        decoder: values.Decode | None = None,
        timeout_s: float | None = None,
        context: StepContext | None = None,
    ) -> None:
        """`what` names its result in errors: "the result of step 'charge'"."""
        self.function = function
        self.arguments = arguments
        self.named = named
        self.is_async = is_async
        self.timeout_s = timeout_s
        self.context = context
        self.output = b""
        self.value: Any = None
        self.error: BaseException | None = None
        self.started_ms = 0
        self.finished_ms = 0
        self.is_stopped = False
        # Set by the host: interrupts it, if it can be.
        self.stop: Callable[[], object] | None = None
        self._what = what
        self._decoder = decoder
        self._clock = clock

    def cancel(self) -> None:
        """Nobody wants the outcome any more. A thread cannot be interrupted and runs to its end."""
        if not self.is_stopped:
            self.is_stopped = True
            if self.stop is not None:
                self.stop()

    async def run(self, within: Within, is_stop: IsStop) -> None:
        self.started_ms = self._clock.now_ms()
        try:
            call = self.function(*self.arguments, **self.named)
            value = await (call if self.timeout_s is None else within(self.timeout_s, call))
            self._returned(value)
        except BaseException as error:
            if is_stop(self, error):
                raise
            self._raised(error)

    def run_blocking(self) -> None:
        """In a thread."""
        self.started_ms = self._clock.now_ms()
        try:
            self._returned(self.function(*self.arguments, **self.named))
        except BaseException as error:  # noqa: BLE001 - it is the outcome, whatever it is
            self._raised(error)

    def time_out(self) -> None:
        """The host does not wait any longer."""
        self._raised(timed_out(self._what, self.timeout_s or 0.0))

    def _returned(self, value: Any) -> None:
        self.output, self.value = values.settle(value, self._decoder, self._what)
        self.finished_ms = self._clock.now_ms()

    def _raised(self, error: BaseException) -> None:
        self.error = error
        self.finished_ms = self._clock.now_ms()


def timed_out(what: str, timeout_s: float) -> StepTimedOut:
    return StepTimedOut(f"{what} did not come within {timeout_s:g} s")
