"""How a tenant's store is laid out: the tags of its rows, the head row, the paths on disk.

    {data_dir}/LOCK                                   who has the directory
    {data_dir}/segments/tenant={id}/records.rocksdb   one database per tenant
    {data_dir}/system/system.rocksdb                  what concerns more than one tenant

Rows of a tenant begin with a tag byte. `h` is the journal's own; the rest belongs to the layers
above, which name it here so that no two take the same one.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from engine.base.errors import InvalidName, LimitExceeded, MalformedRecord
from engine.base.ids import RUN_ID_BYTES, RunId, TenantId, tenant_id
from engine.base.limits import idempotency_key_bytes_max, state_scope_key_bytes_max
from engine.ext.append import SegmentHead

HEAD_TAG: Final = b"h"  # h + run id -> where the segment begins and ends; sealed or trimmed runs
OPEN_RUN_TAG: Final = b"o"  # o + run id -> the state of a run that has not ended
RUN_TAG: Final = b"r"  # r + run id -> the state of a run that has ended
IDEMPOTENCY_TAG: Final = b"i"  # i + project + NUL + key -> run id and digest of the input
EXPIRY_TAG: Final = b"x"  # x + when it was made (ms) + an idempotency row's key -> nothing
FINISHED_TAG: Final = b"f"  # f + when it ended (ms) + run id -> nothing; not yet archived
BATCH_TAG: Final = b"b"  # b + batch id -> what the archive knows of the batch
ARCHIVE_TAG: Final = b"a"  # a + name -> a single fact of the archive
STATE_TAG: Final = b"s"  # s + project + NUL + scope and its key + name -> value that outlives runs

# first offset, next offset, sealed
_HEAD: Final = struct.Struct(">QQB")
# scope, length of the scope's key
_SCOPE: Final = struct.Struct(">BH")
# Milliseconds, big-endian, so that keys are in the order of time.
_TIME: Final = struct.Struct(">Q")


def head_key(run: RunId | bytes) -> bytes:
    return HEAD_TAG + run


def run_key(run: RunId | bytes) -> bytes:
    return RUN_TAG + run


def open_run_key(run: RunId | bytes) -> bytes:
    return OPEN_RUN_TAG + run


def idempotency_key(project: str, key: str) -> bytes:
    encoded = key.encode()
    if not encoded or len(encoded) > idempotency_key_bytes_max:
        raise LimitExceeded(
            f"an idempotency key has 1 to {idempotency_key_bytes_max} bytes, this one has "
            f"{len(encoded)}",
            field="idempotency_key",
        )
    return IDEMPOTENCY_TAG + project.encode() + b"\x00" + encoded


def expiry_key(made_ms: int, entry_key: bytes) -> bytes:
    return EXPIRY_TAG + _TIME.pack(made_ms) + entry_key


def split_expiry_key(key: bytes) -> tuple[int, bytes]:
    """When the idempotency entry was made, and its key."""
    return int(_TIME.unpack_from(key, 1)[0]), key[1 + _TIME.size :]


def state_scope_prefix(project: str, scope: int, scope_key: str) -> bytes:
    """What the keys of all values of one session, user or entity begin with. The key's length
    stands before it, so that no key and name together look like another key and name."""
    encoded = scope_key.encode()
    if len(encoded) > state_scope_key_bytes_max:
        raise LimitExceeded(
            f"the id of a session, user or entity has at most {state_scope_key_bytes_max} bytes to "
            f"keep state under it, this one has {len(encoded)}",
            field="scope_key",
        )
    return STATE_TAG + project.encode() + b"\x00" + _SCOPE.pack(scope, len(encoded)) + encoded


def state_key(project: str, scope: int, scope_key: str, name: str) -> bytes:
    return state_scope_prefix(project, scope, scope_key) + name.encode()


def finished_key(ended_ms: int, run: RunId | bytes) -> bytes:
    return FINISHED_TAG + _TIME.pack(ended_ms) + run


def batch_key(batch_id: str) -> bytes:
    return BATCH_TAG + batch_id.encode()


def archive_key(name: str) -> bytes:
    return ARCHIVE_TAG + name.encode()


def encode_head(head: SegmentHead) -> bytes:
    return _HEAD.pack(head.first_offset, head.next_offset, head.sealed)


def decode_head(run: bytes, value: bytes) -> SegmentHead:
    if len(value) != _HEAD.size or len(run) != RUN_ID_BYTES:
        raise MalformedRecord(f"the head row of run {run.hex()} has {len(value)} bytes")
    first_offset, next_offset, sealed = _HEAD.unpack(value)
    if first_offset > next_offset or sealed > 1:
        raise MalformedRecord(
            f"the head row of run {run.hex()} says it begins at {first_offset} and ends at "
            f"{next_offset}"
        )
    return SegmentHead(run, first_offset, next_offset, bool(sealed))


def segments_path(data_dir: Path) -> Path:
    return data_dir / "segments"


def tenant_path(data_dir: Path, tenant: TenantId) -> Path:
    return segments_path(data_dir) / f"tenant={tenant}"


def store_path(data_dir: Path, tenant: TenantId) -> Path:
    return tenant_path(data_dir, tenant) / "records.rocksdb"


def system_path(data_dir: Path) -> Path:
    return data_dir / "system" / "system.rocksdb"


def lock_path(data_dir: Path) -> Path:
    return data_dir / "LOCK"


def tenants_on_disk(data_dir: Path) -> list[TenantId]:
    """Every tenant that has a store, by name. What is not ours in the folder is passed over."""
    found: list[TenantId] = []
    folder = segments_path(data_dir)
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = entry.name.removeprefix("tenant=")
        if name == entry.name or not entry.is_dir():
            continue
        try:
            found.append(tenant_id(name))
        except InvalidName:
            continue
    return found
