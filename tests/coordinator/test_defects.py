"""A worker that meets a defect of the engine comes back with what met it: it is let in less and
less often, the log stays small, and the workers beside it, of its tenant and of others, go on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from engine.base import limits
from engine.base.clock import ManualClock
from engine.base.errors import TenantFailed
from engine.base.ids import RunId, TenantId
from engine.config.coordinator import CoordinatorSettings
from engine.config.settings import JournalSettings
from engine.coordinator.defects import Defects
from engine.coordinator.offenders import Offenders
from engine.coordinator.server import Coordinator
from engine.ext import frames
from engine.model.runs import RunStatus
from engine.model.worker_frames import Draining, Refused, Registered
from engine.runtime import workers
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.wire.journal import encode, kind_of
from tests.coordinator import dialing
from tests.coordinator.dialing import DialedWorker, dialed, register_frame, serving
from tests.coordinator.plain_runtime import PlainRuntime, Session
from tests.coordinator.test_endings import goes_on
from tests.runtime.conftest import CONTEXT
from tests.runtime.test_runs import DONE, request

ACME = TenantId("acme")
RUN = RunId(b"r" * 16)
REPORT = frames.build_report(RUN, 1, 1, [(3, b"")])
SECOND_US = 1_000_000


def failing(*_: object) -> None:
    raise ZeroDivisionError("a defect of the runtime")


def failing_for_the_tenant(*_: object) -> None:
    try:
        failing()
    except ZeroDivisionError as failure:
        raise TenantFailed.by(failure, "a report") from failure


def tenant_is_stopped(*_: object) -> None:
    """As it is said to those who only come by while the tenant is stopped."""
    raise TenantFailed("another worker's report failed")


class Poisoned(PlainRuntime):
    """Has a defect that shows when a worker reports whose id says so."""

    def __init__(self) -> None:
        super().__init__()
        self.reporting = failing

    async def connect_worker(self, tenant_id, register, port) -> Session:  # type: ignore[no-untyped-def]
        session = await super().connect_worker(tenant_id, register, port)
        if not register.worker_id.startswith("other"):
            session.report = self.reporting  # type: ignore[method-assign]
        return session


async def comes_with_poison(address: object, **changes: object) -> Refused:
    """A worker that registers and reports at once; what it is told at the end."""
    async with dialed(address) as poisoner:  # type: ignore[arg-type]
        await poisoner.send(register_frame(**changes), REPORT)
        with contextlib.suppress(Exception):
            while not isinstance(answer := await poisoner.receive(), Refused):
                assert isinstance(answer, Registered)
        assert isinstance(answer, Refused)
        assert answer.fatal
        return answer


async def test_a_worker_that_comes_back_with_its_poison_is_let_in_less_and_less_often() -> None:
    runtime, clock = Poisoned(), ManualClock()
    async with serving(runtime, clock=clock) as (address, coordinator), dialed(address) as other:
        await other.register("order", worker_id="other")
        for _ in range(30):
            assert (await comes_with_poison(address)).code == "internal_error"
        assert coordinator.defects.count == 1, "the other times it was not let in"
        assert len(runtime.sessions) == 2
        waits_s = []
        for _ in range(8):
            waited_s = 0
            while coordinator.defects.count == len(waits_s) + 1:
                clock.advance_us(SECOND_US)
                waited_s += 1
                refused = await comes_with_poison(address)
            waits_s.append(waited_s)
        assert waits_s == sorted(waits_s)
        assert waits_s[0] < waits_s[-1] == limits.offender_wait_ms_max / 1_000
        assert refused.code == "internal_error"
        await goes_on(runtime, other, RUN)


async def test_a_worker_of_another_name_or_tenant_is_let_in() -> None:
    runtime = Poisoned()
    async with serving(runtime) as (address, coordinator):
        await comes_with_poison(address, worker_id="one")
        for number, changes in enumerate(({"worker_id": "two"}, {"token": "globex"}), 2):
            await comes_with_poison(address, **({"worker_id": "one"} | changes))
            assert coordinator.defects.count == number
        async with dialed(address) as other:
            await other.register(worker_id="other")


@pytest.mark.parametrize("worker_id", ["w1", "w{}", ""])
async def test_a_tenant_with_such_a_worker_works_on_and_the_log_stays_small(
    worker_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Under one name, under ever new ones, and without any: a healthy worker of the same tenant
    comes in at any time, and one that is there is not disturbed."""
    runtime, clock = Poisoned(), ManualClock()
    async with serving(runtime, clock=clock) as (address, coordinator), dialed(address) as other:
        await other.register("order", worker_id="other")
        for number in range(30):
            await comes_with_poison(address, worker_id=worker_id.format(number))
        assert coordinator.defects.count == (1 if worker_id == "w1" else 30)
        async with dialed(address) as healthy:
            await healthy.register("order", worker_id="other-2")
        await goes_on(runtime, other, RUN)
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


async def test_a_frame_that_stops_its_tenant_ends_the_session_that_brought_it() -> None:
    runtime = Poisoned()
    runtime.reporting = failing_for_the_tenant
    async with serving(runtime) as (address, _):
        assert (await comes_with_poison(address)).code == "storage_failed"
        assert (await comes_with_poison(address)).code == "internal_error"
        assert len(runtime.sessions) == 1


