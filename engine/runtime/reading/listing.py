"""Lists of runs from the hot tier, newest first, with a cursor that stays right while runs are
being added: a run id begins with its time, so the cursor is the last id that was shown."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Iterator

import trio

from engine.base import limits
from engine.base.errors import InvalidInput
from engine.base.ids import RunId, parse_run_id, run_id_text
from engine.core.state import RunState, decode_state
from engine.journal.layout import OPEN_RUN_TAG, RUN_TAG
from engine.model.views import STATUS_NAMES, RunFilter, RunPage, RunView
from engine.runtime.reading.views import list_view, status_name
from engine.runtime.writer.tenant import TenantRuntime


def list_runs(tenant: TenantRuntime, chosen: RunFilter) -> Awaitable[RunPage]:
    """The page as it is at this moment; awaiting it reads it, bit by bit, since a rare run may
    stand behind many others."""
    if not 1 <= chosen.limit <= limits.list_runs_max:
        raise InvalidInput(
            f"limit is {chosen.limit}, it can be 1 to {limits.list_runs_max}", field="limit"
        )
    before = parse_run_id(chosen.cursor) if chosen.cursor else None
    return _page(tenant, chosen, _newest_first(tenant, _tags(chosen), before))


async def _page(
    tenant: TenantRuntime, chosen: RunFilter, newest_first: Iterator[RunState]
) -> RunPage:
    views: list[RunView] = []
    last: RunId | None = None
    await trio.lowlevel.checkpoint()  # also where there is nothing to read
    begun_us = tenant.clock.monotonic_us()
    for count, state in enumerate(newest_first, start=1):
        now_us = tenant.clock.monotonic_us()
        if count % limits.list_rows_per_turn == 0 or now_us > begun_us + limits.loop_slice_us:
            await trio.lowlevel.checkpoint()
            begun_us = tenant.clock.monotonic_us()
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


def _tags(chosen: RunFilter) -> tuple[bytes, ...]:
    """The sorts of rows that can have such runs."""
    if chosen.status is None:
        return OPEN_RUN_TAG, RUN_TAG
    return (RUN_TAG,) if chosen.status.is_terminal else (OPEN_RUN_TAG,)


def _newest_first(
    tenant: TenantRuntime, tags: tuple[bytes, ...], before: RunId | None
) -> Iterator[RunState]:
    """The runs that there are when this is called, each once, merged by id."""
    rows = [tenant.journal.rows_backwards(tag, before or b"\xff" * 16) for tag in tags]
    # The first row of each is taken at once: from then on it does not see what changes.
    firsts = [list(itertools.islice(each, 1)) for each in rows]
    states = [
        (decode_state(row) for _, row in itertools.chain(first, each))
        for first, each in zip(firsts, rows, strict=True)
    ]
    merged = heapq.merge(*states, key=_run_id, reverse=True)
    # A commit may fall between the two firsts. Open runs are read before ended ones, so that it
    # hides no run; one that it ended is in both, and the later row is the one that holds.
    return (list(same)[-1] for _, same in itertools.groupby(merged, key=_run_id))


def _run_id(state: RunState) -> bytes:
    return state.run_id


def _matches(state: RunState, chosen: RunFilter, *, is_held: bool) -> bool:
    return (
        (
            chosen.status is None
            or status_name(state, is_held=is_held) == STATUS_NAMES[chosen.status]
        )
        and (chosen.component is None or state.component == chosen.component)
        and (chosen.kind is None or state.component_kind == chosen.kind)
        and (chosen.error_code is None or state.error_code == chosen.error_code)
        and (
            chosen.parent_run_id is None
            or (
                bool(state.parent_run_id)
                and run_id_text(RunId(state.parent_run_id)) == chosen.parent_run_id
            )
        )
        and all(state.tags.get(name) == value for name, value in chosen.tags.items())
        and (chosen.project_id is None or state.project_id == chosen.project_id)
        and (chosen.created_from_ms is None or state.created_ms >= chosen.created_from_ms)
        and (chosen.created_to_ms is None or state.created_ms < chosen.created_to_ms)
    )
