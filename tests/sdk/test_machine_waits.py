"""The replay machine, scene by scene: waits, and when a run parks."""

from __future__ import annotations

from engine.model.payloads import ChildMode, WaitCreated, WaitKind, WaitOutcome, WaitResolved
from engine.sdk.replay.operations import Child, Wait
from engine.wire import journal
from tests.sdk.play import NOW_MS, Play, signal_go, sleep_10_s, sleep_50_ms, step


def waits(play: Play) -> list[WaitCreated]:
    found = [journal.decode(entry[0], entry[1]) for entry in play.journal]
    return [payload for payload in found if isinstance(payload, WaitCreated)]


def test_a_run_that_only_sleeps_parks_in_the_same_report() -> None:
    play = Play()
    play.ask(sleep_10_s)
    assert play.settle() == ["report 1: WAIT_CREATED 1 parks"]
    assert play.machine.is_over
    assert not play.machine.is_done
    play.acknowledge()
    assert play.machine.is_done


def test_a_wait_says_when_it_is_due() -> None:
    play = Play()
    play.ask(sleep_10_s, Wait(kind=WaitKind.SIGNAL, name="go", duration_ms=500, default=b"0"))
    play.settle()
    timer, signal = waits(play)
    assert (timer.wait_id, timer.kind, timer.due_ms) == ("1", WaitKind.TIMER, NOW_MS + 10_000)
    assert (signal.name, signal.due_ms) == ("go", NOW_MS + 500)
    assert (signal.has_default, signal.default) == (True, b"0")


def test_a_question_says_what_it_asks() -> None:
    play = Play()
    question = Wait(kind=WaitKind.USER, question="Which?", input_type="select", options=("a", "b"))
    play.ask(question)
    play.settle()
    (wait,) = waits(play)
    assert (wait.question, wait.input_type, wait.options) == ("Which?", "select", ("a", "b"))
    assert wait.due_ms == 0


def test_a_parked_run_goes_on_in_a_replay() -> None:
    first = Play()
    first.ask(step("before"))
    first.settle()
    first.step_gives(1, 1)
    first.resumes()
    first.ask(sleep_10_s)
    assert first.settle() == ["report 1: STEP_COMPLETED 1, WAIT_CREATED 2 parks"]
    first.fires(2)
    second = first.again()
    second.ask(step("before"))
    assert second.resume() == "1 gave 1"
    second.ask(sleep_10_s)
    assert second.resume() == "2 gave nothing"
    second.ask(step("after"))
    assert second.settle() == ["begin 3"]


def test_a_wait_is_not_created_again_in_a_replay() -> None:
    first = Play()
    first.ask(signal_go, step("slow"))
    first.settle()
    second = first.again()
    second.ask(signal_go, step("slow"))
    assert second.settle() == ["begin 2"]


def test_a_run_with_a_step_under_way_does_not_park() -> None:
    play = Play()
    play.ask(sleep_10_s, step("slow"))
    assert play.settle() == ["begin 2", "report 1: WAIT_CREATED 1"]


def test_the_last_branch_that_moves_parks_the_run_with_a_wait_from_before() -> None:
    play = Play()
    play.ask(signal_go, step("a"))
    play.settle()
    play.step_gives(2, "a")
    assert play.settle() == ["report 2: STEP_COMPLETED 2"]
    play.acknowledge()
    assert play.resumes() == ['2 gave "a"']
    assert play.settle() == ["report 3: WAIT_CREATED 1 parks"]


def test_what_is_delivered_after_the_park_is_for_the_next_worker() -> None:
    play = Play()
    play.ask(signal_go)
    play.settle()
    play.signals(1, "now")
    assert play.resumes() == []
    assert play.settle() == []
    second = play.again()
    second.ask(signal_go)
    assert second.resumes() == ['1 gave "now"']


def test_of_several_waits_the_last_one_parks() -> None:
    play = Play()
    play.ask(signal_go, sleep_10_s)
    assert play.settle() == ["report 1: WAIT_CREATED 1, WAIT_CREATED 2 parks"]


def test_an_abandoned_wait_does_not_park() -> None:
    play = Play()
    play.ask(sleep_10_s, signal_go)
    play.machine.abandon(1)
    play.machine.abandon(2)
    lines = play.settle()
    assert lines == ["report 1: WAIT_CREATED 1, WAIT_CREATED 2, RUN_FAILED"], "nothing can move it"


