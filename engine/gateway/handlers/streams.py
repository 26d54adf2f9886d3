"""Runs as server-sent events.

`id:` is the journal offset, so a reader that comes back with it goes on behind what it has; events
that were never journaled have no id. One event is held at a time: a reader that is slow slows the
iterator it reads from, and what may gather there is bounded by the runtime. A comment keeps silent
streams alive, since proxies and clients drop connections on which nothing moves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import trio

from engine.base.errors import EngineError
from engine.base.ids import RunId, parse_run_id, run_id_text
from engine.gateway.api import reading, shapes
from engine.gateway.api.exchange import (
    EVENT_STREAM_TYPE,
    NO_CONTENT,
    Disconnected,
    Exchange,
    Header,
    Response,
)
from engine.gateway.api.problems import problem_bytes
from engine.gateway.door.door import Door
from engine.gateway.handlers import answers
from engine.gateway.handlers.hot import read_start
from engine.gateway.handlers.starting import start
from engine.model.context import RequestContext
from engine.model.views import RunEvent

HEARTBEAT: Final = b": \n\n"
_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", EVENT_STREAM_TYPE),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back otherwise
)
_LINE_ENDS: Final = str.maketrans("", "", "\r\n")


async def stream(
    door: Door, context: RequestContext, exchange: Exchange, parameters: tuple[str, ...]
) -> Response | None:
    with door.waiting(context):
        started = await start(door, context, await read_start(door, exchange, context, parameters))
        await _follow(door, exchange, context, started.run_id, None)
    return None


async def events(
    door: Door, context: RequestContext, exchange: Exchange, parameters: tuple[str, ...]
) -> Response | None:
    run_id = parse_run_id(parameters[0])
    query = reading.typed_query(shapes.EventsQuery, exchange.query)
    after = reading.event_offset(exchange.headers.get("last-event-id"), query.after)
    if after is not None:
        # A browser connects again whenever a stream ends; 204 is what makes it stop.
        view = await door.handle.get_status(context, run_id)
        if answers.is_terminal(view) and after >= view.next_offset - 1:
            return Response(b"", status=NO_CONTENT)
    with door.waiting(context):
        await _follow(door, exchange, context, run_id, after)
    return None


def event_bytes(event: RunEvent) -> bytes:
    name = event.name.translate(_LINE_ENDS).encode()
    # JSON may have line ends between its tokens, and what a worker reports need not be JSON.
    # Readers end a line at CR, LF and CRLF alike (so does bytes.splitlines, and nowhere else).
    data = event.data
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.splitlines())
    if event.offset is None:
        return b"event: %b\ndata: %b\n\n" % (name, data)
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.offset, name, data)


async def _follow(
    door: Door, exchange: Exchange, context: RequestContext, run_id: RunId, after: int | None
) -> None:
    # Entering says whether the run is known and the cursor still there, while a problem document
    # can still be sent.
    async with door.handle.events(context, run_id, after) as found:
        run_header = (b"x-run-id", run_id_text(run_id).encode())
        await exchange.begin(200, (*_HEADERS, run_header))
        door.metrics.streams += 1
        try:
            await _Writer(exchange, door.settings.heartbeat_s).write_all(found)
        finally:
            door.metrics.streams -= 1


class _Writer:
    """Writes events and, between them, heartbeats; never two at once."""

    def __init__(self, exchange: Exchange, heartbeat_s: float) -> None:
        self._exchange = exchange
        self._heartbeat_s = heartbeat_s
        self._lock = trio.Lock()
        self._written_at = trio.current_time()
        self._is_gone = False

    async def write_all(self, found: AsyncIterator[RunEvent]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat, nursery.cancel_scope)
            await self._write_events(found)
            nursery.cancel_scope.cancel()
        if self._is_gone:
            raise Disconnected

    async def _write_events(self, found: AsyncIterator[RunEvent]) -> None:
        try:
            async for event in found:
                await self._write(event_bytes(event))
        except Disconnected:
            self._is_gone = True
        except EngineError as error:
            # Too late for a status: the stream says it, and ends.
            await self._write(b"event: error\ndata: %b\n\n" % problem_bytes(error))

    async def _beat(self, scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep_until(self._written_at + self._heartbeat_s)
            if trio.current_time() < self._written_at + self._heartbeat_s:
                continue
            try:
                await self._write(HEARTBEAT)
            except Disconnected:
                self._is_gone = True
                scope.cancel()

    async def _write(self, data: bytes) -> None:
        async with self._lock:
            await self._exchange.write(data)
            self._written_at = trio.current_time()
