"""A worker for the tests: grpclib's own client on a real connection, driven from Trio.

It says what it is told to say, also what no worker should. Its loop is one of its own, apart from
the coordinator's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpclib.client
import grpclib.config
import grpclib.const
import trio
import trio_asyncio
from grpclib.exceptions import StreamTerminatedError

import engine
from engine.base.ids import TenantId
from engine.base.limits import MIB
from engine.config.coordinator import CoordinatorSettings
from engine.coordinator.http2 import BytesCodec
from engine.coordinator.ports import Peer, WorkerDoor
from engine.coordinator.server import Address, Coordinator
from engine.ext import frames
from engine.model.runs import ComponentKind
from engine.model.worker_frames import (
    Component,
    Drain,
    Heartbeat,
    Refused,
    Register,
    Registered,
)
from engine.wire import worker as wire

LOCAL = Address("127.0.0.1", 0)
PATIENT = CoordinatorSettings()


def tenant_of_token(token: str, peer: Peer) -> TenantId:
    assert peer.is_loopback
    return TenantId(token)


def register_frame(*names: str, **changes: object) -> bytes:
    fields: dict[str, Any] = {
        "token": "acme",
        "components": tuple(
            Component(name=name, kind=ComponentKind.WORKFLOW) for name in names or ("order",)
        ),
        "capacity": 10,
        "sdk_version": engine.__version__,
        "worker_id": "w1",
    }
    return wire.encode(Register(**fields | changes))


class DialedWorker:
    """One stream. Frames that came are handed out one at a time, decoded where they are cold."""

    def __init__(self, channel: grpclib.client.Channel, stream: Any) -> None:
        self._channel = channel
        self._stream = stream
        self._frames: list[Any] = []
        self.messages_received = 0

    async def send(self, *encoded: bytes) -> None:
        await self.send_message(frames.pack_frames(list(encoded)))

    async def send_message(self, message: bytes) -> None:
        await trio_asyncio.aio_as_trio(self._stream.send_message)(message)

    async def send_bytes(self, data: bytes) -> None:
        """What stands in the HTTP/2 frames, prefix included, as it is."""
        await trio_asyncio.aio_as_trio(self._stream._stream.send_data)(data)

    async def end(self) -> None:
        await trio_asyncio.aio_as_trio(self._stream.end)()

    async def receive(self) -> Any:
        """The next frame, or None at the end of the stream."""
        while not self._frames:
            message = await trio_asyncio.aio_as_trio(self._stream.recv_message)()
            if message is None:
                return None
            self.messages_received += 1
            self._frames = frames.scan_engine_frames(message)
        frame = self._frames.pop(0)
        return wire.decode_engine_frame(frame[1], frame[2]) if frame[0] == "cold" else frame

    async def register(self, *names: str, **changes: object) -> Registered:
        await self.send(register_frame(*names, **changes))
        answer = await self.receive()
        assert isinstance(answer, Registered), answer
        return answer

    async def refusal(self) -> Refused:
        """The next frame is a fatal refusal, and nothing follows."""
        refused = await self.receive()
        assert isinstance(refused, Refused), refused
        assert refused.fatal
        assert await self.receive() is None
        return refused

    async def cut_off(self) -> None:
        """The connection goes, and whatever came before it does not matter."""
        with contextlib.suppress(StreamTerminatedError):
            while await self.receive() is not None:
                pass
            raise AssertionError("the stream ended in order")

    async def heartbeat(self) -> None:
        await self.send(wire.encode(Heartbeat(sent_ms=1)))

    async def drain(self, reason: str) -> None:
        await self.send(wire.encode(Drain(reason=reason)))

    def hang_up(self) -> None:
        """As a process that dies: the connection is reset."""
        self._transport.abort()

    def stop_reading(self) -> None:
        """As a process that was stopped: what comes stays in the buffers of the system."""
        self._transport.pause_reading()

    def go_on_reading(self) -> None:
        self._transport.resume_reading()

    @property
    def _transport(self) -> asyncio.Transport:
        protocol = self._channel._protocol
        assert protocol is not None
        return protocol.connection._transport


@contextlib.asynccontextmanager
async def dialed(address: Address, *, window_bytes: int = 4 * MIB) -> AsyncIterator[DialedWorker]:
    """`window_bytes` is how much grpclib reads ahead, whether anybody receives it or not."""
    both_ways = grpclib.const.Cardinality.STREAM_STREAM
    async with trio_asyncio.open_loop(), _channel(address, window_bytes) as channel:
        stream = channel.request(wire.CONNECT_METHOD, both_ways, bytes, bytes)
        await trio_asyncio.aio_as_trio(stream.__aenter__)()
        await trio_asyncio.aio_as_trio(stream.send_request)()
        yield DialedWorker(channel, stream)


@contextlib.asynccontextmanager
async def _channel(address: Address, window_bytes: int) -> AsyncIterator[grpclib.client.Channel]:
    async def made() -> grpclib.client.Channel:
        config = grpclib.config.Configuration(
            http2_connection_window_size=window_bytes, http2_stream_window_size=window_bytes
        )
        codec = BytesCodec()
        return grpclib.client.Channel(address.host, address.port, codec=codec, config=config)

    channel = await trio_asyncio.aio_as_trio(made)()
    try:
        yield channel
    finally:
        channel.close()


@contextlib.asynccontextmanager
async def serving(
    runtime: WorkerDoor, settings: CoordinatorSettings = PATIENT, **more: Any
) -> AsyncIterator[tuple[Address, Coordinator]]:
    """A coordinator on a port of its own. What hangs fails within the time of a test."""
    coordinator = Coordinator(runtime, tenant_of_token, settings=settings, **more)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            address = await nursery.start(coordinator.serve, LOCAL)
            yield address, coordinator
            nursery.cancel_scope.cancel()


def reports(run: bytes, epoch: int, payloads: Sequence[bytes]) -> list[bytes]:
    return [
        frames.build_report(run, epoch, at, [(3, payload)])
        for at, payload in enumerate(payloads, start=1)
    ]
