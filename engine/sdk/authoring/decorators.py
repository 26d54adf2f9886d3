"""`@workflow`, `@function`, `@tool`, `@entity`, `@agent` and `@scorer`: they make components of
functions, one decorator for each kind that there is.

    @function
    def charge(order_id: str, cents: int) -> str: ...

    @workflow(retry=RetryPolicy(attempts_max=5))
    async def checkout(ctx: Context, order: Order) -> Receipt:
        payment = await ctx.step(charge, order.id, order.cents)
        ...

Bare or with options; the name is the function's unless `name=` gives another. What a component does
is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, ParamSpec, Protocol, TypeVar, overload

from engine.model.runs import ComponentKind
from engine.sdk.authoring.components import Component
from engine.sdk.authoring.registry import declare
from engine.sdk.authoring.retry import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")


class Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, R], /) -> Component[P, R]: ...

    @overload
    def __call__(
        self,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> Callable[[Callable[P, R]], Component[P, R]]: ...


def _decorator(kind: ComponentKind, documentation: str) -> Decorator:
    def decorate(
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> Any:
        def make(function: Callable[..., Any]) -> Component[..., Any]:
            return declare(Component(function, kind, name=name, retry=retry, timeout=timeout))

        return make if function is None else make(function)

    decorate.__doc__ = documentation
    decorate.__name__ = decorate.__qualname__ = kind.name.lower()
    return decorate


workflow: Final = _decorator(
    ComponentKind.WORKFLOW,
    """An `async def` that puts steps together, and goes on where it was after any crash.

    It is replayed from the journal, so between its steps it must not depend on the outside world:
    what does goes into a step, and time and chance come from `ctx`. `retry` is for the whole run:
    steps that succeeded are not repeated.
    """,
)
function: Final = _decorator(
    ComponentKind.FUNCTION,
    """A function that does something: as a step of a workflow, or as a run of its own.

    `async def` or plain `def` (which runs in a thread). It may be run more than once when it fails
    or its worker dies; once its result is recorded it is not run again. `timeout` is for one try.
    """,
)
tool: Final = _decorator(
    ComponentKind.TOOL,
    """A function that an agent may call; its steps are counted as tool calls.""",
)
scorer: Final = _decorator(
    ComponentKind.SCORER,
    """A function that judges the outcome of a run.""",
)
entity: Final = _decorator(
    ComponentKind.ENTITY,
    """An `async def` that reads and changes what is kept under a key: one run of a key at a time.

        @entity
        async def account(ctx: Context, amount: int) -> int:
            balance = await ctx.state.get("balance", 0) + amount
            await ctx.state.set("balance", balance)
            return balance

        await ctx.call(account.of("ann"), 5)      client.run(account, 5, entity_key="ann")

    It is written like a workflow; `ctx.state` is the entity's where no other scope is said.
    """,
)
agent: Final = _decorator(
    ComponentKind.AGENT,
    """An `async def` that lets a model decide what to do next.

    It is written like a workflow: each call of the model is a step, and so is each tool, so that
    what was answered once is neither paid for nor done again.
    """,
)
