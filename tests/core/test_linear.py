"""What a decision costs grows with what is asked, not with its square, and not with what the run
holds already: one report of thousands of waits is thousands of looks into a table, and a run that
has ten thousand open waits answers as quickly as one that has ten.

Measured in time of this thread, the best of several, so that a busy machine does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from engine.core.decide import decide
from engine.core.transition import plan
from engine.core.values import Decision
from engine.model.commands import (
    ChildEnded,
    Command,
    Report,
    ReportedEntry,
    SendSignal,
    TimeHasCome,
)
from engine.model.payloads import ChildMode, ChildStarted, Payload, WaitCreated, WaitKind
from engine.model.runs import RunStatus
from engine.wire.journal import encode, kind_of
from tests.core.driver import START_MS, Driver

FEW, MANY = 400, 3_200  # eight times as many: 64 times the work where it grows with the square
RATIO_MAX = 20.0
HELD = 8_000


def wait(position: int, kind: WaitKind, name: str = "", due_ms: int = 0) -> WaitCreated:
    return WaitCreated(
        position=position, wait_id=str(position), kind=kind, name=name, due_ms=due_ms
    )


def child(position: int) -> ChildStarted:
    return ChildStarted(
        position=position,
        child_run_id=position.to_bytes(16),
        component="checkout",
        mode=ChildMode.JOIN,
    )


def running() -> Driver:
    return Driver().start().begin()


def signalled(run: Driver, count: int) -> Driver:
    for at in range(count):
        run.carry_out(SendSignal(name=f"n{at % 2}", signal_id=f"s-{at}", payload=b"1"))
    return run


def report(payloads: list[Payload]) -> Report:
    entries = (ReportedEntry(kind_of(one), encode(one), one) for one in payloads)
    return Report(lease_epoch=1, entries=tuple(entries))


def due_timers(count: int) -> tuple[Driver, list[Payload]]:
    return running(), [wait(at, WaitKind.TIMER, due_ms=1) for at in range(1, count + 1)]


def child_waits(count: int) -> tuple[Driver, list[Payload]]:
    started: list[Payload] = [child(at) for at in range(1, count + 1)]
    return running(), [*started, *(wait(at, WaitKind.CHILD) for at in range(1, count + 1))]


def waits_for_children_that_have_ended(count: int) -> tuple[Driver, list[Payload]]:
    return running(), [wait(at, WaitKind.CHILD) for at in range(1, count + 1)]


def waits_that_last(count: int) -> tuple[Driver, list[Payload]]:
    return running(), [wait(at, WaitKind.USER) for at in range(1, count + 1)]


def signal_waits(count: int) -> tuple[Driver, list[Payload]]:
    """The signals are there, and every one of the second name stands behind one of the first."""
    run = signalled(running(), count)
    return run, [wait(at, WaitKind.SIGNAL, "n1") for at in range(1, count // 2 + 1)]


def best_s(call: Callable[[], object], times: int = 5) -> float:
    best = float("inf")
    for _ in range(times):
        begun = time.thread_time()
        call()
        best = min(best, time.thread_time() - begun)
    return best


@pytest.mark.parametrize(
    "made",
    [
        due_timers,
        child_waits,
        waits_for_children_that_have_ended,
        waits_that_last,
        signal_waits,
    ],
)
def test_a_report_costs_by_its_length(
    made: Callable[[int], tuple[Driver, list[Payload]]],
) -> None:
    def cost_s(count: int) -> float:
        run, payloads = made(count)
        command = report(payloads)

        def carry_out() -> None:
            decision = decide(run.state, command, run.now_ms)
            plan(run.state, decision, run.now_ms * 1_000)

        return best_s(carry_out)

    assert cost_s(MANY) / cost_s(FEW) < RATIO_MAX


def of_waits(count: int) -> Driver:
    """One that holds waits of every kind; the ones that the commands below mean come last."""
    run = running()
    first: list[Payload] = [
        wait(at, WaitKind.SIGNAL, f"name-{at}", due_ms=START_MS + 60_000 + at)
        for at in range(1, count + 1)
    ]
    last: list[Payload] = [
        wait(count + 1, WaitKind.SIGNAL, "go"),
        wait(count + 2, WaitKind.TIMER, due_ms=START_MS + 1),
        child(count + 3),
        wait(count + 3, WaitKind.CHILD),
    ]
    for at in range(0, count, 1_000):
        run.report(*first[at : at + 1_000])
    return run.report(*last)


def test_what_comes_for_a_run_of_many_waits_costs_as_for_one_of_few() -> None:
    few, many = of_waits(10), of_waits(HELD)
    commands: list[Callable[[int], Command]] = [
        lambda _: SendSignal(name="go", signal_id="s-1", payload=b"1"),
        lambda _: SendSignal(name="nobody asks", signal_id="s-2", payload=b"1"),
        lambda _: TimeHasCome(),
        lambda count: ChildEnded(
            position=count + 3,
            child_run_id=bytes(16),
            status=RunStatus.COMPLETED,
            output=b"1",
            error=None,
        ),
        lambda count: report([wait(count + 9, WaitKind.TIMER, due_ms=START_MS + 9)]),
    ]
    for make in commands:

        def decided(run: Driver, command: Command) -> Decision:
            return decide(run.state, command, START_MS + 1)

        of_few, of_many = make(10), make(HELD)
        kinds = [entry.kind for entry in decided(few, of_few).entries]
        assert kinds == [entry.kind for entry in decided(many, of_many).entries]
        few_s = best_s(lambda c=of_few: [decided(few, c) for _ in range(20)])  # type: ignore[misc]
        many_s = best_s(lambda c=of_many: [decided(many, c) for _ in range(20)])  # type: ignore[misc]
        assert many_s / few_s < 5, type(of_many).__name__


def test_timers_come_due_one_after_the_other_without_a_look_at_the_others() -> None:
    def cost_s(count: int) -> float:
        def all_of_them() -> None:
            run = running()
            waits = [wait(at, WaitKind.TIMER, due_ms=START_MS + at) for at in range(1, count + 1)]
            run.report(*waits)
            begun = time.thread_time()
            for at in range(1, count + 1):
                run.now_ms = START_MS + at
                assert len(run.carry_out(TimeHasCome()).entries) == 1
            taken.append(time.thread_time() - begun)

        taken: list[float] = []
        best_s(all_of_them, times=3)
        return min(taken)

    assert cost_s(MANY) / cost_s(FEW) < RATIO_MAX
