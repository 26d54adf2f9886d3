"""The service that makes room: gate 2 before a hot copy is deleted, and the end of all else.

A hot copy goes when its batch is acknowledged, the hot retention is over and no parent that is
still open may ask for it. Idempotency entries go after their time, archived days after theirs, and
the objects that a compaction replaced after a grace. Knows nothing of how a batch came to be.
"""

from __future__ import annotations

from typing import Final

import msgspec

from engine.archive.batches import ENDED_BYTES, Batch, BatchState, ended_ms, ended_of
from engine.archive.rows.reading import Pacer
from engine.archive.steps import Step
from engine.archive.tenant import Emptied, TenantArchive, days_kept_from
from engine.base import limits
from engine.base.ids import RunId, run_created_ms
from engine.core.state import decode_state
from engine.journal.layout import (
    EXPIRY_TAG,
    OPEN_RUN_TAG,
    RUN_TAG,
    open_run_key,
    run_key,
    split_expiry_key,
)
from engine.journal.store import StoreSnapshot

# Ids of new runs are of the present, also if the clock is set back by less than this meanwhile.
_SETTLED_AFTER_MS: Final = 60_000
# Of a batch whose runs ended over hours, a share of this size is due before its row is rewritten.
_SHARES: Final = 8
# Of what is still hot, a share of this size has gone before the journal is compacted.
_SHARE_GONE: Final = 4


class Retained(msgspec.Struct, frozen=True, kw_only=True):
    """What one look deleted."""

    hot_runs: int = 0
    idempotency_entries: int = 0
    batches: int = 0


async def retain(archive: TenantArchive) -> Retained:
    async with archive.alone():
        entries = await _expire_idempotency(archive)
        await _retire_old_days(archive)
        hot_runs = await _delete_hot_copies(archive)
        await _give_room_back(archive, hot_runs)
        batches = await sweep_retired(archive)
        return Retained(hot_runs=hot_runs, idempotency_entries=entries, batches=batches)


# ---- hot copies ----


async def _delete_hot_copies(archive: TenantArchive) -> int:
    hot_runs = 0
    kept = archive.manifest.of_state(BatchState.ACKNOWLEDGED)
    archive.held &= {batch.batch_id for batch in kept}
    for batch in kept:
        if deleted := await _delete_hot(archive, batch):
            hot_runs += deleted
            archive.emptied.add(batch, deleted)
    return hot_runs


