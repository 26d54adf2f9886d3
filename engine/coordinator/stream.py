"""One connected worker: its frames to the runtime's session, the runtime's frames to it.

Two loops run for a stream, both asyncio-flavored, on Trio's thread: one reads messages and calls
the session synchronously, one packs whatever is ready into the next message. A stream ends in one
of three ways: the worker leaves, it is refused (what was sent before still arrives), or it is cut
off (nothing more is tried). The session is told once in each.

Knows no rule of runs: a report is bytes here, and the runtime says what becomes of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeGuard

import msgspec
import trio_asyncio  # type: ignore[import-untyped]

from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import (
    EngineError,
    InternalFailure,
    InvalidInput,
    JournalBusy,
    TenantFailed,
)
from engine.base.ids import TenantId
from engine.config.coordinator import CoordinatorSettings
from engine.coordinator import http2
from engine.coordinator.defects import Defects
from engine.coordinator.liveness import Pulse
from engine.coordinator.offenders import Offenders
from engine.coordinator.outbox import Level, Outbox
from engine.coordinator.ports import Authenticate, WorkerDoor, WorkerSession
from engine.coordinator.register import checked_register, token_of
from engine.coordinator.shares import Share, Shares
from engine.ext import frames
from engine.model.worker_frames import (
    WORKER_FRAME_TYPES,
    ColdFrame,
    Drain,
    Draining,
    Refused,
    Register,
    Registered,
    ScannedReport,
    ScannedWorkerFrame,
    WorkerFrameNumber,
)
from engine.wire import worker as wire
from engine.wire.rules import check_frame

_log = logging.getLogger(__name__)

_DEFECT: Final = (
    "the engine failed on what this worker sent, which is a defect; the engine's log has the cause"
)


class Surroundings(msgspec.Struct, frozen=True):
    """What every stream of a coordinator works with."""

    door: WorkerDoor
    authenticate: Authenticate
    clock: Clock
    settings: CoordinatorSettings
    engine_version: str
    defects: Defects
    offenders: Offenders
    shares: Shares


class WorkerStream:
    """The stream, and the `WorkerPort` that the runtime sends on."""

    def __init__(self, stream: http2.BytesStream, surroundings: Surroundings) -> None:
        self._stream: Final = stream
        self._around: Final = surroundings
        self._peer: Final = http2.peer_of(stream)
        self._outbox: Final = Outbox()
        self._sendable: Final = asyncio.Event()
        self._corked = True  # nothing leaves before the answer to the registration
        self._over = False  # nothing that still comes in counts
        self._is_cut = False
        self._session: WorkerSession | None = None
        self._share: Share | None = None
        self._reader: asyncio.Task[None] | None = None
        self._owner: asyncio.Task[None] | None = None
        self._loop: Final = asyncio.get_running_loop()
        self._frames_taken = 0
        self.tenant_id: TenantId | None = None
        self.worker_id = ""
        self.pulse: Final = Pulse(surroundings.clock.monotonic_us())

    def __str__(self) -> str:
        name = f"worker {self.worker_id} of tenant {self.tenant_id}" if self.worker_id else "a peer"
        return f"{name} at {self._peer}"

    async def run(self) -> None:
        """Returns when the stream has ended and everything that was to be sent has left."""
        self._owner = asyncio.current_task()
        try:
            async with asyncio.TaskGroup() as group:
                self._reader = group.create_task(self._read())
                group.create_task(self._write())
        finally:
            self._end()

    # The runtime's side: WorkerPort.

    def send(self, frame: bytes) -> None:
        level = self._outbox.push(frame)
        if level is Level.OVERFLOW:
            # Not now: the runtime is in the middle of something when it sends.
            self._loop.call_soon(
                self.cut,
                f"it has not read the last {self._outbox.bytes_waiting} bytes that were sent to it",
            )
        elif level is Level.PAUSE and self._session is not None:
            self._tell(self._session.pause)
        if not self._corked:
            self._sendable.set()

    def send_each(self, later: Iterator[bytes]) -> None:
        self._outbox.push_each(later)
        if not self._corked:
            self._sendable.set()

    def close(self, reason: str, *, code: str = "stale_fence") -> None:
        if self._over:
            return
        self._refuse(Refused(code=code, message=_short(reason), fatal=True))
        if self._reader is not None:
            self._reader.cancel()

    # The coordinator's side.

    def farewell(self, reason: str) -> None:
        """The engine goes; the worker may come back to the next one."""
        if self._over:
            return
        if self._session is None:
            self._outbox.clear()
        else:
            # It loses what it holds in an orderly way, which is held against none of the runs.
            self._tell(self._session.drain)
        self._finish_with(wire.encode(Draining(reason=reason)))
        if self._reader is not None:
            self._reader.cancel()

    def cut(self, reason: str) -> None:
        """Ends the stream at once and with it the connection, which may be half open."""
        if self._is_cut:
            return
        self._is_cut = True
        _log.warning("cut off %s: %s", self, reason)
        self._outbox.clear()
        self._end()
        http2.hang_up(self._stream, reason)
        if self._owner is not None:
            self._owner.cancel()

    def _refuse(self, refused: Refused) -> None:
        """Tells the worker why, and that nothing follows."""
        if self._session is None:
            self._outbox.clear()  # what the runtime sent to a session that did not come about
        _log.info("refused %s: %s: %s", self, refused.code, refused.message)
        self._finish_with(wire.encode(refused))

    def _finish_with(self, frame: bytes) -> None:
        self._over = True
        self._outbox.push(frame)
        self._outbox.seal()
        self._corked = False
        self._sendable.set()

    def _end(self) -> None:
        """The session is told, once, and nothing is taken in any more on either side."""
        self._over = True
        self._outbox.seal()
        self._corked = False
        self._sendable.set()
        session, self._session = self._session, None
        if session is not None:
            assert self._share is not None
            self._share.sessions -= 1
            self._tell(session.disconnect)

    def _tell(self, call: Callable[[], None]) -> None:
        """Tells the session something that none of its frames asked for. When that fails, it is not
        the fault of who is in the middle of it: another service, or another tenant's work."""
        try:
            call()
        except EngineError as error:  # its tenant has stopped, and holds nothing any more
            _log.warning("%s met a tenant that has stopped: %s", self, error.message)
        except Exception as failure:  # noqa: BLE001 - one stream's defect is not another's
            self._around.defects.note(f"{call.__name__} of {self}", failure)

    def note_defect(self, doing: str, failure: Exception) -> None:
        """What this stream brought has met a defect, which it will again when it comes back."""
        self._around.defects.note(f"{doing} {self}", failure)
        self._offends()

    def _offends(self) -> None:
        if self.tenant_id is not None:
            self._around.offenders.note(self.tenant_id, self.worker_id)

    # Reading.

    async def _read(self) -> None:
        try:
            first = await self._receive(limits.register_bytes_max)
            if not first:
                return
            await self._register(first[0])
            await self._take(first[1:])
            while not self._over and (batch := await self._receive()) is not None:
                await self._take(batch)
        except EngineError as error:
            if _is_own(error):
                self._offends()
            self._refuse(_refusal(error, fatal=True))
        except http2.Disconnected:
            _log.info("lost %s", self)
        except Exception as failure:  # noqa: BLE001 - one stream's defect ends that stream
            self.note_defect("reading from", failure)
            self._refuse(_refusal(InternalFailure(_DEFECT), fatal=True))
        finally:
            self._end()

    async def _receive(
        self, bytes_max: int = limits.stream_message_bytes_max
    ) -> list[ScannedWorkerFrame] | None:
        message = await http2.receive(self._stream, bytes_max)
        if message is None:
            return None
        self.pulse.heard_us = self._around.clock.monotonic_us()
        return frames.scan_worker_frames(message)

    async def _register(self, frame: ScannedWorkerFrame) -> None:
        if not _is_register(frame):
            raise InvalidInput(
                "the first frame of a stream is Register, and this is another one: register "
                "before anything else",
                field="frame",
            )
        message = frame[2]
        # Who is not known costs no more than the reading of the token.
        tenant_id = self._around.authenticate(token_of(message), self._peer)
        self._share = share = self._around.shares.of(tenant_id, self._loop.time())
        await self._until_made_good(0)
        share.check_room()
        check_frame(Register, message)
        register = checked_register(
            wire.decode_worker_frame(WorkerFrameNumber.REGISTER, message),
            engine_version=self._around.engine_version,
        )
        self.tenant_id, self.worker_id = tenant_id, register.worker_id
        share.frames.spend(
            limits.stream_register_frames
            + limits.stream_component_frames * len(register.components),
            self._loop.time(),
        )
        self._check_offences(tenant_id)
        self.pulse.registered = self.pulse.held_up = True
        await trio_asyncio.trio_as_aio(self._connect)(tenant_id, register)
        self.pulse.heard_us = self._around.clock.monotonic_us()
        self.pulse.held_up = False
        self._welcome()

    def _check_offences(self, tenant_id: TenantId) -> None:
        wait_ms = self._around.offenders.wait_ms(tenant_id, self.worker_id)
        if wait_ms:
            raise InternalFailure(
                f"{_DEFECT}; since this has happened before, it is let in again in "
                f"{-(-wait_ms // 1_000)} s"
            )

    async def _connect(self, tenant_id: TenantId, register: Register) -> None:
        """Trio-flavored. The session is noted here and not by the asyncio task, which may have
        been cancelled while the runtime was at it."""
        self._session = await self._around.door.connect_worker(tenant_id, register, self)
        assert self._share is not None
        self._share.sessions += 1
        if self._over or not http2.is_open(self._stream):
            self._end()

    def _welcome(self) -> None:
        if self._session is None:
            return
        settings = self._around.settings
        registered = Registered(
            worker_id=self.worker_id,
            session=self._session.number,
            heartbeat_ms=settings.heartbeat_ms,
            lease_ms=settings.lease_ms,
            engine_version=self._around.engine_version,
        )
        http2.registered(self._stream)
        self._outbox.push_first(wire.encode(registered))
        self._corked = False
        self._sendable.set()
        _log.info("session %d: %s", self._session.number, self)

    async def _take(self, batch: Sequence[ScannedWorkerFrame]) -> None:
        for frame in batch:
            session = self._session
            if session is None or self._over:
                return
            if frame[0] == "report":
                await self._take_report(session, frame)
            elif frame[0] == "heartbeat":
                session.heartbeat()
            elif frame[0] == "emit":
                try:
                    session.emit(frame[1], frame[2], frame[3], frame[4])
                except EngineError as error:
                    if _is_own(error):
                        raise
                    self._answer(_refusal(error, frame[1]))
            else:
                self._take_cold(session, frame)
            self._frames_taken += 1
            if self._frames_taken % limits.stream_frames_per_turn_max == 0:
                await asyncio.sleep(0)  # a flood from one worker is not the others' wait
                await self._until_made_good(limits.stream_frames_per_turn_max)

    async def _until_made_good(self, frames_taken: int) -> None:
        """The workers of a tenant wait for one another and for nobody else."""
        assert self._share is not None
        wait_s = self._share.frames.spend(frames_taken, self._loop.time())
        if not wait_s:
            return
        self.pulse.held_up = True
        try:
            await asyncio.sleep(wait_s)
        finally:
            self.pulse.heard_us = self._around.clock.monotonic_us()
            self.pulse.held_up = False

    async def _take_report(self, session: WorkerSession, frame: ScannedReport) -> None:
        _, run_id, lease_epoch, sequence, entries = frame
        try:
            try:
                session.report(run_id, lease_epoch, sequence, entries)
            except JournalBusy:
                await self._report_when_there_is_room(session, frame)
        except EngineError as error:
            if _is_own(error):
                raise
            self._answer(_refusal(error, run_id, sequence))

    async def _report_when_there_is_room(
        self, session: WorkerSession, frame: ScannedReport
    ) -> None:
        """Nothing is read meanwhile, so that the worker, too, comes to a stop."""
        _, run_id, lease_epoch, sequence, entries = frame
        self.pulse.held_up = True
        try:
            for retries_left in range(limits.stream_busy_retries_max, -1, -1):
                await asyncio.sleep(limits.stream_busy_retry_ms / 1_000)
                if self._over:
                    return
                try:
                    session.report(run_id, lease_epoch, sequence, entries)
                except JournalBusy:
                    if not retries_left:
                        raise
                else:
                    return
        finally:
            self.pulse.heard_us = self._around.clock.monotonic_us()
            self.pulse.held_up = False

    def _take_cold(self, session: WorkerSession, frame: ColdFrame) -> None:
        if _is_register(frame):
            raise InvalidInput(
                f"this stream is registered as worker {self.worker_id!r} already: open another "
                "stream to register again",
                field="frame",
            )
        if frame[1] in WORKER_FRAME_TYPES:  # others are a newer version's, and skipped
            check_frame(Drain, frame[2])
            decoded = wire.decode_worker_frame(frame[1], frame[2])
            assert isinstance(decoded, Drain)
            _log.info("draining %s: %s", self, decoded.reason)
            session.drain()

    # Writing.

    def _answer(self, refused: Refused) -> None:
        self.send(wire.encode(refused))

    async def _write(self) -> None:
        try:
            while await self._send_what_is_ready():
                pass
            self._sending()
            await http2.finish(self._stream)
        except http2.Disconnected:
            if self._reader is not None:
                self._reader.cancel()

    async def _send_what_is_ready(self) -> bool:
        await self._sendable.wait()
        batch = self._outbox.take()
        if not batch:
            self._sendable.clear()
            return not self._outbox.is_sealed
        self._sending()
        await http2.send(self._stream, frames.pack_frames(batch))
        self.pulse.sending_since_us = None
        if self._outbox.resumes() and self._session is not None:
            self._tell(self._session.resume)
        return True

    def _sending(self) -> None:
        self.pulse.sending_since_us = self._around.clock.monotonic_us()


def _is_register(frame: ScannedWorkerFrame) -> TypeGuard[ColdFrame]:
    return frame[0] == "cold" and frame[1] == WorkerFrameNumber.REGISTER


def _is_own(error: EngineError) -> bool:
    """Whether this very frame has stopped its tenant. Who finds the tenant stopped by another one
    is told the same without a cause, and stays."""
    return isinstance(error, TenantFailed) and error.__cause__ is not None


def _refusal(
    error: EngineError, run_id: bytes = b"", sequence: int = 0, *, fatal: bool = False
) -> Refused:
    return Refused(
        code=error.code,
        message=_short(error.message),
        run_id=run_id,
        sequence=sequence,
        fatal=fatal,
    )


def _short(text: str) -> str:
    return text[: limits.stream_refusal_characters_max]
