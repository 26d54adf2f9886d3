"""Looks at the stores of a data directory without changing them: verify, stats, dump.

Works beside a runtime that writes and after one that ended, and takes no lock. A damaged place is
reported with its file, and the rest is looked at all the same. What sound means is in
`soundness.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from engine.base.errors import (
    EngineError,
    InvalidSettings,
    JournalBusy,
    MalformedRecord,
    StorageDamaged,
)
from engine.base.ids import RunId, TenantId, run_id_text
from engine.base.limits import MIB
from engine.ext.offsets import decode_record, record_key, split_key
from engine.journal.faults import damaged
from engine.journal.layout import (
    segments_path,
    store_path,
    system_path,
    tenants_on_disk,
)
from engine.journal.store import OpenMode, Store, StoreResources
from engine.journal.tenant import unknown_tenant
from engine.journal.upkeep.readable import Pair, StoredRun, readable_rows, stored_runs
from engine.journal.upkeep.soundness import (
    CheckedRecords,
    Problem,
    RunStates,
    SummaryStates,
    keeps_states,
    speaks_for,
)
from engine.journal.wal import WalReport, check_wal, wal_files
from engine.model.payloads import Payload
from engine.model.records import RecordKind
from engine.wire import journal as payloads

# Beside a writer a file may vanish between two looks; after this many it is not that.
_DAMAGED_LOOKS_MAX: Final = 4
_LOOKS_MAX: Final = 50
_PROBLEMS_MAX: Final = 100
_CACHE_BYTES: Final = 8 * MIB


class StoreReport(msgspec.Struct, frozen=True):
    """What was found in one store. At most so many problems are told, all of them are counted."""

    path: str
    tenant_id: str | None  # None: the system store
    is_sound: bool
    runs: int = 0
    records: int = 0
    rows: int = 0
    wal: WalReport | None = None
    problem_count: int = 0
    problems: tuple[Problem, ...] = ()


class VerifyReport(msgspec.Struct, frozen=True):
    data_dir: str
    is_sound: bool
    stores: tuple[StoreReport, ...]


class StoreStats(msgspec.Struct, frozen=True):
    path: str
    tenant_id: str | None
    disk_bytes: int
    tables: int
    table_bytes: int
    log_files: int
    log_bytes: int
    entries_estimated: int = 0
    sequence_number: int = 0
    trouble: str | None = None  # why it cannot be opened


class DumpedRecord(msgspec.Struct, frozen=True):
    tenant_id: str
    run_id: str
    offset: int
    payload_bytes: int
    kind: str = "?"
    timestamp_us: int = 0
    flags: int = 0
    payload: Payload | None = None  # None: it cannot be decoded, `trouble` says why
    trouble: str | None = None


# ---- verify ----


def verify(
    data_dir: Path, tenant: TenantId | None = None, *, states: RunStates | None = None
) -> VerifyReport:
    """Check every record of every tenant, or of one, and the system store."""
    require_data_dir(data_dir)
    rule = states or SummaryStates()
    tenants = chosen_tenants(data_dir, tenant)
    stores = [verify_tenant(data_dir, each, states=rule) for each in tenants]
    if tenant is None:
        stores.insert(0, verify_store(system_path(data_dir), None, states=rule))
    return VerifyReport(
        data_dir=str(data_dir),
        is_sound=all(report.is_sound for report in stores),
        stores=tuple(stores),
    )


def verify_tenant(
    data_dir: Path, tenant: TenantId, *, states: RunStates | None = None
) -> StoreReport:
    return verify_store(store_path(data_dir, tenant), tenant, states=states or SummaryStates())


def verify_store(path: Path, tenant: TenantId | None, *, states: RunStates) -> StoreReport:
    """Check the store at `path`. Never raises for what is wrong with it: that is the report."""
    check = _StoreCheck(path, tenant, states)
    try:
        with opened_to_read(path) as (store, wal):
            check.run(store, wal)
    except EngineError as error:
        check.take_error(error)
    return check.report()


class _StoreCheck:
    def __init__(self, path: Path, tenant: TenantId | None, states: RunStates) -> None:
        self._path = path
        self._tenant = tenant
        self._states = states
        self._states_are_owed = False
        self._runs = self._records = self._rows = 0
        self._wal: WalReport | None = None
        self._problems: dict[Problem, None] = {}  # a damaged place is met on more than one way
        self._problem_count = 0

    def run(self, store: Store | None, wal: WalReport) -> None:
        self._wal = wal
        if store is None:
            return
        self._rows = sum(1 for _ in readable_rows(store, self.take_error))
        if self._tenant is None:
            return  # the system store keeps no runs
        try:
            self._states_are_owed = keeps_states(store, self._states)
        except StorageDamaged as error:
            self.take_error(error)
        for stored in stored_runs(store, self.take_error):
            self._runs += 1
            for problem in self._check_run(stored):
                self._take(problem)

    def report(self) -> StoreReport:
        return StoreReport(
            path=str(self._path),
            tenant_id=self._tenant,
            is_sound=self._problem_count == 0,
            runs=self._runs,
            records=self._records,
            rows=self._rows,
            wal=self._wal,
            problem_count=self._problem_count,
            problems=tuple(self._problems),
        )

    def take_error(self, error: EngineError) -> None:
        file = error.details.get("file")
        self._take(Problem(error.message, file=None if file is None else str(file)))

    def _take(self, problem: Problem) -> None:
        if problem in self._problems:
            return
        self._problem_count += 1
        if len(self._problems) < _PROBLEMS_MAX:
            self._problems[problem] = None

    def _speaks_for(self, stored: StoredRun) -> bool:
        return speaks_for(self._states, stored.states, are_owed=self._states_are_owed)

    def _check_run(self, stored: StoredRun) -> list[Problem]:
        records = CheckedRecords(stored)
        try:
            if records.head.first_offset == 0 and self._speaks_for(stored):
                rows = self._states.rows_of(stored.run, records)
                if records.problem is None and rows != stored.states:
                    records.fail("the state row is not what the records lead to")
            records.drain()
        except MalformedRecord as error:
            # Met by the states' own fold, which reads more of a record than ours.
            records.refuse_last(error.message)
            records.drain()
        self._records += records.count
        return [] if records.problem is None else [records.problem]


# ---- stats ----


def stats(data_dir: Path, tenant: TenantId | None = None) -> tuple[StoreStats, ...]:
    """How much each store holds, cheaply: what RocksDB and the file system know."""
    require_data_dir(data_dir)
    places: list[tuple[Path, TenantId | None]] = [
        (store_path(data_dir, each), each) for each in chosen_tenants(data_dir, tenant)
    ]
    if tenant is None:
        places.insert(0, (system_path(data_dir), None))
    return tuple(_store_stats(path, each) for path, each in places)


def _store_stats(path: Path, tenant: TenantId | None) -> StoreStats:
    tables, logs = _sizes(path.glob("*.sst")), _sizes(wal_files(path))
    on_disk = StoreStats(
        path=str(path),
        tenant_id=tenant,
        disk_bytes=sum(_sizes(path.iterdir() if path.is_dir() else ())),
        tables=len(tables),
        table_bytes=sum(tables),
        log_files=len(logs),
        log_bytes=sum(logs),
    )
    try:
        with opened_to_read(path) as (store, _):
            if store is None:
                return on_disk
            return msgspec.structs.replace(
                on_disk,
                entries_estimated=store.statistics()["records_estimated"],
                sequence_number=store.sequence_number(),
            )
    except EngineError as error:
        return msgspec.structs.replace(on_disk, trouble=error.message)


def _sizes(files: Iterable[Path]) -> list[int]:
    sizes: list[int] = []
    for file in files:
        try:
            sizes.append(file.stat().st_size)
        except FileNotFoundError:
            continue  # replaced by the process that writes
    return sizes


# ---- dump ----


def dump(
    data_dir: Path,
    tenant: TenantId | None = None,
    *,
    run: RunId | None = None,
    from_offset: int = 0,
) -> Iterator[DumpedRecord]:
    """Every record, decoded, in the order of run and offset. Ends with `StorageDamaged` where the
    disk cannot be read; `verify` says what else there is."""
    require_data_dir(data_dir)
    for each in chosen_tenants(data_dir, tenant):
        with opened_to_read(store_path(data_dir, each)) as (store, _):
            if store is not None:
                begin, end = (
                    (bytes(24), b"\xff" * 25)
                    if run is None
                    else (record_key(run, from_offset), run + b"\xff" * 9)
                )
                for pair in store.records(begin, end):
                    yield _dumped(each, pair)


def _dumped(tenant: TenantId, pair: Pair) -> DumpedRecord:
    key, value = pair
    run, offset = split_key(key)
    try:
        kind, flags, _, timestamp_us, data = decode_record(value)
    except MalformedRecord as error:
        return DumpedRecord(
            tenant_id=tenant,
            run_id=run_id_text(RunId(run)),
            offset=offset,
            payload_bytes=len(value),
            trouble=error.message,
        )
    payload, trouble = None, None
    try:
        payload = payloads.decode(kind, data)
    except MalformedRecord as error:
        trouble = error.message
    return DumpedRecord(
        tenant_id=tenant,
        run_id=run_id_text(RunId(run)),
        offset=offset,
        kind=RecordKind(kind).name,
        timestamp_us=timestamp_us,
        flags=flags,
        payload=payload,
        payload_bytes=len(data),
        trouble=trouble,
    )


# ---- opening beside a writer ----


class _Moved(Exception):
    """The writer changed the catalogue while it was read."""


@contextmanager
def opened_to_read(path: Path) -> Iterator[tuple[Store | None, WalReport]]:
    """The store, and what its log files hold; None for a store that nothing was written to."""
    store, wal = _open_settled(path)
    try:
        yield store, wal
    finally:
        if store is not None:
            store.close()


def _open_settled(path: Path) -> tuple[Store | None, WalReport]:
    """Look again while it is the writer's doing; damage is still there at the last look."""
    damages = 0
    for _ in range(_LOOKS_MAX):
        try:
            return _open_to_read(path)
        except (StorageDamaged, FileNotFoundError) as error:
            damages += 1
            if damages == _DAMAGED_LOOKS_MAX:
                if isinstance(error, StorageDamaged):
                    raise
                raise damaged(path, f"a file vanished: {error.filename}") from error
        except _Moved:
            continue
    raise JournalBusy(
        f"{path} changes too quickly to be read beside its writer; look again when less is written",
        path=str(path),
    )


