"""One session with the engine: frames in, runs moved, frames out. No input or output of its own.

The worker feeds it each message that came (`receive`), and takes what is to be sent (`take`); the
host calls `turn` when a run was touched. A session ends with its stream: what it held is then
somebody else's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from engine.base.clock import Clock
from engine.base.errors import EngineError, MalformedRecord
from engine.base.ids import RunId, run_id_text
from engine.base.limits import worker_capacity_max
from engine.ext import frames
from engine.model.worker_frames import (
    ENGINE_FRAME_TYPES,
    Drain,
    Draining,
    Heartbeat,
    Refused,
    Register,
    Registered,
    Revoke,
    ScannedAck,
    ScannedDeliver,
)
from engine.sdk import failures, limits
from engine.sdk.authoring.facts import RunFacts
from engine.sdk.authoring.registry import Registry
from engine.sdk.errors import ConnectionLost
from engine.sdk.problems import error_of
from engine.sdk.replay.history import Entry
from engine.sdk.replay.machine import Machine
from engine.sdk.worker.hosts import Host
from engine.sdk.worker.runs import FunctionRun, HeldRun, Worksite
from engine.sdk.worker.workflow_run import WorkflowRun
from engine.wire import worker as wire
from engine.wire.rules import checked_run_id

_log: Final = logging.getLogger("engine.worker")


class Session:
    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        *,
        wake: Callable[[], None],
        host: Callable[[Callable[[], None]], Host],
    ) -> None:
        """`wake` is called when there is something to send. `host` makes the host of the session,
        of what it is to call for a turn."""
        self._registry = registry
        self._clock = clock
        self._wake = wake
        self.host: Final = host(self.turn)
        self._site = Worksite(registry, self.host, clock, self._send, self._touch)
        self._runs: dict[RunId, HeldRun] = {}
        self._loading: dict[RunId, Machine] = {}
        self._touched: dict[HeldRun, None] = {}
        self._outgoing: deque[bytes] = deque()
        self.outgoing_bytes = 0
        self._runs_max = worker_capacity_max
        self._failure: Exception | None = None
        self._refusal: EngineError | None = None
        self.registered: Registered | None = None
        self.is_draining = False
        # The engine goes away and will be back: not a refusal, and not an error of the worker's.
        self.is_ending = False

    # ---- sending ----

    def register(self, register: Register) -> None:
        # The engine may give a slot away before the worker has heard that it is free.
        self._runs_max = 2 * register.capacity + limits.runs_over_capacity_max
        self._send(wire.encode_worker_frame(register))

    def heartbeat(self) -> None:
        self._send(wire.encode_worker_frame(Heartbeat(sent_ms=self._clock.now_ms())))

    def drain(self, reason: str) -> None:
        """Finish what is here and take nothing more."""
        if not self.is_draining:
            self.is_draining = True
            self._send(wire.encode_worker_frame(Drain(reason=reason)))

    def take(self) -> bytes | None:
        """The next message, of everything that is ready up to a size; None: nothing is."""
        if self._failure is not None:
            raise _defect(self._failure) from self._failure
        outgoing = self._outgoing
        if not outgoing:
            return None
        batch = [outgoing.popleft()]
        size = len(batch[0])
        while outgoing and size + len(outgoing[0]) <= limits.message_bytes_aim:
            batch.append(outgoing.popleft())
            size += len(batch[-1])
        self.outgoing_bytes -= size
        return frames.pack_frames(batch)

    @property
    def is_idle(self) -> bool:
        return not self._runs and not self._loading and not self._outgoing

    @property
    def runs_held(self) -> int:
        return len(self._runs)

    # ---- receiving ----

    def receive(self, message: bytes) -> None:
        try:
            for frame in frames.scan_engine_frames(message):
                if frame[0] == "cold":
                    self._cold(frame[1], frame[2])
                elif self.registered is None:
                    raise ConnectionLost("the engine sent work before it accepted the registration")
                elif frame[0] == "dispatch":
                    self._dispatch(*frame[1:])
                else:
                    self._tell(frame)
        except Exception as failure:
            if isinstance(failure, ConnectionLost) or failure is self._refusal:
                raise
            raise _defect(failure) from failure
        self.host.hurry()

    def _tell(self, frame: ScannedAck | ScannedDeliver) -> None:
        run = self._held(frame[1], frame[2])
        if run is None:
            return
        if frame[0] == "ack":
            run.acknowledge(frame[3])
        else:
            run.deliver(frame[3])

    def turn(self) -> None:
        """Every run that was touched does what follows from it."""
        while self._touched:
            touched, self._touched = self._touched, {}
            for run in touched:
                try:
                    run.turn()
                except Exception as failure:  # noqa: BLE001 - ends the session, where it is heard
                    self._failure = failure
                    self._wake()
                    return
                if run.is_done and self._runs.get(run.run_id) is run:
                    del self._runs[run.run_id]
        if self.is_draining and self.is_idle:
            self._wake()

    def close(self) -> None:
        """The stream is gone: the runs go to other workers, or come back with a new lease."""
        for run in list(self._runs.values()):
            run.drop()
        self._runs.clear()
        self._loading.clear()
        self._touched.clear()
        self.host.close()

    # ---- inside ----

    def _send(self, frame: bytes) -> None:
        self._outgoing.append(frame)
        self.outgoing_bytes += len(frame)
        self._wake()

    def _touch(self, run: HeldRun) -> None:
        if not self._touched:
            self.host.schedule()
        self._touched[run] = None

    def _held(self, run_id: RunId, lease_epoch: int) -> HeldRun | None:
        run = self._runs.get(run_id)
        return run if run is not None and run.lease_epoch == lease_epoch else None

    def _dispatch(
        self,
        run_id: RunId,
        lease_epoch: int,
        attempt: int,
        component: str,
        kind: int,
        journal: list[Entry],
        more: bool,
    ) -> None:
        held = self._runs.get(checked_run_id(run_id))
        if held is not None:
            if held.lease_epoch >= lease_epoch:
                return  # the same dispatch again
            held.drop()
            del self._runs[run_id]
        if self.runs_held + len(self._loading) >= self._runs_max:
            raise ConnectionLost(
                f"the engine sent another run to a worker that has {self.runs_held}, which is far "
                "over its capacity"
            )
        machine = self._loading.pop(run_id, None)
        if machine is None or machine.lease_epoch != lease_epoch:
            machine = Machine(run_id, lease_epoch)
        try:
            machine.load(journal)
            if more:
                self._loading[run_id] = machine
                return
            run = self._begin(machine, attempt, component)
        except Exception as failure:  # noqa: BLE001 - whatever the journal said, it is the run's
            error = failure if isinstance(failure, EngineError) else _unreadable(failure)
            facts = RunFacts(run_id, attempt, machine.accepted)
            run = FunctionRun(self._site, facts, lease_epoch, error=failures.recorded(error))
        self._runs[run_id] = run
        self._touch(run)

    def _begin(self, machine: Machine, attempt: int, name: str) -> HeldRun:
        component = self._registry.find(name)
        machine.start()
        facts = RunFacts(machine.run_id, attempt, machine.accepted)
        if component.is_replayed:
            workflow = WorkflowRun(self._site, facts, machine, component)
            workflow.start()
            return workflow
        function = FunctionRun(self._site, facts, machine.lease_epoch)
        function.start(component)
        return function

    def _cold(self, number: int, message: bytes) -> None:
        if number not in ENGINE_FRAME_TYPES:
            return  # a newer engine's
        match wire.decode_engine_frame(number, message):
            case Registered() as registered:
                self.registered = registered
            case Revoke() as revoke:
                self._revoke(RunId(revoke.run_id), revoke.lease_epoch, revoke.message)
            case Refused(fatal=True) as refused:
                self._refusal = error_of(refused.code, refused.message)
                raise self._refusal
            case Refused() as refused:
                _log.warning("the engine refused a report: %s", refused.message)
                # The engine ends such a run by itself, or takes it back.
            case Draining() as draining:
                _log.info("the engine is going away: %s", draining.reason)
                self.is_ending = True

    def _revoke(self, run_id: RunId, lease_epoch: int, message: str) -> None:
        loading = self._loading.get(run_id)
        if loading is not None and loading.lease_epoch <= lease_epoch:
            del self._loading[run_id]
        run = self._held(run_id, lease_epoch)
        if run is not None:
            _log.info("run %s is no longer this worker's: %s", run_id_text(run_id), message)
            run.drop()
            del self._runs[run_id]


def _unreadable(failure: Exception) -> MalformedRecord:
    return MalformedRecord(
        f"the run's journal cannot be followed ({_said(failure)}); worker and engine may be of "
        "versions that do not go together"
    )


def _defect(failure: Exception) -> ConnectionLost:
    """The other runs go on in a new session."""
    _log.debug("the session failed", exc_info=failure)
    return ConnectionLost(
        f"the worker could not follow what the engine sent ({_said(failure)}), which is a defect "
        "of one of them, or their versions do not go together; it connects anew"
    )


def _said(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"[: limits.input_characters_shown]
