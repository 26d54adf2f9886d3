"""The services run by themselves: by the interval, by the threshold, over all tenants, and they
stop when they are told to. Also what a snapshot shows by time, and odd clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.archive import columns, flusher
from engine.archive.archive import open_archive
from engine.archive.batches import id_range
from engine.archive.flusher import adopt_and_flush, flush_tenant
from engine.archive.steps import Step
from engine.archive.tenant import TenantArchive
from engine.base import limits
from engine.base.clock import ManualClock
from engine.base.errors import JournalClosed, MalformedRecord, TenantUnknown
from engine.base.ids import RunId, TenantId, parse_run_id, run_id_text
from engine.config.archive import ArchiveSettings
from engine.model.query import ArchiveFlushed, Window
from tests.archive.faulty_proxy import LATE, FaultyProxy
from tests.archive.house import ACME, DAY_US, HOUR_US, House, open_house, seen
from tests.archive.lives import NOW_US, completed, new_ids, write_run, write_runs
from tests.archive.s3_server import S3Server
from tests.journal.harness import journal_at

PATIENCE_S = 20


class Reached:
    """Waits until a step was come to so often."""

    def __init__(self) -> None:
        self._counts: dict[Step, int] = dict.fromkeys(Step, 0)
        self._lot = trio.lowlevel.ParkingLot()

    def __call__(self, step: Step) -> None:
        self._counts[step] += 1
        self._lot.unpark_all()

    async def wait(self, step: Step, count: int = 1) -> None:
        with trio.fail_after(PATIENCE_S):
            while self._counts[step] < count:
                await self._lot.park()


async def test_what_ended_is_archived_and_deleted_by_itself(tmp_path: Path) -> None:
    reached = Reached()
    async with open_house(
        tmp_path, on_step=reached, services=True, flush_interval_ms=10, hot_retention_s=0
    ) as house:
        house.clock.advance_us(HOUR_US)
        written = await write_runs(house.journal, 5)
        await reached.wait(Step.DELETED_HOT)
        while list(house.journal.rows(b"r")):
            await reached.wait(Step.DELETED_HOT)
            await trio.lowlevel.checkpoint()
        assert seen(house.tenant) == sorted(written)


async def test_enough_runs_do_not_wait_for_the_interval(tmp_path: Path) -> None:
    reached = Reached()
    async with open_house(
        tmp_path, on_step=reached, services=True, flush_interval_ms=3_600_000, flush_threshold=3
    ) as house:
        await trio.testing.wait_all_tasks_blocked()
        await write_runs(house.journal, 3)
        house.archive.note_ended(ACME, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert len(list(house.journal.rows(b"f"))) == 3
        house.archive.note_ended(ACME)
        await reached.wait(Step.ACKNOWLEDGED)
        house.archive.note_ended(TenantId("nobody"))


async def test_one_archive_serves_many_tenants(tmp_path: Path) -> None:
    names = [
        TenantId(f"tenant-{number}") for number in range(2 * limits.archive_tenants_at_once_max)
    ]
    reached = Reached()
    async with (
        journal_at(tmp_path, clock=ManualClock()) as journals,
        open_archive(
            ArchiveSettings(flush_interval_ms=10), tmp_path, ManualClock(), on_step=reached
        ) as archive,
    ):
        opened = [await journals.pin(name) for name in names]
        for journal in opened:
            archive.tenant_opened(journal)
            await write_runs(journal, 2)
        await reached.wait(Step.ACKNOWLEDGED, len(names))
        for journal in opened:
            await archive.tenant_closing(journal.tenant_id)
            journals.unpin(journal)
        with pytest.raises(TenantUnknown):
            await archive.flush_now(names[0])


async def test_a_tenant_that_closes_is_left_alone(house: House) -> None:
    await write_runs(house.journal, 2)
    tenant = house.tenant
    await house.archive.tenant_closing(ACME)
    with pytest.raises(JournalClosed):
        await flush_tenant(tenant)
    assert len(list(house.journal.rows(b"f"))) == 2
    house.archive.tenant_opened(house.journal)


async def test_only_who_holds_the_journal_clears_what_was_left_on_the_way(
    tmp_path: Path,
) -> None:
    """A second process on the same directory is refused when it opens the journal, and must have
    touched nothing of the first one's by then."""
    left = tmp_path / "outgoing" / "tenant=acme" / "of-a-process-that-was-killed"
    left.mkdir(parents=True)
    async with open_archive(ArchiveSettings(), tmp_path, ManualClock(), services=False):
        assert left.exists()
    async with open_house(tmp_path) as house:
        await write_runs(house.journal, 2)
        await house.archive.flush_now(ACME)
        assert not left.exists()


