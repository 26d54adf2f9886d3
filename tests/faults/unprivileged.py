"""Opens a data directory as a user who may not write everywhere.

`python -m tests.faults.unprivileged FOLDER` gives up the rights of root, if it has them, and finds
below FOLDER what its test has laid out there: each is refused with a typed error that names it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest
import trio

from engine.base.errors import EngineError, StorageFailed
from engine.base.ids import tenant_id
from engine.config.settings import JournalSettings
from engine.journal.tenants import open_journal
from tests.faults.holder import RUN, TENANT

NOBODY: Final = 65_534
ANOTHER: Final = tenant_id("another")


async def is_refused(directory: Path) -> None:
    with pytest.raises(StorageFailed) as caught:
        async with open_journal(directory, JournalSettings()):
            pass
    assert str(directory) in caught.value.message
    assert "--data-dir" in caught.value.message, "says what to do"


async def tenant_is_refused(directory: Path) -> None:
    """The directory is ours, one tenant's folder is not: that tenant is refused, others are not."""
    async with open_journal(directory, JournalSettings()) as journal:
        with pytest.raises(EngineError) as caught:
            await journal.pin(TENANT)
        assert f"tenant={TENANT}" in caught.value.message
        assert (await journal.pin(ANOTHER)).open_segment(RUN).read() == []


async def warm_up(directory: Path) -> None:
    """Import all there is, as long as the interpreter's own files can be read."""
    async with open_journal(directory, JournalSettings()) as journal:
        (await journal.pin(TENANT)).open_segment(RUN).read()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(2):  # the second time there is something to read
            trio.run(warm_up, Path(scratch))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    for name in (
        "read-only",
        "in-read-only/new",
        "unreadable",
        "format-unreadable",
        "lock-foreign",
    ):
        trio.run(is_refused, folder / name)
    trio.run(tenant_is_refused, folder / "tenant-foreign")
