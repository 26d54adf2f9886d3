"""What a workflow's code can ask for, as values, and what comes back.

Each durable operation takes a position. `describe` is how an operation is named when the journal
and the code disagree, and `identity` is what has to agree: the kind, the name and a step's key. Of
the `details` a step's input has to agree too; the others only where an earlier attempt may have
gone another way. Knows neither the journal nor the code.
"""

from __future__ import annotations

import msgspec

from engine.model.payloads import ChildMode, Error, StateScope, WaitKind
from engine.sdk import limits


class Operation(msgspec.Struct, frozen=True):
    """Something the code asked for. `identity` is what a replay compares."""

    @property
    def identity(self) -> tuple[object, ...]:
        raise NotImplementedError

    @property
    def details(self) -> object:
        """What makes it the very same operation, beside its identity, as far as it is recorded."""
        return None

    def describe(self) -> str:
        raise NotImplementedError


class Step(Operation, frozen=True):
    name: str
    key: str = ""
    tool: bool = False
    input: bytes = b""  # its arguments as they are recorded

    @property
    def identity(self) -> tuple[object, ...]:
        return ("step", self.name, self.key)

    def describe(self) -> str:
        return f"step {self.name!r}" + (f" with key {self.key!r}" if self.key else "")

    @property
    def details(self) -> object:
        return self.input

    def describe_input(self, other: Step) -> str:
        """With its input from shortly before where it differs from the other's."""
        mine, others = (step.input.decode(errors="replace") for step in (self, other))
        same = next((at for at, (a, b) in enumerate(zip(mine, others, strict=False)) if a != b), 0)
        start = max(0, same - limits.input_characters_shown // 2)
        shown = mine[start : start + limits.input_characters_shown]
        before = "…" if start else ""
        after = "…" if len(mine) > start + len(shown) else ""
        return f"{self.describe()} with input {before}{shown}{after}"


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

    @property
    def details(self) -> object:
        return self.question

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
    entity_key: str = ""

    @property
    def identity(self) -> tuple[object, ...]:
        return ("child", self.component, int(self.mode), self.entity_key)

    @property
    def details(self) -> object:
        return self.input

    def describe(self) -> str:
        of = f" of {self.entity_key!r}" if self.entity_key else ""
        detached = ", detached" if self.mode == ChildMode.DETACH else ""
        return f"child run {self.component!r}{of}{detached}"


class ChangeState(Operation, frozen=True):
    """`value` None: the name is deleted."""

    name: str
    value: bytes | None
    scope: StateScope = StateScope.RUN

    expected: int | None = None  # the revision that it is to replace; None: whatever is there

    @property
    def identity(self) -> tuple[object, ...]:
        return ("state", int(self.scope), self.name)

    @property
    def details(self) -> object:
        return self.value

    def describe(self) -> str:
        return f"a change of {described_state(self.scope, self.name)}"


class ReadState(Operation, frozen=True):
    """Of a scope that other runs share."""

    name: str
    scope: StateScope

    @property
    def identity(self) -> tuple[object, ...]:
        return ("state read", int(self.scope), self.name)

    def describe(self) -> str:
        return f"a read of {described_state(self.scope, self.name)}"


def described_state(scope: StateScope, name: str) -> str:
    of = "" if scope == StateScope.RUN else f" of scope {scope.name.lower()}"
    return f"state {name!r}{of}"


def is_shared(operation: Operation) -> bool:
    """The engine is asked, and answers."""
    if isinstance(operation, ChangeState):
        return operation.scope != StateScope.RUN
    return isinstance(operation, ReadState)


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


class StateIs(msgspec.Struct, frozen=True):
    """Shared state was read or changed: how it is. `value` None: there is none."""

    value: bytes | None
    revision: int


class StateLost(msgspec.Struct, frozen=True):
    """Shared state was not changed: another revision was there than the one expected."""

    expected: int
    revision: int


Outcome = Returned | Raised | TimedOut | StateIs | StateLost


class Resume(msgspec.Struct, frozen=True):
    """The code that waits at a position goes on with this outcome."""

    position: int
    outcome: Outcome
    # What time the code sees from now on.
    now_us: int = 0
