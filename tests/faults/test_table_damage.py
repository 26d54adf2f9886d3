"""A damaged table (SST). The tenant is refused, on opening or on the first read that meets the
damage, with the file named; nothing ends early in silence, and no other tenant is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio

from engine.base.errors import StorageDamaged
from engine.base.ids import RunId
from engine.ext.offsets import record_key
from engine.journal.segment import Segment
from engine.journal.store import OpenMode, Store
from engine.journal.tenant import TenantJournal
from engine.model.records import RecordKind
from tests.faults.damage import flip, largest_table, smallest_table, truncate
from tests.journal.harness import ACME, NOW_US, OTHER, append_to, journal_at, payloads_in
from tests.journal.sound import ALL_RECORDS, Sound, batch_of, resources, sound_directory

SEED = 5
FLIPS = 25
RUNS = 60


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """Every record and row is in a table; the records' one has several blocks."""
    build = partial(sound_directory, tmp_path_factory.mktemp("origin"), runs=RUNS, in_tables=1.0)
    return trio.run(build)


@pytest.fixture
def sound(origin: Sound, tmp_path: Path) -> Sound:
    return origin._replace(path=shutil.copytree(origin.path, tmp_path / "data"))


def values_of(segment: Segment) -> list[bytes]:
    return list(segment.read_values())


# ---- nothing ends in silence ----


async def test_a_flip_anywhere_loses_nothing_in_silence(origin: Sound, tmp_path: Path) -> None:
    size = largest_table(origin.store()).stat().st_size
    met = 0
    for at in sorted(Random(SEED).sample(range(size), FLIPS)):
        path = shutil.copytree(origin.path, tmp_path / str(at))
        hurt = origin._replace(path=path)
        table = largest_table(hurt.store())
        flip(table, at)
        met += await read_everything(hurt, table)
        shutil.rmtree(path)
    assert met > FLIPS // 2, "most of a table is blocks of records"


async def read_everything(hurt: Sound, table: Path) -> bool:
    """Each run gives all of its records or says which file is damaged; whether one said so."""
    async with journal_at(hurt.path) as journal:
        try:
            opened = await journal.pin(ACME)
        except StorageDamaged as error:
            return names(error, table)
        try:
            refused = [run for run in hurt.runs(ACME) if not read_run(opened, hurt, run, table)]
        finally:
            journal.unpin(opened)
    return bool(refused)


def read_run(opened: TenantJournal, hurt: Sound, run: RunId, table: Path) -> bool:
    expected = hurt.of_run(ACME, run)
    try:
        segment = opened.open_segment(run)
        assert values_of(segment) == expected
        assert segment.fold().next_offset == len(expected)
    except StorageDamaged as error:
        return not names(error, table)
    return True


def names(error: StorageDamaged, table: Path) -> bool:
    assert error.details["file"] == str(table)
    assert str(table) in error.message
    return True


def block_ends(store: Store, keys: list[bytes]) -> list[bytes]:
    """The keys from which nothing can be read."""
    refused = []
    for key in keys:
        try:
            next(store.records(key, ALL_RECORDS[1]), None)
        except StorageDamaged:
            refused.append(key)
    return refused


