"""ARCHIVE_EQUALS_JOURNAL, and a damaged object is named while the others go on answering."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.base.errors import ArchiveDamaged
from engine.base.ids import parse_run_id
from engine.ext.offsets import encode_record, record_key
from tests.archive.house import ACME, HOUR_US, House
from tests.archive.lives import NOW_US, write_runs
from tests.journal.harness import write_directly


async def two_batches(house: House) -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    first = await write_runs(house.journal, 5)
    await house.archive.flush_now(ACME)
    second = await write_runs(house.journal, 5, at_us=NOW_US + HOUR_US)
    await house.archive.flush_now(ACME)
    house.clock.advance_us(3 * HOUR_US)
    await house.archive.retain_now(ACME)
    assert (await house.archive.verify(ACME)).problems == ()
    return first, second


def object_of(house: House, data_set: str) -> Path:
    files = sorted((house.data_dir / "archive" / "engine" / data_set).rglob("*.parquet"))
    assert len(files) == 2
    return files[0]


@pytest.mark.parametrize("data_set", ["runs", "steps", "journal"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "other"])
async def test_what_is_damaged_is_named(house: House, data_set: str, damage: str) -> None:
    first, second = await two_batches(house)
    victim = object_of(house, data_set)
    data = bytearray(victim.read_bytes())
    if damage == "gone":
        victim.unlink()
    elif damage == "flip":
        data[len(data) // 3] ^= 0x55
        victim.write_bytes(data)
    else:
        victim.write_bytes({"cut": bytes(data[:-100]), "empty": b"", "other": b"x" * 900}[damage])
    verified = await house.archive.verify(ACME)
    assert len(verified.problems) >= 1
    assert all(str(victim) in problem for problem in verified.problems[:1])
    for text in second:  # the others answer
        assert await house.archive.lookup(ACME, parse_run_id(text)) is not None
    one = parse_run_id(min(first))
    if data_set != "journal":  # which has everything that there is of a run
        assert await house.archive.lookup(ACME, one) is not None
    elif damage != "flip":
        with pytest.raises(ArchiveDamaged, match="parquet"):
            await house.archive.lookup(ACME, one)
        assert house.tenant.unreadable


async def test_an_archived_run_that_differs_from_its_hot_copy(house: House) -> None:
    written = await write_runs(house.journal, 3)
    await house.archive.flush_now(ACME)
    run = parse_run_id(min(written))

    changed = [(record_key(run, 2), encode_record(3, 0, 2, NOW_US, b""))]
    write_directly(house.journal.store, records=changed)
    verified = await house.archive.verify(ACME)
    assert verified.problems == (
        f"run {min(written)} is archived with other records than the journal has",
    )


async def test_a_run_that_cannot_be_read_stays_hot_and_is_named(house: House) -> None:
    written = await write_runs(house.journal, 3)
    broken = parse_run_id(min(written))

    lost = (broken + bytes(7) + b"\x05", broken + b"\xff" * 8)
    write_directly(house.journal.store, ranges=[lost])
    assert (await house.archive.flush_now(ACME)).runs == 2
    assert (await house.archive.flush_now(ACME)).runs == 0
    assert len(list(house.journal.rows(b"f"))) == 1
    (problem,) = (await house.archive.verify(ACME)).problems
    assert min(written) in problem
    assert "not archived" in problem
    house.clock.advance_us(3 * HOUR_US)
    assert (await house.archive.retain_now(ACME)).hot_runs == 2
