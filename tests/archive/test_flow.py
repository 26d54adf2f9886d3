"""From ended to archived to gone from the hot tier, and found again: the plain way."""

from __future__ import annotations

from engine.base.ids import parse_run_id
from engine.ext.offsets import encode_record
from engine.journal.layout import FINISHED_TAG
from tests.archive.house import DAY_US, HOUR_US, House, cold, seen
from tests.archive.lives import NOW_US, completed, new_ids, write_run, write_runs


def bytes_of(records: object) -> list[bytes]:
    return [
        encode_record(one.kind, one.flags, one.offset, one.timestamp_us, one.payload)
        for one in records  # type: ignore[attr-defined]
    ]


async def test_an_ended_run_is_hot_then_in_a_file_then_only_there(house: House) -> None:
    written = await write_runs(house.journal, 10)
    assert seen(house.tenant) == sorted(written)

    flushed = await house.archive.flush_now(house.journal.tenant_id)
    assert (flushed.runs, flushed.batches) == (10, 1)
    assert flushed.bytes > 0
    assert seen(house.tenant) == sorted(written)
    assert cold(house.tenant).num_rows == 10
    assert not list(house.journal.rows(FINISHED_TAG))

    run = parse_run_id(min(written))
    assert house.journal.open_segment(run).read()
    house.clock.advance_us(2 * HOUR_US)
    retained = await house.archive.retain_now(house.journal.tenant_id)
    assert retained.hot_runs == 10
    assert not list(house.journal.rows(b"r"))
    assert house.journal.open_segment(run).durable_offset == 0
    assert seen(house.tenant) == sorted(written)
    for text, values in written.items():
        found = await house.archive.lookup(house.journal.tenant_id, parse_run_id(text))
        assert found is not None
        assert found.run_id == parse_run_id(text)
        assert bytes_of(found.records) == values


async def test_a_run_that_nobody_knows_is_not_found(house: House) -> None:
    await write_runs(house.journal, 3)
    await house.archive.flush_now(house.journal.tenant_id)
    assert await house.archive.lookup(house.journal.tenant_id, new_ids()()) is None
    between = new_ids(NOW_US - 60_000)()
    assert await house.archive.lookup(house.journal.tenant_id, between) is None


async def test_open_runs_stay_hot_and_are_seen(house: House) -> None:
    run = new_ids()()
    await write_run(house.journal, run, completed()[:-1])
    assert (await house.archive.flush_now(house.journal.tenant_id)).runs == 0
    table = house.tenant.snapshot().hot_runs()
    assert table.column("status").to_pylist() == ["RUNNING"]
    assert table.column("completed_ms").to_pylist() == [None]


async def test_one_object_of_each_sort_for_each_day(house: House) -> None:
    for day in range(3):
        await write_runs(house.journal, 2, at_us=NOW_US + day * DAY_US + 5)
    flushed = await house.archive.flush_now(house.journal.tenant_id)
    assert (flushed.runs, flushed.batches) == (6, 3)
    snapshot = house.tenant.snapshot()
    assert [file.split("/")[-2] for file in snapshot.run_files] == [
        "day=2026-01-01",
        "day=2026-01-02",
        "day=2026-01-03",
    ]


async def test_the_archive_equals_the_journal(house: House) -> None:
    await write_runs(house.journal, 20)
    await house.archive.flush_now(house.journal.tenant_id)
    verified = await house.archive.verify(house.journal.tenant_id)
    assert (verified.batches, verified.runs, verified.problems) == (1, 20, ())