def _open_to_read(path: Path) -> tuple[Store | None, WalReport]:
    before = _catalogue_size(path)
    wal = check_wal(path)
    if before is None:
        return None, wal
    # A cache of its own: copies of a table share their place in a cache, and what was read from a
    # good copy would hide the damage of a bad one.
    resources = StoreResources(block_cache_bytes=_CACHE_BYTES, write_buffer_bytes=_CACHE_BYTES)
    store = Store(path, resources, OpenMode.READ_ONLY)
    # RocksDB reads the catalogue and then looks for logs. Between the two a writer may put the
    # records of a log into a table and delete the log; they would be missing, without a word.
    if _catalogue_size(path) != before:
        store.close()
        raise _Moved
    return store, wal


def _catalogue_size(path: Path) -> tuple[str, int] | None:
    """Which catalogue is in force and how long it is; it only grows."""
    try:
        name = (path / "CURRENT").read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    catalogue = path / name
    return name, catalogue.stat().st_size if catalogue.is_file() else 0


def require_data_dir(data_dir: Path) -> None:
    if not segments_path(data_dir).is_dir():
        raise InvalidSettings(
            f"{data_dir} is not a data directory of this engine; give the right one with "
            "--data-dir or ENGINE_DATA_DIR",
            data_dir=str(data_dir),
        )


def chosen_tenants(data_dir: Path, tenant: TenantId | None) -> list[TenantId]:
    on_disk = tenants_on_disk(data_dir)
    if tenant is None:
        return on_disk
    if tenant not in on_disk:
        raise unknown_tenant(tenant)
    return [tenant]
