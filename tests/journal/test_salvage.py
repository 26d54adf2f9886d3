"""Salvage: of a damaged store everything that can be read is kept, runs are whole again up to
their first gap, what is lost is said, and the damaged store stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
import trio

from engine.base.errors import (
    DirectoryInUse,
    MalformedRecord,
    StorageDamaged,
    StorageFull,
    TenantUnknown,
)
from engine.base.ids import RunId, TenantId, run_id_text
from engine.ext.append import SegmentHead
from engine.ext.offsets import record_key
from engine.ext.replay import RunFold
from engine.journal.layout import (
    decode_head,
    encode_head,
    head_key,
    open_run_key,
    run_key,
    system_path,
)
from engine.journal.logfile import HEADER_BYTES
from engine.journal.store import OpenMode, Store
from engine.journal.system import SystemStore
from engine.journal.upkeep import salvage as salvaging
from engine.journal.upkeep.inspect import verify
from engine.journal.upkeep.salvage import SalvageReport, salvage
from engine.journal.wal import check_wal, salvaged_path
from engine.model.records import RecordKind
from engine.model.runs import RunSummary
from tests.faults.damage import flip, largest_table, log_of, smallest_table, truncate, zero
from tests.histories import history
from tests.journal.harness import ACME, OTHER, files_as_they_are, journal_at, run_number
from tests.journal.sound import ALL_RECORDS, Sound, batch_of, resources, sound_directory

RUNS = 60


@pytest.fixture(scope="module")
def in_log(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """Everything is in the log."""
    folder = tmp_path_factory.mktemp("in_log")
    return trio.run(lambda: sound_directory(folder, runs=8))


@pytest.fixture(scope="module")
def in_tables(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """Two thirds are in tables, and the rest is in the log."""
    folder = tmp_path_factory.mktemp("in_tables")
    return trio.run(
        lambda: sound_directory(folder, tenants=[ACME], runs=RUNS, records_max=40, in_tables=0.67)
    )


def copied(origin: Sound, folder: Path) -> Sound:
    return origin._replace(path=shutil.copytree(origin.path, folder / "data"))


def read(path: Path) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    store = Store(path, resources(), OpenMode.READ_ONLY)
    try:
        return dict(store.records(*ALL_RECORDS)), dict(store.rows(b""))
    finally:
        store.close()


def assert_salvaged(sound: Sound, report: SalvageReport) -> dict[RunId, int]:
    """What was kept are the first records of each run, with the state they lead to, and the report
    says so; how many of each run."""
    records, rows = read(sound.store())
    kept: dict[RunId, int] = {}
    for run in sound.runs(ACME):
        values = [value for key, value in sorted(records.items()) if key.startswith(run)]
        assert values == sound.of_run(ACME, run)[: len(values)]
        fold = RunFold()
        fold.feed_all(values)
        state = rows.get(run_key(run))
        assert state is None or msgspec.msgpack.decode(state, type=RunSummary) == fold.summary()
        kept[run] = len(values)
    assert sum(kept.values()) == len(records) == report.records
    assert report.may_have_lost or sum(kept.values()) == len(sound.acknowledged[ACME])
    losses = {loss.run_id: loss for loss in report.losses}
    assert len(losses) == report.loss_count
    for run, count in kept.items():
        loss = losses.get(run_id_text(run))
        is_whole = count == len(sound.of_run(ACME, run))
        assert is_whole is (loss is None), run
        assert loss is None or (loss.first_offset, loss.next_offset) == (0, count)
    assert verify(sound.path).is_sound
    return kept


def assert_aside(sound: Sound, report: SalvageReport, before: dict[str, bytes]) -> None:
    """The damaged store is there as it was."""
    assert report.damaged_store is not None
    aside = Path(report.damaged_store)
    assert aside == sound.store().with_name("records.rocksdb.damaged-1")
    assert contents(aside) == before
    assert {entry.name for entry in aside.parent.iterdir()} == {aside.name, sound.store().name}


def contents(store: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in store.iterdir() if file.suffix != ".json"}


# ---- what is kept ----


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_flip_in_the_log_costs_the_runs_of_one_batch(
    in_log: Sound, tmp_path: Path, part: float
) -> None:
    sound = copied(in_log, tmp_path)
    log = log_of(sound.store())
    flip(log, int(log.stat().st_size * part))
    before = contents(sound.store())
    report = salvage(sound.path, ACME)
    assert_aside(sound, report, before)
    kept = assert_salvaged(sound, report)
    assert report.loss_count == 1
    (loss,) = report.losses
    assert "are missing" in loss.why or "its state speaks of" in loss.why
    assert loss.state in ("made anew", "dropped")
    assert len(kept) == 8
    assert [damage.file for damage in report.damages] == [str(log)]


def test_a_zeroed_sector_in_the_log(in_log: Sound, tmp_path: Path) -> None:
    sound = copied(in_log, tmp_path)
    zero(log_of(sound.store()), 2_048, 2_560)
    assert_salvaged(sound, salvage(sound.path, ACME))


def test_a_kind_that_sends_rocksdb_round_for_ever(in_log: Sound, tmp_path: Path) -> None:
    """A fragment that looks like one of a recycled log."""
    sound = copied(in_log, tmp_path)
    log = log_of(sound.store())
    flip(log, HEADER_BYTES - 1, 4)
    report = salvage(sound.path, ACME)
    assert_salvaged(sound, report)
    assert report.loss_count == 1


@pytest.mark.parametrize("part", [0.05, 0.5, 0.8])
def test_a_flip_in_a_table_costs_the_runs_of_one_block(
    in_tables: Sound, tmp_path: Path, part: float
) -> None:
    sound = copied(in_tables, tmp_path)
    table = largest_table(sound.store())
    flip(table, int(table.stat().st_size * part))
    before = contents(sound.store())
    report = salvage(sound.path, ACME)
    assert_aside(sound, report, before)
    assert_salvaged(sound, report)
    assert 0 < report.loss_count < RUNS // 2
    assert {damage.file for damage in report.damages} == {str(table)}


@pytest.mark.parametrize(
    "hurt",
    [
        lambda table: table.unlink(),
        lambda table: truncate(table, table.stat().st_size // 2),
        lambda table: truncate(table, 0),
        lambda table: flip(table, table.stat().st_size - 10),
    ],
    ids=["deleted", "half", "empty", "footer"],
)
def test_a_table_that_is_lost_costs_what_is_nowhere_else(
    in_tables: Sound, tmp_path: Path, hurt: Callable[[Path], None]
) -> None:
    """The records that are in the log alone have lost what came before them."""
    sound = copied(in_tables, tmp_path)
    hurt(largest_table(sound.store()))
    before = contents(sound.store())
    report = salvage(sound.path, ACME)
    assert_aside(sound, report, before)
    kept = assert_salvaged(sound, report)
    assert not any(kept.values())
    assert sum(loss.records_dropped for loss in report.losses) > 0
    assert {loss.state for loss in report.losses} <= {"dropped", "none"}


@pytest.mark.parametrize(
    "hurt", [lambda table: table.unlink(), lambda table: flip(table, 100)], ids=["lost", "flip"]
)
def test_a_damaged_table_of_rows_costs_no_record(
    in_tables: Sound, tmp_path: Path, hurt: Callable[[Path], None]
) -> None:
    sound = copied(in_tables, tmp_path)
    hurt(smallest_table(sound.store()))
    report = salvage(sound.path, ACME)
    kept = assert_salvaged(sound, report)
    assert kept == {run: len(sound.of_run(ACME, run)) for run in sound.runs(ACME)}
    _, rows = read(sound.store())
    assert len(rows) > 0, "those in the log are kept"


async def test_rows_that_are_only_in_the_log_survive_a_repair(tmp_path: Path) -> None:
    """RocksDB's repair knows a family by its tables; here the rows have none."""
    async with journal_at(tmp_path / "origin") as journal, journal.use(ACME) as acme:
        for number in range(1, 9):
            row = (b"timer", b"%d" % number)
            await acme.open_segment(run_number(number)).append_many(history(number), rows=[row])
        acme.compact()  # makes a table of records alone
        path = files_as_they_are(journal.path, tmp_path / "data")
    store = Sound(path, {}).store()
    (table,) = store.glob("*.sst")
    table.unlink()
    report = await trio.to_thread.run_sync(salvage, path, ACME)
    assert (report.runs, report.loss_count) == (8, 0)
    assert read(store)[1] == {b"timer": b"8"}


