"""The replay machine, scene by scene: steps, replay, and what happens before an acknowledgement."""

from __future__ import annotations

import math

from engine.base import limits
from engine.base.ids import child_run_id
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    RunFailed,
    SignalReceived,
    StateChanged,
    StepCompleted,
    StepFailed,
    UsageReported,
)
from engine.sdk.replay.machine import Machine
from engine.sdk.replay.operations import ChangeState, Child, ReportUsage
from engine.wire import journal
from tests.sdk.play import NOW_MS, RUN, Play, signal_go, sleep_10_s, step


def payload(play: Play, offset: int) -> object:
    kind, data, _, _ = play.journal[offset]
    return journal.decode(kind, data)


# ---- one step after another ----


def test_a_run_of_one_step() -> None:
    play = Play()
    assert play.ask(step("charge")) == [1]
    assert play.settle() == ["begin 1"]
    play.step_gives(1, 42)
    assert play.resumes() == ["1 gave 42"]
    assert play.returns("done") == ["report 1: STEP_COMPLETED 1, RUN_COMPLETED"]
    assert not play.machine.is_done
    play.acknowledge()
    assert play.machine.is_done


def test_a_step_is_recorded_with_all_there_is_to_know() -> None:
    play = Play()
    play.ask(step("charge", key="card"))
    play.settle()
    play.step_gives(1, 42)
    play.returns()
    assert payload(play, 2) == StepCompleted(
        position=1,
        name="charge",
        key="card",
        input=b"[]",
        output=b"42",
        started_ms=NOW_MS - 5,
        finished_ms=NOW_MS,
        attempt=1,
        lease_epoch=1,
    )


def test_a_step_waits_for_the_acknowledgement_of_the_one_before() -> None:
    play = Play()
    play.ask(step("charge"))
    play.settle()
    play.step_gives(1, 42)
    assert play.resumes() == ["1 gave 42"]
    play.ask(step("ship"))
    assert play.settle() == ["report 1: STEP_COMPLETED 1"]
    assert play.settle() == []
    play.acknowledge()
    assert play.settle() == ["begin 2"]


def test_a_step_that_failed_is_raised_where_it_was_asked_for() -> None:
    play = Play()
    play.ask(step("charge"))
    play.settle()
    play.step_raises(1, "CardDeclined")
    assert play.resumes() == ["1 raised CardDeclined"]
    assert play.returns("never mind") == ["report 1: STEP_FAILED 1, RUN_COMPLETED"]


def test_a_run_whose_code_raises_fails() -> None:
    play = Play()
    assert play.raises("KeyError") == ["report 1: RUN_FAILED"]
    failed = payload(play, 2)
    assert isinstance(failed, RunFailed)
    assert failed.error is not None
    assert failed.error.type == "KeyError"


def test_what_happens_after_the_end_changes_nothing() -> None:
    play = Play()
    play.ask(step("a"), signal_go)
    play.settle()
    play.machine.complete(b"1")
    play.settle()
    play.step_gives(1, 1)
    play.signals(2, "late")
    play.machine.complete(b"2")
    assert play.settle() == []
    assert play.resumes() == []


# ---- tries ----


def test_a_failed_try_is_recorded_and_the_next_waits_for_it() -> None:
    play = Play()
    play.ask(step("charge"))
    play.settle()
    play.step_raises(1, again_in_ms=500)
    assert play.resumes() == []
    assert play.settle() == ["report 1: STEP_FAILED 1"]
    play.acknowledge()
    assert play.settle() == ["begin 1, try 2, at +500 ms"]
    play.step_gives(1, 42)
    assert play.resumes() == ["1 gave 42"]


def test_tries_are_counted_across_workers() -> None:
    first = Play()
    first.ask(step("charge"))
    first.settle()
    first.step_raises(1, again_in_ms=500)
    first.settle()
    second = first.again()
    second.ask(step("charge"))
    assert second.settle() == ["begin 1, try 2, at +500 ms"]
    second.step_raises(1)
    assert second.resumes() == ["1 raised ValueError"]
    second.returns()
    failed = payload(second, -2)
    assert isinstance(failed, StepFailed)
    assert failed.attempt == 2
    assert failed.lease_epoch == 2


# ---- several at once ----


def test_branches_begin_together_and_share_a_report() -> None:
    play = Play()
    assert play.ask(step("a"), step("b"), step("c")) == [1, 2, 3]
    assert play.settle() == ["begin 1", "begin 2", "begin 3"]
    play.step_gives(2, "b")
    play.step_gives(1, "a")
    assert play.resumes() == ['2 gave "b"', '1 gave "a"']
    assert play.settle() == ["report 1: STEP_COMPLETED 2, STEP_COMPLETED 1"]


