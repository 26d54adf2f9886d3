"""The program that makes files of ended runs: the same files as here, and what may go wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.archive.batches import ended_of
from engine.archive.files.parquet import ParquetObject
from engine.archive.moving.builder import Builder, encoded_slices
from engine.base import limits
from engine.base.clock import ManualClock
from engine.base.errors import StorageFailed
from engine.ext.offsets import encode_record, record_key
from engine.journal.layout import FINISHED_TAG
from engine.model.records import RecordKind
from tests.archive.house import ACME, House, cold, seen
from tests.archive.lives import NOW_US, completed, new_ids, write_run, write_runs


@pytest.fixture
def everything_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "archive_inside_runs_max", 0)


@pytest.fixture
async def builder(tmp_path: Path) -> AsyncIterator[Builder]:
    found = Builder(tmp_path / "outgoing", ManualClock())
    yield found
    await found.aclose()


async def test_files_made_beside_are_those_made_here(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_runs(house.journal, 20)
    made = {}
    for bound in (1_000, 0):
        monkeypatch.setattr(limits, "archive_inside_runs_max", bound)
        flushed = await house.archive.flush_now(ACME)
        assert flushed.runs == 20
        assert (house.tenant.builder.pid is None) is (bound == 1_000)
        (batch,) = house.tenant.manifest.acknowledged_in(house.journal.snapshot())
        objects = {name: house.tenant.open_object(batch, name) for name in batch.objects}
        made[bound] = {name: _told(one) for name, one in objects.items()}
        again = [(FINISHED_TAG + one, b"") for one in ended_of(batch.hot)]
        await house.tenant.manifest.write([], removed=[batch.batch_id], rows=again)
    assert made[0] == made[1_000]


def _told(found: ParquetObject) -> object:
    facts = {name: said for name, said in found.facts().items() if name != "batch_id"}
    return facts, [found.portion(number).to_pylist() for number in range(found.portions)]


@pytest.mark.usefixtures("everything_beside")
async def test_a_run_that_no_rows_can_be_made_of_is_left_out_and_named(house: House) -> None:
    written = await write_runs(house.journal, 3)
    bad = new_ids()()
    life = completed()
    await write_run(house.journal, bad, life)
    key = record_key(bad, 2)
    value = encode_record(RecordKind.STEP_COMPLETED, 0, 2, NOW_US, b"\xff\xff\xff")
    house.journal.store.write(_batch(house, key, value), sync=True)
    assert (await house.archive.flush_now(ACME)).runs == 3
    assert list(house.tenant.refused) == [bad]
    assert cold(house.tenant).num_rows == len(written)


@pytest.mark.usefixtures("everything_beside")
async def test_a_run_larger_than_a_frame_goes_in_pieces(house: House) -> None:
    size = 3 * limits.process_part_bytes_max
    life = completed(output=b'"' + b"x" * size + b'"')
    await write_run(house.journal, new_ids()(), life)
    assert (await house.archive.flush_now(ACME)).runs == 1
    payloads = cold_journal(house)
    assert max(map(len, payloads)) > size


def _batch(house: House, key: bytes, value: bytes) -> Any:
    batch = SimpleNamespace(keys=[key], values=[value], rows=[], ranges=[])
    return house.journal.store.prepare(cast("Any", batch))


def cold_journal(house: House) -> list[bytes]:
    (batch,) = house.tenant.manifest.acknowledged_in(house.journal.snapshot())
    found = house.tenant.open_object(batch, "journal").portion(0)
    payloads: list[bytes] = found.column("payload").to_pylist()
    return payloads


@pytest.mark.usefixtures("everything_beside")
async def test_one_that_was_killed_costs_a_flush_and_no_run(house: House) -> None:
    written = await write_runs(house.journal, 4)
    await house.archive.flush_now(ACME)
    more = await write_runs(house.journal, 4)
    assert house.tenant.builder.pid is not None
    os.kill(house.tenant.builder.pid, signal.SIGKILL)
    with pytest.raises(StorageFailed, match="SIGKILL"):
        await house.archive.flush_now(ACME)
    assert seen(house.tenant) == sorted([*written, *more])
    assert (await house.archive.flush_now(ACME)).runs == 4
    assert seen(house.tenant) == sorted([*written, *more])


@pytest.mark.usefixtures("everything_beside")
async def test_one_that_stands_still_is_ended_and_costs_no_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = await write_runs(house.journal, 4)
    await house.archive.flush_now(ACME)
    more = await write_runs(house.journal, 4)
    pid = house.tenant.builder.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as sooner:
        sooner.setattr(limits, "archive_builder_silence_ms", 100)
        with pytest.raises(StorageFailed, match="did nothing for"):
            await house.archive.flush_now(ACME)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert seen(house.tenant) == sorted([*written, *more])
    assert (await house.archive.flush_now(ACME)).runs == 4


async def test_a_disk_that_does_not_take_the_files_is_told(
    builder: Builder, tmp_path: Path
) -> None:
    async def into_nowhere() -> None:
        async with builder.batch(tmp_path / "nowhere", 1) as program:
            for some in encoded_slices([(new_ids()(), [b"x"])] * 3):
                await program.add(some)
            await program.gathered()

    with pytest.raises(StorageFailed, match="could not be written"):
        await into_nowhere()
    (tmp_path / "there").mkdir()
    async with builder.batch(tmp_path / "there", 1) as program:
        assert await program.gathered() == {}
        await program.abandon()
    assert list((tmp_path / "there").iterdir())


async def test_it_ends_when_there_was_no_batch_for_long(tmp_path: Path) -> None:
    clock = ManualClock()
    builder = Builder(tmp_path / "outgoing", clock)
    async with builder.batch(tmp_path, 1) as program:
        await program.gathered()
        await program.abandon()
    await builder.end_if_unused()
    pid = builder.pid
    assert pid is not None
    clock.advance_us(2 * limits.archive_builder_idle_ms * 1_000)
    await builder.end_if_unused()
    assert builder.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
