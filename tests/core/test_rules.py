"""The rules of a run, each under its own name, on the pure core."""

from __future__ import annotations

import pytest

from engine.base import limits
from engine.base.errors import EngineError, MalformedRecord, RunTerminal, StaleFence, UnknownWait
from engine.core.state import decode_state, encode_state
from engine.core.transitions import TRANSITIONS, IllegalTransition, status_after
from engine.model.commands import (
    CancelRun,
    ChildEnded,
    LoseLease,
    ResolveWait,
    SendSignal,
    TimeHasCome,
)
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    Error,
    RetryKind,
    RetryPolicy,
    RunCompleted,
    RunFailed,
    RunRetrying,
    RunStarted,
    StepCompleted,
    WaitCreated,
    WaitKind,
    WaitOutcome,
    WaitResolved,
)
from engine.model.records import STATUS_AFTER, RecordKind
from engine.model.runs import RunStatus
from tests.core.driver import Driver

STEP = StepCompleted(position=1, name="charge", output=b"1")
DONE = RunCompleted(output=b'"ok"')
BOOM = Error(code="Boom", message="it broke")


def signal_wait(position: int, name: str, *, parks: bool = True, due_ms: int = 0) -> WaitCreated:
    return WaitCreated(
        position=position,
        wait_id=str(position),
        kind=WaitKind.SIGNAL,
        name=name,
        parks=parks,
        due_ms=due_ms,
    )


def timer(position: int, due_ms: int, *, parks: bool = True) -> WaitCreated:
    return WaitCreated(
        position=position, wait_id=str(position), kind=WaitKind.TIMER, due_ms=due_ms, parks=parks
    )


def signal(name: str, signal_id: str, payload: bytes = b"1") -> SendSignal:
    return SendSignal(name=name, signal_id=signal_id, payload=payload)


def resolutions(run: Driver) -> list[WaitResolved]:
    found = run.payloads(RecordKind.WAIT_RESOLVED)
    assert all(isinstance(payload, WaitResolved) for payload in found)
    return found  # type: ignore[return-value]


def test_a_run_from_start_to_end() -> None:
    run = Driver().start()
    assert (run.status, run.effect_names()) == (RunStatus.QUEUED, ["Enqueue"])
    run.begin()
    assert (run.status, run.effect_names()) == (RunStatus.RUNNING, ["Dispatch"])
    run.report(STEP).report(DONE)
    assert run.status is RunStatus.COMPLETED
    assert run.effect_names() == ["ReleaseLease", "NotifyWaiter"]
    assert run.kinds == ["RUN_ACCEPTED", "RUN_STARTED", "STEP_COMPLETED", "RUN_COMPLETED"]
    assert run.state.outcome_offset == 3


def test_table_agrees_with_what_the_fold_believes() -> None:
    for row in TRANSITIONS.values():
        for kind, after in row.items():
            if kind in STATUS_AFTER:
                assert after is STATUS_AFTER[kind]
            elif kind is not RecordKind.WAIT_RESOLVED:
                assert after is None


@pytest.mark.parametrize("status", [None, *RunStatus])
@pytest.mark.parametrize("kind", list(RecordKind))
def test_illegal_transitions_are_named(status: RunStatus | None, kind: RecordKind) -> None:
    if kind in TRANSITIONS[status]:
        status_after(status, kind)
    else:
        with pytest.raises(IllegalTransition, match=kind.name):
            status_after(status, kind)


def test_terminal_once() -> None:
    for end in (DONE, RunFailed(error=Error(code="x", non_retryable=True))):
        run = Driver().start().begin().report(end)
        written = list(run.kinds)
        for command in (
            CancelRun(reason="late"),
            signal("a", "1"),
            ResolveWait(wait_id="1", value=b""),
        ):
            with pytest.raises(RunTerminal):
                run.carry_out(command)
        with pytest.raises(StaleFence):
            run.report(STEP)
        run.carry_out(TimeHasCome())
        run.carry_out(LoseLease(lease_epoch=1, reason="gone"))
        assert run.kinds == written


def test_no_stale_fence_write() -> None:
    run = Driver().start().begin("first")
    run.carry_out(LoseLease(lease_epoch=1, reason="too late"))
    run.begin("second")
    assert run.state.lease_epoch == 2
    before = run.kinds
    with pytest.raises(StaleFence, match="nothing was changed"):
        run.report(STEP, epoch=1)
    assert run.kinds == before
    run.report(STEP, epoch=2)


