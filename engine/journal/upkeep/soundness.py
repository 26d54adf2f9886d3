"""What makes the records of a run sound: keys and headers decode, offsets follow each other without
a gap, they fold, nothing follows the terminal one, and the rows beside them agree.

Read by `inspect.py`, which reports what is not so, and by `salvage.py`, which keeps what comes
before it. How the layers above keep a run's state is theirs, and comes in as `RunStates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

import msgspec

from engine.base.errors import MalformedRecord
from engine.base.ids import RUN_ID_BYTES, RunId, run_id_text
from engine.ext.append import SegmentHead
from engine.ext.offsets import decode_record, split_key
from engine.ext.replay import RunFold
from engine.journal.layout import decode_head, run_key
from engine.journal.store import Store
from engine.journal.upkeep.readable import STATE_TAGS, StoredRun
from engine.model.records import STATUS_AFTER
from engine.model.runs import TERMINAL_STATUSES, RunSummary

_TERMINAL_KINDS: Final = frozenset(
    kind for kind, status in STATUS_AFTER.items() if status in TERMINAL_STATUSES
)


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is not as it must be."""

    what: str
    file: str | None = None
    run_id: str | None = None
    offset: int | None = None


class RunStates(Protocol):
    """How a layer above keeps the state of a run, so that it can be checked and made anew."""

    @property
    def is_complete(self) -> bool:
        """Whether this layer keeps a state of every run, so that one without has lost it."""

    def recognizes(self, row: bytes) -> bool:
        """Whether a state row is of this form; other forms are left alone."""

    def rows_of(self, run: RunId, values: Iterable[bytes]) -> dict[bytes, bytes]:
        """The state rows that the records of a run lead to; `values` are all of them."""


class SummaryStates:
    """The plainest form: one row with the summary that the fold yields."""

    is_complete = False

    def recognizes(self, row: bytes) -> bool:
        try:
            msgspec.msgpack.decode(row, type=RunSummary)
        except msgspec.DecodeError:
            return False
        return True

    def rows_of(self, run: RunId, values: Iterable[bytes]) -> dict[bytes, bytes]:
        fold = RunFold()
        fold.feed_all(values)
        return {run_key(run): msgspec.msgpack.encode(fold.summary())}


def speaks_for(states: RunStates, rows: Mapping[bytes, bytes], *, are_owed: bool) -> bool:
    """Whether the rows of a run's state are for `states` to check and to make. Where states are
    owed, a run without one has lost it."""
    if not rows:
        return are_owed
    return all(states.recognizes(row) for row in rows.values())


def keeps_states(store: Store, states: RunStates) -> bool:
    """Whether the layer that `states` speaks for has kept the states of this store's runs."""
    firsts = (next(store.rows(tag), None) for tag in STATE_TAGS)
    return states.is_complete and any(
        first is not None and states.recognizes(first[1]) for first in firsts
    )


class CheckedRecords:
    """The values of a run's records up to the first that is not as it must be.

    Iterating gives the good ones; afterwards `problem` says what ended them, `next_offset` where.
    """

    def __init__(self, stored: StoredRun) -> None:
        self.run = stored.run
        self.problem: Problem | None = None
        self.count = 0  # all records, also those behind the problem
        self.head = self._read_head(stored)
        self.next_offset = self.head.first_offset
        self._records = stored.records
        self._fold = RunFold() if self.head.first_offset == 0 else None
        self._has_ended = False

    def __iter__(self) -> Iterator[bytes]:
        for key, value in self._records:
            self.count += 1
            if self.problem is None and self._is_next(key, value):
                self.next_offset += 1
                yield value
        if self.problem is None:
            self._check_end()

    def drain(self) -> None:
        for _ in self:
            pass

    def fail(self, what: str, offset: int | None = None) -> None:
        if self.problem is None:
            self.problem = Problem(what, run_id=self._run_text(), offset=offset)

    def refuse_last(self, what: str) -> None:
        """Who takes the records cannot follow the last one that it was given."""
        self.next_offset -= 1
        self.fail(what, self.next_offset)

    def _is_next(self, key: bytes, value: bytes) -> bool:
        try:
            _, offset = split_key(key)
            if offset != self.next_offset:
                self.fail(
                    f"records {self.next_offset} to {offset - 1} are missing"
                    if offset > self.next_offset
                    else f"record {offset} lies before the first that is kept",
                    self.next_offset,
                )
                return False
            kind, _, offset_low, _, _ = decode_record(value)
            if offset_low != offset & 0xFFFF_FFFF:
                raise MalformedRecord(f"the record says it is at offset {offset_low}")
            if self._has_ended:
                raise MalformedRecord("the record follows the run's terminal one")
            self._has_ended = kind in _TERMINAL_KINDS
            if self._fold is not None:
                self._fold.feed(value)
        except MalformedRecord as error:
            self.fail(error.message, self.next_offset)
        return self.problem is None

    def _check_end(self) -> None:
        end = self.head.next_offset
        if self.next_offset < end:
            self.fail(f"records {self.next_offset} to {end - 1} are missing", self.next_offset)
        elif self.head.sealed and self.next_offset > end:
            self.fail(f"records follow the seal at offset {end}", end)

    def _read_head(self, stored: StoredRun) -> SegmentHead:
        if len(stored.run) != RUN_ID_BYTES:
            self.fail("a key does not begin with a run id")
            return SegmentHead(bytes(RUN_ID_BYTES))
        try:
            if stored.head is not None:
                return decode_head(stored.run, stored.head)
        except MalformedRecord as error:
            self.fail(error.message)
        return SegmentHead(stored.run)

    def _run_text(self) -> str:
        return run_id_text(self.run) if len(self.run) == RUN_ID_BYTES else self.run.hex()
