"""Which run of an entity has its turn: of the runs with one key, at most one has begun and not
ended, the others wait in line, first come first served.

A key belongs to a component of a deployment. The run that has the turn keeps it while it waits or
backs off, and gives it up by ending. Plain data of the running process: after a start it is made
anew from the runs' states (`recovery.py`). Knows no worker and no queue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from engine.base.ids import RunId
from engine.core.state import RunState
from engine.model.runs import ComponentKind
from engine.runtime.writer.live import LiveRun

# deployment, component, entity key
EntityKey = tuple[str, str, str]


def entity_of(state: RunState) -> EntityKey | None:
    """The entity that the run writes to, if it is one's. An entity without a key, which only a
    child run can be, has the empty one: still one writer at a time."""
    if state.entity_key or state.component_kind == ComponentKind.ENTITY:
        return state.deployment_id, state.component, state.entity_key
    return None


def in_line(runs: Iterable[LiveRun]) -> list[LiveRun]:
    """Runs that have not begun, in the order in which they could: after a start."""
    return sorted(
        runs,
        key=lambda live: (max(live.state.created_ms, live.state.start_at_ms), live.state.run_id),
    )


@dataclasses.dataclass(slots=True)
class _Entity:
    turn: RunId
    waiting: dict[RunId, LiveRun] = dataclasses.field(default_factory=dict)


class Entities:
    def __init__(self) -> None:
        self._entities: dict[EntityKey, _Entity] = {}

    def hold(self, state: RunState) -> None:
        """The run has begun and not ended: it has the turn, whoever comes."""
        key = entity_of(state)
        if key is not None:
            self._entities.setdefault(key, _Entity(RunId(state.run_id)))

    def admit(self, live: LiveRun) -> bool:
        """Whether the run may go on: it has the turn, gets it now, or needs none. If not, it
        stands in line."""
        key = entity_of(live.state)
        if key is None:
            return True
        entity = self._entities.setdefault(key, _Entity(live.run_id))
        if entity.turn == live.run_id:
            return True
        entity.waiting[live.run_id] = live
        return False

    def ended(self, live: LiveRun) -> LiveRun | None:
        """The run has ended; the run whose turn it is now, if that has changed."""
        key = entity_of(live.state)
        entity = self._entities.get(key) if key is not None else None
        if key is None or entity is None:
            return None
        if entity.turn != live.run_id:
            entity.waiting.pop(live.run_id, None)
            return None
        if not entity.waiting:
            del self._entities[key]
            return None
        entity.turn = next(iter(entity.waiting))
        return entity.waiting.pop(entity.turn)

    def standing(self, live: LiveRun) -> tuple[RunId, int] | None:
        """Who has the turn and how many are before this run in line; None if it is not in line."""
        key = entity_of(live.state)
        entity = self._entities.get(key) if key is not None else None
        if entity is None or live.run_id not in entity.waiting:
            return None
        return entity.turn, list(entity.waiting).index(live.run_id)

    def waiting_count(self) -> int:
        return sum(len(entity.waiting) for entity in self._entities.values())

    def clear(self) -> None:
        self._entities.clear()
