"""Commands: what somebody asks a run to do, as values. `core.decide` answers with records and
effects, or with a named refusal; a command by itself changes nothing."""

from __future__ import annotations

import msgspec

from engine.base.ids import DeploymentId, ProjectId, RunId
from engine.model.payloads import Error
from engine.model.runs import ComponentKind


class Command(msgspec.Struct, frozen=True, tag=True):
    run_id: RunId


class StartRun(Command, frozen=True, kw_only=True):
    project_id: ProjectId
    deployment_id: DeploymentId
    component: str
    component_kind: ComponentKind
    input: bytes
    idempotency_key: str | None = None


class BeginExecution(Command, frozen=True, kw_only=True):
    """A worker took the run: the fence for everything it will report is the epoch."""

    worker_id: str
    lease_epoch: int


class ReportStep(Command, frozen=True, kw_only=True):
    lease_epoch: int
    position: int
    name: str
    output: bytes | None = None
    error: Error | None = None


class SendSignal(Command, frozen=True, kw_only=True):
    signal_id: str
    name: str
    payload: bytes


class FireTimer(Command, frozen=True, kw_only=True):
    timer_id: str


class RequestCancel(Command, frozen=True, kw_only=True):
    reason: str


class CompleteRun(Command, frozen=True, kw_only=True):
    lease_epoch: int
    output: bytes


class FailRun(Command, frozen=True, kw_only=True):
    lease_epoch: int
    error: Error


class YieldRun(Command, frozen=True, kw_only=True):
    """The lease ended without an outcome: the run goes back into the queue."""

    lease_epoch: int
    reason: str
