"""What the runtime asks of the query tier: SQL of users, ready-made analytics, archived runs.

Each answer is made in one turn on the tenant's database: check the statement, take the snapshot on
the event loop's thread, read in another. Says what it had to leave out. Knows no HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from engine.base.clock import Clock, system_clock
from engine.base.errors import InvalidInput, InvalidQuery, QueryRefused
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.model.query import ANALYTICS, AnalyticsFilter, ArrowAnswer, QueryAnswer
from engine.model.views import RunFilter, RunPage
from engine.query import analytics
from engine.query.child import listing, values
from engine.query.child.database import Parameters, QueryPool, Selected, Session, Turn
from engine.query.child.statements import Checked, check, located
from engine.query.child.tables import UnreadableFiles, make_views, without_unreadable
from engine.query.ports import (
    EVERYTHING,
    FileList,
    ReportUnreadable,
    Snapshot,
    SnapshotOf,
    WriteStream,
)

_log: Final = logging.getLogger(__name__)
Result = TypeVar("Result")


class QueryTier:
    """Every question about runs that is answered with SQL."""

    def __init__(
        self,
        pool: QueryPool,
        settings: QuerySettings,
        report_unreadable: ReportUnreadable,
        clock: Clock = system_clock,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._report_unreadable = report_unreadable
        self._clock = clock
        self._unreadable = UnreadableFiles(clock)

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

        def fetch(selected: Selected) -> QueryAnswer:
            return _fetched(selected, asked, self._settings.answer_bytes_max)

        async with self._pool.use(tenant) as turn:
            checked = await self._checked(turn, tenant, sql)
            snapshot = snapshot_of(EVERYTHING)
            answer, skipped = await self._select(
                turn, tenant, snapshot, checked.views, sql, (), fetch
            )
        return self._finished(answer, skipped, began_us)

    async def run_arrow(
        self,
        tenant: TenantId,
        sql: str,
        snapshot_of: SnapshotOf,
        write_stream: WriteStream,
        *,
        rows_max: int | None = None,
    ) -> ArrowAnswer:
        """The same as an Arrow IPC stream, which `write_stream` writes."""
        began_us = self._clock.monotonic_us()
        asked = self._rows_max(rows_max)

        def fetch(selected: Selected) -> tuple[bytes, bool]:
            # One more than is asked for, so that the writer sees whether there are more.
            return write_stream(selected.reader(asked + 1), asked, self._settings.answer_bytes_max)

        async with self._pool.use(tenant) as turn:
            checked = await self._checked(turn, tenant, sql)
            snapshot = snapshot_of(EVERYTHING)
            (stream, truncated), skipped = await self._select(
                turn, tenant, snapshot, checked.views, sql, (), fetch
            )
        return ArrowAnswer(
            stream=stream,
            truncated=truncated,
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

        def fetch(selected: Selected) -> QueryAnswer:
            return _fetched(selected, asked, self._settings.answer_bytes_max)

        async with self._pool.use(tenant) as turn:
            snapshot = snapshot_of(analytics.window(name, chosen))
            answer, skipped = await self._select(
                turn, tenant, snapshot, {"runs"}, sql, parameters, fetch
            )
        return self._finished(answer, skipped, began_us)

    async def list_runs(
        self, tenant: TenantId, chosen: RunFilter, hot: RunPage, cold: FileList
    ) -> RunPage:
        """The newest runs of both tiers. `hot` is the hot tier's page for the same filter, taken
        at the same moment as `cold`; a run that is in both is shown as the hot tier has it."""
        files = listing.files_to_look_at(cold.run_files, chosen)
        if listing.is_answered_by(hot, chosen, files):
            return hot
        unreadable = self._unreadable.among(files)
        known = set(unreadable)

        def attempt(session: Session) -> RunPage:
            readable = [file for file in files if file not in unreadable]
            return listing.read_page(
                lambda some: listing.read_views(session, chosen, some), chosen, hot, readable
            )

        def work(session: Session) -> RunPage:
            return without_unreadable(
                session, self._pool.access, files, unreadable, lambda: attempt(session)
            )

        async with self._pool.use(tenant) as turn:
            page = await turn.run(work)
        await self._report(tenant, unreadable, known)
        return page

    async def _checked(self, turn: Turn, tenant: TenantId, sql: str) -> Checked:
        try:
            return await turn.run(lambda session: check(sql, session.parse, session.tree))
        except QueryRefused as refused:
            self._log_refusal(tenant, refused)
            raise

    async def _select(
        self,
        turn: Turn,
        tenant: TenantId,
        snapshot: Snapshot,
        views: set[str] | frozenset[str],
        sql: str,
        parameters: Parameters,
        fetch: Callable[[Selected], Result],
    ) -> tuple[Result, tuple[str, ...]]:
        """What `fetch` makes of the SELECT over the views, and what it went without."""
        files = [
            *(snapshot.run_files if "runs" in views else ()),
            *(snapshot.step_files if "steps" in views else ()),
        ]
        unreadable = self._unreadable.among(files)
        known = set(unreadable)

        def attempt(session: Session) -> Result:
            make_views(session, tenant, snapshot, views, unreadable)
            try:
                return fetch(session.select(sql, parameters))
            except InvalidQuery as error:
                raise located(error, sql, session.execute) from error

        def work(session: Session) -> Result:
            return without_unreadable(
                session, self._pool.access, files, unreadable, lambda: attempt(session)
            )

        try:
            result = await turn.run(work)
        except QueryRefused as refused:
            self._log_refusal(tenant, refused)
            raise
        await self._report(tenant, unreadable, known)
        return result, self._named(unreadable, snapshot.hot_left_out if views else 0)

    async def _report(
        self, tenant: TenantId, unreadable: Mapping[str, str], known: set[str]
    ) -> None:
        found = {file: reason for file, reason in unreadable.items() if file not in known}
        for file, reason in found.items():
            self._unreadable.add(file, reason)
            self._report_unreadable(tenant, file, reason)
        if found:
            # The database remembers what it has read of them, and must not once they are mended.
            await self._pool.retire(tenant)

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

    def _finished(
        self, answer: QueryAnswer, skipped: tuple[str, ...], began_us: int
    ) -> QueryAnswer:
        return QueryAnswer(
            columns=answer.columns,
            types=answer.types,
            rows=answer.rows,
            truncated=answer.truncated,
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


def _fetched(selected: Selected, rows_max: int, bytes_max: int) -> QueryAnswer:
    readers = values.readers(selected.types)
    rows: list[tuple[Any, ...]] = []
    room = bytes_max
    truncated = False
    for row in _plain_rows(selected, rows_max + 1, readers):
        room -= sum(map(values.size_of, row))
        if len(rows) == rows_max or room < 0:
            truncated = True
            break
        rows.append(row)
    return QueryAnswer(
        columns=selected.columns,
        types=tuple(name for _, name in selected.types),
        rows=tuple(rows),
        truncated=truncated,
    )


def _plain_rows(
    selected: Selected, rows_max: int, readers: Sequence[Callable[[Any], Any]]
) -> Iterator[tuple[Any, ...]]:
    for row in selected.rows(values.projection(selected.types), rows_max):
        yield tuple([read(value) for read, value in zip(readers, row, strict=True)])
