"""Several things at once: `ctx.parallel`, `ctx.gather` and `ctx.map` are made of this.

Branches start in the order in which they are given. The first failure cancels the others and is
raised, unless exceptions are asked for as results. Knows no journal.

What is asked for an item of `pull` is asked by a branch of that item's own: which puller takes it
is a matter of time, and may be another one in the next attempt of the run.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from engine.sdk.authoring.asked import Asked
from engine.sdk.replay import paths

Branch = Asked[Any] | asyncio.Future[Any]


async def join(branches: Sequence[Awaitable[Any]], *, return_exceptions: bool) -> list[Any]:
    started = [_start(branch) for branch in branches]
    try:
        await _ended(started, until_failure=not return_exceptions)
    except asyncio.CancelledError:
        await _cancel(started)
        raise
    if not return_exceptions:
        failed = [branch for branch in started if branch.done() and _failure(branch) is not None]
        if failed:
            await _cancel(started)
            raise _failure(failed[0]) or AssertionError
    return [_failure(branch) or branch.result() for branch in started]


async def pull(
    start: Callable[[Any], Awaitable[Any]],
    items: Iterable[Any],
    *,
    limit: int,
    return_exceptions: bool,
) -> list[Any]:
    """Like `join`, of `start(item)` for each item, at most `limit` of them at a time."""
    results: dict[int, Any] = {}
    branch = paths.next_branch()
    numbered = enumerate(items)
    pullers = [_pull(start, numbered, branch, results, return_exceptions) for _ in range(limit)]
    await join(pullers, return_exceptions=False)
    return [results[index] for index in range(len(results))]


async def _pull(
    start: Callable[[Any], Awaitable[Any]],
    numbered: Iterator[tuple[int, Any]],
    branch: paths.Branch,
    results: dict[int, Any],
    return_exceptions: bool,
) -> None:
    for index, item in numbered:
        try:
            asked = paths.call_in(branch.next(), functools.partial(start, item))
            results[index] = await asked
        except Exception as error:
            if not return_exceptions:
                raise
            results[index] = error


def _start(branch: Awaitable[Any]) -> Branch:
    return branch if isinstance(branch, Asked) else asyncio.ensure_future(branch)


async def _ended(branches: Sequence[Branch], *, until_failure: bool) -> None:
    ended = asyncio.get_running_loop().create_future()
    left = len(branches)

    def note(branch: Any) -> None:
        nonlocal left
        left -= 1
        failed = until_failure and _failure(branch) is not None
        if (left == 0 or failed) and not ended.done():
            ended.set_result(None)

    for branch in branches:
        branch.add_done_callback(note)
    if branches:
        await ended


async def _cancel(branches: Sequence[Branch]) -> None:
    """Their `finally` blocks have run when this returns."""
    for branch in branches:
        branch.cancel()
    tasks = [branch for branch in branches if isinstance(branch, asyncio.Future)]
    await asyncio.gather(*tasks, return_exceptions=True)


def _failure(branch: Branch) -> BaseException | None:
    if isinstance(branch, asyncio.Future) and branch.cancelled():
        return asyncio.CancelledError()
    return branch.exception()
