"""The only door to RocksDB: one store is one database with two column families.

`records` (the default family) holds run id + offset -> record; `rows` holds everything small that
must never be apart from the records it belongs to: segment heads, run states, timers, idempotency
entries, archive marks. Calls here block; callers decide on which thread. Driver exceptions stop
here and become the typed errors of `faults.py`.
"""

from __future__ import annotations

import enum
import gc
import itertools
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn, ParamSpec, TypeVar, cast

import rocksdict as rocks

from engine.base.errors import EngineError, JournalClosed
from engine.base.limits import KIB, MIB
from engine.ext.append import PendingBatch
from engine.journal.faults import StoreStalled, damaged, is_stall, translate
from engine.model.rows import made

P = ParamSpec("P")
T = TypeVar("T")
Pair = tuple[bytes, bytes]

_ROWS_FAMILY: Final = "rows"
_WRITE_BUFFER_BYTES: Final = 16 * MIB
_WAL_BYTES_MAX: Final = 64 * MIB
# A full memtable is written out before it holds more than this many; bounds what a crash replays.
_WRITE_BUFFERS_MAX: Final = 3


class OpenMode(enum.Enum):
    READ_WRITE = "read_write"
    READ_ONLY = "read_only"  # beside a process that writes; sees what had been flushed or logged


class StoreResources:
    """What all stores of a process share: the block cache and the bound on unflushed memory.

    `allow_stall` is off: with it, a hundred databases waiting for each other's memory hung.
    """

    def __init__(self, *, block_cache_bytes: int, write_buffer_bytes: int) -> None:
        self.cache = rocks.Cache(block_cache_bytes)
        self.write_buffers = rocks.WriteBufferManager(write_buffer_bytes, False)

    def cache_used_bytes(self) -> int:
        return int(self.cache.get_usage())


def _table_options(resources: StoreResources) -> rocks.BlockBasedOptions:
    table = rocks.BlockBasedOptions()
    table.set_block_cache(resources.cache)
    table.set_block_size(16 * KIB)
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    return table


def _options(resources: StoreResources, mode: OpenMode) -> rocks.Options:
    options = rocks.Options(raw_mode=True)
    options.create_if_missing(mode is OpenMode.READ_WRITE)
    options.create_missing_column_families(mode is not OpenMode.READ_ONLY)
    options.set_block_based_table_factory(_table_options(resources))
    options.set_write_buffer_manager(resources.write_buffers)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(_WRITE_BUFFERS_MAX)
    # A small arena block, since hundreds of tenants that wrote little are open at once.
    options.set_arena_block_size(64 * KIB)
    options.set_max_total_wal_size(_WAL_BYTES_MAX)
    # A reader beside a writer keeps its tables open, since the writer deletes them when they are
    # replaced.
    options.set_max_open_files(-1 if mode is OpenMode.READ_ONLY else 256)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 * MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_skip_stats_update_on_db_open(True)
    options.set_compression_type(rocks.DBCompressionType.lz4())
    options.set_max_background_jobs(2)
    options.set_bytes_per_sync(1 * MIB)
    # An unfinished record at the very end was never acknowledged and may go; anything else that
    # does not check out is refused. `wal.py` has looked before and says exactly what and where.
    options.set_wal_recovery_mode(rocks.DBRecoveryMode.tolerate_corrupted_tail_records())
    return options


def _write_options(*, sync: bool, may_stall: bool) -> rocks.WriteOptions:
    options = rocks.WriteOptions()
    options.sync = sync
    options.no_slowdown = not may_stall
    return options


_WRITE_OPTIONS: Final = {
    (sync, may_stall): _write_options(sync=sync, may_stall=may_stall)
    for sync in (False, True)
    for may_stall in (False, True)
}


