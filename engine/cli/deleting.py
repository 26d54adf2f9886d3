"""What `engine tenants` does: which tenants there are, in the data directory and in the archive,
and deleting one from both.

Knows no option and prints nothing.
"""

from __future__ import annotations

import functools

import msgspec
import trio

from engine.archive.archive import Archive
from engine.base.errors import TenantUnknown
from engine.base.ids import tenant_id
from engine.cli.offline import with_archive
from engine.cli.rehydrating import tenants_in
from engine.config.settings import Settings
from engine.journal.tenants import Journal


class TenantFound(msgspec.Struct, frozen=True, kw_only=True):
    tenant_id: str
    in_journal: bool
    in_archive: bool


class TenantDeleted(msgspec.Struct, frozen=True, kw_only=True):
    tenant_id: str
    had_journal: bool
    objects: int


async def find_tenants(settings: Settings) -> list[TenantFound]:
    return await with_archive(settings, _find)


async def delete_tenant(settings: Settings, tenant: str) -> TenantDeleted:
    """From the journal first: if something stops it then, the tenant is gone and the rest is
    cleaning up, which the same command does when it is given again."""
    return await with_archive(settings, functools.partial(_delete, tenant))


async def _find(journal: Journal, archive: Archive) -> list[TenantFound]:
    await archive.check()
    archived = set(await trio.to_thread.run_sync(tenants_in, archive))
    hot = set(journal.tenant_ids())
    return [
        TenantFound(tenant_id=name, in_journal=name in hot, in_archive=name in archived)
        for name in sorted(hot | archived)
    ]


async def _delete(name: str, journal: Journal, archive: Archive) -> TenantDeleted:
    tenant = tenant_id(name)
    # Asked before anything is deleted: a store that is down now would leave half of it.
    await archive.check()
    had_journal = tenant in journal.tenant_ids()
    if had_journal:
        await journal.delete_tenant(tenant)
    objects = await archive.delete_tenant(tenant)
    if not had_journal and not objects:
        raise TenantUnknown(
            f"there is no tenant {name!r}, neither in {journal.path} nor in "
            f"{archive.store.shown_url}; `engine tenants ls` shows which there are",
            tenant_id=name,
        )
    return TenantDeleted(tenant_id=tenant, had_journal=had_journal, objects=objects)
