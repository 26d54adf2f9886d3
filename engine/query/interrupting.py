"""Blocking work in a thread that stops when its caller is cancelled.

A thread cannot be left behind here: it holds a connection of a database that others use. So the
caller waits for it, having told it to stop, again and again, since a statement that has not quite
begun does not hear it. Knows nothing of what the work is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import outcome
import trio

from engine.base import limits

Result = TypeVar("Result")


async def in_thread(
    work: Callable[[], Result], interrupt: Callable[[], None], limiter: trio.CapacityLimiter
) -> Result:
    """What `work` returns. When this is cancelled, `interrupt` is called until `work` ends."""
    finished = trio.Event()
    results: list[outcome.Outcome[Result]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_interrupt_when_cancelled, finished, interrupt)
        with trio.CancelScope(shield=True):
            results.append(await outcome.acapture(_run, work, limiter))
        finished.set()
    return results[0].unwrap()


async def _run(work: Callable[[], Result], limiter: trio.CapacityLimiter) -> Result:
    return await trio.to_thread.run_sync(work, limiter=limiter)


async def _interrupt_when_cancelled(finished: trio.Event, interrupt: Callable[[], None]) -> None:
    try:
        await finished.wait()
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            while not finished.is_set():
                interrupt()
                with trio.move_on_after(limits.query_interrupt_ms / 1_000):
                    await finished.wait()
        raise
