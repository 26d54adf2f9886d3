"""What a power cut may leave of the last write, whose fsync never returned: its size without some
of its sectors. Such a store opens with everything that came before, says what it cut, and goes on.
"""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio

from engine.base.errors import StorageDamaged
from engine.journal.logfile import SECTOR_BYTES
from engine.journal.store import OpenMode, Store
from engine.journal.wal import check_wal, wal_files
from tests.faults.damage import flip, truncate, zero
from tests.journal.harness import ACME, append, journal_at, run_number
from tests.journal.sound import Sound, batch_of, records_on_disk, resources, sound_directory

PAGE_BYTES = 4_096
SEEDS = 15
LAST_BYTES = (5_000, 50_000, 140_000)  # within one block of the log, over two, over many
RUN = run_number(700)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return trio.run(partial(sound_directory, tmp_path_factory.mktemp("origin"), runs=4))


@pytest.fixture(scope="module", params=LAST_BYTES)
def unfinished(
    request: pytest.FixtureRequest, origin: Sound, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Sound, int]:
    """A directory whose last write is a large one, and where in the log that begins."""
    path = shutil.copytree(origin.path, tmp_path_factory.mktemp("unfinished") / "data")
    grown = origin._replace(path=path)
    begins = write_and_leave(grown, [b"whole", Random(7).randbytes(request.param)])
    return grown, begins[-1]


def write_and_leave(sound: Sound, values: list[bytes]) -> list[int]:
    """Write these, one by one, and leave the store as a kill would; where each begins."""
    store_path, begins = sound.store(), []
    killed = store_path.with_name("killed")
    store = Store(store_path, resources(), OpenMode.READ_WRITE)
    for number, value in enumerate(values, 699):
        begins.append(wal_files(store_path)[-1].stat().st_size)
        batch = batch_of([(run_number(number) + bytes(8), value)])
        store.write(store.prepare(batch), sync=True)
    shutil.copytree(store_path, killed)
    store.close()
    shutil.rmtree(store_path)
    killed.rename(store_path)
    return begins


def torn(unfinished: Sound, begins: int, random: Random, folder: Path) -> tuple[Sound, Path]:
    """A copy in which some of the sectors or pages of the last write have not come."""
    copy = unfinished._replace(path=shutil.copytree(unfinished.path, folder))
    log = wal_files(copy.store())[-1]
    size = log.stat().st_size
    unit = PAGE_BYTES if size - begins > 4 * PAGE_BYTES and random.random() < 0.5 else SECTOR_BYTES
    units = range(-(-begins // unit) * unit, size - unit + 1, unit)
    for at in random.sample(units, random.randint(1, len(units))):
        zero(log, at, at + unit)
    if random.random() < 0.3:
        truncate(log, random.randrange(units[0] + unit, size))
    return copy, log


def test_missing_sectors_of_the_last_write_are_cut_off(
    unfinished: tuple[Sound, int], tmp_path: Path
) -> None:
    whole, begins = unfinished
    expected = [pair for pair in records_on_copy(whole, tmp_path) if pair[0][:16] != RUN]
    for seed in range(SEEDS):
        copy, log = torn(whole, begins, Random(seed), tmp_path / str(seed))
        report = check_wal(copy.store())
        assert (report.torn_file, report.torn_at) == (str(log), begins), f"seed {seed}"
        assert report.cut_bytes == log.stat().st_size - begins
        trio.run(opens_and_goes_on, copy)
        assert [pair for pair in records_on_disk(copy.store()) if pair[0][:16] != RUN] == expected
        shutil.rmtree(copy.path)


def records_on_copy(sound: Sound, folder: Path) -> list[tuple[bytes, bytes]]:
    return records_on_disk(shutil.copytree(sound.store(), folder / "expected"))


async def opens_and_goes_on(sound: Sound) -> None:
    async with journal_at(sound.path) as journal, journal.use(ACME) as acme:
        assert acme.open_segment(RUN).next_offset == 0, "part of the unfinished write is there"
        await append(acme.open_segment(RUN), b"again")
    assert check_wal(sound.store()).torn_file is None


async def test_what_was_cut_is_told_by_whoever_opens(
    unfinished: tuple[Sound, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, begins = unfinished
    copy, log = torn(whole, begins, Random(1), tmp_path / "copy")
    with caplog.at_level(logging.WARNING, logger="engine.journal.tenants"):
        async with journal_at(copy.path) as journal, journal.use(ACME):
            pass
    (record,) = caplog.records
    assert f"{log} was cut off" in record.getMessage()
    assert f"from byte {begins} on" in record.getMessage()


def test_a_wrong_bit_in_the_last_write_is_damage(
    unfinished: tuple[Sound, int], tmp_path: Path
) -> None:
    """No sector is missing, so the write had come to its end and may have been acknowledged."""
    whole, begins = unfinished
    log = wal_files(whole.store())[-1]
    content = log.read_bytes()
    for at in Random(3).sample(range(begins, len(content)), 40):
        flip(log, at)
        with pytest.raises(StorageDamaged):
            check_wal(whole.store())
        log.write_bytes(content)


@pytest.mark.parametrize("large_bytes", LAST_BYTES)
def test_missing_sectors_before_another_write_are_damage(
    origin: Sound, tmp_path: Path, large_bytes: int
) -> None:
    """What follows was written after the fsync of what is missing: it had been acknowledged."""
    copy = origin._replace(path=shutil.copytree(origin.path, tmp_path / "copy"))
    _, begins, _ = write_and_leave(copy, [b"whole", Random(7).randbytes(large_bytes), b"later"])
    log = wal_files(copy.store())[-1]
    at = -(-begins // PAGE_BYTES) * PAGE_BYTES
    zero(log, at, at + SECTOR_BYTES)
    with pytest.raises(StorageDamaged, match=log.name):
        check_wal(copy.store())
