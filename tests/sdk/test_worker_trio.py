"""A worker on Trio: functions see Trio and nothing else, workflows are the same as ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from engine.base.errors import DuplicateComponent
from engine.model.payloads import StepFailed
from engine.model.worker_frames import Refused
from engine.sdk import Context, StepContext, StepError, Worker, function, limits, workflow
from tests.sdk.fake_coordinator import FakeCoordinator, coordinating
from tests.sdk.on_asyncio import on_asyncio

running = threading.Event()


@function
async def on_trio(ctx: StepContext, x: int) -> int:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)
    ctx.emit("progress.update", x)
    return 2 * x


@function
def in_a_thread(x: int) -> str:
    return threading.current_thread().name


@function
async def forever() -> None:
    running.set()
    await trio.sleep_forever()


@workflow
async def body(ctx: Context, name: str) -> Any:
    return await bodies[name](ctx)


bodies: dict[str, Callable[[Context], Awaitable[Any]]] = {}
COMPONENTS = [on_trio, in_a_thread, forever, body]

Scene = Callable[[FakeCoordinator, Worker], Awaitable[None]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "reconnect_ms_initial", 1)
    running.clear()
    bodies.clear()


def play(scene: Scene | None, prepare: Callable[[FakeCoordinator], None] = lambda _: None) -> None:
    """The worker on Trio in this thread, the coordinator and the scene on asyncio in another.
    Without a scene, the worker ends by itself."""
    failures: list[BaseException] = []
    made: list[Worker] = []
    is_made, over = threading.Event(), threading.Event()

    async def coordinate() -> None:
        async with coordinating() as coordinator:
            prepare(coordinator)
            made.append(Worker("shop", COMPONENTS, endpoint=coordinator.address, backend="trio"))
            is_made.set()
            try:
                if scene is not None:
                    await scene(coordinator, made[0])
            finally:
                if scene is not None:
                    made[0].drain()
                    made[0].drain()
                await asyncio.to_thread(over.wait)

    def run_coordinator() -> None:
        try:
            on_asyncio(coordinate)
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            failures.append(error)
        finally:
            is_made.set()

    thread = threading.Thread(target=run_coordinator)
    thread.start()
    try:
        is_made.wait()
        trio.run(made[0].serve)
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


async def _connected(coordinator: FakeCoordinator, worker: Worker) -> None:
    await coordinator.until(lambda: worker.is_connected)


def test_it_runs_functions_on_trio_and_in_threads() -> None:
    async def scene(coordinator: FakeCoordinator, worker: Worker) -> None:
        await _connected(coordinator, worker)
        assert (await coordinator.run("on_trio", 5)).result() == 10
        assert "Trio" in (await coordinator.run("in_a_thread", 1)).result()
        assert coordinator.engine.emitted == [("progress.update", 5)]
        await coordinator.until(lambda: coordinator.engine.heartbeats >= 2)

    play(scene)


def test_workflows_are_the_same_as_on_asyncio() -> None:
    async def flow(ctx: Context) -> list[Any]:
        first = await ctx.step(on_trio, 1)
        both = await asyncio.gather(ctx.step(on_trio, 2), ctx.step(on_trio, 3))
        mapped = await ctx.map(on_trio, [4, 5, 6], limit=2)
        named = await ctx.gather(a=ctx.step(in_a_thread, 1))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ctx.step(on_trio, 7))
        return [first, *both, *mapped, "Trio" in named["a"], task.result()]

    async def scene(coordinator: FakeCoordinator, worker: Worker) -> None:
        bodies["flow"] = flow
        await _connected(coordinator, worker)
        run = await coordinator.run("body", "flow")
        assert run.result() == [2, 4, 6, 8, 10, 12, True, 14]

    play(scene)


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_try_that_takes_too_long(in_thread: bool) -> None:
    release = threading.Event()

    async def flow(ctx: Context) -> str:
        try:
            await ctx.step(release.wait if in_thread else trio.sleep_forever, timeout=0.02)
        except StepError as error:
            return error.type
        return ""

    async def scene(coordinator: FakeCoordinator, worker: Worker) -> None:
        bodies["flow"] = flow
        await _connected(coordinator, worker)
        run = await coordinator.run("body", "flow")
        release.set()
        assert run.result() == "StepTimedOut"
        assert [one.error.code for one in run.of(StepFailed)] == ["step_timed_out"]

    play(scene)


def test_a_branch_that_is_given_up_is_cancelled() -> None:
    log: list[str] = []

    async def slow() -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
        finally:
            log.append("cancelled")

    async def fails() -> None:
        raise ValueError("no")

    async def flow(ctx: Context) -> list[str]:
        try:
            await ctx.parallel(ctx.step(slow), ctx.step(fails))
        except StepError as error:
            log.append(error.message)
        await ctx.step(on_trio, 1)
        return log

    async def scene(coordinator: FakeCoordinator, worker: Worker) -> None:
        bodies["flow"] = flow
        await _connected(coordinator, worker)
        run = await coordinator.run("body", "flow")
        assert sorted(run.result()) == ["cancelled", "no"]

    play(scene)


def test_a_workflow_cannot_wait_for_trio_itself() -> None:
    async def flow(ctx: Context) -> None:
        await trio.sleep(0.001)

    async def scene(coordinator: FakeCoordinator, worker: Worker) -> None:
        bodies["flow"] = flow
        await _connected(coordinator, worker)
        run = await coordinator.run("body", "flow")
        assert run.error is not None
        assert run.error.code == "RuntimeError"

    play(scene)


def test_it_comes_back_and_goes_on() -> None:
    async def scene(coordinator: FakeCoordinator, worker: Worker) -> None:
        await _connected(coordinator, worker)
        run = coordinator.engine.start("forever")
        await coordinator.poke()
        await coordinator.until(running.is_set)
        coordinator.cut()
        await coordinator.until(lambda: run.epoch == 2 and worker.is_connected)

    play(scene)


def test_a_refusal_that_waiting_does_not_help_ends_it() -> None:
    def prepare(coordinator: FakeCoordinator) -> None:
        coordinator.refuses = Refused(code="duplicate_component", message="change", fatal=True)

    with pytest.raises(DuplicateComponent, match="change"):
        play(None, prepare)
