"""`ctx` in a function, a tool and a step: who runs it, and what it can tell while it runs.

The waiting operations of a workflow are not here: a function is not replayed, so after a crash it
could not be found where it waited. May be used from a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from engine.base.clock import Clock
from engine.base.errors import InvalidInput, LimitExceeded
from engine.base.ids import run_id_text
from engine.base.limits import (
    cost_usd_max,
    emit_bytes_max,
    emit_name_length_max,
    operation_name_length_max,
    tokens_max,
    tool_calls_max,
)
from engine.sdk import values
from engine.sdk.authoring.facts import RunFacts, WithFacts
from engine.sdk.errors import NotInWorkflow
from engine.sdk.replay.operations import ReportUsage

# What goes over the stream and is never recorded. Everything else is named by the engine.
EVENT_PREFIXES: Final = ("output.", "progress.", "log.")

Emit = Callable[[str, bytes], None]

_log: Final = logging.getLogger("engine.run")


class StepContext(WithFacts):
    """`ctx` of a function, where it asks for one by a first parameter of that name.

        @function
        async def summarize(ctx: StepContext, text: str) -> str:
            async for piece in model.stream(text):
                ctx.emit("output.delta", piece)
            ctx.usage(model="small", tokens_in=1_200, tokens_out=80)
            return ...

    The same function gets one whether it is a step of a workflow or a run of its own.
    """

    def __init__(
        self,
        facts: RunFacts,
        *,
        attempt: int,
        position: int,
        emit: Emit,
        clock: Clock,
        name: str = "",
        key: str = "",
    ) -> None:
        self._facts = facts
        self._attempt = attempt
        self._position = position
        self._emit = emit
        self._clock = clock
        self.name = name
        self.key = key
        self.usages: list[ReportUsage] = []

    @property
    def attempt(self) -> int:
        """Which try of this step it is, from 1."""
        return self._attempt

    @property
    def idempotency_key(self) -> str:
        """The same for all tries of this step and for no other step: for a payment provider, or
        whoever else can tell that a request comes a second time."""
        return f"{run_id_text(self._facts.id)}:{self._position}"

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_us() / 1_000_000, UTC)

    def emit(self, event: str, data: object = None) -> None:
        """Show something to whoever watches the run: `output.…`, `progress.…` or `log.…`."""
        self._emit(checked_event(event), checked_emission(event, data))

    def usage(
        self,
        *,
        model: str = "",
        tokens_in: int = 0,
        tokens_out: int = 0,
        cost_usd: float = 0.0,
        tool_calls: int = 0,
    ) -> None:
        """What a model call consumed. Reports add up; they are recorded when the step ends."""
        self.usages.append(
            checked_usage(
                model=model,
                tokens_in=tokens_in,
                tokens_out=tokens_out,
                cost_usd=cost_usd,
                tool_calls=tool_calls,
            )
        )

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """Python's logging, with the run's id on each line."""
        return RunLogger(_log, {"run_id": self.run_id, "component": self.component})

    def __getattr__(self, name: str) -> NoReturn:
        if name in _OF_A_WORKFLOW:
            raise NotInWorkflow(
                f"ctx.{name} is for workflows: a function or a step is not replayed, so what it "
                f"waits for could not be found again; do it in the workflow that calls it"
            )
        raise AttributeError(name)


_OF_A_WORKFLOW: Final = frozenset(
    "step parallel gather map sleep signal wait_for_user call start state random uuid".split()  # noqa: SIM905
)


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return f"[{kwargs['extra']['run_id']}] {msg}", kwargs


def checked_event(event: str) -> str:
    if not event.startswith(EVENT_PREFIXES):
        raise InvalidInput(
            f"event {event!r} cannot be emitted: its name begins with "
            f"{' or '.join(EVENT_PREFIXES)}, as in progress.{event.rpartition('.')[2] or 'update'}",
            field="event",
        )
    if len(event) > emit_name_length_max or not event.isprintable():
        raise InvalidInput(
            f"event {event[:40]!r} cannot be emitted: its name has at most {emit_name_length_max} "
            "characters, all printable",
            field="event",
        )
    return event


def checked_emission(event: str, data: object) -> bytes:
    """The data as it travels; the engine takes no more of it."""
    encoded = values.encode(data, f"event {event!r}")
    if len(encoded) > emit_bytes_max:
        raise LimitExceeded(
            f"event {event!r} cannot be emitted: its data has {len(encoded)} bytes, at most "
            f"{emit_bytes_max} are allowed; return large values from a step",
            field="data",
        )
    return encoded


def checked_usage(
    *, model: str, tokens_in: int, tokens_out: int, cost_usd: float, tool_calls: int
) -> ReportUsage:
    if min(tokens_in, tokens_out, tool_calls) < 0 or not cost_usd >= 0:
        raise InvalidInput("what was consumed is not negative", field="usage")
    too_many = max(tokens_in, tokens_out) > tokens_max or tool_calls > tool_calls_max
    if too_many or cost_usd > cost_usd_max:
        raise InvalidInput(
            f"what was consumed at once is at most {tokens_max} tokens, {tool_calls_max} calls of "
            f"tools and {cost_usd_max} dollars",
            field="usage",
        )
    if len(model) > operation_name_length_max:
        raise InvalidInput(
            f"the name of a model has at most {operation_name_length_max} characters", field="model"
        )
    return ReportUsage(
        model=model,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cost_usd=float(cost_usd),
        tool_calls=tool_calls,
    )
