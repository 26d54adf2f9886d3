"""Random programs: what a run of one does, as a workflow, and what it must return, as a model.

A program is a list of [operation, argument], so that it is a run's input as it stands; its result
is the list of its operations' results.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from engine.sdk import (
    ChildError,
    Context,
    RetryPolicy,
    StateConflict,
    StepContext,
    StepError,
    WaitTimedOut,
    entity,
    function,
    workflow,
)

Program = list[Any]

_STEP_RETRY: Final = RetryPolicy(attempts_max=3, initial_ms=40, jitter=0)
_RUN_RETRY: Final = RetryPolicy(attempts_max=4, initial_ms=300, jitter=0.2)
_SIMPLE: Final = (
    *("step", "step", "step", "flaky", "fails", "sleep", "nap", "signal", "signal"),
    *("maybe", "ask", "state", "count", "usage", "draw", "trips"),
)
_NESTED: Final = ("parallel", "race", "child", "child", "detach", "both", "broken", "entity")

NO_SIGNAL: Final = "nothing came"


def random_program(chance: random.Random, depth: int = 0) -> Program:
    program: Program = []
    for _ in range(chance.randint(1, 4 - depth)):
        kind = chance.choice(_SIMPLE + (_NESTED if depth < 2 else ()))
        if kind in ("parallel", "child", "detach", "both"):
            count = 2 if kind in ("parallel", "both") else 1
            program.append([kind, [random_program(chance, depth + 1) for _ in range(count)]])
        else:
            program.append([kind, chance.randint(1, 4)])
    return program


def mismatch(program: Program, result: Any) -> str | None:
    """What is wrong with a completed run's result, if anything is."""
    if not isinstance(result, list) or len(result) != len(program):
        return f"{program} returned {result}"
    for (kind, rest), value in zip(program, result, strict=True):
        if kind in ("parallel", "both", "child"):
            for part, inner in zip(rest, value, strict=True):
                found = mismatch(part, inner)
                if found is not None:
                    return found
        elif value not in _permitted(kind, rest):
            return f"{kind} {rest} returned {value!r} in {program}"
    return None


def _permitted(kind: str, rest: Any) -> tuple[Any, ...]:
    match kind:
        case "step" | "flaky" | "state":
            return (2 * rest,)
        case "fails" | "broken":
            return (f"failed {rest}",)
        case "signal" | "ask":
            return ("told",)
        case "maybe":
            return ("told", NO_SIGNAL)
        case "race":
            return (1, 2)
        case "count" | "entity":
            return (rest,)
        case _:
            return (None,)


# ---- the same as code ----


@function
def double(ctx: StepContext, x: int) -> int:
    return 2 * x


@function
def flaky(ctx: StepContext, x: int) -> int:
    if ctx.attempt < 3:
        raise OSError("not yet")
    return 2 * x


@function
def fails(ctx: StepContext, x: int) -> None:
    raise ValueError(f"failed {x}")


@workflow(retry=_RUN_RETRY)
async def program_run(ctx: Context, program: list[Any]) -> list[Any]:
    return await perform(ctx, program)


@workflow(retry=RetryPolicy(attempts_max=2, initial_ms=100, jitter=0))
async def broken(ctx: Context, x: int) -> None:
    await ctx.step(double, x)
    raise ValueError(f"failed {x}")


@entity(retry=_RUN_RETRY)
async def tally(ctx: Context, times: int) -> int:
    """One writer at a time: reading and writing back loses nothing."""
    for _ in range(times):
        await ctx.state.set("n", await ctx.state.get("n", 0) + 1)
    return times


COMPONENTS: Final = (double, flaky, fails, program_run, broken, tally)


async def perform(ctx: Context, program: Program) -> list[Any]:
    return [await _perform_one(ctx, kind, rest) for kind, rest in program]


async def _perform_one(ctx: Context, kind: str, rest: Any) -> Any:
    match kind:
        case "step":
            return await ctx.step(double, rest)
        case "flaky":
            return await ctx.step(flaky, rest, retry=_STEP_RETRY)
        case "fails":
            return await _failure_of(ctx.step(fails, rest))
        case "sleep":
            await ctx.sleep(rest)
        case "nap":
            await ctx.sleep(rest / 100)
        case "usage":
            ctx.usage(model="m", tokens_in=rest)
        case "draw":
            await ctx.step("odd" if ctx.random() < 0.5 else "even", lambda: None)
        case "trips":
            await ctx.step(double, rest)
            if ctx.attempt <= min(rest, 2):
                raise RuntimeError("the run has to be tried again")
        case "state":
            await ctx.state.set("n", rest)
            return 2 * int(await ctx.state.get("n"))
        case "signal" | "maybe" | "ask":
            return await _wait(ctx, kind, rest)
        case _:
            return await _perform_several(ctx, kind, rest)
    return None


async def _wait(ctx: Context, kind: str, rest: int) -> Any:
    if kind == "signal":
        return await ctx.signal("go")
    if kind == "ask":
        return await ctx.wait_for_user("may I?")
    try:
        return await ctx.signal("maybe", timeout=rest)
    except WaitTimedOut:
        return NO_SIGNAL


async def _perform_several(ctx: Context, kind: str, rest: Any) -> Any:
    match kind:
        case "parallel":
            return list(await ctx.parallel(*(perform(ctx, part) for part in rest)))
        case "both":
            children = [await ctx.start(program_run, part) for part in rest]
            return [await child.result() for child in children]
        case "child":
            return [await ctx.call(program_run, rest[0])]
        case "detach":
            await ctx.start(program_run, rest[0], detach=True)
        case "broken":
            return await _failure_of(ctx.call(broken, rest))
        case "entity":
            return await ctx.call(tally.of("one"), rest)
        case "count":
            return await _count(ctx, rest)
        case "race":
            return await _race(ctx, rest)
        case _:
            raise AssertionError(kind)
    return None


async def _failure_of(asked: Any) -> str:
    try:
        await asked
    except (StepError, ChildError) as error:
        found = str(error)
        return found[found.find("failed ") :][:8] if "failed " in found else found
    return "it did not fail"


async def _count(ctx: Context, times: int) -> int:
    """Many runs count in one place; whoever comes too late looks again."""
    for _ in range(times):
        while True:
            now, revision = await ctx.state.read("count", 0, scope="global")
            try:
                await ctx.state.set("count", now + 1, scope="global", if_revision=revision)
                break
            except StateConflict:
                continue
    return times


async def _race(ctx: Context, x: int) -> int:
    """The loser is given up, whichever it is."""
    tasks = [asyncio.ensure_future(ctx.step(double, x)), asyncio.ensure_future(ctx.sleep(x / 10))]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return len(done)
