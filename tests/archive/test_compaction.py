"""Many small objects of a day that is over become one; no reader sees a run twice or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.archive.batches import Batch, BatchState, ObjectFact
from engine.archive.compaction import groups_to_compact
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


def batch(number: int, day: str = "2026-01-01", size: int = 1_000) -> Batch:
    return Batch(
        batch_id=f"{number:04}",
        state=BatchState.ACKNOWLEDGED,
        day=day,
        runs=1,
        planned_ms=0,
        objects={"runs": ObjectFact(size, 1)},
        from_ms=number,
    )


def test_which_batches_become_one() -> None:
    small = [batch(number) for number in range(3)]
    other_day = [batch(number, "2026-01-02") for number in (5, 6)]
    alone = batch(9, "2026-01-03")
    large = batch(4, size=limits.archive_compacted_bytes_aim)
    today = [batch(number, "2026-01-09") for number in (7, 8)]
    found = groups_to_compact([*today, large, alone, *other_day, *reversed(small)], "2026-01-09")
    assert found == [small, other_day]


def test_no_object_becomes_larger_than_it_should() -> None:
    size = limits.archive_compacted_bytes_aim // 5
    found = groups_to_compact([batch(number, size=size) for number in range(12)], "2026-01-09")
    assert [len(group) for group in found] == [5, 5, 2]
