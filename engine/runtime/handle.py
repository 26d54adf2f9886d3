"""What the doors may ask of the engine. Every call takes the tenant explicitly, in its context, and
returns when what it says is durable.

Knows no HTTP and no gRPC. A door translates, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import trio

from engine.base import limits
from engine.base.errors import (
    EngineError,
    IdempotencyConflict,
    InvalidInput,
    LimitExceeded,
)
from engine.base.ids import RunId, TenantId, deployment_id, new_run_id, run_id_text
from engine.journal.layout import idempotency_key
from engine.model.commands import CancelRun, Command, ResolveWait, SendSignal
from engine.model.context import RequestContext
from engine.model.payloads import RunAccepted
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
from engine.runtime import listing, why
from engine.runtime.engine import Engine
from engine.runtime.events import RunEvents
from engine.runtime.live import Ending, ending_of
from engine.runtime.pools import WorkerPort
from engine.runtime.tenant import TenantRuntime
from engine.runtime.views import run_view
from engine.runtime.workers import WorkerSession


class Handle:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # ---- starting ----

    async def start(self, context: RequestContext, request: StartRequest) -> Started:
        started = (await self.start_many(context, [request]))[0]
        if isinstance(started, EngineError):
            raise started
        return started

    async def start_many(
        self, context: RequestContext, requests: Sequence[StartRequest]
    ) -> list[Started | EngineError]:
        """Start each, in one commit; what became of each, in their order."""
        tenant = await self._engine.tenant(context.tenant_id)
        await tenant.journal.wait_until_writable()
        results: list[Started | EngineError] = []
        for request in requests:
            try:
                results.append(self._start_nowait(tenant, context, request))
            except EngineError as error:
                results.append(error)
        await tenant.journal.barrier()
        return results

    def _start_nowait(
        self, tenant: TenantRuntime, context: RequestContext, request: StartRequest
    ) -> Started:
        component = self._component(context, request)
        digest = hashlib.blake2b(request.input, digest_size=16).digest()
        if request.idempotency_key:
            before = self._started_before(tenant, context, request, digest)
            if before is not None:
                return before
        if len(request.input) > limits.input_bytes_max:
            raise LimitExceeded(
                f"the input has {len(request.input)} bytes, the limit is "
                f"{limits.input_bytes_max}; store large values elsewhere and pass a reference",
                field="input",
            )
        run = new_run_id()
        accepted = RunAccepted(
            project_id=context.project_id,
            deployment_id=request.deployment_id,
            component=request.component,
            component_kind=component.kind,
            input=request.input,
            idempotency_key=request.idempotency_key or "",
            input_digest=digest if request.idempotency_key else b"",
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

    def _component(self, context: RequestContext, request: StartRequest) -> Component:
        component = self._engine.pools.component(
            context.tenant_id, request.deployment_id, request.component
        )
        if request.kind is not None and component.kind != request.kind:
            raise InvalidInput(
                f"{request.component!r} is a {KIND_NAMES[ComponentKind(component.kind)]}, not a "
                f"{KIND_NAMES[request.kind]}; start it under its own kind",
                field="kind",
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
        live = tenant.find(run)
        if live.state.is_terminal and tenant.live(run) is None:
            await trio.lowlevel.checkpoint()
            record = live.segment.read(live.state.outcome_offset, records_max=1)[0]
            return _outcome(run, ending_of(record.kind, record.payload))
        return _outcome(run, await tenant.waiters.wait_ending(run))

    async def get_run(self, context: RequestContext, run: RunId) -> RunView:
        tenant = await self._engine.tenant(context.tenant_id)
        await trio.lowlevel.checkpoint()
        return run_view(tenant.find(run))

    async def read_journal(
        self, context: RequestContext, run: RunId, from_offset: int, limit: int
    ) -> list[JournalEntry]:
        tenant = await self._engine.tenant(context.tenant_id)
        await trio.lowlevel.checkpoint()
        return [
            JournalEntry(record.offset, record.kind, record.timestamp_us, record.payload)
            for record in tenant.find(run).segment.read(from_offset, records_max=limit)
        ]

    def events(self, context: RequestContext, run: RunId, after_offset: int | None) -> RunEvents:
        """The run's events from after an offset on, as an async context manager and iterator."""
        return RunEvents(self._engine, context.tenant_id, run, after_offset)

    async def list_runs(self, context: RequestContext, chosen: RunFilter) -> RunPage:
        tenant = await self._engine.tenant(context.tenant_id)
        await trio.lowlevel.checkpoint()
        return listing.list_runs(tenant, chosen)

    async def why(self, context: RequestContext, run: RunId) -> str:
        tenant = await self._engine.tenant(context.tenant_id)
        await trio.lowlevel.checkpoint()
        return why.explain(tenant, tenant.find(run))

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

    # ---- telling ----

    async def cancel(self, context: RequestContext, run: RunId, reason: str) -> None:
        await self._tell(context, run, CancelRun(reason=reason, requested_by=_who(context)))

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
                signal_id=signal_id or run_id_text(new_run_id()),
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
        await tenant.journal.wait_until_writable()
        live = tenant.find(run)
        tenant.carry_out(live, command)
        await tenant.journal.barrier()

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
