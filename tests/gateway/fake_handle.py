"""A runtime in memory that behaves as the gateway may expect of the real one.

Runs of a few components that do as their names say; journals, idempotency, cancels, signals and
waits. What it is told to fail with, it raises once.
"""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

import msgspec
import trio

from engine.base.clock import Clock
from engine.base.errors import (
    EngineError,
    Gone,
    IdempotencyConflict,
    JournalBusy,
    RunTerminal,
    UnknownComponent,
    UnknownRun,
    UnknownWait,
)
from engine.base.ids import RunId, RunIdFactory, TenantId, run_id_text
from engine.model.context import RequestContext
from engine.model.payloads import (
    CancelRequested,
    Error,
    Payload,
    RunAccepted,
    RunCancelled,
    RunCompleted,
    RunFailed,
    SignalReceived,
    WaitCreated,
    WaitKind,
    WaitOutcome,
    WaitResolved,
)
from engine.model.query import (
    AnalyticsFilter,
    ArchiveFlushed,
    ArchiveStatus,
    ArchiveVerified,
    ArrowAnswer,
    QueryAnswer,
)
from engine.model.records import STATUS_AFTER
from engine.model.runs import ComponentKind, RunStatus
from engine.model.views import (
    KIND_NAMES,
    STATUS_NAMES,
    ComponentView,
    JournalEntry,
    Outcome,
    RunEvent,
    RunFilter,
    RunPage,
    RunView,
    Started,
    StartRequest,
    WaitView,
)
from engine.wire import journal as wire
from tests.gateway.fake_tiers import FakeTiers, TierRun

EVENT_NAMES: Final[Mapping[type[Payload], str]] = {
    RunAccepted: "run.queued",
    WaitCreated: "workflow.wait.created",
    WaitResolved: "workflow.wait.resolved",
    SignalReceived: "workflow.signal.received",
    CancelRequested: "run.cancel.requested",
    RunCompleted: "run.completed",
    RunFailed: "run.failed",
    RunCancelled: "run.cancelled",
}

# What a component does with its input.
ECHO: Final = "shop.echo"  # completes with it
FAIL: Final = "shop.fail"  # fails with it
ASK: Final = "shop.ask"  # waits for a person, completes with the answer
WAIT: Final = "shop.wait"  # waits for the signal `go`, completes with its payload
HOLD: Final = "shop.hold"  # does nothing until the test moves it
COMPONENTS: Final = (ECHO, FAIL, ASK, WAIT, HOLD)


