"""Opens a data directory and its archive for a command, as a runtime would: none can be up beside
it. Starts no service: only what the command asks for is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import outcome

from engine.archive.archive import Archive, open_archive
from engine.base.errors import DirectoryInUse
from engine.config.settings import Settings
from engine.journal.tenants import Journal, open_journal

T = TypeVar("T")


async def with_archive(settings: Settings, work: Callable[[Journal, Archive], Awaitable[T]]) -> T:
    data_dir = Path(settings.data_dir)
    try:
        async with (
            open_journal(data_dir, settings.journal) as journal,
            open_archive(settings.archive, data_dir, services=False) as archive,
        ):
            # Carried out of the nurseries by hand, which would wrap an error.
            found = await outcome.acapture(work, journal, archive)
    except DirectoryInUse as error:
        raise DirectoryInUse(
            f"{error.message}. Stop that runtime first: what it knows of its tenants and of the "
            "archive is about to change",
            **error.details,
        ) from error
    return found.unwrap()
