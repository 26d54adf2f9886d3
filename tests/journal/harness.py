"""Opens journals and tenants for tests, small and with everything that must be closed, closed.

Also what a SIGKILL leaves behind: the files as they are at that moment.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio

from engine.base.clock import Clock, ManualClock, system_clock
from engine.base.ids import RunId, TenantId
from engine.base.limits import MIB
from engine.config.settings import JournalSettings
from engine.ext.append import PendingBatch
from engine.journal.committer import Durability, Release, release_calls
from engine.journal.lanes import LoopBudget
from engine.journal.layout import lock_path
from engine.journal.segment import Segment
from engine.journal.store import OpenMode, Store, StoreResources
from engine.journal.tenant import TenantJournal
from engine.journal.tenants import Journal, open_journal
from engine.journal.threads import CommitThreads
from engine.journal.wal import check_wal
from engine.model.records import NewRecord, Record, RecordKind
from tests.journal.stores import PATIENCE_S, Gate, GatedStore

ACME = TenantId("acme")
OTHER = TenantId("other")
RUN = RunId(bytes(range(16)))
NOW_US = 1_767_225_600_000_000
STEP = RecordKind.STEP_COMPLETED


def run_number(number: int) -> RunId:
    return RunId(number.to_bytes(16, "big"))


def settings(**changes: Any) -> JournalSettings:
    small = {"block_cache_bytes": 1 * MIB, "write_buffer_bytes": 4 * MIB}
    return JournalSettings(**small | changes)


def journal_at(
    path: Path, *, clock: Clock = system_clock, **changes: Any
) -> AbstractAsyncContextManager[Journal]:
    return open_journal(path, settings(**changes), clock=clock)


@asynccontextmanager
async def gated_tenant(
    path: Path,
    *,
    gate: Gate | None = None,
    durability: Durability = Durability.COMMIT,
    release: Release = release_calls,
    clock: Clock = system_clock,
) -> AsyncIterator[tuple[TenantJournal, Gate]]:
    """One tenant on a real store, with a gate before it."""
    gate = gate or Gate()
    resources = StoreResources(block_cache_bytes=1 * MIB, write_buffer_bytes=4 * MIB)
    threads, budget = CommitThreads(), LoopBudget()
    async with trio.open_nursery() as nursery:
        store = GatedStore(path, resources, OpenMode.READ_WRITE, gate=gate)
        tenant = TenantJournal(
            ACME,
            store,
            resources=resources,
            durability=durability,
            release=release,
            threads=threads,
            budget=budget,
            clock=clock,
            wal_report=check_wal(path),
        )
        nursery.start_soon(tenant.committer.run)
        try:
            yield tenant, gate
        finally:
            gate.open()
            with trio.CancelScope(shield=True):
                await tenant.aclose()
            threads.close()


def new_records(*payloads: bytes) -> list[NewRecord]:
    return [NewRecord(STEP, payload, NOW_US) for payload in payloads]


async def append(segment: Segment, *payloads: bytes) -> None:
    for payload in payloads:
        await segment.append(STEP, payload, timestamp_us=NOW_US)


def payloads_of(records: Sequence[Record]) -> list[bytes]:
    return [record.payload for record in records]


def files_as_they_are(data_dir: Path, copy: Path) -> Path:
    """What a SIGKILL at this moment leaves, as a data directory of its own."""
    shutil.copytree(data_dir, copy, ignore=lambda _, names: {"LOCK"} & set(names))
    assert not lock_path(copy).exists()
    return copy


class Effects:
    """Collects released effects; a test waits for as many as it expects."""

    def __init__(self) -> None:
        self.released: list[object] = []
        self._lot = trio.lowlevel.ParkingLot()
        self._failure: Exception | None = None

    def fail_with(self, failure: Exception) -> None:
        self._failure = failure

    def release(self, effects: Sequence[object]) -> None:
        if self._failure is not None:
            raise self._failure
        self.released.extend(effects)
        self._lot.unpark_all()

    async def wait_for(self, count: int) -> list[object]:
        while len(self.released) < count:
            await self._lot.park()
        return self.released


async def eventually(holds: Callable[[], bool]) -> None:
    """Until something holds that another thread brings about; goes round the loop meanwhile."""
    deadline_us = system_clock.monotonic_us() + PATIENCE_S * 1_000_000
    while not holds():
        assert system_clock.monotonic_us() < deadline_us, "it never happened"
        await trio.lowlevel.checkpoint()


def write_directly(
    store: Store,
    *,
    records: Sequence[tuple[bytes, bytes]] = (),
    rows: Sequence[tuple[bytes, bytes | None]] = (),
    ranges: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Past the committer: what nothing in the engine writes, or all at once."""
    batch = SimpleNamespace(
        keys=[key for key, _ in records],
        values=[value for _, value in records],
        rows=list(rows),
        ranges=list(ranges),
    )
    store.write(store.prepare(cast("PendingBatch", batch)), sync=False)


class ForwardClock(ManualClock):
    """Stands still until it is told how long each reading takes; for a disk of a chosen speed."""

    step_us = 0

    def monotonic_us(self) -> int:
        self.advance_us(self.step_us)
        return super().monotonic_us()


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
