"""Measures how long the event loop is held by something, and a worker that costs nothing itself.

The time is the thread's on its processor, in one step of one task: what others do on the machine
does not count, and what remains of it (two threads share a core) is allowed for. What is measured
is tried again from the start, and the best of a few counts.
"""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from engine.base import limits
from engine.base.clock import Clock, system_clock
from engine.config.settings import JournalSettings
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.runtime.writer.tenant import TenantRuntime
from tests.runtime.worker import ScriptedWorker

# A core of this machine has two threads, and with the other one busy it does half as much.
NOISE = 2
TRIES = 5
ALLOWED_US = NOISE * limits.loop_pass_us_max


class Steps(trio.abc.Instrument):
    """The longest step of any task."""

    def __init__(self) -> None:
        self._begun_ns = time.thread_time_ns()
        self.longest_us = 0
        self.task = ""

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._begun_ns = time.thread_time_ns()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took_us = (time.thread_time_ns() - self._begun_ns) // 1_000
        if took_us > self.longest_us:
            self.longest_us, self.task = took_us, task.name


@asynccontextmanager
async def measured() -> AsyncIterator[Steps]:
    """The steps of the block, and of whatever it leads to until its tenants are quiet."""
    gc.collect()
    gc.disable()  # the runtime freezes what it has loaded; here all of the tests would be looked at
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    try:
        await trio.lowlevel.checkpoint()
        yield steps
        await trio.lowlevel.checkpoint()
    finally:
        trio.lowlevel.remove_instrument(steps)
        gc.enable()


async def quiet(tenant: TenantRuntime) -> None:
    """Everything that follows from what was done is done."""
    while not (tenant.books.are_settled and tenant.journal.committer.is_quiet):  # noqa: ASYNC110
        await trio.sleep(0.002)
    await trio.lowlevel.checkpoint()


class QuietWorker(ScriptedWorker):
    """Takes what is sent to it and looks at none of it; a long journal it takes bit by bit."""

    def __init__(self, worker_id: str = "worker-1", *, capacity: int = 100) -> None:
        super().__init__(worker_id, capacity=capacity)
        self.frames = 0
        self.later: list[Iterator[bytes]] = []

    def send(self, frame: bytes) -> None:
        self.frames += 1

    def send_each(self, later: Iterator[bytes]) -> None:
        self.later.append(later)

    async def take_all(self) -> int:
        """Page by page, as the stream has room for it; how many there were."""
        count = 0
        for pages in self.later:
            for _ in pages:
                count += 1
                await trio.lowlevel.checkpoint()
        self.later.clear()
        return count


Scene = Callable[[Handle], Awaitable[Steps]]


async def hold(folder: Path, scene: Scene, *, clock: Clock = system_clock) -> int:
    """The longest step of the scene, in the best of some tries, each with an engine of its own."""
    best_us, task = 2**63, ""
    for number in range(TRIES):
        async with open_engine(folder / str(number), JournalSettings(), clock=clock) as engine:
            steps = await scene(Handle(engine))
        if steps.longest_us < best_us:
            best_us, task = steps.longest_us, steps.task
        if best_us <= limits.loop_pass_us_max:
            break
    print(f"{best_us / 1_000:8.1f} ms in {task} after {number + 1} tries")
    return best_us