def test_a_branch_that_goes_on_does_not_hold_up_the_others() -> None:
    play = Play()
    play.ask(step("a"), step("b"))
    play.settle()
    play.step_gives(1, "a")
    play.resumes()
    play.ask(step("a, then"))
    assert play.settle() == ["report 1: STEP_COMPLETED 1"]
    play.step_gives(2, "b")
    assert play.resumes() == ['2 gave "b"']
    assert play.settle() == ["report 2: STEP_COMPLETED 2"]
    play.acknowledge(1)
    assert play.settle() == ["begin 3"]


def test_a_step_that_nobody_wants_any_more_is_not_recorded() -> None:
    play = Play()
    play.ask(step("quick"), step("slow"), step("not yet"))
    play.settle()
    assert play.machine.abandon(2) is True
    play.step_gives(2, "too late")
    play.step_gives(1, "in time")
    assert play.resumes() == ['1 gave "in time"']
    assert play.settle() == ["report 1: STEP_COMPLETED 1"]


def test_a_step_that_was_held_is_never_begun_once_abandoned() -> None:
    play = Play()
    play.ask(step("a"))
    play.settle()
    play.step_gives(1, 1)
    play.resumes()
    play.ask(step("b"), step("c"))
    play.settle()
    assert play.machine.abandon(2) is False
    play.acknowledge()
    assert play.settle() == ["begin 3"]
    assert play.machine.abandon(1) is False, "it has ended"


def test_a_large_report_is_cut_into_several() -> None:
    play = Play()
    play.ask(*(step("s", str(number)) for number in range(1_000)))
    play.settle()
    for position in range(1, 1_001):
        play.step_gives(position, position)
    assert len(play.resumes()) == 1_000
    play.ask(step("after all"))
    lines = play.settle()
    count = math.ceil(1_000 / limits.report_entries_max)
    assert count > 1
    assert [line.split(":")[0] for line in lines] == [f"report {n + 1}" for n in range(count)]
    for number in range(1, count):
        play.acknowledge(number)
        assert play.settle() == []
    play.acknowledge(count)
    assert play.settle() == ["begin 1001"]


# ---- replay ----


def test_a_recorded_step_is_not_run_again() -> None:
    first = Play()
    first.ask(step("charge"))
    first.settle()
    first.step_gives(1, 42)
    first.resumes()
    first.ask(step("ship"))
    first.settle()
    second = first.again()
    assert second.machine.is_replaying
    second.ask(step("charge"))
    assert second.resume() == "1 gave 42"
    assert not second.machine.is_replaying
    second.ask(step("ship"))
    assert second.resume() is None
    assert second.settle() == ["begin 2"]


def test_outcomes_come_in_the_order_of_the_journal_one_at_a_time() -> None:
    """The code asks more after each; were the outcomes handed out together, positions could
    differ between the first time and the replay."""
    first = Play()
    first.ask(step("a"), step("b"))
    first.settle()
    first.step_gives(2, "b")
    assert first.resume() == '2 gave "b"'
    assert first.ask(step("after b")) == [3]
    first.settle()
    first.step_gives(1, "a")
    assert first.resume() == '1 gave "a"'
    assert first.ask(step("after a")) == [4]
    first.settle()
    second = first.again()
    second.ask(step("a"), step("b"))
    assert second.resume() == '2 gave "b"'
    assert second.ask(step("after b")) == [3]
    assert second.resume() == '1 gave "a"'
    assert second.ask(step("after a")) == [4]
    assert second.resume() is None
    assert second.settle() == ["begin 3", "begin 4"]
    assert second.machine.broken is None


def test_a_report_that_never_arrived_is_as_if_it_had_not_been() -> None:
    first = Play()
    first.ask(step("charge"))
    first.settle()
    first.step_gives(1, 42)
    first.returns()
    second = first.again(keep=2)
    second.ask(step("charge"))
    assert second.settle() == ["begin 1"]


def test_a_journal_in_pages_is_one_journal() -> None:
    first = Play()
    first.ask(step("a"), step("b"))
    first.settle()
    first.step_gives(1, 1)
    first.step_gives(2, 2)
    first.resumes()
    first.settle()
    paged = Machine(RUN, 2)
    for entry in first.journal:
        paged.load([entry])
    paged.start()
    paged.ask(step("a"))
    paged.ask(step("b"))
    assert [resume.position for resume in iter(paged.next_resume, None)] == [1, 2]


def test_a_record_of_a_newer_version_is_passed_over() -> None:
    play = Play()
    play.journal.append((99, b"\xff\xff", len(play.journal), 0))
    assert play.again().machine.broken is None


def test_time_is_that_of_the_last_outcome() -> None:
    first = Play()
    assert first.machine.now_us == NOW_MS * 1_000
    first.now_ms += 5_000
    first.ask(step("a"))
    first.settle()
    first.step_gives(1, 1)
    first.resumes()
    assert first.machine.now_us == (NOW_MS + 5_000) * 1_000
    first.settle()
    second = first.again()
    assert second.machine.now_us == NOW_MS * 1_000, "the first start of the run, not the latest"
    second.ask(step("a"))
    second.resumes()
    assert second.machine.now_us == (NOW_MS + 5_000) * 1_000


