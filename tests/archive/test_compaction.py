"""Many small objects of a day become one; no reader sees a run twice or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.archive.batches import BatchState
from engine.archive.steps import Step
from engine.base import limits
from engine.base.ids import parse_run_id
from tests.archive.house import ACME, DAY_US, HOUR_US, House, open_house, seen
from tests.archive.lives import NOW_US, completed, new_ids, write_run, write_runs
from tests.archive.test_flow import bytes_of


def flip_byte(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)


async def several_batches(house: House, count: int = 4) -> dict[str, list[bytes]]:
    written: dict[str, list[bytes]] = {}
    for number in range(count):
        at_us = NOW_US + number * HOUR_US
        written |= await write_runs(house.journal, 5, at_us=at_us)
        await house.archive.flush_now(ACME)
    return written


async def test_a_day_that_is_over_becomes_one_object(house: House) -> None:
    written = await several_batches(house)
    assert await house.archive.compact_now(ACME) == 0  # the day is not over
    house.clock.advance_us(DAY_US)
    assert await house.archive.compact_now(ACME) == 4
    assert len(house.tenant.snapshot().run_files) == 1
    assert seen(house.tenant) == sorted(written)
    verified = await house.archive.verify(ACME)
    assert (verified.batches, verified.runs, verified.problems) == (1, 20, ())
    assert await house.archive.compact_now(ACME) == 0

    await house.archive.retain_now(ACME)  # the hot copies that the four had
    assert not list(house.journal.rows(b"r"))
    for text, values in written.items():
        found = await house.archive.lookup(ACME, parse_run_id(text))
        assert found is not None
        assert bytes_of(found.records) == values


async def test_what_was_replaced_goes_after_the_grace(house: House) -> None:
    await several_batches(house)
    house.clock.advance_us(DAY_US)
    before = house.tenant.snapshot()
    await house.archive.compact_now(ACME)
    await house.archive.retain_now(ACME)
    assert all(map(os.path.exists, before.run_files))
    house.clock.advance_us(700_000_000)
    assert (await house.archive.retain_now(ACME)).batches == 4
    assert not any(map(os.path.exists, before.run_files))
    assert len(list(house.archive.store.list("journal/"))) == 1
    assert len(seen(house.tenant)) == 20


async def test_a_reader_at_any_step_sees_each_run_once(tmp_path: Path) -> None:
    seen_at: dict[Step, list[str]] = {}
    house: House

    def look(step: Step) -> None:
        seen_at[step] = seen(house.tenant)

    async with open_house(tmp_path, on_step=look, hot_retention_s=0) as house:
        written = await several_batches(house)
        house.clock.advance_us(DAY_US)
        await house.archive.compact_now(ACME)
        await house.archive.retain_now(ACME)
        house.clock.advance_us(DAY_US)
        await house.archive.retain_now(ACME)
    assert set(seen_at) == set(Step)
    planned = seen_at.pop(Step.PLANNED), seen_at.pop(Step.BUILT)
    assert planned[0] == planned[1]
    assert all(found == sorted(written) for found in seen_at.values())


async def test_a_damaged_source_is_left_alone(house: House) -> None:
    await several_batches(house)
    victim = house.tenant.snapshot().run_files[1]
    flip_byte(Path(victim), 40)
    house.clock.advance_us(DAY_US)
    assert await house.archive.compact_now(ACME) == 0
    assert os.path.basename(victim) in str(house.tenant.unreadable)
    assert len(house.tenant.manifest.of_state(BatchState.ACKNOWLEDGED)) == 4


async def test_row_groups_grow(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "archive_portion_runs_max", 10)
    await several_batches(house)
    house.clock.advance_us(DAY_US)
    await house.archive.compact_now(ACME)
    (file,) = house.tenant.snapshot().run_files
    assert pq.ParquetFile(file).metadata.num_row_groups == 2
    moments = pq.read_table(file, partitioning=None).column("completed_ms").to_pylist()
    assert moments == sorted(moments)


async def test_runs_of_one_day_that_are_still_hot_stay_listed(house: House) -> None:
    parent = new_ids()()
    await write_run(house.journal, parent, completed()[:-1])
    child = new_ids()()
    await write_run(house.journal, child, completed(parent=parent))
    await house.archive.flush_now(ACME)
    await write_runs(house.journal, 2, at_us=NOW_US + HOUR_US)
    await house.archive.flush_now(ACME)
    house.clock.advance_us(DAY_US)
    await house.archive.retain_now(ACME)
    await house.archive.compact_now(ACME)
    (batch,) = house.tenant.manifest.of_state(BatchState.ACKNOWLEDGED)
    assert batch.hot_runs() == [child]


# ---- of a day that still grows ----


async def test_a_growing_day_has_few_objects(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "archive_compacted_fan_in", 3)
    written = await several_batches(house, 4)
    assert await house.archive.compact_now(ACME) == 3
    assert await house.archive.compact_now(ACME) == 0
    assert len(house.tenant.snapshot().run_files) == 2
    assert seen(house.tenant) == sorted(written)

    house.clock.advance_us(DAY_US)
    assert await house.archive.compact_now(ACME) == 2
    assert seen(house.tenant) == sorted(written)
    assert (await house.archive.verify(ACME)).problems == ()
    (file,) = house.tenant.snapshot().run_files
    moments = pq.read_table(file, partitioning=None).column("completed_ms").to_pylist()
    assert moments == sorted(moments)


async def test_a_fresh_directory_finds_what_was_replaced_twice(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replaced objects are all still there."""
    monkeypatch.setattr(limits, "archive_compacted_fan_in", 3)
    written = await several_batches(house, 4)
    await house.archive.compact_now(ACME)
    house.clock.advance_us(DAY_US)
    await house.archive.compact_now(ACME)
    assert len(list(house.archive.store.list("runs/"))) == 6
    bucket = str(house.data_dir / "archive")
    async with open_house(tmp_path / "second", url=bucket) as second:
        assert (await second.archive.rehydrate(ACME)).batches == 1
        assert seen(second.tenant) == sorted(written)


async def test_the_row_of_hot_ids_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hot retention that is longer than a day, all runs are still hot when it is over."""
    monkeypatch.setattr(limits, "archive_compacted_hot_bytes_max", 24 * 12)
    written = await several_batches(house, 4)
    house.clock.advance_us(DAY_US)
    assert await house.archive.compact_now(ACME) == 4
    batches = house.tenant.manifest.of_state(BatchState.ACKNOWLEDGED)
    assert [len(one.hot) for one in batches] == [24 * 10, 24 * 10]
    assert await house.archive.compact_now(ACME) == 0
    await house.archive.retain_now(ACME)
    assert await house.archive.compact_now(ACME) == 2
    assert seen(house.tenant) == sorted(written)


async def test_an_old_run_is_found_when_its_batch_was_compacted(house: House) -> None:
    """Its id is far from those of its neighbours, and none of them is read to know that."""
    old = new_ids(NOW_US - 3 * DAY_US)()
    await write_run(house.journal, old, completed(lasting_us=3 * DAY_US))
    written = await several_batches(house, 3)
    house.clock.advance_us(DAY_US)
    await house.archive.compact_now(ACME)
    (batch,) = house.tenant.manifest.of_state(BatchState.ACKNOWLEDGED)
    assert batch.outliers == old
    assert not batch.may_have(new_ids(NOW_US - 2 * DAY_US)())
    assert all(batch.may_have(parse_run_id(text)) for text in written)
    assert await house.archive.lookup(ACME, old) is not None
