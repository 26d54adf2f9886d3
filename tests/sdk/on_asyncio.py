"""Runs a test on asyncio itself. Once trio-asyncio is imported, by whichever test came first,
`asyncio.run` gives a loop that runs on Trio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable


def on_asyncio(test: Callable[[], Awaitable[None]], *, limit_s: float = 60) -> None:
    async def limited() -> None:
        async with asyncio.timeout(limit_s):
            await test()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(limited())


class Warnings(logging.Handler):
    """What the worker warns of; a test can wait until it has."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._came = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self._came.set()

    async def until(self, count: int) -> None:
        while len(self.messages) < count:
            self._came.clear()
            await self._came.wait()

    def __enter__(self) -> Warnings:
        logging.getLogger("engine.worker").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("engine.worker").removeHandler(self)
