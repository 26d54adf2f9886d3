"""What `engine archive rehydrate` does: a data directory learns what its archive holds.

Opens the directory as a runtime would, so none can be up beside it. What a batch is, and when one
is left out, is decided in `engine/archive/rehydrate.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import outcome
import trio

from engine.archive.archive import Archive, open_archive
from engine.base.errors import DirectoryInUse
from engine.base.ids import TenantId, tenant_id
from engine.config.settings import Settings
from engine.journal.tenants import Journal, open_journal

_FOLDER: Final = "tenant="


class TenantRehydrated(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one tenant, and what of it could not be used."""

    tenant_id: str
    batches: int
    runs: int
    problems: tuple[str, ...]


async def rehydrate(settings: Settings, tenants: Sequence[str]) -> list[TenantRehydrated]:
    """Of these tenants, or of every tenant that the archive has."""
    data_dir = Path(settings.data_dir)
    try:
        async with (
            open_journal(data_dir, settings.journal) as journal,
            open_archive(settings.archive, data_dir, services=False) as archive,
        ):
            # Carried out of the nurseries by hand, which would wrap an error.
            found = await outcome.acapture(_rehydrate, journal, archive, tenants)
    except DirectoryInUse as error:
        raise DirectoryInUse(
            f"{error.message}. Stop that runtime first: what it knows of the archive is about to "
            "change",
            **error.details,
        ) from error
    return found.unwrap()


async def _rehydrate(
    journal: Journal, archive: Archive, tenants: Sequence[str]
) -> list[TenantRehydrated]:
    await archive.check()
    wanted = [tenant_id(name) for name in tenants]
    if not wanted:
        wanted = await trio.to_thread.run_sync(tenants_in, archive)
    return [await _rehydrate_tenant(journal, archive, tenant) for tenant in wanted]


def tenants_in(archive: Archive) -> list[TenantId]:
    return [
        tenant_id(folder.removeprefix(_FOLDER))
        for folder in archive.store.list_folders("runs")
        if folder.startswith(_FOLDER)
    ]


async def _rehydrate_tenant(
    journal: Journal, archive: Archive, tenant: TenantId
) -> TenantRehydrated:
    async with journal.use(tenant) as opened:
        archive.tenant_opened(opened)
        try:
            found = await archive.rehydrate(tenant)
        finally:
            await archive.tenant_closing(tenant)
    return TenantRehydrated(
        tenant_id=tenant, batches=found.batches, runs=found.runs, problems=found.problems
    )
