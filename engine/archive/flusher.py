"""The service that moves ended runs into the archive: plan, build, upload, verify, acknowledge.

A batch is decided and recorded before anything of it is uploaded; whatever stops it half-way, the
next look does the same batch again, into the same objects. Until it is acknowledged its runs stay
hot and visible there. Deletes nothing: that is retention's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from engine.archive.batches import (
    ENDED_BYTES,
    Batch,
    BatchState,
    IdRange,
    day_of,
    ended_ms,
    ended_of,
    id_range,
)
from engine.archive.builder import Builder, encoded_slices
from engine.archive.parquet import BatchWriter, WrittenFile
from engine.archive.reading import portions, read_runs
from engine.archive.rehydrate import is_adopted, rehydrate_tenant
from engine.archive.services import Backoff, Tenants, for_each
from engine.archive.steps import Step
from engine.archive.tenant import TenantArchive
from engine.archive.uploads import batch_folder, upload
from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import EngineError
from engine.base.ids import RunId, run_id_text
from engine.journal.layout import FINISHED_TAG
from engine.model.query import ArchiveFlushed

_DAY_MS: Final = 86_400_000
_UPLOADED: Final = {
    "journal": Step.UPLOADED_JOURNAL,
    "steps": Step.UPLOADED_STEPS,
    "runs": Step.UPLOADED_RUNS,
}


class Flusher:
    def __init__(
        self, tenants: Tenants, builder: Builder, *, interval_ms: int, clock: Clock
    ) -> None:
        self._tenants = tenants
        self._builder = builder
        self._interval_ms = interval_ms
        self._clock = clock
        self._wakeup = trio.Event()
        self.backoff = Backoff()

    def wake(self) -> None:
        """Enough runs have ended: do not wait for the interval."""
        self._wakeup.set()

    async def run(self) -> None:
        while True:
            await self._builder.end_if_unused()
            wait_ms = self.backoff.delay_ms or self._interval_ms
            with trio.move_on_after(wait_ms / 1_000):
                # A store that is down is not asked more often because more runs end.
                wakeup = trio.Event() if self.backoff.delay_ms else self._wakeup
                await wakeup.wait()
            # Before the look: who wakes it meanwhile may have come too late for it.
            self._wakeup = trio.Event()
            await self.run_once()

    async def run_once(self) -> bool:
        """Flush every tenant; whether the store answered."""
        answered = await for_each(self._tenants.values(), adopt_and_flush)
        if answered:
            self.backoff.succeeded()
        else:
            self.backoff.failed()
        return answered


async def adopt_and_flush(archive: TenantArchive) -> ArchiveFlushed:
    """A data directory that has never looked into the bucket does so first."""
    if not is_adopted(archive):
        await rehydrate_tenant(archive)
    return await flush_tenant(archive)


async def flush_tenant(archive: TenantArchive) -> ArchiveFlushed:
    """Everything that has ended by now, batch after batch; what was done."""
    async with archive.alone():
        began_us = archive.clock.monotonic_us()
        archive.ended_count = 0
        archive.outgoing.mkdir(parents=True, exist_ok=True)
        done: list[Batch] = []
        try:
            for planned in archive.manifest.of_state(BatchState.PLANNED):
                if not planned.replaces:  # compaction's own are compaction's
                    done += await _complete(archive, planned)
            waiting = await archive.in_thread(archive.count_waiting)
            if waiting > limits.archive_batch_runs_max:
                archive.progress.backfill_total = waiting
            archive.pacer.hurried = waiting > limits.archive_hurried_runs
            after, last = b"", _last_ended(archive)
            # Not until nothing is left: where runs go on ending that would be batches of a few
            # runs without an end.
            while after < last and (plan := await _next_plan(archive, after)) is not None:
                after = plan.hot[-ENDED_BYTES:]
                await archive.manifest.write([plan])
                archive.on_step(Step.PLANNED)
                done += await _complete(archive, plan)
        finally:
            archive.progress.backfill_done = archive.progress.backfill_total = 0
        archive.succeeded()
        return ArchiveFlushed(
            runs=sum(batch.runs for batch in done),
            batches=len(done),
            bytes=sum(batch.stored_bytes for batch in done),
            took_ms=(archive.clock.monotonic_us() - began_us) / 1_000,
        )


def _last_ended(archive: TenantArchive) -> bytes:
    newest = next(archive.journal.rows_backwards(FINISHED_TAG, b"\xff" * ENDED_BYTES), None)
    return b"" if newest is None else newest[0][1:]


async def _next_plan(archive: TenantArchive, after: bytes) -> Batch | None:
    """The oldest finished runs of one day, as many as one batch takes."""
    ended = await archive.in_thread(_oldest_ended, archive, after)
    if not ended:
        return None
    return Batch(
        batch_id=archive.new_batch_id(),
        state=BatchState.PLANNED,
        day=day_of(ended_ms(ended[0])),
        runs=len(ended),
        planned_ms=archive.clock.now_ms(),
        hot=b"".join(ended),
        from_ms=ended_ms(ended[0]),
        to_ms=ended_ms(ended[-1]),
    )


def _oldest_ended(archive: TenantArchive, after: bytes) -> list[bytes]:
    """`after`: what this flush has planned already need not be stepped over again."""
    ended: list[bytes] = []
    next_day_ms = 0
    rows = archive.journal.snapshot().rows(FINISHED_TAG, FINISHED_TAG + after)
    for one in (key[1:] for key, _ in rows):
        if one == after or (archive.refused and RunId(one[8:]) in archive.refused):
            continue
        moment_ms = ended_ms(one)
        if not ended:
            next_day_ms = (moment_ms // _DAY_MS + 1) * _DAY_MS
        if len(ended) == limits.archive_batch_runs_max or moment_ms >= next_day_ms:
            break
        ended.append(one)
    return ended


async def _complete(archive: TenantArchive, plan: Batch) -> list[Batch]:
    """From planned to acknowledged; nothing if none of its runs can be archived."""
    refused: dict[RunId, EngineError] = {}
    with batch_folder(archive, plan) as folder:
        if plan.runs > limits.archive_inside_runs_max:
            files = await _build_beside(archive, plan, folder, refused)
        else:
            files = await archive.in_thread(_build, archive, plan, folder, refused)
        for run, error in refused.items():
            archive.refuse(run, error)
        kept = [one for one in ended_of(plan.hot) if RunId(one[8:]) not in refused]
        if not kept:
            await archive.manifest.write([], removed=[plan.batch_id])
            return []
        archive.on_step(Step.BUILT)
        objects = await upload(
            archive, plan, files, lambda data_set: archive.on_step(_UPLOADED[data_set])
        )
        archive.on_step(Step.VERIFIED)
    ids = id_range(RunId(one[8:]) for one in kept)
    batch = msgspec.structs.replace(
        plan,
        state=BatchState.ACKNOWLEDGED,
        runs=len(kept),
        hot=b"".join(kept),
        acknowledged_ms=archive.clock.now_ms(),
        objects=objects,
        first_run=ids.first_run,
        last_run=ids.last_run,
        outliers=ids.outliers,
    )
    await archive.manifest.write([batch], no_longer_finished=kept)
    archive.on_step(Step.ACKNOWLEDGED)
    archive.progress.backfill_done += batch.runs
    return [batch]


def _build(
    archive: TenantArchive,
    plan: Batch,
    folder: Path,
    refused: dict[RunId, EngineError],
) -> dict[str, WrittenFile]:
    """Here, in a thread: of few runs, that are not worth a message to anybody."""
    pacer = archive.pacer
    writer = BatchWriter(folder, runs=plan.runs)
    try:
        values_of = archive.journal.store.record_values
        runs = read_runs(_runs_of(plan), values_of, pacer, refused.__setitem__)
        for tables in portions(runs, pacer.between, refused.__setitem__):
            writer.write(tables)
            pacer.pause()
    except BaseException:
        writer.abandon()
        raise
    return writer.finish(_facts_without(plan, refused))


async def _build_beside(
    archive: TenantArchive,
    plan: Batch,
    folder: Path,
    refused: dict[RunId, EngineError],
) -> dict[str, WrittenFile]:
    """In a program of its own, that is given the records."""
    values_of = archive.journal.store.record_values
    runs = read_runs(_runs_of(plan), values_of, archive.pacer, refused.__setitem__)
    async with archive.builder.batch(folder, plan.runs) as program:
        slices = encoded_slices(runs)
        while (some := await archive.in_thread(next, slices, None)) is not None:
            await program.add(some)
        refused |= await program.gathered()
        facts = _facts_without(plan, refused)
        if not facts:
            await program.abandon()
            return {}
        return await program.finish(facts)


def _facts_without(plan: Batch, refused: Collection[RunId]) -> dict[str, Any]:
    kept = [run for run in _runs_of(plan) if run not in refused]
    return facts_of(plan, id_range(kept), len(kept)) if kept else {}


def _runs_of(plan: Batch) -> Iterator[RunId]:
    assert len(plan.hot) % ENDED_BYTES == 0
    return iter(plan.hot_runs())


def facts_of(batch: Batch, ids: IdRange, runs: int) -> dict[str, Any]:
    """What the footers say of a batch, so that the bucket alone is enough to adopt it."""
    return {
        "batch_id": batch.batch_id,
        "runs": runs,
        "from_ms": batch.from_ms,
        "to_ms": batch.to_ms,
        "first_run": run_id_text(RunId(ids.first_run)),
        "last_run": run_id_text(RunId(ids.last_run)),
        "outliers": ids.outliers.hex(),
        "replaces": list(batch.replaces),
    }
