"""Deletes everything that a tenant has in the store. Blocking. Knows no manifest: what the journal
of the tenant says of its batches goes with the journal.
"""

from __future__ import annotations

import itertools

from engine.archive.rows.schema import DATA_SETS
from engine.archive.store.stores import ObjectStore
from engine.base import limits
from engine.base.ids import TenantId


def delete_objects(store: ObjectStore, tenant: TenantId) -> int:
    """How many there were. Whatever stops it: do it again."""
    deleted = 0
    for name in DATA_SETS:
        found = store.list(f"{name}/tenant={tenant}/")
        while keys := [
            entry.key for entry in itertools.islice(found, limits.archive_delete_runs_max)
        ]:
            store.delete(keys)
            deleted += len(keys)
    return deleted
