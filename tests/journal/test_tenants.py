"""The journal of a data directory: tenants apart from each other, opened on demand, closed when
idle or when there are too many, and deleted whole."""

from __future__ import annotations

import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.base.clock import ManualClock
from engine.base.errors import (
    DirectoryInUse,
    JournalBusy,
    JournalClosed,
    OffsetTrimmed,
    SegmentSealed,
    StorageFailed,
    TenantLimitReached,
    TenantUnknown,
)
from engine.base.ids import TenantId
from engine.journal import tenants
from engine.journal.keepers import close_idle_tenants
from engine.journal.layout import segments_path, store_path, tenant_path
from engine.journal.tenant import TenantJournal
from engine.journal.tenants import Journal
from tests.journal.harness import (
    ACME,
    NOW_US,
    OTHER,
    RUN,
    STEP,
    append,
    eventually,
    files_as_they_are,
    gate,
    journal_at,
    new_records,
    payloads_of,
    run_number,
)
from tests.journal.stores import PATIENCE_S, Gate, GatedStore

__all__ = ["gate"]  # a fixture


def tenant_number(number: int) -> TenantId:
    return TenantId(f"tenant-{number}")


def open_ids(journal: Journal) -> set[TenantId]:
    return {opened.tenant_id for opened in journal.open_tenants()}


async def append_to(journal: Journal, tenant: TenantId, *payloads: bytes) -> None:
    async with journal.use(tenant) as opened:
        await append(opened.open_segment(RUN), *payloads)


async def payloads_in(journal: Journal, tenant: TenantId) -> list[bytes]:
    async with journal.use(tenant, create=False) as opened:
        return payloads_of(opened.open_segment(RUN).read())


# ---- apart from each other ----


async def test_tenant_isolation(tmp_path: Path) -> None:
    """TENANT_ISOLATION: the same run id and the same row keys in two tenants are two runs and two
    rows; nothing that one tenant does shows in the other, not even its deletion."""
    async with (
        journal_at(tmp_path) as journal,
        journal.use(ACME) as acme,
        journal.use(OTHER) as other,
    ):
        ours, theirs = acme.open_segment(RUN), other.open_segment(RUN)
        await ours.append_many(new_records(b"a", b"b", b"c"), rows=[(b"row", b"ours")])
        assert theirs.next_offset == 0
        assert theirs.read() == []
        assert list(other.runs()) == []
        assert other.row(b"row") is None
        await theirs.append_many(new_records(b"x"), rows=[(b"row", b"theirs")], expected=0)
        await ours.seal()
        await ours.trim(2)
        with pytest.raises(SegmentSealed):
            await append(ours, b"d")
        with pytest.raises(OffsetTrimmed):
            ours.read()
        await append(theirs, b"y")
        assert payloads_of(theirs.read()) == [b"x", b"y"]
        assert (acme.row(b"row"), other.row(b"row")) == (b"ours", b"theirs")
        assert store_path(tmp_path, ACME) != store_path(tmp_path, OTHER)
    async with journal_at(tmp_path) as journal:
        await journal.delete_tenant(ACME)
        assert await payloads_in(journal, OTHER) == [b"x", b"y"]
        assert journal.tenant_ids() == [OTHER]


async def test_a_tenant_that_fails_does_not_stop_another(tmp_path: Path, gate: Gate) -> None:
    async with (
        journal_at(tmp_path) as journal,
        journal.use(ACME) as acme,
        journal.use(OTHER) as other,
    ):
        gate.fail_with(StorageFailed("the disk of one tenant"))
        with pytest.raises(StorageFailed):
            await append(acme.open_segment(RUN), b"a")
        gate.fail_with(None)
        await append(other.open_segment(RUN), b"a")
        stopped_by = {each.tenant_id: each.stopped_by for each in journal.statistics().tenants}
        assert stopped_by == {ACME: "storage_failed", OTHER: None}


async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        for number in range(3):
            await append_to(journal, tenant_number(number), bytes([number]), b"again")
    async with journal_at(tmp_path) as journal:
        assert journal.tenant_ids() == [tenant_number(number) for number in range(3)]
        for number in range(3):
            found = await payloads_in(journal, tenant_number(number))
            assert found == [bytes([number]), b"again"]


