"""`ctx` in a workflow: every durable operation, as the user writes it.

An operation takes its position when it is called and is under way from then on; awaiting it gives
its result. What a result is made of is decided here; when it comes, by the run. Knows neither the
journal nor the worker.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Protocol, TypeVar, overload

from engine.base.errors import InvalidInput
from engine.base.ids import RunId
from engine.model.payloads import ChildMode, WaitKind
from engine.sdk import values
from engine.sdk.authoring import branches
from engine.sdk.authoring.asked import Asked
from engine.sdk.authoring.calls import StepCall, step_call
from engine.sdk.authoring.children import ChildRun, child_input
from engine.sdk.authoring.components import Component, EntityRef, called, seconds
from engine.sdk.authoring.facts import RunFacts, WithFacts
from engine.sdk.authoring.retry import RetryPolicy
from engine.sdk.authoring.state import State
from engine.sdk.authoring.step_context import (
    RunLogger,
    checked_emission,
    checked_event,
    checked_usage,
)
from engine.sdk.replay import outcomes
from engine.sdk.replay.operations import Child, Operation, Outcome, ReportUsage, Wait

T = TypeVar("T")

InputType = Literal["text", "approval", "select", "multiselect"]
Duration = float | timedelta

_MISSING: Final[Any] = object()
_INPUT_TYPES: Final = ("text", "approval", "select", "multiselect")

_log: Final = logging.getLogger("engine.run")


class Run(Protocol):
    """What a workflow's context asks of the run that it belongs to."""

    facts: RunFacts

    def ask(self, operation: Operation, convert: Callable[[Outcome], T]) -> Asked[T]: ...
    def ask_step(self, call: StepCall) -> Asked[Any]: ...
    def change_state(self, change: Any) -> tuple[bytes | None, int]: ...
    def report_usage(self, usage: ReportUsage) -> None: ...
    def emit(self, event: str, data: bytes) -> None: ...
    def find_component(self, name: str) -> Component[..., Any] | None: ...
    def child_run_id(self, position: int) -> RunId: ...
    @property
    def is_of_entity(self) -> bool: ...
    @property
    def now_us(self) -> int: ...
    @property
    def is_replaying(self) -> bool: ...
    def tell_attempt(self) -> int: ...
    def draw(self) -> bytes: ...


