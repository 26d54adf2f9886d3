"""The routes that are asked now and then: lists, one run and its journal, cancel.

A view takes the request's context and what was asked, and returns a `Response`. Knows no Quart:
`cold.py` is the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import trio

from engine.base.errors import InvalidInput, InvalidName
from engine.base.ids import parse_run_id, run_id_text
from engine.base.limits import loop_slice_us
from engine.gateway.api import reading, shapes
from engine.gateway.api.exchange import Response
from engine.gateway.api.journal_view import entry_view
from engine.gateway.api.openapi import document
from engine.gateway.door.door import Door
from engine.gateway.handlers import answers, query_views
from engine.gateway.handlers.asked import Asked, OpenView, View
from engine.gateway.handlers.starting import caller_of, start_request, target_of
from engine.gateway.settings import batch_chunk_starts_max
from engine.model.context import RequestContext
from engine.model.runs import ComponentKind, RunStatus
from engine.model.views import RunFilter, StartRequest

_BATCH: Final = msgspec.json.Decoder(shapes.BatchBody)
_CANCEL: Final = msgspec.json.Decoder(shapes.CancelBody)


async def batch(door: Door, context: RequestContext, asked: Asked) -> Response:
    target = target_of(asked.parameters, asked.query)
    caller = caller_of(door, asked.headers, context)
    body = reading.typed_json(_BATCH, reading.checked_json(asked.body))
    key = caller.idempotency_key
    found: list[bytes] = []
    for first in range(0, len(body.inputs), batch_chunk_starts_max):
        requests = [
            start_request(target, caller, bytes(json_input), None if key is None else f"{key}#{at}")
            for at, json_input in enumerate(
                body.inputs[first : first + batch_chunk_starts_max], first
            )
        ]
        found.extend(await _start_many(door, context, requests))
    return Response(b'{"runs":[%b]}' % b",".join(found), status=202)


async def _start_many(
    door: Door, context: RequestContext, requests: Sequence[StartRequest]
) -> list[bytes]:
    started = await door.handle.start_many(context, requests)
    return [answers.batch_item(door, one) for one in started]


async def list_runs(door: Door, context: RequestContext, asked: Asked) -> Response:
    query, tags = reading.query_and_tags(shapes.RunsQuery, asked.query)
    since_ms = query_views.moment(query.since, "since", door.clock.now_ms())
    from_ms = [moment for moment in (since_ms, query.created_from_ms) if moment is not None]
    run_filter = RunFilter(
        status=None if query.status is None else RunStatus[query.status],
        component=query.component,
        kind=None if query.kind is None else ComponentKind[query.kind.upper()],
        project_id=query.project_id,
        error_code=query.error_code,
        parent_run_id=_parent(query.parent),
        tags=tags,
        created_from_ms=max(from_ms, default=None),
        created_to_ms=query.created_to_ms,
        cursor=query.cursor,
        limit=query.limit,
    )
    return answers.json_response(await door.handle.list_runs(context, run_filter))


def _parent(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return run_id_text(parse_run_id(text))
    except InvalidName as error:
        raise InvalidInput(f"parent: {error.message}", field="parent") from error


async def get_run(door: Door, context: RequestContext, asked: Asked) -> Response:
    reading.typed_query(shapes.NoQuery, asked.query)
    run_id = parse_run_id(asked.parameters[0])
    return answers.json_response(await door.handle.get_run(context, run_id))


async def journal(door: Door, context: RequestContext, asked: Asked) -> Response:
    run_id = parse_run_id(asked.parameters[0])
    query = reading.typed_query(shapes.JournalQuery, asked.query)
    entries = await door.handle.read_journal(context, run_id, query.from_offset, query.limit)
    next_offset = entries[-1].offset + 1 if entries else query.from_offset
    shown: list[shapes.EntryAnswer] = []
    begun_us = door.clock.monotonic_us()
    for entry in entries:
        shown.append(entry_view(entry))
        now_us = door.clock.monotonic_us()
        if now_us > begun_us + loop_slice_us:
            await trio.lowlevel.checkpoint()  # a large page is not the others' wait
            begun_us = door.clock.monotonic_us()
    return answers.json_response(shapes.JournalAnswer(entries=shown, next_offset=next_offset))


async def why(door: Door, context: RequestContext, asked: Asked) -> Response:
    run_id = parse_run_id(asked.parameters[0])
    sentence = await door.handle.why(context, run_id)
    return answers.json_response(shapes.WhyAnswer(run_id=run_id_text(run_id), why=sentence))


async def cancel(door: Door, context: RequestContext, asked: Asked) -> Response:
    run_id = parse_run_id(asked.parameters[0])
    body = reading.typed_json(_CANCEL, asked.body) if asked.body else shapes.CancelBody()
    await door.handle.cancel(context, run_id, body.reason)
    return answers.done_response(run_id_text(run_id), b"cancelled")


async def resolve_wait(door: Door, context: RequestContext, asked: Asked) -> Response:
    run_id = parse_run_id(asked.parameters[0])
    value = reading.checked_json(asked.body)
    await door.handle.resolve_wait(context, run_id, asked.parameters[1], value)
    return answers.done_response(run_id_text(run_id), b"resolved")


async def components(door: Door, context: RequestContext, asked: Asked) -> Response:
    found = list(door.handle.components(context))
    return answers.json_response(shapes.ComponentsAnswer(components=found))


async def openapi(door: Door, asked: Asked) -> Response:
    return Response(document(door.settings.result_wait_s_max))


VIEWS: Final[Mapping[str, View]] = {
    "batch": batch,
    "list_runs": list_runs,
    "get_run": get_run,
    "journal": journal,
    "why": why,
    "cancel": cancel,
    "resolve_wait": resolve_wait,
    "components": components,
    "query": query_views.query,
    "analytics": query_views.analytics,
    "archive": query_views.archive,
    "archive_flush": query_views.archive_flush,
    "archive_verify": query_views.archive_verify,
}
OPEN_VIEWS: Final[Mapping[str, OpenView]] = {"openapi": openapi}
