"""The frames of the worker stream as plain values: one Struct per cold message of
`protos/engine/v1/worker.proto`, with the same field names, and the shape of what a scan of the hot
ones yields. That file says when each is sent and what each field means; it is not repeated here.

Knows no protobuf: `engine/wire/worker.py` turns cold frames into bytes and back, and
`engine/ext/frames` the hot ones, which are those of every step and have no object made of them. A
default is what the wire leaves out, so 0 and empty mean "not said".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from engine.base.ids import RunId
from engine.model.payloads import RetryPolicy
from engine.model.runs import ComponentKind


class WorkerFrameNumber(enum.IntEnum):
    """Which member of WorkerFrame a frame sets."""

    REGISTER = 1
    HEARTBEAT = 2
    REPORT = 3
    DRAIN = 4
    EMIT = 5


class EngineFrameNumber(enum.IntEnum):
    """Which member of EngineFrame a frame sets."""

    REGISTERED = 1
    DISPATCH = 2
    ACK = 3
    DELIVER = 4
    REVOKE = 5
    REFUSED = 6
    DRAINING = 7


class RevokeReason(enum.IntEnum):
    CANCELLED = 1
    FENCED = 2
    EXPIRED = 3


class WorkerFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A cold frame that a worker sends; WORKER_FRAME_TYPES says which number it has."""


class EngineFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A cold frame that the engine sends; ENGINE_FRAME_TYPES says which number it has."""


class Component(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    kind: ComponentKind | int = 0
    input_schema: bytes = b""
    output_schema: bytes = b""
    retry: RetryPolicy | None = None


class Register(WorkerFrame, frozen=True, kw_only=True):
    token: str = ""
    deployment_id: str = ""
    service_name: str = ""
    components: tuple[Component, ...] = ()
    capacity: int = 0
    sdk_version: str = ""
    worker_id: str = ""

    def __repr__(self) -> str:
        """Without the token: a frame may end up in a log."""
        return f"Register(worker_id={self.worker_id!r}, service_name={self.service_name!r})"


class Heartbeat(WorkerFrame, frozen=True, kw_only=True):
    sent_ms: int = 0


class Drain(WorkerFrame, frozen=True, kw_only=True):
    reason: str = ""


class Registered(EngineFrame, frozen=True, kw_only=True):
    worker_id: str = ""
    session: int = 0
    heartbeat_ms: int = 0
    lease_ms: int = 0
    engine_version: str = ""


class Revoke(EngineFrame, frozen=True, kw_only=True):
    run_id: bytes = b""
    lease_epoch: int = 0
    reason: RevokeReason | int = 0
    message: str = ""


class Refused(EngineFrame, frozen=True, kw_only=True):
    code: str = ""
    message: str = ""
    run_id: bytes = b""
    sequence: int = 0
    fatal: bool = False


class Draining(EngineFrame, frozen=True, kw_only=True):
    reason: str = ""


WORKER_FRAME_TYPES: Final[Mapping[int, type[WorkerFrame]]] = MappingProxyType(
    {
        WorkerFrameNumber.REGISTER: Register,
        WorkerFrameNumber.HEARTBEAT: Heartbeat,
        WorkerFrameNumber.DRAIN: Drain,
    }
)
ENGINE_FRAME_TYPES: Final[Mapping[int, type[EngineFrame]]] = MappingProxyType(
    {
        EngineFrameNumber.REGISTERED: Registered,
        EngineFrameNumber.REVOKE: Revoke,
        EngineFrameNumber.REFUSED: Refused,
        EngineFrameNumber.DRAINING: Draining,
    }
)

# What `engine.ext.frames` yields, one tuple per frame, told apart by its first element. A cold
# frame is its number and the bytes of its message; an unknown frame looks the same, and number 0
# is a frame that says nothing this version knows of.

NewEntry = tuple[int, bytes]  # kind, payload: a record on its way in
Entry = tuple[int, bytes, int, int]  # kind, payload, offset, timestamp_us: a record of the journal

ColdFrame = tuple[Literal["cold"], int, bytes]  # number, message
# run_id, lease_epoch, sequence, entries
ScannedReport = tuple[Literal["report"], RunId, int, int, list[NewEntry]]
# sent_ms
ScannedHeartbeat = tuple[Literal["heartbeat"], int]
# run_id, lease_epoch, event, data
ScannedEmit = tuple[Literal["emit"], RunId, int, str, bytes]
# run_id, lease_epoch, attempt, component, kind, journal, more
ScannedDispatch = tuple[Literal["dispatch"], RunId, int, int, str, int, list[Entry], bool]
# run_id, lease_epoch, sequence
ScannedAck = tuple[Literal["ack"], RunId, int, int]
# run_id, lease_epoch, entries
ScannedDeliver = tuple[Literal["deliver"], RunId, int, list[Entry]]

ScannedWorkerFrame = ScannedReport | ScannedHeartbeat | ScannedEmit | ColdFrame
ScannedEngineFrame = ScannedDispatch | ScannedAck | ScannedDeliver | ColdFrame
