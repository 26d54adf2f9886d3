"""A run that is in memory: its state, its segment, and who holds it at this moment.

A lease is a fact of the running process and of nothing else: after a restart nobody holds
anything, and the epoch in the journal fences whoever still believes to.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from engine.base.errors import StorageFailed, UnknownRun
from engine.base.ids import RunId, TenantId, run_id_text
from engine.core.state import RunState, decode_state
from engine.ext.append import PendingBatch
from engine.journal.layout import open_run_key, run_key
from engine.journal.segment import Segment
from engine.journal.tenant import TenantJournal
from engine.model.payloads import Error, Payload, RunCancelled, RunCompleted, RunFailed
from engine.model.records import RecordKind
from engine.model.rows import LateRow
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


class RunEnded(NamedTuple):
    """For whoever follows a tenant's runs: the record that says so is durable."""

    tenant_id: TenantId
    run_id: RunId
    status: RunStatus


class LiveRun:
    """Its state and its segment are taken from the disk when somebody asks for them, and can be put
    down again (`rest`): a hundred thousand runs that wait for a worker are as many ids."""

    __slots__ = (
        "_end_offset",
        "_journal",
        "_segment",
        "_state",
        "ending",
        "entries",
        "entries_bytes",
        "is_queued",
        "late",
        "lease",
        "row_bytes",
        "run_id",
    )

    def __init__(
        self,
        state: RunState,
        segment: Segment | None = None,
        *,
        journal: TenantJournal | None = None,
        entries: list[JournalEntryBytes] | None = None,
        row_bytes: int = 0,
    ) -> None:
        """Without a journal it has what it is given, for good."""
        assert segment is not None or journal is not None
        self.run_id = RunId(state.run_id)
        self.lease: Lease | None = None
        self.is_queued = False
        self.ending: Ending | None = None
        # The state row of a batch that is filling, which the next transition may come into.
        self.late: tuple[PendingBatch, LateRow] | None = None
        # The journal so far, as long as it is short and was written in this process: a dispatch
        # then needs no read. None: read it from the segment.
        self.entries = entries
        self.entries_bytes = 0
        # How large the state row was when it was last read or written.
        self.row_bytes = row_bytes
        self._state: RunState | None = state
        self._end_offset = state.next_offset
        self._segment = segment
        self._journal = journal

    @property
    def state(self) -> RunState:
        if self._state is None:
            assert self._journal is not None
            row = self._journal.row(open_run_key(self.run_id))
            if row is None:  # it ended while somebody held on to what it was
                row = self._journal.row(run_key(self.run_id))
            if row is None:
                raise UnknownRun(
                    f"run {run_id_text(self.run_id)} is not here any more; its row was deleted"
                )
            self._state = decode_state(row)
            self._end_offset = self._state.next_offset
            self.row_bytes = len(row)
        return self._state

    @state.setter
    def state(self, state: RunState) -> None:
        self._state = state

    @property
    def segment(self) -> Segment:
        if self._segment is None:
            assert self._journal is not None
            if self._state is None:
                self._end_offset = self.state.next_offset
            # The row is written with the records, so it knows where they end.
            self._segment = self._journal.open_segment(self.run_id, next_offset=self._end_offset)
        return self._segment

    @property
    def is_written(self) -> bool:
        """Its row on the disk says all there is."""
        return (
            self._segment is None
            or self._state is None
            or self._segment.durable_offset == self._state.next_offset
        )

    @property
    def is_resting(self) -> bool:
        return self._state is None

    @property
    def is_on_disk(self) -> bool:
        """Nobody holds it, it is in no queue, and its row on the disk says all there is."""
        return self.lease is None and not self.is_queued and self.is_written

    def rest(self) -> None:
        """Keep the id only. Not while anything of it is on its way to the disk."""
        assert self._journal is not None
        assert self.is_written
        assert self.lease is None
        assert self.ending is None
        self._state = self._segment = self.entries = self.late = None


def ended_as(live: LiveRun) -> Ending:
    """How a run that has ended did so, from its last record on the disk."""
    assert live.state.is_terminal
    for record in live.segment.read(live.state.outcome_offset, records_max=1):
        return ending_of(record.kind, record.payload)
    # Its row can be read and its records do not count: the write that brought both is the one
    # that failed.
    raise StorageFailed(
        f"run {run_id_text(live.run_id)} may have ended in the write that its tenant's journal "
        "stopped at; ask again when the journal goes on, or after a restart of the runtime"
    )


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