async def test_what_was_acknowledged_is_in_the_files_at_once(tmp_path: Path) -> None:
    """The copy is what a SIGKILL would leave; killed processes are in tests/faults."""
    async with journal_at(tmp_path / "data") as journal, journal.use(ACME) as acme:
        segment = acme.open_segment(RUN)
        for number in range(5):
            await segment.append_many(new_records(b"r"), rows=[(b"row", bytes([number]))])
            copy = files_as_they_are(tmp_path / "data", tmp_path / f"copy-{number}")
            async with journal_at(copy) as copied, copied.use(ACME, create=False) as found:
                assert len(found.open_segment(RUN).read()) == number + 1
                assert found.row(b"row") == bytes([number])


# ---- opening ----


async def test_a_tenant_is_opened_once_and_shared(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        found: list[TenantJournal] = []

        async def pin() -> None:
            found.append(await journal.pin(ACME))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(pin)
        assert len({id(each) for each in found}) == 1
        assert found[0].pins == 8
        assert journal.statistics().opened == 1


async def test_a_tenant_that_is_not_there_is_not_made_by_a_reader(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        with pytest.raises(TenantUnknown, match="acme") as caught:
            await journal.pin(ACME, create=False)
        assert caught.value.details == {"tenant_id": ACME}
        assert journal.tenant_ids() == []
        assert not tenant_path(tmp_path, ACME).exists()
        await append_to(journal, ACME, b"a")
        assert await payloads_in(journal, ACME) == [b"a"]


async def test_names_that_were_asked_for_in_vain_leave_nothing(tmp_path: Path) -> None:
    """Or whoever guesses names fills the memory."""
    async with journal_at(tmp_path) as journal:
        for number in range(10):
            with pytest.raises(TenantUnknown):
                await journal.pin(tenant_number(number), create=False)
        await append_to(journal, ACME, b"a")
        await journal.close_tenant(journal.open_tenants()[0])
        assert journal._locks == {}


async def test_a_second_journal_on_the_directory_is_refused(tmp_path: Path) -> None:
    async with journal_at(tmp_path):
        with pytest.raises(DirectoryInUse, match="in use by process"):
            async with journal_at(tmp_path):
                pass
    async with journal_at(tmp_path) as journal:
        await append_to(journal, ACME, b"a")


async def test_what_is_not_a_tenant_in_the_folder_is_passed_over(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        await append_to(journal, ACME, b"a")
        folder = segments_path(tmp_path)
        for name in ("lost+found", "tenant=", "tenant=a.b", "tenant=..", "tenant=" + "x" * 65):
            (folder / name).mkdir()
        (folder / "tenant=file").touch()
        assert journal.tenant_ids() == [ACME]


# ---- as many as may be ----


async def test_no_more_tenants_are_open_than_the_bound(tmp_path: Path) -> None:
    async with journal_at(tmp_path, tenants_open_max=3) as journal:
        for number in range(7):
            await append_to(journal, tenant_number(number), bytes([number]))
            assert len(journal.open_tenants()) <= 3
        assert len(journal.tenant_ids()) == 7
        for number in range(7):
            assert await payloads_in(journal, tenant_number(number)) == [bytes([number])]


async def test_the_tenant_used_longest_ago_makes_room(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journal_at(tmp_path, clock=clock, tenants_open_max=3) as journal:
        for number in (0, 1, 2, 0, 3):
            clock.advance_us(1)
            await append_to(journal, tenant_number(number), b"a")
        assert open_ids(journal) == {tenant_number(number) for number in (0, 2, 3)}
        assert journal.statistics().closed == 1


async def test_a_pinned_tenant_does_not_make_room(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journal_at(tmp_path, clock=clock, tenants_open_max=2) as journal:
        oldest = await journal.pin(ACME)
        clock.advance_us(1)
        await append_to(journal, OTHER, b"a")
        clock.advance_us(1)
        await append_to(journal, tenant_number(1), b"a")
        assert open_ids(journal) == {ACME, tenant_number(1)}
        async with journal.use(tenant_number(1)):
            with pytest.raises(TenantLimitReached) as caught:
                await journal.pin(OTHER)
            assert caught.value.details == {"tenants_open_max": 2}
            assert "journal.tenants_open_max" in caught.value.message
        await append(oldest.open_segment(RUN), b"still there")
        journal.unpin(oldest)
        assert await payloads_in(journal, OTHER) == [b"a"]


async def test_the_bound_holds_when_many_are_opened_at_once(tmp_path: Path) -> None:
    async with journal_at(tmp_path, tenants_open_max=2) as journal:
        refused: list[TenantLimitReached] = []

        async def pin(number: int) -> None:
            try:
                await journal.pin(tenant_number(number))
            except TenantLimitReached as limit:
                refused.append(limit)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(pin, number)
        assert len(journal.open_tenants()) == 2
        assert len(refused) == 3


# ---- closing what is idle ----


async def test_an_idle_tenant_is_closed_and_opens_again(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journal_at(tmp_path, clock=clock, tenant_idle_close_s=10) as journal:
        await append_to(journal, ACME, b"a")
        clock.advance_us(9_999_999)
        assert await close_idle_tenants(journal) == 0
        clock.advance_us(1)
        assert await close_idle_tenants(journal) == 1
        assert journal.open_tenants() == []
        assert await payloads_in(journal, ACME) == [b"a"]
        assert journal.statistics().opened == 2


async def test_a_tenant_in_use_is_not_idle(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journal_at(tmp_path, clock=clock, tenant_idle_close_s=10) as journal:
        async with journal.use(ACME) as acme:
            clock.advance_us(3_600_000_000)
            assert await close_idle_tenants(journal) == 0
            await append(acme.open_segment(RUN), b"a")
        assert await close_idle_tenants(journal) == 0  # used until just now
        clock.advance_us(10_000_000)
        assert await close_idle_tenants(journal) == 1


async def test_the_keeper_closes_idle_tenants_by_itself(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    clock = ManualClock()
    async with journal_at(tmp_path, clock=clock, tenant_idle_close_s=8) as journal:
        await append_to(journal, ACME, b"a")
        await trio.testing.wait_all_tasks_blocked()
        clock.advance_us(8_000_000)
        mock_clock.jump(8)
        await eventually(lambda: not journal.open_tenants())
        await eventually(lambda: journal.statistics().closed == 1)


async def test_who_asks_for_a_tenant_that_is_being_closed_gets_it_anew(
    tmp_path: Path, gate: Gate
) -> None:
    async with journal_at(tmp_path) as journal:
        async with journal.use(ACME) as acme:
            gate.shut()
            acme.open_segment(RUN).append_nowait(STEP, b"a", timestamp_us=NOW_US, effect=int)
            await gate.wait_for_arrival()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.close_tenant, acme)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(append_to, journal, ACME, b"b")
            await trio.testing.wait_all_tasks_blocked()
            gate.open()
        assert await payloads_in(journal, ACME) == [b"a", b"b"]
        assert journal.statistics().opened == 2


# ---- durability `interval` ----


async def test_the_flush_tick(
    tmp_path: Path, gate: Gate, mock_clock: trio.testing.MockClock
) -> None:
    async with (
        journal_at(tmp_path, durability="interval", flush_interval_ms=50) as journal,
        journal.use(ACME) as acme,
    ):
        await append(acme.open_segment(RUN), b"a")
        await append(acme.open_segment(RUN), b"b")
        await trio.testing.wait_all_tasks_blocked()
        assert (gate.writes_synced, gate.writes_unsynced, gate.wal_syncs) == (0, 2, 0)
        mock_clock.jump(0.049)
        await trio.testing.wait_all_tasks_blocked()
        assert gate.wal_syncs == 0
        mock_clock.jump(0.001)
        await eventually(lambda: gate.wal_syncs == 1)
        await eventually(lambda: acme.statistics().commits.syncs == 1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()
        assert gate.wal_syncs == 1  # nothing was written since


@pytest.mark.parametrize("durability", ["commit", "os"])
async def test_the_other_modes_have_no_tick(
    tmp_path: Path, gate: Gate, mock_clock: trio.testing.MockClock, durability: str
) -> None:
    async with journal_at(tmp_path, durability=durability) as journal, journal.use(ACME) as acme:
        await append(acme.open_segment(RUN), b"a")
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(60)
        await trio.testing.wait_all_tasks_blocked()
        assert gate.wal_syncs == 0
        assert gate.writes_synced == (1 if durability == "commit" else 0)


# ---- closing the journal ----


async def test_closing_commits_what_is_pending_in_every_tenant(tmp_path: Path, gate: Gate) -> None:
    released: list[object] = []

    async def open_gate() -> None:
        await gate.wait_for_arrival()
        await gate.wait_for_arrival()
        assert released == []
        gate.open()

    async with trio.open_nursery() as nursery:
        async with journal_at(tmp_path) as journal:
            gate.shut()
            nursery.start_soon(open_gate)
            for tenant in (ACME, OTHER):
                opened = await journal.pin(tenant)
                segment = opened.open_segment(RUN)
                for payload in (b"a", b"b", b"c"):
                    segment.append_nowait(
                        STEP, payload, timestamp_us=NOW_US, effect=lambda: released.append(1)
                    )
        assert len(released) == 6
    async with journal_at(tmp_path) as journal:
        for tenant in (ACME, OTHER):
            assert await payloads_in(journal, tenant) == [b"a", b"b", b"c"]


async def test_a_cancelled_journal_is_closed_whole(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with journal_at(tmp_path) as journal, journal.use(ACME) as acme:
            for payload in (b"a", b"b"):
                acme.open_segment(RUN).append_nowait(STEP, payload, timestamp_us=NOW_US, effect=int)
            scope.cancel()
            await trio.sleep_forever()
    async with journal_at(tmp_path) as journal:
        assert await payloads_in(journal, ACME) == [b"a", b"b"]


async def test_a_closed_journal_opens_no_tenant(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        pass
    with pytest.raises(JournalClosed):
        await journal.pin(ACME)
    assert not tenant_path(tmp_path, ACME).exists()


@asynccontextmanager
async def not_for_ever(journals: list[Journal]) -> AsyncIterator[list[bool]]:
    """A journal that cannot end ignores every cancellation; so the block that waits for it is
    helped to end, and the list says that it had to be."""
    hung: list[bool] = []

    async def help_to_end() -> None:
        await trio.sleep(5)
        hung.append(True)
        for opened in journals[0].open_tenants():
            await opened.committer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(help_to_end)
        yield hung
        nursery.cancel_scope.cancel()


async def test_a_store_that_cannot_be_closed_does_not_keep_the_others_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB writes its memory out when it is closed, and the disk may be full by then."""
    closed: list[str] = []

    class Unclosable(GatedStore):
        def close(self) -> None:
            super().close()
            closed.append(self.path.parent.name)
            if len(closed) == 1:
                raise StorageFailed("cannot be flushed")

    monkeypatch.setattr(tenants, "Store", lambda *of: Unclosable(*of, gate=Gate()))
    journals: list[Journal] = []

    async def use_and_close() -> None:
        async with journal_at(tmp_path) as journal:
            journals.append(journal)
            for number in range(3):
                await append_to(journal, tenant_number(number), b"a")

    async with not_for_ever(journals) as hung:
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - what it is wrapped in is open
            await use_and_close()
    assert "cannot be flushed" in "".join(map(str, flattened(caught.value)))
    assert hung == []
    assert len(closed) == 3
    async with journal_at(tmp_path):  # its lock was given back
        pass


def flattened(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in flattened(inner)]
    return [error]


async def test_a_tenant_that_is_being_opened_while_the_journal_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, may_open = threading.Event(), threading.Event()

    def slow_store(*of: Any) -> GatedStore:
        opening.set()
        assert may_open.wait(PATIENCE_S)
        return GatedStore(*of, gate=Gate())

    monkeypatch.setattr(tenants, "Store", slow_store)
    outcomes: list[str] = []
    journals: list[Journal] = []

    async def pin(journal: Journal) -> None:
        try:
            opened = await journal.pin(ACME)
            await append(opened.open_segment(RUN), b"a")
            outcomes.append("appended")
        except JournalClosed:
            outcomes.append("closed")

    async with (
        not_for_ever(journals) as hung,
        trio.open_nursery() as nursery,
        journal_at(tmp_path) as journal,
    ):
        journals.append(journal)
        nursery.start_soon(pin, journal)
        await trio.to_thread.run_sync(opening.wait, PATIENCE_S)
        nursery.start_soon(open_after, may_open, lambda: journal._is_closing)
    assert hung == []
    assert outcomes == ["closed"]
    assert journal.open_tenants() == []


async def open_after(event: threading.Event, holds: Callable[[], bool]) -> None:
    await eventually(holds)
    await trio.testing.wait_all_tasks_blocked()
    event.set()


# ---- deleting ----


async def test_a_deleted_tenant_is_gone_and_may_come_back_empty(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        await append_to(journal, ACME, b"a")
        await append_to(journal, OTHER, b"b")
        journal.system.set_wake(ACME, 1_000)
        await journal.delete_tenant(ACME)
        assert journal.tenant_ids() == [OTHER]
        assert sorted(entry.name for entry in segments_path(tmp_path).iterdir()) == ["tenant=other"]
        assert journal.system.wake_of(ACME) is None
        with pytest.raises(TenantUnknown):
            await journal.pin(ACME, create=False)
        await append_to(journal, ACME, b"new")
        assert await payloads_in(journal, ACME) == [b"new"]


async def test_a_tenant_that_is_not_there_cannot_be_deleted(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        with pytest.raises(TenantUnknown):
            await journal.delete_tenant(ACME)


async def test_a_tenant_in_use_is_not_deleted(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        async with journal.use(ACME) as acme:
            await append(acme.open_segment(RUN), b"a")
            with pytest.raises(JournalBusy, match="in use"):
                await journal.delete_tenant(ACME)
            await append(acme.open_segment(RUN), b"b")
        assert await payloads_in(journal, ACME) == [b"a", b"b"]
        await journal.delete_tenant(ACME)
        assert journal.tenant_ids() == []


class HeldBack(ManualClock):
    """A clock that a thread which asks it waits at: between two steps of what the thread does."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived, self.may_go_on = threading.Event(), threading.Event()
        self._loop_thread = threading.get_ident()

    def now_us(self) -> int:
        if threading.get_ident() != self._loop_thread:
            self.arrived.set()
            assert self.may_go_on.wait(PATIENCE_S)
        return super().now_us()


async def test_who_asks_for_a_tenant_that_is_being_deleted_gets_a_new_one(tmp_path: Path) -> None:
    """And not the old one with its files taken away."""
    clock = HeldBack()
    async with journal_at(tmp_path, clock=clock) as journal:
        await append_to(journal, ACME, b"old")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.delete_tenant, ACME)
            await trio.to_thread.run_sync(clock.arrived.wait, PATIENCE_S)
            nursery.start_soon(append_to, journal, ACME, b"new")
            for _ in range(20):  # it must wait; where it does not, it has time to open the files
                await trio.testing.wait_all_tasks_blocked(0.01)
            clock.may_go_on.set()
        assert await payloads_in(journal, ACME) == [b"new"]
    async with journal_at(tmp_path) as journal:
        assert await payloads_in(journal, ACME) == [b"new"]


async def test_a_crash_while_deleting_leaves_the_tenant_whole_or_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, copies = tmp_path / "data", iter(range(10))

    def copy_now() -> None:
        files_as_they_are(data, tmp_path / f"copy-{next(copies)}")

    remove = shutil.rmtree

    def remove_in_steps(doomed: Path) -> None:
        copy_now()  # renamed
        (next(doomed.rglob("CURRENT"))).unlink()
        copy_now()  # half removed
        remove(doomed)
        copy_now()  # removed, and the system store not yet told

    async with journal_at(data) as journal:
        await append_to(journal, ACME, b"a")
        await append_to(journal, OTHER, b"b")
        journal.system.set_wake(ACME, 1_000)
        await journal.close_tenant(journal.open_tenants()[0])
        copy_now()  # not yet renamed
        monkeypatch.setattr(tenants.shutil, "rmtree", remove_in_steps)
        await journal.delete_tenant(ACME)
        monkeypatch.undo()

    for number in range(4):
        async with journal_at(tmp_path / f"copy-{number}") as journal:
            is_whole = number == 0
            assert journal.tenant_ids() == ([ACME, OTHER] if is_whole else [OTHER])
            assert await payloads_in(journal, OTHER) == [b"b"]
            if is_whole:
                assert await payloads_in(journal, ACME) == [b"a"]
            folder = segments_path(tmp_path / f"copy-{number}")
            assert not list(folder.glob(".deleted-*"))
            # A wake time without a tenant would open it, and so make it, when it is due.
            assert journal.system.wake_of(ACME) == (1_000 if is_whole else None)


# ---- what it says of itself ----


async def test_statistics(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal, journal.use(ACME) as acme:
        segments = [acme.open_segment(run_number(number)) for number in range(3)]
        for segment in segments:
            await append(segment, b"a")
        statistics = journal.statistics()
        assert (statistics.tenants_open, statistics.opened, statistics.closed) == (1, 1, 0)
        (tenant,) = statistics.tenants
        assert tenant.tenant_id == ACME
        assert tenant.segments_open == 3
        assert (tenant.commits.commits, tenant.commits.records) == (3, 3)
        assert tenant.commits.inline + tenant.commits.threaded == 3
        assert tenant.stopped_by is None
        assert tenant.store["records_estimated"] >= 3