class FakeRun:
    def __init__(self, run_id: RunId, request: StartRequest) -> None:
        self.run_id = run_id
        self.request = request
        self.status = RunStatus.QUEUED
        self.entries: list[JournalEntry] = []
        self.live: list[RunEvent] = []
        self.first_offset = 0
        self.outcome: Outcome | None = None
        self.waits: dict[str, WaitView] = {}
        self.changed = trio.Event()

    @property
    def created_ms(self) -> int:
        return int.from_bytes(self.run_id[:6], "big")

    @property
    def error_code(self) -> str:
        error = self.outcome.error if self.outcome is not None else None
        return error.code if error is not None else ""

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class FakeHandle:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._new_run_id = RunIdFactory(clock)
        self._runs: dict[tuple[TenantId, RunId], FakeRun] = {}
        self._keys: dict[tuple[TenantId, str], FakeRun] = {}
        self._signals: set[tuple[RunId, str]] = set()
        self.contexts: list[RequestContext] = []
        self.filters: list[RunFilter] = []
        self.commits = 0
        self.waiting = 0
        self.next_failure: Exception | None = None
        self.tiers = FakeTiers()
        self.fail_in_commits = 0  # 2: the commit after the next finds the journal busy

    # ---- what the gateway asks ----

    async def start(self, context: RequestContext, request: StartRequest) -> Started:
        self._note(context)
        self.commits += 1
        await trio.lowlevel.checkpoint()
        return self._start(context, request)

    async def start_many(
        self, context: RequestContext, requests: Sequence[StartRequest]
    ) -> Sequence[Started | EngineError]:
        self._note(context)
        self.commits += 1
        if self.fail_in_commits:
            self.fail_in_commits -= 1
            if not self.fail_in_commits:
                raise JournalBusy("too much is waiting for the disk; come again in a moment")
        await trio.lowlevel.checkpoint()
        found: list[Started | EngineError] = []
        for request in requests:
            try:
                found.append(self._start(context, request))
            except EngineError as error:
                found.append(error)
        return found

    async def wait_outcome(self, context: RequestContext, run_id: RunId) -> Outcome:
        run = self.find(context, run_id)
        self.waiting += 1
        try:
            while run.outcome is None:
                await run.changed.wait()
        finally:
            self.waiting -= 1
        return run.outcome

    async def get_run(self, context: RequestContext, run_id: RunId) -> RunView:
        self._note(context)
        return self._view(context, self.find(context, run_id))

    async def get_status(self, context: RequestContext, run_id: RunId) -> RunView:
        return await self.get_run(context, run_id)

    async def read_journal(
        self, context: RequestContext, run_id: RunId, from_offset: int, limit: int
    ) -> Sequence[JournalEntry]:
        self._note(context)
        return self.find(context, run_id).entries[from_offset : from_offset + limit]

    @asynccontextmanager
    async def events(
        self, context: RequestContext, run_id: RunId, after_offset: int | None
    ) -> AsyncIterator[AsyncIterator[RunEvent]]:
        self._note(context)
        run = self.find(context, run_id)
        if after_offset is not None and after_offset + 1 < run.first_offset:
            raise Gone(f"events up to {after_offset} are not kept; read from the first")
        after = -1 if after_offset is None else after_offset
        async with aclosing(self._events(run, after)) as found:
            yield found

    async def cancel(self, context: RequestContext, run_id: RunId, reason: str) -> None:
        self._note(context)
        run = self._moving(context, run_id)
        self.append(run, CancelRequested(reason=reason))
        self.append(run, RunCancelled(reason=reason))

    async def signal(
        self,
        context: RequestContext,
        run_id: RunId,
        name: str,
        payload: bytes,
        signal_id: str | None,
    ) -> None:
        self._note(context)
        run = self._moving(context, run_id)
        if signal_id is not None:
            if (run_id, signal_id) in self._signals:
                return
            self._signals.add((run_id, signal_id))
        self.append(run, SignalReceived(signal_id=signal_id or "", name=name, payload=payload))
        if run.request.component == WAIT and name == "go":
            self.append(run, RunCompleted(output=payload))

    async def resolve_wait(
        self, context: RequestContext, run_id: RunId, wait_id: str, value: bytes
    ) -> None:
        self._note(context)
        run = self._moving(context, run_id)
        if wait_id not in run.waits:
            raise UnknownWait(f"the run has no open wait {wait_id!r}; GET the run for those it has")
        del run.waits[wait_id]
        self.append(run, WaitResolved(wait_id=wait_id, outcome=WaitOutcome.ANSWERED, value=value))
        self.append(run, RunCompleted(output=value))

    async def list_runs(self, context: RequestContext, run_filter: RunFilter) -> RunPage:
        self._note(context)
        self.filters.append(run_filter)
        found = [
            self._view(context, run)
            for (tenant, _), run in reversed(self._runs.items())
            if tenant == context.tenant_id
            and run_filter.status in (None, run.status)
            and run_filter.component in (None, run.request.component)
            and run_filter.kind in (None, run.request.kind)
            and run_filter.error_code in (None, run.error_code)
            and run_filter.tags.items() <= run.request.tags.items()
            and (run_filter.created_from_ms or 0) <= run.created_ms
        ]
        first = int(run_filter.cursor or 0)
        after = first + run_filter.limit
        cursor = str(after) if after < len(found) else None
        return RunPage(tuple(found[first:after]), cursor)

    async def why(self, context: RequestContext, run_id: RunId) -> str:
        self._note(context)
        run = self.find(context, run_id)
        return f"nobody has moved it; it is {run.status.name}"

    def components(self, context: RequestContext) -> list[ComponentView]:
        return [
            ComponentView(name=name, kind="workflow", deployment_id="default", workers=1)
            for name in COMPONENTS
        ]

    async def query(
        self, context: RequestContext, sql: str, *, rows_max: int | None = None
    ) -> QueryAnswer:
        self._note(context)
        return await self.tiers.query(self._tier_runs(context), sql, rows_max)

    async def query_arrow(
        self, context: RequestContext, sql: str, *, rows_max: int | None = None
    ) -> ArrowAnswer:
        self._note(context)
        return await self.tiers.query_arrow(self._tier_runs(context), sql, rows_max)

    async def analytics(
        self, context: RequestContext, name: str, chosen: AnalyticsFilter
    ) -> QueryAnswer:
        self._note(context)
        return await self.tiers.analytics(self._tier_runs(context), name, chosen)

    async def archive_status(self, context: RequestContext) -> ArchiveStatus:
        self._note(context)
        return await self.tiers.status(self._tier_runs(context))

    async def archive_flush(self, context: RequestContext) -> ArchiveFlushed:
        self._note(context)
        return await self.tiers.flush(self._tier_runs(context))

    async def archive_verify(self, context: RequestContext) -> ArchiveVerified:
        self._note(context)
        return await self.tiers.verify()

    # ---- what a test does ----

    def find(self, context: RequestContext, run_id: RunId) -> FakeRun:
        run = self._runs.get((context.tenant_id, run_id))
        if run is None:
            raise UnknownRun(f"there is no run {run_id_text(run_id)}; check the id")
        return run

    def only_run(self) -> FakeRun:
        (run,) = self._runs.values()
        return run

    def all_runs(self) -> list[FakeRun]:
        return list(self._runs.values())

    def append(self, run: FakeRun, payload: Payload) -> None:
        kind = wire.kind_of(payload)
        offset = len(run.entries)
        run.entries.append(JournalEntry(offset, kind, self._clock.now_us(), wire.encode(payload)))
        run.status = STATUS_AFTER.get(kind, run.status)
        if isinstance(payload, RunCompleted):
            run.outcome = Outcome(run_id=run.run_id, status=run.status, output=payload.output)
        elif isinstance(payload, RunFailed | RunCancelled):
            error = payload.error if isinstance(payload, RunFailed) else None
            run.outcome = Outcome(run_id=run.run_id, status=run.status, error=error)
        run.wake()

    def complete(self, run: FakeRun, output: bytes) -> None:
        self.append(run, RunCompleted(output=output))

    def emit(self, run: FakeRun, name: str, data: bytes) -> None:
        """A live event: seen by those who are reading now."""
        run.live.append(RunEvent(None, name, data))
        run.wake()

    # ---- inside ----

    def _note(self, context: RequestContext) -> None:
        self.contexts.append(context)
        if self.next_failure is not None:
            failure, self.next_failure = self.next_failure, None
            raise failure

    def _start(self, context: RequestContext, request: StartRequest) -> Started:
        if request.component not in COMPONENTS:
            near = difflib.get_close_matches(request.component, COMPONENTS)
            raise UnknownComponent(
                f"no worker serves {request.component!r}; did you mean {' or '.join(near)}?",
                nearest=near,
            )
        key = request.idempotency_key
        if key is not None and (context.tenant_id, key) in self._keys:
            first = self._keys[context.tenant_id, key]
            if first.request.input != request.input:
                raise IdempotencyConflict(
                    "the idempotency key was used with another input; use another key",
                    field="Idempotency-Key",
                )
            return Started(first.run_id, is_new=False)
        run = FakeRun(self._new_run_id(), request)
        self._runs[context.tenant_id, run.run_id] = run
        if key is not None:
            self._keys[context.tenant_id, key] = run
        self._execute(run)
        return Started(run.run_id)

    def _execute(self, run: FakeRun) -> None:
        request = run.request
        self.append(run, RunAccepted(component=request.component, input=request.input))
        if request.component == ECHO:
            self.append(run, RunCompleted(output=request.input))
        elif request.component == FAIL:
            error = Error(code="declined", message="the card was declined", type="Declined")
            self.append(run, RunFailed(error=error))
        elif request.component == ASK:
            run.waits["1"] = WaitView(
                wait_id="1", kind="user", question="ship it?", options=("yes", "no")
            )
            self.append(run, WaitCreated(wait_id="1", kind=WaitKind.USER, question="ship it?"))
            run.status = RunStatus.WAITING

    def _moving(self, context: RequestContext, run_id: RunId) -> FakeRun:
        run = self.find(context, run_id)
        if run.status.is_terminal:
            raise RunTerminal(f"the run is {run.status.name}; nothing can be done to it any more")
        return run

    async def _events(self, run: FakeRun, after: int) -> AsyncGenerator[RunEvent, None]:
        live_read = len(run.live)
        while True:
            while after + 1 < len(run.entries):
                after += 1
                entry = run.entries[after]
                payload = wire.decode(entry.kind, entry.payload)
                data = msgspec.json.encode({"offset": after, "at_us": entry.timestamp_us})
                yield RunEvent(after, EVENT_NAMES[type(payload)], data)
            if live_read < len(run.live):
                live_read += 1
                yield run.live[live_read - 1]
            elif run.status.is_terminal:
                return
            else:
                await run.changed.wait()

    def _tier_runs(self, context: RequestContext) -> list[TierRun]:
        """Oldest first."""
        return [
            TierRun(
                run_id_text(run.run_id),
                run.request.component,
                KIND_NAMES[run.request.kind or ComponentKind.WORKFLOW],
                STATUS_NAMES[run.status],
                run.created_ms,
                len(run.request.input),
                run.error_code,
                dict(run.request.tags),
            )
            for (tenant, _), run in self._runs.items()
            if tenant == context.tenant_id
        ]

    def _view(self, context: RequestContext, run: FakeRun) -> RunView:
        kind = run.request.kind or ComponentKind.WORKFLOW
        return RunView(
            run_id=run_id_text(run.run_id),
            status=STATUS_NAMES[run.status],
            component=run.request.component,
            kind=KIND_NAMES[kind],
            project_id=context.project_id,
            deployment_id=run.request.deployment_id,
            next_offset=len(run.entries),
            created_ms=run.created_ms,
            error_code=run.error_code,
            session_id=run.request.session_id,
            user_id=run.request.user_id,
            trace_id=run.request.trace_id,
            correlation_id=run.request.correlation_id,
            prompt_version=run.request.prompt_version,
            entity_key=run.request.entity_key,
            start_at_ms=run.request.start_at_ms,
            tags=dict(run.request.tags),
            waits=tuple(run.waits.values()),
        )