def test_transport_retry_is_not_an_attempt() -> None:
    run = Driver().start().begin()
    run.report(STEP)
    run.carry_out(LoseLease(lease_epoch=1, reason="disconnected"))
    assert run.effect_names() == ["ReleaseLease", "Enqueue"]
    run.begin()
    assert (run.state.attempt, run.state.lease_epoch) == (1, 2)


def test_a_failure_is_tried_again_by_the_policy() -> None:
    policy = RetryPolicy(kind=RetryKind.CONSTANT, initial_ms=1_000, attempts_max=2)
    run = Driver().start(retry=policy).begin().report(RunFailed(error=BOOM))
    assert run.status is RunStatus.RETRYING
    retrying = run.payloads(RecordKind.RUN_RETRYING)[0]
    assert isinstance(retrying, RunRetrying)
    assert retrying.retry_at_ms == run.now_ms + 1_000
    run.carry_out(TimeHasCome())
    assert run.effect_names() == ["SetTimer"], "not early"
    run.now_ms += 1_000
    run.carry_out(TimeHasCome())
    assert run.effect_names() == ["Enqueue"]
    run.begin()
    assert run.state.attempt == 2
    run.report(RunFailed(error=BOOM))
    assert (run.status, run.state.error_code) == (RunStatus.FAILED, "Boom")


def test_a_run_that_takes_its_workers_down_is_isolated() -> None:
    run = Driver().start()
    for start in range(limits.fruitless_starts_max):
        run.begin(f"victim-{start}")
        run.carry_out(LoseLease(lease_epoch=run.state.lease_epoch, reason="worker crashed"))
    run.begin("next")
    assert (run.status, run.state.error_code) == (RunStatus.FAILED, "worker_crashed")


def test_a_failure_that_is_reported_is_no_lost_worker() -> None:
    policy = RetryPolicy(kind=RetryKind.CONSTANT, initial_ms=1, attempts_max=0)
    run = Driver().start(retry=policy)
    for _ in range(2 * limits.fruitless_starts_max):
        run.begin().report(RunFailed(error=BOOM))
    assert run.status is RunStatus.RETRYING


def test_progress_forgives_lost_workers() -> None:
    run = Driver().start()
    for _ in range(3 * limits.fruitless_starts_max):
        run.begin().report(STEP)
        run.carry_out(LoseLease(lease_epoch=run.state.lease_epoch, reason="rolling deploy"))
    assert run.status is RunStatus.QUEUED


def test_waiting_holds_no_slot() -> None:
    run = Driver().start().begin().report(signal_wait(1, "paid"))
    assert (run.status, run.effect_names()) == (RunStatus.WAITING, ["ReleaseLease"])


def test_signal_fifo_no_loss() -> None:
    run = Driver().start()
    run.carry_out(signal("paid", "s1", b"1"))
    run.carry_out(signal("paid", "s2", b"2"))
    run.carry_out(signal("paid", "s1", b"1"))  # the same id twice counts once
    run.begin().report(signal_wait(1, "paid"))
    assert run.status is RunStatus.QUEUED, "the wait found its signal at once"
    run.begin().report(signal_wait(2, "paid"))
    run.begin().report(signal_wait(3, "paid"))
    assert [found.value for found in resolutions(run)] == [b"1", b"2"]
    assert run.status is RunStatus.WAITING, "both signals were taken"
    run.carry_out(signal("paid", "s3", b"3"))
    assert (run.status, resolutions(run)[-1].value) == (RunStatus.QUEUED, b"3")
    assert run.state.signals == {}


def test_a_signal_goes_to_the_earliest_wait() -> None:
    run = Driver().start().begin()
    run.report(signal_wait(5, "paid", parks=False), signal_wait(2, "paid", parks=False))
    run.carry_out(signal("paid", "s1"))
    assert resolutions(run)[0].position == 5, "asked for first; a position is no order"


def test_two_waits_in_one_report_take_two_signals() -> None:
    run = Driver().start()
    run.carry_out(signal("paid", "s1", b"1"))
    run.carry_out(signal("paid", "s2", b"2"))
    run.begin().report(signal_wait(1, "paid", parks=False), signal_wait(2, "paid"))
    assert [found.value for found in resolutions(run)] == [b"1", b"2"]


