"""A worker without a network: speaks the frames, runs a scripted workflow, can be made to vanish.

A fake with behaviour. It keeps to the protocol as the SDK does: numbers its reports, waits for the
acknowledgement, drops a run when it parks or is revoked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import trio

from engine.base.ids import DeploymentId, RunId, TenantId
from engine.ext import frames
from engine.model.payloads import Payload
from engine.model.records import RecordKind
from engine.model.runs import ComponentKind
from engine.model.worker_frames import Component, Register
from engine.runtime.handle import Handle
from engine.runtime.workers import WorkerSession
from engine.wire.journal import decode, encode, kind_of

DEPLOYMENT = DeploymentId("default")


@dataclasses.dataclass
class Held:
    """A run in this worker's hands."""

    run: RunId
    epoch: int
    attempt: int
    journal: list[tuple[RecordKind, Payload]]
    sequence: int = 0


class ScriptedWorker:
    def __init__(self, worker_id: str = "worker-1", *, capacity: int = 100) -> None:
        self.worker_id = worker_id
        self.capacity = capacity
        self.held: dict[RunId, Held] = {}
        self.kinds: dict[RunId, int] = {}
        self.acknowledged: list[tuple[RunId, int, int]] = []
        self.delivered: list[tuple[RunId, list[int]]] = []
        self.cold: list[tuple[int, bytes]] = []
        self.closed_because: str | None = None
        self.session: WorkerSession | None = None
        self.on_dispatch: Callable[[Held], None] | None = None
        self._changed = trio.Event()

    # ---- the port ----

    def send(self, frame: bytes) -> None:
        for found in frames.scan_engine_frames(frames.pack_frames([frame])):
            self._take(found)
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def send_each(self, later: Iterator[bytes]) -> None:
        for frame in later:
            self.send(frame)

    def close(self, reason: str, *, code: str = "") -> None:
        self.closed_because = reason

    def _take(self, frame: tuple) -> None:  # type: ignore[type-arg]
        if frame[0] == "dispatch":
            _, run, epoch, attempt, _, kind, entries, more = frame
            self.kinds[RunId(run)] = kind
            journal = [(RecordKind(e[0]), decode(e[0], e[1])) for e in entries]
            if entries[0][2] > 0:  # a further page
                held = self.held[RunId(run)]
                held.journal.extend(journal)
            else:
                self.held[RunId(run)] = held = Held(RunId(run), epoch, attempt, journal)
            if not more and self.on_dispatch is not None:
                self.on_dispatch(held)
        elif frame[0] == "ack":
            self.acknowledged.append((RunId(frame[1]), frame[2], frame[3]))
        elif frame[0] == "deliver":
            self.delivered.append((RunId(frame[1]), [entry[0] for entry in frame[3]]))
        else:
            self.cold.append((frame[1], frame[2]))

    # ---- what the worker does ----

    async def connect(
        self,
        handle: Handle,
        tenant: TenantId,
        *names: str,
        components: tuple[Component, ...] = (),
    ) -> None:
        register = Register(
            deployment_id=DEPLOYMENT,
            service_name="test",
            worker_id=self.worker_id,
            capacity=self.capacity,
            components=components
            or tuple(Component(name=name, kind=ComponentKind.WORKFLOW) for name in names),
        )
        self.session = await handle.connect_worker(tenant, register, self)

    def report(self, held: Held, *payloads: Payload, sequence: int | None = None) -> None:
        assert self.session is not None
        held.sequence += 1
        self.session.report(
            held.run,
            held.epoch,
            held.sequence if sequence is None else sequence,
            [(kind_of(payload), encode(payload)) for payload in payloads],
        )

    async def wait_held(self, run: RunId) -> Held:
        while run not in self.held:
            await self._changed.wait()
        return self.held[run]

    async def wait_acknowledged(self, held: Held) -> None:
        wanted = (held.run, held.epoch, held.sequence)
        while wanted not in self.acknowledged:
            await self._changed.wait()
