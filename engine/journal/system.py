"""The system store: the few facts that concern more than one tenant, in a small store of its own.

Each tenant's next wake time is here, so that an idle tenant's store can be closed and is opened
again when its next timer is due; keys, quotas and the tenant registry get their tables here. Small,
rarely written, and each write is durable when it returns.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.base.errors import LimitExceeded
from engine.base.ids import TenantId, tenant_id
from engine.base.limits import key_length_max
from engine.ext.append import PendingBatch, PendingQueue
from engine.journal.layout import system_path
from engine.journal.store import OpenMode, Store, StoreResources
from engine.journal.wal import check_wal, cut_unfinished_ends

_log: Final = logging.getLogger(__name__)
_WAKE_TABLE: Final = b"w"  # w + tenant -> due (ms)
_DUE_TABLE: Final = b"d"  # d + due (ms) + tenant -> nothing; the same facts in the order of time
_NAMED_TABLE: Final = b"t"  # t + table name + NUL + key -> value
_DUE: Final = struct.Struct(">Q")


class SystemStore:
    def __init__(self, data_dir: Path, resources: StoreResources) -> None:
        path = system_path(data_dir)
        path.mkdir(parents=True, exist_ok=True)
        self.wal_report = check_wal(path)
        cut = cut_unfinished_ends(self.wal_report)
        if cut is not None:
            _log.warning("%s", cut)
        self._store = Store(path, resources, OpenMode.READ_WRITE)

    # ---- when a tenant must be awake next ----

    def set_wake(self, tenant: TenantId, due_ms: int | None) -> None:
        """The tenant's store must be open at `due_ms`; None: no timer of it is pending."""
        rows: list[tuple[bytes, bytes | None]] = []
        before = self._store.row(_WAKE_TABLE + tenant.encode())
        if before is not None:
            rows.append((_DUE_TABLE + before + tenant.encode(), None))
        if due_ms is None:
            rows.append((_WAKE_TABLE + tenant.encode(), None))
        else:
            packed = _DUE.pack(due_ms)
            rows.append((_WAKE_TABLE + tenant.encode(), packed))
            rows.append((_DUE_TABLE + packed + tenant.encode(), b""))
        self._write(rows)

    def wake_of(self, tenant: TenantId) -> int | None:
        found = self._store.row(_WAKE_TABLE + tenant.encode())
        return None if found is None else int(_DUE.unpack(found)[0])

    def due_tenants(self, now_ms: int) -> Iterator[tuple[int, TenantId]]:
        """Tenants whose wake time has come, earliest first."""
        for key, _ in self._store.rows(_DUE_TABLE):
            due_ms = int(_DUE.unpack_from(key, 1)[0])
            if due_ms > now_ms:
                return
            yield due_ms, tenant_id(key[1 + _DUE.size :].decode())

    def next_wake_ms(self) -> int | None:
        first = next(self._store.rows(_DUE_TABLE), None)
        return None if first is None else int(_DUE.unpack_from(first[0], 1)[0])

    def forget_tenant(self, tenant: TenantId) -> None:
        self.set_wake(tenant, None)

    # ---- tables by name: keys, quotas, registries ----

    def put(self, table: str, key: str, value: bytes) -> None:
        self._write([(_table_key(table, key), value)])

    def delete(self, table: str, key: str) -> None:
        self._write([(_table_key(table, key), None)])

    def get(self, table: str, key: str) -> bytes | None:
        return self._store.row(_table_key(table, key))

    def scan(self, table: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        begin = len(_table_key(table, ""))
        for key, value in self._store.rows(_table_key(table, prefix)):
            yield key[begin:].decode(), value

    # ----

    def checkpoint(self, path: Path) -> int:
        sequence = self._store.sequence_number()
        self._store.checkpoint(path)
        return sequence

    def close(self) -> None:
        self._store.close()

    def _write(self, rows: list[tuple[bytes, bytes | None]]) -> None:
        queue = PendingQueue()
        queue.change_rows(rows, [])
        batch: PendingBatch | None = queue.take()
        assert batch is not None
        self._store.write(self._store.prepare(batch), sync=True)


def _table_key(table: str, key: str) -> bytes:
    assert table.isidentifier()
    encoded = _NAMED_TABLE + table.encode() + b"\x00" + key.encode()
    if len(encoded) > key_length_max:
        raise LimitExceeded(
            f"a key of {len(encoded)} bytes in table {table!r} is over the limit of "
            f"{key_length_max}",
            length=len(encoded),
        )
    return encoded
