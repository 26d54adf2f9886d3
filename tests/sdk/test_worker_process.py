"""Workers as processes of their own: signals, a connection that freezes, and clean output."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from engine.sdk import Worker, function, limits
from tests.sdk.fake_coordinator import FakeCoordinator, coordinating
from tests.sdk.on_asyncio import Warnings, on_asyncio

# The step ends when a line is written to the worker, and not otherwise.
PROGRAM = """
import sys
from engine.sdk import Context, StepContext, Worker, function, workflow

@workflow
async def slow(ctx: Context, how: str) -> str:
    await ctx.step(how)
    return "finished"

@function
def in_a_thread(ctx: StepContext) -> None:
    ctx.emit("progress.update", "begun")
    sys.stdin.readline()

@function
async def on_the_loop(ctx: StepContext) -> None:
    if "trio" in sys.argv:
        from trio.to_thread import run_sync as in_thread
    else:
        from asyncio import to_thread as in_thread
    ctx.emit("progress.update", "begun")
    await in_thread(sys.stdin.readline)

Worker("slow", endpoint=sys.argv[1], backend=sys.argv[2]).run()
"""


@asynccontextmanager
async def process(
    coordinator: FakeCoordinator, backend: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        coordinator.address,
        backend,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish_and_leave(backend: str, number: signal.Signals) -> None:
    async def test() -> None:
        async with coordinating() as coordinator, process(coordinator, backend) as child:
            run = coordinator.engine.start("slow", "on_the_loop")
            await coordinator.until_soon(lambda: coordinator.engine.emitted)
            child.send_signal(number)
            await coordinator.until(lambda: coordinator.engine.drained)
            out, err = await child.communicate(b"go on\n")
            assert run.result() == "finished"
            assert (child.returncode, out, err) == (0, b"", b"")

    on_asyncio(test)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_second_signal_lets_it_leave_at_once_even_from_a_thread(backend: str) -> None:
    async def test() -> None:
        async with coordinating() as coordinator, process(coordinator, backend) as child:
            run = coordinator.engine.start("slow", "in_a_thread")
            await coordinator.until_soon(lambda: coordinator.engine.emitted)
            child.send_signal(signal.SIGTERM)
            await coordinator.until(lambda: coordinator.engine.drained)
            child.send_signal(signal.SIGTERM)
            await child.wait()
            assert child.returncode == 0
            await coordinator.until(lambda: not run.held)
            assert "STEP_COMPLETED" not in run.kinds()

    on_asyncio(test)


# ---- a connection that is half open ----


class Proxy:
    """Between a worker and its engine; frozen, it keeps connections and moves no byte."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.removeprefix("http://").partition(":")
        self._port = int(port)
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def freeze(self) -> None:
        self._thawed.clear()

    def let_new_ones_through(self) -> None:
        self._thawed = asyncio.Event()
        self._thawed.set()

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = await asyncio.open_connection(self._host, self._port)
        thawed = self._thawed
        for source, target in ((reader, theirs[1]), (theirs[0], writer)):
            self._tasks.add(asyncio.create_task(self._pump(source, target, thawed)))

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, thawed: asyncio.Event
    ) -> None:
        try:
            while data := await source.read(65_536):
                await thawed.wait()
                target.write(data)
                await target.drain()
        except ConnectionError:
            return
        finally:
            target.close()


@function
async def noop() -> None: ...


def test_a_connection_that_is_half_open_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "keepalive_s", 0.05)
    monkeypatch.setattr(limits, "keepalive_timeout_s", 0.05)
    monkeypatch.setattr(limits, "reconnect_ms_initial", 1)

    async def test() -> None:
        async with coordinating() as coordinator:
            proxy = Proxy(coordinator.address)
            worker = Worker("noop", [noop], endpoint=await proxy.start())
            serving = asyncio.create_task(worker.serve())
            await coordinator.until(lambda: worker.is_connected)
            with Warnings() as warnings:
                proxy.freeze()
                await warnings.until(1)
            proxy.let_new_ones_through()
            await coordinator.until_soon(lambda: worker.is_connected)
            assert coordinator.connections >= 2
            worker.drain()
            await serving
            await proxy.close()

    on_asyncio(test)
