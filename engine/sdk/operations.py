"""What a workflow's code can ask for, as values, and what comes back.

Each durable operation takes a position. `describe` is how an operation is named when the journal
and the code disagree, and `same` is what has to agree: the kind, the name and a step's key, not the
arguments. Knows neither the journal nor the code.
"""

from __future__ import annotations

import msgspec

from engine.model.payloads import ChildMode, Error, StateScope, WaitKind


class Operation(msgspec.Struct, frozen=True):
    """Something the code asked for. `identity` is what a replay compares."""

    @property
    def identity(self) -> tuple[object, ...]:
        raise NotImplementedError

    def describe(self) -> str:
        raise NotImplementedError


class Step(Operation, frozen=True):
    name: str
    key: str = ""
    tool: bool = False

    @property
    def identity(self) -> tuple[object, ...]:
        return ("step", self.name, self.key)

    def describe(self) -> str:
        return f"step {self.name!r}" + (f" with key {self.key!r}" if self.key else "")


class Wait(Operation, frozen=True, kw_only=True):
    kind: WaitKind
    name: str = ""
    duration_ms: int | None = None
    question: str = ""
    input_type: str = ""
    options: tuple[str, ...] = ()
    default: bytes | None = None

    @property
    def identity(self) -> tuple[object, ...]:
        # The text of a question may be corrected while somebody thinks about the answer.
        return ("wait", int(self.kind), self.name if self.kind == WaitKind.SIGNAL else "")

    def describe(self) -> str:
        if self.kind == WaitKind.TIMER:
            return "a sleep"
        if self.kind == WaitKind.SIGNAL:
            return f"a wait for signal {self.name!r}"
        return f"a question to the user: {self.question!r}" if self.question else "a question"


class Child(Operation, frozen=True):
    component: str
    mode: ChildMode
    input: bytes = b""

    @property
    def identity(self) -> tuple[object, ...]:
        return ("child", self.component, int(self.mode))

    def describe(self) -> str:
        detached = ", detached" if self.mode == ChildMode.DETACH else ""
        return f"child run {self.component!r}{detached}"


class ChangeState(Operation, frozen=True):
    """`value` None: the name is deleted."""

    name: str
    value: bytes | None
    scope: StateScope = StateScope.RUN

    @property
    def identity(self) -> tuple[object, ...]:
        return ("state", int(self.scope), self.name)

    def describe(self) -> str:
        return f"a change of state {self.name!r}"


class ReportUsage(Operation, frozen=True, kw_only=True):
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    tool_calls: int = 0

    @property
    def identity(self) -> tuple[object, ...]:
        return ("usage",)

    def describe(self) -> str:
        return "a usage report"


class Returned(msgspec.Struct, frozen=True):
    """The operation has this result; JSON, empty where there is none."""

    value: bytes = b""


class Raised(msgspec.Struct, frozen=True):
    """The operation failed for good. `status` is a child run's, empty for a step."""

    error: Error
    status: str = ""


class TimedOut(msgspec.Struct, frozen=True):
    """What was waited for did not come in time, and there is no default."""


Outcome = Returned | Raised | TimedOut


class Resume(msgspec.Struct, frozen=True):
    """The code that waits at a position goes on with this outcome."""

    position: int
    outcome: Outcome
    # What time the code sees from now on.
    now_us: int = 0
