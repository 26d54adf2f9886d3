"""The framing of RocksDB's log files, which its write-ahead log and its catalogue share: reads them
fragment by fragment, tells a torn tail from damage, and copies what is whole.

RocksDB takes an unfinished record for the end of a log and says nothing. That is right for the
record that a crash cut off, which was never acknowledged, and wrong for a damaged length with
acknowledged records behind it. Here an unfinished record at the very end is a torn tail, and so is
a last record some of whose sectors never came: after a power cut the size of a file may be on the
disk without all that was written up to it. Everything else that does not check out is damage, also
a last record in which bits are wrong, since a sector comes whole or not at all. Recycled and
compressed logs are not in use; what looks like one is damage too, since RocksDB reads a fragment of
a foreign log for ever.

Knows 32 KiB blocks and checksummed fragments, nothing of what a record means.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from crc32c import crc32c

from engine.base.errors import StorageDamaged
from engine.journal.faults import damaged

BLOCK_BYTES: Final = 32 * 1024
_READ_BYTES: Final = 32 * BLOCK_BYTES
SECTOR_BYTES: Final = 512  # the least that a disk writes; what it did not write reads as zeros
HEADER: Final = struct.Struct("<IHB")  # masked checksum, length, kind
HEADER_BYTES: Final = HEADER.size
KIND_AT: Final = 6  # the checksum is over the kind and what follows it
MASK_DELTA: Final = 0xA282EAD8

FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
_IGNORABLE_KINDS: Final = range(32, 64)  # those RocksDB lets a reader pass over


class Torn(msgspec.Struct, frozen=True):
    """Where the good part of a log ends, and how much comes after it."""

    file: Path
    at: int
    cut_bytes: int


class LogScan:
    """Reads log files one after the other; what one tells is known when the next is read.

    A subclass says what is to be seen of each record (`head_bytes`) and takes it (`take_record`).
    """

    head_bytes = 0

    def __init__(self, store_path: Path) -> None:
        self.files = self.bytes = self.records = 0
        self.torn: Torn | None = None
        self.file = store_path
        self._store_path = store_path
        self._begun_at: int | None = None  # where the record begins whose end is not yet seen
        self._head = b""

    def take_record(self, head: bytes, at: int) -> None:
        """A whole record that begins at byte `at` of `self.file`, and its first bytes."""

    def walk_quickly(self, block: bytes, at: int) -> int:
        """Pass over whole records; where in the block the first is that needs a closer look."""
        return at

    def read(self, file: Path) -> None:
        """Check a file up to the size it has now; it may grow meanwhile."""
        self._start(file)
        with file.open("rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            self.files += 1
            self.bytes += size
            at = 0
            for block in _blocks(stream.fileno(), size):
                stopped_at = self._walk(block, at)
                if stopped_at is not None:
                    self._end(block, at, stopped_at, size)
                    return
                at += len(block)
        if self._begun_at is not None:
            self.torn = Torn(file, self._begun_at, size - self._begun_at)

    def damage(self, at: int, what: str, file: Path | None = None) -> StorageDamaged:
        return damaged(self._store_path, f"at byte {at} {what}", str(file or self.file))

    def _start(self, file: Path) -> None:
        self.file = file
        self._begun_at = None

    def _walk(self, block: bytes, block_at: int) -> int | None:
        """Check a block's fragments; where in the block it stopped, if not at its end."""
        at, end = 0, len(block)
        while end - at >= HEADER_BYTES:
            if self._begun_at is None and end - (at := self.walk_quickly(block, at)) < HEADER_BYTES:
                break
            stored, length, kind = HEADER.unpack_from(block, at)
            stop = at + HEADER_BYTES + length
            if stop > end or kind == 0:
                return at
            if masked(crc32c(block[at + KIND_AT : stop])) != stored:
                return at
            payload_at = at + HEADER_BYTES
            head = block[payload_at : min(stop, payload_at + self.head_bytes)]
            self._take_fragment(kind, head, block_at + at)
            at = stop
        return at if at < end < BLOCK_BYTES else None

    def _take_fragment(self, kind: int, head: bytes, at: int) -> None:
        if kind in (FULL, FIRST):
            if self._begun_at is not None:
                raise self.damage(self._begun_at, "a record has no end, and others follow it")
            self._begun_at, self._head = at, head
        elif kind in (MIDDLE, LAST):
            if self._begun_at is None:
                raise self.damage(at, "the beginning of a record is missing")
            self._head = (self._head + head)[: self.head_bytes]
        elif kind not in _IGNORABLE_KINDS:
            raise self.damage(at, f"a record is of kind {kind}, which this engine does not write")
        if kind in (FULL, LAST):
            assert self._begun_at is not None
            self.records += 1
            self.take_record(self._head, self._begun_at)
            self._begun_at = None

    def _end(self, block: bytes, block_at: int, at: int, size: int) -> None:
        """The file's good part stops within a block: is it a torn tail, or damage?"""
        place = block_at + at
        begins = place if self._begun_at is None else self._begun_at
        wrong = self._wrong_at(block, at, place, size)
        if wrong is not None and not _is_unfinished_write(self.file, begins, place, size):
            raise self.damage(place, wrong)
        self.torn = Torn(self.file, begins, size - begins)

    def _wrong_at(self, block: bytes, at: int, place: int, size: int) -> str | None:
        """What is wrong where the good part stops; None if the file is just not long enough."""
        if len(block) - at < HEADER_BYTES:
            return None
        _, length, kind = HEADER.unpack_from(block, at)
        if kind == 0 and length == 0:
            is_reserved = _is_zero_from(self.file, place, size)
            return None if is_reserved else "a part was overwritten with zeros"
        if at + HEADER_BYTES + length <= len(block) and kind != 0:
            return "the checksum of a record does not match"
        return self._wrong_in_record(block, at, place)

    def _wrong_in_record(self, block: bytes, at: int, place: int) -> str | None:
        """What shows that a record which does not fit its file is none that a crash cut off."""
        stored, _, kind = HEADER.unpack_from(block, at)
        if len(block) == BLOCK_BYTES or not FULL <= kind <= LAST:
            return "the header of a record is not one RocksDB writes"
        if (kind in (MIDDLE, LAST)) is (self._begun_at is None):
            return "the fragments of a record are out of order"
        rest = block[at:]
        if masked(crc32c(rest[KIND_AT:])) == stored:
            return "the length of a record is wrong, and the record is whole"
        follower = find_fragment(rest, 1)
        if follower is not None:
            return f"a record does not check out, and another does at byte {place + follower}"
        return None


