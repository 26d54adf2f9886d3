"""The event loop on which a workflow's code runs: a queue of callbacks, and nothing else.

It has no time, no sockets and no threads, so all that can wake the code is an outcome that the
replay machine hands out, and the code runs in the same order in every replay. Tasks, futures,
`asyncio.gather`, `TaskGroup`, queues and locks are asyncio's own and work as usual; what would
depend on the world is refused with the operation of `ctx` to use instead.

`run` returns when nothing is left to run: the code has ended, or all of it waits. It is called by
whatever loop the worker runs on, asyncio's or Trio's; neither is known here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, NoReturn, TypeVar

from engine.sdk.errors import NotInWorkflow
from engine.sdk.replay import paths

T = TypeVar("T")

_CLOCK: Final = ("call_later", "call_at")
_TIME: Final = (
    "a workflow cannot wait by asyncio's clock: the wait would be lost with the worker. Use "
    "`await ctx.sleep(seconds)`, or the `timeout=` of ctx.step, ctx.signal or ctx.wait_for_user"
)
_WORLD: Final = (
    "a workflow cannot reach the outside world itself, because a replay would do it again: put it "
    "into a function and call it with `await ctx.step(function, ...)`"
)


class ScriptLoop(asyncio.AbstractEventLoop):
    def __init__(self, wake: Callable[[], None], now_s: Callable[[], float]) -> None:
        """`wake` is called when something outside of `run` gives the loop something to do."""
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self._wake = wake
        self._now_s = now_s
        self._is_running = False
        self._is_closed = False
        self._root = paths.Branch()

    # ---- for the worker ----

    def start(self, code: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """The workflow's own body; the tasks that it creates are its branches."""
        return self.create_task(code, context=paths.context_of(self._root))

    @property
    def branch(self) -> paths.Branch:
        """The branch that runs."""
        return paths.current(self._root)

    def run(self) -> None:
        """Run the code until all of it waits."""
        assert not self._is_running, "the code of a workflow cannot run itself"
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        self._is_running = True
        ready = self._ready
        try:
            while ready:
                handle = ready.popleft()
                if not handle.cancelled():
                    _run(handle)
        finally:
            self._is_running = False
            asyncio._set_running_loop(outer)

    @property
    def is_idle(self) -> bool:
        return not self._ready

    def abandon(self) -> None:
        """Close the code where it stands. `finally` blocks run; nothing they ask for happens."""
        self._is_closed = True
        self._ready.clear()
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())
        self._tasks.clear()

    # ---- for asyncio ----

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._is_closed:
            self._ready.append(handle)
            if not self._is_running:
                self._wake()
        return handle

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **more: Any,
    ) -> asyncio.Task[Any]:
        if context is None:
            context = paths.context_of(self.branch.next())
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context, **more)
        self._tasks.append(task)
        if len(self._tasks) > 64 and len(self._tasks) & 63 == 0:
            self._tasks = [task for task in self._tasks if not task.done()]
        return task

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def time(self) -> float:
        """The time of the workflow, in seconds; it stands still while the code runs."""
        return self._now_s()

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return self._is_closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A branch that failed and that nobody awaits: the code's own business."""


def _refuse_time(self: ScriptLoop, *args: Any, **more: Any) -> NoReturn:
    raise NotInWorkflow(_TIME)


def _refuse_world(self: ScriptLoop, *args: Any, **more: Any) -> NoReturn:
    raise NotInWorkflow(_WORLD)


# Everything else that asyncio's loops can do reaches outside.
for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(ScriptLoop):
        setattr(ScriptLoop, _name, _refuse_time if _name in _CLOCK else _refuse_world)


def _run(handle: asyncio.Handle) -> None:
    try:
        handle._run()
    except (SystemExit, KeyboardInterrupt):
        return  # the code raised it, and its task has it: the run fails, not the worker


def _close(coroutine: Any) -> None:
    """What the code does while it is closed is its last chance to misbehave, and is ignored."""
    try:
        coroutine.close()
    except BaseException:  # noqa: BLE001 - the user's code; nobody is left to tell
        return
