"""A damaged write-ahead log. What a crash can leave opens with an intact prefix, and what was cut
is said; everything else refuses that tenant, with the file and the way out, and no other."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio

from engine.base.errors import StorageDamaged
from engine.journal.logfile import HEADER, HEADER_BYTES, write_log
from engine.journal.store import OpenMode, Store
from engine.journal.tenants import Journal
from engine.journal.wal import WalReport, check_wal, wal_files
from tests.faults.damage import flip, log_of, truncate, zero
from tests.journal.harness import ACME, OTHER, append_to, journal_at, payloads_in, run_number
from tests.journal.sound import Sound, batch_of, records_on_disk, resources, sound_directory

SEED = 11
CUTS = 20
FLIPS_OF_A_LARGE_LOG = 60


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    build = partial(sound_directory, tmp_path_factory.mktemp("origin"), runs=4)
    return trio.run(build)


@pytest.fixture
def sound(origin: Sound, tmp_path: Path) -> Sound:
    return origin._replace(path=shutil.copytree(origin.path, tmp_path / "data"))


def ends_of_records(log: Path) -> list[int]:
    """Where each batch of a small log ends."""
    content = log.read_bytes()
    ends = [0]
    while len(content) - ends[-1] >= HEADER_BYTES:
        _, length, _ = HEADER.unpack_from(content, ends[-1])
        ends.append(ends[-1] + HEADER_BYTES + length)
    assert ends[-1] == len(content)
    return ends


def small_log(sound: Sound) -> Path:
    """The log of `sound`, cut to its first batches, so that every byte of it can be tried."""
    log = log_of(sound.store())
    truncate(log, max(end for end in ends_of_records(log) if end < 800))
    return log


# ---- cut ----


def test_cut_at_every_byte_says_what_was_cut(sound: Sound) -> None:
    log = small_log(sound)
    ends = ends_of_records(log)
    for cut in reversed(range(ends[-1])):
        truncate(log, cut)
        whole = [end for end in ends if end <= cut]
        is_torn = whole[-1] < cut
        assert check_wal(sound.store()) == WalReport(
            files=1,
            bytes=cut,
            records=len(whole) - 1,
            torn_file=str(log) if is_torn else None,
            torn_at=whole[-1] if is_torn else 0,
            cut_bytes=cut - whole[-1],
        )


async def test_cut_anywhere_opens_with_an_intact_prefix(origin: Sound, tmp_path: Path) -> None:
    random = Random(SEED)
    ends = ends_of_records(log_of(origin.store()))
    near = [end + by for end in random.sample(ends[1:-1], 3) for by in (-1, 0, 1, HEADER_BYTES)]
    for cut in [0, *near, *random.sample(range(ends[-1]), CUTS)]:
        path = shutil.copytree(origin.path, tmp_path / str(cut))
        truncate(log_of(origin._replace(path=path).store()), cut)
        await assert_prefix(origin._replace(path=path), cut, ends)


async def assert_prefix(cut_down: Sound, cut: int, ends: list[int]) -> None:
    async with journal_at(cut_down.path) as journal:
        async with journal.use(ACME) as acme:
            found = list(acme.store.records(bytes(24), b"\xff" * 25))
            kept = cut_down.acknowledged[ACME][: len(found)]
            assert found == sorted(kept), f"cut at {cut}"
            assert acme.wal_report.records == len([end for end in ends if 0 < end <= cut])
            assert acme.wal_report.cut_bytes == cut - max(end for end in ends if end <= cut)
            # Offsets go on where the prefix ends.
            run = run_number(1)
            values = [value for key, value in kept if key.startswith(run)]
            assert acme.open_segment(run).next_offset == len(values)
        async with journal.use(OTHER) as other:
            assert other.wal_report.torn_file is None
            found = list(other.store.records(bytes(24), b"\xff" * 25))
            assert found == sorted(cut_down.acknowledged[OTHER])


# ---- flipped ----


def test_every_flipped_byte_of_a_small_log_is_refused(sound: Sound) -> None:
    """A small log has no padding: each byte belongs to an acknowledged batch. Of the headers every
    bit is tried, since a length or a kind can be wrong in more than one way."""
    log, random = small_log(sound), Random(SEED)
    whole, headers = log.read_bytes(), ends_of_records(log)[:-1]
    for at in range(len(whole)):
        in_header = any(begin <= at < begin + HEADER_BYTES for begin in headers)
        for bit in range(8) if in_header else [random.randrange(8)]:
            flip(log, at, 1 << bit)
            with pytest.raises(StorageDamaged) as raised:
                check_wal(sound.store())
            assert raised.value.details["file"] == str(log)
            flip(log, at, 1 << bit)
    assert log.read_bytes() == whole


def test_a_flip_in_a_log_of_many_blocks_is_refused_or_loses_nothing(sound: Sound) -> None:
    """Batches over several blocks, and padding: what is not refused opens with every record."""
    store, random = sound.store(), Random(SEED)
    grow_log(store)
    log = wal_files(store)[-1]
    whole, expected = log.read_bytes(), sorted(records_of_copy(store))
    begins_of_blocks = [at + by for at in range(32_768, len(whole), 32_768) for by in range(-8, 9)]
    sample = [*begins_of_blocks, *random.sample(range(len(whole)), FLIPS_OF_A_LARGE_LOG)]
    refused = 0
    for at in sample:
        flip(log, at, 1 << random.randrange(8))
        try:
            check_wal(store)
        except StorageDamaged:
            refused += 1
        else:
            assert sorted(records_of_copy(store)) == expected, f"flip at {at}"
        log.write_bytes(whole)
    assert refused > len(sample) // 2


def grow_log(store_path: Path) -> None:
    """Open and write batches larger than a block, then leave the store as a crash would."""
    copy = store_path.with_name("growing")
    store = Store(store_path, resources(), OpenMode.READ_WRITE)
    try:
        for number, size in enumerate([40_000, 10, 70_000, 32_768, 300, 32_700, 5_000]):
            batch = batch_of([(run_number(900 + number) + bytes(8), bytes([number]) * size)])
            store.write(store.prepare(batch), sync=True)
        shutil.copytree(store_path, copy)
    finally:
        store.close()
    shutil.rmtree(store_path)
    copy.rename(store_path)


def records_of_copy(store_path: Path) -> list[tuple[bytes, bytes]]:
    copy = store_path.with_name("copy")
    shutil.copytree(store_path, copy)
    try:
        return records_on_disk(copy)
    finally:
        shutil.rmtree(copy)


# ---- refused, and the others go on ----


async def test_a_flip_refuses_the_tenant_and_no_other(sound: Sound) -> None:
    log = log_of(sound.store())
    flip(log, log.stat().st_size // 2)
    before = log.read_bytes()
    async with journal_at(sound.path) as journal:
        for _ in range(2):  # and it stays refused
            await assert_refused(journal, log)
        await append_to(journal, OTHER, b"goes on")
        assert await payloads_in(journal, OTHER) == [b"goes on"]
    assert log.read_bytes() == before, "a refused store is not touched"


async def assert_refused(journal: Journal, log: Path) -> None:
    with pytest.raises(StorageDamaged) as raised:
        async with journal.use(ACME):
            pass
    message = raised.value.message
    assert str(log) in message
    assert "at byte" in message
    assert "engine journal restore" in message
    assert "engine journal salvage acme" in message
    assert raised.value.code == "storage_damaged"


@pytest.mark.parametrize("part", [0.2, 0.9])
def test_a_zeroed_sector_is_refused(sound: Sound, part: float) -> None:
    """RocksDB takes zeros for room that was reserved, and passes over the rest of the block."""
    log = log_of(sound.store())
    begin = int(log.stat().st_size * part) // 512 * 512
    zero(log, begin, begin + 512)
    with pytest.raises(StorageDamaged, match=log.name):
        check_wal(sound.store())


# ---- several logs ----


@pytest.fixture
def several_logs(tmp_path: Path) -> Path:
    """A store whose rows are in no table yet, so that every log is still needed."""
    path = tmp_path / "records.rocksdb"
    path.mkdir()
    store = Store(path, resources(), OpenMode.READ_WRITE)
    for number in range(30):
        pairs = [(run_number(number) + bytes(8), b"%d" % number * 50)]
        batch = batch_of(pairs, rows=[(b"row", b"%d" % number)])
        store.write(store.prepare(batch), sync=True)
        if number % 10 == 9:
            store.compact_records(None, None)  # begins a new log
    shutil.copytree(path, tmp_path / "copy")
    store.close()
    shutil.rmtree(path)
    (tmp_path / "copy").rename(path)
    logs = wal_files(path)
    assert len(logs) >= 4
    assert check_wal(path).records == 30
    return path


@pytest.mark.parametrize("cut_bytes", [1, 20, 400])
def test_a_log_cut_off_before_later_ones_is_refused(several_logs: Path, cut_bytes: int) -> None:
    first, second, *_ = wal_files(several_logs)
    truncate(first, first.stat().st_size - cut_bytes)
    with pytest.raises(StorageDamaged, match=r"is cut off, and later records follow") as raised:
        check_wal(several_logs)
    assert raised.value.details["file"] == str(first)
    assert second.name in raised.value.message


def test_a_log_cut_between_two_batches_before_later_ones_is_refused(several_logs: Path) -> None:
    first, second, *_ = wal_files(several_logs)
    truncate(first, ends_of_records(first)[-3])
    with pytest.raises(StorageDamaged, match=f"{second.name} is damaged: at byte 0 .* missing"):
        check_wal(several_logs)


def test_a_missing_log_is_refused(several_logs: Path) -> None:
    wal_files(several_logs)[1].unlink()
    with pytest.raises(StorageDamaged, match="writes are missing before this place"):
        check_wal(several_logs)


def test_a_log_that_is_no_longer_needed_is_not_looked_at(several_logs: Path) -> None:
    """A crash while RocksDB tidied up leaves old logs, some of them, torn or not."""
    store = Store(several_logs, resources(), OpenMode.READ_WRITE)
    store.flush()
    store.close()
    needed = check_wal(several_logs)
    (several_logs / "000001.log").write_bytes(b"anything")
    assert check_wal(several_logs) == needed


def test_a_tail_that_an_earlier_crash_tore_off_is_no_damage(several_logs: Path) -> None:
    """A start wrote on behind it: the numbers of the writes go on without a gap."""
    last = [log for log in wal_files(several_logs) if log.stat().st_size][-1]
    begin = ends_of_records(last)[-2]
    batch = last.read_bytes()[begin + HEADER_BYTES :]
    truncate(last, begin + 10)
    write_log(last.with_name("999999.log"), [batch])
    report = check_wal(several_logs)
    assert (report.records, report.torn_file) == (30, None)


# ---- the catalogue ----


def test_a_store_without_its_current_file_is_refused(sound: Sound) -> None:
    """RocksDB would make a new, empty database in its place."""
    (sound.store() / "CURRENT").unlink()
    with pytest.raises(StorageDamaged, match=r"CURRENT is damaged: it is missing"):
        check_wal(sound.store())


def test_every_flipped_byte_of_the_catalogue_is_refused(sound: Sound) -> None:
    (catalogue,) = sound.store().glob("MANIFEST-*")
    whole = catalogue.read_bytes()
    for at in range(len(whole)):
        flip(catalogue, at)
        with pytest.raises(StorageDamaged, match=catalogue.name):
            check_wal(sound.store())
        catalogue.write_bytes(whole)


def test_a_new_store_has_nothing_to_report(tmp_path: Path) -> None:
    assert check_wal(tmp_path / "not there") == WalReport()
    (tmp_path / "LOCK").touch()
    assert check_wal(tmp_path) == WalReport()
