"""`ctx.state`: named values that belong to the run and live as long as it does.

A change is recorded in order with everything else the run does. Values are read from what was
recorded, so the same code sees the same values at every replay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.model.payloads import StateScope
from engine.sdk import values
from engine.sdk.errors import NotSupported, StateConflict
from engine.sdk.operations import ChangeState

# The value as bytes (None: deleted) and its revision, once the change is under way.
Change = Callable[[ChangeState], tuple[bytes | None, int]]

_SCOPES: Final = {scope.name.lower(): scope for scope in StateScope}


class State:
    """Of a workflow, as `ctx.state`:

        count = await ctx.state.get("count", 0)
        await ctx.state.set("count", count + 1)
        await ctx.state.delete("count")

    A value has a revision, which counts its changes. `scope` is "run" until the runtime can keep
    the state of sessions, users and entities.
    """

    def __init__(self, change: Change) -> None:
        self._change = change
        self._values: dict[str, tuple[bytes | None, int]] = {}

    async def get(self, name: str, default: Any = None, *, scope: str = "run") -> Any:
        _check_scope(scope)
        value, _ = self._values.get(name, (None, 0))
        return default if value is None else values.decode(value)

    async def revision(self, name: str, *, scope: str = "run") -> int:
        """How often the value was changed; 0: never."""
        _check_scope(scope)
        return self._values.get(name, (None, 0))[1]

    async def set(
        self, name: str, value: Any, *, scope: str = "run", revision: int | None = None
    ) -> int:
        """The value's new revision. With `revision=`, only if that is the current one."""
        data = values.encode(value, f"the value of state {name!r}")
        return self._apply(name, data, scope, revision)

    async def delete(self, name: str, *, scope: str = "run", revision: int | None = None) -> None:
        if name in self._values:
            self._apply(name, None, scope, revision)

    def _apply(self, name: str, data: bytes | None, scope: str, expected: int | None) -> int:
        _check_scope(scope)
        current = self._values.get(name, (None, 0))[1]
        if expected is not None and expected != current:
            raise StateConflict(
                f"state {name!r} is at revision {current}, not {expected}: read it again",
                revision=current,
            )
        value, revision = self._change(ChangeState(name, data, _SCOPES[scope]))
        self._values[name] = (value, revision)
        return revision


def _check_scope(scope: str) -> None:
    if scope not in _SCOPES:
        raise ValueError(f"scope {scope!r} is not one of {', '.join(_SCOPES)}")
    if scope != "run":
        raise NotSupported(
            f"the runtime cannot keep state of scope {scope!r} yet: use the run's own (leave "
            "scope out), or a database in a step",
            scope=scope,
        )
