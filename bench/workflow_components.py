"""What the worker of `bench.workflows` serves: workflows whose results can be checked."""

from __future__ import annotations

import time

from engine.sdk import Context, function, workflow


@function
async def add_one(number: int) -> int:
    return number + 1


@function
async def fib(number: int) -> int:
    return _fib(number)


def _fib(number: int) -> int:
    return number if number < 2 else _fib(number - 1) + _fib(number - 2)


@function
async def stamp(number: int) -> int:
    return time.perf_counter_ns()


@function
def stamp_in_thread(number: int) -> int:
    return time.perf_counter_ns()


@workflow
async def noop(ctx: Context, number: int) -> int:
    return number


@workflow
async def steps3(ctx: Context, number: int) -> int:
    for _ in range(3):
        number = await ctx.step(add_one, number)
    return number


@workflow
async def steps10(ctx: Context, number: int) -> int:
    for _ in range(10):
        number = await ctx.step(add_one, number)
    return number


@workflow
async def fib40(ctx: Context, number: int) -> int:
    return sum([await ctx.step(fib, number) for _ in range(40)])


@workflow
async def stamps(ctx: Context, count: int) -> list[int]:
    """When each of the steps was run, one behind the other."""
    return [await ctx.step(stamp, i) for i in range(count)]


@workflow
async def stamps_in_threads(ctx: Context, count: int) -> list[int]:
    return [await ctx.step(stamp_in_thread, i) for i in range(count)]


@workflow
async def fanout(ctx: Context, count: int) -> int:
    return sum(await ctx.map(add_one, range(count)))


@workflow
async def children(ctx: Context, count: int) -> int:
    return sum(await ctx.map(noop, range(count)))


@workflow
async def waiting(ctx: Context, number: int) -> int:
    """Until the signal `go` comes; what it carries, and what was given."""
    carried: int = await ctx.signal("go")
    return number + carried
