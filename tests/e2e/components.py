"""What the workers of these tests serve. Every step leaves a mark, so that it can be counted how
often each was really done (`marks.py`)."""

from __future__ import annotations

import asyncio
import os
import time

from engine.sdk import Context, StepContext, function, workflow
from tests.e2e.marks import leave_mark


@function
def mark(ctx: StepContext, number: int) -> int:
    leave_mark(ctx)
    return number


@workflow
async def tally(ctx: Context, count: int) -> int:
    """Adds up what its steps return."""
    total = 0
    for number in range(count):
        total += await ctx.step(mark, number)
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
    first: int = await ctx.signal("go")
    await ctx.step(mark, 0)
    second: int = await ctx.signal("go")
    return first + second


@workflow
async def mixed(ctx: Context, number: int) -> int:
    """One of a crowd: steps, and between them a sleep or a signal, as the number has it."""
    await ctx.step(mark, 1)
    if number % 4 == 0:
        await ctx.sleep(0.2 + number % 10 / 5)
    elif number % 4 == 1:
        await ctx.signal("go")
    await ctx.step(mark, 2)
    if number % 4 == 2:
        await ctx.sleep(0.01)
    return number


@workflow
async def nap(ctx: Context, seconds: float) -> float:
    await ctx.sleep(seconds)
    return seconds


@function
async def take_a_while(number: int) -> int:
    await asyncio.sleep(0.5)
    return number


@function
def stubborn(ctx: StepContext, seconds: float) -> None:
    """Sits in a thread and hears nothing."""
    leave_mark(ctx)
    time.sleep(seconds)


@workflow
async def slow(ctx: Context, number: int) -> int:
    """Has nothing to show for a while."""
    return await ctx.step(take_a_while, number)


@workflow
async def on_cue(ctx: Context, steps: int) -> int:
    """Waits for its cue, then does its steps with a moment between them."""
    await ctx.signal("go")
    for number in range(steps):
        await ctx.step(mark, number)
        await ctx.sleep(0.02)
    return steps


@function
def crash(ctx: StepContext) -> None:
    leave_mark(ctx)
    os._exit(3)


@workflow
async def crashes(ctx: Context, name: str) -> None:
    """Takes its worker down, every time."""
    await ctx.step(crash)
