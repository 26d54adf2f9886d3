"""Folders of the processes of queries: those of the dead go at the next start, no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from engine.config.query import QuerySettings
from engine.query.pool import open_pool
from engine.query.ports import StoreAccess
from engine.query.scratch import PREFIX, scratch_of_ours

ENGINE = """
import os, sys, trio
from pathlib import Path
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.query.pool import open_pool
from engine.query.ports import StoreAccess
async def main():
    settings = QuerySettings(temporary_directory=sys.argv[1])
    async with open_pool(settings, StoreAccess(root=sys.argv[1])) as pool:
        async with pool.use(TenantId("acme")):
            print("asked", flush=True)
            await trio.sleep_forever()
trio.run(main)
"""


def killed_engine(folder: Path) -> None:
    """One that has a process of queries, which has written, and is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(folder)], stdout=subprocess.PIPE, text=True
    ) as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline() == "asked\n"
        engine.send_signal(signal.SIGKILL)


def folders(inside: Path) -> set[str]:
    return {path.name for path in inside.iterdir() if path.name.startswith(PREFIX)}


async def test_what_a_killed_engine_has_left_goes_at_the_next_start(tmp_path: Path) -> None:
    killed_engine(tmp_path)
    (left,) = folders(tmp_path)
    assert any((tmp_path / left).rglob("said")), "the process of queries has written something"
    settings = QuerySettings(temporary_directory=str(tmp_path))
    async with open_pool(settings, StoreAccess(root=str(tmp_path))):
        (ours,) = folders(tmp_path)
        assert ours != left
    assert not folders(tmp_path)


async def test_what_is_in_use_or_not_ours_stays(tmp_path: Path) -> None:
    """Another engine's that runs, one that is being made, a link, and what only has such a name."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "LOCK").write_bytes(b"")
    os.symlink(elsewhere, tmp_path / f"{PREFIX}link")
    (tmp_path / f"{PREFIX}begun").mkdir()
    (tmp_path / f"{PREFIX}file").write_bytes(b"")
    settings = QuerySettings(temporary_directory=str(tmp_path))
    with scratch_of_ours(tmp_path):
        before = folders(tmp_path)
        async with open_pool(settings, StoreAccess(root=str(tmp_path))):
            pass
        assert folders(tmp_path) == before
        assert (elsewhere / "LOCK").exists()
    assert len(folders(tmp_path)) == len(before) - 1
