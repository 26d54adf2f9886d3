"""Rows gathered into Arrow tables with the columns of `schema.py`.

The same for what goes into files and for what queries see of the hot tier. Knows no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa

from engine.archive.rows import rows_of
from engine.archive.schema import DATA_SETS, JOURNAL, RUNS, STEPS
from engine.base.ids import RunId, run_id_text
from engine.model.records import RECORD_HEADER, RECORD_HEADER_BYTES, RecordKind

_KINDS: Final = pa.array(["", *(RecordKind(number).name for number in sorted(RecordKind))])
assert len(_KINDS) == max(RecordKind) + 1, "a record's kind is its index"


def go_on() -> None:
    """For who has the interpreter for itself."""


class TableBuilder:
    """Takes runs one by one, in the order in which they are to stand."""

    def __init__(self, *, with_journal: bool) -> None:
        self._with_journal = with_journal
        # Row after row in one list: a list for each of them would keep the garbage collector busy
        # for as long as all the rest takes.
        self._runs: list[Any] = []
        self._steps: list[Any] = []
        self._run_texts: list[str] = []
        self._run_indices: list[int] = []
        self._values: list[bytes] = []
        self.bytes = 0

    @property
    def runs(self) -> int:
        return len(self._runs) // len(RUNS)

    def add(self, run: RunId, values: Sequence[bytes]) -> None:
        """Raises, and has taken nothing, if the records are not those of a run."""
        rows = rows_of(run, values)
        assert len(rows.run) == len(RUNS)
        self._runs += rows.run
        for row in rows.steps:
            assert len(row) == len(STEPS)
            self._steps += row
        self.bytes += sum(map(len, values))
        if self._with_journal:
            self._run_indices += [len(self._run_texts)] * len(values)
            self._run_texts.append(run_id_text(run))
            self._values += values

    def tables(self, pause: Callable[[], None] = go_on) -> dict[str, pa.Table]:
        """What was gathered; the builder is empty again. Arrow makes a column without letting
        another thread in, hence the `pause` between them."""
        tables = {
            "runs": _table(self._runs, RUNS, pause),
            "steps": _table(self._steps, STEPS, pause),
        }
        if self._with_journal:
            tables["journal"] = self._journal(pause)
        self.__init__(with_journal=self._with_journal)  # type: ignore[misc]
        return tables

    def _journal(self, pause: Callable[[], None]) -> pa.Table:
        if not self._values:
            return JOURNAL.empty_table()
        heads = [RECORD_HEADER.unpack_from(value) for value in self._values]
        _, kinds, flags, _, offsets, timestamps = zip(*heads, strict=True)
        pause()
        indices = pa.array(self._run_indices, pa.int32())
        columns = [
            pa.DictionaryArray.from_arrays(indices, pa.array(self._run_texts, pa.string())),
            pa.array(offsets, pa.int64()),
            pa.DictionaryArray.from_arrays(pa.array(kinds, pa.int32()), _KINDS),
            pa.array(flags, pa.int32()),
            pa.array(timestamps, pa.int64()),
            pa.array([value[RECORD_HEADER_BYTES:] for value in self._values], pa.binary()),
        ]
        return pa.Table.from_arrays(columns, names=JOURNAL.names)


def _table(flat: list[Any], schema: pa.Schema, pause: Callable[[], None]) -> pa.Table:
    width = len(schema)
    arrays: list[pa.Array] = []
    for at, field in enumerate(schema):
        arrays.append(_column(flat[at::width], field))
        pause()
    return pa.Table.from_arrays(arrays, schema=schema)


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    if values.count(None) == len(values):
        return pa.nulls(len(values), field.type)  # most runs use few of the columns
    try:
        return pa.array(values, field.type)
    except (OverflowError, pa.ArrowInvalid):
        if not pa.types.is_integer(field.type):
            raise
    # A number that the wire allows and the column does not hold stands at its greatest value.
    greatest = 2 ** (field.type.bit_width - 1) - 1
    return pa.array([None if v is None else min(v, greatest) for v in values], field.type)


assert set(DATA_SETS) == {"runs", "steps", "journal"}
