"""A run's events: its journal as a stream that goes on, and what it emits while it runs.

Journaled events carry the offset of their record and are neither lost nor repeated: they are read
from the journal, in order, from wherever the reader left off. Live ones (output, progress, logs)
carry none and are for who is listening.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import msgspec
import trio

from engine.base import limits
from engine.base.errors import EngineError, Gone, InvalidInput, OffsetTrimmed
from engine.base.ids import RunId, TenantId, run_id_text
from engine.model.payloads import Payload
from engine.model.records import Record, RecordKind
from engine.model.runs import ComponentKind
from engine.model.views import KIND_NAMES, RunEvent
from engine.runtime.engine import Engine
from engine.runtime.writer.live import LiveRun
from engine.runtime.writer.tenant import TenantRuntime
from engine.runtime.writer.waiters import Listener, Waiters
from engine.wire.journal import decode

_NAMES: Final[dict[RecordKind, str]] = {
    RecordKind.RUN_ACCEPTED: "run.queued",
    RecordKind.RUN_STARTED: "run.started",
    RecordKind.STEP_COMPLETED: "{kind}.step.completed",
    RecordKind.STEP_FAILED: "{kind}.step.failed",
    RecordKind.WAIT_CREATED: "{kind}.wait.created",
    RecordKind.WAIT_RESOLVED: "{kind}.wait.resolved",
    RecordKind.SIGNAL_RECEIVED: "run.signal.received",
    RecordKind.CHILD_STARTED: "{kind}.child.started",
    RecordKind.CHILD_FINISHED: "{kind}.child.finished",
    RecordKind.STATE_CHANGED: "{kind}.state.changed",
    RecordKind.STATE_READ: "{kind}.state.read",
    RecordKind.STATE_CONFLICTED: "{kind}.state.conflicted",
    RecordKind.USAGE_REPORTED: "{kind}.usage.reported",
    RecordKind.RUN_RETRYING: "run.retrying",
    RecordKind.RUN_YIELDED: "run.queued",
    RecordKind.CANCEL_REQUESTED: "run.cancel.requested",
    RecordKind.RUN_COMPLETED: "run.completed",
    RecordKind.RUN_FAILED: "run.failed",
    RecordKind.RUN_CANCELLED: "run.cancelled",
}
# Payload fields that hold JSON from the user and are shown as such.
_JSON_FIELDS: Final = frozenset({"input", "output", "value", "payload", "default"})


class RunEvents:
    """Use as `async with handle.events(...) as events: async for event in events: ...`."""

    def __init__(
        self,
        engine: Engine,
        tenant: TenantId,
        run: RunId,
        after_offset: int | None,
        look: Callable[[TenantRuntime, RunId], Awaitable[LiveRun]],
    ) -> None:
        self._engine = engine
        self._look = look
        self._tenant_id = tenant
        self._run = run
        self._next_offset = 0 if after_offset is None else after_offset + 1
        self._listener: Listener | None = None
        self._waiters: Waiters | None = None

    async def __aenter__(self) -> AsyncIterator[RunEvent]:
        tenant = await self._engine.tenant(self._tenant_id)
        live = await self._look(tenant, self._run)
        if self._next_offset < live.segment.first_offset:
            raise Gone(
                f"events before offset {live.segment.first_offset} are not kept any more; start "
                "from there, or read the run from the archive",
                first_offset=live.segment.first_offset,
            )
        if self._next_offset > live.segment.next_offset:
            raise InvalidInput(
                f"the run has no event {self._next_offset - 1} to go on after; its next one is "
                f"{live.segment.next_offset}",
                field="after",
            )
        self._waiters = tenant.waiters
        self._listener = tenant.waiters.listen(self._run)
        return self._events(tenant, live, self._listener)

    async def __aexit__(self, *_: object) -> None:
        if self._waiters is not None and self._listener is not None:
            self._waiters.ignore(self._run, self._listener)

    async def _events(
        self, tenant: TenantRuntime, live: LiveRun, listener: Listener
    ) -> AsyncIterator[RunEvent]:
        kind = KIND_NAMES[ComponentKind(live.state.component_kind)]
        while True:
            try:
                records = self._read(live)
            except OffsetTrimmed:
                # Its hot copy was deleted while somebody read slowly; the archive has the rest.
                live = await self._look(tenant, self._run)
                records = self._read(live)
            for record in records:
                self._next_offset = record.offset + 1
                if record.kind in _ENDINGS:
                    for event in _taken(listener):
                        yield event
                yield _event(self._run, record, kind)
                if record.kind in _ENDINGS:
                    return
            for event in _taken(listener):
                yield event
            if not records:
                await self._wait_for_more(live, listener)

    def _read(self, live: LiveRun) -> list[Record]:
        return live.segment.read(
            self._next_offset,
            records_max=limits.event_page_records_max,
            bytes_max=limits.event_page_bytes_max,
        )

    async def _wait_for_more(self, live: LiveRun, listener: Listener) -> None:
        """Until there is a record at the next offset or something was emitted; raises if the
        tenant is stopped. The error comes as it is, not in the group that a nursery makes of it."""
        failures: list[EngineError] = []
        async with trio.open_nursery() as nursery:

            async def first(wait: Callable[..., Awaitable[object]], *arguments: object) -> None:
                try:
                    await wait(*arguments)
                except EngineError as error:
                    failures.append(error)
                nursery.cancel_scope.cancel()

            nursery.start_soon(first, live.segment.wait_beyond, self._next_offset)
            nursery.start_soon(first, listener.wait_arrived)
        if failures:
            raise failures[0]


def _taken(listener: Listener) -> Iterator[RunEvent]:
    """One at a time: while the reader of one is slow, the others still count as waiting, and may
    be dropped. No more than are there now, so that the journal has its turn."""
    for _ in range(len(listener)):
        if len(listener):
            yield listener.pop()


_ENDINGS: Final = frozenset(
    {RecordKind.RUN_COMPLETED, RecordKind.RUN_FAILED, RecordKind.RUN_CANCELLED}
)


def _event(run: RunId, record: Record, kind: str) -> RunEvent:
    data: dict[str, Any] = {
        "run_id": run_id_text(run),
        "offset": record.offset,
        "at_ms": record.timestamp_us // 1_000,
        **_shown(decode(record.kind, record.payload)),
    }
    name = _NAMES[record.kind].format(kind=kind)
    return RunEvent(record.offset, name, msgspec.json.encode(data))


def _shown(payload: Payload) -> dict[str, Any]:
    """The payload's fields that say something."""
    shown: dict[str, Any] = {}
    for name in payload.__struct_fields__:
        value = getattr(payload, name)
        if not value:
            continue
        if name in _JSON_FIELDS:
            shown[name] = msgspec.Raw(value)
        elif name.endswith("run_id") and isinstance(value, bytes):
            shown[name] = run_id_text(RunId(value))
        elif not isinstance(value, bytes):
            shown[name] = value
    return shown
