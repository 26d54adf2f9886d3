"""What code says while it runs (logs, usage, events), and what a worker says when it may not."""

from __future__ import annotations

import asyncio
import logging

import pytest

from engine.ext import frames
from engine.model.payloads import UsageReported
from engine.model.worker_frames import Registered
from engine.sdk import Context, RetryPolicy, StepContext, Worker, function, limits, workflow
from engine.sdk.worker import worker as worker_module
from engine.wire import worker as wire
from tests.sdk.bench_host import BenchWorker
from tests.sdk.fake_engine import FakeEngine
from tests.sdk.on_asyncio import on_asyncio


@function
def talks(ctx: StepContext) -> int:
    ctx.logger.warning("in try %d", ctx.attempt)
    ctx.usage(model="m", tokens_in=ctx.attempt)
    if ctx.attempt == 1:
        raise OSError("once")
    return ctx.attempt


@workflow
async def chatty(ctx: Context) -> list[bool]:
    ctx.logger.warning("begins")
    replaying = [ctx.is_replaying]
    await ctx.step(talks, retry=RetryPolicy(initial_ms=0))
    ctx.logger.warning("goes on")
    await ctx.sleep(60)
    replaying.append(ctx.is_replaying)
    ctx.logger.warning("ends")
    return replaying


def test_each_line_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    worker = BenchWorker(FakeEngine(), [talks, chatty])
    with caplog.at_level(logging.WARNING, "engine.run"):
        run = worker.run(chatty)
        worker.engine.advance(1)
        worker.settle()
        worker.crash()
        worker.settle()
        worker.engine.advance(60)
        worker.settle()
    assert run.result() == [True, False]
    said = [record.message.partition("] ")[2] for record in caplog.records]
    assert said == ["begins", "in try 1", "in try 2", "goes on", "ends"]
    assert all(record.component == "chatty" for record in caplog.records)  # type: ignore[attr-defined]


def test_a_try_that_failed_has_consumed_as_well() -> None:
    worker = BenchWorker(FakeEngine(), [talks, chatty])
    run = worker.run(chatty)
    worker.engine.advance(1)
    worker.settle()
    assert [usage.tokens_in for usage in run.of(UsageReported)] == [1, 2]


def test_large_results_are_reported_one_by_one() -> None:
    @function
    def large(x: int) -> str:
        return str(x) * 600_000

    @workflow
    async def several(ctx: Context) -> int:
        return len(await ctx.map(large, range(4)))

    worker = BenchWorker(FakeEngine(), [large, several])
    worker.host.holds_jobs = True
    run = worker.run(several)
    while worker.host.jobs:
        worker.host.finish()
    worker.settle()
    assert run.result() == 4
    assert run.reports >= 4
    assert limits.report_bytes_max < 2 * 600_000


class DeafConnection:
    """In the place of a stream: gives messages for ever and takes none until it is let."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.given = 0
        self.is_stuck = asyncio.Event()
        self.listens = asyncio.Event()
        self.enough = asyncio.Event()

    async def __aenter__(self) -> DeafConnection:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def receive(self) -> bytes:
        await asyncio.sleep(0)
        self.given += 1
        if self.given == 1:
            frame = wire.encode_engine_frame(Registered(worker_id="w", heartbeat_ms=60_000))
            return bytes(frames.pack_frames([frame]))
        if self.given > 2_000:
            self.enough.set()
            await asyncio.Event().wait()
        self.engine.start("speak", self.given)
        message = self.engine.take()
        assert message is not None
        return message

    async def send(self, message: bytes) -> None:
        if self.given > 1:
            self.is_stuck.set()
            await self.listens.wait()

    async def end(self) -> None: ...


@function
async def speak(number: int) -> str:
    return "x" * 10_000


def test_an_engine_that_takes_no_answers_gets_no_ear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "outgoing_bytes_pause", 200_000)

    async def test() -> None:
        connection = DeafConnection(FakeEngine())
        monkeypatch.setattr(worker_module, "Connection", lambda *_: connection)
        serving = asyncio.create_task(Worker("speaker", [speak]).serve())
        await connection.is_stuck.wait()
        for _ in range(10_000):
            await asyncio.sleep(0)
        assert connection.given < 200, "it has stopped reading"
        connection.listens.set()
        await connection.enough.wait()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    on_asyncio(test)