async def test_nobody_waits_for_a_store_when_a_tenant_closes(
    tmp_path: Path, server: S3Server, proxy: FaultyProxy
) -> None:
    settings = server.settings(endpoint=proxy.endpoint, request_timeout_ms=15_000)
    async with (
        journal_at(tmp_path, clock=ManualClock()) as journals,
        journals.use(ACME) as journal,
        open_archive(settings, tmp_path, ManualClock(), services=False) as archive,
        trio.open_nursery() as nursery,
    ):
        await archive.check()
        tenant = archive.tenant_opened(journal)
        await write_runs(journal, 2)
        proxy.when("PUT", "/steps/", LATE)

        async def flush() -> None:
            with pytest.raises(JournalClosed):
                await flush_tenant(tenant)

        nursery.start_soon(flush)
        await trio.to_thread.run_sync(proxy.held.wait, PATIENCE_S)
        with trio.fail_after(5):
            await archive.tenant_closing(ACME)
        again = archive.tenant_opened(journal)
        proxy.let_go.set()
        assert (await flush_tenant(again)).runs == 2
        assert (await archive.verify(ACME)).problems == ()
        await archive.tenant_closing(ACME)


async def test_two_that_flush_at_once_make_each_batch_once(tmp_path: Path) -> None:
    steps: list[Step] = []
    async with open_house(tmp_path, on_step=steps.append) as house:
        written = await write_runs(house.journal, 20)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(house.archive.flush_now, ACME)
                nursery.start_soon(house.archive.compact_now, ACME)
                nursery.start_soon(house.archive.retain_now, ACME)
        assert steps.count(Step.ACKNOWLEDGED) == 1
        assert seen(house.tenant) == sorted(written)


async def test_two_writers_of_one_batch_write_the_same(tmp_path: Path) -> None:
    """A first try that was thought lost arrives after the second: same names, same bytes."""
    uploaded: list[bytes] = []

    def note(step: Step) -> None:
        if step is Step.UPLOADED_RUNS:
            (file,) = (tmp_path / "archive" / "engine" / "runs").rglob("*.parquet")
            uploaded.append(file.read_bytes())
            if len(uploaded) == 1:
                raise JournalClosed("as if the process had gone")

    async with open_house(tmp_path, on_step=note) as house:
        await write_runs(house.journal, 5)
        with pytest.raises(JournalClosed):
            await house.archive.flush_now(ACME)
        await house.archive.flush_now(ACME)
        assert len(uploaded) == 2
        assert uploaded[0] == uploaded[1]


async def test_a_flush_is_over_although_runs_go_on_ending(tmp_path: Path) -> None:
    """What ends meanwhile waits for the next one: else each look would make a batch of the few
    runs that have just ended, without an end."""
    planned = trio.Event()

    def note(step: Step) -> None:
        nonlocal planned
        if step is Step.PLANNED:
            planned.set()
            planned = trio.Event()

    async with open_house(tmp_path, on_step=note) as house, trio.open_nursery() as nursery:
        await write_runs(house.journal, 5)

        async def one_more_for_each_batch() -> None:
            for number in range(1, 100):
                await planned.wait()
                await write_runs(house.journal, 1, at_us=NOW_US + number * 1_000_000)

        nursery.start_soon(one_more_for_each_batch)
        for count in (5, 1, 1):
            flushed = await house.archive.flush_now(ACME)
            assert (flushed.batches, flushed.runs) == (1, count)
        nursery.cancel_scope.cancel()


# ---- by time ----


async def test_a_window_leaves_out_what_cannot_matter(house: House) -> None:
    for day in range(3):
        await write_runs(house.journal, 2, at_us=NOW_US + day * DAY_US + HOUR_US)
    await house.archive.flush_now(ACME)
    await write_runs(house.journal, 2, at_us=NOW_US + 3 * DAY_US)
    still_open = new_ids()()
    await write_run(house.journal, still_open, completed()[:-1])
    day_ms, begin_ms = DAY_US // 1_000, NOW_US // 1_000

    def counts(window: Window) -> tuple[int, int]:
        snapshot = house.tenant.snapshot(window)
        return len(snapshot.run_files), snapshot.hot_runs().num_rows

    assert counts(Window()) == (3, 3)
    assert counts(Window(from_ms=begin_ms + day_ms)) == (2, 3)
    assert counts(Window(to_ms=begin_ms + day_ms)) == (1, 1)
    assert counts(Window(from_ms=begin_ms + day_ms, to_ms=begin_ms + 2 * day_ms)) == (1, 1)
    assert counts(Window(from_ms=begin_ms + 4 * day_ms)) == (0, 1)


async def test_more_hot_runs_than_are_read_are_counted(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "archive_hot_runs_max", 4)
    written = await write_runs(house.journal, 6)
    snapshot = house.tenant.snapshot()
    assert snapshot.hot_runs().column("run_id").to_pylist() == sorted(written)[2:]
    assert snapshot.hot_left_out == 2


