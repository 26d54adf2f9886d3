"""Backup and restore: consistent while others write, whole or not there, and checked byte by byte
before anything relies on it."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

import msgspec
import pytest
import trio

from engine.base.clock import ManualClock
from engine.base.errors import BackupInvalid, StorageFailed
from engine.base.ids import TenantId
from engine.base.limits import MIB
from engine.journal.layout import store_path, system_path
from engine.journal.system import SystemStore
from engine.journal.tenants import Journal
from engine.journal.upkeep import backup as backups
from engine.journal.upkeep.backup import (
    MANIFEST_NAME,
    BackupManifest,
    read_manifest,
    restore_backup,
    write_backup,
)
from engine.model.payloads import SignalReceived
from engine.model.records import RecordKind
from engine.wire import journal as wire
from tests.faults.damage import flip, largest_table
from tests.faults.processes import ROOT
from tests.histories import history
from tests.journal.harness import ACME, NOW_US, OTHER, journal_at, run_number
from tests.journal.sound import resources

SIGNAL = RecordKind.SIGNAL_RECEIVED
MANY = [TenantId(f"tenant-{number}") for number in range(5)]


async def fill(journal: Journal, tenant: TenantId, *, runs: int = 5) -> None:
    async with journal.use(tenant) as opened:
        for number in range(1, runs + 1):
            await opened.open_segment(run_number(number)).append_many(history(number))


async def assert_filled(journal: Journal, tenant: TenantId, *, runs: int = 5) -> None:
    async with journal.use(tenant, create=False) as opened:
        assert list(opened.runs()) == [run_number(number) for number in range(1, runs + 1)]
        for number in range(1, runs + 1):
            found = opened.open_segment(run_number(number)).read()
            assert [record.payload for record in found] == [new.payload for new in history(number)]


async def backup_of(folder: Path) -> Path:
    """A backup of two tenants, and where it is."""
    async with journal_at(folder / "origin") as journal:
        for tenant in (ACME, OTHER):
            await fill(journal, tenant)
        journal.system.put("keys", "one", b"secret")
        await write_backup(journal, folder / "backup")
    return folder / "backup"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trio.run(backup_of, tmp_path_factory.mktemp("made"))


@pytest.fixture
def backup(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "backup"))


async def restore(source: Path, data_dir: Path) -> None:
    assert (await trio.to_thread.run_sync(restore_backup, source, data_dir)).is_sound


# ---- there and back ----


async def test_what_was_there_is_there_again(backup: Path, tmp_path: Path) -> None:
    await restore(backup, tmp_path / "restored")
    async with journal_at(tmp_path / "restored") as journal:
        assert journal.tenant_ids() == [ACME, OTHER]
        for tenant in (ACME, OTHER):
            await assert_filled(journal, tenant)
        assert journal.system.get("keys", "one") == b"secret"
        # And it is a journal like any other.
        await fill(journal, TenantId("third"))


async def test_the_manifest(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journal_at(tmp_path / "origin", clock=clock) as journal:
        await fill(journal, ACME)
        async with journal.use(ACME) as acme:
            sequence = acme.store.sequence_number()
        written = await write_backup(journal, tmp_path / "backup")
    assert read_manifest(tmp_path / "backup") == written
    assert written.created == "2026-01-01T00:00:00+00:00"
    assert written.created_ms == clock.now_ms()
    acme_store, system_store = written.stores
    assert acme_store.tenant_id == ACME
    assert acme_store.sequence_number == sequence
    assert acme_store.records == sum(len(history(number)) for number in range(1, 6))
    assert {file.name for file in acme_store.files} >= {"CURRENT"}
    assert system_store.tenant_id is None
    assert written.left_out == ()


async def test_more_tenants_than_may_be_open(tmp_path: Path) -> None:
    async with journal_at(tmp_path / "origin", tenants_open_max=2) as journal:
        for tenant in MANY:
            await fill(journal, tenant)
        await write_backup(journal, tmp_path / "backup")
    await restore(tmp_path / "backup", tmp_path / "restored")
    async with journal_at(tmp_path / "restored") as journal:
        for tenant in MANY:
            await assert_filled(journal, tenant)


async def test_every_tenant_is_opened_once_after_a_restore(backup: Path, tmp_path: Path) -> None:
    """A timer of a tenant's copy may be missing in the system store's, or the other way round."""
    await restore(backup, tmp_path / "restored")
    system = SystemStore(tmp_path / "restored", resources())
    assert list(system.due_tenants(0)) == [(0, ACME), (0, OTHER)]
    system.close()


async def test_online_under_writers(tmp_path: Path) -> None:
    """What was acknowledged before the backup began is in it; of each run a prefix; and the
    writers were never stopped."""
    acknowledged = dict.fromkeys(MANY, 0)
    async with journal_at(tmp_path / "origin") as journal:

        async def write(tenant: TenantId) -> None:
            async with journal.use(tenant) as opened:
                segment = opened.open_segment(run_number(1))
                for number in itertools.count():
                    await trio.lowlevel.checkpoint_if_cancelled()
                    await segment.append(SIGNAL, signal(number), timestamp_us=NOW_US)
                    acknowledged[tenant] += 1

        async with trio.open_nursery() as nursery:
            for tenant in MANY:
                nursery.start_soon(write, tenant)
            for round_number in range(3):
                while min(acknowledged.values()) < 20 * (round_number + 1):
                    await trio.lowlevel.checkpoint()
                before = dict(acknowledged)
                name = f"backup-{round_number}"
                manifest = await write_backup(journal, tmp_path / name)
                assert all(acknowledged[tenant] > before[tenant] for tenant in MANY), "they go on"
                for store in manifest.stores[:-1]:
                    tenant = TenantId(str(store.tenant_id))
                    assert before[tenant] <= store.records <= acknowledged[tenant] + 1
            nursery.cancel_scope.cancel()
    last = tmp_path / "backup-2"
    await restore(last, tmp_path / "restored")
    owed = {store.tenant_id: store.records for store in read_manifest(last).stores}
    async with journal_at(tmp_path / "restored") as journal:
        for tenant in MANY:
            async with journal.use(tenant, create=False) as opened:
                segment = opened.open_segment(run_number(1))
                assert segment.next_offset == owed[tenant]
                payloads = [record.payload for record in segment.read()]
                assert payloads == [signal(number) for number in range(len(payloads))]


def signal(number: int) -> bytes:
    return wire.encode(SignalReceived(signal_id=str(number)))


# ---- not written ----


async def test_a_damaged_tenant_is_left_out_and_said_so(tmp_path: Path) -> None:
    async with journal_at(tmp_path / "data") as journal:
        await fill(journal, ACME)
        await fill(journal, OTHER)
        async with journal.use(ACME) as acme:
            acme.store.flush()
    flip(largest_table(store_path(tmp_path / "data", ACME)), 20)
    async with journal_at(tmp_path / "data") as journal:
        manifest = await write_backup(journal, tmp_path / "backup")
    (left_out,) = manifest.left_out
    assert (left_out.tenant_id, left_out.code) == ("acme", "storage_damaged")
    await restore(tmp_path / "backup", tmp_path / "restored")
    async with journal_at(tmp_path / "restored") as journal:
        assert journal.tenant_ids() == [OTHER]
        await assert_filled(journal, OTHER)


async def test_an_existing_folder_is_not_overwritten(backup: Path, tmp_path: Path) -> None:
    before = (backup / MANIFEST_NAME).read_bytes()
    async with journal_at(tmp_path / "data") as journal:
        with pytest.raises(BackupInvalid, match="name a new one"):
            await write_backup(journal, backup)
    assert (backup / MANIFEST_NAME).read_bytes() == before


async def test_a_backup_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backups, "sync_tree", no_room)
    async with journal_at(tmp_path / "data") as journal:
        await fill(journal, ACME)
        with pytest.raises(OSError, match="No space left"):
            await write_backup(journal, tmp_path / "backups" / "one")
    assert list((tmp_path / "backups").iterdir()) == []


async def test_a_cancelled_backup_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with journal_at(tmp_path / "data") as journal:
        await fill(journal, ACME)
        with trio.CancelScope() as scope:

            def cancel(_: Path, tenant: TenantId | None) -> None:
                trio.from_thread.run_sync(scope.cancel)

            monkeypatch.setattr(journal.system, "checkpoint", lambda path: cancel(path, None))
            await write_backup(journal, tmp_path / "backups" / "one")
        assert scope.cancelled_caught
    assert list((tmp_path / "backups").iterdir()) == []


# ---- killed ----

KILLED = """
import os, signal, sys
from pathlib import Path
import trio
from engine.config.settings import JournalSettings
from engine.journal.upkeep import backup
from engine.journal.tenants import open_journal