class Context(WithFacts):
    """The first argument of a workflow.

        @workflow
        async def onboarding(ctx: Context, email: str) -> str:
            account = await ctx.step(create_account, email)
            await ctx.sleep(timedelta(days=1))
            if await ctx.wait_for_user(f"Activate {email}?", input_type="approval"):
                await ctx.step(activate, account)
            return account

    Between its operations a workflow only computes: whatever reads or changes the world is a step,
    and asyncio's own sleeping and networking are refused with what to use instead.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._facts = run.facts
        self.state = State(run)

    # ---- steps ----

    @overload
    def step(
        self,
        target: Callable[..., Awaitable[T]],
        /,
        *arguments: Any,
        key: object = ...,
        retry: RetryPolicy | None = ...,
        timeout: Duration | None = ...,
    ) -> Asked[T]: ...
    @overload
    def step(
        self,
        target: Callable[..., T],
        /,
        *arguments: Any,
        key: object = ...,
        retry: RetryPolicy | None = ...,
        timeout: Duration | None = ...,
    ) -> Asked[T]: ...
    @overload
    def step(
        self,
        target: str,
        /,
        *arguments: Any,
        key: object = ...,
        retry: RetryPolicy | None = ...,
        timeout: Duration | None = ...,
    ) -> Asked[Any]: ...

    def step(
        self,
        target: Callable[..., Any] | str,
        /,
        *arguments: Any,
        key: object = None,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
    ) -> Asked[Any]:
        """Run a function; once its result is recorded, it is never run again.

            receipt = await ctx.step(charge, order.id, order.cents)
            rate = await ctx.step("exchange_rate", "EUR", retry=RetryPolicy(attempts_max=5))
            page = await ctx.step("fetch", lambda: download(url))

        A name stands for a component: of this worker, or of any other, where it becomes a child
        run. A name and a function give the step that name. `key` tells apart steps of one name.
        Raises StepError when the function raised and is not tried again. `timeout` is for a try.
        """
        name = None
        if isinstance(target, str):
            if arguments and callable(arguments[0]):
                name, target, arguments = target, arguments[0], arguments[1:]
            else:
                found = self._run.find_component(target)
                if found is None:
                    return self.call(target, *arguments)
                target = found
        if isinstance(target, Component) and target.is_replayed:
            return self.call(target, *arguments)
        call = step_call(target, arguments, name=name, key=key, retry=retry, timeout=timeout)
        return self._run.ask_step(call)

    # ---- several things at once ----

    async def parallel(
        self, *branches_given: Awaitable[Any], return_exceptions: bool = False
    ) -> list[Any]:
        """Wait for all of them; their results, in order.

            a, b = await ctx.parallel(ctx.step(first), ctx.step(second))
            await ctx.parallel(*(ship(ctx, item) for item in order.items))

        Operations and coroutines of your own, which may use ctx. The first failure cancels the
        others and is raised; with `return_exceptions=True` it takes its place in the list.
        """
        return await branches.join(branches_given, return_exceptions=return_exceptions)

    @overload
    async def gather(self, *given: Awaitable[Any], return_exceptions: bool = ...) -> list[Any]: ...
    @overload
    async def gather(
        self, *, return_exceptions: bool = ..., **named: Awaitable[Any]
    ) -> dict[str, Any]: ...

    async def gather(
        self, *given: Awaitable[Any], return_exceptions: bool = False, **named: Awaitable[Any]
    ) -> list[Any] | dict[str, Any]:
        """Like `parallel`, and by name:

            found = await ctx.gather(user=ctx.step(load_user), cart=ctx.step(load_cart))
            found["cart"]

        Given in order, the results are a list; given by name, a dict.
        """
        if given and named:
            raise TypeError("ctx.gather takes its branches in order or by name, not both")
        results = await branches.join(
            given or tuple(named.values()), return_exceptions=return_exceptions
        )
        return dict(zip(named, results, strict=True)) if named else results

    async def map(
        self,
        target: Callable[..., Any] | str,
        items: Iterable[Any],
        *,
        limit: int | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """A step for each item; the results, in the order of the items.

        `await ctx.map(thumbnail, photos, limit=10)` runs at most ten at a time. A workflow, or the
        name of a component that another worker serves, becomes a child run for each item.
        """

        def start(item: Any) -> Asked[Any]:
            return self.step(target, item, retry=retry, timeout=timeout)

        if limit is None:
            started = [start(item) for item in items]
            return await branches.join(started, return_exceptions=return_exceptions)
        if limit < 1:
            raise ValueError(f"limit is {limit}: at least one at a time")
        return await branches.pull(start, items, limit=limit, return_exceptions=return_exceptions)

    # ---- waiting ----

    def sleep(self, duration: Duration) -> Asked[None]:
        """Wait for that many seconds, or a timedelta: minutes or months. It takes no worker, and
        survives restarts of everything."""
        wait = Wait(kind=WaitKind.TIMER, duration_ms=_milliseconds(duration))
        return self._run.ask(wait, outcomes.nothing)

    def signal(
        self, name: str, *, timeout: Duration | None = None, default: Any = _MISSING
    ) -> Asked[Any]:
        """Wait for a signal of that name; what it carries. One that came before counts too, the
        earliest first. After `timeout` it is the default, or WaitTimedOut is raised."""
        wait = Wait(
            kind=WaitKind.SIGNAL,
            name=name,
            duration_ms=None if timeout is None else _milliseconds(timeout),
            default=None
            if default is _MISSING
            else values.encode(default, f"the default of signal {name!r}"),
        )
        return self._run.ask(wait, functools.partial(outcomes.awaited, wait))

    def wait_for_user(
        self,
        question: str,
        *,
        input_type: InputType = "text",
        options: Sequence[str] = (),
        timeout: Duration | None = None,
    ) -> Asked[Any]:
        """Ask a person and wait for the answer: text; True or False for an approval; one of the
        options, or a list of them."""
        if input_type not in _INPUT_TYPES:
            raise InvalidInput(
                f"input_type {input_type!r} is not one of {', '.join(_INPUT_TYPES)}",
                field="input_type",
            )
        if (input_type in ("select", "multiselect")) != bool(options):
            raise InvalidInput(
                f"a question of input_type {input_type!r} "
                + ("has no options" if options else "needs options to choose from"),
                field="options",
            )
        wait = Wait(
            kind=WaitKind.USER,
            question=question,
            input_type=input_type,
            options=tuple(options),
            duration_ms=None if timeout is None else _milliseconds(timeout),
        )
        return self._run.ask(wait, functools.partial(outcomes.answered, wait))

    # ---- child runs ----

    @overload
    def call(
        self, component: Component[..., Coroutine[Any, Any, T]], /, *args: Any, **named: Any
    ) -> Asked[T]: ...
    @overload
    def call(
        self, component: Component[..., Any] | EntityRef | str, /, *args: Any, **named: Any
    ) -> Asked[Any]: ...

    def call(
        self, component: Component[..., Any] | EntityRef | str, /, *args: Any, **named: Any
    ) -> Asked[Any]:
        """Run a component as a run of its own, on any worker that serves it, and wait for it.

            balance = await ctx.call(account.of("ann"), 5)

        One argument is its input, named ones make an object. Raises ChildError when it fails."""
        return self._ask_child(component, args, named, ChildMode.JOIN)

    def start(
        self,
        component: Component[..., Any] | EntityRef | str,
        /,
        *args: Any,
        detach: bool = False,
        **named: Any,
    ) -> ChildRun:
        """Start a child run and go on: `child = await ctx.start(...)`, and later
        `await child.result()`. With `detach=True` nobody waits for it, and it has no result."""
        mode = ChildMode.DETACH if detach else ChildMode.JOIN
        asked = self._ask_child(component, args, named, mode)
        return ChildRun(asked, self._run.child_run_id(asked.position))

    def _ask_child(
        self, component: Any, args: tuple[Any, ...], named: dict[str, Any], mode: ChildMode
    ) -> Asked[Any]:
        component, entity_key = called(component)
        name = component.name if isinstance(component, Component) else component
        decoder = component.output_decoder if isinstance(component, Component) else None

        def convert(outcome: Outcome) -> Any:
            run_id = self._run.child_run_id(asked.position)
            return outcomes.of_child(name, decoder, run_id, outcome)

        child = Child(name, mode, child_input(name, args, named), entity_key)
        asked: Asked[Any] = self._run.ask(child, convert)
        return asked

    # ---- telling ----

    def emit(self, event: str, data: object = None) -> None:
        """Show something to whoever watches the run: `output.…`, `progress.…` or `log.…`. It is
        not recorded, and not said again in a replay."""
        self._run.emit(checked_event(event), checked_emission(event, data))

    def usage(
        self,
        *,
        model: str = "",
        tokens_in: int = 0,
        tokens_out: int = 0,
        cost_usd: float = 0.0,
        tool_calls: int = 0,
    ) -> None:
        """What a model call consumed; reports add up in the run's summary."""
        self._run.report_usage(
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
        """Python's logging; silent while the run is replayed, so that each line is said once."""
        return _ReplayLogger(self._run, {"run_id": self.run_id, "component": self.component})

    # ---- time and chance, the same at every replay ----

    @property
    def attempt(self) -> int:
        """Of the run, from 1. A new attempt may do other things than the one before."""
        return self._run.tell_attempt()

    def now(self) -> datetime:
        """The time at which the last awaited operation ended, in UTC."""
        return datetime.fromtimestamp(self._run.now_us / 1_000_000, UTC)

    def random(self) -> float:
        """From 0 up to 1. `random.Random(ctx.random())` is a generator with all the rest."""
        return int.from_bytes(self._draw()[:7], "big") / 2.0**56

    def uuid(self) -> uuid.UUID:
        """A version 4 UUID."""
        return uuid.UUID(bytes=self._draw(), version=4)

    @property
    def is_replaying(self) -> bool:
        return self._run.is_replaying

    def _draw(self) -> bytes:
        return hashlib.blake2b(self._run.draw(), digest_size=16).digest()


class _ReplayLogger(RunLogger):
    def __init__(self, run: Run, extra: dict[str, object]) -> None:
        super().__init__(_log, extra)
        self._run = run

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return not self._run.is_replaying and super().isEnabledFor(level)


def _milliseconds(duration: Duration) -> int:
    given = seconds(duration)
    assert given is not None
    if math.isinf(given):
        raise ValueError("a wait has an end; to wait for ever, leave the timeout out")
    return math.ceil(given * 1_000)
