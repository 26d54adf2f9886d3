"""Nobody may be made to hold more than a bound: not by a worker that reads nothing, not by one
that never stops writing, and not by a journal that is busy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from engine.base import limits
from engine.base.ids import RunId, TenantId
from engine.base.limits import MIB
from engine.config.coordinator import CoordinatorSettings
from engine.ext import frames
from engine.model.worker_frames import Heartbeat, Refused
from engine.wire import worker as wire
from tests.coordinator.dialing import DialedWorker, dialed, reports, serving
from tests.coordinator.plain_runtime import PlainRuntime

ACME = TenantId("acme")
RUN = RunId(b"r" * 16)
READ_AHEAD = 4 * MIB  # of the worker, before anybody receives a message


def page(number: int) -> bytes:
    return frames.build_deliver(RUN, number, [(3, bytes(MIB), 0, 0)])


async def test_a_worker_that_reads_slowly_is_paused_and_resumed() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register("order")
        session = runtime.sessions[0]
        for number in range(20):
            session.worker.port.send(page(number))
        assert session.paused.is_set()
        runtime.start(ACME, "order", RUN)
        assert len(runtime.queue) == 1
        received = [(await worker.receive())[2] for _ in range(20)]
        assert received == list(range(20))
        await session.resumed.wait()
        assert (await worker.receive())[:2] == ("dispatch", RUN)


async def test_a_long_journal_is_made_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many times what the coordinator would hold for a worker."""
    monkeypatch.setattr(limits, "stream_outgoing_bytes_max", 8 * MIB)
    runtime = PlainRuntime()
    made = 0

    def pages() -> Iterator[bytes]:
        nonlocal made
        for number in range(40):
            made += 1
            yield page(number)

    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        port = runtime.sessions[0].worker.port
        port.send_each(pages())
        port.send(frames.build_ack(RUN, 1, 1))
        assert made == 0
        for number in range(40):
            assert (await worker.receive())[2] == number
            assert made * MIB <= number * MIB + READ_AHEAD + 8 * MIB
        assert await worker.receive() == ("ack", RUN, 1, 1)
        assert not runtime.sessions[0].paused.is_set()


async def test_a_worker_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "stream_outgoing_bytes_max", 8 * MIB)
    runtime = PlainRuntime()
    async with serving(runtime) as (address, coordinator):
        async with dialed(address) as deaf, dialed(address) as other:
            await deaf.register("order")
            await other.register("other", worker_id="w2")
            runtime.start(ACME, "order", RUN)
            port = runtime.sessions[0].worker.port
            sent = 0
            while not runtime.left.is_set():
                port.send(page(sent))
                sent += 1
                await trio.lowlevel.checkpoint()
            assert sent * MIB < READ_AHEAD + 16 * MIB
            assert [queued[3] for queued in runtime.queue] == [RUN]
            port.send(page(1))  # into the void
            await deaf.cut_off()
            await other.heartbeat()
            await runtime.sessions[1].heard.wait()
        assert runtime.sessions[0].disconnects == 1
    assert coordinator.streams == ()


async def test_what_is_sent_within_one_turn_is_bounded_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "stream_outgoing_bytes_max", 8 * MIB)
    runtime = PlainRuntime()
    async with serving(runtime) as (address, coordinator), dialed(address) as worker:
        await worker.register()
        for number in range(100):
            runtime.sessions[0].worker.port.send(page(number))
        assert runtime.sessions[0].disconnects == 0  # not from inside `send`
        await runtime.left.wait()
        assert runtime.sessions[0].disconnects == 1
        while coordinator.streams:
            await trio.lowlevel.checkpoint()


async def test_a_message_that_is_not_read_in_time_cuts_the_worker_off() -> None:
    runtime = PlainRuntime()
    settings = CoordinatorSettings(send_ms=100)
    async with serving(runtime, settings) as (address, _), dialed(address) as deaf:
        await deaf.register()
        port = runtime.sessions[0].worker.port
        for number in range(READ_AHEAD // MIB + 6):
            port.send(page(number))
        await runtime.left.wait()


async def test_a_machine_that_takes_no_bytes_is_cut_off() -> None:
    """The connection stands, the windows are open, and nothing gets through."""
    runtime = PlainRuntime()
    settings = CoordinatorSettings(send_ms=200, register_ms=600_000)
    async with (
        serving(runtime, settings) as (address, coordinator),
        dialed(address, window_bytes=2**30) as stuck,
    ):
        await stuck.register()
        stuck.stop_reading()
        port = runtime.sessions[0].worker.port
        for number in range(40):  # more than the buffers of the system hold
            port.send(page(number))
        await runtime.left.wait()
        while coordinator.streams:
            await trio.lowlevel.checkpoint()
        stuck.go_on_reading()
        await stuck.cut_off()


async def test_a_flood_does_not_stop_the_others() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as noisy, dialed(address) as calm:
        await noisy.register("noise")
        await calm.register("order", worker_id="w2")
        runtime.start(ACME, "order", RUN)
        await calm.receive()
        flood, _ = runtime.sessions
        beat = wire.encode(Heartbeat(sent_ms=1))
        count = limits.stream_message_frames_max
        await noisy.send_message(frames.pack_frames([beat] * count))
        await flood.heard.wait()
        await calm.send(*reports(RUN, 1, [b"still here"]))
        assert await calm.receive() == ("ack", RUN, 1, 1)
        assert flood.heartbeats < count
        while flood.heartbeats < count:
            await trio.lowlevel.checkpoint()


async def _report_while_busy(worker: DialedWorker, runtime: PlainRuntime) -> None:
    await worker.register("order")
    runtime.start(ACME, "order", RUN)
    await worker.receive()
    runtime.is_busy = True
    await worker.send(*reports(RUN, 1, [b"first", b"second"]))
    while not runtime.busy_calls:
        await trio.lowlevel.checkpoint()


async def test_a_report_waits_for_room_in_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "stream_busy_retry_ms", 1)
    runtime = PlainRuntime()
    settings = CoordinatorSettings(heartbeat_ms=10, lease_ms=20)
    async with serving(runtime, settings) as (address, coordinator), dialed(address) as worker:
        await _report_while_busy(worker, runtime)
        await worker.heartbeat()
        # Longer than the lease: the heartbeat has come, but nobody reads it now.
        while runtime.busy_calls < 60:
            await trio.lowlevel.checkpoint()
        coordinator.liveness.run_once()
        assert runtime.journal == {}
        assert runtime.sessions[0].heartbeats == 0
        runtime.is_busy = False
        assert await worker.receive() == ("ack", RUN, 1, 1)
        assert await worker.receive() == ("ack", RUN, 1, 2)
        assert runtime.journal[ACME, RUN] == [(3, b"first"), (3, b"second")]


async def test_a_report_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "stream_busy_retry_ms", 1)
    monkeypatch.setattr(limits, "stream_busy_retries_max", 5)
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await _report_while_busy(worker, runtime)
        for sequence in (1, 2):
            refused = await worker.receive()
            assert isinstance(refused, Refused)
            assert (refused.code, refused.sequence) == ("journal_busy", sequence)
        assert runtime.busy_calls == 2 * (1 + 6)