def test_log_and_table(in_tables: Sound, tmp_path: Path) -> None:
    sound = copied(in_tables, tmp_path)
    log, table = log_of(sound.store()), largest_table(sound.store())
    flip(log, log.stat().st_size // 3)
    flip(table, table.stat().st_size // 3)
    assert_salvaged(sound, salvage(sound.path, ACME))


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST-*"])
def test_a_lost_catalogue_costs_nothing(in_tables: Sound, tmp_path: Path, name: str) -> None:
    sound = copied(in_tables, tmp_path)
    (file,) = sound.store().glob(name)
    file.unlink()
    report = salvage(sound.path, ACME)
    kept = assert_salvaged(sound, report)
    assert sum(kept.values()) == len(sound.acknowledged[ACME])
    assert report.loss_count == 0
    assert not report.may_have_lost


def test_a_tenants_others_rows_are_kept(in_log: Sound, tmp_path: Path) -> None:
    sound = copied(in_log, tmp_path)
    rows = [(b"timer", b"due"), (b"i" + b"k" * 500, b"long key"), (b"\xff", b"last")]
    change(sound, rows)
    flip(largest_table(sound.store()), 3_000)
    salvage(sound.path, ACME)
    _, found = read(sound.store())
    assert found.items() >= dict(rows).items()


def change(
    sound: Sound,
    rows: Iterable[tuple[bytes, bytes | None]],
    *,
    without: tuple[bytes, bytes] | None = None,
) -> None:
    store = Store(sound.store(), resources(), OpenMode.READ_WRITE)
    batch = batch_of([], list(rows))
    if without is not None:
        batch.ranges.append(without)
    store.write(store.prepare(batch), sync=True)
    store.close()


def test_what_is_no_run_is_left_out_and_said_so(in_log: Sound, tmp_path: Path) -> None:
    sound = copied(in_log, tmp_path)
    change(sound, [(b"r" + b"short", b"row")])
    report = salvage(sound.path, ACME)
    assert report.loss_count == 0
    assert [damage.what for damage in report.damages] == ["a key that is not of a run: 73686f7274"]
    assert_salvaged(sound, report)


def test_heads_of_trimmed_and_sealed_runs(in_log: Sound, tmp_path: Path) -> None:
    """Where a run begins is not where it has a gap; a run that was cut is not sealed any more."""
    sound = copied(in_log, tmp_path)
    ends = {run: len(sound.of_run(ACME, run)) for run in sound.runs(ACME)}
    whole, cut, trimmed = sorted(ends, key=lambda run: (-ends[run], run))[:3]
    assert ends[trimmed] > 5
    change(sound, [head(whole, 0, ends[whole], sealed=True)])
    change(sound, [head(cut, 0, ends[cut], sealed=True)], without=keys(cut, 4, 5))
    change(sound, [head(trimmed, 3, ends[trimmed])], without=keys(trimmed, 0, 3))
    change(sound, [(run_key(trimmed), None)])
    report = salvage(sound.path, ACME)
    _, rows = read(sound.store())
    assert verify(sound.path).is_sound
    assert [loss.run_id for loss in report.losses] == [run_id_text(cut)]
    assert report.losses[0].next_offset == 4
    assert report.losses[0].records_dropped == ends[cut] - 5
    assert head_key(cut) not in rows
    found = {run: decode_head(run, rows[head_key(run)]) for run in (whole, trimmed)}
    assert (found[whole].first_offset, found[whole].sealed) == (0, True)
    assert (found[trimmed].first_offset, found[trimmed].next_offset) == (3, ends[trimmed])


def head(run: RunId, first: int, end: int, *, sealed: bool = False) -> tuple[bytes, bytes]:
    return head_key(run), encode_head(SegmentHead(run, first, end, sealed))


def keys(run: RunId, begin: int, end: int) -> tuple[bytes, bytes]:
    return record_key(run, begin), record_key(run, end)


class CountStates:
    """A layer above whose state is how many records there are, of every run."""

    is_complete = True

    def recognizes(self, row: bytes) -> bool:
        return row.isdigit()

    def rows_of(self, run: RunId, values: Iterable[bytes]) -> dict[bytes, bytes]:
        return {open_run_key(run): b"%d" % sum(1 for _ in values)}


def test_states_of_a_layer_above_are_made_anew(in_log: Sound, tmp_path: Path) -> None:
    sound = copied(in_log, tmp_path)
    runs = sound.runs(ACME)
    ends = {run: len(sound.of_run(ACME, run)) for run in runs}
    change(sound, [(run_key(run), None) for run in runs])
    change(sound, [(open_run_key(run), b"%d" % ends[run]) for run in runs if run != runs[2]])
    change(sound, [], without=keys(runs[1], 2, 3))
    report = salvage(sound.path, ACME, states=CountStates())
    _, rows = read(sound.store())
    assert rows == {
        open_run_key(run): b"2" if run == runs[1] else b"%d" % ends[run] for run in runs
    }
    (loss,) = report.losses
    assert (loss.run_id, loss.state) == (run_id_text(runs[1]), "made anew")
    assert report.states_made_anew == 2


class CautiousStates(CountStates):
    """Reads more of a record than the journal does, and does not follow a failed step."""

    def rows_of(self, run: RunId, values: Iterable[bytes]) -> dict[bytes, bytes]:
        def followed() -> Iterable[bytes]:
            for value in values:
                if value[1] == RecordKind.STEP_FAILED:
                    raise MalformedRecord("a failed step")
                yield value

        return super().rows_of(run, followed())


def test_a_run_is_cut_where_the_layer_above_cannot_follow(in_log: Sound, tmp_path: Path) -> None:
    sound = copied(in_log, tmp_path)
    runs = sound.runs(ACME)
    change(sound, [(run_key(run), None) for run in runs])
    change(sound, [(open_run_key(run), b"0") for run in runs])
    report = salvage(sound.path, ACME, states=CautiousStates())
    records, rows = read(sound.store())
    ends = {}
    for run in runs:
        kinds = [value[1] for value in sound.of_run(ACME, run)]
        ends[run] = (*kinds, RecordKind.STEP_FAILED).index(RecordKind.STEP_FAILED)
    assert {run: ends[run] for run in runs if ends[run] < len(sound.of_run(ACME, run))}
    assert rows == {open_run_key(run): b"%d" % end for run, end in ends.items()}
    assert len(records) == sum(ends.values()) == report.records


# ---- around it ----


async def test_a_salvaged_tenant_goes_on(in_log: Sound, tmp_path: Path) -> None:
    sound = copied(in_log, tmp_path)
    flip(log_of(sound.store()), 5_000)
    report = await trio.to_thread.run_sync(salvage, sound.path, ACME)
    async with journal_at(sound.path) as journal, journal.use(ACME) as acme:
        for loss in report.losses:
            run = RunId(int(loss.run_id.replace("-", ""), 16).to_bytes(16, "big"))
            segment = acme.open_segment(run)
            assert segment.next_offset == loss.next_offset
            assert not segment.is_sealed


def test_a_second_salvage_has_its_own_number(in_log: Sound, tmp_path: Path) -> None:
    sound = copied(in_log, tmp_path)
    for number in (1, 2):
        (sound.store() / "CURRENT").unlink()
        report = salvage(sound.path, ACME)
        assert report.damaged_store == f"{sound.store()}.damaged-{number}"
    assert verify(sound.path).is_sound


def test_a_sound_store_is_left_alone(in_log: Sound, tmp_path: Path) -> None:
    sound = copied(in_log, tmp_path)
    truncate(log_of(sound.store()), 3_000)  # a torn tail is no damage
    before = contents(sound.store())
    report = salvage(sound.path, ACME)
    assert report.damaged_store is None
    assert contents(sound.store()) == before


async def test_refused_while_a_runtime_is_up(in_log: Sound, tmp_path: Path) -> None:
    sound = copied(in_log, tmp_path)
    flip(log_of(sound.store()), 100)
    before = contents(sound.store())
    async with journal_at(sound.path):
        with pytest.raises(DirectoryInUse):
            await trio.to_thread.run_sync(salvage, sound.path, ACME)
    assert contents(sound.store()) == before


def test_a_tenant_that_is_none(in_log: Sound, tmp_path: Path) -> None:
    with pytest.raises(TenantUnknown):
        salvage(copied(in_log, tmp_path).path, TenantId("nobody"))


def test_nothing_is_changed_when_there_is_no_room(
    in_log: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = copied(in_log, tmp_path)
    flip(log_of(sound.store()), 100)
    before = contents(sound.store())

    def no_room(_: Path) -> None:
        raise StorageFull("no room")

    monkeypatch.setattr(salvaging, "sync_tree", no_room)
    with pytest.raises(StorageFull):
        salvage(sound.path, ACME)
    assert contents(sound.store()) == before
    assert [entry.name for entry in sound.store().parent.iterdir()] == [sound.store().name]


def test_an_interruption_between_the_two_stores_is_noticed_and_undone(
    in_log: Sound, tmp_path: Path
) -> None:
    """The damaged store has gone aside and the new one has not come: nobody may begin anew."""
    sound = copied(in_log, tmp_path)
    flip(log_of(sound.store()), 100)
    aside = sound.store().with_name("records.rocksdb.damaged-1")
    sound.store().rename(aside)
    salvaged_path(sound.store()).mkdir()
    with pytest.raises(StorageDamaged, match="a salvage was interrupted; start it again"):
        check_wal(sound.store())
    report = salvage(sound.path, ACME)
    assert report.damaged_store == str(aside)
    assert_salvaged(sound, report)


async def test_the_system_store(tmp_path: Path) -> None:
    """Who must be awake when may be among what was lost: everybody is opened once."""
    async with journal_at(tmp_path / "origin") as journal:
        for tenant in (ACME, OTHER):
            async with journal.use(tenant):
                journal.system.set_wake(tenant, 5_000)
        for number in range(20):
            journal.system.put("keys", f"key-{number}", b"v" * 50)
        path = files_as_they_are(journal.path, tmp_path / "data")
    log = log_of(system_path(path))
    flip(log, log.stat().st_size // 2)
    report = await trio.to_thread.run_sync(salvage, path, None)
    assert report.damaged_store is not None
    system = SystemStore(path, resources())
    assert len(list(system.scan("keys"))) == 19
    assert list(system.due_tenants(0)) == [(0, ACME), (0, OTHER)]
    system.close()
