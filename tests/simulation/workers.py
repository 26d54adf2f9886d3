"""Simulated workers: the SDK's own session, machine and workflow code, on a host in virtual time.

A worker can crash, stall (everything in it stands still, as after SIGSTOP), drain, and come back
under the same id. Its steps take time and are noted in the ledger.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.base.errors import EngineError
from engine.base.ids import DeploymentId, TenantId
from engine.model.worker_frames import Register
from engine.sdk import Registry
from engine.sdk.replay.loop import ScriptLoop
from engine.sdk.worker.hosts import Done
from engine.sdk.worker.jobs import Job
from engine.sdk.worker.session import Session
from engine.sdk.worker.transport import script_is_running
from tests.simulation.network import Link
from tests.simulation.programs import COMPONENTS

if TYPE_CHECKING:
    from tests.simulation.world import World

DEPLOYMENT = DeploymentId("default")
_REGISTRY = Registry(COMPONENTS)


class SimulatedTimer:
    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class SimulatedHost:
    """Where a session's jobs, timers and turns happen: on the world's agenda."""

    def __init__(self, worker: SimulatedWorker, turn: Callable[[], None]) -> None:
        self._worker = worker
        self._turn = turn
        self._is_wanted = False
        self._is_closed = False

    def schedule(self) -> None:
        if not self._is_wanted:
            self._is_wanted = True
            self._later(0, self._take_turn)

    def hurry(self) -> None:
        self._take_turn()

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> SimulatedTimer:
        timer = SimulatedTimer()

        def fire() -> None:
            if not timer.is_cancelled:
                callback()

        self._later(delay_s, fire)
        return timer

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        callback()

    def start(self, job: Job, done: Done) -> None:
        self._later(self._worker.world.step_time(), functools.partial(self._run, job, done))

    def run_script(self, loop: ScriptLoop) -> None:
        # As under Trio: once trio-asyncio is loaded, by whichever test, asyncio asks it.
        with script_is_running(loop):
            loop.run()

    def close(self) -> None:
        self._is_closed = True

    def _take_turn(self) -> None:
        if self._is_wanted and not self._is_closed:
            self._is_wanted = False
            self._turn()

    def _run(self, job: Job, done: Done) -> None:
        if job.is_stopped:
            return
        whose = getattr(done, "func", done).__self__  # the run that started it
        position = done.args[0].begin.position if isinstance(done, functools.partial) else 0
        self._worker.world.ledger.executed(
            self._worker.tenant, whose.run_id, whose.lease_epoch, position
        )
        job.run_blocking()
        done(job)

    def _later(self, delay_s: float, call: Callable[[], object]) -> None:
        def unless_closed() -> None:
            if not self._is_closed:
                call()

        self._worker.later(delay_s, unless_closed)


class SimulatedWorker:
    def __init__(self, world: World, tenant: TenantId, name: str, *, capacity: int) -> None:
        self.world = world
        self.tenant = tenant
        self.worker_id = name
        self.capacity = capacity
        self.link: Link | None = None
        self._session: Session | None = None
        self._host: SimulatedHost | None = None
        self._life = 0
        self._stalled_until = 0.0
        self._failures = 0

    # ---- what happens to it ----

    def start(self) -> None:
        self._life += 1
        self._connect()

    def crash(self) -> None:
        """SIGKILL; a supervisor starts it again."""
        self.world.trace(f"{self.worker_id} crashes")
        self._life += 1
        self._stalled_until = 0.0
        self._drop()
        if self.link is not None:
            self.link.left()
            self.link = None
        self.later(self.world.chance.uniform(0.05, 2), self._connect)

    def stall(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.world.trace(f"{self.worker_id} stalls for {for_s:.1f} s")
        self._stalled_until = self.world.now + for_s

    def drain(self) -> None:
        """Finish what is here, leave, and come back: a deployment."""
        if self._session is not None and self._session.registered is not None:
            self.world.trace(f"{self.worker_id} drains")
            self._session.drain("a deployment")

    def connect_twice(self) -> None:
        """Its stream broke without the engine hearing of it, and it has connected anew."""
        if self.link is not None:
            self.world.trace(f"{self.worker_id} connects anew")
            self._drop()
            self.link.left(says_so=False)
            self.link = None
            self._connect()

    def later(self, delay_s: float, call: Callable[[], object]) -> None:
        """In this life of the worker, and not while it stands still."""
        life = self._life

        def happen() -> None:
            if life != self._life:
                return
            if self._stalled_until > self.world.now:
                self.world.after(self._stalled_until - self.world.now, happen)
            else:
                call()

        self.world.after(delay_s, happen)

    # ---- its stream ----

    def received(self, link: Link, message: bytes) -> None:
        self.later(0, functools.partial(self._receive, link, message))

    def lost(self, link: Link) -> None:
        self.later(0, functools.partial(self._lose, link))

    def _connect(self) -> None:
        process = self.world.process
        if self.link is not None:
            return
        if process is None or not process.is_up:
            self._connect_later()
            return
        self.link = Link(self.world, self, process)
        self._session = Session(_REGISTRY, self.world.clock, wake=self._wake, host=self._make_host)
        self._session.register(
            Register(
                deployment_id=DEPLOYMENT,
                service_name="simulation",
                worker_id=self.worker_id,
                capacity=self.capacity,
                components=tuple(component.registered() for component in _REGISTRY),
                sdk_version="0.1.0",
            )
        )
        self._beat(self._session)

    def _connect_later(self) -> None:
        self._failures += 1
        self.later(min(0.1 * 2**self._failures, 2.0), self._connect)

    def _make_host(self, turn: Callable[[], None]) -> SimulatedHost:
        self._host = SimulatedHost(self, turn)
        return self._host

    def _beat(self, session: Session) -> None:
        if session is self._session:
            if session.registered is not None:
                self._failures = 0
                session.heartbeat()
            self.later(self.world.heartbeat_ms / 1_000, functools.partial(self._beat, session))

    def _wake(self) -> None:
        if self.link is not None and self._session is not None:
            self.later(0, functools.partial(self._flush, self.link, self._session))

    def _flush(self, link: Link, session: Session) -> None:
        if session is not self._session:
            return
        while (message := session.take()) is not None:
            link.take(bytes(message))
        if session.is_draining and session.is_idle:
            link.left()
            self._lose(link)

    def _receive(self, link: Link, message: bytes) -> None:
        if link is not self.link or self._session is None:
            return
        try:
            self._session.receive(message)
        except EngineError as error:
            self.world.trace(f"{self.worker_id} is refused: {error.code}")
            link.left()
            self._lose(link)

    def _lose(self, link: Link) -> None:
        link.is_open_there = False
        if link is self.link:
            self.world.trace(f"{self.worker_id} has lost its stream")
            self.link = None
            self._drop()
            self._connect_later()

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
