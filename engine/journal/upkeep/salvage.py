"""Keeps what can still be read of a damaged store, and says what is lost.

The damaged store is not touched: what can be read of it is written to a new store beside it, the
new one is verified, and only then do the two change places. The damaged one stays, as
`records.rocksdb.damaged-1`. Of each run the records up to the first gap are kept, so that offsets
follow each other again; what lies behind a gap is in the damaged store only.

Every whole record of the log files is used, also behind a damaged place. RocksDB's own repair is
the second choice, since it leaves out a table of which one block is damaged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Final

import msgspec

from engine.base.errors import EngineError, MalformedRecord, StorageDamaged, StorageFailed
from engine.base.ids import RUN_ID_BYTES, TenantId, run_id_text
from engine.base.limits import MIB
from engine.ext.append import PendingBatch, SegmentHead
from engine.ext.offsets import record_key
from engine.journal.directory import DataDirectory
from engine.journal.durable import sync_folder, sync_tree
from engine.journal.faults import damaged
from engine.journal.layout import (
    HEAD_TAG,
    OPEN_RUN_TAG,
    RUN_TAG,
    encode_head,
    head_key,
    store_path,
    system_path,
)
from engine.journal.logfile import whole_records, write_log
from engine.journal.store import OpenMode, Store, StoreResources, salvage_tables
from engine.journal.upkeep.inspect import chosen_tenants, require_data_dir, verify_store
from engine.journal.upkeep.readable import StoredRun, readable_rows, stored_runs
from engine.journal.upkeep.soundness import (
    CheckedRecords,
    Problem,
    RunStates,
    SummaryStates,
    keeps_states,
    speaks_for,
)
from engine.journal.upkeep.waking import wake_tenants
from engine.journal.wal import salvaged_path

_BATCH_BYTES: Final = 4 * MIB
_LOSSES_MAX: Final = 10_000
_RUN_ROW_TAGS: Final = (HEAD_TAG, OPEN_RUN_TAG, RUN_TAG)
_CONTENT_SUFFIXES: Final = (".log", ".sst")
# What the new store does not need: the lock, and RocksDB's own diary.
_LEFT_OUT: Final = ("LOCK", "LOG")


class RunLoss(msgspec.Struct, frozen=True):
    """A run of which not everything could be kept."""

    run_id: str
    first_offset: int
    next_offset: int  # the first record that is lost
    records_dropped: int  # were readable, but lay behind the gap
    state: str  # what became of its state: none, kept, made anew, dropped
    why: str


class SalvageReport(msgspec.Struct, frozen=True):
    tenant_id: str | None  # None: the system store
    store: str
    damaged_store: str | None  # where the damaged store is now; None: nothing was damaged
    # A run whose last records went with their state has no gap: nobody can say that they were.
    may_have_lost: bool = False
    runs: int = 0
    records: int = 0
    rows: int = 0
    states_made_anew: int = 0
    loss_count: int = 0
    losses: tuple[RunLoss, ...] = ()
    damages: tuple[Problem, ...] = ()


def salvage(
    data_dir: Path, tenant: TenantId | None, *, states: RunStates | None = None
) -> SalvageReport:
    """Salvage a tenant's store, or with None the system store. Refused while a runtime is up."""
    require_data_dir(data_dir)
    path = system_path(data_dir)
    if tenant is not None:
        path = store_path(data_dir, chosen_tenants(data_dir, tenant)[0])
    directory = DataDirectory(data_dir)
    try:
        report = _Salvage(path, tenant, states or SummaryStates()).run()
        if tenant is None and report.damaged_store is not None:
            wake_tenants(data_dir)  # who sleeps until when may be among what was lost
        return report
    finally:
        directory.close()


