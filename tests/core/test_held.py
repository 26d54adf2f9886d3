"""What the index of open waits and signals says is what a look through all of them would say,
whatever was put in, taken out, copied for a transition and then refused."""

from __future__ import annotations

import copy
import random

import pytest

from engine.base import limits
from engine.core.held import BufferedSignal, BufferedSignals, OpenWait, OpenWaits
from engine.core.state import RunState, decode_state, encode_state
from engine.model.payloads import WaitKind

NAMES = ("a", "b", "c")
KINDS = (WaitKind.SIGNAL, WaitKind.TIMER, WaitKind.USER)


def asked_for(waits: OpenWaits, name: str) -> list[tuple[str, OpenWait]]:
    return [
        (key, wait)
        for key, wait in waits.items()
        if wait.kind == WaitKind.SIGNAL and wait.name == name
    ]


def due_after(waits: OpenWaits, after_ms: int) -> int | None:
    due = (wait.due_ms for wait in waits.values())
    return min((due_ms for due_ms in due if due_ms > after_ms), default=None)


def over(waits: OpenWaits, now_ms: int) -> list[OpenWait]:
    found = [wait for wait in waits.values() if 0 < wait.due_ms <= now_ms]
    return sorted(found, key=lambda wait: (wait.due_ms, wait.position))


def changed(waits: OpenWaits, dice: random.Random) -> OpenWaits:
    """As `plan` does: a copy that takes the changes, and the other one as it was."""
    after = copy.copy(waits)
    for _ in range(dice.randrange(1, 6)):
        wait_id = str(dice.randrange(40))
        if wait_id in after:
            del after[wait_id]
        else:
            kind, name = dice.choice(KINDS), dice.choice(NAMES)
            due_ms = dice.choice((0, dice.randrange(1, 100)))
            position = dice.randrange(1_000_000)
            after.put(wait_id, OpenWait(position, wait_id, kind, name, due_ms))
    return after


@pytest.mark.parametrize("seed", range(20))
def test_the_index_says_what_a_look_through_all_would_say(seed: int) -> None:
    dice = random.Random(seed)
    waits = OpenWaits()
    for _ in range(300):
        planned = changed(waits, dice)
        if dice.random() < 0.8:  # else it was refused, and the state is the old one
            waits = planned
        name, now_ms = dice.choice(NAMES), dice.randrange(100)
        if dice.random() < 0.5:
            assert [*waits.named(name)] == asked_for(waits, name)
        if dice.random() < 0.5:
            assert waits.over(now_ms) == (over(waits, now_ms), False)
        if dice.random() < 0.5:
            assert waits.next_due_ms(now_ms) == due_after(waits, now_ms)


def test_of_many_that_are_over_the_first_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "waits_resolved_per_look_max", 3)
    waits = OpenWaits()
    for at in range(5):
        waits.put(str(at), OpenWait(at, str(at), WaitKind.TIMER, due_ms=10 - at))
    first, is_more = waits.over(10)
    assert ([wait.position for wait in first], is_more) == ([4, 3, 2], True)
    for wait in first:
        del waits[wait.wait_id]
    rest, is_more = waits.over(10)
    assert ([wait.position for wait in rest], is_more) == ([1, 0], False)


def test_an_index_does_not_grow_with_what_is_long_gone() -> None:
    waits = OpenWaits()
    for at in range(10_000):
        waits.put(str(at), OpenWait(at, str(at), WaitKind.SIGNAL, f"reply-{at}", due_ms=at + 1))
        assert next(waits.named(f"reply-{at}"))[0] == str(at)
        assert waits.next_due_ms(0) == at + 1
        del waits[str(at)]
    index = waits._index
    assert index is not None
    assert index.by_name is None or len(index.by_name) < 200
    assert index.by_due is None or len(index.by_due) < 200


def test_a_state_from_its_row_holds_the_same() -> None:
    state = RunState(run_id=bytes(16))
    state.waits.put("1", OpenWait(1, "1", WaitKind.SIGNAL, "a", due_ms=5))
    state.signals.put("s-1", BufferedSignal("a", b"1"))
    again = decode_state(encode_state(state))
    assert (type(again.waits), type(again.signals)) == (OpenWaits, BufferedSignals)
    assert again == state
    assert [key for key, _ in again.signals.named("a")] == ["s-1"]
    assert again.waits.next_due_ms(0) == 5
