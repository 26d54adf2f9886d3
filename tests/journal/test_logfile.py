"""The framing of log files: what one writes is what one reads, and what is whole is found again."""

from __future__ import annotations

from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.base.errors import StorageDamaged
from engine.journal.logfile import (
    BLOCK_BYTES,
    FIRST,
    FULL,
    HEADER,
    HEADER_BYTES,
    LAST,
    MIDDLE,
    LogScan,
    Torn,
    masked,
    whole_records,
    write_log,
)

IN_ONE_BLOCK = BLOCK_BYTES - HEADER_BYTES
LENGTHS = st.sampled_from([0, 1, 12, 300, IN_ONE_BLOCK - 7, IN_ONE_BLOCK, IN_ONE_BLOCK + 1, 70_000])
RECORDS = st.lists(
    st.builds(lambda length, byte: bytes([byte]) * length, LENGTHS, st.integers(0, 255)),
    max_size=8,
)
reuses_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class Reader(LogScan):
    head_bytes = 100_000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.taken: list[bytes] = []

    def take_record(self, head: bytes, at: int) -> None:
        self.taken.append(head)


def read(log: Path) -> Reader:
    reader = Reader(log.parent)
    reader.read(log)
    return reader


def fragment(kind: int, content: bytes, *, length: int | None = None) -> bytes:
    crc = masked(crc32c(bytes([kind]) + content))
    return HEADER.pack(crc, len(content) if length is None else length, kind) + content


def log_at(folder: Path, *parts: bytes) -> Path:
    log = folder / "000004.log"
    log.write_bytes(b"".join(parts))
    return log


@reuses_folder
@given(RECORDS)
def test_what_is_written_is_read(tmp_path: Path, records: list[bytes]) -> None:
    log = tmp_path / "000004.log"
    write_log(log, records)
    assert read(log).taken == records
    assert read(log).torn is None
    assert list(whole_records(log)) == records


@reuses_folder
@given(RECORDS.filter(bool), st.floats(0, 1, exclude_max=True))
def test_a_log_cut_anywhere_gives_its_first_records(
    tmp_path: Path, records: list[bytes], part: float
) -> None:
    log = tmp_path / "000004.log"
    write_log(log, records)
    whole = log.read_bytes()
    cut = int(len(whole) * part)
    log.write_bytes(whole[:cut])
    reader = read(log)
    assert reader.taken == records[: len(reader.taken)] == list(whole_records(log))
    assert len(reader.taken) < len(records)
    if reader.torn is not None:
        assert reader.torn.at + reader.torn.cut_bytes == cut


@reuses_folder
@given(RECORDS.filter(bool), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_one_flipped_bit_costs_one_record(
    tmp_path: Path, records: list[bytes], part: float, bit: int
) -> None:
    log = tmp_path / "000004.log"
    write_log(log, records)
    content = bytearray(log.read_bytes())
    content[int(len(content) * part)] ^= 1 << bit
    log.write_bytes(content)
    found = list(whole_records(log))
    assert len(found) >= len(records) - 1
    rest = iter(records)
    assert all(any(record == each for each in rest) for record in found), "in their order"


REST = b"x" * 40


@pytest.mark.parametrize(
    ("parts", "torn_at"),
    [
        ((fragment(FULL, REST), b"\x01"), 47),
        ((fragment(FULL, REST), fragment(FULL, REST)[:-1]), 47),
        ((fragment(FIRST, REST),), 0),
        ((fragment(FULL, REST), fragment(FIRST, REST), fragment(MIDDLE, REST)), 47),
        ((fragment(FIRST, REST), fragment(LAST, REST)[:20]), 0),
        ((fragment(FULL, REST), bytes(5_000)), 47),
        ((fragment(FIRST, REST), bytes(100)), 0),
    ],
    ids=[
        "within a header",
        "within a record",
        "between fragments",
        "after a middle",
        "within the last fragment",
        "reserved room",
        "reserved room within a record",
    ],
)
def test_a_torn_tail(tmp_path: Path, parts: tuple[bytes, ...], torn_at: int) -> None:
    log = log_at(tmp_path, *parts)
    size = log.stat().st_size
    assert read(log).torn == Torn(log, torn_at, size - torn_at)


def in_a_full_block(broken: bytes) -> tuple[bytes, ...]:
    filling = IN_ONE_BLOCK - len(broken)
    return fragment(FULL, bytes(filling)), broken, fragment(FULL, REST)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ((fragment(FULL, REST)[:-1] + b"y",), "at byte 0 the checksum"),
        ((fragment(FULL, REST), fragment(FULL, REST, length=39)), "at byte 47 the checksum"),
        ((fragment(FULL, REST, length=41),), "the length of a record is wrong"),
        ((fragment(FIRST, REST), fragment(LAST, REST, length=99)), "length of a record is wrong"),
        ((fragment(FULL, REST, length=900), fragment(FULL, REST)), "another does at byte 47"),
        ((fragment(FULL, REST, length=900), b"?", fragment(LAST, REST)), "does at byte 48"),
        (in_a_full_block(fragment(FULL, REST, length=41)), "not one RocksDB writes"),
        ((fragment(FIRST, REST), fragment(FULL, REST)), "a record has no end"),
        ((fragment(MIDDLE, REST),), "the beginning of a record is missing"),
        ((fragment(LAST, REST),), "the beginning of a record is missing"),
        ((fragment(LAST, REST)[:-1],), "out of order"),
        ((fragment(FIRST, REST), fragment(FULL, REST)[:-1]), "out of order"),
        ((fragment(5, REST),), "of kind 5"),
        ((fragment(9, REST),), "of kind 9"),
        ((fragment(5, REST)[:-1],), "not one RocksDB writes"),
        ((fragment(0, REST),), "not one RocksDB writes"),
        ((fragment(FULL, REST), bytes(500), fragment(FULL, REST)), "overwritten with zeros"),
        ((fragment(FULL, REST), bytes(40_000), fragment(FULL, REST)), "overwritten with zeros"),
        ((fragment(FULL, REST), bytes(40_000), fragment(FIRST, REST)), "overwritten with zeros"),
        ((fragment(FULL, REST), bytes(400), b"\x01"), "overwritten with zeros"),
    ],
)
def test_damage(tmp_path: Path, parts: tuple[bytes, ...], says: str) -> None:
    log = log_at(tmp_path, *parts)
    with pytest.raises(StorageDamaged, match=says) as raised:
        read(log)
    assert raised.value.details["file"] == str(log)


def test_padding_and_what_rocksdb_may_pass_over_are_not_damage(tmp_path: Path) -> None:
    padded = fragment(FULL, bytes(IN_ONE_BLOCK - 3)), b"\xff\xff\xff"
    log = log_at(tmp_path, *padded, fragment(33, REST), fragment(FULL, REST))
    reader = read(log)
    assert reader.torn is None
    assert reader.taken == [bytes(IN_ONE_BLOCK - 3), REST]


def test_what_is_appended_while_it_is_read_is_not_looked_at(tmp_path: Path) -> None:
    log = log_at(tmp_path, fragment(FULL, REST))

    class Growing(Reader):
        def take_record(self, head: bytes, at: int) -> None:
            super().take_record(head, at)
            log_at(tmp_path, log.read_bytes(), fragment(FULL, REST)[:5])

    reader = Growing(tmp_path)
    reader.read(log)
    assert (reader.taken, reader.torn) == ([REST], None)
