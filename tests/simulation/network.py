"""The stream between a simulated worker and a simulated runtime: frames in both directions, late,
twice, out of order, or not at all.

Does for the runtime what the coordinator does (register, heartbeats, one report after the other),
and loses what a network loses: within a stream that lives everything arrives, in the order of each
run towards the worker; what is lost, is lost with everything after it until the stream is cut.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine.base.errors import EngineError, JournalBusy
from engine.base.ids import RunId, TenantId
from engine.ext import frames
from engine.model.records import RecordKind
from engine.model.worker_frames import Drain, Refused, Register, Registered, WorkerFrameNumber
from engine.wire import worker as wire
from tests.simulation.invariants import require

if TYPE_CHECKING:
    from engine.runtime.workers import WorkerSession
    from tests.simulation.runtime import Process
    from tests.simulation.workers import SimulatedWorker
    from tests.simulation.world import World

_BUSY_AGAIN_S = 0.02
# Who notices the end of a stream without being told, by its own keepalive.
_KEEPALIVE_S = 4.0


class Link:
    """One stream; for the runtime it is the worker's port."""

    def __init__(self, world: World, worker: SimulatedWorker, process: Process) -> None:
        self.world = world
        self.worker = worker
        self.worker_id = worker.worker_id
        self.process = process
        self.tenant: TenantId = worker.tenant
        self.session: WorkerSession | None = None
        self.is_open_here = True  # at the engine's side
        self.is_open_there = True
        self.loses_to_worker = self.loses_to_engine = False
        self._is_corked = True
        self._is_registering = False
        self._to_worker: list[bytes] = []
        self._flushes = False
        self._arrives_there = self._arrives_here = 0.0
        self._reading: deque[Any] = deque()
        self._is_reading = False
        self._heard = world.now
        self._reported: dict[tuple[bytes, int, int], list[tuple[int, bytes]]] = {}
        world.links.append(self)

    # ---- the engine's side: WorkerPort ----

    def send(self, frame: bytes) -> None:
        if not self.is_open_here or self.process.is_dead:
            return
        self._check_sent(frame)
        self._to_worker.append(frame)
        if not self._is_corked:
            self._flush_soon()

    def send_each(self, later: Iterator[bytes]) -> None:
        for frame in later:
            self.send(frame)

    def close(self, reason: str, *, code: str = "stale_fence") -> None:
        if self.is_open_here:
            self.send(wire.encode(Refused(code=code, message=reason, fatal=True)))
            self._flush()
            self.end_here(reason, says_so=False)

    def end_here(self, reason: str, *, says_so: bool = True) -> None:
        """The engine's side is over: its session is told, once."""
        if not self.is_open_here:
            return
        self.is_open_here = False
        if self in self.world.links:
            self.world.links.remove(self)
        self.world.trace(f"{self.worker_id} cut: {reason}")
        session = self.session
        if session is not None and not self.process.is_dead:
            session.disconnect(reason)
        hears = says_so and not self.loses_to_worker
        delay_s = self.world.latency() if hears else _KEEPALIVE_S
        self.world.after(delay_s, self._end_there)

    def notice_by_keepalive(self) -> None:
        """A worker that hears nothing, not even answers to its pings, gives the stream up."""
        if self.loses_to_worker or self.loses_to_engine:
            self.world.after(_KEEPALIVE_S, self._end_there)

    def _end_there(self) -> None:
        if self.is_open_there:
            self.worker.lost(self)

    # ---- the worker's side ----

    def left(self, *, says_so: bool = True) -> None:
        """The worker is gone, or has closed the stream."""
        if self.is_open_there:
            self.is_open_there = False
            if says_so and not self.loses_to_engine:
                self.world.after(
                    self.world.latency(), functools.partial(self.end_here, "the worker went away")
                )

    def take(self, message: bytes) -> None:
        """From the worker."""
        if not self.is_open_there or self.loses_to_engine:
            return
        self._arrives_here = max(self._arrives_here, self.world.now + self.world.latency())
        delay_s = self._arrives_here - self.world.now
        self.world.after(delay_s, functools.partial(self._arrived, message))

    # ---- towards the worker ----

    def _flush_soon(self) -> None:
        if not self._flushes:
            self._flushes = True
            self.world.after(0, self._flush)

    def _flush(self) -> None:
        self._flushes = False
        if not self._to_worker:
            return
        batch, self._to_worker = self._to_worker, []
        if self.loses_to_worker:
            return
        batch = self.world.disturbed(batch, self._run_of)
        self._arrives_there = max(self._arrives_there, self.world.now + self.world.latency())
        deliver = functools.partial(self._deliver, bytes(frames.pack_frames(batch)))
        self.world.after(self._arrives_there - self.world.now, deliver)

    def _deliver(self, message: bytes) -> None:
        if self.is_open_there:
            self.worker.received(self, message)

    @staticmethod
    def _run_of(frame: bytes) -> bytes:
        """Frames of one run keep their order towards the worker; cold ones all keep theirs."""
        (found,) = frames.scan_engine_frames(frames.pack_frames([frame]))
        return b"" if found[0] == "cold" else found[1]

    def _check_sent(self, frame: bytes) -> None:
        for found in frames.scan_engine_frames(frames.pack_frames([frame])):
            if found[0] == "dispatch":
                self.world.trace(f"{self.worker_id} < dispatch {self._name(found[1])} {found[2]}")
                self.world.ledger.dispatched(self.tenant, RunId(found[1]), found[2])
            elif found[0] == "ack":
                self._check_ack(found)
            elif found[0] == "deliver":
                self.world.trace(f"{self.worker_id} < deliver {self._name(found[1])} {found[2]}")
            else:
                cold = wire.decode_engine_frame(found[1], found[2])
                self.world.trace(f"{self.worker_id} < {type(cold).__name__}")

    def _check_ack(self, frame: Any) -> None:
        _, run, epoch, sequence = frame
        self.world.trace(f"{self.worker_id} < ack {self._name(run)} {epoch}/{sequence}")
        entries = self._reported[run, epoch, sequence]
        self.world.ledger.acknowledged(self.tenant, RunId(run), entries)

    def _name(self, run: bytes) -> str:
        return self.world.name(RunId(run))

    # ---- towards the engine ----

    def _arrived(self, message: bytes) -> None:
        if self.process.is_dead:
            return
        found = list(frames.scan_worker_frames(message))
        if not self.is_open_here:
            self._came_too_late(found)
            return
        self._heard = self.world.now
        self._reading.extend(self.world.disturbed(found, None))
        self._read()

    def _read(self) -> None:
        """One frame after the other; a report that finds no room holds up what is behind it."""
        if self._is_reading:
            return
        while self._reading and self.is_open_here and not self.process.is_dead:
            frame = self._reading[0]
            if self.session is None and not _is_register(frame):
                return
            if not self._take_frame(frame):
                self._is_reading = True
                self.world.after(_BUSY_AGAIN_S, self._read_again)
                return
            self._reading.popleft()

    def _read_again(self) -> None:
        self._is_reading = False
        self._read()

    def _take_frame(self, frame: Any) -> bool:
        if frame[0] == "report":
            return self._take_report(frame)
        if frame[0] == "heartbeat":
            assert self.session is not None
            self.session.heartbeat()
        elif _is_register(frame):
            if not self._is_registering:
                self._is_registering = True
                register = wire.decode_worker_frame(frame[1], frame[2])
                self.world.nursery.start_soon(self._register, register)
        elif frame[0] == "cold":
            decoded = wire.decode_worker_frame(frame[1], frame[2])
            assert isinstance(decoded, Drain)
            assert self.session is not None
            self.session.drain()
        return True

    def _take_report(self, frame: Any) -> bool:
        _, run, epoch, sequence, entries = frame
        assert self.session is not None
        kinds = ",".join(RecordKind(kind).name for kind, _ in entries)
        self.world.trace(f"{self.worker_id} > {self._name(run)} {epoch}/{sequence} {kinds}")
        self._reported[run, epoch, sequence] = entries
        try:
            self.session.report(run, epoch, sequence, entries)
        except JournalBusy:
            return False
        except EngineError as error:
            refused = Refused(
                code=error.code, message=error.message, run_id=run, sequence=sequence, fatal=False
            )
            self.send(wire.encode(refused))
        return True

    def _came_too_late(self, found: list[Any]) -> None:
        """Frames of a session that is over. They change nothing, wherever they were held up."""
        for frame in found:
            if frame[0] != "report" or self.session is None:
                continue
            before = self.process.next_offset(self.tenant, RunId(frame[1]))
            self.world.trace(
                f"{self.worker_id} > late {self._name(frame[1])} {frame[2]}/{frame[3]}"
            )
            try:
                self.session.report(*frame[1:])
            except EngineError:
                continue
            after = self.process.next_offset(self.tenant, RunId(frame[1]))
            require(before == after, "NO_STALE_FENCE_WRITE", "a late report was written")

    async def _register(self, register: Register) -> None:
        try:
            session = await self.process.handle.connect_worker(self.tenant, register, self)
        except EngineError as error:
            if not self.process.is_dead:
                self.close(error.message, code=error.code)
            return
        self.session = session
        if self.process.is_dead:
            return
        if not self.is_open_here:
            session.disconnect()
            return
        registered = Registered(
            worker_id=self.worker_id,
            session=session.number,
            heartbeat_ms=self.world.heartbeat_ms,
            lease_ms=self.world.lease_ms,
        )
        self._to_worker.insert(0, wire.encode(registered))
        self._is_corked = False
        self._flush_soon()
        self.watch()
        self._read()

    def watch(self) -> None:
        """As the coordinator does: a stream that is silent beyond the lease is cut."""
        if not self.is_open_here or self.process.is_dead:
            return
        silent_s = self.world.now - self._heard
        lease_s = self.world.lease_ms / 1_000
        if silent_s >= lease_s:
            self.end_here(f"no heartbeat for {silent_s:.1f} s")
            return
        self.world.after(lease_s - silent_s + 0.001, self.watch)


def _is_register(frame: Any) -> bool:
    return bool(frame[0] == "cold" and frame[1] == WorkerFrameNumber.REGISTER)
