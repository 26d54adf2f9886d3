"""The manifest: one row per batch, from the decision to make it to the deletion of its objects.

PLANNED is written before anything is uploaded, and with it the names of the objects, so that a
retry writes the same ones. ACKNOWLEDGED is written in the same WriteBatch that takes the runs out
of the finished ones: a run is on one side at every moment. RETIRED objects were replaced by a
compacted one or are too old; nobody begins to read them, and they are deleted after a grace. Knows
no Parquet and no store.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from engine.base import limits
from engine.base.ids import RUN_ID_BYTES, RunId, TenantId, run_created_ms
from engine.journal.layout import BATCH_TAG, FINISHED_TAG, batch_key
from engine.journal.store import StoreSnapshot
from engine.journal.tenant import TenantJournal

# When it ended (ms, big-endian) and the run's id: the key of a finished row, without its tag.
ENDED_BYTES: Final = 8 + RUN_ID_BYTES
# Made so long before the most of its batch, a run is listed and not reached by the range of ids.
_OUTLIER_MS: Final = 10 * 60_000


class BatchState(enum.IntEnum):
    PLANNED = 1
    ACKNOWLEDGED = 2
    RETIRED = 3


class ObjectFact(msgspec.Struct, frozen=True, array_like=True):
    bytes: int
    rows: int
    checksum: int = 0  # CRC-32C of the whole object; 0: not known


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Stored as an array: a new field goes to the end."""

    batch_id: str
    state: BatchState
    day: str
    runs: int
    planned_ms: int
    # The runs whose hot copy is still there: ENDED_BYTES for each.
    hot: bytes = b""
    acknowledged_ms: int = 0
    retired_ms: int = 0
    objects: dict[str, ObjectFact] = msgspec.field(default_factory=dict)
    # When the first and the last of them ended.
    from_ms: int = 0
    to_ms: int = 0
    # For a lookup: the ids lie in this range, except for the outliers (RUN_ID_BYTES for each).
    first_run: bytes = b""
    last_run: bytes = b""
    outliers: bytes = b""
    # Of a compacted batch: whose place it takes.
    replaces: tuple[str, ...] = ()

    def key(self, tenant: TenantId, data_set: str) -> str:
        return object_key(tenant, data_set, self.day, self.batch_id)

    @property
    def stored_bytes(self) -> int:
        return sum(fact.bytes for fact in self.objects.values())

    def may_have(self, run: RunId) -> bool:
        if self.first_run <= run <= self.last_run:
            return True
        at = self.outliers.find(run)
        while at > 0 and at % RUN_ID_BYTES:
            at = self.outliers.find(run, at + 1)
        return at >= 0

    def hot_runs(self) -> list[RunId]:
        return [RunId(one[8:]) for one in ended_of(self.hot)]


def object_key(tenant: TenantId, data_set: str, day: str, batch_id: str) -> str:
    return f"{data_set}/tenant={tenant}/day={day}/{data_set}-{batch_id}.parquet"


def day_of(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1_000, UTC).strftime("%Y-%m-%d")


def day_begins_ms(day: str) -> int:
    return int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1_000


def ended_of(blob: bytes) -> list[bytes]:
    return [blob[at : at + ENDED_BYTES] for at in range(0, len(blob), ENDED_BYTES)]


def ended_ms(one: bytes) -> int:
    return int.from_bytes(one[:8], "big")


class IdRange(msgspec.Struct, frozen=True):
    first_run: bytes
    last_run: bytes
    outliers: bytes