def test_no_scan_ends_early_wherever_it_begins(sound: Sound) -> None:
    """Also one that begins at the very last key of a damaged block."""
    table = largest_table(sound.store())
    flip(table, table.stat().st_size // 2)
    keys = sorted(key for key, _ in sound.acknowledged[ACME])
    store = Store(sound.store(), resources(), OpenMode.READ_ONLY)
    try:
        damaged_keys = block_ends(store, keys)
        assert 0 < len(damaged_keys) < len(keys)
        last_bad = keys.index(damaged_keys[-1])
        for position, key in enumerate(keys):
            found, is_whole = scan_from(store, key)
            assert found == keys[position : position + len(found)]
            assert is_whole is (position > last_bad)
            assert is_whole is (position + len(found) == len(keys))
        for end in (damaged_keys[0], damaged_keys[-1], keys[-1]):
            with pytest.raises(StorageDamaged, match=table.name):
                store.last_record_key(damaged_keys[0], damaged_keys[-1])
            assert isinstance(store.explain_short_read(keys[0], end + b"\xff"), StorageDamaged)
    finally:
        store.close()


def scan_from(store: Store, key: bytes) -> tuple[list[bytes], bool]:
    found = []
    try:
        for each, _ in store.records(key, ALL_RECORDS[1]):
            found.append(each)
    except StorageDamaged:
        return found, False
    return found, True


def test_no_scan_of_rows_ends_early(sound: Sound) -> None:
    table = smallest_table(sound.store())
    flip(table, 100)
    store = Store(sound.store(), resources(), OpenMode.READ_ONLY)
    try:
        for scan in (store.rows(b"r"), store.rows_backwards(b"r", b"s")):
            with pytest.raises(StorageDamaged, match=table.name):
                list(scan)
        with pytest.raises(StorageDamaged, match=table.name):
            store.row(b"r" + sound.runs(ACME)[3])
    finally:
        store.close()


# ---- that tenant, and no other ----


async def test_a_read_that_meets_damage_stops_the_tenant_and_no_other(sound: Sound) -> None:
    """It goes on reading what it can, and writes nothing on top."""
    table = largest_table(sound.store())
    flip(table, table.stat().st_size // 2)
    async with journal_at(sound.path) as journal:
        async with journal.use(ACME) as acme:
            refused = [run for run in sound.runs(ACME) if not read_run(acme, sound, run, table)]
            assert 0 < len(refused) < RUNS
            whole = next(run for run in sound.runs(ACME) if run not in refused)
            assert values_of(acme.open_segment(whole)) == sound.of_run(ACME, whole)
            with pytest.raises(StorageDamaged, match=table.name):
                await acme.open_segment(whole).append(
                    RecordKind.STEP_COMPLETED, b"", timestamp_us=NOW_US
                )
        async with journal.use(OTHER) as other:
            assert all(
                values_of(other.open_segment(run)) == sound.of_run(OTHER, run)
                for run in sound.runs(OTHER)
            )
        await append_to(journal, OTHER, b"goes on")
        assert await payloads_in(journal, OTHER) == [b"goes on"]


@pytest.mark.parametrize(
    "hurt",
    [
        lambda table: table.unlink(),
        lambda table: truncate(table, table.stat().st_size // 2),
        lambda table: truncate(table, table.stat().st_size - 1),
        lambda table: truncate(table, 0),
        lambda table: flip(table, table.stat().st_size - 10),
    ],
    ids=["missing", "half", "a byte short", "empty", "footer"],
)
@pytest.mark.parametrize("choose", [largest_table, smallest_table], ids=["records", "rows"])
async def test_a_table_that_cannot_be_opened_refuses_the_tenant(
    sound: Sound, hurt: Callable[[Path], None], choose: Callable[[Path], Path]
) -> None:
    table = choose(sound.store())
    hurt(table)
    async with journal_at(sound.path) as journal:
        with pytest.raises(StorageDamaged) as raised:
            async with journal.use(ACME):
                pass
        assert raised.value.details["file"] == str(table)
        assert "engine journal salvage acme" in raised.value.message
        await append_to(journal, OTHER, b"goes on")


def test_damage_does_not_keep_a_store_locked(sound: Sound) -> None:
    """What went wrong in the background does not keep a store from letting go of its files."""
    table = largest_table(sound.store())
    flip(table, table.stat().st_size // 2)
    key = max(sound.acknowledged[ACME])[0]
    for number in range(2):
        store = Store(sound.store(), resources(), OpenMode.READ_WRITE)
        # Overlapping tables, so that the damaged one must be read to merge them.
        store.write(store.prepare(batch_of([(bytes(24), b""), (key, b"%d" % number)])), sync=True)
        store.flush()
        store.compact_records(None, None)
        with pytest.raises(StorageDamaged, match=table.name):
            list(store.records(*ALL_RECORDS))
        store.close()


def test_records_of_a_table_are_found_by_key(sound: Sound) -> None:
    """The fixture is what the tests above take it for."""
    store = Store(sound.store(), resources(), OpenMode.READ_ONLY)
    try:
        assert list(store.records(*ALL_RECORDS)) == sorted(sound.acknowledged[ACME])
        assert store.last_record_key(*ALL_RECORDS) == max(sound.acknowledged[ACME])[0]
        run = sound.runs(ACME)[0]
        first = next(store.records(record_key(run, 0), ALL_RECORDS[1]))
        assert first[1] == sound.of_run(ACME, run)[0]
    finally:
        store.close()
    assert largest_table(sound.store()).stat().st_size > 3 * 16_384
