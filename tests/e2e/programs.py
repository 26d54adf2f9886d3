"""Random programs as a worker of its own: the same trees as `tests/sdk/test_random_programs.py`
plays against a small engine, with steps that leave marks and waits that are short enough for real
time. `expected_marks` is the model of the side effects; of the result it is `expected`, there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

from engine.sdk import (
    Context,
    RetryPolicy,
    StateConflict,
    StepContext,
    StepError,
    function,
    workflow,
)
from tests.e2e.marks import leave_mark

Program = list[Any]

RETRY: Final = RetryPolicy(attempts_max=3, initial_ms=20, jitter=0)
SIGNAL_VALUE: Final = 7


def expected_marks(program: Program) -> Counter[str]:
    """How many steps of which name are done; the tries of one step count once. Whether the loser
    of a race was begun is left to chance."""
    total: Counter[str] = Counter()
    for kind, rest in program:
        match kind:
            case "step":
                total["double"] += 1
            case "map":
                total["double"] += rest
            case "flaky" | "fails":
                total[kind] += 1
            case "parallel" | "gather" | "tasks" | "child":
                for part in rest:
                    total += expected_marks(part)
    return total


def expected_counts(program: Program) -> Counter[str]:
    """What the program adds to each of the counters that all runs share."""
    total: Counter[str] = Counter()
    for kind, rest in program:
        if kind == "shared":
            total[f"count-{rest}"] += rest
        elif kind in ("parallel", "gather", "tasks", "child"):
            for part in rest:
                total += expected_counts(part)
    return total


def signals_wanted(program: Program) -> int:
    """By the run itself, without its children."""
    return sum(
        1 if kind == "signal" else sum(map(signals_wanted, rest))
        for kind, rest in program
        if kind in ("signal", "parallel", "gather", "tasks")
    )


@function
def double(ctx: StepContext, x: int) -> int:
    leave_mark(ctx)
    return 2 * x


@function
async def raced(x: int) -> int:
    return 2 * x


@function
def flaky(ctx: StepContext, x: int) -> int:
    leave_mark(ctx)
    if ctx.attempt < 3:
        raise OSError("not yet")
    return 2 * x


@function
async def fails(ctx: StepContext, x: int) -> None:
    leave_mark(ctx)
    raise ValueError(str(x))


async def add_shared(ctx: Context, amount: int) -> None:
    """Read, and write on condition that nobody else has written, until it comes out."""
    name = f"count-{amount}"
    while True:
        count, revision = await ctx.state.read(name, 0, scope="global")
        try:
            await ctx.state.set(name, count + amount, scope="global", if_revision=revision)
        except StateConflict:
            continue
        return


async def perform(ctx: Context, program: Program) -> int:
    total = 0
    for kind, rest in program:
        total += await _perform_one(ctx, kind, rest)
    return total


async def _perform_one(ctx: Context, kind: str, rest: Any) -> int:
    match kind:
        case "step":
            return await ctx.step(double, rest)
        case "flaky":
            return await ctx.step(flaky, rest, retry=RETRY)
        case "fails":
            try:
                await ctx.step(fails, rest)
            except StepError:
                return 100
            return 0
        case "sleep" | "nap":
            await ctx.sleep(rest / 10 if kind == "sleep" else rest / 100)
            return 0
        case "signal":
            value: int = await ctx.signal("go")
            return value
        case "state":
            await ctx.state.set("n", rest)
            return 2 * int(await ctx.state.get("n"))
        case "shared":
            await add_shared(ctx, rest)
            return 0
        case "usage":
            ctx.usage(model="m", tokens_in=rest)
            return 0
        case "draw":
            await ctx.step("odd" if ctx.random() < 0.5 else "even", lambda: None)
            return 0
        case _:
            return await _perform_several(ctx, kind, rest)


async def _perform_several(ctx: Context, kind: str, rest: Any) -> int:
    match kind:
        case "map":
            return sum(await ctx.map(double, range(rest), limit=2))
        case "race":
            step, sleep = ctx.step(raced, rest), ctx.sleep(rest / 50)
            tasks = [asyncio.ensure_future(step), asyncio.ensure_future(sleep)]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            return len(done)
        case "parallel":
            return sum(await ctx.parallel(*(perform(ctx, part) for part in rest)))
        case "gather":
            named = {f"branch{at}": perform(ctx, part) for at, part in enumerate(rest)}
            return sum((await ctx.gather(**named)).values())
        case "tasks":
            return sum(await asyncio.gather(*(perform(ctx, part) for part in rest)))
        case "child":
            result: int = await ctx.call(program_run, rest[0])
            return result
    raise AssertionError(kind)


@workflow
async def program_run(ctx: Context, program: list[Any]) -> int:
    return await perform(ctx, program)


@workflow
async def shared_counts(ctx: Context, names: list[str]) -> dict[str, int]:
    """What the shared counters say."""
    return {name: await ctx.state.get(name, scope="global") for name in names}
