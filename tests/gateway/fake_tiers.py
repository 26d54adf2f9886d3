"""The tiers in memory: a real DuckDB over the fake's runs, and an archive that is a set of ids.

The SQL is read by DuckDB itself, as the engine's is, so that what a test asks has to be SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import duckdb
import pyarrow as pa
import trio

from engine.base.errors import ArchiveUnreachable, InvalidQuery, QueryRefused
from engine.model.query import (
    AnalyticsFilter,
    ArchiveFlushed,
    ArchiveStatus,
    ArchiveVerified,
    ArrowAnswer,
    QueryAnswer,
)

ROWS_MAX: Final = 1_000
BACKFILL_RUNS: Final = 10
ENDLESS: Final = "SELECT 'endless'"  # this one runs until it is cancelled


class TierRun(NamedTuple):
    run_id: str
    component: str
    kind: str
    status: str
    created_ms: int
    tokens_in: int
    error_code: str
    tags: dict[str, str]

    @property
    def is_over(self) -> bool:
        return self.status in ("COMPLETED", "FAILED", "CANCELLED")


class FakeTiers:
    def __init__(self) -> None:
        self.querying = 0
        self.skipped: tuple[str, ...] = ()
        self.analytics_asked: list[tuple[str, AnalyticsFilter]] = []
        self.archived: set[str] = set()
        self.problems: tuple[str, ...] = ()
        self.is_store_down = False
        self.backfill_left = 0  # one less with each status that is asked for

    async def query(self, runs: Sequence[TierRun], sql: str, rows_max: int | None) -> QueryAnswer:
        await self._run_forever_if_told(sql)
        with _database(runs) as database:
            found = _executed(database, sql)
            columns = [name for name, *_ in found.description]
            types = [str(sql_type) for _, sql_type, *_ in found.description]
            limit = rows_max or ROWS_MAX
            rows = found.fetchmany(limit + 1)
        return QueryAnswer(
            columns=tuple(columns),
            types=tuple(types),
            rows=tuple(rows[:limit]),
            truncated=len(rows) > limit,
            skipped=self.skipped,
            elapsed_ms=1.5,
        )

    async def query_arrow(
        self, runs: Sequence[TierRun], sql: str, rows_max: int | None
    ) -> ArrowAnswer:
        await self._run_forever_if_told(sql)
        limit = rows_max or ROWS_MAX
        with _database(runs) as database:
            table = _executed(database, sql).to_arrow_table()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(0, limit))
        return ArrowAnswer(
            stream=sink.getvalue().to_pybytes(),
            truncated=table.num_rows > limit,
            skipped=self.skipped,
            elapsed_ms=2.5,
        )

    async def analytics(
        self, runs: Sequence[TierRun], name: str, chosen: AnalyticsFilter
    ) -> QueryAnswer:
        self.analytics_asked.append((name, chosen))
        return await self.query(
            runs,
            "SELECT component, sum(tokens_in)::BIGINT AS tokens_in, count(*) AS runs FROM runs "
            "GROUP BY component ORDER BY component",
            chosen.limit,
        )

    async def status(self, runs: Sequence[TierRun]) -> ArchiveStatus:
        await trio.lowlevel.checkpoint()
        waiting = self._waiting(runs)
        self.backfill_left = max(0, self.backfill_left - 1)
        return ArchiveStatus(
            url="s3://engine/runs",
            reachable=not self.is_store_down,
            last_error="connection refused" if self.is_store_down else "",
            waiting_runs=len(waiting),
            waiting_oldest_ms=90_000 if waiting else 0,
            batches_acknowledged=1 if self.archived else 0,
            archived_runs=len(self.archived),
            archived_bytes=100 * len(self.archived),
            backfilling=self.backfill_left > 0,
            backfill_done=BACKFILL_RUNS - self.backfill_left,
            backfill_total=BACKFILL_RUNS,
        )

    async def flush(self, runs: Sequence[TierRun]) -> ArchiveFlushed:
        await trio.lowlevel.checkpoint()
        if self.is_store_down:
            raise ArchiveUnreachable("the store does not answer: connection refused; start it")
        waiting = self._waiting(runs)
        self.archived.update(run.run_id for run in waiting)
        batches = 1 if waiting else 0
        return ArchiveFlushed(
            runs=len(waiting), batches=batches, bytes=100 * len(waiting), took_ms=3.5
        )

    async def verify(self) -> ArchiveVerified:
        await trio.lowlevel.checkpoint()
        return ArchiveVerified(batches=1, runs=len(self.archived), problems=self.problems)

    def _waiting(self, runs: Iterable[TierRun]) -> list[TierRun]:
        return [run for run in runs if run.is_over and run.run_id not in self.archived]

    async def _run_forever_if_told(self, sql: str) -> None:
        await trio.lowlevel.checkpoint()
        if sql == ENDLESS:
            self.querying += 1
            try:
                await trio.sleep_forever()
            finally:
                self.querying -= 1


@contextmanager
def _database(runs: Sequence[TierRun]) -> Any:
    with duckdb.connect(":memory:") as database:
        database.execute(
            "CREATE TABLE runs (run_id VARCHAR, component VARCHAR, kind VARCHAR, status VARCHAR, "
            "created_ms BIGINT, tokens_in BIGINT, error_code VARCHAR, tags MAP(VARCHAR, VARCHAR))"
        )
        for run in runs:
            *plain, tags = run
            database.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, MAP(?::VARCHAR[], ?::VARCHAR[]))",
                [*plain, list(tags), list(tags.values())],
            )
        yield database


def _executed(database: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyConnection:
    try:
        statements = database.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise QueryRefused("a query is one SELECT and nothing else", field="sql")
        return database.execute(statements[0])
    except duckdb.Error as error:
        raise InvalidQuery(f"the SQL cannot be answered: {error}", field="sql") from error
