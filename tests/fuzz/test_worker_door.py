"""A worker with a valid key on a real connection, that says whatever the protocol has words for:
each frame with values from its fields' edges, whole and cut, in any order. Whatever it is, it is
taken or refused; nothing of it is a defect, and the tenant beside it works on.

The door, the runtime and its disk are the real ones. A failure names its seed.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import trio

import engine
from engine.base.errors import Unauthorized
from engine.base.ids import ProjectId, RunId, TenantId
from engine.config.settings import JournalSettings
from engine.coordinator.ports import Peer
from engine.coordinator.server import Address, Coordinator
from engine.ext import frames
from engine.model.context import AuthMode, RequestContext
from engine.model.runs import RunStatus
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.wire.journal import encode, kind_of
from tests.coordinator.dialing import LOCAL, PATIENT, DialedWorker, dialed
from tests.fuzz.courses import NUMBERS, SEED, Course, Given, seeds, tagged, varint
from tests.fuzz.test_reports import check_all_can_be_read
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import DONE, request, step

OTHER: Final = RequestContext(TenantId("globex"), ProjectId("shop"), AuthMode.LOOPBACK)
SESSIONS: Final = 12
MESSAGES: Final = 25
ENDS_S: Final = 20  # within which whatever was begun has come to an end


def tenant_of_token(token: str, peer: Peer) -> TenantId:
    if token not in (TENANT, OTHER.tenant_id):
        raise Unauthorized("no tenant has this key")
    return TenantId(token)


class Offender:
    """The worker, one session after the other. Keeps what it was given, to report of it."""

    def __init__(self, seed: int, handle: Handle) -> None:
        self.course = Course(seed)
        self.random = self.course.random
        self.handle = handle
        self.held: deque[tuple[RunId, int]] = deque(maxlen=20)
        self.sequences: dict[tuple[RunId, int], int] = {}
        self.heard: dict[str, int] = {}

    async def hold_session(self, address: Address) -> None:
        self.held.clear()
        async with dialed(address) as worker, trio.open_nursery() as nursery:
            nursery.start_soon(self._talk, worker, nursery.cancel_scope)
            await self._listen(worker)
            nursery.cancel_scope.cancel()

    async def _listen(self, worker: DialedWorker) -> None:
        """Until the engine ends the stream, as it has to when the worker has ended its side."""
        with contextlib.suppress(Exception):  # the connection is gone, in one of grpclib's words
            while (frame := await worker.receive()) is not None:
                name = frame[0] if isinstance(frame, tuple) else type(frame).__name__
                self.heard[name] = self.heard.get(name, 0) + 1
                if name == "dispatch":
                    self.held.append((RunId(frame[1]), frame[2]))
                elif name == "Revoke" and (frame.run_id, frame.lease_epoch) in self.held:
                    self.held.remove((frame.run_id, frame.lease_epoch))

    async def _talk(self, worker: DialedWorker, ending: trio.CancelScope) -> None:
        with contextlib.suppress(Exception):  # as above
            await self._send(worker, [self._first()])
            for _ in range(MESSAGES):
                if self.course.has(0.4):
                    session_id = self.random.choice(("", "s"))
                    await self.handle.start(CONTEXT, request(session_id=session_id))
                await trio.sleep(0.001)  # what was sent back is read
                count = self.random.choice((0, 1, 1, 2, 5, 30))
                await self._send(worker, [self._frame() for _ in range(count)])
        await self._leave(worker, ending)

    async def _leave(self, worker: DialedWorker, ending: trio.CancelScope) -> None:
        if self.course.has(0.3):
            with contextlib.suppress(Exception):
                worker.hang_up()
            ending.cancel()
        else:
            with contextlib.suppress(Exception):
                await worker.end()

    async def _send(self, worker: DialedWorker, frames_made: list[bytes]) -> None:
        message = self.course.batch(frames_made)
        if not self.course.has(0.03):
            await worker.send_message(message)
            return
        length = self.random.choice((len(message), 0, 1, len(message) + 1, 2**23, 2**32 - 1))
        compressed = self.random.choice((0, 0, 1, 255))
        await worker.send_bytes(bytes([compressed]) + length.to_bytes(4, "big") + message)

    # ---- what it says ----

    def _first(self) -> bytes:
        """Often a registration that is right, since nothing follows upon another."""
        self.course.edges = self.random.choice((0, 0, 0, 0.1))
        if self.course.has(0.05):
            return self._frame()
        return self.course.frame("WorkerFrame", "Register", self._registration())

    def _frame(self) -> bytes:
        """Most damage is done in what it reports: damage to a frame itself ends the session."""
        if self.held:
            self.course.run, self.course.epoch = self.random.choice(self.held)
        kind = self.random.choice(WORKER_FRAMES)
        if kind in ("Register", "Drain") and self.course.has(0.95):
            kind = "Report"  # since the session, or what it is given, ends with those
        self.course.edges = self.random.choice((0, 0, 0.02, 0.15))
        given = {"Register": self._registration, "Report": self._report, "Emit": self._event}
        said = given[kind]() if kind in given else {}
        self.course.edges = self.random.choice((0, 0, 0, 0.02))
        if self.course.has(0.005):
            kind = self.random.choice(ENGINE_FRAMES)
            return self.course.frame("EngineFrame", kind)
        return self.course.frame("WorkerFrame", kind, said)

    def _registration(self) -> Given:
        component = {"name": b"checkout", "kind": 1, "input_schema": b"{}", "output_schema": b""}
        with_retry: Given = component | ({} if self.course.has(0.3) else {"retry": b""})
        return {
            "token": TENANT.encode(),
            "deployment_id": b"default",
            "components": [self.course.message("Component", with_retry)],
            "capacity": 10_000,
            "sdk_version": engine.__version__.encode(),
            "worker_id": self.random.choice((b"w1", b"w2", b"w3")),
        }

    def _event(self) -> Given:
        return {"event": self.random.choice((b"output.text", b"progress.a", b"log.x", b"other"))}

    def _report(self) -> Given:
        run, epoch = lease = self.course.run, self.course.epoch
        sequence = self.sequences.get(lease, 0) + 1
        if self.course.has(0.03):
            sequence = self.random.choice((sequence - 1, sequence + 1, *NUMBERS))
        else:
            self.sequences[lease] = sequence
        entries = []
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 5))):
            kind, payload = self.course.entry()
            entries.append(tagged(1, 0, varint(kind)) + tagged(2, 2, payload))
        return {"run_id": run, "lease_epoch": epoch, "sequence": sequence, "entries": entries}


WORKER_FRAMES: Final = [field.message_type.name for field in Course.frames_of("WorkerFrame")]
ENGINE_FRAMES: Final = [field.message_type.name for field in Course.frames_of("EngineFrame")]


class Neighbour:
    """A worker of the other tenant, and somebody who starts its runs one after the other."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.completed = 0

    async def work(self, worker: DialedWorker) -> None:
        while (frame := await worker.receive()) is not None:
            if frame[0] != "dispatch":
                continue
            entries = [(kind_of(each), encode(each)) for each in (step(1), DONE)]
            await worker.send(frames.build_report(frame[1], frame[2], 1, entries))

    async def ask(self, context: RequestContext, component: str = "checkout") -> None:
        with trio.fail_after(ENDS_S):
            started = await self.handle.start(context, request(component))
            outcome = await self.handle.wait_outcome(context, started.run_id)
        assert outcome.status is RunStatus.COMPLETED
        self.completed += 1

    async def ask_again_and_again(self) -> None:
        while True:
            await self.ask(OTHER)


