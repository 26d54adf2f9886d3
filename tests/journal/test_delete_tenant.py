"""Deleting a tenant: whole or not at all, not under its user, and not under the next one."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.base.clock import ManualClock
from engine.base.errors import (
    JournalBusy,
    TenantUnknown,
)
from engine.journal import tenants
from engine.journal.layout import segments_path
from tests.journal.harness import (
    ACME,
    OTHER,
    RUN,
    append,
    append_to,
    files_as_they_are,
    journal_at,
    payloads_in,
)
from tests.journal.stores import PATIENCE_S

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
    data = tmp_path / "data"
    copies: list[Path] = []

    def copy_now() -> None:
        copies.append(files_as_they_are(data, tmp_path / f"copy-{len(copies)}"))

    remove = shutil.rmtree

    def remove_in_steps(doomed: Path) -> None:
        copy_now()
        (next(doomed.rglob("CURRENT"))).unlink()
        copy_now()
        remove(doomed)
        copy_now()

    async with journal_at(data) as journal:
        await append_to(journal, ACME, b"a")
        await append_to(journal, OTHER, b"b")
        journal.system.set_wake(ACME, 1_000)
        await journal.close_tenant(journal.open_tenants()[0])
        copy_now()
        forget = journal.system.forget_tenant
        with monkeypatch.context() as patch:
            patch.setattr(tenants.shutil, "rmtree", remove_in_steps)
            patch.setattr(
                journal.system, "forget_tenant", lambda tenant: (copy_now(), forget(tenant))
            )
            await journal.delete_tenant(ACME)
    assert len(copies) == 5  # before the first step, and after or before each of the others

    whole: list[bool] = []
    for copy in copies:
        async with journal_at(copy) as journal:
            whole.append(ACME in journal.tenant_ids())
            assert await payloads_in(journal, OTHER) == [b"b"]
            if whole[-1]:
                assert await payloads_in(journal, ACME) == [b"a"]
            assert not list(segments_path(copy).glob(".deleted*"))
            # A wake time without a tenant would open it, and so make it, when it is due.
            assert journal.system.wake_of(ACME) == (1_000 if whole[-1] else None)
    assert whole == [True, False, False, False, False]
