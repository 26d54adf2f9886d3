"""Shared state through the engine with the real journal: decided by the single writer, kept in the
transition of the run that changed it, read by the others before and after it is on the disk."""

from __future__ import annotations

from pathlib import Path

from engine.base.ids import ProjectId, RunId, TenantId
from engine.config.settings import JournalSettings
from engine.journal.layout import STATE_TAG, state_key, state_scope_prefix
from engine.model.context import AuthMode, RequestContext
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    Error,
    RunAccepted,
    RunCompleted,
    RunFailed,
    StateChanged,
    StateRead,
    StateScope,
)
from engine.model.records import RecordKind
from engine.model.runs import RunStatus
from engine.model.views import StartRequest
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.wire.journal import decode
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.worker import DEPLOYMENT, Held, ScriptedWorker

GLOBAL, SESSION = StateScope.GLOBAL, StateScope.SESSION


async def connected(handle: Handle, worker_id: str = "worker-1") -> ScriptedWorker:
    worker = ScriptedWorker(worker_id)
    await worker.connect(handle, TENANT, "checkout")
    return worker


async def started(
    handle: Handle,
    worker: ScriptedWorker,
    context: RequestContext = CONTEXT,
    **fields: str,
) -> Held:
    request = StartRequest(
        component="checkout",
        input=b"1",
        deployment_id=DEPLOYMENT,
        **fields,  # type: ignore[arg-type]
    )
    run = (await handle.start(context, request)).run_id
    return await worker.wait_held(run)


def read(position: int = 1, scope: StateScope = GLOBAL) -> StateRead:
    return StateRead(position=position, scope=scope, name="n")


def change(
    value: bytes, expected: int | None = None, *, position: int = 1, scope: StateScope = GLOBAL
) -> StateChanged:
    return StateChanged(
        position=position,
        scope=scope,
        name="n",
        value=value,
        expected_revision=expected or 0,
        has_expected=expected is not None,
    )


async def answers(
    handle: Handle, run: RunId, context: RequestContext = CONTEXT
) -> list[tuple[str, bytes, int]]:
    """What the journal has of state: kind, value and revision."""
    said = []
    for entry in await handle.read_journal(context, run, 0, 100):
        payload = decode(entry.kind, entry.payload)
        if "STATE" in RecordKind(entry.kind).name:
            value = getattr(payload, "value", b"")
            said.append((RecordKind(entry.kind).name, value, payload.revision))  # type: ignore[attr-defined]
    return said


async def test_a_question_is_answered_by_a_record_and_a_delivery(handle: Handle) -> None:
    worker = await connected(handle)
    held = await started(handle, worker)
    worker.report(held, change(b"7"), read(position=2))
    await worker.wait_acknowledged(held)
    delivered = [kinds for run, kinds in worker.delivered if run == held.run]
    assert delivered == [[RecordKind.STATE_CHANGED, RecordKind.STATE_READ]]
    assert await answers(handle, held.run) == [("STATE_CHANGED", b"7", 1), ("STATE_READ", b"7", 1)]


async def test_what_is_not_on_the_disk_yet_is_what_the_next_one_sees(handle: Handle) -> None:
    """Both reports are taken before anything is committed: the second must lose."""
    worker = await connected(handle)
    first, second = await started(handle, worker), await started(handle, worker)
    tenant = await handle._engine.tenant(TENANT)
    worker.report(first, change(b"1", 0))
    worker.report(second, change(b"2", 0), read(position=2))
    assert tenant.shared_state.pending_count == 1
    await worker.wait_acknowledged(second)
    assert await answers(handle, first.run) == [("STATE_CHANGED", b"1", 1)]
    assert await answers(handle, second.run) == [
        ("STATE_CONFLICTED", b"", 1),
        ("STATE_READ", b"1", 1),
    ]
    assert tenant.shared_state.pending_count == 0, "the rows have it now"


async def test_the_row_is_there_after_a_restart(tmp_path: Path) -> None:
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = await connected(handle)
        held = await started(handle, worker, session_id="s1")
        worker.report(held, change(b"7", scope=SESSION))
        worker.report(held, RunCompleted(output=b"1"))
        await handle.wait_outcome(CONTEXT, held.run)
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        worker = await connected(handle)
        same = await started(handle, worker, session_id="s1")
        other = await started(handle, worker, session_id="s2")
        worker.report(same, read(scope=SESSION), change(b"8", 1, position=2, scope=SESSION))
        worker.report(other, read(scope=SESSION))
        await worker.wait_acknowledged(other)
        assert await answers(handle, same.run) == [
            ("STATE_READ", b"7", 1),
            ("STATE_CHANGED", b"8", 2),
        ]
        assert await answers(handle, other.run) == [("STATE_READ", b"", 0)]


