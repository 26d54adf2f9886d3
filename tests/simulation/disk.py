"""A data directory in memory that fails as it is told: what was not synced is lost with the
process, writes can fail before or after they took effect, the disk can be full for a while.

`SimulatedStore` is what `engine.journal.store.Store` is to a tenant's journal. Knows no run.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from engine.base.errors import (
    EngineError,
    JournalClosed,
    StorageDamaged,
    StorageFailed,
    StorageFull,
)
from engine.base.ids import TenantId
from engine.base.limits import MIB
from engine.ext.append import PendingBatch
from engine.journal.faults import StoreStalled
from engine.journal.store import OpenMode, key_after_prefix
from engine.model.rows import made

Change = tuple[bytes, bytes | None]


class Prepared(msgspec.Struct):
    records: list[Change]
    ranges: list[tuple[bytes, bytes]]
    rows: list[Change]


class Table:
    """Sorted pairs, and how to undo what was not synced."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._undo: list[Change] = []

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def change(self, key: bytes, value: bytes | None) -> None:
        self._undo.append((key, self._values.get(key)))
        self._put(key, value)

    def synced(self) -> None:
        self._undo.clear()

    def lose_unsynced(self) -> None:
        while self._undo:
            self._put(*self._undo.pop())

    def keys(self, begin: bytes, end: bytes) -> list[bytes]:
        at = bisect.bisect_left(self._keys, begin)
        return self._keys[at : bisect.bisect_left(self._keys, end, at)]

    def pairs(self, begin: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        return [(key, self._values[key]) for key in self.keys(begin, end)]

    def _put(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            if self._values.pop(key, None) is not None:
                del self._keys[bisect.bisect_left(self._keys, key)]
            return
        if key not in self._values:
            bisect.insort(self._keys, key)
        self._values[key] = value


class TenantFiles:
    def __init__(self) -> None:
        self.records = Table()
        self.rows = Table()

    def all_records(self) -> list[tuple[bytes, bytes]]:
        return self.records.pairs(b"", b"\xff" * 32)

    def all_rows(self, tag: bytes = b"") -> list[tuple[bytes, bytes]]:
        return self.rows.pairs(tag, key_after_prefix(tag))


class Disk:
    """What outlives a process, and what is wrong with it at the moment."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.tenants: dict[TenantId, TenantFiles] = {}
        self.wakes: dict[TenantId, int] = {}
        self.is_full = False
        self.breaks_next = False  # the next write fails for good
        self.stall_share = 0.0
        self.slow_s = 0.0  # at most, for a commit on a thread
        # Called once, at the next write or behind it: the process ends in the middle of a commit.
        self.at_next_write: Callable[[], None] | None = None
        self.writes = 0

    def files(self, tenant: TenantId) -> TenantFiles:
        return self.tenants.setdefault(tenant, TenantFiles())

    def lose_unsynced(self) -> None:
        for files in self.tenants.values():
            files.records.lose_unsynced()
            files.rows.lose_unsynced()

    def heal(self) -> None:
        self.is_full = self.breaks_next = False
        self.stall_share = self.slow_s = 0.0
        self.at_next_write = None


class SimulatedStore:
    """A tenant's store as one process has it open."""

    def __init__(self, disk: Disk, tenant: TenantId, mode: OpenMode = OpenMode.READ_WRITE) -> None:
        self.path = Path("/nowhere") / tenant
        self.mode = mode
        self.is_dead = False  # its process has ended
        self._disk = disk
        self._tenant = tenant
        self._files = disk.files(tenant)

    # ---- writing ----

    def prepare(self, batch: PendingBatch) -> Prepared:
        pairs = zip(batch.keys, batch.values, strict=True)
        return Prepared(list(pairs), list(batch.ranges), made(batch.rows))

    def write(self, prepared: Prepared, *, sync: bool, may_stall: bool = True) -> None:
        disk = self._disk
        if not may_stall and disk.chance.random() < disk.stall_share:
            raise StoreStalled
        if disk.at_next_write is not None:
            self._end_in_the_middle(prepared)
        self._refuse_if_dead()
        assert self.mode is OpenMode.READ_WRITE
        failure: EngineError | None = None
        if disk.is_full:
            failure = StorageFull("no room on the simulated disk")
        elif disk.breaks_next:
            disk.breaks_next = False
            failure = StorageFailed("the simulated disk broke")
        # What failed may be on the disk all the same.
        if failure is None or disk.chance.random() < 0.4:
            self._take(prepared)
            if sync:
                self.sync_wal()
        if failure is not None:
            raise failure

    def sync_wal(self) -> None:
        self._refuse_if_dead()
        self._files.records.synced()
        self._files.rows.synced()

    def _end_in_the_middle(self, prepared: Prepared) -> None:
        end, self._disk.at_next_write = self._disk.at_next_write, None
        if self._disk.chance.random() < 0.5:
            self._take(prepared)
            if self._disk.chance.random() < 0.5:
                self.sync_wal()
        assert end is not None
        end()

    def _take(self, prepared: Prepared) -> None:
        self._disk.writes += 1
        records, rows = self._files.records, self._files.rows
        for begin, end in prepared.ranges:
            for key in records.keys(begin, end):
                records.change(key, None)
        for key, value in prepared.records:
            records.change(key, value)
        for key, value in prepared.rows:
            rows.change(key, value)

    def _refuse_if_dead(self) -> None:
        if self.is_dead:
            raise JournalClosed("the process has ended")

    # ---- reading ----

    def row(self, key: bytes) -> bytes | None:
        return self._files.rows.get(key)

    def rows(self, prefix: bytes, begin: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return iter(self._files.rows.pairs(max(prefix, begin), key_after_prefix(prefix)))

    def rows_backwards(self, prefix: bytes, below: bytes) -> Iterator[tuple[bytes, bytes]]:
        return reversed(self._files.rows.pairs(prefix, below))

    def records(self, begin_key: bytes, end_key: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._files.records.pairs(begin_key, end_key))

    def record_values(self, begin_key: bytes, end_key: bytes) -> Iterator[bytes]:
        return iter([value for _, value in self._files.records.pairs(begin_key, end_key)])

    def last_record_key(self, begin_key: bytes, end_key: bytes) -> bytes | None:
        keys = self._files.records.keys(begin_key, end_key)
        return keys[-1] if keys else None

    def explain_short_read(self, begin_key: bytes, end_key: bytes) -> EngineError:
        return StorageDamaged(f"records are missing between {begin_key!r} and {end_key!r}")

    # ---- the rest ----

    def open_again(self, _: object, mode: OpenMode) -> SimulatedStore:
        if mode is OpenMode.READ_WRITE and self._disk.is_full:
            raise StorageFull("still no room on the simulated disk")
        opened = SimulatedStore(self._disk, self._tenant, mode)
        opened.is_dead = self.is_dead
        return opened

    def free_bytes(self) -> int:
        return 0 if self._disk.is_full else 1_024 * MIB

    def statistics(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        """Nothing of it is held."""
