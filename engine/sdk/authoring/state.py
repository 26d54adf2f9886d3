"""`ctx.state`: named values that a workflow reads and changes, in the scope that it chooses.

State of the run itself is reckoned here and recorded in order with everything else the run does.
State of any other scope is shared with other runs: the engine is asked, its answer is recorded, and
a replay gets the recorded one. Knows no journal and no stream.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from engine.base.errors import InvalidInput, LimitExceeded, NoStateScope
from engine.base.limits import state_name_bytes_max, state_value_bytes_max
from engine.model.payloads import StateScope
from engine.sdk import values
from engine.sdk.authoring.asked import Asked
from engine.sdk.authoring.facts import RunFacts
from engine.sdk.errors import StateConflict
from engine.sdk.replay import outcomes
from engine.sdk.replay.operations import ChangeState, Outcome, ReadState, StateIs, described_state

_SCOPES: Final = {scope.name.lower(): scope for scope in StateScope}
_HOW: Final = {
    StateScope.SESSION: "session: start it with session_id= of the client, or X-Session-ID",
    StateScope.USER: "user: start it with user_id= of the client, or X-User-ID",
    StateScope.ENTITY: "entity key: start it with entity_key=",
}


class Run(Protocol):
    """What the state asks of the run that it belongs to."""

    facts: RunFacts

    @property
    def is_of_entity(self) -> bool: ...
    def change_state(self, change: ChangeState) -> tuple[bytes | None, int]: ...
    def ask(
        self, operation: ReadState | ChangeState, convert: Callable[[Outcome], StateIs]
    ) -> Asked[StateIs]: ...


class StateValue(NamedTuple):
    """A value, and how often it was changed to become that; revision 0: never."""

    value: Any
    revision: int


class State:
    """Of a workflow, as `ctx.state`:

        count = await ctx.state.get("count", 0)
        await ctx.state.set("count", count + 1)
        await ctx.state.delete("count")

    A value belongs to a scope: "run" (nobody else sees it, and it ends with the run), "session",
    "user", "entity" (this one's), or "global" (the whole project). Without `scope=` it is the
    run's; in an entity, the entity's. Other runs change shared state at the same time, so a change
    that rests on what was read says so, and StateConflict is raised where it came too late:

        while True:
            stock, revision = await ctx.state.read("stock", 0, scope="global")
            try:
                await ctx.state.set("stock", stock - 1, scope="global", if_revision=revision)
                break
            except StateConflict:
                continue
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._of_run: dict[str, StateIs] = {}
        # Of shared scopes: the revision that this run has seen last.
        self._seen: dict[tuple[StateScope, str], int] = {}
        self._scope_default = StateScope.ENTITY if run.is_of_entity else StateScope.RUN

    async def get(self, name: str, default: Any = None, *, scope: str | None = None) -> Any:
        """The value, or the default if there is none."""
        return (await self.read(name, default, scope=scope)).value

    async def read(self, name: str, default: Any = None, *, scope: str | None = None) -> StateValue:
        """The value and its revision, as they were together."""
        found = await self._find(name, self._checked(name, scope))
        value = default if found.value is None else values.decode(found.value)
        return StateValue(value, found.revision)

    async def revision(self, name: str, *, scope: str | None = None) -> int:
        """The revision of the value as this run has read or changed it last; of one that it has
        not, the current one. So `if_revision=` never covers a change that the code has not seen."""
        of = self._checked(name, scope)
        if of is not StateScope.RUN and (of, name) in self._seen:
            return self._seen[of, name]
        return (await self._find(name, of)).revision

    async def set(
        self, name: str, value: Any, *, scope: str | None = None, if_revision: int | None = None
    ) -> int:
        """The value's new revision. With `if_revision=`, only if that is the current one; 0 is the
        revision of what was never set."""
        of = self._checked(name, scope)
        data = values.encode(value, f"the value of {described_state(of, name)}")
        if of is not StateScope.RUN and len(data) > state_value_bytes_max:
            raise LimitExceeded(
                f"the value of {described_state(of, name)} has {len(data)} bytes, the limit is "
                f"{state_value_bytes_max}; store large values elsewhere and keep a reference",
                field="value",
            )
        return await self._change(ChangeState(name, data, of, if_revision))

    async def delete(
        self, name: str, *, scope: str | None = None, if_revision: int | None = None
    ) -> None:
        """There is no value from now on; the revision counts on."""
        of = self._checked(name, scope)
        if of is not StateScope.RUN or name in self._of_run:
            await self._change(ChangeState(name, None, of, if_revision))

    # ---- inside ----

    async def _find(self, name: str, scope: StateScope) -> StateIs:
        if scope is StateScope.RUN:
            return self._of_run.get(name, StateIs(None, 0))
        return await self._ask(ReadState(name, scope))

    async def _change(self, change: ChangeState) -> int:
        if change.scope is not StateScope.RUN:
            return (await self._ask(change)).revision
        current = self._of_run.get(change.name, StateIs(None, 0)).revision
        if change.expected is not None and change.expected != current:
            what = described_state(change.scope, change.name)
            raise StateConflict(what, expected=change.expected, revision=current)
        changed = StateIs(*self._run.change_state(change))
        self._of_run[change.name] = changed
        return changed.revision

    async def _ask(self, asked: ReadState | ChangeState) -> StateIs:
        found = await self._run.ask(asked, functools.partial(outcomes.of_state, asked))
        self._seen[asked.scope, asked.name] = found.revision
        return found

    def _checked(self, name: str, scope: str | None) -> StateScope:
        if not 0 < len(name.encode()) <= state_name_bytes_max:
            raise InvalidInput(
                f"the name of a piece of state has 1 to {state_name_bytes_max} bytes; "
                f"{name[:80]!r} has {len(name.encode())}",
                field="name",
            )
        if scope is not None and scope not in _SCOPES:
            raise ValueError(f"scope {scope!r} is not one of {', '.join(_SCOPES)}")
        found = self._scope_default if scope is None else _SCOPES[scope]
        self._refuse_missing(found)
        return found

    def _refuse_missing(self, scope: StateScope) -> None:
        accepted = self._run.facts.accepted
        keys = {
            StateScope.SESSION: accepted.session_id,
            StateScope.USER: accepted.user_id,
            StateScope.ENTITY: accepted.entity_key,
        }
        if not keys.get(scope, "-"):
            raise NoStateScope(
                f"this run has no state of scope {scope.name.lower()!r}, because it has no "
                f"{_HOW[scope]}",
                scope=scope.name.lower(),
            )
