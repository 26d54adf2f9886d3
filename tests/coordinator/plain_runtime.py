"""A runtime that is small enough to read: it takes reports, keeps them, and answers.

It has the behaviour that a worker can see (dispatch to a free slot, one holder per run, stale
leases refused, an acknowledgement for each report) and none of the rest: no disk, no timers.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence

import trio

from engine.base.errors import EngineError, JournalBusy, StaleFence
from engine.base.ids import DeploymentId, RunId, TenantId
from engine.ext import frames
from engine.model.worker_frames import Register
from engine.runtime.pools import Lease, PooledWorker, WorkerPools, WorkerPort

Entry = tuple[int, bytes]


class Session:
    def __init__(self, runtime: PlainRuntime, worker: PooledWorker) -> None:
        self.runtime = runtime
        self.worker = worker
        self.heartbeats = 0
        self.reports = 0
        self.emitted: list[tuple[bytes, str, bytes]] = []
        self.emitting: Callable[[], None] = lambda: None
        self.disconnects = 0
        self.heard = trio.Event()
        self.paused = trio.Event()
        self.resumed = trio.Event()

    @property
    def number(self) -> int:
        return self.worker.number

    def report(
        self, run_id: bytes, lease_epoch: int, sequence: int, entries: Sequence[Entry]
    ) -> None:
        self.reports += 1
        self.runtime.busy_calls += self.runtime.is_busy
        if self.runtime.is_busy:
            raise JournalBusy("no room")
        run = RunId(run_id)
        if self.worker.epochs.get(run) != lease_epoch:
            raise StaleFence(f"epoch {lease_epoch} is not the run's lease: nothing was changed")
        self.runtime.journal[self.worker.tenant_id, run].extend(entries)
        self.runtime.reported.set()
        self.worker.port.send(frames.build_ack(run_id, lease_epoch, sequence))

    def emit(self, run_id: bytes, lease_epoch: int, event: str, data: bytes) -> None:
        self.emitted.append((run_id, event, data))
        self.emitting()

    def heartbeat(self) -> None:
        self.heartbeats += 1
        self.heard.set()

    def drain(self) -> None:
        self.runtime.pools.drain(self.worker)

    def pause(self) -> None:
        self.runtime.pools.pause(self.worker)
        self.paused.set()

    def resume(self) -> None:
        self.runtime.pools.resume(self.worker)
        self.resumed.set()
        self.runtime.pump()

    def disconnect(self) -> None:
        self.disconnects += 1
        self.runtime.requeue(self.runtime.pools.leave(self.worker), self.worker)
        self.runtime.left.set()


class PlainRuntime:
    def __init__(self) -> None:
        self.pools = WorkerPools()
        self.sessions: list[Session] = []
        self.journal: dict[tuple[TenantId, RunId], list[Entry]] = defaultdict(list)
        self.queue: deque[tuple[TenantId, DeploymentId, str, RunId]] = deque()
        self.epochs: dict[RunId, int] = defaultdict(int)
        self.components: dict[RunId, str] = {}
        self.is_busy = False
        self.busy_calls = 0
        self.refuse_with: EngineError | None = None
        self.before_answer: trio.Event | None = None
        self.reported = trio.Event()
        self.left = trio.Event()

    async def connect_worker(
        self, tenant_id: TenantId, register: Register, port: WorkerPort
    ) -> Session:
        if self.refuse_with is not None:
            port.send(frames.build_ack(bytes(16), 1, 1))  # of a session that does not come about
            raise self.refuse_with
        admission = self.pools.register(
            tenant_id,
            DeploymentId(register.deployment_id),
            register.components,
            capacity=register.capacity,
            port=port,
        )
        if admission.fenced is not None:
            self.requeue(admission.orphaned, admission.fenced)
            admission.fenced.port.close("another session of this worker took its place")
        session = Session(self, admission.worker)
        self.sessions.append(session)
        self.pump()
        if self.before_answer is not None:
            with trio.CancelScope(shield=True):
                await self.before_answer.wait()
        return session

    def start(self, tenant: TenantId, component: str, run: RunId) -> None:
        self.components[run] = component
        self.queue.append((tenant, DeploymentId("default"), component, run))
        self.pump()

    def requeue(self, leases: Sequence[Lease], worker: PooledWorker) -> None:
        for lease in leases:
            component = self.components[lease.run_id]
            self.queue.append((worker.tenant_id, worker.deployment_id, component, lease.run_id))
        self.pump()

    def pump(self) -> None:
        for _ in range(len(self.queue)):
            tenant, deployment, component, run = self.queue.popleft()
            worker = self.pools.choose(tenant, deployment, component)
            if worker is None:
                self.queue.append((tenant, deployment, component, run))
                continue
            self.epochs[run] += 1
            self.pools.hold(worker, run, self.epochs[run])
            kind = worker.components[component].kind
            entries = [
                (kind_, payload, at, 0)
                for at, (kind_, payload) in enumerate(self.journal.get((tenant, run), []))
            ]
            worker.port.send(
                frames.build_dispatch(run, self.epochs[run], 1, component, kind, entries, False)
            )
