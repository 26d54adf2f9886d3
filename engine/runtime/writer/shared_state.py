"""A tenant's shared state: where `core.shared` gets the values from, and where they are kept.

A value is a row, written in the transition of the run that changed it. Until that is durable it is
read from memory, as the single writer has decided it. Knows no rule.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from engine.base.errors import MalformedRecord
from engine.core.shared import SharedValues, asks_shared, scope_key
from engine.core.state import RunState
from engine.core.values import Entry
from engine.journal.layout import state_key
from engine.journal.tenant import TenantJournal
from engine.model.commands import ReportedEntry, SharedValue
from engine.model.payloads import StateChanged
from engine.model.records import RecordKind
from engine.runtime.writer.performing import Call

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(SharedValue)

# Key of the row -> the value that the transition gives it.
Changes = dict[bytes, SharedValue]


class SharedState:
    def __init__(self, journal: TenantJournal) -> None:
        self._journal = journal
        # Decided, and on their way to the disk.
        self._pending: Changes = {}

    def asked_for(self, state: RunState, entries: Iterable[ReportedEntry]) -> SharedValues:
        """What a report asks about, as it is now."""
        found: SharedValues = {}
        for entry in entries:
            asked = entry.payload
            if asks_shared(asked):
                scope = int(asked.scope)
                key = state_key(state.project_id, scope, scope_key(state, scope), asked.name)
                found[scope, asked.name] = self._value(key)
        return found

    def _value(self, key: bytes) -> SharedValue:
        pending = self._pending.get(key)
        if pending is not None:
            return pending
        row = self._journal.row(key)
        try:
            return SharedValue() if row is None else _DECODER.decode(row)
        except msgspec.DecodeError as error:
            raise MalformedRecord(
                f"the row of a shared value cannot be read ({error}); run `engine journal verify`",
                length=len(row or b""),
            ) from error

    @staticmethod
    def changes_in(state: RunState, entries: Sequence[Entry]) -> Changes:
        """What the decided records change, the last change of each value."""
        changes: Changes = {}
        for entry in entries:
            changed = entry.payload
            if entry.kind is RecordKind.STATE_CHANGED and asks_shared(changed):
                assert isinstance(changed, StateChanged)
                scope = int(changed.scope)
                key = state_key(state.project_id, scope, changed.scope_key, changed.name)
                value = None if changed.deleted else changed.value
                changes[key] = SharedValue(changed.revision, value)
        return changes

    def rows(self, changes: Changes) -> list[tuple[bytes, bytes | None]]:
        return [(key, _ENCODER.encode(value)) for key, value in changes.items()]

    def hold(self, changes: Changes) -> None:
        """They are on their way to the disk and count from now on."""
        self._pending.update(changes)

    def when_durable(self, run_id: bytes, changes: Changes) -> Call:
        """The effect that goes with them: the row has them from then on."""
        return Call(run_id, functools.partial(self._durable, changes))

    def _durable(self, changes: Changes) -> None:
        for key, value in changes.items():
            if self._pending.get(key) is value:
                del self._pending[key]

    @property
    def pending_count(self) -> int:
        return len(self._pending)
