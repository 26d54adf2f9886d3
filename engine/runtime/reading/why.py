"""Why a run is not progressing, in a sentence that says what would change it."""

from __future__ import annotations

import datetime

from engine.base.ids import DeploymentId, run_id_text
from engine.core.held import OpenWait
from engine.model.payloads import WaitKind
from engine.model.runs import RunStatus
from engine.runtime.writer.live import LiveRun
from engine.runtime.writer.tenant import TenantRuntime


def explain(tenant: TenantRuntime, live: LiveRun) -> str:
    state = live.state
    stopped_by = tenant.journal.committer.stopped_by
    if state.is_terminal:
        assert state.status is not None
        reason = f": {state.error_message}" if state.error_message else ""
        return f"It has ended: {state.status.name} at {_at(state.ended_ms)}{reason}."
    if stopped_by is not None:
        return f"Nothing of this tenant moves: {stopped_by.message}."
    if live.lease is not None:
        return (
            f"It is running: worker {live.lease.worker.worker_id!r} holds it with lease epoch "
            f"{live.lease.epoch}, attempt {state.attempt}."
        )
    if state.status is RunStatus.WAITING:
        return f"It is waiting for {_waits(list(state.waits.values()))}."
    if state.status is RunStatus.RETRYING:
        return (
            f"Attempt {state.attempt} failed ({state.error_code}: {state.error_message}); the next "
            f"one begins at {_at(state.retry_at_ms)}."
        )
    if state.attempt == 0 and state.start_at_ms > tenant.clock.now_ms():
        return f"It was asked to start at {_at(state.start_at_ms)}."
    return _queued(tenant, live)


def _queued(tenant: TenantRuntime, live: LiveRun) -> str:
    state = live.state
    in_line = tenant.queues.entities.standing(live)
    if in_line is not None:
        holder, ahead = in_line
        return (
            f"It is queued behind {ahead} others for entity key {state.entity_key!r}, held by run "
            f"{run_id_text(holder)}; runs of one key go one after the other."
        )
    standing = tenant.pools.standing(
        tenant.tenant_id, DeploymentId(state.deployment_id), state.component
    )
    served = f"{state.component!r} in deployment {state.deployment_id!r}"
    if standing.workers == 0:
        return (
            f"It is queued and no worker serves {served}; start one with "
            "`engine worker MODULE --endpoint http://HOST:34180`."
        )
    if standing.workers == standing.draining:
        return f"It is queued and every worker that serves {served} is leaving; start another."
    if state.is_suspect:
        return (
            f"It is queued until a worker that serves {served} holds nothing else: the last "
            f"{state.fruitless_starts} workers that had it went away before anything was recorded, "
            f"and the next one has it alone."
        )
    ahead = tenant.queues.waiting_before(live)
    return (
        f"It is queued behind {ahead} others: {standing.slots_held} of {standing.slots} slots of "
        f"the {standing.workers} workers that serve {served} are taken; more workers or more "
        "capacity would let it start sooner."
    )


def _waits(waits: list[OpenWait]) -> str:
    shown = [_wait(wait) for wait in waits[:5]]
    more = f" and {len(waits) - 5} more" if len(waits) > 5 else ""
    return ", and for ".join(shown) + more


def _wait(wait: OpenWait) -> str:
    until = f" until {_at(wait.due_ms)}" if wait.due_ms else ""
    if wait.kind == WaitKind.TIMER:
        return f"the time to be {_at(wait.due_ms)}"
    if wait.kind == WaitKind.SIGNAL:
        return f"signal {wait.name!r}{until}"
    if wait.kind == WaitKind.USER:
        return f"an answer to {wait.question!r} (wait {wait.wait_id}){until}"
    return f"the child run it started at position {wait.position}"


def _at(time_ms: int) -> str:
    moment = datetime.datetime.fromtimestamp(time_ms / 1_000, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
