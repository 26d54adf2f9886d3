"""Data directories with sound histories in them, for tests that then hurt them.

Owns what was acknowledged, in the order it was; knows nothing of damage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.base.ids import RunId, TenantId
from engine.base.limits import MIB
from engine.ext.append import PendingBatch
from engine.ext.offsets import record_key
from engine.ext.replay import RunFold
from engine.journal.layout import run_key, store_path
from engine.journal.store import OpenMode, Store, StoreResources
from engine.journal.tenant import TenantJournal
from engine.model.records import NewRecord
from tests.histories import transitions
from tests.journal.harness import ACME, OTHER, files_as_they_are, journal_at, run_number
from tests.twins.offsets import encode_record

Pair = tuple[bytes, bytes]
ALL_RECORDS = (bytes(24), b"\xff" * 25)


class Sound(NamedTuple):
    """A data directory as a SIGKILL leaves it, and its records in the order of their commits."""

    path: Path
    acknowledged: dict[TenantId, list[Pair]]

    def of_run(self, tenant: TenantId, run: RunId) -> list[bytes]:
        return [value for key, value in self.acknowledged[tenant] if key.startswith(run)]

    def runs(self, tenant: TenantId) -> list[RunId]:
        return sorted({RunId(key[:16]) for key, _ in self.acknowledged[tenant]})

    def store(self, tenant: TenantId = ACME) -> Path:
        return store_path(self.path, tenant)


async def sound_directory(
    folder: Path,
    *,
    tenants: Sequence[TenantId] = (ACME, OTHER),
    runs: int = 6,
    records_max: int = 30,
    in_tables: float = 0.0,
) -> Sound:
    """Runs with their states, portion by portion in turn; the first part of them in tables, as
    much as `in_tables` says, and the rest in the log."""
    acknowledged: dict[TenantId, list[Pair]] = {tenant: [] for tenant in tenants}
    async with journal_at(folder / "origin", durability="os") as journal:
        for tenant in tenants:
            async with journal.use(tenant) as opened:
                portions = _in_turn(runs, records_max)
                in_table = int(len(portions) * in_tables)
                folds = {run_number(number): RunFold() for number in range(1, runs + 1)}
                for position, (run, records) in enumerate(portions):
                    if position == in_table and in_tables:
                        opened.store.flush()
                    acknowledged[tenant] += await _append(opened, run, records, folds[run])
                if in_tables == 1.0:
                    opened.store.flush()
        path = files_as_they_are(folder / "origin", folder / "data")
    return Sound(path, acknowledged)


def _in_turn(runs: int, records_max: int) -> list[tuple[RunId, list[NewRecord]]]:
    waiting = {number: transitions(number, records_max) for number in range(1, runs + 1)}
    portions: list[tuple[RunId, list[NewRecord]]] = []
    while waiting:
        for number, rest in list(waiting.items()):
            portion = next(rest, None)
            if portion is None:
                del waiting[number]
            else:
                portions.append((run_number(number), portion))
    return portions


async def _append(
    opened: TenantJournal, run: RunId, records: list[NewRecord], fold: RunFold
) -> list[Pair]:
    """A transition as the runtime makes it: records and state in one batch."""
    segment = opened.open_segment(run)
    pairs = [
        (
            record_key(run, offset),
            encode_record(new.kind, new.flags, offset, new.timestamp_us, new.payload),
        )
        for offset, new in enumerate(records, segment.next_offset)
    ]
    fold.feed_all(value for _, value in pairs)
    row = (run_key(run), msgspec.msgpack.encode(fold.summary()))
    await segment.append_many(records, rows=[row])
    return pairs


def resources() -> StoreResources:
    """Its own for each store: a cache shared with a good copy would hide a bad one's damage."""
    return StoreResources(block_cache_bytes=1 * MIB, write_buffer_bytes=4 * MIB)


def batch_of(
    pairs: Sequence[Pair], rows: Sequence[tuple[bytes, bytes | None]] = ()
) -> PendingBatch:
    """A batch for a store itself, without a journal that would refuse it."""
    batch = PendingBatch()
    batch.keys.extend(key for key, _ in pairs)
    batch.values.extend(value for _, value in pairs)
    batch.rows.extend(rows)
    return batch


def records_on_disk(store_path: Path) -> list[Pair]:
    store = Store(store_path, resources(), OpenMode.READ_WRITE)
    try:
        return list(store.records(*ALL_RECORDS))
    finally:
        store.close()
