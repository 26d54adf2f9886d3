"""What the records of the fault tests say, derived from (seed, run, offset).

Whoever knows those three can say what must be on the disk, so a writer reports positions and never
payloads. Knows no journal and no process.
"""

from __future__ import annotations

import hashlib
from typing import Final

from engine.base.ids import RunId, TenantId, tenant_id
from engine.model.records import NewRecord, RecordKind

TENANTS: Final[tuple[TenantId, ...]] = (tenant_id("first"), tenant_id("second"))

_LARGE_PAYLOAD_BYTES_MAX: Final = 40_000  # longer than a block of the WAL, so it is cut in pieces


def run_of(seed: int, tenant: TenantId, number: int) -> RunId:
    name = f"{seed}/{tenant}/{number}".encode()
    return RunId(hashlib.blake2b(name, digest_size=16).digest())


def record_at(seed: int, run: RunId, offset: int) -> NewRecord:
    """The one record that may stand at this place."""
    digest = hashlib.blake2b(b"%d/%d" % (seed, offset), key=run).digest()
    number = int.from_bytes(digest[:8], "big")
    length = number % 300
    if number % 251 == 0:
        length = number % _LARGE_PAYLOAD_BYTES_MAX
    elif number % 31 == 0:
        length = 0
    return NewRecord(
        kind=RecordKind(1 + digest[8] % len(RecordKind)),
        payload=(digest * (length // len(digest) + 1))[:length],
        timestamp_us=int.from_bytes(digest[9:16], "big"),
    )
