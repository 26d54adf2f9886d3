"""Takes up a tenant's open runs, after a start and after a stop that is over: nobody holds any of
them, and what a crash cut off in the middle is made good.

From the state rows alone. A run that cannot be read is reported and left out; the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from engine.base.errors import EngineError
from engine.base.ids import RunId, run_id_text
from engine.core.state import RunState, decode_state
from engine.journal.layout import open_run_key, run_key
from engine.model.commands import CancelRun, ChildEnded
from engine.model.runs import RunStatus
from engine.runtime.writer.entities import entity_of, in_line
from engine.runtime.writer.live import LiveRun, ended_as
from engine.runtime.writer.tenancy import Tenancy

_log: Final = logging.getLogger(__name__)


def recover(tenant: Tenancy) -> Iterator[RunId]:
    """Take up every open run. One after the other, so that there is memory for any number, and
    others may have a turn in between; only who writes to an entity waits until it is known who had
    the turn."""
    in_lines: list[LiveRun] = []
    for key, row in tenant.journal.rows(open_run_key(b"")):
        run = RunId(key[1:])
        yield run
        try:
            live = _recover_run(tenant, decode_state(row))
        except EngineError as error:
            tenant.unrecovered[run] = error
            _log.error(
                "run %s of tenant %s cannot be taken up and is left as it is: %s",
                run_id_text(run),
                tenant.tenant_id,
                error.message,
            )
            continue
        if live is None:
            continue
        if entity_of(live.state) is not None and live.state.attempt == 0:
            in_lines.append(live)
        else:
            tenant.enqueue_taken_up(live)
    for live in in_line(in_lines):
        tenant.enqueue_taken_up(live)


def _recover_run(tenant: Tenancy, state: RunState) -> LiveRun | None:
    """The run, if it can go to a worker."""
    run = RunId(state.run_id)
    due_ms = state.next_due_ms()
    if due_ms is not None:
        tenant.look_at(due_ms, run)
    if state.attempt > 0:
        tenant.queues.entities.hold(state)
    if _is_orphan(tenant, state):
        tenant.carry_out(tenant.find(run), CancelRun(reason="the parent was cancelled"))
        return None
    for position, child in list(state.children.items()):
        _tell_if_child_ended(tenant, run, position, RunId(child))
    begins_at_ms = state.begins_at_ms
    waits_for_time = begins_at_ms is not None and begins_at_ms > tenant.clock.now_ms()
    if state.status is RunStatus.WAITING or waits_for_time:
        return None
    return tenant.adopt(state)


def _is_orphan(tenant: Tenancy, state: RunState) -> bool:
    """Its parent was cancelled, and a crash came before the same was done to it."""
    if not state.parent_run_id:
        return False
    row = tenant.journal.row(run_key(state.parent_run_id))
    return row is not None and decode_state(row).status is RunStatus.CANCELLED


def _tell_if_child_ended(tenant: Tenancy, parent: RunId, position: int, child: RunId) -> None:
    """A crash between the child's last record and its parent's is made good here."""
    row = tenant.journal.row(run_key(child))
    if row is None:
        return
    state = decode_state(row)
    assert state.status is not None
    ending = ended_as(LiveRun(state, tenant.journal.open_segment(child)))
    tenant.carry_out(
        tenant.find(parent),
        ChildEnded(
            position=position,
            child_run_id=child,
            status=state.status,
            output=ending.output,
            error=ending.error,
        ),
    )
