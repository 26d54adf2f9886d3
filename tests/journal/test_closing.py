"""Closing a tenant that is idle and closing the whole journal: nothing is lost, nobody is left
waiting, and one that cannot be closed does not keep the others open."""

from __future__ import annotations

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
    JournalClosed,
    StorageFailed,
)
from engine.journal import tenants
from engine.journal.keepers import close_idle_tenants
from engine.journal.layout import tenant_path
from engine.journal.tenants import Journal
from tests.journal.harness import (
    ACME,
    NOW_US,
    OTHER,
    RUN,
    STEP,
    append,
    append_to,
    eventually,
    gated_tenant,
    journal_at,
    payloads_in,
    tenant_number,
)
from tests.journal.stores import PATIENCE_S, Gate, GatedStore

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


@pytest.mark.parametrize("attempt", range(6))
async def test_what_is_accepted_while_a_tenant_closes_is_durable(
    tmp_path: Path, attempt: int
) -> None:
    """Up to the moment of refusal, whichever task the event loop runs first."""
    accepted: list[int] = []
    released: list[int] = []
    async with gated_tenant(tmp_path) as (tenant, _):
        segment = tenant.open_segment(RUN)

        def append_one() -> None:
            number = len(accepted)
            segment.append_nowait(
                STEP, b"", timestamp_us=NOW_US, effect=lambda: released.append(number)
            )
            accepted.append(number)

        async def append_until_refused() -> None:
            while True:
                append_one()
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tenant.committer.aclose)
            with pytest.raises(JournalClosed):
                await append_until_refused()
        await trio.testing.wait_all_tasks_blocked()
        assert released == accepted
        assert len(segment.read()) == len(accepted)


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
