"""A run that is in memory: its state, its segment, and who holds it at this moment.

A lease is a fact of the running process and of nothing else: after a restart nobody holds
anything, and the epoch in the journal fences whoever still believes to.
"""

from __future__ import annotations

import dataclasses

from engine.base.ids import RunId
from engine.core.state import RunState
from engine.journal.segment import Segment
from engine.model.payloads import Error, Payload, RunCancelled, RunCompleted, RunFailed
from engine.model.records import RecordKind
from engine.model.runs import RunStatus
from engine.runtime.pools import PooledWorker
from engine.wire.journal import decode

# kind, payload, offset, timestamp_us: as a dispatch carries it
JournalEntryBytes = tuple[int, bytes, int, int]


@dataclasses.dataclass(slots=True)
class Lease:
    epoch: int
    worker: PooledWorker
    # The last report of the worker that was taken; the next one must have the number after it.
    sequence: int = 0
    # Waits resolved since the grant: the worker may not have heard of them yet.
    resolved: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(slots=True)
class Ending:
    """How a run ended, from the record that ended it."""

    status: RunStatus
    output: bytes = b""
    error: Error | None = None


@dataclasses.dataclass(slots=True)
class LiveRun:
    state: RunState
    segment: Segment
    lease: Lease | None = None
    is_queued: bool = False
    ending: Ending | None = None
    # The journal so far, as long as it is short and was written in this process: a dispatch then
    # needs no read. None: read it from the segment.
    entries: list[JournalEntryBytes] | None = None

    @property
    def run_id(self) -> RunId:
        return RunId(self.state.run_id)


def ending_of(kind: RecordKind, raw: bytes | None, payload: Payload | None = None) -> Ending:
    """How a run ended, from its last record."""
    if payload is None:
        assert raw is not None
        payload = decode(kind, raw)
    if isinstance(payload, RunCompleted):
        return Ending(RunStatus.COMPLETED, payload.output)
    if isinstance(payload, RunFailed):
        return Ending(RunStatus.FAILED, error=payload.error)
    assert isinstance(payload, RunCancelled)
    reason = Error(code="cancelled", message=payload.reason, non_retryable=True)
    return Ending(RunStatus.CANCELLED, error=reason)
