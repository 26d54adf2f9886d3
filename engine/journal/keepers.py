"""The journal's background services: what is due by time rather than by a request.

All of one shape: an interval and a `run_once`. They hold no state of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from engine.base import limits
from engine.base.clock import Clock
from engine.config.settings import JournalSettings
from engine.journal.tenant import TenantJournal


class Kept(Protocol):
    """What the services need of the journal."""

    settings: JournalSettings
    clock: Clock

    def open_tenants(self) -> list[TenantJournal]: ...

    async def close_tenant(self, opened: TenantJournal, /) -> None: ...

    async def wait_stopped(self) -> None: ...


async def run_keepers(journal: Kept) -> None:
    settings = journal.settings
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_every, settings.tenant_idle_close_s / 4, close_idle_tenants, journal)
        nursery.start_soon(_resume_stopped, journal)
        if settings.durability == "interval":
            nursery.start_soon(_every, settings.flush_interval_ms / 1_000, sync_tenants, journal)


async def _every(
    interval_s: float, run_once: Callable[[Kept], Awaitable[int]], journal: Kept
) -> None:
    while True:
        await trio.sleep(interval_s)
        await run_once(journal)


async def _resume_stopped(journal: Kept) -> None:
    """As long as some tenant is stopped; a journal in which all is well does not wake for it."""
    while True:
        await journal.wait_stopped()
        while any(opened.committer.stopped_by is not None for opened in journal.open_tenants()):
            await trio.sleep(limits.resume_interval_ms / 1_000)
            await resume_tenants(journal)


async def close_idle_tenants(journal: Kept) -> int:
    """Close stores that nobody has used for a while; how many."""
    before_us = journal.clock.monotonic_us() - journal.settings.tenant_idle_close_s * 1_000_000
    closed = 0
    for opened in journal.open_tenants():
        if opened.is_idle and opened.used_us <= before_us:
            await journal.close_tenant(opened)
            closed += 1
    return closed


async def resume_tenants(journal: Kept) -> int:
    """Look whether tenants that stopped on a full disk can go on; how many did."""
    resumed = 0
    for opened in journal.open_tenants():
        if opened.committer.stopped_by is not None and await opened.try_resume():
            resumed += 1
    return resumed


async def sync_tenants(journal: Kept) -> int:
    """The flush tick of durability mode `interval`; how many stores had something to sync."""
    synced = 0
    for opened in journal.open_tenants():
        if opened.committer.unsynced:
            await opened.committer.sync()
            synced += 1
    return synced
