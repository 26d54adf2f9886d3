"""A batch's files on their way into the store, and gate 1: whether they have arrived.

The names were decided before, so that doing it again is the same as doing it once. Blocking parts
of the flusher and of compaction; knows neither.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from engine.archive.batches import Batch, ObjectFact
from engine.archive.files.parquet import WrittenFile
from engine.archive.files.verify import check_object
from engine.archive.tenant import TenantArchive


@contextmanager
def batch_folder(archive: TenantArchive, batch: Batch) -> Iterator[Path]:
    """Where its files are made: empty, and gone in the end."""
    folder = archive.outgoing / batch.batch_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def upload(
    archive: TenantArchive,
    batch: Batch,
    files: Mapping[str, WrittenFile],
    uploaded: Callable[[str], None],
) -> dict[str, ObjectFact]:
    """Put every file and look that it is there; what the manifest then says of the objects."""
    for data_set, file in files.items():
        await archive.request(archive.store.put, batch.key(archive.tenant_id, data_set), file.path)
        uploaded(data_set)
    for data_set, file in files.items():
        await archive.request(
            check_object, archive, batch.key(archive.tenant_id, data_set), file.bytes, file.rows
        )
    return {name: ObjectFact(file.bytes, file.rows, file.checksum) for name, file in files.items()}
