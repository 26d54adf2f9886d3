"""One worker and the runtime talk: registration, dispatches, reports, leaving, being replaced."""

from __future__ import annotations

import trio

import engine
from engine.base.ids import RunId, TenantId
from engine.config.coordinator import CoordinatorSettings
from engine.ext import frames
from engine.model.worker_frames import Refused, Registered
from tests.coordinator.dialing import dialed, register_frame, reports, serving
from tests.coordinator.plain_runtime import PlainRuntime

ACME = TenantId("acme")
RIVAL = TenantId("rival")


def run(number: int) -> RunId:
    return RunId(number.to_bytes(16, "big"))


async def test_a_run_goes_to_a_worker_and_its_reports_come_back() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register("order")
        runtime.start(ACME, "order", run(1))
        assert await worker.receive() == ("dispatch", run(1), 1, 1, "order", 2, [], False)
        await worker.send(*reports(run(1), 1, [b"first", b"second"]))
        assert await worker.receive() == ("ack", run(1), 1, 1)
        assert await worker.receive() == ("ack", run(1), 1, 2)
        assert runtime.journal[ACME, run(1)] == [(3, b"first"), (3, b"second")]


async def test_the_answer_to_a_registration_says_what_was_agreed() -> None:
    runtime = PlainRuntime()
    settings = CoordinatorSettings(heartbeat_ms=700, lease_ms=2_100)
    async with serving(runtime, settings) as (address, _), dialed(address) as worker:
        answer = await worker.register(worker_id="", deployment_id="")
        assert answer == Registered(
            worker_id=answer.worker_id,
            session=runtime.sessions[0].number,
            heartbeat_ms=700,
            lease_ms=2_100,
            engine_version=engine.__version__,
        )
        assert answer.worker_id.startswith("worker-")
        assert [served.deployment_id for served in runtime.pools.components(ACME)] == ["default"]


async def test_the_answer_comes_before_what_was_waiting() -> None:
    runtime = PlainRuntime()
    runtime.start(ACME, "order", run(1))
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.send(register_frame("order"))
        assert isinstance(await worker.receive(), Registered)
        assert (await worker.receive())[:2] == ("dispatch", run(1))


async def test_frames_behind_the_registration_in_its_message_count() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.send(register_frame("order"), frames.build_emit(run(1), 1, "log.info", b"{}"))
        assert isinstance(await worker.receive(), Registered)
        await worker.end()
        assert await worker.receive() is None
        assert runtime.sessions[0].emitted == [(run(1), "log.info", b"{}")]


async def test_what_is_ready_leaves_in_one_message_and_in_order() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register("order", capacity=1_000)
        for number in range(1_000):
            runtime.start(ACME, "order", run(number))
        dispatched = [(await worker.receive())[1] for _ in range(1_000)]
        assert dispatched == [run(number) for number in range(1_000)]
        assert worker.messages_received == 2
        batch = [frames.build_report(run(number), 1, 1, []) for number in range(1_000)]
        await worker.send(*batch)
        acknowledged = [(await worker.receive())[1] for _ in range(1_000)]
        assert acknowledged == dispatched
        assert worker.messages_received < 30


async def test_a_long_message_is_sent_in_several() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        port = runtime.sessions[0].worker.port
        entry = (3, b"x" * 100_000, 0, 0)
        for epoch in range(1, 11):
            port.send(frames.build_deliver(run(1), epoch, [entry]))
        port.send(frames.build_deliver(run(1), 11, [(3, b"x" * 3_000_000, 0, 0)]))
        assert [(await worker.receive())[2] for _ in range(11)] == list(range(1, 12))
        assert worker.messages_received == 1 + 5 + 1


async def test_heartbeats_reach_the_session() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        await worker.heartbeat()
        await runtime.sessions[0].heard.wait()


async def test_a_stale_report_is_refused_and_the_stream_goes_on() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        runtime.start(ACME, "order", run(1))
        await worker.receive()
        await worker.send(frames.build_report(run(1), 9, 4, [(3, b"late")]))
        refused = await worker.receive()
        assert isinstance(refused, Refused)
        assert (refused.code, refused.run_id, refused.sequence) == ("stale_fence", run(1), 4)
        assert not refused.fatal
        assert runtime.journal == {}
        await worker.send(*reports(run(1), 1, [b"in time"]))
        assert await worker.receive() == ("ack", run(1), 1, 1)


async def test_frames_of_a_newer_version_are_skipped() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        unknown = b"\x9a\x06\x03abc"  # member 99
        await worker.send(unknown, b"", frames.build_emit(run(1), 1, "log.x", b"1"))
        await worker.heartbeat()
        await runtime.sessions[0].heard.wait()
        assert len(runtime.sessions[0].emitted) == 1


