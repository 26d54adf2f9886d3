"""A transition as a value: what a decision makes of a run, before anybody has accepted it.

`plan` changes nothing of what it is given, so a refusal, wherever it comes from, leaves the run as
it was and there is nothing to undo. Who accepts a transition puts its state in the place of the old
one. Knows no journal, no worker and no memory of runs.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Final

import msgspec

from engine.core.apply import apply
from engine.core.state import RunState
from engine.core.values import Decision, Entry
from engine.model.effects import Effect

# The fields of a state that hold something which can be changed in place, as the state itself says:
# what is made anew for each state must not be shared by two of them.
_HELD: Final = tuple(
    field.name
    for field in msgspec.structs.fields(RunState)
    if field.default_factory is not msgspec.NODEFAULT
)


@dataclasses.dataclass(slots=True)
class Transition:
    """The state after the entries, the first of which has `first_offset`, and what follows."""

    state: RunState
    entries: Sequence[Entry]
    first_offset: int
    timestamp_us: int
    bookkeeping: Sequence[Effect]
    after_commit: Sequence[Effect]


def plan(state: RunState, decision: Decision, now_us: int) -> Transition:
    """What the decision leads to, or `IllegalTransition`; the state is as before in any case."""
    after = separate(state)
    for entry in decision.entries:
        apply(after, entry.kind, entry.payload, now_us)
    return Transition(
        after,
        decision.entries,
        state.next_offset,
        now_us,
        decision.bookkeeping,
        decision.after_commit,
    )


def separate(state: RunState) -> RunState:
    """A state that can be changed without the other one. What it holds is shared, since `apply`
    puts new waits and signals in and never changes one."""
    other = copy.copy(state)
    for name in _HELD:
        held = getattr(state, name)
        setattr(other, name, copy.copy(held) if held else type(held)())
    return other