def masked(crc: int) -> int:
    """RocksDB stores checksums disguised, since what they are over may itself hold checksums."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFF_FFFF


def _is_zero_from(file: Path, at: int, size: int) -> bool:
    """Zeros fill the file to its end: room reserved for what never came."""
    with file.open("rb") as stream:
        stream.seek(at)
        while at < size and (chunk := stream.read(min(size - at, _READ_BYTES))):
            if chunk.count(0) != len(chunk):
                return False
            at += len(chunk)
    return True


def _is_unfinished_write(file: Path, begins: int, place: int, size: int) -> bool:
    """Whether the rest of the file, from the record that begins at `begins`, is one write of which
    some sectors never came: one of them is all zeros, and no other record begins behind it."""
    first_sector = -(-begins // SECTOR_BYTES) * SECTOR_BYTES
    with file.open("rb", buffering=0) as stream:
        descriptor = stream.fileno()
        rest = os.pread(descriptor, max(0, size - first_sector), first_sector)
        ends = len(rest) - SECTOR_BYTES
        if not any(
            rest.count(0, at, at + SECTOR_BYTES) == SECTOR_BYTES
            for at in range(0, ends + 1, SECTOR_BYTES)
        ):
            return False
        for block_at in range(place // BLOCK_BYTES * BLOCK_BYTES, size, BLOCK_BYTES):
            block = os.pread(descriptor, min(BLOCK_BYTES, size - block_at), block_at)
            begin = max(0, place + 1 - block_at)
            if find_fragment(block, begin, kinds=(FULL, FIRST)) is not None:
                return False
    return True


def find_fragment(
    block: bytes, begin: int, *, kinds: Container[int] = (FULL, FIRST, MIDDLE, LAST)
) -> int | None:
    """Where from `begin` on, at any byte, a whole fragment of one of `kinds` lies in the block."""
    for at in range(begin, len(block) - HEADER_BYTES + 1):
        if block[at + KIND_AT] not in kinds:
            continue
        stored, length, _ = HEADER.unpack_from(block, at)
        stop = at + HEADER_BYTES + length
        if stop <= len(block) and masked(crc32c(block[at + KIND_AT : stop])) == stored:
            return at
    return None


def whole_records(file: Path) -> Iterator[bytes]:
    """Every record of a damaged log that is whole, wherever in the file it lies."""
    with file.open("rb", buffering=0) as stream:
        fragments: list[bytes] = []
        for block in _blocks(stream.fileno(), os.fstat(stream.fileno()).st_size):
            for kind, payload in _whole_fragments(block):
                if kind in (FULL, FIRST) or (kind and fragments):
                    fragments = [payload] if kind in (FULL, FIRST) else [*fragments, payload]
                else:
                    fragments = []
                if kind in (FULL, LAST) and fragments:
                    yield b"".join(fragments)
                    fragments = []


def write_log(file: Path, records: Iterable[bytes]) -> None:
    """A log file of these records, as RocksDB writes one."""
    with file.open("wb") as stream:
        room = BLOCK_BYTES
        for record in records:
            at, is_first = 0, True
            while is_first or at < len(record):
                if room < HEADER_BYTES:
                    stream.write(bytes(room))
                    room = BLOCK_BYTES
                part = record[at : at + room - HEADER_BYTES]
                at += len(part)
                is_last = at == len(record)
                kind = (FULL if is_last else FIRST) if is_first else (LAST if is_last else MIDDLE)
                crc = masked(crc32c(part, crc32c(bytes([kind]))))
                stream.write(HEADER.pack(crc, len(part), kind) + part)
                room -= HEADER_BYTES + len(part)
                is_first = False
        stream.flush()
        os.fsync(stream.fileno())


def _whole_fragments(block: bytes) -> Iterator[tuple[int, bytes]]:
    """The fragments of a block that check out; kind 0 stands for those that do not."""
    at: int | None = 0
    while at is not None and len(block) - at >= HEADER_BYTES:
        stored, length, kind = HEADER.unpack_from(block, at)
        stop = at + HEADER_BYTES + length
        is_whole = FULL <= kind <= LAST and stop <= len(block)
        if is_whole and masked(crc32c(block[at + KIND_AT : stop])) == stored:
            yield kind, block[at + HEADER_BYTES : stop]
            at = stop
        else:
            yield 0, b""
            at = find_fragment(block, at + 1)


def _blocks(descriptor: int, size: int) -> Iterator[bytes]:
    """The file up to `size`, in blocks of which the last may be shorter."""
    at = 0
    while at < size:
        wanted = min(_READ_BYTES, size - at)
        chunk = os.pread(descriptor, wanted, at)
        for begin in range(0, len(chunk), BLOCK_BYTES):
            yield chunk[begin : begin + BLOCK_BYTES]
        at += len(chunk)
        if len(chunk) < wanted:
            return
