"""Peers without a token that send what costs them nothing: their connections end, no memory is kept
for them, and a worker beside them works on."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable

import grpclib.protocol
import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from engine.base import limits
from engine.base.ids import RunId, TenantId
from engine.coordinator.server import Address
from engine.ext import frames
from tests.coordinator.dialing import DialedWorker, dialed, serving
from tests.coordinator.plain_runtime import PlainRuntime

ACME = TenantId("acme")
PATIENCE_S = 20
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/engine.v1.Coordinator/Connect"),
    (":authority", "engine"),
    ("te", "trailers"),
    ("content-type", "application/grpc+proto"),
]


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream_id.to_bytes(4, "big") + payload


class Flooder:
    """A client that keeps the protocol's letter; what h2 would not send is written by hand."""

    def __init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.next_id = 1

    def opened(self) -> int:
        stream_id, self.next_id = self.next_id, self.next_id + 2
        self.h2.send_headers(stream_id, REQUEST)
        return stream_id

    def opened_and_reset(self) -> bytes:
        self.h2.reset_stream(self.opened())
        return self.h2.data_to_send()

    def opened_and_ended(self) -> bytes:
        self.h2.send_headers(self.next_id, REQUEST, end_stream=True)
        self.next_id += 2
        return self.h2.data_to_send()

    def ping(self) -> bytes:
        return frame(6, 0, 0, b"12345678")

    def settings(self) -> bytes:
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
        return frame(4, 0, 0)

    def priority(self) -> bytes:
        return frame(2, 0, 1, b"\x00\x00\x00\x03\x10")

    def unknown(self) -> bytes:
        return frame(0xEE, 0, 0, b"x" * 16)

    def window_update(self) -> bytes:
        return frame(8, 0, 0, b"\x00\x00\x00\x01")

    def empty_data(self) -> bytes:
        first = b""
        if self.next_id == 1:
            self.opened()
            first = self.h2.data_to_send()
        return first + frame(0, 0, 1)

    def continuation(self) -> bytes:
        if self.next_id == 1:
            self.next_id = 3
            return frame(1, 0, 1, b"\x82")
        return frame(9, 0, 1, b"\x84")


async def flood(address: Address, of: Callable[[Flooder], bytes], frames_max: int) -> int:
    """Until the other side hangs up; how many were sent."""
    flooder = Flooder()
    sent = 0
    async with await trio.open_tcp_stream(*address) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(read_until_closed, stream, nursery.cancel_scope)
        try:
            await stream.send_all(flooder.h2.data_to_send())
            while sent < frames_max:
                await stream.send_all(b"".join(of(flooder) for _ in range(50)))
                sent += 50
            await trio.sleep(PATIENCE_S)
        except trio.BrokenResourceError:
            nursery.cancel_scope.cancel()
    return sent


async def read_until_closed(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        async for _ in stream:
            pass
    except trio.BrokenResourceError:
        pass
    scope.cancel()


async def works(runtime: PlainRuntime, worker: DialedWorker, run: RunId) -> None:
    runtime.start(ACME, "order", run)
    dispatch = await worker.receive()
    await worker.send(frames.build_report(run, dispatch[2], 1, [(3, b"")]))
    assert (await worker.receive())[:2] == ("ack", run)


FLOODS = [
    Flooder.opened_and_reset,
    Flooder.opened_and_ended,
    Flooder.ping,
    Flooder.settings,
    Flooder.priority,
    Flooder.unknown,
    Flooder.window_update,
    Flooder.empty_data,
    Flooder.continuation,
]


@pytest.mark.parametrize("of", FLOODS, ids=lambda one: one.__name__)
async def test_a_flood_ends_its_own_connection(
    of: Callable[[Flooder], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    runtime = PlainRuntime()
    with trio.fail_after(PATIENCE_S):
        async with serving(runtime) as (address, _), dialed(address) as worker:
            await worker.register("order")
            assert await flood(address, of, 100_000) < 100_000
            await works(runtime, worker, RunId(b"r" * 16))
    if of not in (Flooder.continuation, Flooder.opened_and_ended):  # h2 itself has had enough
        assert "hung up (1 so far): 127.0.0.1: " in caplog.text


async def test_nothing_is_kept_of_streams_that_were_reset() -> None:
    """On connection after connection; a stream and what hangs on it was 5 KB."""
    runtime = PlainRuntime()
    gc.collect()
    before = count_streams()
    async with serving(runtime) as (address, coordinator), dialed(address) as worker:
        await worker.register("order")
        for _ in range(40):
            await flood(address, Flooder.opened_and_reset, 100)
        await works(runtime, worker, RunId(b"r" * 16))
        assert len(coordinator.streams) == 1
        gc.collect()
        # grpclib keeps the handlers of the last few connections until others come.
        assert count_streams() - before <= 11 * limits.stream_per_connection_max


def count_streams() -> int:
    return sum(isinstance(one, grpclib.protocol.Stream) for one in gc.get_objects())


async def test_a_connection_has_few_streams_at_once() -> None:
    async with serving(PlainRuntime()) as (address, _):
        flooder = Flooder()
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(flooder.h2.data_to_send())
            while flooder.h2.remote_settings.max_concurrent_streams > 4:
                flooder.h2.receive_data(await stream.receive_some())
        assert flooder.h2.remote_settings.max_concurrent_streams == 4


async def test_who_has_not_registered_has_a_bound_that_workers_are_not_under(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "stream_strangers_per_peer_max", 5)
    runtime = PlainRuntime()
    with trio.fail_after(PATIENCE_S):
        async with (
            serving(runtime) as (address, _),
            trio.open_nursery() as nursery,
            contextlib.AsyncExitStack() as strangers,
        ):
            for _ in range(4):
                stranger = await strangers.enter_async_context(await trio.open_tcp_stream(*address))
                assert await stranger.receive_some(), "its settings: it was taken in"
            for number in range(8):  # one after the other: each is known before the next comes
                await nursery.start(held_open, address, f"w{number}")
            fifth = await strangers.enter_async_context(await trio.open_tcp_stream(*address))
            assert await fifth.receive_some()
            async with await trio.open_tcp_stream(*address) as sixth:
                await read_until_closed(sixth, trio.CancelScope())
            await strangers.aclose()
            await nursery.start(held_open, address, "last")
            nursery.cancel_scope.cancel()


async def held_open(address: Address, worker_id: str, task_status: trio.TaskStatus[bool]) -> None:
    async with dialed(address) as worker:
        await worker.register("order", worker_id=worker_id)
        task_status.started(True)
        await trio.sleep_forever()
