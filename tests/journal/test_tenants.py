"""The journal of a data directory: tenants apart from each other, opened on demand, closed when
idle or when there are too many, and deleted whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from engine.base.clock import ManualClock
from engine.base.errors import (
    DirectoryInUse,
    OffsetTrimmed,
    SegmentSealed,
    StorageFailed,
    TenantLimitReached,
    TenantUnknown,
)
from engine.journal.layout import segments_path, store_path, tenant_path
from engine.journal.tenant import TenantJournal
from tests.journal.harness import (
    ACME,
    OTHER,
    RUN,
    append,
    append_to,
    files_as_they_are,
    journal_at,
    new_records,
    open_ids,
    payloads_in,
    payloads_of,
    run_number,
    tenant_number,
)
from tests.journal.stores import Gate

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
