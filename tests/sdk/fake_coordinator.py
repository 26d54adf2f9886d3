"""The small engine of these tests behind a real gRPC server, which can also behave badly.

Runs on asyncio. One worker at a time: a new registration takes over what the one before held.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import StreamTerminatedError
from grpclib.server import Server, Stream

from engine.ext import frames
from engine.model.worker_frames import EngineFrame
from engine.wire import worker as wire
from engine.wire.worker import CONNECT_METHOD
from tests.sdk.fake_engine import FakeEngine, FakeRun


class BytesCodec(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


class FakeCoordinator:
    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.address = ""
        self.connections = 0
        self.is_mute = False  # takes registrations and says nothing
        self.refuses: EngineFrame | None = None
        self._moved = asyncio.Condition()
        self._stream: Stream[bytes, bytes] | None = None
        self._serving: set[Stream[bytes, bytes]] = set()

    def __mapping__(self) -> dict[str, Handler]:
        handler = Handler(self._serve, Cardinality.STREAM_STREAM, bytes, bytes)
        return {CONNECT_METHOD: handler}

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until something is so; looked at whenever a message came or went."""
        async with asyncio.timeout(10):
            async with self._moved:
                await self._moved.wait_for(condition)

    async def until_soon(self, condition: Callable[[], Any]) -> None:
        """The same, of something that follows from what the test has changed."""
        await self.poke()
        await self.until(condition)

    async def poke(self) -> None:
        """The test has changed something that frames follow from."""
        stream = self._stream
        if stream is not None and not self.is_mute:
            message = self.engine.take()
            if message is not None:
                await stream.send_message(message)
        async with self._moved:
            self._moved.notify_all()

    async def run(self, component: str, value: Any = None) -> FakeRun:
        """A run, until it has ended."""
        run = self.engine.start(component, value)
        await self.poke()
        await self.until(lambda: run.status.is_terminal)
        return run

    async def send(self, frame: EngineFrame) -> None:
        assert self._stream is not None
        message = bytes(frames.pack_frames([wire.encode_engine_frame(frame)]))
        await self._stream.send_message(message)

    def cut(self) -> None:
        """The connection ends without a word."""
        for stream in self._serving:
            stream._stream.connection.close()

    async def _serve(self, stream: Stream[bytes, bytes]) -> None:
        self._serving.add(stream)
        self.connections += 1
        try:
            await self._talk(stream)
        except StreamTerminatedError:
            return
        finally:
            self._serving.discard(stream)
            if self._stream is stream:
                self._stream = None
                self.engine.lose_worker()
            async with self._moved:
                self._moved.notify_all()

    async def _talk(self, stream: Stream[bytes, bytes]) -> None:
        first = await stream.recv_message()
        assert first is not None
        self._stream = stream
        self.engine.lose_worker()
        self.engine.receive(first)
        if self.refuses is not None:
            await self.send(self.refuses)
            return
        await self.poke()
        async for message in stream:
            self.engine.receive(message)
            await self.poke()


@asynccontextmanager
async def coordinating() -> AsyncIterator[FakeCoordinator]:
    coordinator = FakeCoordinator()
    async with listening(coordinator):
        yield coordinator


@asynccontextmanager
async def listening(coordinator: FakeCoordinator) -> AsyncIterator[None]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server([coordinator], codec=BytesCodec())
    await server.start(sock=listener)
    coordinator.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield
    finally:
        coordinator.cut()
        server.close()
        await server.wait_closed()
