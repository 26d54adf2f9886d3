"""A run's state, made anew from its records alone: so that an operator can check what is stored,
and has it again where it was lost.

For `engine journal verify` and `salvage`, which know the journal but not what a state is.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.base.errors import MalformedRecord
from engine.base.ids import RunId
from engine.core.apply import UNREAD_KINDS, apply
from engine.core.state import RunState, decode_state, encode_state
from engine.core.transitions import IllegalTransition
from engine.ext.offsets import decode_record
from engine.journal.layout import open_run_key, run_key
from engine.model.records import RecordKind
from engine.wire import journal as payloads


class JournaledStates:
    """The state rows that the runtime keeps, one of every run; see `soundness.RunStates`."""

    is_complete = True

    def recognizes(self, row: bytes) -> bool:
        try:
            decode_state(row)
        except MalformedRecord:
            return False
        return True

    def rows_of(self, run: RunId, values: Iterable[bytes]) -> dict[bytes, bytes]:
        state = RunState(run_id=run)
        for value in values:
            _apply_record(state, value)
        if state.status is None:
            return {}
        key = run_key(run) if state.is_terminal else open_run_key(run)
        return {key: encode_state(state)}


def _apply_record(state: RunState, value: bytes) -> None:
    kind_number, _, _, timestamp_us, data = decode_record(value)
    kind = RecordKind(kind_number)
    payload = None if kind in UNREAD_KINDS else payloads.decode(kind, data)
    try:
        apply(state, kind, payload, timestamp_us)
    except IllegalTransition as error:
        raise MalformedRecord(error.message, **error.details) from error