def test_timer_never_early_never_lost() -> None:
    run = Driver().start().begin()
    due_ms = run.now_ms + 5_000
    run.report(timer(1, due_ms))
    assert "SetTimer" in run.effect_names()
    run.now_ms = due_ms - 1
    run.carry_out(TimeHasCome())
    assert run.status is RunStatus.WAITING
    run.now_ms = due_ms
    run.carry_out(TimeHasCome())
    assert (run.status, resolutions(run)[0].outcome) == (RunStatus.QUEUED, WaitOutcome.FIRED)
    run.carry_out(TimeHasCome())
    assert len(resolutions(run)) == 1


def test_a_signal_wait_times_out_with_its_default() -> None:
    run = Driver().start().begin()
    wait = WaitCreated(
        position=1,
        wait_id="1",
        kind=WaitKind.SIGNAL,
        name="paid",
        due_ms=run.now_ms + 10,
        has_default=True,
        default=b"0",
        parks=True,
    )
    run.report(wait)
    run.now_ms += 10
    run.carry_out(TimeHasCome())
    assert (resolutions(run)[0].outcome, resolutions(run)[0].value) == (WaitOutcome.TIMED_OUT, b"0")


def test_a_park_that_crosses_a_resolution_does_not_sleep() -> None:
    """The engine resolved wait 1 while the worker was reporting that it parks on both."""
    run = Driver().start().begin()
    run.report(signal_wait(1, "a", parks=False), signal_wait(2, "b", parks=False))
    run.carry_out(signal("a", "s1"))
    run.report(signal_wait(2, "b", parks=True), resolved_meanwhile=frozenset({"1"}))
    assert run.status is RunStatus.QUEUED
    assert run.effect_names() == ["ReleaseLease", "Enqueue"]
    run.begin().report(signal_wait(1, "a"), resolved_meanwhile=frozenset({"1"}))
    assert run.status is RunStatus.RUNNING or "1" not in run.state.waits, "it is not opened again"


def test_a_park_beside_a_wait_that_is_over_at_once_does_not_sleep() -> None:
    run = Driver().start()
    run.carry_out(signal("a", "s1"))
    run.begin().report(signal_wait(1, "a", parks=False), signal_wait(2, "b"))
    assert run.status is RunStatus.QUEUED
    assert run.effect_names() == ["ReleaseLease", "Enqueue"]
    assert list(run.state.waits) == ["2"]


def test_a_park_whose_own_wait_is_over_crosses_a_resolution() -> None:
    run = Driver().start().begin().report(signal_wait(1, "a", parks=False))
    run.carry_out(signal("a", "s1"))
    run.carry_out(signal("b", "s2"))
    run.report(signal_wait(2, "b"), resolved_meanwhile=frozenset({"1"}))
    assert run.status is RunStatus.QUEUED
    assert run.state.waits == {}


def test_cancel_race_one_winner() -> None:
    for prepare in (
        lambda run: run,
        lambda run: run.begin(),
        lambda run: run.begin().report(signal_wait(1, "paid")),
        lambda run: run.begin().report(RunFailed(error=BOOM)),
    ):
        run = prepare(Driver().start())
        run.carry_out(CancelRun(reason="changed my mind"))
        assert run.status is RunStatus.CANCELLED
        run.carry_out(CancelRun(reason="again"))
        assert run.kinds.count("RUN_CANCELLED") == 1
        with pytest.raises(StaleFence):
            run.report(DONE)


def test_cancel_revokes_and_reaches_children() -> None:
    run = Driver().start().begin()
    run.report(
        ChildStarted(position=1, child_run_id=b"c" * 16, component="sub", mode=ChildMode.JOIN)
    )
    run.carry_out(CancelRun(reason="stop"))
    assert run.effect_names() == ["ReleaseLease", "CancelChild", "NotifyWaiter", "Revoke"]


def test_a_child_resolves_the_wait_for_it() -> None:
    run = Driver().start().begin()
    run.report(
        ChildStarted(position=1, child_run_id=b"c" * 16, component="sub", mode=ChildMode.JOIN)
    )
    run.report(WaitCreated(position=1, wait_id="1", kind=WaitKind.CHILD, parks=True))
    ended = ChildEnded(
        position=1,
        child_run_id=b"c" * 16,
        status=RunStatus.COMPLETED,
        output=b"7",
        error=None,
    )
    run.carry_out(ended)
    assert (run.status, resolutions(run)[0].value) == (RunStatus.QUEUED, b"7")
    run.carry_out(ended)
    assert run.kinds.count("CHILD_FINISHED") == 1


