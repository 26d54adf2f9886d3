"""What each kind of journal record says, as plain values: one Struct per message of
`protos/engine/v1/journal.proto`, with the same field names. That file says when each is written
and what each field means; it is not repeated here.

Knows no protobuf: `engine/wire/journal.py` turns these into bytes and back. A default is what the
wire leaves out, so 0 and empty mean "not said". An enum field may hold a plain number: one that a
newer version wrote and this one has no name for.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from engine.model.records import RecordKind
from engine.model.runs import ComponentKind, RunStatus


class RetryKind(enum.IntEnum):
    CONSTANT = 1
    LINEAR = 2
    EXPONENTIAL = 3


class WaitKind(enum.IntEnum):
    TIMER = 1
    SIGNAL = 2
    USER = 3
    CHILD = 4


class WaitOutcome(enum.IntEnum):
    FIRED = 1
    SIGNALLED = 2
    ANSWERED = 3
    TIMED_OUT = 4
    CHILD_FINISHED = 5


class ChildMode(enum.IntEnum):
    JOIN = 1
    DETACH = 2


class StateScope(enum.IntEnum):
    RUN = 1
    SESSION = 2
    USER = 3
    ENTITY = 4
    GLOBAL = 5


class Error(msgspec.Struct, frozen=True, kw_only=True):
    code: str = ""
    message: str = ""
    type: str = ""
    traceback: str = ""
    non_retryable: bool = False


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    kind: RetryKind | int = 0
    initial_ms: int = 0
    interval_ms_max: int = 0
    factor: float = 0.0
    jitter: float = 0.0
    attempts_max: int = 0
    elapsed_ms_max: int = 0
    non_retryable_codes: tuple[str, ...] = ()


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What a record of some kind says; PAYLOAD_TYPES says which Struct belongs to which kind."""


class RunAccepted(Payload, frozen=True, kw_only=True):
    project_id: str = ""
    deployment_id: str = ""
    component: str = ""
    component_kind: ComponentKind | int = 0
    input: bytes = b""
    idempotency_key: str = ""
    input_digest: bytes = b""
    session_id: str = ""
    user_id: str = ""
    trace_id: str = ""
    correlation_id: str = ""
    parent_run_id: bytes = b""
    parent_position: int = 0
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    prompt_version: str = ""
    start_at_ms: int = 0
    retry: RetryPolicy | None = None
    entity_key: str = ""


class RunStarted(Payload, frozen=True, kw_only=True):
    attempt: int = 0
    lease_epoch: int = 0
    worker_id: str = ""
    lease_until_ms: int = 0


class StepCompleted(Payload, frozen=True, kw_only=True):
    position: int = 0
    name: str = ""
    key: str = ""
    input: bytes = b""
    output: bytes = b""
    started_ms: int = 0
    finished_ms: int = 0
    attempt: int = 0
    lease_epoch: int = 0
    tool: bool = False


class StepFailed(Payload, frozen=True, kw_only=True):
    position: int = 0
    name: str = ""
    key: str = ""
    input: bytes = b""
    error: Error | None = None
    started_ms: int = 0
    finished_ms: int = 0
    attempt: int = 0
    lease_epoch: int = 0
    tool: bool = False
    retry_at_ms: int = 0


class WaitCreated(Payload, frozen=True, kw_only=True):
    position: int = 0
    wait_id: str = ""
    kind: WaitKind | int = 0
    name: str = ""
    due_ms: int = 0
    question: str = ""
    input_type: str = ""
    options: tuple[str, ...] = ()
    default: bytes = b""
    has_default: bool = False
    lease_epoch: int = 0
    parks: bool = False


class WaitResolved(Payload, frozen=True, kw_only=True):
    position: int = 0
    wait_id: str = ""
    outcome: WaitOutcome | int = 0
    value: bytes = b""
    signal_id: str = ""
    error: Error | None = None


class SignalReceived(Payload, frozen=True, kw_only=True):
    signal_id: str = ""
    name: str = ""
    payload: bytes = b""
    sender: str = ""


class ChildStarted(Payload, frozen=True, kw_only=True):
    position: int = 0
    child_run_id: bytes = b""
    component: str = ""
    mode: ChildMode | int = 0
    input: bytes = b""
    lease_epoch: int = 0
    entity_key: str = ""


class ChildFinished(Payload, frozen=True, kw_only=True):
    position: int = 0
    child_run_id: bytes = b""
    status: RunStatus | int = 0
    output: bytes = b""
    error: Error | None = None


class StateChanged(Payload, frozen=True, kw_only=True):
    position: int = 0
    scope: StateScope | int = 0
    scope_key: str = ""
    name: str = ""
    value: bytes = b""
    revision: int = 0
    deleted: bool = False
    lease_epoch: int = 0
    expected_revision: int = 0
    has_expected: bool = False


class StateRead(Payload, frozen=True, kw_only=True):
    position: int = 0
    scope: StateScope | int = 0
    scope_key: str = ""
    name: str = ""
    value: bytes = b""
    revision: int = 0
    found: bool = False
    lease_epoch: int = 0


class StateConflicted(Payload, frozen=True, kw_only=True):
    position: int = 0
    scope: StateScope | int = 0
    scope_key: str = ""
    name: str = ""
    expected_revision: int = 0
    revision: int = 0
    lease_epoch: int = 0


class UsageReported(Payload, frozen=True, kw_only=True):
    position: int = 0
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    tool_calls: int = 0
    lease_epoch: int = 0


class RunRetrying(Payload, frozen=True, kw_only=True):
    attempt: int = 0
    error: Error | None = None
    retry_at_ms: int = 0
    lease_epoch: int = 0


class RunYielded(Payload, frozen=True, kw_only=True):
    lease_epoch: int = 0
    reason: str = ""


class CancelRequested(Payload, frozen=True, kw_only=True):
    reason: str = ""
    requested_by: str = ""


class RunCompleted(Payload, frozen=True, kw_only=True):
    output: bytes = b""
    lease_epoch: int = 0


class RunFailed(Payload, frozen=True, kw_only=True):
    error: Error | None = None
    lease_epoch: int = 0


class RunCancelled(Payload, frozen=True, kw_only=True):
    reason: str = ""


PAYLOAD_TYPES: Final[Mapping[RecordKind, type[Payload]]] = MappingProxyType(
    {
        RecordKind.RUN_ACCEPTED: RunAccepted,
        RecordKind.RUN_STARTED: RunStarted,
        RecordKind.STEP_COMPLETED: StepCompleted,
        RecordKind.STEP_FAILED: StepFailed,
        RecordKind.WAIT_CREATED: WaitCreated,
        RecordKind.WAIT_RESOLVED: WaitResolved,
        RecordKind.SIGNAL_RECEIVED: SignalReceived,
        RecordKind.CHILD_STARTED: ChildStarted,
        RecordKind.CHILD_FINISHED: ChildFinished,
        RecordKind.STATE_CHANGED: StateChanged,
        RecordKind.USAGE_REPORTED: UsageReported,
        RecordKind.RUN_RETRYING: RunRetrying,
        RecordKind.RUN_YIELDED: RunYielded,
        RecordKind.CANCEL_REQUESTED: CancelRequested,
        RecordKind.RUN_COMPLETED: RunCompleted,
        RecordKind.RUN_FAILED: RunFailed,
        RecordKind.RUN_CANCELLED: RunCancelled,
        RecordKind.STATE_READ: StateRead,
        RecordKind.STATE_CONFLICTED: StateConflicted,
    }
)
assert set(PAYLOAD_TYPES) == set(RecordKind), "every kind of record says something"
