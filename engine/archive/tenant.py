"""One tenant's archive as the layers above hold it: what is where at a moment, and single runs.

The services change it (one at a time, under `lock`); reading needs no lock. Knows no other tenant,
no timing and no SQL.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import trio

from engine.archive.batches import (
    Batch,
    BatchState,
    Manifest,
    day_begins_ms,
    day_of,
    ended_ms,
)
from engine.archive.builder import Builder
from engine.archive.grouping import groups_to_compact
from engine.archive.lookup import ArchivedRun, read_archived
from engine.archive.parquet import ParquetObject
from engine.archive.reading import Pacer, Stopped
from engine.archive.snapshot import TenantSnapshot
from engine.archive.steps import OnStep, go_on
from engine.archive.stores import ObjectStore
from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import EngineError, JournalClosed
from engine.base.ids import RUN_ID_BYTES, RunId, RunIdFactory, TenantId, run_id_text
from engine.config.archive import ArchiveSettings
from engine.journal.layout import EXPIRY_TAG, FINISHED_TAG, split_expiry_key
from engine.journal.tenant import TenantJournal
from engine.model.query import ArchiveStatus, Window

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

_DAY_MS: Final = 86_400_000


class Progress(msgspec.Struct):
    """How the services are doing with this tenant."""

    reachable: bool = True
    last_error: str = ""
    last_flush_ms: int = 0
    backfill_done: int = 0
    backfill_total: int = 0


class Emptied(msgspec.Struct):
    """What was deleted of the hot tier since the journal was last compacted there."""

    runs: int = 0
    first_run: bytes = b"\xff" * RUN_ID_BYTES
    last_run: bytes = b""

    def add(self, batch: Batch, runs: int) -> None:
        self.runs += runs
        self.first_run = min(self.first_run, batch.first_run)
        self.last_run = max(self.last_run, batch.last_run)


class TenantArchive:
    def __init__(
        self,
        journal: TenantJournal,
        store: ObjectStore,
        settings: ArchiveSettings,
        clock: Clock,
        outgoing: Path,
        requests: trio.CapacityLimiter,
        builder: Builder,
        on_step: OnStep = go_on,
    ) -> None:
        self.tenant_id: TenantId = journal.tenant_id
        self.journal = journal
        self.store = store
        self.settings = settings
        self.clock = clock
        self.outgoing = outgoing / f"tenant={journal.tenant_id}"
        self.builder = builder
        self.on_step = on_step
        self.manifest = Manifest(journal)
        self.lock = trio.Lock()  # of who changes the manifest
        self._is_swept = False  # what a process that was killed has left in `outgoing` is gone
        self.is_closed = False  # its journal is; whoever has waited for the lock leaves it alone
        self.pacer = Pacer()  # of who has the lock
        self._working = trio.CancelScope()
        self.progress = Progress()
        # Ended runs that cannot be archived, with the reason; they are tried again at a restart.
        self.refused: dict[RunId, str] = {}
        # Objects that a reader could not read, with the reason.
        self.unreadable: dict[str, str] = {}
        # Batches whose hot copies were looked at in their time and could not all go yet.
        self.held: set[str] = set()
        self.emptied = Emptied()
        self.ended_count = 0  # since the last flush
        self._requests = requests
        self._lookups = trio.CapacityLimiter(limits.archive_lookups_per_tenant_max)
        self._footers: OrderedDict[str, Any] = OrderedDict()
        self._footers_lock = threading.Lock()
        self._new_batch = RunIdFactory(clock)

    def new_batch_id(self) -> str:
        return self._new_batch().hex()

    # ---- reading ----

    def snapshot(self, window: Window | None = None) -> TenantSnapshot:
        """The tenant's runs at this moment, each exactly once. Not for long: see its docstring."""
        return TenantSnapshot(
            self.journal.snapshot(),
            self.manifest,
            window or Window(),
            lambda batch, data_set: self.store.uri(batch.key(self.tenant_id, data_set)),
        )

    async def lookup(self, run: RunId) -> ArchivedRun | None:
        """An archived run with its records, without a scan; None if no batch has it."""
        batches = list(self.manifest.acknowledged_in(self.journal.snapshot()))
        candidates = [batch for batch in batches if batch.may_have(run)]
        if not candidates:
            return None
        # In places of its own, so that who asks does not keep the services from the store; and
        # nobody waits for a store that does not answer.
        return await trio.to_thread.run_sync(
            read_archived, self, run, candidates, limiter=self._lookups, abandon_on_cancel=True
        )

    def open_object(self, batch: Batch, data_set: str) -> ParquetObject:
        """Blocking. The store is not asked how large it is: the manifest knows. Footers of objects
        that were read lately are kept."""
        key, size = batch.key(self.tenant_id, data_set), batch.objects[data_set].bytes
        with self._footers_lock:
            footer = self._footers.pop(key, None)
        found = ParquetObject(self.store, key, size, footer)
        with self._footers_lock:
            self._footers[key] = found.footer
            if len(self._footers) > limits.archive_footers_cached_max:
                self._footers.popitem(last=False)
        return found

    def report_unreadable(self, file: str, reason: str) -> None:
        """A reader had to do without this object."""
        if len(self.unreadable) < limits.archive_footers_cached_max:
            self.unreadable[file] = reason
        self.progress.last_error = f"{file}: {reason}"

    # ---- for the services ----

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Nobody else changes the manifest meanwhile, and the journal is open."""
        async with self.lock:
            if self.is_closed:
                raise self._closed()
            self.pacer = Pacer()
            self._working = trio.CancelScope()
            try:
                with self._working:
                    if not self._is_swept:
                        await self.in_thread(shutil.rmtree, self.outgoing, True)
                        self._is_swept = True
                    yield
            except Stopped as error:
                raise self._closed() from error
            if self._working.cancelled_caught:
                raise self._closed()

    async def close(self) -> None:
        """Whatever is being done is broken off, to be done again another time: nobody waits for a
        store that does not answer."""
        self.is_closed = True
        self._working.cancel()
        self.pacer.stop()
        async with self.lock:
            pass

    def _closed(self) -> JournalClosed:
        return JournalClosed(f"tenant {self.tenant_id!r} was closed; open it again")

    async def in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        return await trio.to_thread.run_sync(call, *arguments, limiter=self._requests)

    async def request(self, call: Callable[..., T], *arguments: object) -> T:
        """As `in_thread`, for what only talks to the store: when the runtime stops, nobody waits
        for a store that does not answer."""
        return await trio.to_thread.run_sync(
            call, *arguments, limiter=self._requests, abandon_on_cancel=True
        )

    def keys_of(self, batch: Batch) -> list[str]:
        # `runs` first: who lists the bucket takes a batch without it for unfinished.
        return [batch.key(self.tenant_id, name) for name in ("runs", "steps", "journal")]

    def failed(self, error: EngineError) -> None:
        self.progress.reachable = False
        self.progress.last_error = error.message

    def failed_unexpectedly(self, failure: Exception) -> None:
        """The store may be well; what was to be moved stays where it is, and is tried again."""
        _log.error("the archive of tenant %s failed", self.tenant_id, exc_info=failure)
        self.progress.last_error = (
            f"archiving failed in a way that nobody foresaw ({type(failure).__name__}); what has "
            "ended stays in the hot tier, and the runtime's log says more"
        )

    def refuse(self, run: RunId, error: EngineError) -> None:
        """The run cannot be archived as it is; it stays hot, and the others go on."""
        self.refused[run] = error.message

    def succeeded(self) -> None:
        self.progress.reachable = True
        self.progress.last_error = self._said_of_refused()
        self.progress.last_flush_ms = self.clock.now_ms()

    def _said_of_refused(self) -> str:
        if not self.refused:
            return ""
        run, reason = next(iter(self.refused.items()))
        return (
            f"{len(self.refused)} runs cannot be archived and stay in the hot tier, such as "
            f"{run_id_text(run)}: {reason}"
        )

    # ---- how it is doing ----

    async def status(self) -> ArchiveStatus:
        waiting, oldest_ms = await trio.to_thread.run_sync(self._waiting)
        planned = self.manifest.of_state(BatchState.PLANNED)
        kept = self.manifest.of_state(BatchState.ACKNOWLEDGED)
        progress = self.progress
        return ArchiveStatus(
            url=self.store.shown_url,
            reachable=progress.reachable,
            last_error=progress.last_error,
            last_flush_ms=progress.last_flush_ms,
            waiting_runs=waiting,
            waiting_oldest_ms=max(0, self.clock.now_ms() - oldest_ms) if waiting else 0,
            batches_planned=len(planned),
            batches_acknowledged=len(kept),
            archived_runs=sum(batch.runs for batch in kept),
            archived_bytes=sum(batch.stored_bytes for batch in kept),
            backfilling=progress.backfill_done < progress.backfill_total,
            backfill_done=progress.backfill_done,
            backfill_total=progress.backfill_total,
        )

    def next_due_ms(self) -> int | None:
        """When the services will have something to do here, if nothing happens until then. What
        they have tried and cannot do yet is no reason: something will happen before they can."""
        return min(self._due(), default=None) if self.settings.enabled else None

    def _due(self) -> Iterator[int]:
        settings, now_ms = self.settings, self.clock.now_ms()
        kept = self.manifest.of_state(BatchState.ACKNOWLEDGED)
        for batch in kept:
            if batch.hot and batch.batch_id not in self.held:
                yield batch.to_ms + settings.hot_retention_s * 1_000
        for batch in self.manifest.of_state(BatchState.RETIRED):
            yield batch.retired_ms + settings.replaced_grace_s * 1_000
        days = settings.cold_days_of(self.tenant_id)
        if days is not None and kept:
            yield day_begins_ms(min(batch.day for batch in kept)) + (days + 1) * _DAY_MS
        tomorrow_ms = (now_ms // _DAY_MS + 1) * _DAY_MS
        if settings.compaction and groups_to_compact(kept, day_of(tomorrow_ms)):
            yield tomorrow_ms
        for key, _ in self.journal.rows(FINISHED_TAG):
            if RunId(key[-RUN_ID_BYTES:]) not in self.refused:
                yield now_ms
                break
        for key, _ in self.journal.rows(EXPIRY_TAG):
            yield split_expiry_key(key)[0] + settings.idempotency_retention_s * 1_000
            break

    def count_waiting(self) -> int:
        """Ended runs that are in no acknowledged batch. Blocking."""
        return self._waiting()[0]

    def _waiting(self) -> tuple[int, int]:
        count, oldest_ms = 0, 0
        pacer = Pacer()
        for key, _ in self.journal.snapshot().rows(FINISHED_TAG):
            count += 1
            oldest_ms = oldest_ms or ended_ms(key[1:])
            if count % limits.archive_portion_runs_max == 0:
                pacer.pause()
        return count, oldest_ms


def days_kept_from(settings: ArchiveSettings, tenant: TenantId, now_ms: int) -> str | None:
    """The oldest day that the cold tier keeps; None if it keeps all."""
    days = settings.cold_days_of(tenant)
    return None if days is None else day_of(now_ms - days * _DAY_MS)
