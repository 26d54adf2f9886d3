"""One archived run by its id, without a scan.

The manifest says which batches can have it and how large their objects are, the statistics of an
object which of its row groups; one column of those is read to find it, and then its records, which
say all that there is to say of it: of the three objects of a batch one is opened. Blocking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from engine.archive.batches import Batch
from engine.archive.files.parquet import ParquetObject
from engine.archive.rows.reading import LAST_KINDS
from engine.archive.store.stores import ObjectStore
from engine.base.errors import ArchiveDamaged
from engine.base.ids import RunId, run_id_text
from engine.model.records import Record, RecordKind


class Shelf(Protocol):
    """What a look for a run needs of the archive it is in."""

    store: ObjectStore

    def open_object(self, batch: Batch, data_set: str, /) -> ParquetObject: ...

    def report_unreadable(self, key: str, reason: str, /) -> None: ...


class ArchivedRun(msgspec.Struct, frozen=True, kw_only=True):
    run_id: RunId
    batch_id: str
    records: list[Record]  # all of them, byte for byte as they were


def read_archived(archive: Shelf, run: RunId, candidates: Sequence[Batch]) -> ArchivedRun | None:
    """From the first batch that has it, newest first. One whose object is damaged is passed over
    unless it may be the one."""
    damaged: ArchiveDamaged | None = None
    for batch in sorted(candidates, key=lambda batch: batch.batch_id, reverse=True):
        try:
            found = _read_from(archive, run, batch)
        except ArchiveDamaged as error:
            archive.report_unreadable(str(error.details.get("key", "")), error.message)
            damaged = error
            continue
        if found is not None:
            return found
    if damaged is not None:
        raise ArchiveDamaged(
            f"run {run_id_text(run)} may be in an object that cannot be read: {damaged.message}",
            **damaged.details,
        ) from damaged
    return None


def _read_from(archive: Shelf, run: RunId, batch: Batch) -> ArchivedRun | None:
    found = archive.open_object(batch, "journal")
    records = records_of(rows_of_run(found, run))
    if not records:
        return None
    offsets = [record.offset for record in records]
    if offsets != list(range(len(records))) or records[-1].kind not in LAST_KINDS:
        raise ArchiveDamaged(
            f"{archive.store.uri(found.key)} has {len(records)} records of run "
            f"{run_id_text(run)}, and not all of them",
            key=found.key,
        )
    return ArchivedRun(run_id=run, batch_id=batch.batch_id, records=records)


def rows_of_run(found: ParquetObject, run: RunId) -> pa.Table:
    """Every row of the run in this object, in the order in which they stand."""
    text = run_id_text(run)
    parts: list[pa.Table] = []
    for number in range(found.portions):
        if not found.may_have(number, text):
            continue
        ids = found.portion(number, ["run_id"]).column("run_id")
        at = pc.indices_nonzero(pc.equal(ids, text))
        if len(at):
            with found.reading():
                parts.append(found.portion(number).take(at))
    return pa.concat_tables(parts) if parts else pa.table({"run_id": pa.array([], pa.string())})


def records_of(rows: pa.Table) -> list[Record]:
    """Rows of the data set `journal` as records, in their order."""
    if not rows.num_rows:
        return []
    columns = [
        rows.column(name).to_pylist()
        for name in ("offset", "kind", "timestamp_us", "payload", "flags")
    ]
    found = [
        Record(offset, RecordKind[kind], timestamp_us, payload, flags)
        for offset, kind, timestamp_us, payload, flags in zip(*columns, strict=True)
    ]
    found.sort(key=lambda record: record.offset)
    return found
