"""Lets every tenant be opened once more, after a restore or a salvage of the system store.

A tenant's next timer is in its own store, and when to open that store is in the system store. The
two were copied, or lost, at different moments; opening each tenant once puts them right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from engine.base.limits import MIB
from engine.journal.layout import tenants_on_disk
from engine.journal.store import StoreResources
from engine.journal.system import SystemStore

_AT_ONCE_MS: Final = 0


def wake_tenants(data_dir: Path) -> int:
    """Make every tenant due at once; how many. No runtime may have the directory open."""
    resources = StoreResources(block_cache_bytes=1 * MIB, write_buffer_bytes=4 * MIB)
    system = SystemStore(data_dir, resources)
    try:
        tenants = tenants_on_disk(data_dir)
        for tenant in tenants:
            system.set_wake(tenant, _AT_ONCE_MS)
        return len(tenants)
    finally:
        system.close()