def test_a_child_can_be_started_and_waited_for_in_one_report() -> None:
    run = Driver().start().begin()
    run.report(
        ChildStarted(position=1, child_run_id=b"c" * 16, component="sub", mode=ChildMode.JOIN),
        WaitCreated(position=1, wait_id="1", kind=WaitKind.CHILD, parks=True),
    )
    assert run.status is RunStatus.WAITING


def test_a_wait_for_a_child_that_has_ended_is_over_at_once() -> None:
    run = Driver().start().begin()
    run.report(
        ChildStarted(position=1, child_run_id=b"c" * 16, component="sub", mode=ChildMode.JOIN)
    )
    run.carry_out(
        ChildEnded(
            position=1,
            child_run_id=b"c" * 16,
            status=RunStatus.COMPLETED,
            output=b"7",
            error=None,
        )
    )
    run.report(WaitCreated(position=1, wait_id="1", kind=WaitKind.CHILD, parks=True))
    assert run.status is RunStatus.QUEUED


def test_an_answer_needs_an_open_question() -> None:
    run = Driver().start().begin()
    question = WaitCreated(
        position=1, wait_id="1", kind=WaitKind.USER, question="Ship it?", parks=True
    )
    run.report(question)
    with pytest.raises(UnknownWait, match="open are 1"):
        run.carry_out(ResolveWait(wait_id="2", value=b"true"))
    run.carry_out(ResolveWait(wait_id="1", value=b"true"))
    assert run.status is RunStatus.QUEUED
    with pytest.raises(UnknownWait, match="none"):
        run.carry_out(ResolveWait(wait_id="1", value=b"true"))


def test_nothing_follows_an_ending_within_a_report() -> None:
    run = Driver().start().begin()
    before = run.kinds
    for entries in ((DONE, STEP), (signal_wait(1, "a"), STEP), (RunStarted(attempt=9),)):
        with pytest.raises(MalformedRecord):
            run.report(*entries)
    assert run.kinds == before


def test_start_at_a_later_time() -> None:
    run = Driver()
    run.start(start_at_ms=run.now_ms + 1_000)
    assert run.effect_names() == ["SetTimer"]
    run.now_ms += 1_000
    run.carry_out(TimeHasCome())
    assert run.effect_names() == ["Enqueue"]


def test_rebuild_equals_state() -> None:
    run = Driver().start().begin()
    run.report(STEP, signal_wait(2, "a", parks=False))
    run.carry_out(signal("b", "s1"))
    run.report(timer(3, run.now_ms + 5))
    assert run.rebuilt() == run.state
    assert decode_state(encode_state(run.state)) == run.state
    run.now_ms += 5
    run.carry_out(TimeHasCome())
    run.begin().report(DONE)
    assert run.rebuilt() == run.state


def test_every_refusal_is_a_typed_error() -> None:
    assert issubclass(IllegalTransition, EngineError)


def test_signal_fifo_no_loss_when_a_report_asks_and_parks() -> None:
    """The same wait twice in one report takes one signal; the other stays for the next wait."""
    run = Driver().start().begin()
    run.carry_out(signal("go", "s-1"))
    run.carry_out(signal("go", "s-2"))
    run.report(signal_wait(2, "go", parks=False), signal_wait(2, "go"))
    assert [found.signal_id for found in resolutions(run)] == ["s-1"]
    assert list(run.state.signals) == ["s-2"]
    assert run.status is RunStatus.QUEUED
    assert run.effect_names() == ["ReleaseLease", "Enqueue"]
    assert encode_state(run.rebuilt()) == encode_state(run.state)
    run.begin().report(signal_wait(3, "go"))
    assert [found.signal_id for found in resolutions(run)] == ["s-1", "s-2"]


def test_asking_and_parking_in_one_report_sleeps_when_nothing_has_come() -> None:
    run = Driver().start().begin()
    run.report(signal_wait(2, "go", parks=False), STEP, signal_wait(2, "go"))
    assert (run.status, run.effect_names()) == (RunStatus.WAITING, ["ReleaseLease"])
    run.carry_out(signal("go", "s-1"))
    assert run.status is RunStatus.QUEUED
