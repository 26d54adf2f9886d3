"""When a tenant that sleeps is woken for its archive's sake, and when not."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.base.clock import ManualClock
from engine.base.ids import ProjectId, child_run_id
from engine.journal.layout import expiry_key, idempotency_key, open_run_key
from tests.archive.house import ACME, DAY_US, HOUR_US, House, open_house
from tests.archive.lives import NOW_US, completed, new_ids, write_run, write_runs
from tests.journal.harness import write_directly

NOW_MS = NOW_US // 1_000
HOUR_MS = HOUR_US // 1_000
DAY_MS = DAY_US // 1_000


async def test_nothing_to_do(house: House) -> None:
    assert house.tenant.next_due_ms() is None
    await write_run(house.journal, new_ids()(), completed()[:-1])
    assert house.tenant.next_due_ms() is None


async def test_from_ended_to_gone(house: House) -> None:
    await write_runs(house.journal, 3)
    assert house.tenant.next_due_ms() == house.clock.now_ms()
    await house.archive.flush_now(ACME)
    due_ms = NOW_MS + 2 + HOUR_MS  # the last of them, and the hot retention
    assert house.tenant.next_due_ms() == due_ms
    house.clock.advance_us(due_ms * 1_000 - house.clock.now_us())
    assert (await house.archive.retain_now(ACME)).hot_runs == 3
    assert house.tenant.next_due_ms() is None


async def test_a_run_that_cannot_be_archived_wakes_nobody(house: House) -> None:
    (text,) = await write_runs(house.journal, 1)
    run = bytes.fromhex(text.replace("-", ""))
    write_directly(house.journal.store, ranges=[(run + bytes(8), run + b"\xff" * 8)])
    await house.archive.flush_now(ACME)
    assert house.tenant.refused
    assert house.tenant.next_due_ms() is None


async def test_a_child_that_its_parent_holds_wakes_nobody(house: House) -> None:
    """Or a tenant whose parent waits for a month would be opened all the time."""
    parent = new_ids()()
    await write_run(house.journal, parent, completed()[:-1])
    await write_run(house.journal, child_run_id(parent, 1), completed(parent=parent, position=1))
    await house.archive.flush_now(ACME)
    house.clock.advance_us(2 * HOUR_US)
    assert house.tenant.next_due_ms() == NOW_MS + HOUR_MS
    await house.archive.retain_now(ACME)
    assert house.tenant.next_due_ms() is None
    await house.journal.write_rows([(open_run_key(parent), None)])
    assert (await house.archive.retain_now(ACME)).hot_runs == 1


async def test_what_a_compaction_leaves(house: House) -> None:
    for number in range(2):
        await write_runs(house.journal, 1, at_us=NOW_US + number * HOUR_US)
        await house.archive.flush_now(ACME)
    house.clock.advance_us(4 * HOUR_US)
    await house.archive.retain_now(ACME)
    assert house.tenant.next_due_ms() == NOW_MS + DAY_MS  # its day is over: two become one
    house.clock.advance_us(DAY_US)
    assert await house.archive.compact_now(ACME) == 2
    assert house.tenant.next_due_ms() == house.clock.now_ms() + 600_000  # the grace
    house.clock.advance_us(600_000_000)
    await house.archive.retain_now(ACME)
    assert house.tenant.next_due_ms() is None


async def test_days_that_are_kept_for_a_time(tmp_path: Path) -> None:
    async with open_house(tmp_path, cold_retention_days=5, hot_retention_s=0) as house:
        await write_runs(house.journal, 2)
        await house.archive.flush_now(ACME)
        house.clock.advance_us(HOUR_US)
        await house.archive.retain_now(ACME)
        due_ms = house.tenant.next_due_ms()
        assert due_ms == NOW_MS + 6 * DAY_MS
        house.clock.advance_us(due_ms * 1_000 - house.clock.now_us() - 1_000)
        await house.archive.retain_now(ACME)
        assert house.tenant.next_due_ms() == due_ms
        house.clock.advance_us(1_000)
        await house.archive.retain_now(ACME)
        assert house.tenant.next_due_ms() == due_ms + 600_000


async def test_idempotency_entries(house: House) -> None:
    for name, made_ms in (("first", NOW_MS), ("second", NOW_MS + 5)):
        key = idempotency_key(ProjectId("shop"), name)
        await house.journal.write_rows([(key, b"run"), (expiry_key(made_ms, key), b"")])
    assert house.tenant.next_due_ms() == NOW_MS + DAY_MS


async def test_an_archive_that_is_off_wakes_nobody(tmp_path: Path) -> None:
    async with open_house(tmp_path, ManualClock(), enabled=False) as house:
        await write_runs(house.journal, 2)
        assert house.tenant.next_due_ms() is None


@pytest.mark.parametrize("compaction", [True, False])
async def test_compaction_can_be_off(tmp_path: Path, compaction: bool) -> None:
    async with open_house(tmp_path, compaction=compaction, hot_retention_s=0) as house:
        for number in range(2):
            await write_runs(house.journal, 1, at_us=NOW_US + number * HOUR_US)
            await house.archive.flush_now(ACME)
        house.clock.advance_us(2 * HOUR_US)
        await house.archive.retain_now(ACME)
        assert (house.tenant.next_due_ms() is not None) is compaction
