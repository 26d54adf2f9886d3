"""Builds what is behind the journal, the archive and the query tier, from the settings."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from engine.archive.archive import Archive, open_archive
from engine.archive.files.interchange import stream_of
from engine.base.clock import Clock, system_clock
from engine.base.ids import TenantId
from engine.config.settings import Settings
from engine.query.pool import open_pool
from engine.query.ports import StoreAccess
from engine.query.query import QueryTier
from engine.runtime.reading.tiers import Tiers

_log: Final = logging.getLogger(__name__)


@asynccontextmanager
async def open_tiers(settings: Settings, clock: Clock = system_clock) -> AsyncIterator[Tiers]:
    """Around the engine that they follow: they are there before its first tenant opens and go after
    its last one has closed."""
    async with (
        open_archive(settings.archive, Path(settings.data_dir), clock) as archive,
        open_pool(settings.query, access_of(archive)) as pool,
    ):

        def report_unreadable(tenant: TenantId, file: str, reason: str) -> None:
            _log.warning("tenant %s: %s cannot be read: %s", tenant, file, reason)
            archive.tenant(tenant).report_unreadable(file, reason)

        query = QueryTier(pool, settings.query, report_unreadable, stream_of, clock)
        yield Tiers(archive, query)


def access_of(archive: Archive) -> StoreAccess:
    """How the query tier gets at the same objects."""
    root = archive.store.shown_url
    access = archive.access
    if access is None:
        return StoreAccess(root=root)
    return StoreAccess(
        root=root,
        endpoint=access.endpoint,
        access_key=access.access_key,
        secret_key=access.secret_key,
        session_token=access.session_token,
        region=access.region,
        path_style=access.path_style,
        secure=access.secure,
        ca_file=access.ca_file,
    )
