"""What a worker may not do is answered with a reason and what to do, and then the stream ends."""

from __future__ import annotations

import pytest

from engine.base import limits
from engine.base.errors import EngineError, InvalidInput, StorageFailed, Unauthorized
from engine.base.ids import TenantId
from engine.coordinator.ports import Peer
from engine.coordinator.server import Coordinator
from engine.ext import frames
from engine.model.runs import ComponentKind
from engine.model.worker_frames import Component, Heartbeat
from engine.wire import worker as wire
from tests.coordinator import dialing
from tests.coordinator.dialing import dialed, register_frame, serving
from tests.coordinator.plain_runtime import PlainRuntime

ORDER = Component(name="order", kind=ComponentKind.WORKFLOW)
HEARTBEAT = wire.encode(Heartbeat(sent_ms=1))


@pytest.mark.parametrize(
    ("first", "code", "advice"),
    [
        (register_frame(sdk_version="9.0.0"), "unsupported_sdk", "pip install 'durable-engine=="),
        (register_frame(capacity=0), "invalid_input", "capacity is 0"),
        (register_frame(components=(ORDER, ORDER)), "duplicate_component", "rename one"),
        (register_frame(components=()), "invalid_input", "registers 0 components"),
        (register_frame(deployment_id="../x"), "invalid_name", "deployment_id '../x'"),
        (HEARTBEAT, "invalid_input", "the first frame of a stream is Register"),
        (frames.build_emit(b"r" * 16, 1, "log.x", b""), "invalid_input", "Register"),
        (b"\x9a\x06\x03abc", "invalid_input", "the first frame of a stream is Register"),
        (b"\x0a\x02\xff", "malformed_record", "cannot be read"),
    ],
)
async def test_a_first_frame_that_is_not_accepted(first: bytes, code: str, advice: str) -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.send(first)
        refused = await worker.refusal()
        assert refused.code == code
        assert advice in refused.message
        assert runtime.sessions == []
        assert runtime.pools.workers(TenantId("acme")) == ()


async def test_who_has_no_right_to_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def nobody(token: str, peer: Peer) -> TenantId:
        asked.append((token, peer.is_loopback))
        raise Unauthorized("the token is not known: make one with `engine keys create`")

    monkeypatch.setattr(dialing, "tenant_of_token", nobody)
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        # A wrong version as well: who is not known is told nothing else.
        await worker.send(register_frame(token="stolen", sdk_version="9.0.0"))
        refused = await worker.refusal()
        assert refused.code == "unauthorized"
        assert "engine keys create" in refused.message
        assert asked == [("stolen", True)]
        assert runtime.sessions == []


async def test_what_the_runtime_refuses_reaches_the_worker() -> None:
    runtime = PlainRuntime()
    runtime.refuse_with = StorageFailed("the tenant is stopped: look at the disk")
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.send(register_frame())
        assert (await worker.refusal()).code == "storage_failed"


async def test_a_kind_that_other_workers_do_not_share() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as one, dialed(address) as two:
        await one.register("order")
        function = Component(name="order", kind=ComponentKind.FUNCTION)
        await two.send(register_frame(worker_id="w2", components=(function,)))
        refused = await two.refusal()
        assert refused.code == "duplicate_component"
        assert "worker 'w1'" in refused.message
        assert len(runtime.pools.workers(TenantId("acme"))) == 1


async def test_a_second_registration_ends_the_session() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        await worker.send(register_frame())
        assert "this stream is registered already" in (await worker.refusal()).message
        assert runtime.sessions[0].disconnects == 1


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (b"\x00\x00\x00\x00\x03\x0a\x05\x1a", "malformed_record", "cannot be read"),
        (b"\x00\x00\x00\x00\x04\x0a\x02\x1a\x09", "malformed_record", "cannot be read"),
        (b"\x01\x00\x00\x00\x01x", "invalid_input", "compressed"),
        (b"\x00\xff\xff\xff\xff", "limit_exceeded", "4294967295 bytes"),
    ],
)
async def test_bytes_that_are_no_frames(data: bytes, code: str, reason: str) -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        await worker.send_bytes(data)
        refused = await worker.refusal()
        assert refused.code == code
        assert reason in refused.message
        assert runtime.sessions[0].disconnects == 1
        async with dialed(address) as other:
            await other.register()


async def test_a_stream_that_ends_within_a_message() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        await worker.send_bytes(b"\x00\x00\x00\x00\x09abc")
        await worker.end()
        assert "in the middle of a message" in (await worker.refusal()).message


async def test_the_largest_message_is_taken_and_the_next_one_refused() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        frame = frames.build_emit(b"r" * 16, 1, "log.x", b"")
        room = limits.stream_message_bytes_max - len(frame) - 16
        fits = frames.pack_frames([frames.build_emit(b"r" * 16, 1, "log.x", b"x" * room)])
        assert limits.stream_message_bytes_max - 16 < len(fits) <= limits.stream_message_bytes_max
        await worker.send_message(fits)
        await worker.heartbeat()
        await runtime.sessions[0].heard.wait()
        assert len(runtime.sessions[0].emitted[0][2]) == room
        # Of this one only the length is read; the worker need not have sent the rest.
        length = (limits.stream_message_bytes_max + 1).to_bytes(4, "big")
        await worker.send_bytes(b"\x00" + length + b"x" * 1_000)
        assert (await worker.refusal()).code == "limit_exceeded"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\x0a" + b"\xff\xff\x3f" + bytes(2**20 - 1), "at most 1048576 are taken here"),
        (b"\x0a\xa0\x1f" + b"\x22\x00" * 2_000, "at most 1000 components"),
        (b"\x0a\x03\x0a\x01\xff", "not a Register frame"),
    ],
)
async def test_who_is_not_known_yet_has_little_done_for_it(
    frame: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "decode_worker_frame", None)
    async with serving(PlainRuntime()) as (address, _), dialed(address) as worker:
        await worker.send(frame)
        assert reason in (await worker.refusal()).message


async def test_few_bytes_do_not_become_many_frames() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        await worker.send_message(b"\x0a\x00" * (limits.stream_message_frames_max + 1))
        refused = await worker.refusal()
        assert refused.code == "limit_exceeded"
        assert "frames" in refused.message


async def test_a_long_reason_is_cut() -> None:
    runtime = PlainRuntime()
    runtime.refuse_with = EngineError("x" * 100_000)
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.send(register_frame())
        assert len((await worker.refusal()).message) == limits.stream_refusal_characters_max


async def test_a_coordinator_knows_its_method_only() -> None:
    coordinator = Coordinator(PlainRuntime(), dialing.tenant_of_token, settings=dialing.PATIENT)
    assert list(coordinator.__mapping__()) == ["/engine.v1.Coordinator/Connect"]


async def test_an_event_is_handed_on_whole_and_refused_by_its_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed_on: list[tuple[object, ...]] = []

    def refuse(*event: object) -> None:
        handed_on.append(event)
        raise InvalidInput("not this one", field="event")

    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        monkeypatch.setattr(runtime.sessions[0], "emit", refuse)
        await worker.send(frames.build_emit(b"r" * 16, 7, "log.x", b"1"))
        refused = await worker.receive()
    assert handed_on == [(b"r" * 16, 7, "log.x", b"1")]
    assert (refused.code, refused.run_id, refused.fatal) == ("invalid_input", b"r" * 16, False)
