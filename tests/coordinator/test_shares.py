"""What one tenant's workers send, and how many they are, is bounded for all of them together: they
wait for one another, and the workers of other tenants do not wait for them."""

from __future__ import annotations

import resource

import pytest
import trio

from engine.base import limits
from engine.base.allowance import Allowance
from engine.base.ids import RunId, TenantId
from engine.coordinator.shares import Shares, connections_max
from engine.ext import frames
from engine.model.worker_frames import Heartbeat, Registered
from engine.wire import worker as wire
from tests.coordinator.dialing import dialed, register_frame, serving
from tests.coordinator.plain_runtime import PlainRuntime
from tests.coordinator.test_endings import goes_on

ACME = TenantId("acme")
RUN = RunId(b"r" * 16)
BEAT = wire.encode(Heartbeat(sent_ms=1))
EMIT = frames.build_emit(RUN, 1, "log.x", b"1")
STALE_REPORT = frames.build_report(RUN, 1, 1, [(3, b"")])


def test_what_is_overspent_is_made_good_in_time() -> None:
    allowance = Allowance(10, 5, 0.0)
    assert allowance.spend(10, 0.0) == 0
    assert allowance.spend(5, 0.0) == 1
    assert allowance.spend(0, 0.4) == pytest.approx(0.6)
    assert allowance.spend(0, 1.0) == 0
    assert allowance.spend(11, 1_000.0) == pytest.approx(0.2), "no more is kept than at once"


@pytest.mark.parametrize("frame", [BEAT, EMIT, STALE_REPORT])
async def test_a_tenant_that_sends_too_much_waits_alone(
    frame: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence is not held against it meanwhile: it is the engine that does not read."""
    monkeypatch.setattr(limits, "stream_tenant_frames_at_once_max", 500)
    monkeypatch.setattr(limits, "stream_tenant_frames_per_s_max", 500)
    runtime = PlainRuntime()
    async with (
        serving(runtime) as (address, coordinator),
        dialed(address) as noisy,
        dialed(address) as calm,
    ):
        await noisy.register("noise", token="globex")
        await calm.register("order", worker_id="w2", capacity=10_000)
        flood = runtime.sessions[0]
        began_s = trio.current_time()
        await noisy.send_message(frames.pack_frames([frame] * 1_000))
        number, was_held_up = 0, False
        while (taken := flood.heartbeats + len(flood.emitted) + flood.reports) < 900:
            assert taken <= 600 + 600 * (trio.current_time() - began_s)
            await goes_on(runtime, calm, RunId(b"%16d" % number))
            number += 1
            was_held_up |= any(stream.pulse.held_up for stream in coordinator.streams)
        assert was_held_up
        assert trio.current_time() - began_s > 0.5


async def test_registrations_count_by_what_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand components are some three thousand frames, which are made good in 20 s here."""
    monkeypatch.setattr(limits, "stream_tenant_frames_at_once_max", 1_000)
    monkeypatch.setattr(limits, "stream_tenant_frames_per_s_max", 100)
    names = [f"c{number}" for number in range(1_000)]
    async with serving(PlainRuntime()) as (address, coordinator), dialed(address) as first:
        await first.register(*names)
        async with dialed(address) as second, dialed(address) as other:
            await second.send(register_frame(*names, worker_id="w2"))
            while not any(stream.pulse.held_up for stream in coordinator.streams):
                await trio.lowlevel.checkpoint()
            await other.register(token="globex")
            with trio.move_on_after(0.5) as waited:
                await second.receive()
            assert waited.cancelled_caught


async def test_no_tenant_has_more_than_half_of_the_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "stream_connections_max", 8)
    runtime = PlainRuntime()
    async with serving(runtime) as (address, _), trio.open_nursery() as nursery:

        async def stays(worker_id: str, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            async with dialed(address) as worker:
                await worker.register(worker_id=worker_id)
                with trio.CancelScope() as scope:
                    task_status.started(scope)
                    await trio.sleep_forever()

        scopes = [await nursery.start(stays, f"w{number}") for number in range(4)]
        async with dialed(address) as fifth:
            await fifth.send(register_frame(worker_id="fifth"))
            assert (await fifth.refusal()).code == "rate_limited"
        async with dialed(address) as other:
            await other.register(token="globex")
        scopes[0].cancel()
        await runtime.left.wait()
        with trio.fail_after(10):
            while True:
                async with dialed(address) as fifth:
                    await fifth.send(register_frame(worker_id="fifth"))
                    if isinstance(await fifth.receive(), Registered):
                        break
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("files", "connections"), [(1_024, 256), (1_000_000, 20_000), (resource.RLIM_INFINITY, 20_000)]
)
def test_connections_leave_files_for_the_rest(
    files: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (files, files))
    assert connections_max() == connections


def test_nothing_is_kept_of_tenants_that_have_left() -> None:
    shares = Shares()
    share = shares.of(ACME, 0.0)
    assert shares.of(ACME, 1.0) is share
    del share
    assert len(shares._known) == 0
