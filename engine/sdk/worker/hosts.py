"""Where the user's functions run: on asyncio's loop, or in threads when they are plain functions.

The port that runs and sessions see is `Host`. `trio_host.py` is the other one behind it. Knows no
run: a job is started, and its end is told.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from engine.sdk.errors import StepTimedOut
from engine.sdk.replay.loop import ScriptLoop
from engine.sdk.worker.jobs import Job
from engine.sdk.worker.threads import StepThreads

Done = Callable[[Job], None]


class Timer(Protocol):
    def cancel(self) -> object: ...


class Host(Protocol):
    def schedule(self) -> None:
        """Have `turn` called soon, once for all that ask until then."""

    def hurry(self) -> None:
        """A turn that was asked for may be taken at once: nothing more comes in just now."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer: ...

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        """On the host's own thread; for what happens in a job's thread."""

    def start(self, job: Job, done: Done) -> None:
        """`done` is called on the host's own thread, unless the job was cancelled."""

    def run_script(self, loop: ScriptLoop) -> None:
        """Run a workflow's code until all of it waits."""

    def close(self) -> None:
        """The session is over; no turn is taken any more."""


class AsyncioHost:
    def __init__(self, turn: Callable[[], None], *, threads_max: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn = turn
        self._is_scheduled = False
        self._is_closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = StepThreads(threads_max)

    def close(self) -> None:
        self._is_closed = True
        self._threads.close()

    def schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._take_turn)

    def hurry(self) -> None:
        # From 3.14 on a task cannot step another loop's task; the turn comes by itself then.
        if sys.version_info < (3, 14):
            self._take_turn()

    def _take_turn(self) -> None:
        if self._is_scheduled and not self._is_closed:
            self._is_scheduled = False
            self._turn()

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return self._loop.call_later(delay_s, callback)

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def run_script(self, loop: ScriptLoop) -> None:
        loop.run()

    def start(self, job: Job, done: Done) -> None:
        if not job.is_async:
            self._start_thread(job, done)
            return
        task = self._loop.create_task(self._run(job, done))
        self._tasks.add(task)
        job.stop = task.cancel
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job, done: Done) -> None:
        await job.run(_within, _is_stop)
        if not job.is_stopped:
            done(job)

    def _start_thread(self, job: Job, done: Done) -> None:
        """The thread itself cannot be interrupted; too late, its end is not waited for."""
        timer: asyncio.TimerHandle | None = None

        def ended(*, in_time: bool = True) -> None:
            nonlocal timer
            if timer is not None:
                timer.cancel()
            if not job.is_stopped:
                job.is_stopped = not in_time  # what the thread says later is not heard
                done(job)

        def time_out() -> None:
            job.time_out()
            ended(in_time=False)

        if job.timeout_s is not None:
            timer = self._loop.call_later(job.timeout_s, time_out)
        self._threads.run(job.run_blocking, ended)


async def _within(timeout_s: float, call: Awaitable[Any]) -> Any:
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            return await call
    except TimeoutError as error:
        if limit.expired():
            raise StepTimedOut(f"the step took longer than {timeout_s:g} s") from error
        raise


def _is_stop(job: Job, error: BaseException) -> bool:
    return job.is_stopped and isinstance(error, asyncio.CancelledError)
