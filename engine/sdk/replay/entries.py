"""The records that a worker reports, made from what was asked for and what came of it.

Pure: one function for each kind of record. Where a record is reported, and when, is not known here.
"""

from __future__ import annotations

import msgspec

from engine.base.ids import RunId, child_run_id
from engine.model.payloads import (
    ChildStarted,
    Error,
    StateChanged,
    StateRead,
    StepCompleted,
    StepFailed,
    UsageReported,
    WaitCreated,
    WaitKind,
)
from engine.sdk.replay.operations import (
    ChangeState,
    Child,
    Operation,
    ReadState,
    ReportUsage,
    Step,
    Wait,
)


class StepTry(msgspec.Struct, frozen=True):
    """One execution of a step: when it began and ended."""

    started_ms: int
    finished_ms: int


def step_completed(
    position: int, step: Step, tried: StepTry, output: bytes, *, attempt: int, lease_epoch: int
) -> StepCompleted:
    return StepCompleted(
        position=position,
        name=step.name,
        key=step.key,
        input=step.input,
        output=output,
        started_ms=tried.started_ms,
        finished_ms=tried.finished_ms,
        attempt=attempt,
        lease_epoch=lease_epoch,
        tool=step.tool,
    )


def step_failed(
    position: int,
    step: Step,
    tried: StepTry,
    error: Error,
    *,
    retry_at_ms: int,
    attempt: int,
    lease_epoch: int,
) -> StepFailed:
    return StepFailed(
        position=position,
        name=step.name,
        key=step.key,
        input=step.input,
        error=error,
        started_ms=tried.started_ms,
        finished_ms=tried.finished_ms,
        attempt=attempt,
        lease_epoch=lease_epoch,
        tool=step.tool,
        retry_at_ms=retry_at_ms,
    )


def wait_created(
    position: int, operation: Operation, due_ms: int, lease_epoch: int, *, parks: bool
) -> WaitCreated:
    """Of a wait, or of a child run that the run parks on."""
    wait = operation if isinstance(operation, Wait) else Wait(kind=WaitKind.CHILD)
    return WaitCreated(
        position=position,
        wait_id=str(position),
        kind=wait.kind,
        name=wait.name,
        due_ms=due_ms,
        question=wait.question,
        input_type=wait.input_type,
        options=wait.options,
        default=wait.default or b"",
        has_default=wait.default is not None,
        lease_epoch=lease_epoch,
        parks=parks,
    )


def child_started(position: int, child: Child, parent: RunId, lease_epoch: int) -> ChildStarted:
    return ChildStarted(
        position=position,
        child_run_id=child_run_id(parent, position),
        component=child.component,
        mode=child.mode,
        input=child.input,
        lease_epoch=lease_epoch,
        entity_key=child.entity_key,
    )


def state_changed(
    position: int, change: ChangeState, revision: int, lease_epoch: int
) -> StateChanged:
    return StateChanged(
        position=position,
        scope=change.scope,
        name=change.name,
        value=change.value or b"",
        revision=revision,
        deleted=change.value is None,
        lease_epoch=lease_epoch,
        expected_revision=change.expected or 0,
        has_expected=change.expected is not None,
    )


def state_read(position: int, read: ReadState, lease_epoch: int) -> StateRead:
    return StateRead(position=position, scope=read.scope, name=read.name, lease_epoch=lease_epoch)


def usage_reported(position: int, usage: ReportUsage, lease_epoch: int) -> UsageReported:
    return UsageReported(
        position=position,
        model=usage.model,
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
        cost_usd=usage.cost_usd,
        tool_calls=usage.tool_calls,
        lease_epoch=lease_epoch,
    )
