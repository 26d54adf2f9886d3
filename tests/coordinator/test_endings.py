"""Streams that end without a word: half-open connections, undecided peers, cancelled beginnings,
and the coordinator's own end."""

from __future__ import annotations

import contextlib
import errno
import operator
import socket
from typing import Any

import pytest
import trio
from h2.exceptions import ProtocolError, StreamClosedError

from engine.base.clock import ManualClock
from engine.base.errors import AddressInUse, InvalidSettings
from engine.base.ids import RunId, TenantId
from engine.config.coordinator import CoordinatorSettings
from engine.coordinator.outbox import Outbox
from engine.coordinator.server import Address, Coordinator
from engine.ext import frames
from engine.model.worker_frames import Drain, Draining, Heartbeat, Registered
from engine.wire import worker as wire
from tests.coordinator import dialing
from tests.coordinator.dialing import DialedWorker, dialed, register_frame, serving
from tests.coordinator.plain_runtime import PlainRuntime

ACME = TenantId("acme")
POISONED = TenantId("poisoned")
RUN = RunId(b"r" * 16)
IMPATIENT = CoordinatorSettings(heartbeat_ms=50, lease_ms=150)
UNDECIDED_SOON = CoordinatorSettings(register_ms=50)

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
UNKNOWN_HTTP2_FRAME = b"\x00\x00\x03\xee\x00\x00\x00\x00\x00abc"


async def test_a_silent_worker_loses_its_runs() -> None:
    runtime = PlainRuntime()
    async with serving(runtime, IMPATIENT) as (address, coordinator), dialed(address) as silent:
        await silent.register("order")
        runtime.start(ACME, "order", RUN)
        await runtime.left.wait()
        assert runtime.sessions[0].disconnects == 1
        assert runtime.pools.workers(ACME) == ()
        await silent.cut_off()
        while coordinator.streams:
            await trio.lowlevel.checkpoint()


async def test_a_worker_that_beats_is_kept() -> None:
    runtime = PlainRuntime()
    async with serving(runtime, IMPATIENT) as (address, _), dialed(address) as worker:
        await worker.register("order")
        until = trio.current_time() + 4 * IMPATIENT.lease_ms / 1_000
        while trio.current_time() < until:
            await worker.heartbeat()
        assert not runtime.left.is_set()


async def test_a_peer_that_never_registers_is_cut_off() -> None:
    async with serving(PlainRuntime(), UNDECIDED_SOON) as (address, _), dialed(address) as nobody:
        await nobody.cut_off()


async def test_a_connection_without_a_stream_is_closed() -> None:
    async with (
        serving(PlainRuntime(), UNDECIDED_SOON) as (address, _),
        await trio.open_tcp_stream(*address) as mute,
    ):
        received = b"".join([chunk async for chunk in mute])
        assert b"no stream is open on this connection" in received


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: engine\r\n\r\n", id="http1"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls"),
        pytest.param(bytes(range(256)) * 8, id="bytes"),
        pytest.param(HTTP2_PREFACE + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" * 2, id="http2"),
        pytest.param(HTTP2_PREFACE + b"\xff" * 64, id="half a frame"),
    ],
)
async def test_noise_ends_its_own_connection_only(noise: bytes) -> None:
    settings = CoordinatorSettings(register_ms=400)
    async with serving(PlainRuntime(), settings) as (address, _), dialed(address) as worker:
        await worker.register()
        async with await trio.open_tcp_stream(*address) as stranger:
            await stranger.send_all(noise)
            with contextlib.suppress(trio.BrokenResourceError):
                async for _ in stranger:
                    pass
        await worker.end()
        assert await worker.receive() is None


async def test_frames_that_http2_does_not_know_are_ignored() -> None:
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00"
    async with (
        serving(PlainRuntime()) as (address, _),
        await trio.open_tcp_stream(*address) as stranger,
    ):
        await stranger.send_all(HTTP2_PREFACE)
        for token in (b"12345678", b"abcdefgh"):
            await stranger.send_all(UNKNOWN_HTTP2_FRAME + ping + token)
            received = b""
            while token not in received:  # in the answer to the ping
                chunk = await stranger.receive_some()
                assert chunk
                received += chunk


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("send_data", StreamClosedError(1)),
        ("recv_data", ProtocolError("the connection is closed")),
        ("connection._connection.receive_data", ValueError("a defect of h2")),
    ],
)
async def test_a_connection_that_fails_below_us_ends_alone(broken: str, error: Exception) -> None:
    """Which of several things is noticed first when a peer goes is a matter of luck; here each of
    them is the first."""

    def fail(*_: object, **__: object) -> None:
        raise error

    runtime = PlainRuntime()
    patient = CoordinatorSettings(lease_ms=600_000, send_ms=600_000)
    async with serving(runtime, patient) as (address, coordinator):
        async with dialed(address) as worker:
            await worker.register()
            owner, _, name = broken.rpartition(".")
            inner = coordinator.streams[0]._stream._stream
            setattr(operator.attrgetter(owner)(inner) if owner else inner, name, fail)
            runtime.sessions[0].worker.port.send(frames.build_ack(RUN, 1, 1))
            await worker.heartbeat()
            await runtime.left.wait()
        while coordinator.streams:
            await trio.lowlevel.checkpoint()
        assert runtime.sessions[0].disconnects == 1
        async with dialed(address) as other:
            await other.register()