class _Salvage:
    def __init__(self, path: Path, tenant: TenantId | None, states: RunStates) -> None:
        self._path = path
        self._tenant = tenant
        self._states = states
        self._copy = path.with_name(f"{path.name}.reading")
        self._new = salvaged_path(path)
        self._is_repaired = False
        self._damages: dict[Problem, None] = {}

    def run(self) -> SalvageReport:
        self._undo_interrupted()
        found = verify_store(self._path, self._tenant, states=self._states)
        if found.is_sound:
            return SalvageReport(
                tenant_id=self._tenant,
                store=str(self._path),
                damaged_store=None,
                runs=found.runs,
                records=found.records,
                rows=found.rows,
            )
        for problem in found.problems:
            if problem.file is not None:
                self._damages[problem] = None
        try:
            kept = self._keep_what_can_be_read()
            self._check()
            aside = self._change_places()
        finally:
            for folder in (self._copy, self._new):
                shutil.rmtree(folder, ignore_errors=True)
        return SalvageReport(
            tenant_id=self._tenant,
            store=str(self._path),
            damaged_store=str(aside),
            may_have_lost=kept.loss_count > 0
            or any((damage.file or "").endswith(_CONTENT_SUFFIXES) for damage in self._damages),
            runs=kept.runs,
            records=kept.records,
            rows=kept.rows,
            states_made_anew=kept.states_made_anew,
            loss_count=kept.loss_count,
            losses=tuple(kept.losses),
            damages=tuple(self._damages),
        )

    def _undo_interrupted(self) -> None:
        """Back to before a salvage that was interrupted: the store stands where it stood."""
        is_gone = not self._path.exists() or not any(self._path.iterdir())
        if is_gone and self._new.exists() and (latest := self._set_aside()):
            latest[-1].rename(self._path)
        for folder in (self._copy, self._new):
            shutil.rmtree(folder, ignore_errors=True)

    def _set_aside(self) -> list[Path]:
        """Stores that were salvaged before, the latest last."""
        found = self._path.parent.glob(f"{self._path.name}.damaged-*")
        return sorted(found, key=lambda folder: int(folder.name.rpartition("-")[2]))

    def _keep_what_can_be_read(self) -> _NewStore:
        copy_to_read(self._path, self._copy)
        damages = len(self._damages)
        try:
            kept = self._copy_runs_and_rows()
        except (StorageDamaged, StorageFailed) as error:
            self._take_damage(error)
        else:
            if kept.records or len(self._damages) == damages:
                return kept
        # The second choice: a new catalogue of the tables that RocksDB finds whole.
        plant_rows_table(self._copy)
        salvage_tables(self._copy)
        self._is_repaired = True
        return self._copy_runs_and_rows()

    def _copy_runs_and_rows(self) -> _NewStore:
        shutil.rmtree(self._new, ignore_errors=True)
        store = Store(self._copy, _resources(), OpenMode.READ_ONLY)
        try:
            self._new.mkdir()
            new = _NewStore(self._new, store, self._states)
            try:
                damages = len(self._damages)
                self._copy_rows(store, new)
                new.states_are_owed = self._states_are_owed(store, len(self._damages) > damages)
                if self._tenant is not None:
                    self._copy_runs(store, new)
            finally:
                new.close()
        finally:
            store.close()
        return new

    def _states_are_owed(self, store: Store, rows_are_damaged: bool) -> bool:
        """Whether a run without a state is to get one. Where rows are lost, nobody knows whether
        they were among them; one too many does no harm."""
        if rows_are_damaged or self._is_repaired:
            return self._states.is_complete
        return keeps_states(store, self._states)

    def _copy_rows(self, store: Store, new: _NewStore) -> None:
        """All rows but those that go with a run."""
        for key, value in readable_rows(store, self._take_damage):
            if self._tenant is None or not key.startswith(_RUN_ROW_TAGS):
                new.put_row(key, value)

    def _copy_runs(self, store: Store, new: _NewStore) -> None:
        for stored in stored_runs(store, self._take_damage):
            if len(stored.run) == RUN_ID_BYTES:
                new.put_run(stored)
            else:
                left_out = Problem(f"a key that is not of a run: {stored.run.hex()}")
                self._damages[left_out] = None

    def _take_damage(self, error: EngineError) -> None:
        what = error.message.replace(str(self._copy), str(self._path))
        file = str(error.details.get("file", "")).replace(str(self._copy), str(self._path))
        self._damages[Problem(what, file=file or None)] = None

    def _check(self) -> None:
        sync_tree(self._new)
        report = verify_store(self._new, self._tenant, states=self._states)
        if not report.is_sound:
            raise damaged(
                self._path, f"what could be read does not verify: {report.problems[0].what}"
            )

    def _change_places(self) -> Path:
        earlier = self._set_aside()
        number = int(earlier[-1].name.rpartition("-")[2]) + 1 if earlier else 1
        aside = self._path.with_name(f"{self._path.name}.damaged-{number}")
        self._path.rename(aside)
        # Between these two the tenant cannot be opened: `wal.py` sees that no store is there and a
        # salvaged one is, and asks to salvage again.
        self._new.rename(self._path)
        sync_folder(self._path.parent)
        return aside


