"""Looks at a store's log files before RocksDB opens it, so that what was cut is reported and damage
is refused.

RocksDB takes an unfinished record for the end of a log and says nothing. That is right for the
record a crash cut off, which was never acknowledged, and wrong for a damaged length field with
acknowledged records behind it. Here the two are told apart: an unfinished record at the very end is
a torn tail, everything else that does not check out is damage. Batches number their writes without
a gap, which also shows whole records and whole files that went missing.

Knows the framing of the log (32 KiB blocks of checksummed fragments) and the first twelve bytes of
a batch, nothing of what a batch holds. Recycled logs and compressed logs are not in use, and what
looks like one is damage: RocksDB would end silently at a fragment of a foreign log.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from crc32c import crc32c

from engine.base.errors import StorageDamaged
from engine.journal.faults import damaged

_BLOCK_BYTES: Final = 32 * 1024
_READ_BYTES: Final = 32 * _BLOCK_BYTES
_HEADER: Final = struct.Struct("<IHB")  # masked checksum, length, kind
_HEADER_BYTES: Final = _HEADER.size
_BATCH_HEAD: Final = struct.Struct("<QI")  # sequence number of the first write, how many
_WHOLE_HEAD: Final = struct.Struct("<IHBQI")  # both, at the beginning of an unfragmented record
_KIND_AT: Final = 6  # the checksum is over the kind and what follows it
_MASK_DELTA: Final = 0xA282EAD8

_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_IGNORABLE_BIT: Final = 32  # kinds that RocksDB lets a reader pass over
_KIND_MAX: Final = 127

_LOG_NAME: Final = re.compile(r"(\d+)\.log\Z")


class WalReport(msgspec.Struct, frozen=True):
    """What the log files of a store hold, and what a crash cut off at their end."""

    files: int
    bytes: int
    records: int
    torn_file: str | None
    torn_at: int
    cut_bytes: int


def check_wal(store_path: Path) -> WalReport:
    """What the write-ahead log holds; raises `StorageDamaged` if opening it would lose a record.

    Only reads, so it may look beside a process that writes.
    """
    _check_catalogue(store_path)
    scan = _LogScan(store_path, counts_writes=True)
    for file in wal_files(store_path):
        scan.read(file)
    return scan.report()


def wal_files(store_path: Path) -> list[Path]:
    """The log files of a store in the order they were written."""
    numbered = [
        (int(found[1]), entry)
        for entry in (store_path.iterdir() if store_path.is_dir() else ())
        if (found := _LOG_NAME.match(entry.name))
    ]
    return [entry for _, entry in sorted(numbered)]


def salvaged_path(store_path: Path) -> Path:
    """Where a salvage builds the store that takes the place of the damaged one."""
    return store_path.with_name(f"{store_path.name}.salvaged")


def _check_catalogue(store_path: Path) -> None:
    """The file that says which catalogue is in force, and that catalogue.

    Without the first RocksDB would make a new, empty database and delete the tables of the old.
    """
    current = store_path / "CURRENT"
    try:
        name = current.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError as error:
        if salvaged_path(store_path).exists():
            raise damaged(store_path, "a salvage was interrupted; start it again") from error
        if wal_files(store_path) or any(store_path.glob("*.sst")):
            raise damaged(store_path, "it is missing", str(current)) from error
        return
    if (store_path / name).is_file():
        _LogScan(store_path, counts_writes=False).read(store_path / name)


class _Torn(msgspec.Struct, frozen=True):
    file: Path
    at: int
    cut_bytes: int


class _LogScan:
    """Reads log files one after the other; the state is what one file tells about the next."""

    def __init__(self, store_path: Path, *, counts_writes: bool) -> None:
        self._store_path = store_path
        self._counts_writes = counts_writes
        self._files = self._bytes = self._records = 0
        self._next_sequence: int | None = None
        self._torn: _Torn | None = None
        self._file = store_path
        self._fragments_at: int | None = None  # where the record begins whose end is not yet seen
        self._batch_head = b""

    def report(self) -> WalReport:
        torn = self._torn
        return WalReport(
            files=self._files,
            bytes=self._bytes,
            records=self._records,
            torn_file=None if torn is None else str(torn.file),
            torn_at=0 if torn is None else torn.at,
            cut_bytes=0 if torn is None else torn.cut_bytes,
        )

    def read(self, file: Path) -> None:
        self._start(file)
        try:
            stream = file.open("rb", buffering=0)
        except FileNotFoundError:
            return  # the process that writes has done with it
        with stream:
            # What is appended from now on is not looked at.
            size = os.fstat(stream.fileno()).st_size
            self._files += 1
            self._bytes += size
            at = 0
            for block in _blocks(stream.fileno(), size):
                stopped_at = self._walk(block, at)
                if stopped_at is not None:
                    self._end(block, at, stopped_at, size)
                    return
                at += len(block)
        if self._fragments_at is not None:
            self._torn = _Torn(file, self._fragments_at, size - self._fragments_at)

    def _start(self, file: Path) -> None:
        self._file = file
        self._fragments_at = None

    def _walk(self, block: bytes, block_at: int) -> int | None:
        """Check a block's fragments; where in the block it stopped, if not at its end."""
        at, end = 0, len(block)
        while end - at >= _HEADER_BYTES:
            if self._counts_writes and self._fragments_at is None and self._torn is None:
                at = self._walk_quickly(block, at)
                if end - at < _HEADER_BYTES:
                    break
            stored, length, kind = _HEADER.unpack_from(block, at)
            stop = at + _HEADER_BYTES + length
            if stop > end or kind == 0:
                return at
            if _masked(crc32c(block[at + _KIND_AT : stop])) != stored:
                raise self._damage(block_at + at, "the checksum of a record does not match")
            head = block[at + _HEADER_BYTES : min(stop, at + _WHOLE_HEAD.size)]
            self._take_fragment(kind, head, block_at + at)
            at = stop
        return at if at < end < _BLOCK_BYTES else None

    def _walk_quickly(self, block: bytes, at: int) -> int:
        """Pass over whole records as long as nothing is out of the ordinary, which is nearly
        always; where the first one is that needs a closer look."""
        unpack, expected, records = _WHOLE_HEAD.unpack_from, self._next_sequence, 0
        end = len(block)
        head_end = end - _WHOLE_HEAD.size
        while at <= head_end:
            stored, length, kind, sequence, count = unpack(block, at)
            stop = at + _HEADER_BYTES + length
            if kind != _FULL or sequence != expected or stop > end or length < _BATCH_HEAD.size:
                break
            crc = crc32c(block[at + _KIND_AT : stop])
            if ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFF_FFFF != stored:
                break
            expected = sequence + count
            records += 1
            at = stop
        self._next_sequence = expected
        self._records += records
        return at

    def _take_fragment(self, kind: int, head: bytes, at: int) -> None:
        if kind in (_FULL, _FIRST):
            if self._fragments_at is not None:
                raise self._damage(self._fragments_at, "a record has no end, and others follow it")
            self._fragments_at, self._batch_head = at, head
        elif kind in (_MIDDLE, _LAST):
            if self._fragments_at is None:
                raise self._damage(at, "the beginning of a record is missing")
            self._batch_head = (self._batch_head + head)[: _BATCH_HEAD.size]
        elif not kind & _IGNORABLE_BIT or kind > _KIND_MAX:
            raise self._damage(at, f"a record is of kind {kind}, which this engine does not write")
        if kind in (_FULL, _LAST):
            assert self._fragments_at is not None
            self._finish_record(self._fragments_at)
            self._fragments_at = None

    def _finish_record(self, at: int) -> None:
        self._records += 1
        if not self._counts_writes:
            return
        if len(self._batch_head) < _BATCH_HEAD.size:
            raise self._damage(at, f"a batch has only {len(self._batch_head)} bytes")
        sequence, count = _BATCH_HEAD.unpack(self._batch_head)
        self._check_sequence(sequence, at)
        self._next_sequence = sequence + count

    def _check_sequence(self, sequence: int, at: int) -> None:
        """No write is missing between the last record and the one at `at`."""
        expected, torn = self._next_sequence, self._torn
        if torn is not None and (expected is None or sequence > expected):
            raise self._damage(
                torn.at,
                f"the file is cut off, and later records follow in {self._file.name}",
                torn.file,
            )
        if expected is not None and sequence > expected:
            raise self._damage(at, f"{sequence - expected} writes are missing before this place")
        # A tail that a crash tore off before an earlier start, which has written on since.
        self._torn = None

    def _end(self, block: bytes, block_at: int, at: int, size: int) -> None:
        """The file's good part stops within a block: is it a torn tail, or damage?"""
        if len(block) - at >= _HEADER_BYTES:
            stored, length, kind = _HEADER.unpack_from(block, at)
            if kind == 0 and length == 0:
                self._end_in_zeros(block_at + at, size)
            else:
                self._end_in_record(block, block_at, at, stored, kind)
        begins = block_at + at if self._fragments_at is None else self._fragments_at
        self._torn = _Torn(self._file, begins, size - begins)

    def _end_in_record(
        self, block: bytes, block_at: int, at: int, stored: int, kind: int
    ) -> None:
        place = block_at + at
        is_start = kind in (_FULL, _FIRST)
        if len(block) == _BLOCK_BYTES or not _FULL <= kind <= _LAST:
            raise self._damage(place, "the header of a record is not one RocksDB writes")
        if is_start is (self._fragments_at is not None):
            raise self._damage(place, "a record's fragments are out of order")
        rest = block[at:]
        if _masked(crc32c(rest[_KIND_AT:])) == stored:
            raise self._damage(place, "the length of a record is wrong, the record is whole")
        follower = _find_record(rest)
        if follower is not None:
            raise self._damage(
                place, f"a record does not check out, and one at byte {place + follower} does"
            )

    def _end_in_zeros(self, at: int, size: int) -> None:
        """Room that was reserved for records that never came; RocksDB passes over it."""
        with self._file.open("rb") as stream:
            stream.seek(at)
            left = size - at
            while left > 0 and (chunk := stream.read(min(left, _READ_BYTES))):
                if chunk.count(0) != len(chunk):
                    raise self._damage(at, "a part was overwritten with zeros")
                left -= len(chunk)

    def _damage(self, at: int, what: str, file: Path | None = None) -> StorageDamaged:
        return damaged(self._store_path, f"at byte {at} {what}", str(file or self._file))


def _blocks(descriptor: int, size: int) -> Iterator[bytes]:
    """The file up to `size`, in blocks of which the last may be shorter."""
    at = 0
    while at < size:
        wanted = min(_READ_BYTES, size - at)
        chunk = os.pread(descriptor, wanted, at)
        for begin in range(0, len(chunk), _BLOCK_BYTES):
            yield chunk[begin : begin + _BLOCK_BYTES]
        at += len(chunk)
        if len(chunk) < wanted:
            return  # cut short while it was read; what is missing is seen as a torn tail


def _masked(crc: int) -> int:
    """RocksDB stores checksums disguised, since what it stores may itself hold checksums."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFF_FFFF


def _find_record(rest: bytes) -> int | None:
    """Where behind its first byte a whole record lies in `rest`, at any byte."""
    for at in range(1, len(rest) - _HEADER_BYTES + 1):
        if not _FULL <= rest[at + _KIND_AT] <= _LAST:
            continue
        stored, length, _ = _HEADER.unpack_from(rest, at)
        stop = at + _HEADER_BYTES + length
        if stop <= len(rest) and _masked(crc32c(rest[at + _KIND_AT : stop])) == stored:
            return at
    return None
