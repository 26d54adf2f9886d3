"""A transition as a value: what a decision makes of a run, before anybody has accepted it.

`plan` changes nothing of what it is given, so a refusal, wherever it comes from, leaves the run as
it was and there is nothing to undo. Who accepts a transition puts its state in the place of the old
one. Knows no journal, no worker and no memory of runs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import msgspec

from engine.base import limits
from engine.core.apply import CHANGED_IN_PLACE, apply
from engine.core.draft import Draft
from engine.core.state import RunState
from engine.core.values import Decision, Entry
from engine.model.effects import Effect


class Transition(msgspec.Struct):
    """The state after the entries, the first of which has `first_offset`, and what follows."""

    state: RunState
    entries: Sequence[Entry]
    first_offset: int
    timestamp_us: int
    bookkeeping: Sequence[Effect]
    after_commit: Sequence[Effect]
    # Tables of the state that stand beside those of the state before, for the time being.
    drafts: dict[str, Draft]

    def accepted(self) -> RunState:
        """The state, for good: what it has taken over from the one before is changed now."""
        if self.drafts:
            for name, draft in self.drafts.items():
                setattr(self.state, name, draft.settled())
            self.drafts.clear()
        return self.state

    def whole(self) -> RunState:
        """The state, to be looked at before it is accepted."""
        if self.drafts:
            for name, draft in self.drafts.items():
                setattr(self.state, name, draft.made())
            self.drafts.clear()
        return self.state


def plan(state: RunState, decision: Decision, now_us: int) -> Transition:
    """What the decision leads to, or `IllegalTransition`; the state is as before in any case."""
    after, drafts = _separate(state, decision.entries)
    for entry in decision.entries:
        apply(after, entry.kind, entry.payload, now_us)
    return Transition(
        after,
        decision.entries,
        state.next_offset,
        now_us,
        decision.bookkeeping,
        decision.after_commit,
        drafts,
    )


def _separate(state: RunState, entries: Sequence[Entry]) -> tuple[RunState, dict[str, Draft]]:
    """A state that the entries can change without the other one. Of what it holds, they share what
    none of them changes, and each thing in it, since `apply` never changes one."""
    other = copy.copy(state)
    drafts: dict[str, Draft] = {}
    changed = {name for entry in entries for name in CHANGED_IN_PLACE.get(entry.kind, ())}
    for name in changed:
        held = getattr(state, name)
        if isinstance(held, dict) and len(held) > limits.copied_entries_max:
            drafts[name] = Draft(held)
            setattr(other, name, drafts[name])
        else:
            setattr(other, name, copy.copy(held))
    return other, drafts
