"""What a question about shared state leads to: state that belongs to a session, a user, an entity
or the project, and that other runs read and change.

The values as they are now come with the command; where they are kept is not known here. What was
decided is a record of the run that asked, so a replay asks nobody, and a change that was recorded
is not made again.
"""

from __future__ import annotations

from typing import Final, TypeGuard

import msgspec

from engine.base import limits
from engine.base.errors import InvalidInput, LimitExceeded, NoStateScope
from engine.core.state import RunState
from engine.core.values import Decision, Entry
from engine.model.commands import SharedValue
from engine.model.payloads import (
    Payload,
    StateChanged,
    StateConflicted,
    StateRead,
    StateScope,
)
from engine.model.records import RecordKind

# Scope and name -> the value, within what one run can see.
SharedValues = dict[tuple[int, str], SharedValue]

_NEVER_SET: Final = SharedValue()
_WITHOUT: Final = {
    StateScope.SESSION: "session: start it with a session id (header X-Session-ID)",
    StateScope.USER: "user: start it with a user id (header X-User-ID)",
    StateScope.ENTITY: "entity key: start it with entity_key",
}


def asks_shared(payload: Payload | None) -> TypeGuard[StateRead | StateChanged]:
    """Of the run's own state a worker reports what it did; of any other it asks."""
    return isinstance(payload, StateRead) or (
        isinstance(payload, StateChanged) and payload.scope not in (0, StateScope.RUN)
    )


def scope_key(state: RunState, scope: int) -> str:
    """Which session, user or entity the run's state of this scope belongs to."""
    if scope == StateScope.GLOBAL:
        return ""
    key = ""
    if scope == StateScope.SESSION:
        key = state.session_id
    elif scope == StateScope.USER:
        key = state.user_id
    elif scope == StateScope.ENTITY:
        # Account/423 and Cart/423 are two entities; a component's name has no slash.
        key = f"{state.component}/{state.entity_key}" if state.entity_key else ""
    else:
        raise InvalidInput(
            f"there is no shared state of scope {scope}; use SESSION, USER, ENTITY or GLOBAL",
            field="scope",
        )
    if not key:
        raise NoStateScope(
            f"the run has no state of scope {StateScope(scope).name.lower()!r}, because it has no "
            f"{_WITHOUT[StateScope(scope)]}",
            scope=StateScope(scope).name.lower(),
        )
    return key


def decide_shared(
    state: RunState, decision: Decision, asked: StateRead | StateChanged, shared: SharedValues
) -> None:
    """The outcome, in the place of the question. A change is in `shared` for what comes after it
    in the same report."""
    key = scope_key(state, asked.scope)
    _check_size(asked)
    place = (int(asked.scope), asked.name)
    now = shared.get(place, _NEVER_SET)
    if isinstance(asked, StateRead):
        found = msgspec.structs.replace(
            asked,
            scope_key=key,
            value=now.value or b"",
            revision=now.revision,
            found=now.value is not None,
        )
        decision.entries.append(Entry(RecordKind.STATE_READ, found))
    elif asked.has_expected and asked.expected_revision != now.revision:
        lost = StateConflicted(
            position=asked.position,
            scope=asked.scope,
            scope_key=key,
            name=asked.name,
            expected_revision=asked.expected_revision,
            revision=now.revision,
            lease_epoch=asked.lease_epoch,
        )
        decision.entries.append(Entry(RecordKind.STATE_CONFLICTED, lost))
    else:
        value = None if asked.deleted else asked.value
        shared[place] = SharedValue(now.revision + 1, value)
        changed = msgspec.structs.replace(asked, scope_key=key, revision=now.revision + 1)
        decision.entries.append(Entry(RecordKind.STATE_CHANGED, changed))


def _check_size(asked: StateRead | StateChanged) -> None:
    name_bytes = len(asked.name.encode())
    if not 0 < name_bytes <= limits.state_name_bytes_max:
        raise LimitExceeded(
            f"the name of a piece of state has 1 to {limits.state_name_bytes_max} bytes, this one "
            f"has {name_bytes}",
            field="name",
        )
    if isinstance(asked, StateChanged) and len(asked.value) > limits.state_value_bytes_max:
        raise LimitExceeded(
            f"the value of state {asked.name!r} has {len(asked.value)} bytes, the limit is "
            f"{limits.state_value_bytes_max}; store large values elsewhere and keep a reference",
            field="value",
        )
