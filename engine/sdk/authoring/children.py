"""A child run as its parent sees it: its input, its id, and its result once it has one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from engine.base.ids import RunId, run_id_text
from engine.model.payloads import ChildMode
from engine.sdk import values
from engine.sdk.authoring.asked import Asked
from engine.sdk.errors import NotInWorkflow
from engine.sdk.replay.operations import Child


class ChildRun:
    """Of `ctx.start`. Awaiting it gives itself; `await child.result()` waits for its end."""

    def __init__(self, asked: Asked[Any], run_id: RunId) -> None:
        assert isinstance(asked.operation, Child)
        self._asked = asked
        self._child = asked.operation
        self.run_id = run_id_text(run_id)
        self.component = self._child.component

    def __await__(self) -> Generator[Any, None, ChildRun]:
        yield from ()
        return self

    def __repr__(self) -> str:
        return f"<child run {self.component!r} {self.run_id}>"

    def result(self) -> Asked[Any]:
        """What it returned; raises ChildError if it failed or was cancelled."""
        if self._child.mode == ChildMode.DETACH:
            raise NotInWorkflow(
                f"child run {self.component!r} is detached and has no result here; start it "
                "without detach=True to wait for it"
            )
        return self._asked


def child_input(component: str, args: tuple[Any, ...], named: dict[str, Any]) -> bytes:
    """One value is the input; several make a list, named ones an object."""
    if args and named:
        raise TypeError("a child run takes its input in order or by name, not both")
    given: Any = named or (args[0] if len(args) == 1 else list(args)) if args or named else None
    return values.encode(given, f"the input of child run {component!r}")