def id_range(runs: Iterable[RunId]) -> IdRange:
    """Where the ids of a batch lie: most of them are of about its time, and the few that are much
    older (runs of days) are listed, so that the range of the others stays narrow."""
    ids = sorted(runs)
    typical_ms = run_created_ms(ids[len(ids) // 2])
    old = sum(1 for run in ids[: limits.archive_outliers_max + 1] if _is_old(run, typical_ms))
    if old > limits.archive_outliers_max:
        old = 0
    return IdRange(bytes(ids[old]), bytes(ids[-1]), b"".join(ids[:old]))


def joint_range(batches: Sequence[Batch]) -> IdRange:
    """Of several batches together; nothing is read for it."""
    first = min(batch.first_run for batch in batches)
    last = max(batch.last_run for batch in batches)
    blobs = [batch.outliers for batch in batches]
    outliers = sorted(
        blob[at : at + RUN_ID_BYTES] for blob in blobs for at in range(0, len(blob), RUN_ID_BYTES)
    )
    outliers = [run for run in outliers if not first <= run <= last]
    if len(outliers) > limits.archive_outliers_max:
        return IdRange(min(first, outliers[0]), max(last, outliers[-1]), b"")
    return IdRange(first, last, b"".join(outliers))


def _is_old(run: RunId, typical_ms: int) -> bool:
    return run_created_ms(run) < typical_ms - _OUTLIER_MS


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Batch)


def encode_batch(batch: Batch) -> bytes:
    return _ENCODER.encode(batch)


def decode_batch(row: bytes) -> Batch:
    return _DECODER.decode(row)


class Manifest:
    """A tenant's batches, in memory as they are on the disk.

    While a change is on its way to the disk nobody can say from memory whether it is there; of such
    a batch a reader looks at the row in its own snapshot.
    """

    def __init__(self, journal: TenantJournal) -> None:
        self._journal = journal
        self._batches: dict[str, Batch] = {}
        self._changing: set[str] = set()
        for _, row in journal.rows(BATCH_TAG):
            batch = decode_batch(row)
            self._batches[batch.batch_id] = batch

    def of_state(self, state: BatchState) -> list[Batch]:
        self._settle()
        return [batch for batch in self._batches.values() if batch.state is state]

    def get(self, batch_id: str) -> Batch | None:
        self._settle()
        return self._batches.get(batch_id)

    def acknowledged_in(self, snapshot: StoreSnapshot) -> Iterator[Batch]:
        """The batches that hold runs, at the moment of the snapshot."""
        for batch_id in self._batches.keys() | self._changing:
            batch = self._batches.get(batch_id)
            if batch_id in self._changing:
                row = snapshot.row(batch_key(batch_id))
                batch = None if row is None else decode_batch(row)
            if batch is not None and batch.state is BatchState.ACKNOWLEDGED:
                yield batch

    async def write(
        self,
        changed: Sequence[Batch],
        *,
        removed: Sequence[str] = (),
        no_longer_finished: Sequence[bytes] = (),
        rows: Sequence[tuple[bytes, bytes | None]] = (),
    ) -> None:
        """All of it in one WriteBatch, durable when this returns."""
        changes: list[tuple[bytes, bytes | None]] = [*self.rows_of(changed, removed), *rows]
        changes += [(FINISHED_TAG + one, None) for one in no_longer_finished]
        with self.changing(changed, removed):
            await self._journal.write_rows(changes)

    async def write_deletion(
        self, changed: Batch | None, neighbours: Sequence[Sequence[RunId]]
    ) -> None:
        """The hot copies go and, if it has changed, the row that says so, in one WriteBatch."""
        changes = [] if changed is None else [changed]
        with self.changing(changes, []):
            await self._journal.delete_runs(neighbours, self.rows_of(changes, []))

    @staticmethod
    def rows_of(
        changed: Sequence[Batch], removed: Sequence[str]
    ) -> list[tuple[bytes, bytes | None]]:
        rows: list[tuple[bytes, bytes | None]] = [
            (batch_key(batch.batch_id), encode_batch(batch)) for batch in changed
        ]
        return [*rows, *((batch_key(batch_id), None) for batch_id in removed)]

    def changing(self, changed: Sequence[Batch], removed: Sequence[str]) -> _Change:
        return _Change(self, changed, removed)

    def _settle(self) -> None:
        """After a write that failed: what the disk has. Only who changes the manifest asks, one
        at a time, so that nothing is on its way then."""
        for batch_id in list(self._changing):
            row = self._journal.row(batch_key(batch_id))
            if row is None:
                self._batches.pop(batch_id, None)
            else:
                self._batches[batch_id] = decode_batch(row)


class _Change:
    """From before the write until the disk has it. After a failure it is open for good what the
    disk has, and it goes on being looked up there."""

    def __init__(
        self, manifest: Manifest, changed: Sequence[Batch], removed: Sequence[str]
    ) -> None:
        self._manifest = manifest
        self._changed = changed
        self._removed = removed

    def __enter__(self) -> None:
        self._manifest._changing.update(batch.batch_id for batch in self._changed)
        self._manifest._changing.update(self._removed)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            return
        batches, changing = self._manifest._batches, self._manifest._changing
        for batch in self._changed:
            batches[batch.batch_id] = batch
            changing.discard(batch.batch_id)
        for batch_id in self._removed:
            batches.pop(batch_id, None)
            changing.discard(batch_id)