# ---- state and usage: nobody waits for them ----


def test_state_goes_with_the_next_report() -> None:
    play = Play()
    assert play.machine.change_state(ChangeState("count", b"1")) == (b"1", 1)
    assert play.machine.change_state(ChangeState("count", b"2")) == (b"2", 2)
    assert play.machine.change_state(ChangeState("count", None)) == (None, 3)
    assert play.returns() == [
        "report 1: STATE_CHANGED 1, STATE_CHANGED 2, STATE_CHANGED 3, RUN_COMPLETED"
    ]
    deleted = payload(play, 4)
    assert isinstance(deleted, StateChanged)
    assert (deleted.revision, deleted.deleted) == (3, True)


def test_state_is_recorded_once() -> None:
    first = Play()
    first.machine.change_state(ChangeState("count", b"1"))
    first.ask(step("a"))
    first.settle()
    second = first.again()
    assert second.machine.change_state(ChangeState("count", b"other")) == (b"1", 1)
    second.ask(step("a"))
    assert second.settle() == ["begin 1".replace("1", "2")]
    assert second.machine.change_state(ChangeState("count", b"2")) == (b"2", 2)


def test_usage_is_recorded_once_and_counts_as_a_position() -> None:
    first = Play()
    first.ask(ReportUsage(model="m", tokens_in=3))
    assert first.ask(step("a")) == [2]
    assert first.settle() == ["begin 2", "report 1: USAGE_REPORTED 1"]
    second = first.again()
    second.ask(ReportUsage(model="m", tokens_in=3))
    second.ask(step("a"))
    assert second.settle() == ["begin 2"]


def test_usage_within_a_step_belongs_to_the_step() -> None:
    first = Play()
    first.ask(step("a"))
    first.settle()
    first.step_gives(1, 1)
    first.step_used(1, "m")
    first.resumes()
    first.ask(step("b"))
    assert first.settle() == ["report 1: STEP_COMPLETED 1, USAGE_REPORTED 1"]
    assert isinstance(payload(first, 3), UsageReported)
    second = first.again()
    second.ask(step("a"))
    assert second.resumes() == ["1 gave 1"]
    second.ask(step("b"))
    assert second.settle() == ["begin 2"]
    assert second.machine.broken is None


# ---- child runs ----


def test_a_child_run_is_started_once_and_its_end_resumes() -> None:
    first = Play()
    assert first.ask(Child("pay", ChildMode.JOIN, b"5")) == [1]
    assert first.settle() == ["report 1: CHILD_STARTED 1", "look again in 200 ms"]
    started = payload(first, 2)
    assert isinstance(started, ChildStarted)
    assert started.child_run_id == child_run_id(RUN, 1)
    second = first.again()
    second.ask(Child("pay", ChildMode.JOIN, b"5"))
    assert second.settle() == ["look again in 200 ms"]
    second.child_ends(1, "paid")
    assert second.resumes() == ['1 gave "paid"']


def test_a_child_run_that_failed_raises() -> None:
    play = Play()
    play.ask(Child("pay", ChildMode.JOIN))
    play.settle()
    play.child_ends(1, failed="NoMoney")
    assert play.resumes() == ["1 raised NoMoney"]


def test_nobody_waits_for_a_detached_child() -> None:
    play = Play()
    play.ask(Child("log", ChildMode.DETACH))
    assert play.returns() == ["report 1: CHILD_STARTED 1, RUN_COMPLETED"]


# ---- while a wait is open, the order is the engine's ----


def test_with_an_open_wait_the_code_does_not_run_ahead() -> None:
    """The engine may write the signal before it has the step: the code has to see that order."""
    play = Play()
    play.ask(signal_go, step("a"))
    assert play.settle() == ["begin 2", "report 1: WAIT_CREATED 1"]
    play.step_gives(2, "a")
    assert play.resumes() == []
    assert play.settle() == ["report 2: STEP_COMPLETED 2"]
    play.signals(1, "now")
    assert play.resumes() == ['1 gave "now"']
    play.acknowledge()
    assert play.resumes() == ['2 gave "a"']


def test_a_delivery_that_is_known_already_counts_once() -> None:
    play = Play()
    play.ask(signal_go, step("a"))
    play.settle()
    play.signals(1, "now")
    play.machine.deliver(play.journal[-1:])
    assert play.resumes() == ['1 gave "now"']
    play.machine.deliver(play.journal[-1:])
    assert play.resumes() == []


def test_what_is_no_outcome_is_ignored() -> None:
    play = Play()
    play.ask(signal_go)
    play.settle()
    play.engine_writes(SignalReceived(signal_id="1", name="go"))
    assert play.resumes() == []


def test_a_wait_that_is_over_before_it_was_asked_for_is_kept() -> None:
    """Frames of one run come in order, but the code may be busy when they do."""
    play = Play()
    play.ask(sleep_10_s)
    play.settle()
    play.signals(7, "early")
    assert play.resumes() == []
    assert play.machine.broken is None
