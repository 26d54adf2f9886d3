"""Looks at a store's log files before RocksDB opens it, so that what was cut is reported and damage
is refused, with the file and the place.

What a fragment and a torn tail are is in `logfile.py`. Here is what the records say of each other:
the catalogue names the oldest log that is still needed and the last write it knows of, and batches
number their writes without a gap, which shows whole records and whole files that went missing.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Final

import msgspec
from crc32c import crc32c

from engine.journal.faults import damaged
from engine.journal.logfile import FULL, HEADER_BYTES, KIND_AT, MASK_DELTA, LogScan

_LOG_NAME: Final = re.compile(r"(\d+)\.log\Z")

_BATCH_HEAD: Final = struct.Struct("<QI")  # sequence number of the first write, how many
# A fragment's header and a batch's, as they begin a record that is in one piece.
_WHOLE_HEAD: Final = struct.Struct("<IHBQI")

# Tags of the catalogue's entries; those that matter come before all that describe tables.
_COMPARATOR, _LAST_SEQUENCE, _OLDEST_LOG = 1, 4, 10
_NUMBER_TAGS: Final = frozenset({2, 3, _LAST_SEQUENCE, 9, _OLDEST_LOG, 203})


class WalReport(msgspec.Struct, frozen=True):
    """What the log files of a store hold, and what a crash cut off at their end."""

    files: int = 0
    bytes: int = 0
    records: int = 0
    torn_file: str | None = None
    torn_at: int = 0
    cut_bytes: int = 0
    torn_catalogue: str | None = None
    catalogue_torn_at: int = 0


def check_wal(store_path: Path) -> WalReport:
    """What the write-ahead log holds; raises `StorageDamaged` if opening it would lose a record.

    Only reads. Beside a process that writes, files vanish between one look and the next, which
    shows as FileNotFoundError or as damage that is gone when one looks again.
    """
    catalogue = _read_catalogue(store_path)
    scan = _WalScan(store_path, catalogue.last_sequence)
    for file in wal_files(store_path):
        if file_number(file) >= catalogue.oldest_log:
            scan.read(file)
    return scan.report(catalogue)


def cut_unfinished_ends(report: WalReport) -> str | None:
    """Let the files end where their good part ends, for whoever opens the store to write, and say
    what was cut. RocksDB cuts a short file itself; one whose end has holes it would refuse."""
    if report.torn_catalogue is not None:
        _cut(report.torn_catalogue, report.catalogue_torn_at)
    if report.torn_file is None:
        return None
    _cut(report.torn_file, report.torn_at)
    return (
        f"an unfinished write at the end of {report.torn_file} was cut off: {report.cut_bytes} "
        f"bytes from byte {report.torn_at} on, which a crash had left and nobody was told of"
    )


def _cut(file: str, size: int) -> None:
    with Path(file).open("r+b") as stream:
        stream.truncate(size)
        os.fsync(stream.fileno())


def wal_files(store_path: Path) -> list[Path]:
    """The log files of a store in the order they were written."""
    found = store_path.iterdir() if store_path.is_dir() else ()
    return sorted((file for file in found if _LOG_NAME.match(file.name)), key=file_number)


def file_number(log: Path) -> int:
    return int(log.stem)


def salvaged_path(store_path: Path) -> Path:
    """Where a salvage builds the store that takes the place of the damaged one."""
    return store_path.with_name(f"{store_path.name}.salvaged")


def _read_catalogue(store_path: Path) -> _CatalogueScan:
    """What the catalogue in force says; an empty answer for a store that is still to be made.

    Where the file is missing that names it, RocksDB would make a new, empty database and delete
    the tables of the old one.
    """
    scan = _CatalogueScan(store_path)
    current = store_path / "CURRENT"
    if current.exists():
        catalogue = store_path / current.read_text(encoding="ascii", errors="replace").strip()
        if catalogue.is_file():  # otherwise RocksDB refuses
            scan.read(catalogue)
    elif salvaged_path(store_path).exists():
        raise damaged(store_path, "a salvage was interrupted; start it again")
    elif wal_files(store_path) or any(store_path.glob("*.sst")):
        raise damaged(store_path, "it is missing", str(current))
    return scan


class _CatalogueScan(LogScan):
    """Reads the catalogue for which logs matter and which writes there have been."""

    head_bytes = 128  # room for all numbers that stand before the first table

    def __init__(self, store_path: Path) -> None:
        super().__init__(store_path)
        self.oldest_log = 0
        self.last_sequence: int | None = None

    def take_record(self, head: bytes, at: int) -> None:
        position = 0
        while position < len(head):
            tag, position = _varint(head, position)
            value, position = _varint(head, position)
            if tag == _COMPARATOR:
                position += value
            elif tag not in _NUMBER_TAGS:
                return
            elif tag == _LAST_SEQUENCE:
                self.last_sequence = max(value, self.last_sequence or 0)
            elif tag == _OLDEST_LOG:
                self.oldest_log = max(value, self.oldest_log)


class _WalScan(LogScan):
    """Reads the log files and follows the numbers of the writes through them."""

    head_bytes = _BATCH_HEAD.size

    def __init__(self, store_path: Path, last_sequence: int | None) -> None:
        super().__init__(store_path)
        self._next_sequence = None if last_sequence is None else last_sequence + 1

    def report(self, catalogue: LogScan) -> WalReport:
        torn, of_catalogue = self.torn, catalogue.torn
        return WalReport(
            files=self.files,
            bytes=self.bytes,
            records=self.records,
            torn_file=None if torn is None else str(torn.file),
            torn_at=0 if torn is None else torn.at,
            cut_bytes=0 if torn is None else torn.cut_bytes,
            torn_catalogue=None if of_catalogue is None else str(of_catalogue.file),
            catalogue_torn_at=0 if of_catalogue is None else of_catalogue.at,
        )

    def walk_quickly(self, block: bytes, at: int) -> int:
        # Nearly every record is whole and follows the one before: 64 MiB of them in a fifth of a
        # second, where calls per record would take half of one.
        if self.torn is not None:
            return at
        unpack, expected, records = _WHOLE_HEAD.unpack_from, self._next_sequence, 0
        end = len(block)
        head_end = end - _WHOLE_HEAD.size
        while at <= head_end:
            stored, length, kind, sequence, count = unpack(block, at)
            stop = at + HEADER_BYTES + length
            if kind != FULL or sequence != expected or stop > end or length < _BATCH_HEAD.size:
                break
            crc = crc32c(block[at + KIND_AT : stop])
            if ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFF_FFFF != stored:
                break
            expected = sequence + count
            records += 1
            at = stop
        self._next_sequence = expected
        self.records += records
        return at

    def take_record(self, head: bytes, at: int) -> None:
        if len(head) < _BATCH_HEAD.size:
            raise self.damage(at, f"a batch has only {len(head)} bytes")
        sequence, count = _BATCH_HEAD.unpack(head)
        expected, torn = self._next_sequence, self.torn
        if expected is not None and sequence > expected:
            if torn is not None:
                what = f"the file is cut off, and later records follow in {self.file.name}"
                raise self.damage(torn.at, what, torn.file)
            raise self.damage(at, f"{sequence - expected} writes are missing before this place")
        # Nothing is missing: a crash tore that tail off before an earlier start, which wrote on.
        self.torn = None
        self._next_sequence = sequence + count


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where it ends; what is cut off counts as zeros."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value, at
