"""Where the user's functions run when the worker is on Trio: in a nursery, or in threads.

The stream lives on an asyncio loop inside Trio, on the same thread; what the user wrote sees Trio
only. A workflow's code runs on its own loop (`loop.py`) here as there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from engine.sdk.errors import StepTimedOut
from engine.sdk.replay.loop import ScriptLoop
from engine.sdk.worker.hosts import Done, Timer
from engine.sdk.worker.jobs import Job
from engine.sdk.worker.transport import script_is_running


class TrioHost:
    """Inside an open trio-asyncio loop."""

    def __init__(
        self, turn: Callable[[], None], *, threads_max: int, nursery: trio.Nursery
    ) -> None:
        self._turn = turn
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._wanted = trio.Event()
        self._threads = trio.CapacityLimiter(threads_max)
        self._token = trio.lowlevel.current_trio_token()
        self._loop = asyncio.get_running_loop()
        nursery.start_soon(self._run_turns)

    def close(self) -> None:
        self._scope.cancel()

    async def _run_turns(self) -> None:
        """Every turn is taken in one task, because a workflow's loop is entered in its context."""
        with self._scope:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                self._turn()

    def schedule(self) -> None:
        self._wanted.set()

    def hurry(self) -> None:
        """Not here: a turn is taken in its own task."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return self._loop.call_later(delay_s, callback)

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        self._token.run_sync_soon(callback)

    def run_script(self, loop: ScriptLoop) -> None:
        with script_is_running(loop):
            loop.run()

    def start(self, job: Job, done: Done) -> None:
        scope = trio.CancelScope()
        job.stop = scope.cancel
        self._nursery.start_soon(self._run, job, done, scope)

    async def _run(self, job: Job, done: Done, scope: trio.CancelScope) -> None:
        with scope:
            if job.is_async:
                await job.run(_within, _is_stop)
            else:
                await self._run_in_thread(job)
        if not job.is_stopped and not scope.cancelled_caught:
            done(job)

    async def _run_in_thread(self, job: Job) -> None:
        """The thread itself cannot be interrupted; its end is not waited for."""
        timeout_s = float("inf") if job.timeout_s is None else job.timeout_s
        with trio.move_on_after(timeout_s) as limit:
            await trio.to_thread.run_sync(
                job.run_blocking, abandon_on_cancel=True, limiter=self._threads
            )
        if limit.cancelled_caught:
            job.time_out()


async def _within(timeout_s: float, call: Awaitable[Any]) -> Any:
    with trio.move_on_after(timeout_s):
        return await call
    raise StepTimedOut(f"the step took longer than {timeout_s:g} s")


def _is_stop(_: Job, error: BaseException) -> bool:
    """Also in a group, as nurseries raise it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[0] is not None
    return isinstance(error, trio.Cancelled)
