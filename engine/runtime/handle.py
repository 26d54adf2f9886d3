"""What the doors may ask of the engine. Every call takes the tenant explicitly, in its context, and
returns when what it says is durable.

Knows no HTTP and no gRPC. A door translates, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from engine.base import limits
from engine.base.errors import (
    ArchiveUnreachable,
    EngineError,
    IdempotencyConflict,
    InvalidInput,
    LimitExceeded,
    OffsetTrimmed,
    UnknownRun,
)
from engine.base.ids import RunId, TenantId, deployment_id, new_run_id, run_id_text
from engine.core.state import text_bytes
from engine.journal.layout import idempotency_key
from engine.model.commands import CancelRun, Command, ResolveWait, SendSignal
from engine.model.context import RequestContext
from engine.model.payloads import RunAccepted
from engine.model.query import (
    AnalyticsFilter,
    ArchiveFlushed,
    ArchiveStatus,
    ArchiveVerified,
    ArrowAnswer,
    QueryAnswer,
)
from engine.model.runs import ComponentKind
from engine.model.views import (
    KIND_NAMES,
    ComponentView,
    JournalEntry,
    Outcome,
    RunFilter,
    RunPage,
    RunView,
    Started,
    StartRequest,
)
from engine.model.worker_frames import Component, Register
from engine.runtime.engine import Engine
from engine.runtime.pools import WorkerPort
from engine.runtime.reading import listing, why
from engine.runtime.reading.events import RunEvents
from engine.runtime.reading.tiers import Tiers
from engine.runtime.reading.views import list_view, run_view
from engine.runtime.workers import WorkerSession
from engine.runtime.writer.live import Ending, LiveRun, ended_as
from engine.runtime.writer.tenant import TenantRuntime

T = TypeVar("T")


class Handle:
    def __init__(
        self,
        engine: Engine,
        tiers: Tiers | None = None,
        *,
        new_run_id: Callable[[], RunId] = new_run_id,
    ) -> None:
        """Without tiers it knows what is in the journal and nothing else."""
        self._engine = engine
        self._tiers = tiers
        self._new_run_id = new_run_id

    # ---- starting ----

    async def start(self, context: RequestContext, request: StartRequest) -> Started:
        started = (await self.start_many(context, [request]))[0]
        if isinstance(started, EngineError):
            raise started
        return started

    async def start_many(
        self, context: RequestContext, requests: Sequence[StartRequest]
    ) -> list[Started | EngineError]:
        """Start each, in one commit or a few; what became of each, in their order."""
        tenant = await self._engine.tenant(context.tenant_id)
        await tenant.wait_for_room()
        results: list[Started | EngineError] = []
        refused = 0
        with tenant.in_use():
            for at, request in enumerate(requests, 1):
                try:
                    component = self._component(
                        context, request, names_nearest=refused < limits.nearest_names_per_call_max
                    )
                    results.append(self._start_nowait(tenant, context, request, component))
                except EngineError as error:
                    refused += 1
                    results.append(error)
                if at % limits.starts_per_look_max == 0:
                    await trio.lowlevel.checkpoint()  # many starts are not the others' wait
            await tenant.journal.barrier()
        return results

    def _start_nowait(
        self,
        tenant: TenantRuntime,
        context: RequestContext,
        request: StartRequest,
        component: Component,
    ) -> Started:
        digest = b""
        if request.idempotency_key:
            digest = hashlib.blake2b(request.input, digest_size=16).digest()
            before = self._started_before(tenant, context, request, digest)
            if before is not None:
                return before
        if len(request.input) > limits.input_bytes_max:
            raise LimitExceeded(
                f"the input has {len(request.input)} bytes, the limit is "
                f"{limits.input_bytes_max}; store large values elsewhere and pass a reference",
                field="input",
            )
        run = self._new_run_id()
        accepted = RunAccepted(
            project_id=context.project_id,
            deployment_id=request.deployment_id,
            component=request.component,
            component_kind=component.kind,
            input=request.input,
            idempotency_key=request.idempotency_key or "",
            input_digest=digest,
            session_id=request.session_id,
            user_id=request.user_id,
            trace_id=request.trace_id,
            correlation_id=request.correlation_id,
            tags=request.tags,
            prompt_version=request.prompt_version,
            start_at_ms=request.start_at_ms,
            retry=component.retry,
            entity_key=request.entity_key,
        )
        if request.idempotency_key:
            key = idempotency_key(context.project_id, request.idempotency_key)
            tenant.start_idempotent(run, accepted, key, run + digest)
        else:
            tenant.start(run, accepted)
        return Started(run)

    def _component(
        self, context: RequestContext, request: StartRequest, *, names_nearest: bool
    ) -> Component:
        component = self._engine.pools.component(
            context.tenant_id,
            request.deployment_id,
            request.component,
            names_nearest=names_nearest,
        )
        if request.kind is not None and component.kind != request.kind:
            raise InvalidInput(
                f"{request.component!r} is a {KIND_NAMES[ComponentKind(component.kind)]}, not a "
                f"{KIND_NAMES[request.kind]}; start it under its own kind",
                field="kind",
            )
        if component.kind == ComponentKind.ENTITY and not request.entity_key:
            raise InvalidInput(
                f"{request.component!r} is an entity, and the start does not say which: give an "
                "entity_key (`?entity_key=423`); its runs go one after the other",
                field="entity_key",
            )
        if text_bytes(request.entity_key) > limits.key_length_max:
            raise InvalidInput(
                f"an entity_key has at most {limits.key_length_max} bytes", field="entity_key"
            )
        return component

    def _started_before(
        self, tenant: TenantRuntime, context: RequestContext, request: StartRequest, digest: bytes
    ) -> Started | None:
        """The run that this key has started, if it has; the key is taken from now on."""
        assert request.idempotency_key is not None
        key = idempotency_key(context.project_id, request.idempotency_key)
        known = tenant.idempotency_entry(key)
        if known is None:
            return None
        run, first_digest = RunId(known[:16]), known[16:]
        if first_digest != digest:
            raise IdempotencyConflict(
                f"the idempotency key {request.idempotency_key!r} was used for run "
                f"{run_id_text(run)} with another input; use a new key for a new input",
                run_id=run_id_text(run),
            )
        return Started(run, is_new=False)

    # ---- asking ----

    async def wait_outcome(self, context: RequestContext, run: RunId) -> Outcome:
        """When the run has ended: how."""
        tenant = await self._engine.tenant(context.tenant_id)
        try:
            # Not with `_look`, whose checkpoint everybody who starts and waits would pay for.
            live = tenant.look(run)
        except UnknownRun:
            live = await self._look(tenant, run)
        if live.state.is_terminal and tenant.live(run) is None:
            return _outcome(run, await self._read(tenant, run, ended_as))
        tenant.journal.committer.raise_if_stopped()
        return _outcome(run, await tenant.waiters.wait_ending(run))

    async def get_run(self, context: RequestContext, run: RunId) -> RunView:
        tenant = await self._engine.tenant(context.tenant_id)
        try:
            return await run_view(await self._look(tenant, run))
        except OffsetTrimmed:  # as in `_read`
            return await run_view(await self._look(tenant, run))

    async def get_status(self, context: RequestContext, run: RunId) -> RunView:
        """What the run's state alone says: one row, however long its journal is."""
        tenant = await self._engine.tenant(context.tenant_id)
        live = await self._look(tenant, run)
        return list_view(live.state, is_held=live.lease is not None)

    async def read_journal(
        self, context: RequestContext, run: RunId, from_offset: int, limit: int
    ) -> list[JournalEntry]:
        tenant = await self._engine.tenant(context.tenant_id)
        records = await self._read(
            tenant, run, lambda live: live.segment.read(from_offset, records_max=limit)
        )
        return [
            JournalEntry(record.offset, record.kind, record.timestamp_us, record.payload)
            for record in records
        ]

    def events(self, context: RequestContext, run: RunId, after_offset: int | None) -> RunEvents:
        """The run's events from after an offset on, as an async context manager and iterator."""
        return RunEvents(self._engine, context.tenant_id, run, after_offset, self._look)

    async def list_runs(self, context: RequestContext, chosen: RunFilter) -> RunPage:
        tenant = await self._engine.tenant(context.tenant_id)
        with tenant.in_use():
            if self._tiers is None:
                return await listing.list_runs(tenant, chosen)
            return await self._tiers.list_runs(tenant, chosen)

    async def why(self, context: RequestContext, run: RunId) -> str:
        tenant = await self._engine.tenant(context.tenant_id)
        return why.explain(tenant, await self._look(tenant, run))

    def components(self, context: RequestContext) -> list[ComponentView]:
        return [
            ComponentView(
                name=served.name,
                kind=KIND_NAMES[served.kind],
                deployment_id=served.deployment_id,
                workers=served.workers,
            )
            for served in self._engine.pools.components(context.tenant_id)
        ]

    async def _look(self, tenant: TenantRuntime, run: RunId) -> LiveRun:
        """The run, hot or archived, to be read."""
        if self._tiers is None:
            await trio.lowlevel.checkpoint()
            return tenant.look(run)
        return await self._tiers.look(tenant, run)

    async def _read(self, tenant: TenantRuntime, run: RunId, of: Callable[[LiveRun], T]) -> T:
        """Something of the run, wherever it is; its hot copy may go while it is being read."""
        try:
            return of(await self._look(tenant, run))
        except OffsetTrimmed:
            return of(await self._look(tenant, run))

    # ---- the tiers ----

    async def query(
        self, context: RequestContext, sql: str, *, rows_max: int | None = None
    ) -> QueryAnswer:
        async with self._tiers_of(context) as tiers:
            return await tiers.query(context.tenant_id, sql, rows_max)

    async def query_arrow(
        self, context: RequestContext, sql: str, *, rows_max: int | None = None
    ) -> ArrowAnswer:
        async with self._tiers_of(context) as tiers:
            return await tiers.query_arrow(context.tenant_id, sql, rows_max)

    async def analytics(
        self, context: RequestContext, name: str, chosen: AnalyticsFilter
    ) -> QueryAnswer:
        async with self._tiers_of(context) as tiers:
            return await tiers.analytics(context.tenant_id, name, chosen)

    async def archive_status(self, context: RequestContext) -> ArchiveStatus:
        async with self._tiers_of(context) as tiers:
            return await tiers.status(context.tenant_id)

    async def archive_flush(self, context: RequestContext) -> ArchiveFlushed:
        async with self._tiers_of(context) as tiers:
            return await tiers.flush(context.tenant_id)

    async def archive_verify(self, context: RequestContext) -> ArchiveVerified:
        async with self._tiers_of(context) as tiers:
            return await tiers.verify(context.tenant_id)

    @asynccontextmanager
    async def _tiers_of(self, context: RequestContext) -> AsyncIterator[Tiers]:
        """With the tenant open for the length of the block, as the archive has to know it."""
        if self._tiers is None:
            raise ArchiveUnreachable("this engine was opened without an archive; open it with one")
        tenant = await self._engine.tenant(context.tenant_id)
        with tenant.in_use():
            yield self._tiers

    # ---- telling ----

    async def cancel(self, context: RequestContext, run: RunId, reason: str) -> None:
        await self._tell(context, run, CancelRun(reason=reason))

    async def signal(
        self,
        context: RequestContext,
        run: RunId,
        name: str,
        payload: bytes,
        signal_id: str | None = None,
    ) -> None:
        """Send a signal; the same id twice counts once. Without an id, each call is its own."""
        await self._tell(
            context,
            run,
            SendSignal(
                name=name,
                signal_id=signal_id or run_id_text(self._new_run_id()),
                payload=payload,
                sender=_who(context),
            ),
        )

    async def resolve_wait(
        self, context: RequestContext, run: RunId, wait_id: str, value: bytes
    ) -> None:
        await self._tell(context, run, ResolveWait(wait_id=wait_id, value=value))

    async def _tell(self, context: RequestContext, run: RunId, command: Command) -> None:
        tenant = await self._engine.tenant(context.tenant_id)
        await tenant.wait_for_room()
        live = await self._find(tenant, run)
        tenant.check_room()
        tenant.carry_out(live, command)
        await tenant.journal.barrier()

    async def _find(self, tenant: TenantRuntime, run: RunId) -> LiveRun:
        """The run, to be changed; one that is archived has ended, as the rules will say."""
        try:
            return tenant.find(run)
        except UnknownRun:
            found = await self._look(tenant, run)
            # It may have come to be meanwhile: what is open is changed in one place only.
            return found if found.state.is_terminal else tenant.find(run)

    # ---- workers ----

    async def connect_worker(
        self, tenant_id: TenantId, register: Register, port: WorkerPort
    ) -> WorkerSession:
        """A worker is there: an earlier session of the same worker is fenced, and what waits for
        its components is handed out."""
        tenant = await self._engine.tenant(tenant_id)
        admission = self._engine.pools.register(
            tenant_id,
            deployment_id(register.deployment_id),
            register.components,
            capacity=register.capacity,
            port=port,
        )
        if admission.fenced is not None:
            tenant.take_back(admission.orphaned, "the worker connected anew")
            admission.fenced.port.close("another session of this worker took its place")
        session = WorkerSession(tenant, admission.worker)
        tenant.queues.pump_worker(admission.worker)
        return session


def _outcome(run: RunId, ending: Ending) -> Outcome:
    return Outcome(
        run_id=run,
        status=ending.status,
        output=ending.output if not ending.error else None,
        error=ending.error,
    )


def _who(context: RequestContext) -> str:
    return context.user_id or context.auth_mode.value