async def _give_room_back(archive: TenantArchive, deleted: int) -> None:
    """Compacting is a rewriting of what stays, so it waits until enough has gone."""
    emptied = archive.emptied
    hot_runs = sum(
        len(batch.hot) // ENDED_BYTES
        for batch in archive.manifest.of_state(BatchState.ACKNOWLEDGED)
    )
    if deleted and emptied.runs >= max(limits.archive_hint_runs_min, hot_runs // _SHARE_GONE):
        archive.emptied = Emptied()
        await archive.in_thread(
            archive.journal.hint_compaction, RunId(emptied.first_run), RunId(emptied.last_run)
        )


async def _delete_hot(archive: TenantArchive, batch: Batch) -> int:
    before_ms = archive.clock.now_ms() - archive.settings.hot_retention_s * 1_000
    if not batch.hot or batch.from_ms > before_ms:
        return 0
    chunks, kept = await archive.in_thread(_deletable, archive, batch, before_ms)
    deleted = 0
    for number, neighbours in enumerate(chunks, 1):
        # The row is written anew with the last of them only: of a compacted batch it is large. Runs
        # that it has and that are gone are taken out the next time.
        changed = None
        if number == len(chunks):
            changed = batch = msgspec.structs.replace(batch, hot=kept)
        await archive.manifest.write_deletion(changed, neighbours)
        archive.on_step(Step.DELETED_SOME)
        deleted += sum(map(len, neighbours))
    if deleted:
        archive.on_step(Step.DELETED_HOT)
    if batch.hot and batch.to_ms <= before_ms:
        archive.held.add(batch.batch_id)
    else:
        archive.held.discard(batch.batch_id)
    return deleted


def _deletable(
    archive: TenantArchive, batch: Batch, before_ms: int
) -> tuple[list[list[list[RunId]]], bytes]:
    """The runs to delete, beside each other where nothing lies between, in writes of a bounded
    number of runs; and what the batch has in the hot tier then."""
    snapshot = archive.journal.snapshot()
    hot = ended_of(batch.hot)
    due = [one for one in hot if ended_ms(one) <= before_ms]
    if batch.to_ms > before_ms and len(due) * _SHARES < len(hot):
        return [], batch.hot
    pacer = archive.pacer
    runs: list[RunId] = []
    for one in due:
        if _may_go(snapshot, RunId(one[8:])):
            runs.append(RunId(one[8:]))
        pacer.worked(limits.archive_slice_bytes_max // limits.archive_slice_runs_max)
    gone = set(runs)
    kept = b"".join(one for one in hot if one[8:] not in gone)
    chunks: list[list[list[RunId]]] = []
    count = limits.archive_delete_runs_max
    settled_ms = archive.clock.now_ms() - _SETTLED_AFTER_MS
    for group in neighbours_of(snapshot, runs, settled_ms, pacer):
        for at in range(0, len(group), limits.archive_delete_runs_max):
            part = group[at : at + limits.archive_delete_runs_max]
            if count + len(part) > limits.archive_delete_runs_max:
                chunks.append([])
                count = 0
            chunks[-1].append(part)
            count += len(part)
    return chunks, kept


def _may_go(snapshot: StoreSnapshot, run: RunId) -> bool:
    """Not while its parent is open: a parent that is loaded looks at how its children ended."""
    row = snapshot.row(run_key(run))
    if row is None:
        return True  # an earlier try got so far
    parent = decode_state(row).parent_run_id
    return not parent or snapshot.row(open_run_key(parent)) is None


def neighbours_of(
    snapshot: StoreSnapshot, runs: list[RunId], settled_ms: int, pacer: Pacer
) -> list[list[RunId]]:
    """The runs in groups between whose first and last no other run is, nor can come to be.

    What can still come between is a child of an open run, which has its millisecond, or a new run,
    which has one of the present: `settled_ms` is safely before that.
    """
    if not runs:
        return []
    runs = sorted(runs)
    doomed = set(runs)
    first, last = runs[0], runs[-1]
    staying = set(_keys_between(snapshot, RUN_TAG, first, last, pacer)) - doomed
    # Whole milliseconds, also of those at either end.
    lowest, highest = RunId(first[:6] + b"\x00" * 10), RunId(last[:6] + b"\xff" * 10)
    open_runs = _keys_between(snapshot, OPEN_RUN_TAG, lowest, highest, pacer)
    open_moments = {run[:6] for run in open_runs}
    barriers = sorted(staying | open_moments)
    groups: list[list[RunId]] = []
    passed = 0
    was_alone = True
    for run in runs:
        before = passed
        while passed < len(barriers) and barriers[passed] < run:
            passed += 1
        is_alone = run[:6] in open_moments or run_created_ms(run) >= settled_ms
        if was_alone or is_alone or passed > before:
            groups.append([])
        groups[-1].append(run)
        was_alone = is_alone
    return groups


def _keys_between(
    snapshot: StoreSnapshot, tag: bytes, first: RunId, last: RunId, pacer: Pacer
) -> list[bytes]:
    found: list[bytes] = []
    for key, _ in snapshot.rows(tag, tag + first):
        if key[1:] > last:
            break
        found.append(key[1:])
        pacer.worked(0)
    return found


# ---- idempotency ----


async def _expire_idempotency(archive: TenantArchive) -> int:
    before_ms = archive.clock.now_ms() - archive.settings.idempotency_retention_s * 1_000
    expired = await archive.in_thread(_expired, archive, before_ms)
    for at in range(0, len(expired), limits.archive_delete_runs_max):
        part = expired[at : at + limits.archive_delete_runs_max]
        await archive.journal.write_rows([(key, None) for key in part])
    return len(expired) // 2


def _expired(archive: TenantArchive, before_ms: int) -> list[bytes]:
    """Keys of entries and of what told of their age, beside each other."""
    keys: list[bytes] = []
    for key, _ in archive.journal.snapshot().rows(EXPIRY_TAG):
        made_ms, entry_key = split_expiry_key(key)
        if made_ms > before_ms or len(keys) >= 2 * limits.archive_expiries_per_pass_max:
            break
        keys += (key, entry_key)
    return keys


# ---- the cold tier ----


async def _retire_old_days(archive: TenantArchive) -> None:
    now_ms = archive.clock.now_ms()
    kept_from = days_kept_from(archive.settings, archive.tenant_id, now_ms)
    if kept_from is None:
        return
    old = [
        msgspec.structs.replace(batch, state=BatchState.RETIRED, retired_ms=now_ms)
        for batch in archive.manifest.of_state(BatchState.ACKNOWLEDGED)
        if batch.day < kept_from and not batch.hot
    ]
    if old:
        await archive.manifest.write(old)


async def sweep_retired(archive: TenantArchive) -> int:
    """Delete the objects that nobody reads any more, then what is known of them."""
    now_ms = archive.clock.now_ms()
    grace_ms = archive.settings.replaced_grace_s * 1_000
    swept = 0
    retired = archive.manifest.of_state(BatchState.RETIRED)
    # The oldest first: what was replaced twice is gone before the batch that says so of it.
    for batch in sorted(retired, key=lambda one: (one.retired_ms, one.batch_id)):
        if batch.retired_ms + grace_ms > now_ms:
            continue
        await archive.request(archive.store.delete, archive.keys_of(batch))
        archive.on_step(Step.RETIRED_DELETED)
        await archive.manifest.write([], removed=[batch.batch_id])
        archive.on_step(Step.RETIRED_FORGOTTEN)
        swept += 1
    return swept
