"""The routes that ask the tiers: SQL, the ready-made analytics, and how the archive is doing.

A view reads what was asked and puts the answer into the form that was asked for. What may be asked
is decided below: this file knows no SQL. A client that leaves cancels its view, and so its query.
"""

from __future__ import annotations

from typing import Final

import msgspec

from engine.base.errors import InvalidInput
from engine.base.moments import HOW_TO_WRITE, moment_ms
from engine.base.nearest import nearest_names
from engine.gateway.api import reading, shapes, tables
from engine.gateway.api.exchange import ARROW_TYPE, CSV_TYPE, JSON_TYPE, Response
from engine.gateway.api.problems import UnknownAnalysis
from engine.gateway.door.door import Door
from engine.gateway.handlers import answers
from engine.gateway.handlers.asked import Asked
from engine.model.context import RequestContext
from engine.model.query import ANALYTICS, AnalyticsFilter

_QUERY: Final = msgspec.json.Decoder(shapes.QueryBody)
_EXAMPLE: Final = "SELECT status, count(*) FROM runs GROUP BY status"


async def query(door: Door, context: RequestContext, asked: Asked) -> Response:
    media_type = tables.chosen_type(asked.headers.get("accept"), tables.TABLE_TYPES)
    body = query_body(asked)
    if media_type == ARROW_TYPE:
        stream = await door.handle.query_arrow(context, body.sql, rows_max=body.rows_max)
        return tables.arrow_response(stream)
    answer = await door.handle.query(context, body.sql, rows_max=body.rows_max)
    return tables.csv_response(answer) if media_type == CSV_TYPE else answers.json_response(answer)


def query_body(asked: Asked) -> shapes.QueryBody:
    """JSON, or else nothing but SQL. Without a content type (or with the one that curl makes up)
    what begins with a brace is JSON, since no SQL does."""
    content_type = asked.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_sql = content_type.startswith("text/") or content_type == "application/sql"
    is_json = content_type == JSON_TYPE.decode() or content_type.endswith("+json")
    rows_max = reading.typed_query(shapes.QueryOptions, asked.query).rows_max
    if is_json or (not is_sql and asked.body.lstrip()[:1] == b"{"):
        body = reading.typed_json(_QUERY, asked.body)
        if body.rows_max is None:
            body = shapes.QueryBody(sql=body.sql, rows_max=rows_max)
    else:
        body = shapes.QueryBody(sql=_text(asked.body), rows_max=rows_max)
    if not body.sql.strip():
        raise InvalidInput(f"there is no SQL in the body; try {_EXAMPLE}", field="sql")
    return body


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"the SQL is not UTF-8: byte {error.start} begins no character; send it as UTF-8",
            field="sql",
        ) from error


async def analytics(door: Door, context: RequestContext, asked: Asked) -> Response:
    name = asked.parameters[0]
    if name not in ANALYTICS:
        raise _unknown(name)
    media_type = tables.chosen_type(asked.headers.get("accept"), tables.ROW_TYPES)
    query = reading.typed_query(shapes.AnalyticsQuery, asked.query)
    now_ms = door.clock.now_ms()
    chosen = AnalyticsFilter(
        from_ms=moment(query.from_, "from", now_ms),
        to_ms=moment(query.to, "to", now_ms),
        project_id=query.project,
        limit=query.limit,
    )
    if chosen.from_ms is not None and chosen.to_ms is not None and chosen.from_ms >= chosen.to_ms:
        raise InvalidInput(
            f"from ({query.from_}) is not before to ({query.to}); exchange them", field="from"
        )
    answer = await door.handle.analytics(context, name, chosen)
    if media_type == CSV_TYPE:
        return tables.csv_response(answer)
    return answers.json_response(
        shapes.AnalyticsAnswer(
            name=name,
            from_ms=chosen.from_ms,
            to_ms=chosen.to_ms,
            columns=answer.columns,
            types=answer.types,
            rows=tables.objects(answer),
            truncated=answer.truncated,
            skipped=answer.skipped,
            elapsed_ms=answer.elapsed_ms,
        )
    )


def _unknown(name: str) -> UnknownAnalysis:
    near = nearest_names(name.lower(), sorted(ANALYTICS))
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(ANALYTICS)}"
    return UnknownAnalysis(
        f"there are no analytics {name[:64]!r}; {hint}", nearest=near or list(ANALYTICS)
    )


def moment(text: str | None, field: str, now_ms: int) -> int | None:
    """When that is; None if nothing was said."""
    if text is None:
        return None
    found = moment_ms(text, now_ms)
    if found is None:
        raise InvalidInput(f"{field} is {text[:64]!r}; write {HOW_TO_WRITE}", field=field)
    return found


async def archive(door: Door, context: RequestContext, asked: Asked) -> Response:
    reading.typed_query(shapes.NoQuery, asked.query)
    return answers.json_response(await door.handle.archive_status(context))


async def archive_flush(door: Door, context: RequestContext, asked: Asked) -> Response:
    reading.typed_query(shapes.NoQuery, asked.query)
    return answers.json_response(await door.handle.archive_flush(context))


async def archive_verify(door: Door, context: RequestContext, asked: Asked) -> Response:
    reading.typed_query(shapes.NoQuery, asked.query)
    return answers.json_response(await door.handle.archive_verify(context))
