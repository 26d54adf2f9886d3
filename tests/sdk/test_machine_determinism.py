"""The replay machine, scene by scene: code that asks for something else than the journal has, and
attempts, in which it may."""

from __future__ import annotations

import pytest

from engine.model.payloads import ChildMode, WaitKind
from engine.sdk.replay.operations import ChangeState, Child, Operation, ReportUsage, Wait
from tests.sdk.play import Play, signal_go, sleep_10_s, step


def message(play: Play) -> str:
    assert play.machine.broken is not None
    assert play.machine.broken.code == "not_deterministic"
    assert play.machine.broken.non_retryable
    return play.machine.broken.message


def recorded(*operations: Operation) -> Play:
    """A journal with these, none of which has an outcome yet, and a step that has."""
    play = Play()
    play.ask(*operations, step("last"))
    play.settle()
    play.step_gives(len(operations) + 1, "end")
    play.settle()
    return play


def test_the_error_names_the_position_the_journal_and_the_code() -> None:
    first = Play()
    first.ask(step("charge", key="card"))
    first.settle()
    first.step_gives(1, 42)
    first.resumes()
    first.ask(step("ship"))
    first.settle()
    second = first.again()
    second.ask(step("refund"))
    assert second.settle() == ["report 1: RUN_FAILED"]
    text = message(second)
    assert "at position 1\n" in text
    assert "the journal has     step 'charge' with key 'card'\n" in text
    assert "the code asked for  step 'refund'\n" in text


@pytest.mark.parametrize(
    ("had", "asked", "words"),
    [
        (signal_go, sleep_10_s, "a sleep"),
        (signal_go, Wait(kind=WaitKind.SIGNAL, name="stop"), "a wait for signal 'stop'"),
        (signal_go, Wait(kind=WaitKind.USER, question="Go?"), "a question to the user: 'Go?'"),
        (Child("a", ChildMode.JOIN), Child("b", ChildMode.JOIN), "child run 'b'"),
        (Child("a", ChildMode.JOIN), Child("a", ChildMode.DETACH), "child run 'a', detached"),
        (Child("a", ChildMode.JOIN), ReportUsage(), "a usage report"),
        (ReportUsage(), ChangeState("x", b"1"), "a change of state 'x'"),
        (ChangeState("x", b"1"), ChangeState("y", b"1"), "a change of state 'y'"),
    ],
)
def test_what_has_to_be_the_same(had: Operation, asked: Operation, words: str) -> None:
    play = recorded(had).again()
    play.ask(asked)
    assert f"the code asked for  {words}\n" in message(play)


def test_a_step_without_an_outcome_is_not_in_the_journal() -> None:
    play = recorded(step("a")).again()
    play.ask(step("b"))
    assert play.machine.broken is None


@pytest.mark.parametrize(
    ("had", "asked"),
    [
        (Wait(kind=WaitKind.USER, question="Goo?"), Wait(kind=WaitKind.USER, question="Go?")),
        (sleep_10_s, Wait(kind=WaitKind.TIMER, duration_ms=1)),
        (Child("a", ChildMode.JOIN, b"1"), Child("a", ChildMode.JOIN, b"2")),
        (ChangeState("x", b"1"), ChangeState("x", b"2")),
        (ReportUsage(model="a"), ReportUsage(model="b")),
    ],
)
def test_what_may_change(had: Operation, asked: Operation) -> None:
    play = recorded(had).again()
    play.ask(asked, step("last"))
    assert play.machine.broken is None
    assert play.resumes() == ['2 gave "end"']


def test_an_outcome_that_the_code_does_not_wait_for_any_more() -> None:
    first = Play()
    first.ask(step("a"), step("b"))
    first.settle()
    first.step_gives(2, "b")
    first.settle()
    second = first.again()
    second.ask(step("a"))
    assert second.resumes() == []
    assert "the journal has     step 'b'" in message(second)
    assert "nothing: it waits for something else" in message(second)


def test_code_that_ends_before_the_journal_does() -> None:
    first = Play()
    first.ask(step("a"), sleep_10_s)
    first.settle()
    second = first.again()
    second.ask(step("a"))
    assert second.returns() == ["report 1: RUN_FAILED"]
    assert "the code asked for  nothing more: it returned" in message(second)


def test_code_that_raises_fails_with_its_own_error() -> None:
    """A deployment that cannot even import its code should say so, and not talk of determinism."""
    play = recorded(sleep_10_s).again()
    assert play.raises("ImportError") == ["report 1: RUN_FAILED"]
    assert play.machine.broken is None


def test_nothing_of_broken_code_is_reported() -> None:
    play = recorded(sleep_10_s).again()
    play.ask(signal_go, ChangeState("x", b"1"), Child("c", ChildMode.JOIN), step("s"))
    assert play.resumes() == []
    assert play.settle() == ["report 1: RUN_FAILED"]
    assert play.settle() == []


# ---- attempts ----


