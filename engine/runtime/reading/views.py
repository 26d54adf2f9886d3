"""A run as people see it, made from its state and, where they ask for one run, from its journal."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from engine.base import limits
from engine.base.ids import RunId, run_id_text
from engine.core.held import OpenWait
from engine.core.state import RunState
from engine.ext.replay import RunFold
from engine.journal.segment import Segment
from engine.model.payloads import RunAccepted, WaitKind
from engine.model.runs import ComponentKind, RunStatus, RunSummary
from engine.model.views import (
    KIND_NAMES,
    STATUS_NAMES,
    WAIT_KIND_NAMES,
    RunView,
    StatusName,
    WaitView,
)
from engine.runtime.writer.live import LiveRun
from engine.wire.journal import decode


async def run_view(live: LiveRun) -> RunView:
    """Everything about one run, as it is when this is called: what its state says, and what its
    journal adds."""
    state, brief = live.state, list_view(live.state, is_held=live.lease is not None)
    waits = list(state.waits.values())
    accepted = _accepted(live)
    summary = await _summary(live.segment)
    return RunView(
        **{name: getattr(brief, name) for name in RunView.__struct_fields__ if name not in _MORE},
        tool_calls=summary.tool_calls,
        model=summary.model,
        tokens_in=summary.tokens_in,
        tokens_out=summary.tokens_out,
        cost_usd=summary.cost_usd,
        updated_ms=summary.updated_us // 1_000,
        prompt_version=accepted.prompt_version,
        waits=tuple(_wait_view(wait) for wait in waits),
    )


async def _summary(segment: Segment) -> RunSummary:
    """Of all that is durable now. Page by page, since a journal may be very long."""
    fold, end_offset = RunFold(), segment.durable_offset
    while fold.next_offset < end_offset:
        await trio.lowlevel.checkpoint()
        left = min(end_offset - fold.next_offset, limits.fold_records_max)
        fold.feed_all(_page(segment.read_values(fold.next_offset, left)))
    return fold.summary()


def _page(values: Iterator[bytes]) -> Iterator[bytes]:
    size = 0
    for value in values:
        yield value
        size += len(value)
        if size > limits.fold_bytes_max:
            return


_MORE = frozenset(
    {
        "tool_calls",
        "model",
        "tokens_in",
        "tokens_out",
        "cost_usd",
        "updated_ms",
        "prompt_version",
        "waits",
    }
)


def list_view(state: RunState, *, is_held: bool) -> RunView:
    """What the state alone says; enough for a list."""
    ended_ms = state.ended_ms
    return RunView(
        run_id=run_id_text(RunId(state.run_id)),
        status=status_name(state, is_held=is_held),
        component=state.component,
        kind=KIND_NAMES[ComponentKind(state.component_kind)],
        project_id=state.project_id,
        deployment_id=state.deployment_id,
        attempt=state.attempt,
        created_ms=state.created_ms,
        started_ms=state.started_ms,
        completed_ms=ended_ms,
        updated_ms=ended_ms,  # of a run that goes on only its journal knows it
        # Without the time that it waited for a worker, as the column of the archive has it.
        duration_ms=max(0, ended_ms - state.started_ms) if ended_ms and state.started_ms else 0,
        next_offset=state.next_offset,
        steps_completed=state.steps_completed,
        steps_failed=state.steps_failed,
        error_code=state.error_code,
        error_message=state.error_message,
        trace_id=state.trace_id,
        correlation_id=state.correlation_id,
        entity_key=state.entity_key,
        parent_run_id=run_id_text(RunId(state.parent_run_id)) if state.parent_run_id else "",
        start_at_ms=state.start_at_ms,
        session_id=state.session_id,
        user_id=state.user_id,
        tags=state.tags,
    )


def status_name(state: RunState, *, is_held: bool) -> StatusName:
    """A run that is RUNNING by its journal and that nobody holds (its worker or the engine went
    away without a word) waits for a worker like any queued one."""
    assert state.status is not None
    if state.status is RunStatus.RUNNING and not is_held:
        return STATUS_NAMES[RunStatus.QUEUED]
    return STATUS_NAMES[state.status]


def _accepted(live: LiveRun) -> RunAccepted:
    records = live.segment.read(0, records_max=1)
    if not records:
        return RunAccepted()
    accepted = decode(records[0].kind, records[0].payload)
    assert isinstance(accepted, RunAccepted)
    return accepted


def _wait_view(wait: OpenWait) -> WaitView:
    return WaitView(
        wait_id=wait.wait_id,
        kind=WAIT_KIND_NAMES[WaitKind(wait.kind)],
        name=wait.name,
        due_ms=wait.due_ms,
        question=wait.question,
        input_type=wait.input_type,
        options=wait.options,
    )