async def test_midnight_and_a_clock_that_goes_back_over_it(house: House) -> None:
    """The day is that of the record that ended the run, whatever the clock says since."""
    midnight = NOW_US + DAY_US
    ids = new_ids(midnight)
    moments = [midnight - 1, midnight, midnight - 2_000_000, midnight + 1_000, midnight - 500_000]
    written = [ids() for _ in moments]
    for run, at_us in zip(written, moments, strict=True):
        await write_run(house.journal, run, completed(at_us))
    flushed = await house.archive.flush_now(ACME)
    assert (flushed.runs, flushed.batches) == (5, 2)
    late = ids()
    await write_run(house.journal, late, completed(midnight - 900_000))
    await house.archive.flush_now(ACME)
    files = house.tenant.snapshot().run_files
    assert [file.split("day=")[1][:10] for file in files] == [
        "2026-01-01",
        "2026-01-01",
        "2026-01-02",
    ]
    assert seen(house.tenant) == sorted(map(run_id_text, [*written, late]))
    assert (await house.archive.verify(ACME)).problems == ()


async def test_a_run_of_three_days_is_found_by_its_id(house: House) -> None:
    """Its id is of the day it began, its batch of the day it ended; the batch of its neighbours in
    time does not become a candidate for every run of three days."""
    old = new_ids(NOW_US - 3 * DAY_US)()
    await write_run(house.journal, old, completed(lasting_us=3 * DAY_US))
    written = await write_runs(house.journal, 20)
    await house.archive.flush_now(ACME)
    found = await house.archive.lookup(ACME, old)
    assert found is not None
    took_us = found.records[-1].timestamp_us - found.records[0].timestamp_us
    assert took_us == 3 * DAY_US
    (batch,) = house.tenant.manifest._batches.values()
    assert batch.outliers == old
    assert not batch.may_have(new_ids(NOW_US - 2 * DAY_US)())
    assert all(batch.may_have(parse_run_id(text)) for text in written)


def test_an_id_across_two_outliers_is_none() -> None:
    typical = [new_ids()() for _ in range(5)]
    outliers = [RunId(bytes([0] * 15 + [number])) for number in (1, 2)]
    found = id_range([*typical, *outliers])
    assert found.outliers == b"".join(outliers)
    from engine.archive.batches import Batch, BatchState

    batch = Batch("x", BatchState.ACKNOWLEDGED, "2026-01-01", 7, 0, outliers=found.outliers)
    batch_ids = [RunId(found.outliers[at : at + 16]) for at in (0, 8, 16)]
    assert [batch.may_have(run) for run in batch_ids] == [True, False, True]


def test_too_many_outliers_widen_the_range() -> None:
    old = [RunId(number.to_bytes(16, "big")) for number in range(limits.archive_outliers_max + 1)]
    found = id_range([*old, *(new_ids()() for _ in range(600))])
    assert (found.outliers, found.first_run) == (b"", old[0])


OTHER = TenantId("globex")


async def test_a_defect_in_the_archive_of_one_tenant_is_not_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing_for_acme(archive: TenantArchive) -> ArchiveFlushed:
        if archive.tenant_id == ACME:
            raise ZeroDivisionError("a defect of ours")
        return await adopt_and_flush(archive)

    monkeypatch.setattr(flusher, "adopt_and_flush", failing_for_acme)
    async with (
        journal_at(tmp_path) as journals,
        journals.use(ACME) as acme,
        journals.use(OTHER) as other,
        open_archive(ArchiveSettings(), tmp_path, ManualClock(), services=False) as archive,
    ):
        archive.store.ensure_ready()
        tenants = {one.tenant_id: archive.tenant_opened(one) for one in (acme, other)}
        for journal in (acme, other):
            await write_runs(journal, 2)
        service = flusher.Flusher(
            tenants, tenants[ACME].builder, interval_ms=10, clock=ManualClock()
        )
        assert await service.run_once(), "the store is not to blame"
        said = {tenant: (await one.status()).last_error for tenant, one in tenants.items()}
        assert "ZeroDivisionError" in said[ACME]
        assert "a defect of ours" not in said[ACME]
        assert said[OTHER] == ""
        assert (await tenants[OTHER].status()).archived_runs == 2
        monkeypatch.undo()
        assert await service.run_once()
        assert (await tenants[ACME].status()).archived_runs == 2
        for tenant in tenants:
            await archive.tenant_closing(tenant)


@pytest.mark.parametrize("failure", [ZeroDivisionError("ours"), MalformedRecord("not rows")])
async def test_a_run_that_cannot_be_made_rows_of_is_named_and_the_others_go_on(
    house: House, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    ids = list(await write_runs(house.journal, 3))
    usual = columns.rows_of

    def failing(run: RunId, values: Sequence[bytes]) -> object:
        if run_id_text(run) == ids[1]:
            raise failure
        return usual(run, values)

    monkeypatch.setattr(columns, "rows_of", failing)
    assert (await flush_tenant(house.tenant)).runs == 2
    status = await house.tenant.status()
    assert "1 runs cannot be archived" in status.last_error
    assert ids[1] in status.last_error
    assert status.waiting_runs == 1