def failed_attempt() -> Play:
    """`charge` worked, `ship` failed for good, and the code apologized before it failed."""
    play = Play()
    play.ask(step("charge"))
    play.settle()
    play.step_gives(1, 42)
    play.resumes()
    play.ask(step("ship"))
    play.settle()
    play.acknowledge()
    play.settle()
    play.step_raises(2, "NoTruck")
    assert play.resumes() == ["2 raised NoTruck"]
    play.ask(step("apologize"))
    play.settle()
    play.acknowledge()
    play.settle()
    play.step_gives(3, "sorry")
    assert play.resumes() == ['3 gave "sorry"']
    play.settle()
    play.retries()
    return play


def test_a_new_attempt_repeats_the_step_that_failed_and_no_other() -> None:
    play = failed_attempt().again()
    play.ask(step("charge"))
    assert play.resumes() == ["1 gave 42"]
    play.ask(step("ship"))
    assert play.resumes() == []
    assert play.settle() == ["begin 2"]


def test_a_new_attempt_may_take_another_way_at_new_positions() -> None:
    play = failed_attempt().again()
    play.ask(step("charge"))
    play.resumes()
    play.ask(step("ship"))
    play.settle()
    play.step_gives(2, "shipped")
    assert play.resume() == '2 gave "shipped"'
    assert play.ask(step("thank")) == [4], "3 was the apology, and stays that"
    play.settle()
    play.acknowledge()
    assert play.settle() == ["begin 4"]
    play.step_gives(4, "thanks")
    play.resumes()
    assert play.returns() == ["report 2: STEP_COMPLETED 4, RUN_COMPLETED"]


def test_the_other_way_is_found_again_in_a_replay() -> None:
    second = failed_attempt().again()
    second.ask(step("charge"))
    second.resumes()
    second.ask(step("ship"))
    second.settle()
    second.step_gives(2, "shipped")
    second.resumes()
    second.ask(step("thank"))
    second.settle()
    third = second.again()
    third.ask(step("charge"))
    assert third.resume() == "1 gave 42"
    third.ask(step("ship"))
    assert third.resume() == '2 gave "shipped"'
    assert third.ask(step("thank")) == [4]
    assert third.resumes() == []
    assert third.settle() == ["begin 4"]
    assert third.machine.broken is None


def test_the_same_way_again_uses_what_is_recorded() -> None:
    play = failed_attempt().again()
    play.ask(step("charge"))
    play.resumes()
    play.ask(step("ship"))
    play.settle()
    play.step_raises(2, "NoTruck")
    assert play.resume() == "2 raised NoTruck"
    assert play.ask(step("apologize")) == [3]
    assert play.resume() == '3 gave "sorry"', "recorded in the attempt before, not run again"
    assert play.raises() == ["report 1: STEP_FAILED 2, RUN_FAILED"]


def test_before_the_failure_a_new_attempt_is_as_strict_as_ever() -> None:
    play = failed_attempt().again()
    play.ask(step("something else"))
    assert "at position 1" in message(play)


def test_an_attempt_that_failed_in_the_code_itself_is_replayed_whole() -> None:
    first = Play()
    first.ask(step("charge"))
    first.settle()
    first.step_gives(1, 42)
    first.resumes()
    first.raises("Oops")
    del first.journal[-1]
    first.retries()
    second = first.again()
    second.ask(step("charge"))
    assert second.resumes() == ["1 gave 42"]
    assert second.returns() == ["report 1: RUN_COMPLETED"]


def test_state_keeps_its_revisions_over_attempts() -> None:
    first = Play()
    first.machine.change_state(ChangeState("n", b"1"))
    first.ask(step("ship"))
    first.settle()
    first.step_raises(2)
    first.resumes()
    first.machine.change_state(ChangeState("n", b"2"))
    first.settle()
    first.retries()
    second = first.again()
    assert second.machine.change_state(ChangeState("n", b"1")) == (b"1", 1)
    second.ask(step("ship"))
    second.settle()
    second.step_gives(2, 1)
    second.resumes()
    second.ask(step("elsewhere"))
    assert second.machine.change_state(ChangeState("n", b"3")) == (b"3", 3)


def test_a_third_attempt_knows_the_ways_of_both_before() -> None:
    second = failed_attempt().again()
    second.ask(step("charge"))
    second.resumes()
    second.ask(step("ship"))
    second.settle()
    second.step_gives(2, "shipped")
    second.resumes()
    second.ask(step("thank"))
    second.settle()
    second.acknowledge()
    second.settle()
    second.step_raises(4, "NoMail")
    second.resumes()
    second.settle()
    second.retries()
    third = second.again()
    third.ask(step("charge"))
    assert third.resume() == "1 gave 42"
    third.ask(step("ship"))
    assert third.resume() == '2 gave "shipped"'
    assert third.ask(step("thank")) == [4]
    assert third.resumes() == []
    assert third.settle() == ["begin 4"]
