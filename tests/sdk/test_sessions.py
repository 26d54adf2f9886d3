"""A session: what frames do to the runs that a worker holds."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from engine.base.errors import DuplicateComponent, EngineError, StaleFence
from engine.base.ids import RunId
from engine.ext import frames
from engine.model.payloads import ChildStarted
from engine.model.runs import RunStatus
from engine.model.worker_frames import Draining, Refused, Register, Revoke, RevokeReason
from engine.sdk import Context, StepContext, function, limits, workflow
from engine.sdk.errors import ConnectionLost
from engine.sdk.replay import records
from engine.sdk.worker.workflow_run import WorkflowRun
from engine.wire import worker as wire
from tests.sdk.bench_host import BenchWorker, ManualHost
from tests.sdk.fake_engine import FakeEngine

log: list[str] = []


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    # What earlier tests left half run ends when it is collected, and would say so in this one.
    gc.collect()
    log.clear()


@function
def greet(name: str = "you") -> str:
    log.append(f"greet {name}")
    return f"Hello, {name}"


@workflow
async def hello(ctx: Context, name: str) -> str:
    try:
        text = await ctx.step(greet, name)
        await ctx.signal("go")
        return text
    finally:
        log.append("the code ended")


@pytest.fixture
def worker() -> BenchWorker:
    return BenchWorker(FakeEngine(), [greet, hello])


def receive(worker: BenchWorker, *sent: bytes) -> None:
    worker.session.receive(bytes(frames.pack_frames(list(sent))))


# ---- functions as runs ----


def test_a_function_is_a_run_of_its_own(worker: BenchWorker) -> None:
    run = worker.run(greet, "Ada")
    assert run.result() == "Hello, Ada"
    assert run.kinds()[2:] == ["RUN_COMPLETED"]
    assert worker.run(greet).result() == "Hello, you"


def test_a_function_tells_while_it_runs_and_what_it_consumed() -> None:
    @function
    def talk(ctx: StepContext, x: int) -> int:
        ctx.emit("output.delta", x)
        ctx.usage(model="m", tokens_out=x)
        return ctx.attempt

    worker = BenchWorker(FakeEngine(), [talk])
    run = worker.run(talk, 3)
    assert run.result() == 1
    assert worker.engine.emitted == [("output.delta", 3)]
    assert run.kinds()[2:] == ["USAGE_REPORTED", "RUN_COMPLETED"]


def test_a_function_that_fails_is_tried_again_by_the_engine() -> None:
    @function
    async def flaky(ctx: StepContext) -> int:
        if ctx.attempt < 2:
            raise OSError("once")
        return ctx.attempt

    worker = BenchWorker(FakeEngine(), [flaky])
    worker.engine.attempts_max = 2
    assert worker.run(flaky).result() == 2


@pytest.mark.parametrize("name", ["step", "sleep", "signal", "call", "state"])
def test_a_function_cannot_wait(name: str) -> None:
    @function
    async def waits(ctx: Any) -> None:
        getattr(ctx, name)

    run = BenchWorker(FakeEngine(), [waits]).run(waits)
    assert run.error is not None
    assert f"ctx.{name} is for workflows" in run.error.message


# ---- bad input ----


@pytest.mark.parametrize("component", ["greet", "hello"])
def test_an_input_of_another_type_fails_the_run(worker: BenchWorker, component: str) -> None:
    run = worker.run(component, 5)
    assert run.error is not None
    assert (run.error.code, run.error.non_retryable) == ("invalid_input", True)
    assert "Expected `str`, got `int`" in run.error.message
    assert log == []


def test_a_component_that_is_not_served_fails_the_run(worker: BenchWorker) -> None:
    run = worker.run("helo")
    assert run.error is not None
    assert run.error.code == "unknown_component"
    assert "did you mean hello?" in run.error.message
    assert not run.error.non_retryable, "another worker may serve it"


def test_a_journal_that_cannot_be_read_fails_the_run(worker: BenchWorker) -> None:
    run = worker.engine.start("hello", "Ada")
    run.journal.append((3, b"\x0a\xff", 1, 0))
    worker.settle()
    assert run.error is not None
    assert run.error.code == "malformed_record"


def test_a_journal_that_makes_no_sense_fails_the_run(worker: BenchWorker) -> None:
    run = worker.engine.start("hello", "Ada")
    child = ChildStarted(position=1, child_run_id=run.run_id, mode=77)  # type: ignore[arg-type]
    run.journal.append((*records.encode(child), 1, 0))
    worker.settle()
    assert run.error is not None
    assert run.error.code == "malformed_record"
    assert "cannot be followed (ValueError: 77 is not" in run.error.message


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\x0a\xff", id="no message"),
        pytest.param(b"\x0a\x04\x0a\x02\x0a\xff", id="no frame"),
    ],
)
def test_a_bad_frame_ends_the_session_and_not_the_worker(
    worker: BenchWorker, message: bytes
) -> None:
    with pytest.raises(ConnectionLost, match="could not follow what the engine sent"):
        worker.session.receive(message)


def test_a_delivery_that_cannot_be_read_ends_the_session_and_not_the_worker(
    worker: BenchWorker,
) -> None:
    run = worker.engine.start("hello", "Ada")
    message = worker.engine.take()
    assert message is not None
    worker.session.receive(message)
    with pytest.raises(ConnectionLost, match="SIGNAL_RECEIVED record that cannot be read"):
        receive(worker, frames.build_deliver(run.run_id, run.epoch, [(7, b"\x0a\xff", 99, 0)]))
    worker.session.close()


@pytest.mark.parametrize("is_scheduled", [True, False])
def test_a_turn_that_fails_ends_the_session_and_not_the_worker(
    worker: BenchWorker, monkeypatch: pytest.MonkeyPatch, is_scheduled: bool
) -> None:
    def fail(run: object) -> None:
        raise KeyError(5)

    monkeypatch.setattr(WorkflowRun, "turn", fail)
    if is_scheduled:
        monkeypatch.setattr(ManualHost, "hurry", lambda host: None)
    worker.engine.start("hello", "Ada")
    with pytest.raises(ConnectionLost, match="KeyError: 5"):
        worker.settle()
    worker.session.close()


def test_nothing_runs_before_the_registration_is_accepted(worker: BenchWorker) -> None:
    worker.session.registered = None
    worker.engine.start("hello", "Ada")
    message = worker.engine.take()
    assert message is not None
    with pytest.raises(ConnectionLost, match="before it accepted the registration"):
        worker.session.receive(message)
    assert worker.session.runs_held == 0


@pytest.mark.parametrize("more", [True, False])
def test_far_more_runs_than_the_capacity_end_the_session(worker: BenchWorker, more: bool) -> None:
    worker.session.register(Register(service_name="s", worker_id="w", capacity=10))
    dispatches = [
        frames.build_dispatch(b"%16d" % number, 1, 1, "hello", 1, [], more) for number in range(200)
    ]
    with pytest.raises(ConnectionLost, match="far over its capacity"):
        receive(worker, *dispatches)
    assert worker.session.runs_held <= 2 * 10 + limits.runs_over_capacity_max


def test_a_frame_of_a_newer_engine_is_passed_over(worker: BenchWorker) -> None:
    receive(worker, b"\xfa\x01\x00")
    assert worker.run(greet).result() == "Hello, you"


# ---- losing runs ----


def test_a_cancelled_run_is_stopped_where_it_is(worker: BenchWorker) -> None:
    worker.host.holds_jobs = True
    run = worker.run(hello, "Ada")
    assert worker.session.runs_held == 1
    job, _ = worker.host.jobs[0]
    worker.engine.cancel(run)
    worker.settle()
    assert job.is_stopped
    assert log == ["the code ended"]
    assert worker.session.runs_held == 0
    worker.host.finish()
    worker.settle()
    assert run.status is RunStatus.CANCELLED


def test_a_cancelled_function_is_stopped(worker: BenchWorker) -> None:
    worker.host.holds_jobs = True
    run = worker.run(greet)
    job, _ = worker.host.jobs[0]
    worker.engine.cancel(run)
    worker.settle()
    assert job.is_stopped
    assert worker.session.runs_held == 0


def test_a_revocation_of_an_older_lease_changes_nothing(worker: BenchWorker) -> None:
    worker.host.holds_jobs = True
    run = worker.run(hello, "Ada")
    old = Revoke(run_id=run.run_id, lease_epoch=0, reason=RevokeReason.FENCED)
    receive(worker, wire.encode_engine_frame(old))
    assert worker.session.runs_held == 1


def test_the_same_dispatch_twice_is_one_run(worker: BenchWorker) -> None:
    worker.host.holds_jobs = True
    run = worker.run(hello, "Ada")
    dispatch = frames.build_dispatch(run.run_id, 1, 1, "hello", 2, run.journal, False)
    receive(worker, dispatch)
    worker.settle()
    assert len(worker.host.jobs) == 1


def test_a_newer_lease_replaces_the_older_one(worker: BenchWorker) -> None:
    worker.host.holds_jobs = True
    run = worker.run(hello, "Ada")
    older, _ = worker.host.jobs[0]
    run.held = False
    worker.settle()
    assert older.is_stopped
    assert worker.session.runs_held == 1
    worker.host.finish(1)
    worker.host.holds_jobs = False
    worker.settle()
    worker.engine.signal(run, "go")
    worker.settle()
    assert run.result() == "Hello, Ada"
    assert log.count("greet Ada") == 1


def test_a_journal_in_pages_is_loaded_whole_or_not_at_all(worker: BenchWorker) -> None:
    worker.engine.page_entries = 1
    run = worker.run(hello, "Ada")
    worker.engine.signal(run, "go")
    worker.settle()
    assert run.result() == "Hello, Ada"
    assert log.count("greet Ada") == 1


def test_pages_of_an_older_lease_are_forgotten(worker: BenchWorker) -> None:
    run = worker.engine.start("hello", "Ada")
    run_id, entries = run.run_id, run.journal
    receive(worker, frames.build_dispatch(run_id, 1, 1, "hello", 2, entries, True))
    receive(worker, frames.build_dispatch(run_id, 2, 1, "hello", 2, entries, True))
    revoke = Revoke(run_id=run_id, lease_epoch=2, reason=RevokeReason.FENCED)
    receive(worker, wire.encode_engine_frame(revoke))
    assert worker.session.is_idle


def test_what_concerns_a_run_that_is_not_held_is_ignored(worker: BenchWorker) -> None:
    stranger = RunId(b"x" * 16)
    receive(
        worker,
        frames.build_ack(stranger, 1, 1),
        frames.build_deliver(stranger, 1, []),
        wire.encode_engine_frame(Revoke(run_id=stranger, lease_epoch=1)),
        wire.encode_engine_frame(Refused(code="stale_fence", run_id=stranger, sequence=1)),
    )
    assert worker.session.is_idle


def test_the_end_of_a_session_stops_everything(worker: BenchWorker) -> None:
    worker.host.holds_jobs = True
    worker.run(hello, "Ada")
    worker.run(greet, "Bob")
    jobs = [job for job, _ in worker.host.jobs]
    worker.session.close()
    assert all(job.is_stopped for job in jobs)
    assert log == ["the code ended"]


def test_code_that_resists_being_closed_cannot_hold_up_the_worker() -> None:
    @workflow
    async def stubborn(ctx: Context) -> None:
        try:
            await ctx.signal("never")
        finally:
            log.append("asks for more")
            await ctx.step(greet, "late")

    worker = BenchWorker(FakeEngine(), [stubborn, greet])
    run = worker.run(stubborn)
    assert run.status is RunStatus.WAITING
    assert log == ["asks for more"]
    assert worker.session.runs_held == 0


# ---- the session itself ----


def test_draining_is_over_when_the_runs_are(worker: BenchWorker) -> None:
    worker.host.holds_jobs = True
    run = worker.run(greet)
    worker.session.drain("going home")
    worker.settle()
    assert worker.engine.drained
    assert not worker.session.is_idle
    worker.host.finish()
    worker.settle()
    assert run.result() == "Hello, you"
    assert worker.session.is_idle


def test_the_engine_says_that_it_goes(worker: BenchWorker) -> None:
    receive(worker, wire.encode_engine_frame(Draining(reason="upgrade")))
    assert worker.session.is_ending


@pytest.mark.parametrize(
    ("code", "error_type"),
    [
        ("duplicate_component", DuplicateComponent),
        ("stale_fence", StaleFence),
        ("new", EngineError),
    ],
)
def test_a_fatal_refusal_is_the_error_that_it_names(
    worker: BenchWorker, code: str, error_type: type[EngineError]
) -> None:
    with pytest.raises(error_type, match="because") as caught:
        receive(
            worker,
            wire.encode_engine_frame(Refused(code=code, message="because", fatal=True)),
        )
    assert caught.value.code == code


def test_everything_that_is_ready_goes_into_one_message(worker: BenchWorker) -> None:
    worker.session.register(Register(service_name="s", worker_id="w"))
    worker.session.heartbeat()
    message = worker.session.take()
    assert message is not None
    assert len(frames.scan_worker_frames(message)) == 2
    assert worker.session.take() is None
    assert worker.session.outgoing_bytes == 0


def test_a_message_is_not_larger_than_it_aims_at() -> None:
    @function
    def large(x: int) -> str:
        return "x" * 200_000

    worker = BenchWorker(FakeEngine(), [large])
    for _ in range(3):
        worker.engine.start("large", 1)
    message = worker.engine.take()
    assert message is not None
    worker.session.receive(message)
    while worker.host.step():
        pass
    sizes = []
    while (message := worker.session.take()) is not None:
        sizes.append(len(frames.scan_worker_frames(message)))
    assert sizes == [1, 1, 1]
