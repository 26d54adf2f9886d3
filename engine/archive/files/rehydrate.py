"""A data directory learns from the bucket what is there: a manifest made anew from footers.

For a fresh directory beside an old bucket, and for one that was restored from an older copy. A
batch is adopted if its objects of all data sets are there and whole; what a compaction has replaced
is not. A run that is still hot and not acknowledged is from then on in the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engine.archive.batches import (
    Batch,
    BatchState,
    ObjectFact,
    id_range,
    object_key,
)
from engine.archive.files.parquet import ParquetObject
from engine.archive.rows.reading import Pacer
from engine.archive.rows.schema import DATA_SETS
from engine.archive.tenant import TenantArchive
from engine.base.errors import ArchiveDamaged
from engine.base.ids import RunId, parse_run_id, run_id_text
from engine.journal.layout import (
    FINISHED_TAG,
    OPEN_RUN_TAG,
    archive_key,
    finished_key,
    open_run_key,
)

_ADOPTED = "adopted"


class Rehydrated(msgspec.Struct, frozen=True, kw_only=True):
    batches: int = 0
    runs: int = 0
    problems: tuple[str, ...] = ()


class _Found(msgspec.Struct):
    day: str
    batch_id: str
    sizes: dict[str, int] = msgspec.field(default_factory=dict)


def is_adopted(archive: TenantArchive) -> bool:
    """Whether the bucket was looked through once."""
    return archive.journal.row(archive_key(_ADOPTED)) is not None


async def rehydrate_tenant(archive: TenantArchive) -> Rehydrated:
    """Adopt what is in the bucket and not in the manifest."""
    async with archive.alone():
        found = await archive.request(_list_batches, archive)
        known = {
            batch.batch_id for state in BatchState for batch in archive.manifest.of_state(state)
        }
        fresh = [one for one in found if one.batch_id not in known]
        batches, problems = await archive.request(_read_footers, archive, fresh)
        replaced = _replaced(archive, batches)
        batches = [batch for batch in batches if batch.batch_id not in replaced]
        adopted: list[Batch] = []
        for batch in batches:
            finished, open_runs = await archive.in_thread(_also_hot, archive, batch)
            if open_runs:
                problems.append(
                    f"batch {batch.batch_id} of {batch.day} has {open_runs} runs that are open "
                    "here; this data directory is older than the bucket, and the batch is left out"
                )
                continue
            batch = msgspec.structs.replace(batch, hot=b"".join(sorted(finished)))
            await archive.manifest.write([batch], no_longer_finished=finished)
            adopted.append(batch)
        now_ms = archive.clock.now_ms()
        await archive.journal.write_rows([(archive_key(_ADOPTED), str(now_ms).encode())])
        return Rehydrated(
            batches=len(adopted),
            runs=sum(batch.runs for batch in adopted),
            problems=tuple(problems),
        )


def _list_batches(archive: TenantArchive) -> list[_Found]:
    """What is there, by the names of the objects alone."""
    found: dict[tuple[str, str], _Found] = {}
    for name in DATA_SETS:
        for entry in archive.store.list(f"{name}/tenant={archive.tenant_id}/"):
            parts = entry.key.split("/")
            day = parts[2].removeprefix("day=") if len(parts) == 4 else ""
            batch_id = parts[-1].removeprefix(f"{name}-").removesuffix(".parquet")
            if entry.key != object_key(archive.tenant_id, name, day, batch_id):
                continue  # not ours
            one = found.setdefault((day, batch_id), _Found(day, batch_id))
            one.sizes[name] = entry.bytes
    return [found[at] for at in sorted(found)]


def _read_footers(archive: TenantArchive, found: list[_Found]) -> tuple[list[Batch], list[str]]:
    batches: list[Batch] = []
    problems: list[str] = []
    for one in found:
        missing = sorted(set(DATA_SETS) - set(one.sizes))
        if missing:
            problems.append(
                f"batch {one.batch_id} of {one.day} has no object for {', '.join(missing)}; an "
                "upload of it was not finished, and it is left out"
            )
            continue
        try:
            batches.append(_batch_of(archive, one))
        except ArchiveDamaged as error:
            problems.append(error.message)
    return batches, problems


def _batch_of(archive: TenantArchive, one: _Found) -> Batch:
    opened = {
        name: ParquetObject(
            archive.store, object_key(archive.tenant_id, name, one.day, one.batch_id), size
        )
        for name, size in one.sizes.items()
    }
    runs = opened["runs"]
    facts: Mapping[str, Any] = runs.facts()
    owed = facts.get("rows", {})
    for name, stored in opened.items():
        if stored.rows != owed.get(name, stored.rows):
            raise ArchiveDamaged(
                f"{archive.store.uri(stored.key)} has {stored.rows} rows and not {owed[name]}",
                key=stored.key,
            )
    if not facts:
        facts = _facts_from_rows(runs)
    return Batch(
        batch_id=one.batch_id,
        state=BatchState.ACKNOWLEDGED,
        day=one.day,
        runs=runs.rows,
        planned_ms=archive.clock.now_ms(),
        acknowledged_ms=archive.clock.now_ms(),
        objects={name: ObjectFact(one.sizes[name], opened[name].rows) for name in DATA_SETS},
        from_ms=int(facts["from_ms"]),
        to_ms=int(facts["to_ms"]),
        first_run=parse_run_id(facts["first_run"]),
        last_run=parse_run_id(facts["last_run"]),
        outliers=bytes.fromhex(facts["outliers"]),
        replaces=tuple(facts["replaces"]),
    )


def _facts_from_rows(runs: ParquetObject) -> dict[str, Any]:
    """Of a file whose footer says nothing of the batch."""
    ids: list[RunId] = []
    moments: list[int] = []
    for number in range(runs.portions):
        table = runs.portion(number, ["run_id", "completed_ms"])
        ids += map(parse_run_id, table.column("run_id").to_pylist())
        moments += table.column("completed_ms").to_pylist()
    found = id_range(ids)
    return {
        "from_ms": min(moments),
        "to_ms": max(moments),
        "first_run": run_id_text(RunId(found.first_run)),
        "last_run": run_id_text(RunId(found.last_run)),
        "outliers": found.outliers.hex(),
        "replaces": [],
    }


def _replaced(archive: TenantArchive, batches: list[Batch]) -> set[str]:
    kept = [*batches, *archive.manifest.of_state(BatchState.ACKNOWLEDGED)]
    return {batch_id for batch in kept for batch_id in batch.replaces}


def _also_hot(archive: TenantArchive, batch: Batch) -> tuple[list[bytes], int]:
    """The finished rows of its runs, and how many of them are open here."""
    snapshot = archive.journal.snapshot()
    if (
        next(snapshot.rows(FINISHED_TAG), None) is None
        and next(snapshot.rows(OPEN_RUN_TAG), None) is None
    ):
        return [], 0
    finished: list[bytes] = []
    open_runs = 0
    pacer = Pacer()
    runs = archive.open_object(batch, "runs")
    for number in range(runs.portions):
        table = runs.portion(number, ["run_id", "completed_ms"])
        texts = table.column("run_id").to_pylist()
        for text, moment in zip(texts, table.column("completed_ms").to_pylist(), strict=True):
            run = parse_run_id(text)
            key = finished_key(moment, run)
            if snapshot.row(key) is not None:
                finished.append(key[1:])
            elif snapshot.row(open_run_key(run)) is not None:
                open_runs += 1
            pacer.worked(0)
    return finished, open_runs
