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
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import trio_asyncio  # type: ignore[import-untyped]

from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import EngineError, InternalFailure, InvalidInput
from engine.base.ids import TenantId
from engine.config.coordinator import CoordinatorSettings
from engine.coordinator import http2
from engine.coordinator.defects import Defects
from engine.coordinator.liveness import Pulse, held_up
from engine.coordinator.offenders import DEFECT, Offenders
from engine.coordinator.outbox import Level, Outbox
from engine.coordinator.ports import Authenticate, WorkerDoor, WorkerSession
from engine.coordinator.register import checked_register, token_of
from engine.coordinator.shares import Share, Shares
from engine.coordinator.taking import (
    Taking,
    is_register,
    refusal,
    short,
    stopped_its_tenant,
    until_made_good,
)
from engine.ext import frames
from engine.model.worker_frames import (
    Draining,
    Refused,
    Register,
    Registered,
    ScannedWorkerFrame,
    WorkerFrameNumber,
)
from engine.wire import worker as wire
from engine.wire.rules import check_frame

_log = logging.getLogger(__name__)


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
        self._refuse(Refused(code=code, message=short(reason), fatal=True))
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
        share, self._share = self._share, None
        if share is not None:
            share.leave()
        session, self._session = self._session, None
        if session is not None:
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
            taking = await self._register(first[0])
            await taking.take(first[1:])
            while not self._over and (batch := await self._receive()) is not None:
                await taking.take(batch)
        except EngineError as error:
            if stopped_its_tenant(error):
                self._offends()
            self._refuse(refusal(error, fatal=True))
        except http2.Disconnected:
            _log.info("lost %s", self)
        except Exception as failure:  # noqa: BLE001 - one stream's defect ends that stream
            self.note_defect("reading from", failure)
            self._refuse(refusal(InternalFailure(DEFECT), fatal=True))
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

    async def _register(self, frame: ScannedWorkerFrame) -> Taking:
        if not is_register(frame):
            raise InvalidInput(
                "the first frame of a stream is Register, and this is another one: register "
                "before anything else",
                field="frame",
            )
        message = frame[2]
        # Who is not known costs no more than the reading of the token.
        tenant_id = self._around.authenticate(token_of(message), self._peer)
        share = self._around.shares.of(tenant_id, self._loop.time())
        await until_made_good(share, 0, self.pulse, self._around.clock)
        share.enter()
        self._share = share
        check_frame(Register, message)
        register = checked_register(
            wire.decode_worker_frame(WorkerFrameNumber.REGISTER, message),
            engine_version=self._around.engine_version,
        )
        self.tenant_id, self.worker_id = tenant_id, register.worker_id
        share.registers(len(register.components), self._loop.time())
        self._around.offenders.check(tenant_id, self.worker_id)
        self.pulse.registered = True
        with held_up(self.pulse, self._around.clock):
            session = await trio_asyncio.trio_as_aio(self._connect)(tenant_id, register)
        self._welcome()
        return Taking(
            session,
            share,
            self.pulse,
            self._around.clock,
            answer=lambda refused: self.send(wire.encode(refused)),
            is_over=lambda: self._over,
        )

    async def _connect(self, tenant_id: TenantId, register: Register) -> WorkerSession:
        """Trio-flavored. The session is noted here and not by the asyncio task, which may have
        been cancelled while the runtime was at it."""
        session = await self._around.door.connect_worker(tenant_id, register, self)
        self._session = session
        if self._over or not http2.is_open(self._stream):
            self._end()
        return session

    def _welcome(self) -> None:
        if self._session is None:
            return
        http2.registered(self._stream)
        registered = _registered(self.worker_id, self._session.number, self._around)
        self._outbox.push_first(wire.encode(registered))
        self._corked = False
        self._sendable.set()
        _log.info("session %d: %s", self._session.number, self)

    # Writing.

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


def _registered(worker_id: str, session: int, around: Surroundings) -> Registered:
    return Registered(
        worker_id=worker_id,
        session=session,
        heartbeat_ms=around.settings.heartbeat_ms,
        lease_ms=around.settings.lease_ms,
        engine_version=around.engine_version,
    )