@contextlib.asynccontextmanager
async def working(
    neighbour: Neighbour, address: Address, context: RequestContext, component: str
) -> AsyncIterator[None]:
    async with dialed(address) as worker, trio.open_nursery() as nursery:
        await worker.register(component, token=context.tenant_id, worker_id="healthy")
        nursery.start_soon(neighbour.work, worker)
        yield
        nursery.cancel_scope.cancel()


async def course_of(seed: int, folder: Path, caplog: pytest.LogCaptureFixture) -> dict[str, int]:
    """What the offender was told, and how often."""
    async with open_engine(folder, JournalSettings()) as opened, trio.open_nursery() as nursery:
        handle = Handle(opened)
        coordinator = Coordinator(handle, tenant_of_token, settings=PATIENT)
        address = await nursery.start(coordinator.serve, LOCAL)
        offender, neighbour = Offender(seed, handle), Neighbour(handle)
        async with working(neighbour, address, OTHER, "checkout"), trio.open_nursery() as asking:
            asking.start_soon(neighbour.ask_again_and_again)
            for _ in range(SESSIONS):
                before = neighbour.completed
                with trio.fail_after(ENDS_S):
                    await offender.hold_session(address)
                    while neighbour.completed == before:
                        await trio.lowlevel.checkpoint()
            asking.cancel_scope.cancel()
        async with working(neighbour, address, CONTEXT, "afterwards"):
            await neighbour.ask(CONTEXT, "afterwards")
        assert await check_all_can_be_read(handle) > 0
        told = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
        assert (coordinator.defects.count, told) == (0, [])
        nursery.cancel_scope.cancel()
    return offender.heard


async def test_whatever_a_worker_says_is_its_own_affair(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For a few seconds, or as long as ENGINE_FUZZ_SECONDS says."""
    heard: dict[str, int] = {}
    for seed in seeds(SEED, 3):
        try:
            told = await course_of(seed, tmp_path / str(seed), caplog)
        except BaseException as error:
            error.add_note(f"ENGINE_TEST_SEED={seed}")
            raise
        for name, times in told.items():
            heard[name] = heard.get(name, 0) + times
    assert heard.keys() >= {"Registered", "dispatch", "ack", "Refused", "Revoke"}, heard
