"""What a journal record is: its kind, its header, and what each kind does to a run's status.

A record is a 16-byte header and a payload. The header is fixed so that the compiled loop can fold
a run without decoding the payloads it does not need; the payload is the protobuf message of
`protos/engine/v1/journal.proto` that its kind names, byte for byte as it came over the wire.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

import msgspec

from engine.model.runs import RunStatus

RECORD_VERSION: Final = 1

# version u8, kind u8, flags u8, reserved u8 (zero), the offset's low 32 bits, timestamp in us.
# The offset stands here although the key has it: replay can then read values alone and still see
# a gap, and a value that was moved to another key is found out.
RECORD_HEADER: Final = struct.Struct(">BBBBIq")
RECORD_HEADER_BYTES: Final = RECORD_HEADER.size
assert RECORD_HEADER_BYTES == 16


class RecordKind(enum.IntEnum):
    RUN_ACCEPTED = 1
    RUN_STARTED = 2
    STEP_COMPLETED = 3
    STEP_FAILED = 4
    WAIT_CREATED = 5
    WAIT_RESOLVED = 6
    SIGNAL_RECEIVED = 7
    CHILD_STARTED = 8
    CHILD_FINISHED = 9
    STATE_CHANGED = 10
    USAGE_REPORTED = 11
    RUN_RETRYING = 12
    RUN_YIELDED = 13
    CANCEL_REQUESTED = 14
    RUN_COMPLETED = 15
    RUN_FAILED = 16
    RUN_CANCELLED = 17
    STATE_READ = 18
    STATE_CONFLICTED = 19


# The status a run has after a record of this kind; a kind that is not here leaves it as it was.
# WAIT_CREATED is not here: it parks the run only when its payload says so, and WAIT_RESOLVED
# queues only a run that was WAITING. Those two are in the fold.
STATUS_AFTER: Final[dict[RecordKind, RunStatus]] = {
    RecordKind.RUN_ACCEPTED: RunStatus.QUEUED,
    RecordKind.RUN_STARTED: RunStatus.RUNNING,
    RecordKind.RUN_RETRYING: RunStatus.RETRYING,
    RecordKind.RUN_YIELDED: RunStatus.QUEUED,
    RecordKind.RUN_COMPLETED: RunStatus.COMPLETED,
    RecordKind.RUN_FAILED: RunStatus.FAILED,
    RecordKind.RUN_CANCELLED: RunStatus.CANCELLED,
}


class Record(msgspec.Struct, frozen=True):
    """One record as it stands in a run's segment."""

    offset: int
    kind: RecordKind
    timestamp_us: int
    payload: bytes
    flags: int = 0


class NewRecord(msgspec.Struct, frozen=True):
    """A record on its way in; the segment gives it its offset."""

    kind: RecordKind
    payload: bytes
    timestamp_us: int
    flags: int = 0
