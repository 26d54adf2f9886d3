"""Lists of runs from the hot tier, newest first, with a cursor that stays right while runs are
being added: a run id begins with its time, so the cursor is the last id that was shown."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from engine.base import limits
from engine.base.errors import InvalidInput
from engine.base.ids import RunId, parse_run_id, run_id_text
from engine.core.state import RunState, decode_state
from engine.journal.layout import OPEN_RUN_TAG, RUN_TAG
from engine.model.views import STATUS_NAMES, RunFilter, RunPage, RunView
from engine.runtime.tenant import TenantRuntime
from engine.runtime.views import list_view, status_name


def list_runs(tenant: TenantRuntime, chosen: RunFilter) -> RunPage:
    if not 1 <= chosen.limit <= limits.list_runs_max:
        raise InvalidInput(
            f"limit is {chosen.limit}, it can be 1 to {limits.list_runs_max}", field="limit"
        )
    before = parse_run_id(chosen.cursor) if chosen.cursor else None
    views: list[RunView] = []
    last: RunId | None = None
    for state in _newest_first(tenant, before):
        live = tenant.live(RunId(state.run_id))
        is_held = live is not None and live.lease is not None
        if not _matches(state, chosen, is_held=is_held):
            continue
        if len(views) == chosen.limit:
            assert last is not None
            return RunPage(tuple(views), run_id_text(last))
        last = RunId(state.run_id)
        views.append(list_view(state, is_held=is_held))
    return RunPage(tuple(views))


def _newest_first(tenant: TenantRuntime, before: RunId | None) -> Iterator[RunState]:
    """Open and ended runs, merged by id."""
    both = [
        (row for _, row in tenant.journal.rows_backwards(tag, before or b"\xff" * 16))
        for tag in (OPEN_RUN_TAG, RUN_TAG)
    ]
    states = [map(decode_state, rows) for rows in both]
    return heapq.merge(*states, key=lambda state: state.run_id, reverse=True)


def _matches(state: RunState, chosen: RunFilter, *, is_held: bool) -> bool:
    return (
        (
            chosen.status is None
            or status_name(state, is_held=is_held) == STATUS_NAMES[chosen.status]
        )
        and (chosen.component is None or state.component == chosen.component)
        and (chosen.project_id is None or state.project_id == chosen.project_id)
        and (chosen.created_from_ms is None or state.created_ms >= chosen.created_from_ms)
        and (chosen.created_to_ms is None or state.created_ms < chosen.created_to_ms)
    )