async def test_a_worker_that_ends_its_side_gets_the_rest_and_its_runs_move() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _):
        async with dialed(address) as worker:
            await worker.register("order")
            runtime.start(ACME, "order", run(1))
            await worker.receive()
            await worker.send(*reports(run(1), 1, [b"done"]))
            await worker.end()
            assert await worker.receive() == ("ack", run(1), 1, 1)
            assert await worker.receive() is None
            assert runtime.sessions[0].disconnects == 1
        async with dialed(address) as other:
            await other.register("order", worker_id="w2")
            dispatched = await other.receive()
            assert dispatched[1:3] == (run(1), 2)
            assert dispatched[6] == [(3, b"done", 0, 0)]


async def test_a_worker_that_dies_is_gone_at_once() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, coordinator):
        async with dialed(address) as worker, dialed(address) as other:
            await worker.register("order")
            await other.register("other", worker_id="w2")
            runtime.start(ACME, "order", run(1))
            await worker.receive()
            worker.hang_up()
            await runtime.left.wait()
            assert [queued[3] for queued in runtime.queue] == [run(1)]
            assert [w.worker_id for w in runtime.pools.workers(ACME)] == ["w2"]
        assert [session.disconnects for session in runtime.sessions] == [1, 1]
    assert coordinator.streams == ()


async def test_the_same_worker_again_fences_its_earlier_session() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as old, dialed(address) as new:
        await old.register("order")
        runtime.start(ACME, "order", run(1))
        await old.receive()
        assert (await new.register("order")).session > runtime.sessions[0].number
        assert (await new.receive())[1:3] == (run(1), 2)
        refused = await old.refusal()
        assert refused.code == "stale_fence"
        assert "another session" in refused.message
        assert runtime.sessions[0].disconnects == 1
        await new.send(*reports(run(1), 2, [b"mine"]))
        assert await new.receive() == ("ack", run(1), 2, 1)


async def test_a_fenced_session_is_not_heard_any_more() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as old, dialed(address) as new:
        await old.register("order")
        await new.register("order")
        await old.send(frames.build_emit(run(1), 1, "log.x", b"1"))
        await old.refusal()
        assert runtime.sessions[0].emitted == []


async def test_what_stands_behind_the_frame_that_ended_the_session_does_not_count() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register("order")
        session = runtime.sessions[0]
        session.emitting = lambda: session.worker.port.close("enough", code="gone")
        emit = frames.build_emit(run(1), 1, "log.x", b"1")
        await worker.send(emit, emit, emit)
        refused = await worker.refusal()
        assert (refused.code, refused.message) == ("gone", "enough")
        assert len(session.emitted) == 1


async def test_a_draining_worker_finishes_and_gets_nothing_more() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register("order")
        runtime.start(ACME, "order", run(1))
        await worker.receive()
        await worker.drain("a new version is there")
        await worker.heartbeat()
        await runtime.sessions[0].heard.wait()
        runtime.start(ACME, "order", run(2))
        await worker.send(*reports(run(1), 1, [b"last"]))
        assert await worker.receive() == ("ack", run(1), 1, 1)
        await worker.end()
        assert await worker.receive() is None
        assert [queued[3] for queued in runtime.queue] == [run(2), run(1)]


async def test_tenants_do_not_meet() -> None:
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), dialed(address) as ours, dialed(address) as theirs:
        await ours.register("order", token="acme", capacity=1)
        await theirs.register("order", token="rival", capacity=100)
        runtime.start(ACME, "order", run(1))
        runtime.start(ACME, "order", run(2))
        runtime.start(RIVAL, "order", run(3))
        assert (await ours.receive())[1] == run(1)
        assert (await theirs.receive())[1] == run(3)
        assert [queued[3] for queued in runtime.queue] == [run(2)]
        # Knowing the run and the epoch is not enough either.
        await theirs.send(*reports(run(1), 1, [b"intruder"]))
        assert (await theirs.receive()).code == "stale_fence"
        assert runtime.journal == {}
        assert len(runtime.sessions) == 2  # nobody fenced the other of the same worker id


async def test_many_workers_at_once() -> None:
    runtime = PlainRuntime()

    async def work(number: int) -> None:
        async with dialed(address) as worker:
            await worker.register("order", worker_id=f"w{number}", capacity=1)
            registered.append(number)
            _, held, epoch, *_ = await worker.receive()
            await worker.send(*reports(held, epoch, [b"%d" % number] * 20))
            assert [(await worker.receive())[3] for _ in range(20)] == list(range(1, 21))
            finished.append(number)
            await everybody_finished.wait()

    registered: list[int] = []
    finished: list[int] = []
    everybody_finished = trio.Event()
    for number in range(20):
        runtime.start(ACME, "order", run(number))
    async with serving(runtime) as (address, _), trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(work, number)
        while len(finished) < 20:
            await trio.lowlevel.checkpoint()
        assert len(runtime.journal) == 20
        assert all(len(entries) == 20 for entries in runtime.journal.values())
        everybody_finished.set()
