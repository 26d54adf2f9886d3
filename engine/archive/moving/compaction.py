"""The service that makes one object of many small ones of a day.

The new batch is decided and recorded with the names of those that it replaces, built from their
objects, uploaded and verified like any other; then one WriteBatch makes it theirs: readers see the
old ones before and the new one after, never both. Knows no hot tier: what is still hot stays
listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from engine.archive.batches import Batch, BatchState, day_of, joint_range
from engine.archive.files.parquet import BatchWriter, ParquetObject, WrittenFile
from engine.archive.moving.flusher import facts_of
from engine.archive.moving.grouping import groups_to_compact
from engine.archive.moving.uploads import batch_folder, upload
from engine.archive.rows.reading import Pacer
from engine.archive.rows.schema import DATA_SETS, UPLOAD_ORDER
from engine.archive.steps import Step
from engine.archive.tenant import TenantArchive
from engine.base import limits
from engine.base.errors import ArchiveDamaged


async def compact_tenant(archive: TenantArchive) -> int:
    """Wherever several batches are to be one; how many were replaced."""
    async with archive.alone():
        replaced = 0
        for planned in archive.manifest.of_state(BatchState.PLANNED):
            if planned.replaces:
                # Half done before a crash: its sources may have changed since. What it may have
                # uploaded is nobody's, and is made anew.
                await archive.request(archive.store.delete, archive.keys_of(planned))
                await archive.manifest.write([], removed=[planned.batch_id])
        for group in groups_to_compact(
            archive.manifest.of_state(BatchState.ACKNOWLEDGED), day_of(archive.clock.now_ms())
        ):
            try:
                await _compact(archive, group)
            except ArchiveDamaged as error:
                # The others of the day stay as they are; `verify` names what is damaged.
                archive.report_unreadable(str(error.details.get("key", "")), error.message)
                continue
            replaced += len(group)
        return replaced


async def _compact(archive: TenantArchive, group: list[Batch]) -> None:
    plan = Batch(
        batch_id=archive.new_batch_id(),
        state=BatchState.PLANNED,
        day=group[0].day,
        runs=sum(batch.runs for batch in group),
        planned_ms=archive.clock.now_ms(),
        from_ms=min(batch.from_ms for batch in group),
        to_ms=max(batch.to_ms for batch in group),
        replaces=tuple(batch.batch_id for batch in group),
    )
    ids = joint_range(group)
    await archive.manifest.write([plan])
    archive.on_step(Step.COMPACTION_PLANNED)
    archive.outgoing.mkdir(parents=True, exist_ok=True)
    with batch_folder(archive, plan) as folder:
        facts = facts_of(plan, ids, plan.runs)
        files = await archive.in_thread(_build, archive, group, folder, facts)
        archive.on_step(Step.COMPACTION_BUILT)
        objects = await upload(archive, plan, files, lambda _: None)
        archive.on_step(Step.COMPACTION_UPLOADED)
    now_ms = archive.clock.now_ms()
    compacted = msgspec.structs.replace(
        plan,
        state=BatchState.ACKNOWLEDGED,
        acknowledged_ms=now_ms,
        objects=objects,
        hot=b"".join(batch.hot for batch in group),
        first_run=ids.first_run,
        last_run=ids.last_run,
        outliers=ids.outliers,
    )
    retired = [
        msgspec.structs.replace(batch, state=BatchState.RETIRED, retired_ms=now_ms, hot=b"")
        for batch in group
    ]
    await archive.manifest.write([compacted, *retired])
    archive.on_step(Step.COMPACTED)


def _build(
    archive: TenantArchive, group: list[Batch], folder: Path, facts: dict[str, Any]
) -> dict[str, WrittenFile]:
    pacer = archive.pacer
    writer = BatchWriter(folder, runs=facts["runs"])
    try:
        for name in UPLOAD_ORDER:
            for table in _portions(archive, group, name, pacer):
                writer.write({name: table})
                pacer.pause()
    except BaseException:
        writer.abandon()
        raise
    files = writer.finish(facts)
    for name, file in files.items():
        owed = sum(batch.objects[name].rows for batch in group)
        if file.rows != owed:
            raise ArchiveDamaged(
                f"the batches of {group[0].day} have {file.rows} rows of {name} and not {owed}",
                key=group[0].key(archive.tenant_id, name),
            )
    return files


def _portions(
    archive: TenantArchive, group: list[Batch], name: str, pacer: Pacer
) -> Iterator[pa.Table]:
    """Tables of about a portion, whatever the size of the objects that they come from."""
    gathered: list[pa.Table] = []
    rows_max = limits.archive_portion_runs_max * (1 if name == "runs" else 8)
    for batch in group:
        found = _source(archive, batch, name)
        for number in range(found.portions):
            gathered.append(_in_schema(found.portion(number), DATA_SETS[name]))
            pacer.pause()
            if (
                sum(table.num_rows for table in gathered) >= rows_max
                or sum(table.nbytes for table in gathered) >= limits.archive_portion_bytes_max
            ):
                yield pa.concat_tables(gathered)
                gathered = []
    if gathered:
        yield pa.concat_tables(gathered)


def _source(archive: TenantArchive, batch: Batch, name: str) -> ParquetObject:
    found = archive.open_object(batch, name)
    owed = batch.objects[name].rows
    if found.rows != owed:
        raise ArchiveDamaged(
            f"{found.key} has {found.rows} rows and not {owed}; it is not compacted", key=found.key
        )
    return found


def _in_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """An older file's table with the columns of today; what it did not have is NULL."""
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