class _NewStore:
    """Takes what is kept, in batches, and counts it."""

    def __init__(self, path: Path, source: Store, states: RunStates) -> None:
        self._source = source
        self._states = states
        self._store = Store(path, _resources(), OpenMode.READ_WRITE)
        self._batch = PendingBatch()
        self._batch_bytes = 0
        self.states_are_owed = False
        self.runs = self.records = self.rows = self.states_made_anew = self.loss_count = 0
        self.losses: list[RunLoss] = []

    def put_row(self, key: bytes, value: bytes) -> None:
        self.rows += 1
        self._batch.rows.append((key, value))
        self._count(len(key) + len(value))

    def put_run(self, stored: StoredRun) -> None:
        records = CheckedRecords(stored)
        rows = self._put_records(stored, records)
        first, end = records.head.first_offset, records.next_offset
        if end == first == 0:
            rows = {}  # a state, and nothing that led to it
        is_whole = records.problem is None
        state = _what_became_of(stored.states, rows)
        for key, value in rows.items():
            self.put_row(key, value)
        sealed = records.head.sealed and is_whole
        if sealed or first > 0:
            head = SegmentHead(stored.run, first, end, sealed)
            self.put_row(head_key(stored.run), encode_head(head))
        self.runs += end > first or sealed or first > 0
        self.states_made_anew += state == "made anew"
        if not is_whole or (stored.states and state != "kept"):
            self._take_loss(records, state)

    def _put_records(self, stored: StoredRun, records: CheckedRecords) -> dict[bytes, bytes]:
        """Write the good records; the state rows that go with them."""
        can_make = speaks_for(self._states, stored.states, are_owed=self.states_are_owed)
        if records.head.first_offset == 0 and can_make:
            return self._put_records_and_make_state(stored, records)
        for _ in self._kept(records):
            pass
        return stored.states if records.problem is None else {}

    def _put_records_and_make_state(
        self, stored: StoredRun, records: CheckedRecords
    ) -> dict[bytes, bytes]:
        kept = self._kept(records)
        try:
            rows = self._states.rows_of(stored.run, kept)
        except MalformedRecord as error:
            # The layer above reads more of a record than we do, and cannot follow this one.
            kept.close()
            records.refuse_last(error.message)
            records.drain()
        else:
            return rows
        begin, end = record_key(stored.run, 0), record_key(stored.run, records.next_offset)
        good = self._source.records(begin, end)
        return self._states.rows_of(stored.run, (value for _, value in good))

    def _kept(self, records: CheckedRecords) -> Generator[bytes, None, None]:
        """The good records; each is written once the next is asked for."""
        for value in records:
            key = record_key(records.run, records.next_offset - 1)
            yield value
            self.records += 1
            self._batch.keys.append(key)
            self._batch.values.append(value)
            self._count(len(value))

    def _take_loss(self, records: CheckedRecords, state: str) -> None:
        self.loss_count += 1
        if len(self.losses) >= _LOSSES_MAX:
            return
        first, end = records.head.first_offset, records.next_offset
        self.losses.append(
            RunLoss(
                run_id=run_id_text(records.run),
                first_offset=first,
                next_offset=end,
                records_dropped=records.count - (end - first),
                state=state,
                why=(
                    "its state speaks of records that are not there"
                    if records.problem is None
                    else records.problem.what
                ),
            )
        )

    def _count(self, byte_count: int) -> None:
        self._batch_bytes += byte_count
        if self._batch_bytes >= _BATCH_BYTES:
            self._write()

    def _write(self) -> None:
        self._store.write(self._store.prepare(self._batch), sync=False)
        self._batch = PendingBatch()
        self._batch_bytes = 0

    def close(self) -> None:
        try:
            if not self._batch.is_empty:
                self._write()
            self._store.flush()
        finally:
            self._store.close()


def _resources() -> StoreResources:
    # For each store its own: what was read from one copy of a table would hide another's damage.
    return StoreResources(block_cache_bytes=8 * MIB, write_buffer_bytes=64 * MIB)


def _what_became_of(before: dict[bytes, bytes], after: dict[bytes, bytes]) -> str:
    if before == after:
        return "kept" if before else "none"
    return "made anew" if after else "dropped"


def copy_to_read(path: Path, copy: Path) -> None:
    """A copy of a damaged store for RocksDB to work on: tables are shared, since they are never
    changed, and of the log files every whole record is taken."""
    copy.mkdir()
    for file in sorted(path.iterdir()):
        target = copy / file.name
        if file.suffix == ".sst":
            _link_or_copy(file, target)
        elif file.suffix == ".log":
            write_log(target, whole_records(file))
        elif file.is_file() and not file.name.startswith(_LEFT_OUT):
            shutil.copyfile(file, target)


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)  # a file system without hard links


def plant_rows_table(path: Path) -> None:
    """A table of the rows family, so that a repair knows the family and takes the rows that are in
    the log files only. It holds one deletion of a key that is never used."""
    planted = path.with_name(f"{path.name}.rows")
    shutil.rmtree(planted, ignore_errors=True)
    planted.mkdir()
    try:
        store = Store(planted, _resources(), OpenMode.READ_WRITE)
        batch = PendingBatch()
        batch.rows.append((b"\x00", None))
        store.write(store.prepare(batch), sync=False)
        store.flush()
        store.close()
        for table in planted.glob("*.sst"):
            shutil.copyfile(table, path / f"{_greatest_number(path) + 1:06}.sst")
    finally:
        shutil.rmtree(planted, ignore_errors=True)


def _greatest_number(path: Path) -> int:
    numbers: Iterable[str] = (file.stem.rpartition("-")[2] for file in path.iterdir())
    return max((int(number) for number in numbers if number.isdecimal()), default=0)
