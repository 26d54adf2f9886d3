"""What is deleted when, and above all what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.batches import BatchState
from engine.archive.moving.retention import neighbours_of
from engine.archive.rows.reading import Pacer
from engine.base import limits
from engine.base.clock import ManualClock
from engine.base.errors import OffsetTrimmed
from engine.base.ids import ProjectId, RunId, child_run_id, parse_run_id
from engine.journal.layout import expiry_key, idempotency_key, open_run_key, run_key
from tests.archive.house import ACME, DAY_US, HOUR_US, House, open_house, seen
from tests.archive.lives import NOW_US, completed, new_ids, write_run, write_runs


async def test_nothing_goes_before_its_time(house: House) -> None:
    await write_runs(house.journal, 5)
    house.clock.advance_us(2 * HOUR_US)
    assert (await house.archive.retain_now(ACME)).hot_runs == 0  # not archived
    assert len(list(house.journal.rows(b"r"))) == 5


async def test_nothing_goes_before_the_hot_retention_is_over(house: House) -> None:
    await write_runs(house.journal, 5)
    await house.archive.flush_now(ACME)
    house.clock.advance_us(HOUR_US - 1_000_000)
    assert (await house.archive.retain_now(ACME)).hot_runs == 0
    house.clock.advance_us(2_000_000)
    assert (await house.archive.retain_now(ACME)).hot_runs == 5
    assert (await house.archive.retain_now(ACME)).hot_runs == 0


async def test_a_child_stays_as_long_as_its_parent_is_open(house: House) -> None:
    parent = new_ids()()
    child = child_run_id(parent, 1)
    await write_run(house.journal, parent, completed()[:-1])
    await write_run(house.journal, child, completed(parent=parent, position=1))
    await write_runs(house.journal, 3)
    await house.archive.flush_now(ACME)
    house.clock.advance_us(2 * HOUR_US)
    assert (await house.archive.retain_now(ACME)).hot_runs == 3
    assert house.journal.row(run_key(child)) is not None

    await house.journal.write_rows([(open_run_key(parent), None)])
    assert (await house.archive.retain_now(ACME)).hot_runs == 1
    assert house.journal.row(run_key(child)) is None
    assert await house.archive.lookup(ACME, child) is not None


async def test_who_reads_a_run_that_goes_is_told(house: House) -> None:
    written = await write_runs(house.journal, 1)
    run = parse_run_id(next(iter(written)))
    segment = house.journal.open_segment(run)
    assert len(segment.read()) == 6
    await house.archive.flush_now(ACME)
    house.clock.advance_us(2 * HOUR_US)
    await house.archive.retain_now(ACME)
    with pytest.raises(OffsetTrimmed):
        segment.read()
    assert house.journal.committer.stopped_by is None


async def test_a_reader_has_its_moment_even_when_all_of_it_goes(tmp_path: Path) -> None:
    async with open_house(tmp_path, hot_retention_s=0) as house:
        written = await write_runs(house.journal, 5)
        snapshot = house.tenant.snapshot()
        await house.archive.flush_now(ACME)
        house.clock.advance_us(HOUR_US)
        assert (await house.archive.retain_now(ACME)).hot_runs == 5
        assert not snapshot.run_files
        assert sorted(snapshot.hot_runs().column("run_id").to_pylist()) == sorted(written)
        assert snapshot.hot_steps().num_rows == 5 * 4
        assert seen(house.tenant) == sorted(written)


async def test_what_runs_leave_is_deleted_in_writes_of_a_bounded_size(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "archive_delete_runs_max", 4)
    await write_runs(house.journal, 10)
    await house.archive.flush_now(ACME)
    house.clock.advance_us(2 * HOUR_US)
    assert (await house.archive.retain_now(ACME)).hot_runs == 10
    assert not list(house.journal.rows(b"r"))
    (batch,) = house.tenant.manifest.of_state(BatchState.ACKNOWLEDGED)
    assert batch.hot == b""


async def test_each_run_of_a_compacted_batch_goes_in_its_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the last of them is due; and not for each of them is the row of them rewritten."""
    monkeypatch.setattr(limits, "archive_compacted_fan_in", 4)
    for number in range(4):
        await write_runs(house.journal, 5, at_us=NOW_US + number * HOUR_US)
        await house.archive.flush_now(ACME)
    assert await house.archive.compact_now(ACME) == 4

    def at(offset_us: int) -> None:
        house.clock.advance_us(NOW_US + HOUR_US + offset_us - house.clock.now_us())

    at(1_500)  # two of twenty
    assert (await house.archive.retain_now(ACME)).hot_runs == 0
    at(HOUR_US // 2)
    assert (await house.archive.retain_now(ACME)).hot_runs == 5
    at(3 * HOUR_US - 1_000_000)
    assert (await house.archive.retain_now(ACME)).hot_runs == 10
    at(3 * HOUR_US + 1_000_000)
    assert (await house.archive.retain_now(ACME)).hot_runs == 5
    assert not list(house.journal.rows(b"r"))


async def test_the_journal_is_compacted_when_enough_has_gone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rewriting of what stays, so not for every few runs."""
    monkeypatch.setattr(limits, "archive_hint_runs_min", 8)
    for number, gathered in ((1, 5), (2, 0), (3, 5)):
        await write_runs(house.journal, 5, at_us=NOW_US + number * HOUR_US)
        await house.archive.flush_now(ACME)
        house.clock.advance_us(3 * HOUR_US)
        assert (await house.archive.retain_now(ACME)).hot_runs == 5
        assert house.tenant.emptied.runs == gathered
        # What is deleted is an entry of its own until then.
        assert (house.journal.store.statistics()["records_estimated"] == 0) is (gathered == 0)


# ---- which records may go as one range ----

SETTLED_MS = NOW_US // 1_000 + 10_000_000


def run_at(millisecond: int, tail: int = 0) -> RunId:
    return RunId((NOW_US // 1_000 + millisecond).to_bytes(6, "big") + tail.to_bytes(10, "big"))


async def grouped(
    house: House,
    going: list[RunId],
    *,
    ended: tuple[RunId, ...] = (),
    still_open: tuple[RunId, ...] = (),
    settled_ms: int = SETTLED_MS,
) -> list[list[RunId]]:
    rows: list[tuple[bytes, bytes | None]] = [(run_key(run), b"") for run in (*going, *ended)]
    rows += [(open_run_key(run), b"") for run in still_open]
    await house.journal.write_rows(rows)
    return neighbours_of(house.journal.snapshot(), going, settled_ms, Pacer())


async def test_runs_with_nothing_between_them_go_together(house: House) -> None:
    runs = [run_at(number) for number in range(5)]
    assert await grouped(house, runs) == [runs]


async def test_a_run_that_stays_divides_them(house: House) -> None:
    runs = [run_at(number) for number in range(4)]
    groups = await grouped(house, runs, ended=(run_at(1, 7),))
    assert groups == [runs[:2], runs[2:]]


async def test_an_open_run_divides_them_with_its_whole_millisecond(house: House) -> None:
    """Its children have its millisecond, and may be written at this moment."""
    runs = [run_at(0), run_at(1, 1), run_at(1, 3), run_at(2), run_at(3)]
    groups = await grouped(house, runs, still_open=(run_at(1, 2),))
    assert groups == [[run_at(0)], [run_at(1, 1)], [run_at(1, 3)], [run_at(2), run_at(3)]]


async def test_an_open_run_beside_the_first_divides_as_well(house: House) -> None:
    runs = [run_at(1, 1), run_at(2)]
    assert await grouped(house, runs, still_open=(run_at(1, 0),)) == [[runs[0]], [runs[1]]]
    assert await grouped(house, runs, still_open=(run_at(2, 9),)) == [[runs[0]], [runs[1]]]


async def test_runs_of_the_present_go_one_by_one(house: House) -> None:
    runs = [run_at(0), run_at(1), run_at(2)]
    groups = await grouped(house, runs, settled_ms=NOW_US // 1_000 + 1)
    assert groups == [[run_at(0)], [run_at(1)], [run_at(2)]]


# ---- the rest ----


async def test_idempotency_entries_are_forgotten_with_their_age(house: House) -> None:
    def entry(name: str, made_ms: int) -> list[tuple[bytes, bytes | None]]:
        key = idempotency_key(ProjectId("shop"), name)
        return [(key, b"run and digest"), (expiry_key(made_ms, key), b"")]

    now_ms = house.clock.now_ms()
    await house.journal.write_rows([*entry("old", now_ms - 86_400_001), *entry("new", now_ms)])
    assert (await house.archive.retain_now(ACME)).idempotency_entries == 1
    assert house.journal.row(idempotency_key(ProjectId("shop"), "old")) is None
    assert house.journal.row(idempotency_key(ProjectId("shop"), "new")) is not None
    assert len(list(house.journal.rows(b"x"))) == 1


async def test_a_tenant_keeps_its_archived_days_as_long_as_it_says(tmp_path: Path) -> None:
    async with open_house(
        tmp_path,
        ManualClock(NOW_US + 10 * DAY_US),
        cold_retention_days=100,
        cold_retention_days_by_tenant={"acme": 5},
        replaced_grace_s=600,
    ) as house:
        for day in (0, 4, 5, 6, 9):
            await write_runs(house.journal, 2, at_us=NOW_US + day * DAY_US + HOUR_US)
        await house.archive.flush_now(ACME)
        await house.archive.retain_now(ACME)  # hot copies
        await house.archive.retain_now(ACME)  # the days
        assert len(seen(house.tenant)) == 6
        objects = list(house.archive.store.list("runs/tenant=acme/"))
        assert len(objects) == 5  # a reader may be at them
        house.clock.advance_us(601_000_000)
        assert (await house.archive.retain_now(ACME)).batches == 2
        days = [found.key.split("/")[2] for found in house.archive.store.list("runs/")]
        assert days == ["day=2026-01-06", "day=2026-01-07", "day=2026-01-10"]
        assert len(list(house.archive.store.list("journal/"))) == 3


async def test_a_tenant_is_deleted_with_all_its_objects(house: House) -> None:
    await write_runs(house.journal, 5)
    await house.archive.flush_now(ACME)
    other = house.data_dir / "archive/engine/runs/tenant=acme-2/day=2026-01-01/runs-1.parquet"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"another tenant's")
    assert await house.archive.delete_tenant(ACME) == 3
    assert [found.key.split("/")[1] for found in house.archive.store.list("runs/")] == [
        "tenant=acme-2"
    ]
    house.archive.tenant_opened(house.journal)
