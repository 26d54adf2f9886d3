"""What a decision becomes on its way to the segment: bytes, rows, and effects with their address.

Everything that can be refused is checked here before anything has changed. Pure, except that the
worker's address is looked up in the lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from engine.base import limits
from engine.base.errors import LimitExceeded
from engine.core.shared import asks_shared
from engine.core.state import RunState, encode_state
from engine.core.transition import Transition
from engine.core.transitions import status_after
from engine.core.values import Entry
from engine.ext.append import PendingBatch
from engine.journal.layout import finished_key, open_run_key, run_key
from engine.model import effects
from engine.model.effects import Effect
from engine.model.payloads import WaitCreated, WaitResolved
from engine.model.records import RecordKind
from engine.model.rows import LateRow, RowValue
from engine.model.runs import RunStatus
from engine.runtime.writer.live import LiveRun
from engine.runtime.writer.performing import RevokeTo
from engine.wire.journal import encode

# A worker that will go on holding a run hears of what the engine wrote; these it must not miss.
_DELIVERED: Final = frozenset(
    {
        RecordKind.WAIT_RESOLVED,
        RecordKind.CHILD_FINISHED,
        RecordKind.STATE_READ,
        RecordKind.STATE_CONFLICTED,
    }
)
# By how much a state row may grow with a record, beside the record's own bytes.
_ROW_GROWTH_PER_RECORD: Final = 128


def check_transitions(state: RunState, entries: Sequence[Entry]) -> None:
    """All of them are legal, before the first one is applied."""
    status = state.status
    for entry in entries:
        parks = isinstance(entry.payload, WaitCreated) and entry.payload.parks
        status = status_after(status, entry.kind, parks=parks)


def payloads_of(entries: Sequence[Entry]) -> list[bytes]:
    """The records' payloads, each of which fits a record, and all of them a transition."""
    if len(entries) > limits.records_per_transition_max:
        raise LimitExceeded(
            f"this would be {len(entries)} records at once, the limit is "
            f"{limits.records_per_transition_max}; report less at a time",
            records=len(entries),
        )
    payloads: list[bytes] = []
    for entry in entries:
        raw = entry.raw
        if raw is None:
            assert entry.payload is not None
            raw = encode(entry.payload)
        if len(raw) > limits.record_payload_bytes_max:
            raise LimitExceeded(
                f"a {entry.kind.name} record of {len(raw)} bytes is over the limit of "
                f"{limits.record_payload_bytes_max}; store large values elsewhere and record a "
                "reference",
                length=len(raw),
            )
        payloads.append(raw)
    return payloads


def may_outgrow(live: LiveRun, payloads: Sequence[bytes]) -> bool:
    """Whether the state row may turn out to be too large, so that its length has to be known."""
    growth = growth_of(payloads)
    if live.row_bytes + growth > limits.row_bytes_max and live.late is not None:
        live.late[1].made()  # then its length is known, and not what it might have grown to
        live.late = None
    return live.row_bytes + growth > limits.row_bytes_max


def growth_of(payloads: Sequence[bytes]) -> int:
    """By how much the state row may grow with these records."""
    return sum(map(len, payloads)) + _ROW_GROWTH_PER_RECORD * (len(payloads) + 4)


def make_late_row(live: LiveRun, batch: PendingBatch) -> None:
    """Before a transition that goes into this batch: a row of an earlier one says what the state is
    now."""
    if live.late is not None and live.late[0] is not batch:
        live.late[1].made()
        live.late = None


class Rows(NamedTuple):
    """Of the state after a transition."""

    rows: list[tuple[bytes, RowValue]]
    # The row that says it, if that is made when its batch is written.
    late: tuple[PendingBatch, LateRow] | None
    row_bytes: int


def rows_of(
    live: LiveRun, planned: Transition, batch: PendingBatch, payloads: Sequence[bytes], *, now: bool
) -> Rows:
    """The rows of the state that is to come. The row of a large one, such as a parent's of
    thousands of children, is made when the batch is written, for all its transitions at once,
    unless it has to be `now`."""
    state = planned.state
    if now or state.is_terminal or live.row_bytes < limits.late_row_bytes_min:
        rows = state_rows(planned.whole())
        raw = rows[-1][1]
        assert raw is not None
        return Rows([*rows], None, len(raw))  # a late one is overtaken by this one
    row_bytes = live.row_bytes + growth_of(payloads)
    if live.late is not None:
        return Rows([], live.late, row_bytes)  # it is in the batch already

    def make() -> bytes:
        row = encode_state(live.state)  # as of the last transition that was accepted
        live.row_bytes = len(row)
        return row

    late = LateRow(make, row_bytes)
    return Rows([(open_run_key(state.run_id), late)], (batch, late), row_bytes)


def late_row_written(live: LiveRun, late: tuple[PendingBatch, LateRow]) -> None:
    """Its batch is on the disk, and is not kept for the sake of one row."""
    if live.late is late:
        live.late = None


def state_rows(state: RunState) -> list[tuple[bytes, bytes | None]]:
    """The state itself comes last. Open runs have a row of their own sort, so that a start finds
    them and only them."""
    if state.is_terminal:
        return [
            (open_run_key(state.run_id), None),
            # Until a batch of the archive that holds the run is acknowledged.
            (finished_key(state.ended_ms, state.run_id), b""),
            (run_key(state.run_id), encode_state(state)),
        ]
    return [(open_run_key(state.run_id), encode_state(state))]


def addressed(live: LiveRun, released: Sequence[Effect]) -> list[Effect]:
    """A revocation goes to the worker that holds the run now; after it nobody does."""
    found: list[Effect] = []
    for effect in released:
        if not isinstance(effect, effects.Revoke):
            found.append(effect)
        elif live.lease is not None:
            port = live.lease.worker.port
            found.append(
                RevokeTo(effect.run_id, effect.lease_epoch, effect.reason, effect.message, port)
            )
    return found


def deliveries(live: LiveRun, planned: Transition) -> list[Effect]:
    """What the worker that holds the run, and goes on holding it, has to hear."""
    lease = live.lease
    if lease is None or planned.state.status is not RunStatus.RUNNING:
        return []
    for entry in planned.entries:
        if entry.kind in _DELIVERED or asks_shared(entry.payload):
            count = len(planned.entries)
            return [effects.Deliver(live.run_id, lease.epoch, planned.first_offset, count)]
    return []


def note_entries(
    live: LiveRun,
    entries: Sequence[Entry],
    payloads: Sequence[bytes],
    first_offset: int,
    now_us: int,
) -> None:
    """What a dispatch would send is kept as long as it is one page."""
    if live.entries is None:
        return
    offset = first_offset
    for entry, payload in zip(entries, payloads, strict=True):
        live.entries.append((entry.kind, payload, offset, now_us))
        live.entries_bytes += len(payload)
        offset += 1
    if (
        len(live.entries) > limits.dispatch_entries_cached_max
        or live.entries_bytes > limits.dispatch_page_bytes_max
    ):
        live.entries = None


def note_resolved(live: LiveRun, entries: Sequence[Entry]) -> None:
    """The worker that holds the run may not have heard of these yet."""
    if live.lease is not None and live.state.status is RunStatus.RUNNING:
        for entry in entries:
            if isinstance(entry.payload, WaitResolved):
                live.lease.resolved.add(entry.payload.wait_id)
