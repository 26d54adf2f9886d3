"""What a run may grow to: its state stands in one row, and what goes from one run's journal into
another's fits a record there. Each refusal changes nothing and says what to do."""

from __future__ import annotations

import pytest

from engine.base import limits
from engine.base.errors import LimitExceeded
from engine.core.state import decode_state, encode_state
from engine.model import effects
from engine.model.commands import CancelRun, Command, ResolveWait, SendSignal, TimeHasCome
from engine.model.payloads import (
    ChildFinished,
    ChildMode,
    ChildStarted,
    Error,
    Payload,
    RetryKind,
    RetryPolicy,
    RunCompleted,
    RunFailed,
    StateChanged,
    StateScope,
    WaitCreated,
    WaitKind,
    WaitOutcome,
    WaitResolved,
)
from engine.model.records import RecordKind
from engine.model.runs import RunStatus
from engine.wire.journal import encode
from tests.core.driver import RUN, Driver

HALF = b"x" * (limits.signals_buffered_bytes_max // 2)
LONG = "x" * (limits.error_bytes_max + 1)


def running() -> Driver:
    return Driver().start().begin()


def signal(name: str, signal_id: str, payload: bytes) -> SendSignal:
    return SendSignal(name=name, signal_id=signal_id, payload=payload)


def wait(position: int, **fields: object) -> WaitCreated:
    return WaitCreated(
        position=position,
        wait_id=str(position),
        kind=WaitKind.SIGNAL,
        **fields,  # type: ignore[arg-type]
    )


def state_change(name: str) -> StateChanged:
    return StateChanged(position=1, scope=StateScope.RUN, name=name, value=b"1", revision=1)


def refuses(run: Driver, command: Command, match: str) -> None:
    before = encode_state(run.state)
    with pytest.raises(LimitExceeded, match=match):
        run.carry_out(command)
    assert encode_state(run.state) == before


def refuses_report(run: Driver, *payloads: Payload, match: str) -> None:
    before = encode_state(run.state)
    with pytest.raises(LimitExceeded, match=match):
        run.report(*payloads)
    assert encode_state(run.state) == before


def test_signals_that_wait_are_bounded_by_their_bytes() -> None:
    run = running()
    run.carry_out(signal("a", "s-1", HALF))
    refuses(run, signal("a", "s-2", HALF), "take some first")
    run.report(wait(1, name="a"))
    assert run.state.signals_bytes == 0
    run.carry_out(signal("a", "s-2", HALF))


def test_a_signal_that_is_taken_at_once_needs_no_room() -> None:
    run = running().report(wait(1, name="a"))
    run.carry_out(signal("b", "s-1", HALF))
    run.carry_out(signal("a", "s-2", HALF))
    assert list(run.state.signals) == ["s-1"]


def test_a_signal_alone_is_bounded() -> None:
    refuses(running(), signal("a", "s-1", HALF + HALF), "send a reference")


def test_the_waits_of_a_run_are_bounded_by_their_bytes() -> None:
    half = b"x" * (limits.waits_open_bytes_max // 2)
    run = running().report(wait(1, name="a", default=half))
    refuses_report(run, wait(2, name="b", default=half), match="open waits")
    refuses_report(run, wait(2, question="\N{SNOWMAN}" * (len(half) // 3)), match="open waits")
    run.carry_out(signal("a", "s-1", b"1"))
    assert run.state.waits_bytes == 0
    run.report(wait(2, name="b", default=half))
    refuses_report(run, WaitCreated(position=3, wait_id="i" * 513), match="id has at most")


def test_the_names_of_a_runs_state_are_bounded() -> None:
    run = running()
    names = [state_change(f"name-{number}") for number in range(limits.state_names_max)]
    run.report(*names)
    run.report(names[0])
    refuses_report(run, state_change("one more"), match="pieces of state")
    refuses_report(running(), state_change("n" * 513), match="name of a piece of state")


def test_everything_at_its_bound_fits_the_row() -> None:
    run = running()
    run.carry_out(signal("a", "s-1", b"x" * (limits.signals_buffered_bytes_max - 4)))
    run.report(wait(1, name="b", default=b"x" * (limits.waits_open_bytes_max - 2)))
    for begin in range(0, limits.state_names_max, 100):
        run.report(*(state_change(f"{n:04}" + "n" * 508) for n in range(begin, begin + 100)))
    for begin in range(0, limits.children_open_max, 5_000):
        run.report(*(child(begin + n) for n in range(5_000)))
    row = encode_state(run.state)
    assert len(row) + limits.error_bytes_max < limits.row_bytes_max
    assert decode_state(row) == run.state == run.rebuilt()


def child(position: int, given: bytes = b"") -> ChildStarted:
    return ChildStarted(
        position=position,
        child_run_id=position.to_bytes(16, "big"),
        component="c",
        mode=ChildMode.JOIN,
        input=given,
    )


def test_what_a_child_ends_with_fits_its_parents_records() -> None:
    output = b"x" * limits.output_bytes_max
    error = Error(code="c", message="m" * (limits.error_bytes_max - 1))
    for finished in (
        ChildFinished(position=2**40, child_run_id=RUN, status=RunStatus.COMPLETED, output=output),
        ChildFinished(position=2**40, child_run_id=RUN, status=RunStatus.FAILED, error=error),
        WaitResolved(
            position=2**40,
            wait_id="i" * limits.wait_id_length_max,
            outcome=WaitOutcome.CHILD_FINISHED,
            value=output,
        ),
    ):
        assert len(encode(finished)) <= limits.record_payload_bytes_max


def test_endings_are_bounded() -> None:
    output = b"x" * (limits.output_bytes_max + 1)
    refuses_report(running(), RunCompleted(output=output), match="output of 'checkout'")
    failed = RunFailed(error=Error(code="c", traceback=LONG))
    refuses_report(running(), failed, match="shorter message")
    refuses(running(), CancelRun(reason=LONG), "shorter")


def test_inputs_of_children_and_answers_are_bounded() -> None:
    given = b"x" * (limits.input_bytes_max + 1)
    refuses_report(running(), child(1, given), match="input of child 'c'")
    asked = WaitCreated(position=1, wait_id="1", kind=WaitKind.USER)
    refuses(running().report(asked), ResolveWait(wait_id="1", value=given), "answer has")


# ---- time ----


def test_more_waits_than_fit_one_transition_fire_one_after_the_other() -> None:
    run = running()
    due_ms = run.now_ms + 10
    count = limits.waits_resolved_per_look_max + 5
    for begin in range(0, count, 500):
        run.report(
            *(wait(n, name="never", due_ms=due_ms) for n in range(begin, min(begin + 500, count)))
        )
    run.now_ms = due_ms
    run.carry_out(TimeHasCome())
    assert len(run.state.waits) == 5
    (timer,) = [effect for effect in run.effects if isinstance(effect, effects.SetTimer)]
    assert timer.due_ms <= run.now_ms
    run.carry_out(TimeHasCome())
    assert run.state.waits == {}
    assert len(run.payloads(RecordKind.WAIT_RESOLVED)) == count


def test_a_run_that_backs_off_looks_at_its_waits_and_at_its_next_attempt() -> None:
    policy = RetryPolicy(kind=RetryKind.CONSTANT, initial_ms=1_000, attempts_max=3)
    run = Driver().start(retry=policy).begin()
    due_ms = run.now_ms + 100
    run.report(wait(1, name="a", due_ms=due_ms), RunFailed(error=Error(code="x", message="m")))
    assert run.state.next_due_ms() == due_ms
    run.now_ms = due_ms
    run.carry_out(TimeHasCome())
    assert run.state.waits == {}
    assert run.status is RunStatus.RETRYING
    assert [effect for effect in run.effects if isinstance(effect, effects.SetTimer)] == [
        effects.SetTimer(RUN, run.state.retry_at_ms)
    ]
    run.now_ms = run.state.retry_at_ms
    run.carry_out(TimeHasCome())
    assert "Enqueue" in run.effect_names()
