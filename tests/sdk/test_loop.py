"""The loop on which a workflow's code runs: asyncio's tools work, the world is out of reach."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from engine.sdk.errors import NotInWorkflow
from engine.sdk.replay.loop import ScriptLoop
from tests.sdk.on_asyncio import on_asyncio


class Script:
    def __init__(self) -> None:
        self.woken = 0
        self.now_s = 0.0
        self.loop = ScriptLoop(self._wake, lambda: self.now_s)  # type: ignore[abstract]

    def _wake(self) -> None:
        self.woken += 1

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine)
        self.loop.run()
        return task


def test_it_runs_until_all_of_the_code_waits() -> None:
    script = Script()
    future = script.loop.create_future()
    log: list[str] = []

    async def branch(name: str) -> str:
        log.append(f"{name} begins")
        await asyncio.sleep(0)
        log.append(f"{name} goes on")
        value: str = await future
        return f"{name} has {value}"

    async def code() -> list[str]:
        return await asyncio.gather(branch("a"), branch("b"))

    task = script.run(code())
    assert log == ["a begins", "b begins", "a goes on", "b goes on"]
    assert script.loop.is_idle
    future.set_result("it")
    script.loop.run()
    assert task.result() == ["a has it", "b has it"]


def test_the_order_is_always_the_same() -> None:
    def order() -> list[int]:
        script, log = Script(), list[int]()

        async def branch(number: int) -> None:
            for _ in range(number % 3):
                await asyncio.sleep(0)
            log.append(number)

        async def code() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(branch(number))

        script.run(code())
        return log

    assert order() == order()


def test_something_from_outside_wakes_it() -> None:
    script = Script()
    future = script.loop.create_future()

    async def code() -> Any:
        return await future

    task = script.run(code())
    woken = script.woken
    future.set_result(1)
    assert script.woken == woken + 1
    script.loop.run()
    assert task.result() == 1


def test_it_runs_inside_another_loop_and_leaves_it_as_it_was() -> None:
    async def code() -> bool:
        return asyncio.get_running_loop() is script.loop

    script = Script()

    async def outer() -> None:
        assert script.run(code()).result()
        assert asyncio.get_running_loop() is not script.loop

    on_asyncio(outer)


def test_time_stands_still_while_the_code_runs() -> None:
    script = Script()
    script.now_s = 12.5
    assert script.loop.time() == 12.5


@pytest.mark.parametrize(
    "call",
    [
        lambda loop: loop.call_later(1, print),
        lambda loop: loop.call_at(1, print),
        lambda loop: loop.call_soon_threadsafe(print),
        lambda loop: loop.run_in_executor(None, print),
        lambda loop: loop.create_connection(None),
        lambda loop: loop.add_signal_handler(2, print),
        lambda loop: loop.subprocess_exec(None),
        lambda loop: loop.stop(),
    ],
)
def test_what_reaches_outside_is_refused(call: Any) -> None:
    with pytest.raises(NotInWorkflow, match="workflow cannot"):
        call(Script().loop)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_code_that_wants_to_end_the_process_ends_itself(error: BaseException) -> None:
    async def code() -> None:
        raise error

    task = Script().run(code())
    assert task.done()


def test_abandoned_code_is_closed_where_it_stands() -> None:
    log: list[str] = []

    async def code() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("closed")

    script = Script()
    task = script.run(code())
    script.loop.abandon()
    assert log == ["closed"]
    assert not task.done()
    script.loop.call_soon(log.append, "never")
    script.loop.run()
    assert log == ["closed"]


def test_abandoned_code_may_misbehave() -> None:
    async def code() -> None:
        future = asyncio.get_running_loop().create_future()
        try:
            await future
        except GeneratorExit:
            await future

    async def raises() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise ValueError("out of spite")

    script = Script()
    script.run(code())
    script.run(raises())
    script.loop.abandon()


def test_tasks_that_are_done_are_forgotten() -> None:
    async def quick() -> None: ...

    script = Script()
    for _ in range(1_000):
        script.run(quick())
    assert len(script.loop._tasks) < 200
