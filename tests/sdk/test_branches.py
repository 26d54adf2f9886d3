"""Several things at once in a workflow: by ctx and by asyncio's own means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from engine.model.payloads import StepCompleted
from engine.model.runs import RunStatus
from engine.sdk import Context, StepError, function, workflow
from engine.sdk.replay.paths import position_of
from tests.sdk.bench_host import BenchWorker
from tests.sdk.fake_engine import FakeEngine, FakeRun


@function
async def double(x: int) -> int:
    return 2 * x


@function
async def fail(message: str) -> None:
    raise ValueError(message)


def of(body: Callable[..., Any], *, holds_jobs: bool = False) -> tuple[BenchWorker, FakeRun]:
    worker = BenchWorker(FakeEngine(), [workflow(name="flow")(body), double, fail])
    worker.host.holds_jobs = holds_jobs
    return worker, worker.run("flow")


async def two_steps(ctx: Context, x: int) -> int:
    return await ctx.step(double, await ctx.step(double, x))


# ---- by ctx ----


def test_parallel_gives_results_in_order() -> None:
    async def flow(ctx: Context) -> list[int]:
        return await ctx.parallel(ctx.step(double, 1), two_steps(ctx, 1), ctx.step(double, 3))

    worker, run = of(flow, holds_jobs=True)
    worker.host.finish(2)
    worker.settle()
    worker.host.finish(1)
    worker.settle()
    worker.host.finish(0)
    worker.settle()
    worker.host.finish(0)
    worker.settle()
    assert run.result() == [2, 4, 6]
    assert [step.position for step in run.of(StepCompleted)] == [
        position_of(1, 1),
        2,
        1,
        position_of(1, 2),
    ]


def test_gather_by_name() -> None:
    async def flow(ctx: Context) -> dict[str, int]:
        assert await ctx.gather(ctx.step(double, 1), ctx.step(double, 2)) == [2, 4]
        assert await ctx.gather() == []
        return await ctx.gather(a=ctx.step(double, 1), b=two_steps(ctx, 1))

    _, run = of(flow)
    assert run.result() == {"a": 2, "b": 4}


def test_gather_takes_order_or_names() -> None:
    async def flow(ctx: Context) -> None:
        await ctx.gather(ctx.step(double, 1), a=ctx.step(double, 1))  # type: ignore[call-overload]

    _, run = of(flow)
    assert run.error is not None
    assert "in order or by name, not both" in run.error.message


def test_map_is_a_step_for_each() -> None:
    async def flow(ctx: Context) -> list[list[int]]:
        return [
            await ctx.map(double, range(5)),
            await ctx.map("double", [7], limit=3),
            await ctx.map(double, []),
        ]

    _, run = of(flow)
    assert run.result() == [[0, 2, 4, 6, 8], [14], []]


def test_map_with_a_limit_runs_so_many_at_a_time() -> None:
    async def flow(ctx: Context) -> list[int]:
        return await ctx.map(double, range(6), limit=2)

    worker, run = of(flow, holds_jobs=True)
    seen = []
    while worker.host.jobs:
        seen.append(len(worker.host.jobs))
        worker.host.finish(len(worker.host.jobs) - 1)
        worker.settle()
    assert run.result() == [0, 2, 4, 6, 8, 10]
    assert max(seen) == 2
    assert len(seen) == 6


def test_map_refuses_a_limit_of_nothing() -> None:
    async def flow(ctx: Context) -> None:
        await ctx.map(double, [1], limit=0)

    _, run = of(flow)
    assert run.error is not None
    assert "at least one at a time" in run.error.message


@pytest.mark.parametrize("how", ["parallel", "gather", "map", "map with a limit"])
def test_the_first_failure_is_raised_and_the_others_are_given_up(how: str) -> None:
    stopped = []

    async def slow(ctx: Context) -> None:
        try:
            await ctx.sleep(1_000)
        finally:
            stopped.append("slow")

    async def flow(ctx: Context) -> str:
        try:
            if how == "parallel":
                await ctx.parallel(slow(ctx), ctx.step(fail, "no"), ctx.signal("never"))
            elif how == "gather":
                await ctx.gather(a=slow(ctx), b=ctx.step(fail, "no"))
            else:
                await ctx.map(fail, ["no", "no"], limit=1 if "limit" in how else None)
        except StepError as error:
            return error.message
        return "nothing was raised"

    _, run = of(flow)
    assert run.result() == "no"
    assert stopped == (["slow"] if how in ("parallel", "gather") else [])
    assert run.kinds().count("STEP_FAILED") == 1


@pytest.mark.parametrize("limit", [None, 2])
def test_failures_as_results(limit: int | None) -> None:
    async def flow(ctx: Context) -> list[Any]:
        results = await ctx.map(lambda x: 1 // x, [1, 0, -1], limit=limit, return_exceptions=True)
        return [str(result.type) if isinstance(result, StepError) else result for result in results]

    _, run = of(flow)
    assert run.result() == [1, "ZeroDivisionError", -1]


def test_a_running_step_of_a_branch_that_is_given_up_is_stopped() -> None:
    async def flow(ctx: Context) -> str:
        try:
            await ctx.parallel(ctx.step(fail, "no"), ctx.step("slow", lambda: 1))
        except StepError:
            return "gave up"
        return ""

    worker, run = of(flow, holds_jobs=True)
    slow, _ = worker.host.jobs[1]
    worker.host.finish(0)
    worker.settle()
    assert slow.is_stopped
    assert run.result() == "gave up"
    assert run.kinds().count("STEP_COMPLETED") == 0


# ---- by asyncio ----


def test_asyncio_gather_over_operations_and_coroutines() -> None:
    async def flow(ctx: Context) -> list[Any]:
        operations = await asyncio.gather(ctx.step(double, 1), ctx.step(double, 2))
        nested = await asyncio.gather(two_steps(ctx, 1), asyncio.gather(two_steps(ctx, 2)))
        failed = await asyncio.gather(ctx.step(fail, "no"), return_exceptions=True)
        return [*operations, *nested, str(failed[0])]

    _, run = of(flow)
    assert run.result() == [2, 4, 4, [8], "step 'fail' failed: ValueError: no"]


def test_asyncio_tasks_groups_waits_and_queues() -> None:
    async def flow(ctx: Context) -> list[Any]:
        task = asyncio.create_task(ctx.step(double, 1))
        async with asyncio.TaskGroup() as group:
            first = group.create_task(two_steps(ctx, 1))
            second = group.create_task(ctx.step(double, 3))
        done, pending = await asyncio.wait(
            [asyncio.create_task(ctx.step(double, 4)), asyncio.create_task(ctx.signal("never"))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        for one in pending:
            one.cancel()
        queue: asyncio.Queue[int] = asyncio.Queue()
        queue.put_nowait(await task)
        await asyncio.sleep(0)
        return [first.result(), second.result(), done.pop().result(), await queue.get()]

    _, run = of(flow)
    assert run.status is RunStatus.COMPLETED, run.error
    assert run.result() == [4, 6, 8, 2]


def test_a_task_group_that_fails_gives_up_its_other_branches() -> None:
    async def flow(ctx: Context) -> str:
        said = ""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.step(fail, "no"))
                group.create_task(ctx.sleep(1_000))
        except* StepError as failures:
            said = str(failures.exceptions[0])
        return said

    _, run = of(flow)
    assert run.result() == "step 'fail' failed: ValueError: no"


def test_an_operation_can_be_awaited_twice_and_by_two() -> None:
    async def flow(ctx: Context) -> list[int]:
        step = ctx.step(double, 1)

        async def waits() -> int:
            return await step

        both = await asyncio.gather(waits(), waits())
        return [*both, await step]

    _, run = of(flow)
    assert run.result() == [2, 2, 2]
    assert run.kinds().count("STEP_COMPLETED") == 1


def test_an_operation_is_under_way_before_it_is_awaited() -> None:
    async def flow(ctx: Context) -> list[int]:
        first, second = ctx.step(double, 1), ctx.step(double, 2)
        return [await first, await second]

    worker, run = of(flow, holds_jobs=True)
    assert len(worker.host.jobs) == 2
    worker.host.finish()
    worker.host.finish()
    worker.settle()
    assert run.result() == [2, 4]


@pytest.mark.parametrize(
    ("does", "words"),
    [
        (lambda ctx: asyncio.sleep(1), "use `await ctx.sleep(seconds)`"),
        (lambda ctx: asyncio.wait_for(ctx.signal("x"), 1), "cannot wait by asyncio's clock"),
        (lambda ctx: asyncio.to_thread(print), "cannot reach the outside world itself"),
        (lambda ctx: asyncio.open_connection("localhost", 1), "await ctx.step(function, ...)"),
    ],
)
def test_the_outside_world_is_refused_with_what_to_use(
    does: Callable[[Context], Any], words: str
) -> None:
    async def flow(ctx: Context) -> None:
        await does(ctx)

    _, run = of(flow)
    assert run.error is not None
    assert words in run.error.message.replace("Use", "use")
    assert run.error.code == "not_in_workflow"
    assert run.error.non_retryable


def test_an_operation_inside_a_step_is_refused() -> None:
    async def flow(ctx: Context) -> None:
        async def inside() -> None:
            await ctx.step(double, 1)

        await ctx.step(inside)

    _, run = of(flow)
    assert run.error is not None
    assert "step 'double' was asked for outside of the workflow's own code" in run.error.message


def test_waiting_for_what_cannot_come_fails_with_advice() -> None:
    async def flow(ctx: Context) -> None:
        await asyncio.Event().wait()

    _, run = of(flow)
    assert run.error is not None
    assert run.error.code == "workflow_stuck"


def test_a_branch_that_nobody_waits_for_ends_with_the_run() -> None:
    ended = []

    async def flow(ctx: Context) -> int:
        async def forever() -> None:
            try:
                await ctx.sleep(1_000)
            finally:
                ended.append(True)

        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        assert not task.done()
        return await ctx.step(double, 1)

    worker, run = of(flow)
    assert run.result() == 2
    assert ended == [True]
    assert worker.session.runs_held == 0
