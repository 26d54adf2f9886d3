"""What the workers of these tests serve. Steps leave a line in a file, so that it can be counted
how often each was really done."""

from __future__ import annotations

import os

from engine.sdk import Context, function, workflow


@function
def mark(run: str, number: int) -> int:
    with open(os.environ["E2E_MARKS"], "a") as marks:
        marks.write(f"{run} {number}\n")
    return number


@workflow
async def tally(ctx: Context, count: int) -> int:
    """Adds up what its steps return."""
    total = 0
    for number in range(count):
        total += await ctx.step(mark, str(ctx.run_id), number)
    return total


@workflow
async def family(ctx: Context, children: int) -> int:
    """Sleeps a little, then adds up what its children say."""
    await ctx.sleep(0.05)
    totals = [await ctx.call(tally, count) for count in range(1, children + 1)]
    return sum(totals)


@workflow
async def patient(ctx: Context, name: str) -> int:
    """Waits for two signals, a step between them."""
    first = await ctx.signal("go")
    await ctx.step(mark, str(ctx.run_id), 0)
    second = await ctx.signal("go")
    return first + second
