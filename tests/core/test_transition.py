"""A transition that is planned changes nothing until somebody accepts it."""

from __future__ import annotations

import msgspec
import pytest

from engine.core.decide import decide
from engine.core.state import RunState, encode_state
from engine.core.transition import plan, separate
from engine.core.transitions import IllegalTransition
from engine.core.values import Decision, Entry
from engine.model.commands import CancelRun, ChildEnded, Command, ResolveWait, SendSignal
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    RunStarted,
    StateChanged,
    StateScope,
    WaitCreated,
    WaitKind,
)
from engine.model.records import RecordKind
from engine.model.runs import RunStatus
from tests.core.driver import Driver

CHILD = bytes(range(1, 17))


def full() -> Driver:
    """A run that holds something of every sort."""
    driver = Driver().start(tags={"team": "shop"}).begin()
    driver.report(
        ChildStarted(position=1, child_run_id=CHILD, component="c", mode=ChildMode.JOIN),
        WaitCreated(position=1, wait_id="1", kind=WaitKind.CHILD),
        WaitCreated(position=2, wait_id="q", kind=WaitKind.USER, name="sure?"),
        WaitCreated(position=3, wait_id="s", kind=WaitKind.SIGNAL, name="go"),
        StateChanged(position=4, scope=StateScope.RUN, name="n", value=b"1", revision=1),
    )
    driver.carry_out(SendSignal(name="other", signal_id="s-1", payload=b"1", sender=""))
    return driver


COMMANDS: list[Command] = [
    SendSignal(name="go", signal_id="s-2", payload=b"2", sender=""),
    SendSignal(name="other", signal_id="s-3", payload=b"3", sender=""),
    ResolveWait(wait_id="q", value=b"true"),
    ChildEnded(position=1, child_run_id=CHILD, status=RunStatus.COMPLETED, output=b"1", error=None),
    CancelRun(reason="enough"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_what_is_planned_leaves_the_state_alone(command: Command) -> None:
    driver = full()
    before = encode_state(driver.state)
    decision = decide(driver.state, command, driver.now_ms)
    planned = plan(driver.state, decision, driver.now_ms * 1_000)
    assert encode_state(driver.state) == before
    assert planned.first_offset == driver.state.next_offset
    assert planned.state.next_offset == planned.first_offset + len(planned.entries)
    driver.carry_out(command)
    assert encode_state(planned.state) == encode_state(driver.state) != before


def test_a_plan_that_breaks_off_in_the_middle_leaves_the_state_alone() -> None:
    driver = full()
    before = encode_state(driver.state)
    cancel = decide(driver.state, CancelRun(reason="enough"), driver.now_ms)
    started = RunStarted(attempt=2, lease_epoch=9, worker_id="w", lease_until_ms=0)
    broken = Decision([*cancel.entries, Entry(RecordKind.RUN_STARTED, started)])
    with pytest.raises(IllegalTransition):
        plan(driver.state, broken, driver.now_ms * 1_000)
    assert encode_state(driver.state) == before


def test_two_states_share_nothing_that_can_be_changed_in_place() -> None:
    """Whatever field the state gets: the rule comes from the fields and not from a list."""
    state = full().state
    other = separate(state)
    assert other == state
    changeable = [
        field.name
        for field in msgspec.structs.fields(RunState)
        if isinstance(getattr(state, field.name), dict | list)
    ]
    assert {"waits", "signals", "signal_ids", "children", "revisions", "tags"} <= set(changeable)
    for name in changeable:
        assert getattr(state, name), f"{name} is empty here, which shows nothing"
        assert getattr(other, name) is not getattr(state, name), name