async def test_connections_come_and_go_abruptly() -> None:
    async with serving(PlainRuntime()) as (address, coordinator):
        for round_number in range(30):
            stranger = await trio.open_tcp_stream(*address)
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stranger.send_all(HTTP2_PREFACE[: round_number * 2])
            await stranger.aclose()
        async with dialed(address) as worker:
            await worker.register()
            assert len(coordinator.streams) == 1


async def test_a_worker_that_is_lost_while_it_is_let_in_leaves_no_session() -> None:
    """The runtime does not notice that it was cancelled, and opens the session for nobody."""
    runtime = PlainRuntime()
    runtime.before_answer = trio.Event()
    async with serving(runtime) as (address, coordinator):
        async with dialed(address) as worker:
            await worker.send(register_frame())
            while not runtime.sessions:
                await trio.lowlevel.checkpoint()
            worker.hang_up()
            while not runtime.pools.workers(ACME):
                await trio.lowlevel.checkpoint()
        runtime.before_answer.set()
        await runtime.left.wait()
        assert runtime.pools.workers(ACME) == ()
        while coordinator.streams:
            await trio.lowlevel.checkpoint()
        assert runtime.sessions[0].disconnects == 1


async def test_a_runtime_that_takes_its_time_loses_no_worker() -> None:
    runtime = PlainRuntime()
    runtime.before_answer = trio.Event()
    clock = ManualClock()
    async with (
        serving(runtime, clock=clock) as (address, coordinator),
        dialed(address) as worker,
    ):
        await worker.send(register_frame())
        while not runtime.sessions:
            await trio.lowlevel.checkpoint()
        cut = []
        for _ in range(1_000):
            clock.advance_us(100_000)
            cut += coordinator.liveness.run_once()
        runtime.before_answer.set()
        assert cut == []
        assert isinstance(await worker.receive(), Registered)
        assert coordinator.liveness.run_once() == []


async def test_workers_are_told_when_the_engine_goes() -> None:
    runtime = PlainRuntime()
    coordinator = Coordinator(runtime, dialing.tenant_of_token, settings=dialing.PATIENT)
    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        address = await nursery.start(coordinator.serve, dialing.LOCAL)
        seen: list[object] = []
        told = trio.Event()

        async def work() -> None:
            async with dialed(address) as worker:
                await worker.register("order")
                runtime.start(ACME, "order", RUN)
                told.set()
                while (frame := await worker.receive()) is not None:
                    seen.append(frame)

        outer.start_soon(work)
        await told.wait()
        nursery.cancel_scope.cancel()
    assert seen[0][:2] == ("dispatch", RUN)  # type: ignore[index]
    assert isinstance(seen[1], Draining)
    assert "connect again" in seen[1].reason
    assert runtime.sessions[0].disconnects == 1
    assert runtime.sessions[0].worker.draining, "its runs are taken back without a mark on them"


async def test_a_deaf_worker_does_not_hold_up_the_end() -> None:
    runtime = PlainRuntime()
    coordinator = Coordinator(
        runtime, dialing.tenant_of_token, settings=CoordinatorSettings(farewell_ms=50)
    )
    ended = trio.Event()

    async def listen_to_nothing(task_status: trio.TaskStatus[None]) -> None:
        async with dialed(address) as deaf:
            await deaf.register()
            task_status.started()
            await ended.wait()

    with trio.fail_after(60):
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:
                address = await nursery.start(coordinator.serve, dialing.LOCAL)
                await outer.start(listen_to_nothing)
                for epoch in range(20):
                    entry = (3, bytes(1_000_000), 0, 0)
                    port = runtime.sessions[0].worker.port
                    port.send(frames.build_deliver(RUN, epoch, [entry]))
                nursery.cancel_scope.cancel()
            ended.set()
    assert coordinator.streams == ()
    assert runtime.sessions[0].disconnects == 1


