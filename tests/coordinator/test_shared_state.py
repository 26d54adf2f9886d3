"""A question about shared state over a real stream, with the real runtime behind it: asked by a
report, answered by a delivery behind the acknowledgement."""

from __future__ import annotations

from pathlib import Path

from engine.base.ids import DeploymentId, ProjectId, RunId, TenantId
from engine.config.settings import JournalSettings
from engine.ext import frames
from engine.model.context import AuthMode, RequestContext
from engine.model.payloads import Payload, StateChanged, StateConflicted, StateRead, StateScope
from engine.model.views import StartRequest
from engine.model.worker_frames import Refused, Revoke
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.wire.journal import decode, encode, kind_of
from tests.coordinator.dialing import DialedWorker, dialed, serving

ACME = RequestContext(TenantId("acme"), ProjectId("shop"), AuthMode.LOOPBACK)
GLOBAL = StateScope.GLOBAL


async def started(handle: Handle, worker: DialedWorker) -> RunId:
    request = StartRequest(component="order", input=b"1", deployment_id=DeploymentId("default"))
    run = (await handle.start(ACME, request)).run_id
    assert (await worker.receive())[:3] == ("dispatch", run, 1)
    return run


async def ask(worker: DialedWorker, run: RunId, sequence: int, *asked: Payload) -> None:
    entries = [(int(kind_of(one)), encode(one)) for one in asked]
    await worker.send(frames.build_report(run, 1, sequence, entries))


async def answer(worker: DialedWorker, run: RunId, sequence: int) -> list[Payload]:
    assert await worker.receive() == ("ack", run, 1, sequence)
    name, of, epoch, entries = await worker.receive()
    assert (name, of, epoch) == ("deliver", run, 1)
    return [decode(kind, payload) for kind, payload, _, _ in entries]


async def test_two_runs_ask_and_one_of_them_loses(tmp_path: Path) -> None:
    change = StateChanged(position=1, scope=GLOBAL, name="n", value=b"7", has_expected=True)
    read = StateRead(position=2, scope=GLOBAL, name="n")
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        async with serving(handle) as (address, _), dialed(address) as worker:
            await worker.register("order")
            run, other = await started(handle, worker), await started(handle, worker)
            await ask(worker, run, 1, change)
            (changed,) = await answer(worker, run, 1)
            assert isinstance(changed, StateChanged)
            assert (changed.revision, changed.value) == (1, b"7")
            await ask(worker, other, 1, change, read)
            lost, found = await answer(worker, other, 1)
            assert isinstance(lost, StateConflicted)
            assert (lost.expected_revision, lost.revision) == (0, 1)
            assert isinstance(found, StateRead)
            assert (found.value, found.revision, found.found) == (b"7", 1, True)


async def test_a_question_that_cannot_be_answered_is_refused_in_words(tmp_path: Path) -> None:
    async with open_engine(tmp_path, JournalSettings()) as engine:
        handle = Handle(engine)
        async with serving(handle) as (address, _), dialed(address) as worker:
            await worker.register("order")
            run = await started(handle, worker)
            await ask(worker, run, 1, StateRead(position=1, scope=StateScope.USER, name="n"))
            refused = await worker.receive()
            assert isinstance(refused, Refused)
            assert (refused.code, refused.sequence, refused.fatal) == ("no_state_scope", 1, False)
            assert "it has no user: start it with a user id" in refused.message
            assert isinstance(await worker.receive(), Revoke)
