"""Commands: what somebody asks of a run, as values. `core.decide` answers with a decision or a
named refusal; a command by itself changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import msgspec

from engine.model.payloads import Error, Payload, RunAccepted
from engine.model.records import RecordKind
from engine.model.runs import RunStatus


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Asked of one run."""


class StartRun(Command, frozen=True, kw_only=True):
    accepted: RunAccepted


class BeginExecution(Command, frozen=True, kw_only=True):
    """A worker takes the run; the epoch that results is the fence for all it will report."""

    worker_id: str
    lease_until_ms: int


class ReportedEntry(msgspec.Struct, frozen=True):
    """One record as a worker reports it: the bytes go into the journal as they are."""

    kind: RecordKind
    raw: bytes
    payload: Payload | None  # decoded, where the rules need it


class SharedValue(msgspec.Struct, frozen=True, array_like=True):
    """A piece of state that outlives the runs that change it. Deleted, it keeps its revision."""

    revision: int = 0
    value: bytes | None = None


class Report(Command, frozen=True, kw_only=True):
    lease_epoch: int
    entries: tuple[ReportedEntry, ...]
    # Waits that the engine resolved since the worker got the run. The worker may not have heard:
    # a park that crosses such a resolution on the wire must not put the run to sleep.
    resolved_meanwhile: AbstractSet[str] = frozenset()
    # What the report asks about: scope and name -> how it is now. The scope's key is the run's.
    shared: Mapping[tuple[int, str], SharedValue] = msgspec.field(default_factory=dict)


class LoseLease(Command, frozen=True, kw_only=True):
    """The worker went away, was too late, or gave the run back."""

    lease_epoch: int
    reason: str


class SendSignal(Command, frozen=True, kw_only=True):
    name: str
    signal_id: str
    payload: bytes
    sender: str = ""


class ResolveWait(Command, frozen=True, kw_only=True):
    """A person answered."""

    wait_id: str
    value: bytes


class TimeHasCome(Command, frozen=True, kw_only=True):
    """A timer of the run is due: look what that changes."""


class CancelRun(Command, frozen=True, kw_only=True):
    reason: str


class ChildEnded(Command, frozen=True, kw_only=True):
    position: int
    child_run_id: bytes
    status: RunStatus
    output: bytes
    error: Error | None