async def test_a_report_that_stops_its_tenant_comes_less_often_and_the_tenant_works_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real runtime behind the door: the tenant goes on from its disk, its other worker
    keeps its session, and who brought the report is kept out under its name."""

    def check(entries: Sequence[tuple[int, bytes]]) -> None:
        if entries[0][1] == b"poison":
            raise ZeroDivisionError("a defect of the runtime")

    monkeypatch.setattr(workers, "check_report", check)
    async with open_engine(tmp_path, JournalSettings()) as opened:
        handle = Handle(opened)
        async with serving(handle) as (address, coordinator), dialed(address) as healthy:
            await healthy.register("order", worker_id="healthy")
            async with dialed(address) as poisoner:
                await poisoner.register("checkout", worker_id="w1")
                await handle.start(CONTEXT, request())
                _, run, epoch, *_ = await poisoner.receive()
                await poisoner.send(frames.build_report(run, epoch, 1, [(3, b"poison")]))
                while not isinstance(refused := await poisoner.receive(), Refused):
                    pass
                assert (refused.code, refused.fatal) == ("storage_failed", True)
            async with dialed(address) as poisoner:
                await poisoner.send(register_frame("checkout", worker_id="w1"))
                assert "is let in again in 1 s" in (await poisoner.refusal()).message
            assert coordinator.defects.count == 0, "the runtime has contained it"
            with trio.fail_after(20):
                await goes_on_for_real(handle, healthy)


async def goes_on_for_real(handle: Handle, worker: DialedWorker) -> None:
    started = await handle.start(CONTEXT, request("order"))
    while (frame := await worker.receive())[:2] != ("dispatch", started.run_id):
        assert frame is not None
    done = [(kind_of(DONE), encode(DONE))]
    await worker.send(frames.build_report(frame[1], frame[2], 1, done))
    outcome = await handle.wait_outcome(CONTEXT, started.run_id)
    assert outcome.status is RunStatus.COMPLETED


async def test_who_only_finds_the_tenant_stopped_stays() -> None:
    runtime = Poisoned()
    runtime.reporting = tenant_is_stopped
    async with serving(runtime) as (address, _), dialed(address) as worker:
        await worker.register()
        await worker.send(REPORT)
        refused = await worker.receive()
        assert (refused.code, refused.fatal) == ("storage_failed", False)
        await worker.end()
        assert await worker.receive() is None


@pytest.mark.parametrize("raised", [failing, failing_for_the_tenant, tenant_is_stopped])
async def test_a_session_that_cannot_be_ended_does_not_end_the_service(
    raised: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where liveness cuts the stream off, nor where what was sent has overflowed."""
    runtime, clock = PlainRuntime(), ManualClock()
    settings = CoordinatorSettings(heartbeat_ms=50, lease_ms=150)
    async with serving(runtime, settings, clock=clock) as (address, coordinator):
        for way in ("liveness", "overflow"):
            async with dialed(address) as worker:
                await worker.register(worker_id=way)
                session = runtime.sessions[-1]
                monkeypatch.setattr(session, "disconnect", raised)
                if way == "liveness":
                    while not coordinator.liveness.run_once():
                        clock.advance_us(10_000)
                else:
                    monkeypatch.setattr(limits, "stream_outgoing_bytes_max", 8)
                    session.worker.port.send(REPORT)
                    monkeypatch.undo()
                    monkeypatch.setattr(session, "disconnect", raised)
                await worker.cut_off()
        async with dialed(address) as other:
            await other.register("shipping", worker_id="other")


@pytest.mark.parametrize("raised", [failing, failing_for_the_tenant])
async def test_a_session_that_cannot_be_drained_keeps_no_goodbye_from_the_others(
    raised: object,
) -> None:
    runtime = PlainRuntime()
    coordinator = Coordinator(runtime, dialing.tenant_of_token, settings=dialing.PATIENT)
    told: list[object] = []

    async def listen(worker_id: str, task_status: trio.TaskStatus[None]) -> None:
        async with dialed(address) as worker:
            await worker.register("order", worker_id=worker_id)
            task_status.started()
            told.append(await worker.receive())

    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        address = await nursery.start(coordinator.serve, dialing.LOCAL)
        for number in range(4):
            await outer.start(listen, f"w{number}")
            runtime.sessions[-1].drain = raised  # type: ignore[assignment,method-assign]
        nursery.cancel_scope.cancel()
    assert [type(frame) for frame in told] == [Draining] * 4


def test_the_log_has_each_place_once_and_the_rest_as_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    defects = Defects(clock)

    def elsewhere() -> None:
        raise ZeroDivisionError

    for _ in range(2_000):
        for place in (failing, elsewhere):
            try:
                place()
            except ZeroDivisionError as failure:
                defects.note("reading from a worker", failure)
        clock.advance_us(SECOND_US)
    whole = [record for record in caplog.records if record.exc_info]
    assert len(whole) == 2
    assert len(caplog.records) <= 2 + 2_000 * 1_000 // limits.defects_told_ms + 1
    assert defects.count == 4_000
    assert "failures so far" in caplog.records[-1].message


def test_an_offender_that_behaves_for_long_is_as_any_other() -> None:
    clock = ManualClock()
    offenders = Offenders(clock)
    for _ in range(10):
        offenders.note(ACME, "w1")
    assert offenders.wait_ms(ACME, "w1") == limits.offender_wait_ms_max
    clock.advance_us(limits.offender_forgiven_ms * 1_000)
    assert offenders.wait_ms(ACME, "w1") == 0
    offenders.note(ACME, "w1")
    assert offenders.wait_ms(ACME, "w1") == limits.offender_wait_ms_initial


def test_offenders_are_few_in_memory() -> None:
    offenders = Offenders(ManualClock())
    for number in range(3 * limits.offenders_kept_max):
        offenders.note(TenantId(f"t{number}"), "w")
    assert len(offenders) <= limits.offenders_kept_max
