"""A stretch of network between a worker and its runtime: it can go dead without closing anything,
as a pulled cable does. Runs in a thread of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Proxy:
    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._loop = asyncio.SelectorEventLoop()
        self._alive = asyncio.Event()
        self._pumps: set[asyncio.Task[None]] = set()
        self.address = ""
        self.connections = 0

    def go_dead(self) -> None:
        """For the connections that there are and for those that are opened; for good."""
        self._loop.call_soon_threadsafe(self._alive.clear)

    def let_new_ones_through(self) -> None:
        """Those that were there stay dead."""

        def renew() -> None:
            self._alive = asyncio.Event()
            self._alive.set()

        self._loop.call_soon_threadsafe(renew)

    def serve(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(started))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self, started: threading.Event) -> None:
        self._stopped = asyncio.Event()
        self._alive.set()
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stopped.wait()
        server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        alive = self._alive
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        for source, target in ((reader, back), (there, writer)):
            self._pumps.add(asyncio.create_task(_pump(source, target, alive)))


async def _pump(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, alive: asyncio.Event
) -> None:
    try:
        while data := await source.read(65_536):
            await alive.wait()
            target.write(data)
            await target.drain()
        await alive.wait()  # not even the end comes through
    except OSError:
        pass
    finally:
        target.close()


@contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    started = threading.Event()
    thread = threading.Thread(target=proxy.serve, args=(started,))
    thread.start()
    assert started.wait(10)
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()
