"""The rows of a list, read from files with SQL of ours: which columns a list shows, and what a
filter is as a condition. Every value is a bound parameter. Knows no pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from engine.base.ids import parse_run_id, run_id_text
from engine.model.views import KIND_NAMES, STATUS_NAMES, RunFilter, RunView
from engine.query.child.database import Session
from engine.query.child.tables import parquet, read

# The columns of a run that a list shows. Given with their types, since a file that is older than a
# column does not have it.
_COLUMNS: Final = {
    "run_id": "VARCHAR",
    "status": "VARCHAR",
    "component": "VARCHAR",
    "kind": "VARCHAR",
    "project_id": "VARCHAR",
    "deployment_id": "VARCHAR",
    "attempt": "INTEGER",
    "created_ms": "BIGINT",
    "started_ms": "BIGINT",
    "completed_ms": "BIGINT",
    "duration_ms": "BIGINT",
    "records": "BIGINT",
    "steps_completed": "BIGINT",
    "steps_failed": "BIGINT",
    "tool_calls": "BIGINT",
    "model": "VARCHAR",
    "tokens_in": "BIGINT",
    "tokens_out": "BIGINT",
    "cost_usd": "DOUBLE",
    "error_code": "VARCHAR",
    "error_message": "VARCHAR",
    "prompt_version": "VARCHAR",
    "session_id": "VARCHAR",
    "user_id": "VARCHAR",
    "trace_id": "VARCHAR",
    "correlation_id": "VARCHAR",
    "entity_key": "VARCHAR",
    "parent_run_id": "VARCHAR",
    "tags": "MAP(VARCHAR, VARCHAR)",
}
_NAMES: Final = ", ".join(_COLUMNS)
_NO_ROWS: Final = (
    "SELECT "
    + ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in _COLUMNS.items())
    + " WHERE false"
)


def read_views(session: Session, chosen: RunFilter, files: Sequence[str]) -> list[RunView]:
    """The newest runs of these files that match, one more than the page has."""
    conditions, parameters = _conditions(chosen)
    sql = (
        f"SELECT {_NAMES} FROM ({_NO_ROWS} UNION ALL BY NAME FROM {parquet(files)}) "
        f"WHERE {' AND '.join(conditions) or 'true'} ORDER BY run_id DESC LIMIT {chosen.limit + 1}"
    )
    return [_view(dict(zip(_COLUMNS, row, strict=True))) for row in read(session, sql, parameters)]


def _conditions(chosen: RunFilter) -> tuple[list[str], list[object]]:
    asked: list[tuple[str, object]] = [
        ("run_id < ?", _cursor_of(chosen)),
        ("status = ?", None if chosen.status is None else STATUS_NAMES[chosen.status]),
        ("component = ?", chosen.component),
        ("kind = ?", None if chosen.kind is None else KIND_NAMES[chosen.kind]),
        ("project_id = ?", chosen.project_id),
        ("error_code = ?", chosen.error_code),
        ("parent_run_id = ?", chosen.parent_run_id),
        ("created_ms >= ?", chosen.created_from_ms),
        ("created_ms < ?", chosen.created_to_ms),
    ]
    given = [(condition, value) for condition, value in asked if value is not None]
    conditions = [condition for condition, _ in given]
    parameters = [value for _, value in given]
    for name, value in chosen.tags.items():
        conditions.append("tags[?] = ?")
        parameters += [name, value]
    return conditions, parameters


def _cursor_of(chosen: RunFilter) -> str | None:
    return run_id_text(parse_run_id(chosen.cursor)) if chosen.cursor else None


def _view(row: dict[str, Any]) -> RunView:
    """A value that is not there is the one that says nothing."""
    records = row.pop("records")
    said = {name: value for name, value in row.items() if value is not None}
    # A list answers from its columns: their names are those of the view.
    return RunView(
        **said, updated_ms=row["completed_ms"] or 0, next_offset=0 if records is None else records
    )