class Store:
    """An open database. Thread-safe; every call may block on the disk."""

    def __init__(self, path: Path, resources: StoreResources, mode: OpenMode) -> None:
        self.path = path
        self.mode = mode
        options = _options(resources, mode)
        access = (
            rocks.AccessType.read_only(error_if_log_file_exist=False)
            if mode is OpenMode.READ_ONLY
            else rocks.AccessType.read_write()
        )
        try:
            self._db = rocks.Rdict(
                str(path),
                options=options,
                column_families={_ROWS_FAMILY: _options(resources, mode)},
                access_type=access,
            )
            self._rows = self._db.get_column_family(_ROWS_FAMILY)
            self._rows_handle = self._db.get_column_family_handle(_ROWS_FAMILY)
        except Exception as error:
            raise translate(error, path) from error

    def prepare(self, batch: PendingBatch) -> rocks.WriteBatch:
        """The batch in the driver's form. Needs the interpreter's lock throughout, so it is done
        on the thread that has it anyway; `write` gives the lock away."""
        write = rocks.WriteBatch(raw_mode=True)
        # map and deque run the loop in C; a `for` costs a tenth of the whole put.
        deque(map(write.put, batch.keys, batch.values), maxlen=0)
        if batch.rows or batch.ranges:
            self._put_rows(write, batch)
        return write

    def write(self, prepared: rocks.WriteBatch, *, sync: bool, may_stall: bool = True) -> None:
        """Write a prepared batch as one. With `sync` it is on the disk when this returns.

        Without `may_stall` a write that RocksDB wants to hold back raises `StoreStalled`,
        nothing has happened, and the same batch can be written again.
        """
        try:
            self._db.write(prepared, _WRITE_OPTIONS[sync, may_stall])
        except Exception as error:
            if is_stall(error):
                raise StoreStalled from error
            raise translate(error, self.path) from error

    def _put_rows(self, write: rocks.WriteBatch, batch: PendingBatch) -> None:
        handle = self._rows_handle
        for begin_key, end_key in batch.ranges:
            write.delete_range(begin_key, end_key)
        for key, value in made(batch.rows):
            if value is None:
                write.delete(key, handle)
            else:
                write.put(key, value, handle)

    def sync_wal(self) -> None:
        """Make everything written so far durable."""
        self._guarded(self._db.flush_wal, True)

    def flush(self) -> None:
        """Write the memtables out, so that a reopen has nothing to replay."""
        self._guarded(self._db.flush, True)
        self._guarded(self._rows.flush, True)

    def row(self, key: bytes) -> bytes | None:
        value: bytes | None = self._guarded(self._rows.get, key)
        return value

    def rows(self, prefix: bytes, begin: bytes = b"") -> Iterator[Pair]:
        """Rows whose key begins with `prefix`, in key order, from `begin` on."""
        return self._scan(self._rows, max(prefix, begin), key_after_prefix(prefix))

    def rows_backwards(self, prefix: bytes, below: bytes) -> Iterator[Pair]:
        """Rows whose key begins with `prefix` and is less than `below`, greatest first."""
        options = _read_options(prefix, below)
        last_key = below
        pairs = self._rows.items(backwards=True, read_opt=options)
        for pair in cast("Iterator[Pair]", pairs):
            if pair[0] < prefix:
                return  # the binding drops the lower bound
            last_key = pair[0]
            yield pair
        cursor = self._rows.iter(_read_options(prefix, last_key))
        cursor.seek_to_last()
        self._guarded(cursor.status)

    def records(self, begin_key: bytes, end_key: bytes) -> Iterator[Pair]:
        return self._scan(self._db, begin_key, end_key)

    def record_values(self, begin_key: bytes, end_key: bytes) -> Iterator[bytes]:
        """Values alone, at the full speed of the driver.

        The driver's iterator ends silently at a damaged block: the caller knows how many it must
        get, and calls `explain_short_read` when it got fewer.
        """
        values: Iterator[bytes] = self._db.values(
            from_key=begin_key, read_opt=_read_options(begin_key, end_key)
        )
        return _holding(values, begin_key, end_key)

    def last_record_key(self, begin_key: bytes, end_key: bytes) -> bytes | None:
        """The greatest record key in [begin_key, end_key)."""
        cursor = self._db.iter(_read_options(begin_key, end_key))
        cursor.seek_to_last()
        self._guarded(cursor.status)
        # The binding drops the lower bound, so what comes before is found where there is nothing.
        return cursor.key() if cursor.valid() and cursor.key() >= begin_key else None

    def explain_short_read(self, begin_key: bytes, end_key: bytes) -> EngineError:
        """Why a read of [begin_key, end_key) gave fewer records than there must be."""
        try:
            for _ in self._scan(self._db, begin_key, end_key):
                pass
        except EngineError as error:
            return error
        return damaged(self.path, "records are missing that were acknowledged")

    def _scan(self, family: rocks.Rdict, begin_key: bytes, end_key: bytes) -> Iterator[Pair]:
        last_key: bytes | None = None
        pairs = family.items(from_key=begin_key, read_opt=_read_options(begin_key, end_key))
        for pair in cast("Iterator[Pair]", pairs):
            last_key = pair[0]
            yield pair
        # Did the iterator end, or did it fail? It only says so when asked, at the very key that it
        # did not get past.
        next_key = begin_key if last_key is None else last_key + b"\x00"
        cursor = family.iter(_read_options(next_key, end_key))
        cursor.seek(next_key)
        self._guarded(cursor.status)

    def snapshot(self) -> StoreSnapshot:
        """How everything is at this moment, to be read later; taking it costs microseconds."""
        try:
            return StoreSnapshot(self._rows.iter(), self._db.iter(), self.path)
        except Exception as error:
            raise translate(error, self.path) from error

    def checkpoint(self, path: Path) -> None:
        """A consistent copy at `path`, by hard links where the file system allows."""
        self._guarded(lambda: rocks.Checkpoint(self._db).create_checkpoint(str(path)))

    def compact_records(self, begin_key: bytes | None, end_key: bytes | None) -> None:
        self._guarded(self._db.compact_range, begin_key, end_key)

    def compact_rows(self) -> None:
        self._guarded(self._rows.compact_range, None, None)

    def statistics(self) -> dict[str, int]:
        """RocksDB's own numbers about this store."""
        names = {
            "records_estimated": "rocksdb.estimate-num-keys",
            "files_bytes": "rocksdb.total-sst-files-size",
            "memtable_bytes": "rocksdb.cur-size-all-mem-tables",
            "compactions_pending": "rocksdb.compaction-pending",
        }
        return {
            name: int(self._db.property_int_value(of) or 0)
            + int(self._rows.property_int_value(of) or 0)
            for name, of in names.items()
        }

    def live_files(self) -> list[Path]:
        return [Path(str(self.path) + str(file["name"])) for file in self._db.live_files()]

    def open_again(self, resources: StoreResources, mode: OpenMode) -> Store:
        """The same database, opened beside this one or after it."""
        return Store(self.path, resources, mode)

    def free_bytes(self) -> int:
        """Room on the disk of the store."""
        return shutil.disk_usage(self.path).free

    def sequence_number(self) -> int:
        return int(self._db.latest_sequence_number())

    def close(self) -> None:
        """Close the database and give its lock back, unless an iterator is still held."""
        if "_db" not in vars(self):
            return
        # Closing flushes first, which fails on a store that met a fault. What it would have
        # flushed is in the WAL, so nothing is lost and the next open replays it.
        with suppress(Exception):
            self._db.close()
        # The binding keeps the database (and its lock) for as long as a handle lives.
        del self._rows, self._rows_handle, self._db
        gc.collect(0)

    def __getattr__(self, name: str) -> NoReturn:
        # Reached only for what `close` has deleted.
        if name in ("_db", "_rows", "_rows_handle"):
            raise JournalClosed(f"{self.path} was closed; open the tenant again")
        raise AttributeError(name)

    def _guarded(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return call(*arguments, **named)
        except Exception as error:
            raise translate(error, self.path) from error


class StoreSnapshot:
    """A store as it was. The rows were taken first: a record may be there that has no row yet, a
    row never without its records. Keep it no longer than needed: while it lives, nothing that was
    deleted since gives its room back, and the store cannot be closed. Not for two threads at once.

    Made of cursors, which see what there was when they were made; the driver has snapshots, but
    what iterates over one of those sees the present.
    """

    def __init__(self, rows: rocks.RdictIter, records: rocks.RdictIter, path: Path) -> None:
        self._rows = _Cursor(rows, path)
        self._records = _Cursor(records, path)

    def row(self, key: bytes) -> bytes | None:
        return next((value for _, value in self._rows.scan(key, key + b"\x00")), None)

    def rows(self, prefix: bytes, begin: bytes = b"") -> Iterator[Pair]:
        """As `Store.rows`."""
        return self._rows.scan(max(prefix, begin), key_after_prefix(prefix))

    def record_values(self, begin_key: bytes, end_key: bytes) -> Iterator[bytes]:
        """As `Store.record_values`, and like `rows` it raises where the disk gives too little."""
        return (value for _, value in self._records.scan(begin_key, end_key))


class _Cursor:
    """One of the driver's, for several scans that may be gone on with in any order."""

    def __init__(self, cursor: rocks.RdictIter, path: Path) -> None:
        self._cursor = cursor
        self._path = path
        self._scan_count = 0

    def scan(self, begin_key: bytes, end_key: bytes) -> Iterator[Pair]:
        cursor = self._cursor
        cursor.seek(begin_key)
        self._scan_count += 1
        mine = self._scan_count
        while cursor.valid():
            key: bytes = cursor.key()
            if key >= end_key:
                return
            yield key, cursor.value()
            if self._scan_count == mine:
                cursor.next()
            else:  # somebody else has moved it meanwhile
                cursor.seek(key + b"\x00")
                self._scan_count += 1
                mine = self._scan_count
        try:
            cursor.status()
        except Exception as error:
            raise translate(error, self._path) from error


def _holding(values: Iterator[bytes], begin_key: bytes, end_key: bytes) -> Iterator[bytes]:
    """The driver's iterator reads its bounds from the very bytes objects that it was given, and
    does not keep them alive. Chained, since a generator would cost as much as the reading."""
    return itertools.chain(values, itertools.repeat((begin_key, end_key), 0))  # type: ignore[arg-type]


def _read_options(begin_key: bytes, end_key: bytes) -> rocks.ReadOptions:
    options = rocks.ReadOptions()
    options.set_iterate_lower_bound(begin_key)
    options.set_iterate_upper_bound(end_key)
    return options


def key_after_prefix(prefix: bytes) -> bytes:
    """The least key that is greater than every key with this prefix."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return b"\xff" * 64
    return stripped[:-1] + bytes([stripped[-1] + 1])


def salvage_tables(path: Path) -> None:
    """Let RocksDB make its catalogue anew from the tables that can still be read, and tables from
    the log files. A family is known by its tables alone: without one, its log entries are lost."""
    try:
        rocks.Rdict.repair(str(path), rocks.Options(raw_mode=True))
    except Exception as error:
        raise translate(error, path) from error