async def test_a_report_that_comes_twice_counts_once(handle: Handle) -> None:
    worker = await connected(handle)
    held = await started(handle, worker)
    worker.report(held, change(b"7"))
    worker.report(held, change(b"7"), sequence=1)
    worker.report(held, read(position=2), sequence=2)
    held.sequence = 2
    await worker.wait_acknowledged(held)
    assert await answers(handle, held.run) == [("STATE_CHANGED", b"7", 1), ("STATE_READ", b"7", 1)]


async def test_a_worker_that_lost_the_run_changes_nothing(handle: Handle) -> None:
    """NO_STALE_FENCE_WRITE, and the next worker finds what was decided in the journal."""
    first = await connected(handle)
    held = await started(handle, first)
    first.report(held, change(b"7", 0))
    await first.wait_acknowledged(held)
    assert first.session is not None
    first.session.disconnect()
    second = await connected(handle, "worker-2")
    taken_over = await second.wait_held(held.run)
    assert [kind for kind, _ in taken_over.journal].count(RecordKind.STATE_CHANGED) == 1
    first.report(held, change(b"8", 1, position=2))
    second.report(taken_over, read(position=2))
    await second.wait_acknowledged(taken_over)
    assert await answers(handle, held.run) == [("STATE_CHANGED", b"7", 1), ("STATE_READ", b"7", 1)]


async def test_projects_and_tenants_share_nothing(handle: Handle) -> None:
    """TENANT_ISOLATION"""
    worker = await connected(handle)
    elsewhere = RequestContext(TENANT, ProjectId("other"), AuthMode.LOOPBACK)
    here, there = await started(handle, worker), await started(handle, worker, elsewhere)
    worker.report(here, change(b"7"))
    worker.report(there, read())
    stranger = ScriptedWorker("stranger")
    beta = RequestContext(TenantId("beta"), CONTEXT.project_id, AuthMode.LOOPBACK)
    await stranger.connect(handle, beta.tenant_id, "checkout")
    foreign = await started(handle, stranger, beta)
    stranger.report(foreign, read())
    await worker.wait_acknowledged(there)
    await stranger.wait_acknowledged(foreign)
    assert await answers(handle, there.run, elsewhere) == [("STATE_READ", b"", 0)]
    assert await answers(handle, foreign.run, beta) == [("STATE_READ", b"", 0)]


async def test_a_question_about_a_session_that_there_is_not_fails_the_run(handle: Handle) -> None:
    worker = await connected(handle)
    held = await started(handle, worker)
    worker.report(held, read(scope=SESSION))
    outcome = await handle.wait_outcome(CONTEXT, held.run)
    assert outcome.status is RunStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.code == "no_state_scope"
    assert "start it with a session id" in outcome.error.message


async def test_a_child_run_belongs_to_the_session_of_its_parent(handle: Handle) -> None:
    worker = await connected(handle)
    parent = await started(handle, worker, session_id="s1", user_id="u1")
    child = RunId(bytes(range(16)))
    worker.report(
        parent,
        change(b"7", scope=SESSION),
        ChildStarted(
            position=2,
            child_run_id=child,
            component="checkout",
            input=b"1",
            mode=ChildMode.JOIN,
            entity_key="ann",
        ),
    )
    held = await worker.wait_held(child)
    accepted = held.journal[0][1]
    assert isinstance(accepted, RunAccepted)
    assert (accepted.session_id, accepted.user_id, accepted.entity_key) == ("s1", "u1", "ann")
    worker.report(held, read(scope=SESSION), change(b'"u"', position=2, scope=StateScope.USER))
    await worker.wait_acknowledged(held)
    assert await answers(handle, child) == [("STATE_READ", b"7", 1), ("STATE_CHANGED", b'"u"', 1)]


async def test_a_failed_run_keeps_what_it_changed(handle: Handle) -> None:
    worker = await connected(handle)
    held = await started(handle, worker)
    worker.report(held, change(b"7"), RunFailed(error=Error(code="x", non_retryable=True)))
    await handle.wait_outcome(CONTEXT, held.run)
    tenant = await handle._engine.tenant(TENANT)
    rows = dict(tenant.journal.rows(STATE_TAG))
    assert list(rows) == [state_key("shop", GLOBAL, "", "n")]


def test_no_two_places_have_the_same_key() -> None:
    places = [
        ("p", SESSION, "a", "bc"),
        ("p", SESSION, "ab", "c"),
        ("p", SESSION, "", "abc"),
        ("p", StateScope.USER, "a", "bc"),
        ("p2", SESSION, "a", "bc"),
    ]
    keys = [state_key(project, scope, key, name) for project, scope, key, name in places]
    assert len(set(keys)) == len(places)
    prefix = state_scope_prefix("p", SESSION, "a")
    assert [key.startswith(prefix) for key in keys] == [True, False, False, False, False]
