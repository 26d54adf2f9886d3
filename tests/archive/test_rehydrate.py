"""A fresh data directory learns from the bucket what is there; an old one learns what it missed."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.base.clock import ManualClock
from engine.base.ids import parse_run_id
from engine.journal.layout import FINISHED_TAG, finished_key, open_run_key
from tests.archive.house import ACME, DAY_US, HOUR_US, House, cold, open_house, seen
from tests.archive.lives import NOW_US, write_runs
from tests.archive.test_flow import bytes_of


async def bucket_of(
    tmp_path: Path, *, compacted: bool = False
) -> tuple[Path, dict[str, list[bytes]]]:
    """An archive that somebody else has filled."""
    written: dict[str, list[bytes]] = {}
    bucket = tmp_path / "bucket"
    async with open_house(tmp_path / "first", url=str(bucket)) as house:
        for hour in range(3):
            written |= await write_runs(house.journal, 4, at_us=NOW_US + hour * HOUR_US)
            await house.archive.flush_now(ACME)
        if compacted:
            house.clock.advance_us(DAY_US)
            await house.archive.compact_now(ACME)
    return bucket, written


async def test_a_fresh_directory_finds_everything(tmp_path: Path) -> None:
    bucket, written = await bucket_of(tmp_path)
    async with open_house(tmp_path / "second", url=str(bucket)) as house:
        assert seen(house.tenant) == []
        found = await house.archive.rehydrate(ACME)
        assert (found.batches, found.runs, found.problems) == (3, 12, ())
        await check(house, written)
        assert (await house.archive.rehydrate(ACME)).batches == 0


async def check(house: House, written: dict[str, list[bytes]]) -> None:
    assert seen(house.tenant) == sorted(written)
    for text, values in written.items():
        archived = await house.archive.lookup(ACME, parse_run_id(text))
        assert archived is not None
        assert bytes_of(archived.records) == values


async def test_it_is_done_by_itself_once(tmp_path: Path) -> None:
    bucket, written = await bucket_of(tmp_path)
    async with open_house(tmp_path / "second", url=str(bucket)) as house:
        later = await write_runs(house.journal, 2, at_us=NOW_US + 5 * HOUR_US)
        await house.archive.flush_now(ACME)
        await check(house, written | later)
    shutil.rmtree(bucket / "engine" / "runs")
    async with open_house(tmp_path / "second", url=str(bucket)) as house:
        await house.archive.flush_now(ACME)
        assert (await house.archive.status(ACME)).batches_acknowledged == 4


async def test_a_compacted_bucket_in_its_grace_is_not_seen_twice(tmp_path: Path) -> None:
    bucket, written = await bucket_of(tmp_path, compacted=True)
    async with open_house(tmp_path / "second", url=str(bucket)) as house:
        assert len(list(house.archive.store.list("runs/"))) == 4
        assert (await house.archive.rehydrate(ACME)).batches == 1
        await check(house, written)


async def test_an_upload_that_was_not_finished_is_left_out(tmp_path: Path) -> None:
    bucket, written = await bucket_of(tmp_path)
    victim = min((bucket / "engine" / "runs").rglob("*.parquet"))
    lost = set(cold_ids(victim))
    victim.unlink()
    async with open_house(tmp_path / "second", url=str(bucket)) as house:
        found = await house.archive.rehydrate(ACME)
        assert found.batches == 2
        assert "no object for runs" in found.problems[0]
        assert seen(house.tenant) == sorted(set(written) - lost)


def cold_ids(file: Path) -> list[str]:
    import pyarrow.parquet as pq

    ids: list[str] = pq.read_table(file, partitioning=None).column("run_id").to_pylist()
    return ids


async def test_a_file_that_is_cut_is_named_and_left_out(tmp_path: Path) -> None:
    bucket, _ = await bucket_of(tmp_path)
    victim = min((bucket / "engine" / "steps").rglob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-20])
    stranger = bucket / "engine" / "runs" / "tenant=acme" / "notes.txt"
    stranger.write_text("not ours")
    async with open_house(tmp_path / "second", url=str(bucket)) as house:
        found = await house.archive.rehydrate(ACME)
        assert found.batches == 2
        assert str(victim) in found.problems[0]


async def test_a_restored_directory_does_not_show_a_run_twice(tmp_path: Path) -> None:
    """Its copy is from before the flush: the runs are finished here and archived there."""
    bucket = tmp_path / "bucket"
    async with open_house(tmp_path / "first", url=str(bucket)) as house:
        written = await write_runs(house.journal, 6)
        batch_rows = list(house.journal.rows(b"b"))
        await house.archive.flush_now(ACME)
        assert not batch_rows
        # What the older copy had: the finished rows, and no batch.
        rows: list[tuple[bytes, bytes | None]] = [
            (key, None) for key, _ in house.journal.rows(b"b")
        ]
        for run, moment in zip(
            cold(house.tenant).column("run_id").to_pylist(),
            cold(house.tenant).column("completed_ms").to_pylist(),
            strict=True,
        ):
            rows.append((finished_key(moment, parse_run_id(run)), b""))
        rows += [(key, None) for key, _ in house.journal.rows(b"a")]
        await house.journal.write_rows(rows)
    async with open_house(tmp_path / "first", url=str(bucket)) as house:
        assert len(seen(house.tenant)) == 6
        await house.archive.flush_now(ACME)
        assert not list(house.journal.rows(FINISHED_TAG))
        await check(house, written)
        house.clock.advance_us(2 * HOUR_US)
        assert (await house.archive.retain_now(ACME)).hot_runs == 6


async def test_a_directory_in_which_they_are_still_open_says_so(tmp_path: Path) -> None:
    bucket, written = await bucket_of(tmp_path)
    async with open_house(tmp_path / "second", ManualClock(), url=str(bucket)) as house:
        run = parse_run_id(min(written))
        await house.journal.write_rows([(open_run_key(run), b"")])
        found = await house.archive.rehydrate(ACME)
        assert found.batches == 2
        assert "older than the bucket" in found.problems[0]
