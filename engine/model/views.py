"""What the doors ask of the runtime and what it shows them, as values: starts and their answers,
a run as people see it, its journal, its events, lists of runs and of components.

`RunView`, `WaitView`, `RunPage` and `ComponentView` are written as JSON as they stand, so their
field names are the public API's; in them statuses and kinds are names, since a reader of JSON
should not need our numbers. The other types carry bytes, which each door puts into its own form.
Knows no HTTP, no protobuf and no disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from engine.base.ids import DeploymentId, RunId
from engine.model.payloads import Error, WaitKind
from engine.model.records import RecordKind
from engine.model.runs import ComponentKind, RunStatus

StatusName = Literal["QUEUED", "RUNNING", "WAITING", "RETRYING", "COMPLETED", "FAILED", "CANCELLED"]
KindName = Literal["function", "workflow", "entity", "agent", "tool", "scorer"]
WaitKindName = Literal["timer", "signal", "user", "child"]


class StartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Start one run. The input is JSON; empty text and 0 mean "not said"."""

    component: str
    input: bytes
    deployment_id: DeploymentId
    kind: ComponentKind | None = None  # None: the one kind that has the name
    idempotency_key: str | None = None
    session_id: str = ""
    user_id: str = ""
    trace_id: str = ""
    correlation_id: str = ""
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    prompt_version: str = ""
    start_at_ms: int = 0
    entity_key: str = ""


class Started(msgspec.Struct, frozen=True, gc=False):
    """The run is durable. Not new: its idempotency key had started it before."""

    run_id: RunId
    is_new: bool = True


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended, or the status it has if it has not."""

    run_id: RunId
    status: RunStatus
    output: bytes | None = None  # JSON; of a completed run
    error: Error | None = None


class WaitView(msgspec.Struct, frozen=True, kw_only=True):
    """Something a run waits for; `wait_id` is what answers it."""

    wait_id: str
    kind: WaitKindName
    name: str = ""
    due_ms: int = 0
    question: str = ""
    input_type: str = ""
    options: tuple[str, ...] = ()


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run as people see it; 0 and empty mean that there is nothing to say yet."""

    run_id: str
    status: StatusName
    component: str
    kind: KindName
    project_id: str
    deployment_id: str
    attempt: int = 0
    created_ms: int = 0
    started_ms: int = 0
    completed_ms: int = 0
    updated_ms: int = 0
    duration_ms: int = 0
    next_offset: int = 0  # the journal has the offsets below
    steps_completed: int = 0
    steps_failed: int = 0
    tool_calls: int = 0
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    cancel_requested: bool = False
    error_code: str = ""
    error_message: str = ""
    prompt_version: str = ""
    session_id: str = ""
    user_id: str = ""
    trace_id: str = ""
    correlation_id: str = ""
    entity_key: str = ""
    parent_run_id: str = ""
    start_at_ms: int = 0
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    waits: tuple[WaitView, ...] = ()  # of one run that was asked for; a list leaves them out


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs of the tenant, newest first. None: whichever."""

    status: RunStatus | None = None
    component: str | None = None
    kind: ComponentKind | None = None
    project_id: str | None = None
    error_code: str | None = None
    parent_run_id: str | None = None
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)  # each of them, with its value
    created_from_ms: int | None = None  # included
    created_to_ms: int | None = None  # not included
    cursor: str | None = None  # as the page before gave it
    limit: int = 100


class RunPage(msgspec.Struct, frozen=True):
    """Some runs, and where the next ones begin; no cursor means that there are no more."""

    runs: tuple[RunView, ...]
    next_cursor: str | None = None


class JournalEntry(msgspec.Struct, frozen=True):
    """One record of a run; the payload is the protobuf message that its kind names."""

    offset: int
    kind: RecordKind
    timestamp_us: int
    payload: bytes


class RunEvent(msgspec.Struct, frozen=True):
    """Something that happened to a run. The data is JSON. Without an offset it was never
    journaled: who was not listening has missed it."""

    offset: int | None
    name: str
    data: bytes


class ComponentView(msgspec.Struct, frozen=True, kw_only=True):
    """A component that can be started, and how many workers serve it now."""

    name: str
    kind: KindName
    deployment_id: str
    workers: int = 0


STATUS_NAMES: Final[Mapping[RunStatus, StatusName]] = MappingProxyType(
    {
        RunStatus.QUEUED: "QUEUED",
        RunStatus.RUNNING: "RUNNING",
        RunStatus.WAITING: "WAITING",
        RunStatus.RETRYING: "RETRYING",
        RunStatus.COMPLETED: "COMPLETED",
        RunStatus.FAILED: "FAILED",
        RunStatus.CANCELLED: "CANCELLED",
    }
)
KIND_NAMES: Final[Mapping[ComponentKind, KindName]] = MappingProxyType(
    {
        ComponentKind.FUNCTION: "function",
        ComponentKind.WORKFLOW: "workflow",
        ComponentKind.ENTITY: "entity",
        ComponentKind.AGENT: "agent",
        ComponentKind.TOOL: "tool",
        ComponentKind.SCORER: "scorer",
    }
)
WAIT_KIND_NAMES: Final[Mapping[WaitKind, WaitKindName]] = MappingProxyType(
    {
        WaitKind.TIMER: "timer",
        WaitKind.SIGNAL: "signal",
        WaitKind.USER: "user",
        WaitKind.CHILD: "child",
    }
)
assert set(STATUS_NAMES) == set(RunStatus)
assert set(KIND_NAMES) == set(ComponentKind)
assert set(WAIT_KIND_NAMES) == set(WaitKind)
