"""What the runtime asks of the query tier: SQL of users, ready-made analytics, archived runs.

Each answer is made by a process of queries in one turn: it checks the statement, the snapshot is
taken here, the hot rows go there, it reads. Says what it had to leave out. Knows no HTTP, and loads
no driver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
import trio

from engine.base import limits
from engine.base.clock import Clock, system_clock
from engine.base.errors import InvalidInput, InvalidQuery, QueryRefused
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.model.query import ANALYTICS, AnalyticsFilter, ArrowAnswer, QueryAnswer
from engine.model.views import RunFilter, RunPage
from engine.query import analytics, listing, messages
from engine.query.messages import Kind
from engine.query.pool import QueryPool, Turn
from engine.query.ports import (
    EVERYTHING,
    FileList,
    ReportUnreadable,
    Snapshot,
    SnapshotOf,
    StreamOf,
)
from engine.query.unreadable import UnreadableFiles

_log: Final = logging.getLogger(__name__)
_OF_THE_VIEW: Final = {"runs": Kind.HOT_RUNS, "steps": Kind.HOT_STEPS}


class QueryTier:
    """Every question about runs that is answered with SQL."""

    def __init__(
        self,
        pool: QueryPool,
        settings: QuerySettings,
        report_unreadable: ReportUnreadable,
        stream_of: StreamOf,
        clock: Clock = system_clock,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._report_unreadable = report_unreadable
        self._stream_of = stream_of
        self._clock = clock
        self._unreadable = UnreadableFiles(clock)
        # Whoever leaves does not wait for the hot rows to be there, and does not free the place.
        self._building = trio.CapacityLimiter(settings.running_max)

    async def run(
        self,
        tenant: TenantId,
        sql: str,
        snapshot_of: SnapshotOf,
        *,
        rows_max: int | None = None,
    ) -> QueryAnswer:
        """The rows of one SELECT over `runs` and `steps`."""
        began_us = self._clock.monotonic_us()
        asked = self._rows_max(rows_max)
        selected, parts, skipped = await self._run(tenant, sql, snapshot_of, asked)
        return await self._answer(selected, parts, skipped, began_us)

    async def run_arrow(
        self,
        tenant: TenantId,
        sql: str,
        snapshot_of: SnapshotOf,
        *,
        rows_max: int | None = None,
    ) -> ArrowAnswer:
        """The same as an Arrow IPC stream."""
        began_us = self._clock.monotonic_us()
        asked = self._rows_max(rows_max)
        selected, parts, skipped = await self._run(tenant, sql, snapshot_of, asked, as_arrow=True)
        return ArrowAnswer(
            stream=b"".join(parts),
            truncated=selected.truncated,
            skipped=skipped,
            elapsed_ms=self._elapsed_ms(began_us),
        )

    async def analytics(
        self, tenant: TenantId, name: str, chosen: AnalyticsFilter, snapshot_of: SnapshotOf
    ) -> QueryAnswer:
        """One of the ready-made tables of `analytics.py`."""
        if name not in ANALYTICS:
            raise InvalidInput(
                f"there are no analytics {name[:64]!r}; there are {', '.join(ANALYTICS)}",
                field="name",
            )
        began_us = self._clock.monotonic_us()
        asked = self._rows_max(chosen.limit)
        sql, parameters = analytics.statement(name, chosen)
        async with self._pool.use(tenant) as turn:
            snapshot = snapshot_of(analytics.window(name, chosen))
            selected, parts, skipped = await self._select(
                turn, tenant, snapshot, {"runs"}, sql, asked, parameters=parameters
            )
        return await self._answer(selected, parts, skipped, began_us)

    async def list_runs(
        self, tenant: TenantId, chosen: RunFilter, hot: RunPage, cold: FileList
    ) -> RunPage:
        """The newest runs of both tiers. `hot` is the hot tier's page for the same filter, taken
        at the same moment as `cold`; a run that is in both is shown as the hot tier has it."""
        files = listing.files_to_look_at(cold.run_files, chosen)
        if listing.is_answered_by(hot, chosen, files):
            return hot
        unreadable = self._unreadable.among(files)
        request = messages.ListRuns(
            tenant=tenant, chosen=chosen, files=files, unreadable=unreadable, hot=hot
        )
        async with self._pool.use(tenant, self._pool.lists) as turn:
            listed = (await turn.read(request)).answer
        assert isinstance(listed, messages.Listed)
        await self._report(tenant, listed.unreadable, set(unreadable))
        return listed.page

    async def _run(
        self,
        tenant: TenantId,
        sql: str,
        snapshot_of: SnapshotOf,
        rows_max: int,
        *,
        as_arrow: bool = False,
    ) -> tuple[messages.Selected, Sequence[bytes], tuple[str, ...]]:
        if len(sql) > limits.query_sql_characters_max:
            raise InvalidQuery(
                f"the SQL has {len(sql)} characters, it can have {limits.query_sql_characters_max}"
            )
        try:
            async with self._pool.use(tenant) as turn:
                checked = await turn.ask(messages.Check(sql))
                assert isinstance(checked, messages.Checked)
                return await self._select(
                    turn,
                    tenant,
                    snapshot_of(EVERYTHING),
                    checked.views,
                    sql,
                    rows_max,
                    as_arrow=as_arrow,
                )
        except QueryRefused as refused:
            self._log_refusal(tenant, refused)
            raise

    async def _select(
        self,
        turn: Turn,
        tenant: TenantId,
        snapshot: Snapshot,
        views: Collection[str],
        sql: str,
        rows_max: int,
        *,
        parameters: dict[str, Any] | None = None,
        as_arrow: bool = False,
    ) -> tuple[messages.Selected, Sequence[bytes], tuple[str, ...]]:
        """What the SELECT gives over the views, and what it went without."""
        run_files = tuple(snapshot.run_files) if "runs" in views else ()
        step_files = tuple(snapshot.step_files) if "steps" in views else ()
        unreadable = self._unreadable.among([*run_files, *step_files])
        request = messages.Select(
            sql=sql,
            parameters=parameters,
            views=tuple(sorted(views)),
            run_files=run_files,
            step_files=step_files,
            unreadable=unreadable,
            rows_max=rows_max,
            bytes_max=self._settings.answer_bytes_max,
            as_arrow=as_arrow,
        )
        answered = await turn.read(
            request,
            await self._hot(snapshot, views),
            parts_bytes_max=self._settings.answer_bytes_max + limits.process_frame_bytes_max,
        )
        selected = answered.answer
        assert isinstance(selected, messages.Selected)
        await self._report(tenant, selected.unreadable, set(unreadable))
        left_out = snapshot.hot_left_out if views else 0
        return selected, answered.parts, self._named(selected.unreadable, left_out)

    async def _hot(self, snapshot: Snapshot, views: Collection[str]) -> dict[Kind, Sequence[bytes]]:
        tables = {"runs": snapshot.hot_runs, "steps": snapshot.hot_steps}
        return {
            _OF_THE_VIEW[name]: await trio.to_thread.run_sync(
                _streamed,
                self._stream_of,
                tables[name],
                abandon_on_cancel=True,
                limiter=self._building,
            )
            for name in views
        }

    async def _report(
        self, tenant: TenantId, unreadable: Mapping[str, str], known: set[str]
    ) -> None:
        found = {file: reason for file, reason in unreadable.items() if file not in known}
        for file, reason in found.items():
            self._unreadable.add(file, reason)
            self._report_unreadable(tenant, file, reason)
        if found:
            # A process remembers what it has read of them, and must not once they are mended.
            self._pool.forget(tenant)

    def _log_refusal(self, tenant: TenantId, refused: QueryRefused) -> None:
        _log.warning(
            "a query of tenant %s was refused: %s",
            tenant,
            refused.message,
            extra={"tenant_id": tenant, "reason": refused.message},
        )

    def _rows_max(self, asked: int | None) -> int:
        if asked is not None and asked < 1:
            raise InvalidInput(f"{asked} rows at most are none; ask for 1 or more", field="limit")
        return min(asked or self._settings.rows_max, self._settings.rows_max)

    async def _answer(
        self,
        selected: messages.Selected,
        parts: Sequence[bytes],
        skipped: tuple[str, ...],
        began_us: int,
    ) -> QueryAnswer:
        rows: list[tuple[Any, ...]] = []
        for part in parts:
            try:
                rows += messages.decode_rows(part)
            except (msgspec.DecodeError, RecursionError) as error:
                raise InvalidQuery("the answer is nested too deeply to be shown") from error
            await trio.lowlevel.checkpoint()
        return QueryAnswer(
            columns=selected.columns,
            types=selected.types,
            rows=tuple(rows),
            truncated=selected.truncated,
            skipped=skipped,
            elapsed_ms=self._elapsed_ms(began_us),
        )

    def _named(self, skipped: Mapping[str, str], hot_left_out: int) -> tuple[str, ...]:
        inside = self._pool.access.inside
        named = [f"{inside(file)}: {reason}" for file, reason in sorted(skipped.items())]
        if hot_left_out:
            named.append(
                f"{hot_left_out} runs that ended and wait to be archived: too many to read"
            )
        return tuple(named)

    def _elapsed_ms(self, began_us: int) -> float:
        return (self._clock.monotonic_us() - began_us) / 1_000


def _streamed(stream_of: StreamOf, table: Callable[[], object]) -> Sequence[bytes]:
    return stream_of(table())
