"""Workflows as users write them: steps and their retries, on a worker without an event loop and a
small engine."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from engine.model.payloads import (
    StepCompleted,
    StepFailed,
)
from engine.model.runs import RunStatus
from engine.sdk import (
    Context,
    NonRetryable,
    RetryPolicy,
    StepContext,
    StepError,
    tool,
    workflow,
)
from tests.sdk.bench_host import BenchWorker
from tests.sdk.fake_engine import FakeEngine
from tests.sdk.flows import double, fail, nothing_ran, of, ran

__all__ = ["nothing_ran"]


# ---- steps ----


def test_steps_one_after_another() -> None:
    async def flow(ctx: Context, n: int) -> int:
        n = await ctx.step(double, n)
        return await ctx.step(double, n)

    _, run = of(flow, 5)
    assert run.result() == 20
    assert run.kinds()[2:] == ["STEP_COMPLETED", "STEP_COMPLETED", "RUN_COMPLETED"]
    assert run.reports == 2, "the last step and the end are one report"
    first = run.of(StepCompleted)[0]
    assert (first.name, first.input, first.output) == ("double", b"[5]", b"10")


def test_what_can_be_a_step() -> None:
    async def flow(ctx: Context) -> list[Any]:
        return [
            await ctx.step(double, 1),
            await ctx.step("double", 2),
            await ctx.step("named", lambda: 3),
            await ctx.step(lambda x: x + 1, 3, key="k"),
            await ctx.step(int, "5"),
        ]

    _, run = of(flow)
    assert run.result() == [2, 4, 3, 4, 5]
    steps = [(step.name, step.key) for step in run.of(StepCompleted)]
    assert steps == [("double", ""), ("double", ""), ("named", ""), ("<lambda>", "k"), ("int", "")]


def test_a_step_gets_a_context_if_it_asks_for_one() -> None:
    async def wants(ctx: StepContext, x: int) -> str:
        return f"{ctx.name} {ctx.key} {x} {ctx.attempt} {ctx.idempotency_key}"

    async def flow(ctx: Context) -> list[str]:
        return [await ctx.step(wants, 1, key="a"), await ctx.step(wants, ctx, 2)]

    _, run = of(flow)
    run_id = uuid.UUID(bytes=run.run_id)
    assert run.result() == [f"wants a 1 1 {run_id}:1", f"wants  2 1 {run_id}:2"]


def test_a_tool_is_counted_as_one() -> None:
    @tool
    def search(text: str) -> str:
        return text

    async def flow(ctx: Context) -> None:
        await ctx.step(search, "x")

    _, run = of(flow)
    assert run.of(StepCompleted)[0].tool


def test_the_code_sees_what_a_replay_would_see() -> None:
    """A tuple is a list in JSON; without the round trip the code would see a tuple once."""

    async def flow(ctx: Context) -> str:
        return type(await ctx.step("pair", lambda: (1, 2))).__name__

    _, run = of(flow)
    assert run.result() == "list"


def test_a_typed_result_is_of_its_type() -> None:
    class Order(msgspec.Struct):
        id: int

    def load() -> Order:
        return Order(7)

    def lies() -> Order:
        return "no order"  # type: ignore[return-value]

    load.__annotations__["return"] = lies.__annotations__["return"] = Order

    async def flow(ctx: Context) -> list[Any]:
        order = await ctx.step(load)
        try:
            await ctx.step(lies)
        except StepError as error:
            return [order.id, error.type, error.message]
        return []

    _, run = of(flow)
    assert run.result()[:2] == [7, "InvalidOutput"]
    assert "the result of step 'lies' is not what its annotation says" in run.result()[2]


def test_a_failed_step_is_raised_with_its_type_and_message() -> None:
    async def flow(ctx: Context) -> list[str]:
        try:
            await ctx.step(fail, "no")
        except StepError as error:
            return [error.step, error.type, error.message, str(error)]
        return []

    _, run = of(flow)
    assert run.result() == ["fail", "ValueError", "no", "step 'fail' failed: ValueError: no"]
    failed = run.of(StepFailed)[0]
    assert "raise ValueError(message)" in failed.error.traceback


def test_a_step_that_nobody_catches_fails_the_run_with_its_error() -> None:
    async def flow(ctx: Context) -> None:
        await ctx.step(fail, "no")

    _, run = of(flow)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error.code, run.error.type) == ("ValueError", "ValueError")
    assert run.error.message == "step 'fail' failed: ValueError: no"
    assert run.kinds()[-2:] == ["STEP_FAILED", "RUN_FAILED"]
    assert run.reports == 1


def test_whatever_a_step_raises_is_its_failure() -> None:
    def leaves() -> None:
        raise SystemExit(3)

    def interrupts() -> None:
        raise KeyboardInterrupt

    async def flow(ctx: Context) -> list[str]:
        failures = await ctx.parallel(
            ctx.step(leaves), ctx.step(interrupts), return_exceptions=True
        )
        return [failure.type for failure in failures]

    _, run = of(flow)
    assert run.result() == ["SystemExit", "KeyboardInterrupt"]


def test_a_result_that_cannot_be_stored_names_the_part() -> None:
    async def flow(ctx: Context) -> None:
        await ctx.step("load", lambda: {"items": [1, {"socket": object()}]})

    _, run = of(flow)
    assert run.error is not None
    assert run.error.code == "not_serializable"
    assert (
        "the result of step 'load' cannot be stored as JSON: $.items[1].socket is of type object"
        in (run.error.message)
    )
    assert run.error.non_retryable


def test_arguments_that_cannot_be_stored_are_named_by_type() -> None:
    async def flow(ctx: Context) -> int:
        return await ctx.step(lambda client, x: x, object(), 2)

    _, run = of(flow)
    assert run.result() == 2
    assert run.of(StepCompleted)[0].input == b'["<object>",2]'


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda ctx: ctx.step(asyncio.sleep(0)), "write ctx.step(sleep, ...)"),
        (lambda ctx: ctx.step(5), "takes a function or a component's name, not 5"),
        (lambda ctx: ctx.sleep(-1), "cannot be waited for"),
        (lambda ctx: ctx.sleep(float("inf")), "has an end"),
        (lambda ctx: ctx.wait_for_user("?", input_type="colour"), "'colour' is not one of text"),
        (lambda ctx: ctx.wait_for_user("?", input_type="select"), "needs options"),
        (lambda ctx: ctx.wait_for_user("?", options=["a"]), "has no options"),
        (lambda ctx: ctx.call(5), "a component or its name, not of 5"),
        (lambda ctx: ctx.call("c", 1, x=2), "not both"),
        (lambda ctx: ctx.emit("run.completed", 1), "begins with output. or progress. or log."),
        (lambda ctx: ctx.emit("log." + "x" * 200, 1), "at most 128 characters"),
        (lambda ctx: ctx.emit("log.\r\rrun.failed", 1), "all printable"),
        (lambda ctx: ctx.emit("log.x", "m" * (256 * 1024)), "at most 262144 are allowed"),
        (lambda ctx: ctx.usage(tokens_in=-1), "not negative"),
        (lambda ctx: ctx.usage(cost_usd=math.nan), "not negative"),
        (lambda ctx: ctx.usage(cost_usd=math.inf), "at most"),
        (lambda ctx: ctx.usage(tokens_out=2**53 + 1), "at most"),
        (lambda ctx: ctx.usage(tool_calls=2**32), "at most"),
        (lambda ctx: ctx.usage(model="m" * 5000), "has at most 4096 characters"),
        (lambda ctx: ctx.step(double, 1, key="k" * 300), "at most 256 characters"),
    ],
)
def test_a_call_that_cannot_be_meant_says_what_to_do(
    wrong: Callable[[Context], Any], words: str
) -> None:
    async def flow(ctx: Context) -> None:
        wrong(ctx)

    _, run = of(flow)
    assert run.error is not None
    assert words in run.error.message


# ---- retries ----


def test_a_step_is_tried_again_by_its_policy() -> None:
    async def flaky(ctx: StepContext) -> int:
        ran.append(ctx.attempt)
        if ctx.attempt < 3:
            raise OSError("not yet")
        return ctx.attempt

    async def flow(ctx: Context) -> int:
        return await ctx.step(flaky, retry=RetryPolicy(attempts_max=5, initial_ms=100, jitter=0))

    worker, run = of(flow)
    assert (ran, run.status) == ([1], RunStatus.RUNNING)
    worker.engine.advance(0.099)
    worker.settle()
    assert ran == [1]
    worker.engine.advance(0.001)
    worker.settle()
    assert ran == [1, 2]
    worker.engine.advance(0.2)
    worker.settle()
    assert run.result() == 3
    tries = [(step.attempt, step.retry_at_ms > 0) for step in run.of(StepFailed)]
    assert tries == [(1, True), (2, True)]


def test_a_policy_that_is_used_up_is_final_for_the_run_as_well() -> None:
    async def flow(ctx: Context) -> None:
        await ctx.step(fail, "no", retry=RetryPolicy(attempts_max=2, initial_ms=0))

    worker, run = of(flow)
    worker.engine.advance(0.001)
    worker.settle()
    assert ran == ["no", "no"]
    assert run.error is not None
    assert run.error.non_retryable


@pytest.mark.parametrize("named", [ValueError, "ValueError"])
def test_what_the_policy_excludes_is_not_tried_again(named: Any) -> None:
    async def flow(ctx: Context) -> None:
        await ctx.step(fail, "no", retry=RetryPolicy(non_retryable=[named]))

    _, run = of(flow)
    assert ran == ["no"]
    assert run.status is RunStatus.FAILED


def test_non_retryable_is_not_tried_again() -> None:
    class Declined(NonRetryable):
        code = "card_declined"

    def charge() -> None:
        raise Declined("no money")

    async def flow(ctx: Context) -> None:
        await ctx.step(charge, retry=RetryPolicy())

    _, run = of(flow)
    assert run.error is not None
    assert (run.error.code, run.error.non_retryable) == ("card_declined", True)


def test_a_run_that_is_tried_again_repeats_only_the_step_that_failed() -> None:
    def unlucky() -> str:
        ran.append("unlucky")
        if ran.count("unlucky") < 2:
            raise OSError("once")
        return "done"

    async def flow(ctx: Context) -> str:
        await ctx.step(double, 1)
        return await ctx.step(unlucky)

    worker = BenchWorker(FakeEngine(), [workflow(name="flow")(flow), double])
    worker.engine.attempts_max = 3
    run = worker.run("flow")
    assert run.result() == "done"
    assert ran == [1, "unlucky", "unlucky"]
    assert run.attempt == 2


def test_a_step_is_recorded_with_the_time_that_it_took() -> None:
    engine = FakeEngine()

    async def slow(x: int) -> int:
        engine.clock.advance_us(x * 1_000)
        if x > 30:
            raise ValueError(x)
        return x

    async def flow(ctx: Context) -> None:
        await ctx.step(slow, 30)
        await ctx.step(slow, 40)

    run = BenchWorker(engine, [workflow(name="flow")(flow)]).run("flow")
    tried = [*run.of(StepCompleted), *run.of(StepFailed)]
    assert [step.finished_ms - step.started_ms for step in tried] == [30, 40]
    assert tried[1].started_ms >= tried[0].finished_ms
