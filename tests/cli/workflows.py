"""What the worker of the CLI's tests serves: runs that end well, badly, or wait to be told."""

from __future__ import annotations

from typing import Any, Literal

from engine.sdk import Context, RetryPolicy, function, workflow


@function
def say_hello(name: str) -> str:
    return f"Hello, {name}"


@function
def refuse(why: str) -> None:
    raise ValueError(why)


@workflow
async def greet(ctx: Context, name: str = "you") -> str:
    return await ctx.step(say_hello, name)


@workflow(retry=RetryPolicy(attempts_max=1))
async def fail(ctx: Context, why: str) -> None:
    await ctx.step(refuse, why)


@workflow
async def ask(
    ctx: Context,
    input_type: Literal["text", "approval", "select", "multiselect"],
    options: list[str],
) -> Any:
    return await ctx.wait_for_user("What is it?", input_type=input_type, options=options)


@workflow
async def ask_twice(ctx: Context) -> list[Any]:
    return await ctx.gather(ctx.wait_for_user("First?"), ctx.wait_for_user("Second?"))


@workflow
async def listen(ctx: Context) -> Any:
    return await ctx.signal("go")


@workflow
async def echo(ctx: Context) -> None:
    """Shows what each signal brings, until one brings nothing."""
    while heard := await ctx.signal("say"):
        ctx.emit("output.delta", f"heard {heard}")
        ctx.emit("progress.update", {"heard": heard})
