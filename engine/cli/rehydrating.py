"""What `engine archive rehydrate` does: a data directory learns what its archive holds.

What a batch is, and when one is left out, is decided in `engine/archive/files/rehydrate.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from engine.archive.archive import Archive
from engine.base.ids import TenantId, tenant_id
from engine.cli.offline import with_archive
from engine.config.settings import Settings
from engine.journal.tenants import Journal

_FOLDER: Final = "tenant="


class TenantRehydrated(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one tenant, and what of it could not be used."""

    tenant_id: str
    batches: int
    runs: int
    problems: tuple[str, ...]


async def rehydrate(settings: Settings, tenants: Sequence[str]) -> list[TenantRehydrated]:
    """Of these tenants, or of every tenant that the archive has."""
    return await with_archive(settings, functools.partial(_rehydrate, tenants))


async def _rehydrate(
    tenants: Sequence[str], journal: Journal, archive: Archive
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
