"""Backup and restore of a whole journal.

A backup is a folder: a RocksDB checkpoint of each store, taken while the runtime writes, and
`backup.json`, which lists every file with its size and checksum and is written last. What has no
such list, or does not agree with it, is not a backup. Each tenant is consistent in itself; tenants
are copied one after the other and owe each other nothing.

On the file system of the data directory the tables are hard links: quick, and no help when that
disk fails. Write backups to another one, or copy them there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import trio
from crc32c import crc32c

from engine import __version__
from engine.base.errors import BackupInvalid, InvalidName, StorageDamaged, TenantUnknown
from engine.base.ids import TenantId, tenant_id
from engine.base.limits import MIB
from engine.journal.directory import FORMAT
from engine.journal.durable import sync_file, sync_folder, sync_tree
from engine.journal.layout import segments_path, store_path, system_path
from engine.journal.tenants import Journal
from engine.journal.upkeep.inspect import VerifyReport, opened_to_read, verify
from engine.journal.upkeep.soundness import RunStates
from engine.journal.upkeep.waking import wake_tenants

MANIFEST_NAME: Final = "backup.json"
FORMAT_FILE: Final = "FORMAT"
_BACKUP_FORMAT: Final = 1
# In the place of the data directory's format while it is being filled: no engine opens that.
_UNFINISHED: Final = "restore unfinished"
_CHUNK_BYTES: Final = 4 * MIB
_COUNT_PAGE: Final = 5_000
# RocksDB's own files. What the binding keeps beside them it writes anew at each opening.
_STORE_FILE: Final = re.compile(
    r"(CURRENT|IDENTITY|MANIFEST-\d+|OPTIONS-\d+|\d+\.(sst|log|blob))\Z"
)


class BackupFile(msgspec.Struct, frozen=True):
    name: str
    bytes: int
    crc32c: int


class BackupStore(msgspec.Struct, frozen=True):
    """One store of a backup; the system store has no tenant."""

    tenant_id: str | None
    sequence_number: int
    records: int
    files: tuple[BackupFile, ...]


class LeftOut(msgspec.Struct, frozen=True):
    """A tenant that could not be copied, and why."""

    tenant_id: str
    code: str
    message: str


class BackupManifest(msgspec.Struct, frozen=True):
    format: int
    engine_version: str
    created: str  # UTC, ISO 8601
    created_ms: int
    stores: tuple[BackupStore, ...]
    left_out: tuple[LeftOut, ...] = ()


# ---- writing ----


async def write_backup(journal: Journal, destination: Path) -> BackupManifest:
    """Copy every store to a new folder, while others go on writing. The folder has its name only
    when it is whole. A damaged tenant is left out, and the manifest says so."""
    created_us = journal.clock.now_us()
    partial = await trio.to_thread.run_sync(_begin_backup, destination, created_us)
    try:
        stores, left_out = await _copy_stores(journal, partial)
        manifest = BackupManifest(
            format=_BACKUP_FORMAT,
            engine_version=__version__,
            created=datetime.fromtimestamp(created_us / 1e6, UTC).isoformat(timespec="seconds"),
            created_ms=created_us // 1_000,
            stores=tuple(stores),
            left_out=tuple(left_out),
        )
        await trio.to_thread.run_sync(_finish_backup, partial, manifest, destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _begin_backup(destination: Path, created_us: int) -> Path:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise BackupInvalid(
            f"{destination} exists; a backup is written to a folder of its own, name a new one",
            destination=str(destination),
        )
    partial = destination.with_name(f".{destination.name}.partial-{os.getpid()}-{created_us}")
    partial.mkdir(mode=0o700, parents=True)  # it holds what the data directory holds
    return partial


async def _copy_stores(journal: Journal, root: Path) -> tuple[list[BackupStore], list[LeftOut]]:
    stores: list[BackupStore] = []
    left_out: list[LeftOut] = []
    for tenant in journal.tenant_ids():
        path = store_path(root, tenant)
        try:
            async with journal.use(tenant, create=False) as opened:
                path.parent.mkdir(parents=True)
                await trio.to_thread.run_sync(opened.checkpoint, path)
            stores.append(await _described(path, tenant))
        except TenantUnknown:
            continue  # deleted meanwhile
        except StorageDamaged as error:
            shutil.rmtree(path.parent, ignore_errors=True)
            left_out.append(LeftOut(tenant, error.code, error.message))
    path = system_path(root)
    path.parent.mkdir(parents=True)
    await trio.to_thread.run_sync(journal.system.checkpoint, path)
    stores.append(await _described(path, None))
    return stores, left_out


async def _described(path: Path, tenant: TenantId | None) -> BackupStore:
    """What a checkpoint holds, from reading it: what cannot be read is no backup."""
    with ExitStack() as stack:
        opening = opened_to_read(path)
        store, _ = await trio.to_thread.run_sync(stack.enter_context, opening)
        assert store is not None
        sequence_number = store.sequence_number()
        records = 0
        pairs = store.records(bytes(24), b"\xff" * 25)
        # In pages, so that the event loop gets its turn between them.
        while page := await trio.to_thread.run_sync(_count, pairs):
            records += page
    return BackupStore(
        tenant_id=tenant,
        sequence_number=sequence_number,
        records=records,
        files=tuple(await trio.to_thread.run_sync(_list_files, path)),
    )


def _count(pairs: Iterator[tuple[bytes, bytes]]) -> int:
    return sum(1 for _ in islice(pairs, _COUNT_PAGE))


def _list_files(path: Path) -> list[BackupFile]:
    return [
        BackupFile(file.name, file.stat().st_size, _checksum(file))
        for file in sorted(path.iterdir())
        if _STORE_FILE.match(file.name)
    ]


def _checksum(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            crc = crc32c(chunk, crc)
    return crc


def _finish_backup(partial: Path, manifest: BackupManifest, destination: Path) -> None:
    sync_tree(partial)
    _write_whole(
        partial / MANIFEST_NAME, msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    )
    partial.rename(destination)
    sync_folder(destination.parent)


def _write_whole(file: Path, content: bytes) -> None:
    """The file has this content or is as it was before, whatever crashes."""
    written = file.with_name(f".{file.name}.new")
    written.write_bytes(content)
    sync_file(written)
    written.rename(file)
    sync_folder(file.parent)


# ---- reading ----


def read_manifest(source: Path) -> BackupManifest:
    """What a backup holds; raises `BackupInvalid` if it is none, or not one of this engine's."""
    try:
        content = (source / MANIFEST_NAME).read_bytes()
        manifest = msgspec.json.decode(content, type=BackupManifest)
    except FileNotFoundError as error:
        raise BackupInvalid(
            f"{source} is not a backup, or one that was interrupted: it has no {MANIFEST_NAME}. "
            "Name the folder that `engine journal backup` made",
            source=str(source),
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise _invalid(source, f"its {MANIFEST_NAME} cannot be read: {error}") from error
    if manifest.format != _BACKUP_FORMAT:
        raise BackupInvalid(
            f"{source} is a backup of format {manifest.format}, made by engine "
            f"{manifest.engine_version}; this engine reads format {_BACKUP_FORMAT}. Restore it "
            "with the version that made it",
            source=str(source),
        )
    for store in manifest.stores:
        _check_names(source, store)
    return manifest


def _check_names(source: Path, store: BackupStore) -> None:
    """Names in a manifest become paths; a foreign one must not lead out of the folder."""
    try:
        if store.tenant_id is not None:
            tenant_id(store.tenant_id)
    except InvalidName as error:
        raise _invalid(source, error.message) from error
    for file in store.files:
        if not _STORE_FILE.match(file.name):
            raise _invalid(source, f"it lists {file.name!r}, which is no file of a store")


def _invalid(source: Path, what: str) -> BackupInvalid:
    return BackupInvalid(
        f"the backup {source} is damaged: {what}. Restore another one, or copy this one again from "
        "where it was made",
        source=str(source),
    )


# ---- restoring ----


def restore_backup(
    source: Path, data_dir: Path, *, states: RunStates | None = None
) -> VerifyReport:
    """Fill a new data directory from a backup; what was found when it was verified.

    Until all of it is there and verified, the directory says that it is unfinished, and no engine
    opens it.
    """
    manifest = read_manifest(source)
    _check_sizes(source, manifest)
    is_new = _begin_restore(data_dir)
    try:
        for store in manifest.stores:
            _copy_files(_place(source, store), _place(data_dir, store), store)
        segments_path(data_dir).mkdir(exist_ok=True)
        sync_tree(data_dir)
        report = verify(data_dir, states=states)
        _check_restored(source, manifest, report)
        wake_tenants(data_dir)
        _write_whole(data_dir / FORMAT_FILE, f"{FORMAT}\n".encode())
    except BaseException:
        for folder in (segments_path(data_dir), system_path(data_dir).parent):
            shutil.rmtree(folder, ignore_errors=True)
        (data_dir / FORMAT_FILE).unlink(missing_ok=True)
        if is_new:
            data_dir.rmdir()
        raise
    return report


def _place(root: Path, store: BackupStore) -> Path:
    if store.tenant_id is None:
        return system_path(root)
    return store_path(root, TenantId(store.tenant_id))


def _begin_restore(data_dir: Path) -> bool:
    """Mark the directory as unfinished; whether it was made for this."""
    is_new = not data_dir.exists()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(data_dir.iterdir()):
        raise BackupInvalid(
            f"{data_dir} is not empty, and a restore overwrites nothing; name a new directory, or "
            "move this one away",
            data_dir=str(data_dir),
        )
    marker = data_dir / FORMAT_FILE
    with marker.open("x", encoding="ascii") as stream:
        stream.write(f"{_UNFINISHED}\n")
    sync_file(marker)
    sync_folder(data_dir)
    return is_new


def _check_sizes(source: Path, manifest: BackupManifest) -> None:
    for store in manifest.stores:
        for file in store.files:
            path = _place(source, store) / file.name
            if not path.is_file():
                raise _invalid(source, f"{path} is missing")
            if path.stat().st_size != file.bytes:
                raise _invalid(
                    source, f"{path} has {path.stat().st_size} bytes instead of {file.bytes}"
                )


def _copy_files(source: Path, target: Path, store: BackupStore) -> None:
    target.mkdir(parents=True)
    for file in store.files:
        shutil.copyfile(source / file.name, target / file.name)
        if _checksum(target / file.name) != file.crc32c:
            raise _invalid(source, f"the checksum of {source / file.name} does not match")


def _check_restored(source: Path, manifest: BackupManifest, report: VerifyReport) -> None:
    """The disk gave back what was written. What the records say of each other is as it was when
    the backup was made, and whoever restores reads it in the report."""
    owed = {store.tenant_id: store.records for store in manifest.stores}
    for found in report.stores:
        for problem in found.problems:
            if problem.file is not None:
                raise _invalid(source, problem.what)
        if found.records != owed[found.tenant_id]:
            raise _invalid(
                source,
                f"tenant {found.tenant_id} has {found.records} records instead of "
                f"{owed[found.tenant_id]}",
            )
