"""What a registered worker sends, to the runtime's session: one frame after the other.

A report that the journal has no room for is tried again, and nothing is read meanwhile; nor is it
where the tenant is over its share. However much comes, the other streams have their turns between.
Knows no connection: how an answer travels, and when the stream is over, it is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeGuard

from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import EngineError, InvalidInput, JournalBusy, TenantFailed
from engine.coordinator.liveness import Pulse, held_up
from engine.coordinator.ports import WorkerSession
from engine.coordinator.shares import Share
from engine.model.worker_frames import (
    WORKER_FRAME_TYPES,
    ColdFrame,
    Drain,
    Refused,
    ScannedReport,
    ScannedWorkerFrame,
    WorkerFrameNumber,
)
from engine.wire import worker as wire
from engine.wire.rules import check_frame

_log = logging.getLogger(__name__)


class Taking:
    def __init__(
        self,
        session: WorkerSession,
        share: Share,
        pulse: Pulse,
        clock: Clock,
        *,
        answer: Callable[[Refused], None],
        is_over: Callable[[], bool],
    ) -> None:
        self._session: Final = session
        self._share: Final = share
        self._pulse: Final = pulse
        self._clock: Final = clock
        self._answer: Final = answer
        self._is_over: Final = is_over
        self._frames_taken = 0

    async def take(self, batch: Sequence[ScannedWorkerFrame]) -> None:
        for frame in batch:
            if self._is_over():
                return
            if frame[0] == "report":
                await self._report(frame)
            elif frame[0] == "heartbeat":
                self._session.heartbeat()
            elif frame[0] == "emit":
                try:
                    self._session.emit(frame[1], frame[2], frame[3], frame[4])
                except EngineError as error:
                    self._refuse(error, frame[1])
            else:
                self._take_cold(frame)
            self._frames_taken += 1
            if self._frames_taken % limits.stream_frames_per_turn_max == 0:
                await asyncio.sleep(0)  # a flood from one worker is not the others' wait
                await until_made_good(
                    self._share, limits.stream_frames_per_turn_max, self._pulse, self._clock
                )

    def _refuse(self, error: EngineError, run_id: bytes, sequence: int = 0) -> None:
        if stopped_its_tenant(error):
            raise error
        self._answer(refusal(error, run_id, sequence))

    async def _report(self, frame: ScannedReport) -> None:
        _, run_id, lease_epoch, sequence, entries = frame
        try:
            try:
                self._session.report(run_id, lease_epoch, sequence, entries)
            except JournalBusy:
                await self._report_when_there_is_room(frame)
        except EngineError as error:
            self._refuse(error, run_id, sequence)

    async def _report_when_there_is_room(self, frame: ScannedReport) -> None:
        """Nothing is read meanwhile, so that the worker, too, comes to a stop."""
        _, run_id, lease_epoch, sequence, entries = frame
        with held_up(self._pulse, self._clock):
            for retries_left in range(limits.stream_busy_retries_max, -1, -1):
                await asyncio.sleep(limits.stream_busy_retry_ms / 1_000)
                if self._is_over():
                    return
                try:
                    self._session.report(run_id, lease_epoch, sequence, entries)
                except JournalBusy:
                    if not retries_left:
                        raise
                else:
                    return

    def _take_cold(self, frame: ColdFrame) -> None:
        if is_register(frame):
            raise InvalidInput(
                "this stream is registered already: open another stream to register again",
                field="frame",
            )
        if frame[1] in WORKER_FRAME_TYPES:  # others are a newer version's, and skipped
            check_frame(Drain, frame[2])
            decoded = wire.decode_worker_frame(frame[1], frame[2])
            assert isinstance(decoded, Drain)
            _log.info("session %d drains: %s", self._session.number, decoded.reason)
            self._session.drain()


async def until_made_good(share: Share, frames: int, pulse: Pulse, clock: Clock) -> None:
    """So many frames were taken. The workers of a tenant wait for one another, and for nobody
    else."""
    wait_s = share.frames.spend(frames, asyncio.get_running_loop().time())
    if wait_s:
        with held_up(pulse, clock):
            await asyncio.sleep(wait_s)


def is_register(frame: ScannedWorkerFrame) -> TypeGuard[ColdFrame]:
    return frame[0] == "cold" and frame[1] == WorkerFrameNumber.REGISTER


def stopped_its_tenant(error: EngineError) -> bool:
    """Whether it was this very frame. Who finds the tenant stopped by another one is told the same
    without a cause, and stays."""
    return isinstance(error, TenantFailed) and error.__cause__ is not None


def refusal(
    error: EngineError, run_id: bytes = b"", sequence: int = 0, *, fatal: bool = False
) -> Refused:
    return Refused(
        code=error.code,
        message=short(error.message),
        run_id=run_id,
        sequence=sequence,
        fatal=fatal,
    )


def short(text: str) -> str:
    return text[: limits.stream_refusal_characters_max]