def test_code_that_waits_for_nothing_that_can_come_fails_with_advice() -> None:
    play = Play()
    play.ask(step("a"))
    play.settle()
    play.step_gives(1, 1)
    play.resumes()
    assert play.settle() == ["report 1: STEP_COMPLETED 1, RUN_FAILED"]
    failed = journal.decode(play.journal[-1][0], play.journal[-1][1])
    assert failed.error.code == "workflow_stuck"  # type: ignore[attr-defined]


# ---- what is worth staying for ----


def test_a_short_sleep_is_waited_for() -> None:
    play = Play()
    play.ask(sleep_50_ms)
    assert play.settle() == ["report 1: WAIT_CREATED 1", "look again in 250 ms"]
    play.now_ms += 60
    play.fires(1)
    assert play.resumes() == ["1 gave nothing"]


def test_a_short_sleep_that_does_not_end_parks_after_all() -> None:
    play = Play()
    play.ask(sleep_50_ms)
    play.settle()
    play.now_ms += 250
    assert play.settle() == ["report 2: WAIT_CREATED 1 parks"]


def test_child_runs_are_waited_for_as_long_as_they_come_in() -> None:
    play = Play()
    play.ask(Child("a", ChildMode.JOIN), Child("b", ChildMode.JOIN))
    assert play.settle() == ["report 1: CHILD_STARTED 1, CHILD_STARTED 2", "look again in 201 ms"]
    play.now_ms += 150
    play.child_ends(1, "a")
    assert play.resumes() == ['1 gave "a"']
    assert play.settle() == ["look again in 200 ms"]
    play.now_ms += 199
    assert play.settle() == ["look again in 1 ms"]
    play.now_ms += 1
    assert play.settle() == ["report 2: WAIT_CREATED 2 parks"]


def test_many_children_are_given_more_time() -> None:
    play = Play()
    play.ask(*(Child("a", ChildMode.JOIN) for _ in range(1_000)))
    assert play.settle()[-1] == "look again in 1199 ms"
    play.now_ms += 1_000
    play.child_ends(7, "a")
    play.resumes()
    assert play.settle() == ["look again in 1198 ms"]
    play.ask(*(Child("a", ChildMode.JOIN) for _ in range(20_000)))
    assert play.settle()[-1] == "look again in 10000 ms"


def test_an_abandoned_child_is_not_waited_for() -> None:
    play = Play()
    play.ask(Child("a", ChildMode.JOIN), signal_go)
    play.machine.abandon(1)
    assert play.settle() == ["report 1: CHILD_STARTED 1, WAIT_CREATED 2 parks"]


def test_a_parked_run_waits_for_each_of_its_children() -> None:
    """Whichever ends first wakes it: the code may have been waiting for just that one."""
    play = Play()
    play.ask(Child("a", ChildMode.JOIN), Child("b", ChildMode.JOIN), signal_go)
    play.settle()
    play.now_ms += 201
    assert play.settle() == ["report 2: WAIT_CREATED 1, WAIT_CREATED 2, WAIT_CREATED 3 parks"]
    kinds = [wait.kind for wait in waits(play)]
    assert kinds == [WaitKind.SIGNAL, WaitKind.CHILD, WaitKind.CHILD, WaitKind.SIGNAL]


def test_a_parked_wait_for_a_child_is_not_another_operation() -> None:
    first = Play()
    first.ask(Child("a", ChildMode.JOIN))
    first.settle()
    first.now_ms += 200
    first.settle()
    first.child_ends(1, "a")
    resolved = WaitResolved(position=1, wait_id="1", outcome=WaitOutcome.CHILD_FINISHED)
    first.engine_writes(resolved)
    second = first.again()
    second.ask(Child("a", ChildMode.JOIN))
    assert second.resumes() == ['1 gave "a"']
    assert second.machine.broken is None


# ---- time-outs ----


def test_a_wait_without_a_default_times_out() -> None:
    play = Play()
    wait = Wait(kind=WaitKind.SIGNAL, name="go", duration_ms=10)
    play.ask(wait, step("slow"))
    play.settle()
    play.times_out(1)
    assert play.resumes() == ["1 timed out"]
    second = play.again()
    second.ask(wait, step("slow"))
    assert second.resumes() == ["1 timed out"]


def test_a_wait_with_a_default_gives_it() -> None:
    play = Play()
    wait = Wait(kind=WaitKind.SIGNAL, name="go", duration_ms=10, default=b'"late"')
    play.ask(wait, step("slow"))
    play.settle()
    play.times_out(1, "late")
    assert play.resumes() == ['1 gave "late"']
    second = play.again()
    second.ask(wait, step("slow"))
    assert second.resumes() == ['1 gave "late"']
