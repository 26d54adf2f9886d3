"""Threads for plain functions: daemons, so that one that hangs cannot keep the process from ending.

`concurrent.futures` joins its threads when the interpreter exits, whatever they are doing, and a
worker that was asked twice to leave would stay. All the books are kept on the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import queue
import threading
from collections.abc import Callable
from typing import Final

Work = Callable[[], None]

_numbers: Final = itertools.count(1)


class StepThreads:
    def __init__(self, count_max: int) -> None:
        assert count_max >= 1
        self._count_max = count_max
        self._count = 0
        self._unfinished = 0
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Work, Work] | None] = queue.SimpleQueue()

    def run(self, work: Work, ended: Work) -> None:
        """`work` in a thread as soon as one is free, then `ended` on the loop's thread. Work does
        not raise."""
        self._unfinished += 1
        if self._count < min(self._unfinished, self._count_max):
            self._count += 1
            name = f"engine-step-{next(_numbers)}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        context = contextvars.copy_context()
        self._queue.put((lambda: context.run(work), ended))

    def close(self) -> None:
        """What is running runs on; what waits for a thread is not begun."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        for _ in range(self._count):
            self._queue.put(None)

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            work, ended = item
            work()
            with contextlib.suppress(RuntimeError):  # the loop has been closed in the meantime
                self._loop.call_soon_threadsafe(self._finished, ended)

    def _finished(self, ended: Work) -> None:
        self._unfinished -= 1
        ended()
