"""What the workers of the tests of shared state and of kinds serve: one component of each kind."""

from __future__ import annotations

from typing import Any

from engine.sdk import (
    Context,
    StateConflict,
    agent,
    entity,
    function,
    scorer,
    tool,
    workflow,
)


@function
def ponder(number: int) -> int:
    """Time for another run to come in between."""
    return number


@workflow
async def count_up(ctx: Context, times: int) -> list[int]:
    """Adds one to the project's counter, so many times; every number that it made."""
    made = []
    while len(made) < times:
        count, revision = await ctx.state.read("count", 0, scope="global")
        await ctx.step(ponder, count)
        try:
            await ctx.state.set("count", count + 1, scope="global", if_revision=revision)
        except StateConflict:
            continue
        made.append(count + 1)
    return made


@workflow
async def counted(ctx: Context) -> list[Any]:
    return list(await ctx.state.read("count", 0, scope="global"))


@workflow
async def remember(ctx: Context, name: str) -> str:
    """What the session was told before, and from now on this."""
    before = await ctx.state.get("name", "nobody", scope="session")
    await ctx.state.set("name", name, scope="session")
    return str(before)


@entity
async def account(ctx: Context, amount: int) -> int:
    balance = await ctx.state.get("balance", 0)
    await ctx.step(ponder, balance)
    await ctx.state.set("balance", balance + amount)
    return int(balance) + amount


@workflow
async def pay(ctx: Context, people: list[str], amount: int) -> list[int]:
    return await ctx.parallel(*(ctx.call(account.of(person), amount) for person in people))


@function
def add(a: int, b: int) -> int:
    return a + b


@tool
def look_up(word: str) -> str:
    return f"{word}: a word"


@scorer
def grade(answer: str, wanted: str) -> float:
    return float(answer == wanted)


@agent
async def decide(ctx: Context, question: str) -> dict[str, Any]:
    """Asks a tool, and has somebody judge what it said."""
    found = await ctx.step(look_up, question)
    return {"found": found, "score": await ctx.call(grade, answer=found, wanted=found)}
