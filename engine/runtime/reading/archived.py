"""A run whose hot copy is gone, as the rest of the runtime sees it: its records from the archive,
and the state that they lead to.

Whatever reads a run takes it like any other; whatever would change it is refused by the rules,
since it has ended. Knows no Parquet and no object store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NoReturn

import trio

from engine.base import limits
from engine.base.errors import LimitExceeded, SegmentSealed
from engine.base.ids import RunId, TenantId, run_id_text
from engine.core.apply import UNREAD_KINDS, apply
from engine.core.state import RunState
from engine.ext.offsets import encode_record
from engine.ext.replay import RunFold
from engine.journal.segment import Segment
from engine.model.records import Record
from engine.model.runs import RunSummary
from engine.runtime.writer.live import LiveRun
from engine.wire.journal import decode


class ArchivedSegment(Segment):
    """All the records of a run that has ended. Nothing can be appended: `decide` refuses before
    it comes to that."""

    __slots__ = ("_records",)

    def __init__(self, tenant: TenantId, run: RunId, records: Sequence[Record]) -> None:
        self.tenant_id = tenant
        self.run_id = run
        self._records = records

    @property
    def first_offset(self) -> int:
        return 0

    @property
    def next_offset(self) -> int:
        return len(self._records)

    @property
    def durable_offset(self) -> int:
        return len(self._records)

    @property
    def is_sealed(self) -> bool:
        return True

    def read(
        self,
        from_offset: int = 0,
        *,
        records_max: int = limits.read_page_records_max,
        bytes_max: int | None = None,
    ) -> list[Record]:
        if records_max < 1:
            raise LimitExceeded("records_max must be at least 1", records_max=records_max)
        left = limits.read_page_bytes_max if bytes_max is None else bytes_max
        page: list[Record] = []
        for record in self._records[from_offset : from_offset + records_max]:
            left -= len(record.payload)
            if page and left < 0:
                break
            page.append(record)
        return page

    def read_values(
        self, from_offset: int = 0, records_max: int = limits.read_page_records_max
    ) -> Iterator[bytes]:
        for record in self._records[from_offset : from_offset + records_max]:
            yield encode_record(
                record.kind, record.flags, record.offset, record.timestamp_us, record.payload
            )

    def fold(self) -> RunSummary:
        fold = RunFold()
        fold.feed_all(self.read_values(0, max(1, len(self._records))))
        return fold.summary()

    async def wait_beyond(self, offset: int) -> NoReturn:
        raise SegmentSealed(
            f"run {run_id_text(self.run_id)} has ended and is in the archive; there will be no "
            f"record after offset {len(self._records) - 1} to wait for",
            next_offset=len(self._records),
        )


async def archived_run(tenant: TenantId, run: RunId, records: Sequence[Record]) -> LiveRun:
    """The run that these records, all of them, tell of."""
    state = RunState(run_id=run)
    for count, record in enumerate(records, 1):
        if count % limits.fold_records_max == 0:
            await trio.lowlevel.checkpoint()  # a long history is not the others' wait
        payload = None if record.kind in UNREAD_KINDS else decode(record.kind, record.payload)
        apply(state, record.kind, payload, record.timestamp_us)
    return LiveRun(state, ArchivedSegment(tenant, run, records))