class Broken(PlainRuntime):
    """Has a defect that shows for the workers of one tenant."""

    async def connect_worker(self, tenant_id: TenantId, *rest: Any) -> Any:
        if tenant_id == POISONED:
            raise AssertionError("a defect of the runtime")
        return await super().connect_worker(tenant_id, *rest)


def failing(*_: object) -> None:
    raise ZeroDivisionError("a defect of the runtime")


async def goes_on(runtime: PlainRuntime, worker: DialedWorker, run: RunId) -> None:
    """The worker gets a run, reports it, and is told that this is durable."""
    runtime.start(ACME, "order", run)
    dispatch = await worker.receive()
    assert dispatch[:2] == ("dispatch", run)
    await worker.send(frames.build_report(run, dispatch[2], 1, [(3, b"")]))
    assert (await worker.receive())[:2] == ("ack", run)


async def test_a_worker_whose_registration_meets_a_defect_ends_its_own_stream() -> None:
    runtime = Broken()
    async with serving(runtime) as (address, coordinator), dialed(address) as other:
        await other.register("order", worker_id="other")
        for _ in range(2):
            async with dialed(address) as poisoner:
                await poisoner.send(register_frame(token=POISONED))
                refused = await poisoner.refusal()
                assert (refused.code, refused.fatal) == ("internal_error", True)
                assert await poisoner.receive() is None
        await goes_on(runtime, other, RUN)
        assert coordinator.defects.count == 1, "the second time it was not let in"


@pytest.mark.parametrize("method", ["report", "emit", "heartbeat", "drain"])
async def test_a_defect_in_the_taking_of_a_frame_ends_that_stream_alone(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = PlainRuntime()
    frame = {
        "report": frames.build_report(RUN, 1, 1, [(3, b"")]),
        "emit": frames.build_emit(RUN, 1, "log.x", b"1"),
        "heartbeat": wire.encode(Heartbeat()),
        "drain": wire.encode(Drain()),
    }[method]
    async with serving(runtime) as (address, _), dialed(address) as other:
        await other.register("order", worker_id="other")
        async with dialed(address) as poisoner:
            await poisoner.register(token=POISONED)
            monkeypatch.setattr(runtime.sessions[-1], method, failing)
            await poisoner.send(frame)
            assert (await poisoner.refusal()).code == "internal_error"
            assert await poisoner.receive() is None
        await goes_on(runtime, other, RUN)


@pytest.mark.parametrize("method", ["resume", "disconnect"])
async def test_a_defect_at_the_end_of_a_stream_is_that_streams(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, coordinator), dialed(address) as other:
        await other.register("order", worker_id="other")
        async with dialed(address) as poisoner:
            await poisoner.register(token=POISONED)
            monkeypatch.setattr(runtime.sessions[-1], method, failing)
            if method == "resume":
                monkeypatch.setattr(Outbox, "resumes", lambda outbox: True)
                runtime.sessions[-1].worker.port.send(frames.build_ack(RUN, 1, 1))
                await wait_defect(coordinator)
                monkeypatch.undo()
            else:
                await poisoner.end()
                await wait_defect(coordinator)
        await goes_on(runtime, other, RUN)


async def wait_defect(coordinator: Coordinator) -> None:
    with trio.fail_after(10):
        while not coordinator.defects.count:
            await trio.lowlevel.checkpoint()


async def test_a_port_that_is_taken_names_the_option() -> None:
    async with serving(PlainRuntime()) as (address, _):
        second = Coordinator(PlainRuntime(), dialing.tenant_of_token, settings=dialing.PATIENT)
        with pytest.raises(AddressInUse, match=rf"{address}: another process .*--grpc HOST:PORT"):
            await second.serve(address)


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
async def test_an_address_that_is_not_ours_names_the_option(host: str) -> None:
    coordinator = Coordinator(PlainRuntime(), dialing.tenant_of_token, settings=dialing.PATIENT)
    with pytest.raises(InvalidSettings, match="--grpc"):
        await coordinator.serve(Address(host, 34180))


async def test_the_port_is_free_again_afterwards() -> None:
    async with serving(PlainRuntime()) as (address, _), dialed(address) as worker:
        await worker.register()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        assert again.connect_ex(address) == errno.ECONNREFUSED
        again.close()
    async with trio.open_nursery() as nursery:
        coordinator = Coordinator(PlainRuntime(), dialing.tenant_of_token, settings=dialing.PATIENT)
        assert await nursery.start(coordinator.serve, address) == address
        nursery.cancel_scope.cancel()
