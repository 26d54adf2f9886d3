"""A transition that is planned changes nothing until somebody accepts it."""

from __future__ import annotations

import copy

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import limits
from engine.core.apply import CHANGED_IN_PLACE, apply
from engine.core.decide import decide
from engine.core.draft import Draft
from engine.core.state import RunState, encode_state
from engine.core.transition import plan
from engine.core.transitions import IllegalTransition
from engine.core.values import Decision, Entry
from engine.model.commands import CancelRun, ChildEnded, Command, ResolveWait, SendSignal
from engine.model.payloads import (
    ChildFinished,
    ChildMode,
    ChildStarted,
    Payload,
    RunAccepted,
    RunCancelled,
    RunFailed,
    RunRetrying,
    RunStarted,
    SignalReceived,
    StateChanged,
    StateRead,
    StateScope,
    WaitCreated,
    WaitKind,
    WaitResolved,
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


HELD = [
    field.name
    for field in msgspec.structs.fields(RunState)
    if field.default_factory is not msgspec.NODEFAULT
]
PAYLOADS: dict[RecordKind, Payload | None] = {
    RecordKind.RUN_ACCEPTED: RunAccepted(component="c", tags={"a": "b"}),
    RecordKind.RUN_STARTED: RunStarted(attempt=2, lease_epoch=9, worker_id="w"),
    RecordKind.WAIT_CREATED: WaitCreated(position=9, wait_id="9", kind=WaitKind.USER),
    RecordKind.WAIT_RESOLVED: WaitResolved(position=3, wait_id="s", signal_id="s-1"),
    RecordKind.SIGNAL_RECEIVED: SignalReceived(signal_id="s-9", name="n", payload=b"1"),
    RecordKind.CHILD_STARTED: ChildStarted(position=7, child_run_id=CHILD, mode=ChildMode.JOIN),
    RecordKind.CHILD_FINISHED: ChildFinished(position=1, child_run_id=CHILD),
    RecordKind.STATE_CHANGED: StateChanged(scope=StateScope.RUN, name="other", revision=3),
    RecordKind.STATE_READ: StateRead(scope=StateScope.RUN, name="other"),
    RecordKind.RUN_RETRYING: RunRetrying(attempt=1, retry_at_ms=5),
    RecordKind.RUN_FAILED: RunFailed(),
    RecordKind.RUN_CANCELLED: RunCancelled(reason="enough"),
}


@pytest.mark.parametrize("kind", list(RecordKind), ids=lambda kind: kind.name)
def test_a_record_changes_in_place_what_is_said_of_its_kind(kind: RecordKind) -> None:
    """Whatever the state comes to hold: what is not named is shared by two states, and must stay
    as it is, or be put anew."""
    state = full().state
    before = {name: getattr(state, name) for name in HELD}
    copies = copy.deepcopy(before)
    assert all(before.values()), "what is empty shows nothing"
    state.status = None if kind is RecordKind.RUN_ACCEPTED else RunStatus.RUNNING
    if kind is RecordKind.RUN_STARTED:
        state.status = RunStatus.QUEUED
    apply(state, kind, PAYLOADS.get(kind), 1_000)
    changed = {name for name in HELD if before[name] != copies[name]}
    assert changed == set(CHANGED_IN_PLACE.get(kind, ()))


def test_each_thing_that_a_state_holds_may_be_shared() -> None:
    state = full().state
    things = [*state.waits.values(), *state.signals.values()]
    copies = copy.deepcopy(things)
    for command in COMMANDS:
        decision = decide(state, command, 1)
        plan(state, decision, 1_000).accepted()
    assert things == copies


@pytest.mark.parametrize("threshold", [0, 10_000])
def test_a_table_that_is_not_copied_comes_to_the_same(
    threshold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "copied_entries_max", threshold)
    driver, plain = full(), full()
    for command in COMMANDS:
        before = encode_state(driver.state)
        tables = {name: getattr(driver.state, name) for name in HELD}
        decision = decide(driver.state, command, driver.now_ms)
        given_up = plan(driver.state, decision, driver.now_ms * 1_000)
        looked_at = encode_state(given_up.whole())
        planned = plan(driver.state, decision, driver.now_ms * 1_000)
        assert encode_state(driver.state) == before
        assert all(getattr(driver.state, name) is table for name, table in tables.items())
        driver.state = planned.accepted()
        plain.carry_out(command)
        assert encode_state(driver.state) == encode_state(plain.state) == looked_at


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "pop", "has"]), st.integers(0, 6), st.integers(0, 99))
)


@given(st.dictionaries(st.integers(0, 6), st.integers(0, 99)), STEPS)
def test_a_draft_does_what_a_dict_does(
    table: dict[int, int], steps: list[tuple[str, int, int]]
) -> None:
    plain, before = dict(table), list(table.items())
    draft = Draft(table)
    for what, key, value in steps:
        if what == "put":
            plain[key] = value
            draft[key] = value
        elif what == "pop":
            assert draft.pop(key, None) == plain.pop(key, None)
        else:
            assert (key in draft) == (key in plain)
    assert list(table.items()) == before, "nobody has accepted it"
    assert list(draft.made().items()) == list(plain.items())
    assert list(table.items()) == before
    assert draft.settled() is table
    assert list(table.items()) == list(plain.items()), "in the same order, too"
