"""Whether the archive is what the journal was: every object of every batch, and every hot copy that
is still there against its archived one. Names what is damaged. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from engine.archive.batches import Batch, BatchState
from engine.archive.files.lookup import records_of
from engine.archive.files.parquet import ParquetObject, checksum_of_object
from engine.archive.rows.reading import Pacer
from engine.archive.rows.schema import UPLOAD_ORDER
from engine.archive.tenant import TenantArchive
from engine.base import limits
from engine.base.errors import ArchiveDamaged
from engine.base.ids import RunId, parse_run_id, run_id_text
from engine.ext.offsets import encode_record, record_key
from engine.journal.layout import run_key
from engine.model.query import ArchiveVerified


async def verify_tenant(archive: TenantArchive) -> ArchiveVerified:
    problems: list[str] = []
    batches = runs = 0
    for batch in archive.manifest.of_state(BatchState.ACKNOWLEDGED):
        found = await archive.request(verify_batch, archive, batch)
        current = archive.manifest.get(batch.batch_id)
        if current is None or current.state is not BatchState.ACKNOWLEDGED:
            continue  # it was replaced while it was looked at
        batches += 1
        runs += batch.runs
        problems += found
    problems += [
        f"run {run_id_text(run)} is not archived: {reason}"
        for run, reason in archive.refused.items()
    ]
    return ArchiveVerified(batches=batches, runs=runs, problems=tuple(problems))


def verify_batch(archive: TenantArchive, batch: Batch) -> list[str]:
    """Blocking. Every byte of every object is read, and checked."""
    problems: list[str] = []
    journaled: set[str] = set()
    hot = set(batch.hot_runs())
    pacer = Pacer()
    for name in UPLOAD_ORDER:
        try:
            for table in _tables(archive, batch, name):
                ids = table.column("run_id").unique().to_pylist()
                if name == "journal":
                    journaled.update(ids)
                    problems += _compare(archive, table, hot, pacer)
                elif missing := set(ids) - journaled:
                    uri = archive.store.uri(batch.key(archive.tenant_id, name))
                    problems.append(f"{uri} has {len(missing)} runs that the journal has not")
                pacer.pause()
        except ArchiveDamaged as error:
            problems.append(error.message)
    if len(journaled) != batch.runs and not problems:
        problems.append(
            f"batch {batch.batch_id} of {batch.day} has {len(journaled)} runs and not {batch.runs}"
        )
    return problems


def _tables(archive: TenantArchive, batch: Batch, name: str) -> Iterator[pa.Table]:
    fact = batch.objects[name]
    key = batch.key(archive.tenant_id, name)
    found = check_object(archive, key, fact.bytes, fact.rows)
    if fact.checksum and checksum_of_object(archive.store, key, fact.bytes) != fact.checksum:
        raise ArchiveDamaged(
            f"{archive.store.uri(key)} is not what was stored: its checksum is another; restore it "
            "from a copy of the bucket",
            key=key,
        )
    for number in range(found.portions):
        yield found.portion(number)


def _compare(
    archive: TenantArchive, table: pa.Table, hot: set[RunId], pacer: Pacer
) -> Iterator[str]:
    """ARCHIVE_EQUALS_JOURNAL, for the runs of a row group that are also still hot. A run is never
    in two row groups."""
    if not hot:
        return
    texts = table.column("run_id").to_pylist()
    begin = 0
    for at in range(1, len(texts) + 1):
        if at < len(texts) and texts[at] == texts[begin]:
            continue
        run = parse_run_id(texts[begin])
        if run in hot:
            archived = [
                encode_record(
                    record.kind, record.flags, record.offset, record.timestamp_us, record.payload
                )
                for record in records_of(table.slice(begin, at - begin))
            ]
            hot_values = _hot_values(archive, run)
            if hot_values is not None and archived != hot_values:
                yield f"run {texts[begin]} is archived with other records than the journal has"
            pacer.worked(limits.archive_slice_bytes_max // 8)
        begin = at


def _hot_values(archive: TenantArchive, run: RunId) -> list[bytes] | None:
    """None if retention has deleted it meanwhile."""
    snapshot = archive.journal.snapshot()
    values = list(snapshot.record_values(record_key(run, 0), run + b"\xff" * 8 + b"\x00"))
    if not values and snapshot.row(run_key(run)) is None:
        return None
    return values


def check_object(archive: TenantArchive, key: str, size: int, rows: int) -> ParquetObject:
    """Gate 1: it is there, as large as it must be, and its footer, read from the store, has as many
    rows."""
    found = archive.store.size(key)
    uri = archive.store.uri(key)
    if found is None:
        raise ArchiveDamaged(f"{uri} is missing although it was stored", key=key)
    if found != size:
        raise ArchiveDamaged(f"{uri} has {found} bytes and not {size}", key=key)
    stored = ParquetObject(archive.store, key, size)
    if stored.rows != rows:
        raise ArchiveDamaged(f"{uri} has {stored.rows} rows and not {rows}", key=key)
    return stored