real = getattr(backup, sys.argv[1])

def killed(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(backup, sys.argv[1], killed)

async def write(data_dir, target):
    async with open_journal(data_dir, JournalSettings()) as journal:
        await backup.write_backup(journal, target)

source, target = Path(sys.argv[3]), Path(sys.argv[4])
if sys.argv[2] == "backup":
    trio.run(write, source, target)
else:
    backup.restore_backup(source, target)
"""


def killed_at(call: str, what: str, source: Path, target: Path) -> None:
    command = [sys.executable, "-c", KILLED, call, what, source, target]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert result.returncode == -SIGKILL, result.stderr.decode()


@pytest.mark.parametrize("call", ["sync_tree", "_checksum", "_write_whole"])
async def test_a_killed_backup_does_not_look_whole(tmp_path: Path, call: str) -> None:
    async with journal_at(tmp_path / "data") as journal:
        await fill(journal, ACME)
    target = tmp_path / "backups" / "one"
    killed_at(call, "backup", tmp_path / "data", target)
    assert not target.exists()
    (left,) = target.parent.iterdir()
    with pytest.raises(BackupInvalid, match="one that was interrupted"):
        restore_backup(left, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize("call", ["_copy_files", "sync_tree", "wake_tenants"])
async def test_a_killed_restore_is_not_opened(backup: Path, tmp_path: Path, call: str) -> None:
    target = tmp_path / "restored"
    killed_at(call, "restore", backup, target)
    with pytest.raises(StorageFailed, match="restore unfinished"):
        async with journal_at(target):
            pass
    with pytest.raises(BackupInvalid, match="is not empty"):
        restore_backup(backup, target)


# ---- not restored ----


async def test_a_directory_with_data_is_not_overwritten(backup: Path, tmp_path: Path) -> None:
    async with journal_at(tmp_path / "data") as journal:
        await fill(journal, ACME)
    with pytest.raises(BackupInvalid, match="is not empty, and a restore overwrites nothing"):
        restore_backup(backup, tmp_path / "data")
    async with journal_at(tmp_path / "data") as journal:
        await assert_filled(journal, ACME)


def tables_of(backup: Path) -> list[Path]:
    return sorted(backup.rglob("*.sst"))


def rewrite(backup: Path, **changes: Any) -> None:
    file = backup / MANIFEST_NAME
    manifest = msgspec.json.decode(file.read_bytes())
    file.write_bytes(msgspec.json.encode(manifest | changes))


def rename_file(backup: Path, name: str) -> None:
    manifest = read_manifest(backup)
    stores = msgspec.to_builtins(manifest.stores)
    stores[0]["files"][0]["name"] = name
    rewrite(backup, stores=stores)


def rename_tenant(backup: Path, name: str) -> None:
    stores = msgspec.to_builtins(read_manifest(backup).stores)
    stores[0]["tenant_id"] = name
    rewrite(backup, stores=stores)


def miscount(backup: Path) -> None:
    stores = msgspec.to_builtins(read_manifest(backup).stores)
    stores[0]["records"] += 1
    rewrite(backup, stores=stores)


@pytest.mark.parametrize(
    ("hurt", "says"),
    [
        (lambda backup: (backup / MANIFEST_NAME).unlink(), "one that was interrupted"),
        (lambda backup: (backup / MANIFEST_NAME).write_bytes(b'{"format": 1'), "cannot be read"),
        (lambda backup: (backup / MANIFEST_NAME).write_bytes(b"[]"), "cannot be read"),
        (lambda backup: rewrite(backup, format=2), "is a backup of format 2"),
        (lambda backup: tables_of(backup)[0].unlink(), "is missing"),
        (lambda backup: tables_of(backup)[0].write_bytes(b""), "has 0 bytes instead of"),
        (lambda backup: flip(tables_of(backup)[0], 50), "checksum of .*sst does not match"),
        (lambda backup: rename_file(backup, "../../../x.sst"), "no file of a store"),
        (lambda backup: rename_file(backup, "x.sst\n"), "no file of a store"),
        (lambda backup: rename_tenant(backup, "../acme"), "is not valid"),
        (miscount, "records instead of"),
    ],
)
def test_what_is_no_whole_backup_is_refused(
    backup: Path, tmp_path: Path, hurt: Callable[[Path], None], says: str
) -> None:
    hurt(backup)
    with pytest.raises(BackupInvalid, match=says):
        restore_backup(backup, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_an_empty_directory_is_as_good_as_none(backup: Path, tmp_path: Path) -> None:
    """As a volume is, which cannot be made by whoever restores."""
    (tmp_path / "volume").mkdir()
    assert restore_backup(backup, tmp_path / "volume").is_sound
    (tmp_path / "other").mkdir()
    flip(tables_of(backup)[0], 50)
    with pytest.raises(BackupInvalid):
        restore_backup(backup, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_damage_that_a_checksum_cannot_show_is_found_by_reading(
    backup: Path, tmp_path: Path
) -> None:
    """The list of files agrees with files that were damaged before it was made."""
    table = tables_of(backup)[0]
    flip(table, 50)
    stores = msgspec.to_builtins(read_manifest(backup).stores)
    for store in stores:
        for file in store["files"]:
            if store["tenant_id"] == "acme" and file["name"] == table.name:
                file["crc32c"] = backups._checksum(table)
    rewrite(backup, stores=stores)
    with pytest.raises(BackupInvalid, match=table.name):
        restore_backup(backup, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_the_manifest_is_for_people_too(made: Path) -> None:
    text = (made / MANIFEST_NAME).read_text()
    assert text.count("\n") > 20
    manifest = msgspec.json.decode(text, type=BackupManifest)
    assert sum(file.bytes for store in manifest.stores for file in store.files) < 10 * MIB
    assert system_path(made).is_dir()


def test_a_backup_of_an_unsound_history_is_restored_and_reported(tmp_path: Path) -> None:
    """Better the history that there is than none; whoever restores reads what is wrong with it."""

    async def write() -> None:
        async with journal_at(tmp_path / "data") as journal:
            async with journal.use(ACME) as acme:
                segment = acme.open_segment(run_number(1))
                await segment.append(history(1)[0].kind, b"\xff\xff", timestamp_us=1)
            await write_backup(journal, tmp_path / "backup")

    trio.run(write)
    report = restore_backup(tmp_path / "backup", tmp_path / "restored")
    assert not report.is_sound
    assert (tmp_path / "restored" / "FORMAT").read_text().strip() == "1"
