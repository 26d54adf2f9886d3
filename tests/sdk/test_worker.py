"""A worker over a real stream: it registers, runs, comes back, drains and leaves."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import engine
from engine.base.errors import (
    DuplicateComponent,
    InvalidEndpoint,
    RateLimited,
    StaleFence,
)
from engine.model.payloads import StepFailed
from engine.model.worker_frames import Draining, Refused
from engine.sdk import Context, StepContext, StepError, Worker, function, limits, workflow
from engine.sdk.worker.transport import parse_endpoint
from tests.sdk.fake_coordinator import FakeCoordinator, coordinating
from tests.sdk.on_asyncio import Warnings, on_asyncio

running = threading.Event()
flavor: contextvars.ContextVar[str] = contextvars.ContextVar("flavor", default="none")


@function
async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


@function
def in_a_thread(ctx: StepContext, x: int) -> str:
    ctx.emit("progress.update", x)
    return threading.current_thread().name


@function
async def forever() -> None:
    running.set()
    await asyncio.Event().wait()


@workflow
async def twice(ctx: Context, x: int) -> int:
    return await ctx.step(double, await ctx.step(double, x))


@workflow
async def patient(ctx: Context) -> str:
    await ctx.step(double, 1)
    await ctx.step(forever)
    return "never"


@workflow
async def body(ctx: Context, name: str) -> Any:
    return await bodies[name](ctx)


bodies: dict[str, Callable[[Context], Awaitable[Any]]] = {}
COMPONENTS = [double, in_a_thread, forever, twice, patient, body]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "reconnect_ms_initial", 1)
    running.clear()
    bodies.clear()


@asynccontextmanager
async def at_work(**options: Any) -> AsyncIterator[tuple[FakeCoordinator, Worker]]:
    async with coordinating() as coordinator:
        worker = Worker("shop", COMPONENTS, endpoint=coordinator.address, **options)
        serving = asyncio.create_task(worker.serve())
        try:
            await coordinator.until(lambda: worker.is_connected)
            yield coordinator, worker
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def test_it_says_who_it_is() -> None:
    async def test() -> None:
        async with at_work(token="secret", deployment_id="blue", capacity=7) as (
            coordinator,
            worker,
        ):
            register = coordinator.engine.registers[0]
            assert (register.service_name, register.token) == ("shop", "secret")
            assert (register.deployment_id, register.capacity) == ("blue", 7)
            assert register.sdk_version == engine.__version__
            assert register.worker_id == worker.worker_id
            assert worker.worker_id.startswith("shop-")
            assert [one.name for one in register.components] == [one.name for one in COMPONENTS]

    on_asyncio(test)


def test_it_runs_workflows_and_functions() -> None:
    async def test() -> None:
        async with at_work() as (coordinator, _):
            assert (await coordinator.run("twice", 5)).result() == 20
            assert (await coordinator.run("double", 5)).result() == 10
            assert (await coordinator.run("in_a_thread", 1)).result().startswith("engine-step")
            assert coordinator.engine.emitted == [("progress.update", 1)]

    on_asyncio(test)


def test_many_runs_at_once() -> None:
    async def test() -> None:
        async with at_work() as (coordinator, worker):
            runs = [coordinator.engine.start("twice", number) for number in range(200)]
            await coordinator.poke()
            await coordinator.until(lambda: all(run.status.is_terminal for run in runs))
            assert [run.result() for run in runs] == [4 * number for number in range(200)]
            await coordinator.until(lambda: worker.runs_held == 0)

    on_asyncio(test)


def test_it_beats_while_nothing_else_happens() -> None:
    async def test() -> None:
        async with at_work() as (coordinator, _):
            await coordinator.until(lambda: coordinator.engine.heartbeats >= 3)

    on_asyncio(test)


@pytest.mark.parametrize("how", ["cut", "draining"])
def test_it_comes_back_and_goes_on(how: str) -> None:
    async def test() -> None:
        async with at_work() as (coordinator, worker):
            run = coordinator.engine.start("patient")
            await coordinator.poke()
            await coordinator.until(lambda: "STEP_COMPLETED" in run.kinds() and running.is_set())
            if how == "draining":
                await coordinator.send(Draining(reason="upgrade"))
            coordinator.cut()
            await coordinator.until(lambda: run.epoch == 2 and worker.is_connected)
            assert coordinator.connections == 2
            assert run.kinds().count("STEP_COMPLETED") == 1, "what is recorded is not run again"
            same = {register.worker_id for register in coordinator.engine.registers}
            assert same == {worker.worker_id}, "so that the engine knows it again"

    on_asyncio(test)


def test_an_engine_that_is_not_there_yet_is_waited_for() -> None:
    async def test() -> None:
        async with coordinating() as gone:
            address = gone.address
        worker = Worker("shop", COMPONENTS, endpoint=address)
        with Warnings() as warnings:
            serving = asyncio.create_task(worker.serve())
            await warnings.until(3)
        assert "cannot be reached" in warnings.messages[0]
        assert not serving.done()
        worker.drain()
        await serving

    on_asyncio(test)


def test_an_engine_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "register_timeout_s", 0.05)

    async def test() -> None:
        async with coordinating() as coordinator:
            coordinator.is_mute = True
            worker = Worker("shop", COMPONENTS, endpoint=coordinator.address)
            serving = asyncio.create_task(worker.serve())
            await coordinator.until(lambda: coordinator.connections >= 2)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    on_asyncio(test)


# ---- refusals ----


@pytest.mark.parametrize(
    ("code", "error_type"),
    [("duplicate_component", DuplicateComponent), ("stale_fence", StaleFence)],
)
def test_a_refusal_that_waiting_does_not_help_ends_it(code: str, error_type: type) -> None:
    async def test() -> None:
        async with coordinating() as coordinator:
            coordinator.refuses = Refused(code=code, message="change this", fatal=True)
            worker = Worker("shop", COMPONENTS, endpoint=coordinator.address)
            with pytest.raises(error_type, match="change this"):
                await worker.serve()

    on_asyncio(test)


def test_another_refusal_is_waited_out() -> None:
    async def test() -> None:
        async with coordinating() as coordinator:
            coordinator.refuses = Refused(code=RateLimited.code, message="later", fatal=True)
            worker = Worker("shop", COMPONENTS, endpoint=coordinator.address)
            serving = asyncio.create_task(worker.serve())
            await coordinator.until(lambda: coordinator.connections >= 2)
            coordinator.refuses = None
            await coordinator.until(lambda: worker.is_connected)
            worker.drain()
            await serving

    on_asyncio(test)


# ---- leaving ----


def test_draining_finishes_what_is_here() -> None:
    async def test() -> None:
        async with coordinating() as coordinator:
            worker = Worker("shop", COMPONENTS, endpoint=coordinator.address)
            serving = asyncio.create_task(worker.serve())
            release = asyncio.Event()

            async def wait(ctx: Context) -> str:
                async def step() -> str:
                    running.set()
                    await release.wait()
                    return "finished"

                return await ctx.step(step)

            bodies["wait"] = wait
            await coordinator.until(lambda: worker.is_connected)
            run = coordinator.engine.start("body", "wait")
            await coordinator.poke()
            await coordinator.until(running.is_set)
            worker.drain()
            await coordinator.until(lambda: coordinator.engine.drained)
            assert not serving.done()
            release.set()
            await serving
            assert run.result() == "finished"

    on_asyncio(test)


def test_the_second_request_to_leave_leaves_at_once() -> None:
    async def test() -> None:
        async with at_work() as (coordinator, worker):
            run = coordinator.engine.start("patient")
            await coordinator.poke()
            await coordinator.until(running.is_set)
            worker.drain()
            await coordinator.until(lambda: coordinator.engine.drained)
            worker.drain()
            await coordinator.until(lambda: not run.held)
            assert not worker.is_connected

    on_asyncio(test)


def test_what_does_not_finish_in_time_is_left_to_others() -> None:
    async def test() -> None:
        async with at_work(drain_timeout=0.05) as (coordinator, worker):
            run = coordinator.engine.start("patient")
            await coordinator.poke()
            await coordinator.until(running.is_set)
            worker.drain()
            await coordinator.until(lambda: not run.held)

    on_asyncio(test)


# ---- functions on asyncio and in threads ----


def result_of(made: Callable[[Context], Awaitable[Any]]) -> Any:
    """What a workflow with this body returns, on a real loop."""
    results = []

    async def test() -> None:
        bodies["made"] = made
        async with at_work() as (coordinator, _):
            run = await coordinator.run("body", "made")
            results.append(run.result())
            results.append([one.error.code for one in run.of(StepFailed)])

    on_asyncio(test)
    return results


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_try_that_takes_too_long(in_thread: bool) -> None:
    release = threading.Event()

    async def waits() -> None:
        await asyncio.Event().wait()

    async def made(ctx: Context) -> str:
        try:
            await ctx.step(release.wait if in_thread else waits, timeout=0.02)
        except StepError as error:
            return error.type
        return ""

    result, codes = result_of(made)
    release.set()
    assert (result, codes) == ("StepTimedOut", ["step_timed_out"])


def test_a_timeout_that_the_step_raises_itself_is_its_own() -> None:
    async def gives_up() -> None:
        raise TimeoutError("the bank is slow")

    async def made(ctx: Context) -> str:
        try:
            await ctx.step(gives_up, timeout=10)
        except StepError as error:
            return f"{error.type}: {error.message}"
        return ""

    assert result_of(made)[0] == "TimeoutError: the bank is slow"


def test_a_step_that_cancels_itself_has_failed() -> None:
    async def cancels() -> None:
        raise asyncio.CancelledError

    async def made(ctx: Context) -> str:
        try:
            await ctx.step(cancels)
        except StepError as error:
            return error.type
        return ""

    assert result_of(made)[0] == "CancelledError"


def test_a_branch_that_is_given_up_is_cancelled() -> None:
    log: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async def fails() -> None:
        raise ValueError

    async def made(ctx: Context) -> list[str]:
        try:
            await ctx.parallel(ctx.step(slow), ctx.step(fails))
        except StepError:
            await ctx.step(double, 1)
        return log

    assert result_of(made)[0] == ["cancelled"]


def test_steps_may_use_all_of_asyncio() -> None:
    async def busy() -> list[int]:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.to_thread(lambda n=n: n)) for n in range(3)]
        return [task.result() for task in tasks]

    async def made(ctx: Context) -> list[int]:
        return await ctx.step(busy)

    assert result_of(made)[0] == [0, 1, 2]


# ---- what is wrong from the start ----


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("127.0.0.1:34180", "write http://127.0.0.1:34180"),
        ("engine.example.com", "write http://engine.example.com, or https://"),
        ("grpc://host:1", "write http://host:1"),
        ("", "write http://127.0.0.1:34180"),
        ("http://host:99999999", "Port out of range"),
        ("http://:80", "is not of the form http://HOST:PORT"),
        ("http://host/path", "is not of the form http://HOST:PORT"),
    ],
)
def test_an_endpoint_that_is_not_a_url_shows_the_fix(endpoint: str, words: str) -> None:
    with pytest.raises(InvalidEndpoint) as caught:
        Worker("shop", COMPONENTS, endpoint=endpoint)
    assert words in caught.value.message


def test_endpoints() -> None:
    assert parse_endpoint("http://127.0.0.1:1") == ("127.0.0.1", 1, False)
    assert parse_endpoint("https://host/") == ("host", 34180, True)
    assert parse_endpoint("http://[::1]:5") == ("::1", 5, False)


@pytest.mark.parametrize("wrong", [{"backend": "curio"}, {"capacity": 0}])
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"backend|capacity"):
        Worker("shop", COMPONENTS, **wrong)


def test_sessions_that_end_as_soon_as_they_began_are_further_and_further_apart() -> None:
    async def test() -> None:
        async with at_work() as (coordinator, worker):
            for _ in range(3):
                await coordinator.until(lambda: worker.is_connected)
                coordinator.cut()
                await coordinator.until_soon(lambda: not worker.is_connected)
            assert worker._failures >= 3

    on_asyncio(test)
