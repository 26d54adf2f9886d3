"""The data directory: closed to the other users of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from engine.base.ids import TenantId
from engine.journal.directory import DataDirectory
from engine.journal.upkeep.backup import restore_backup, write_backup
from tests.journal.harness import journal_at


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("before", [None, 0o755, 0o777, 0o750, 0o700])
def test_nobody_else_may_look_in(tmp_path: Path, before: int | None) -> None:
    path = tmp_path / "data"
    if before is not None:
        path.mkdir()
        path.chmod(before)
    DataDirectory(path).close()
    assert mode_of(path) == 0o700


def test_what_belongs_to_somebody_else_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    path.mkdir()
    path.chmod(0o770)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    DataDirectory(path).close()
    assert mode_of(path) == 0o770


async def test_nor_into_a_backup_or_what_is_restored(tmp_path: Path) -> None:
    async with journal_at(tmp_path / "data") as journal:
        async with journal.use(TenantId("acme")):
            pass
        await write_backup(journal, tmp_path / "backup")
    assert mode_of(tmp_path / "backup") == 0o700
    await trio.to_thread.run_sync(restore_backup, tmp_path / "backup", tmp_path / "again")
    assert mode_of(tmp_path / "again") == 0o700
