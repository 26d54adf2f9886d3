"""verify, stats and dump: what is sound is called so, what is not is named, and the rest is looked
at all the same; beside a runtime and after it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from engine.base.errors import InvalidSettings, MalformedRecord, StorageDamaged, TenantUnknown
from engine.base.ids import RunId, TenantId, run_id_text
from engine.ext.append import SegmentHead
from engine.ext.offsets import encode_record, record_key
from engine.journal.layout import encode_head, head_key, open_run_key, run_key, system_path
from engine.journal.store import OpenMode, Store
from engine.journal.upkeep.inspect import (
    StoreReport,
    dump,
    stats,
    verify,
    verify_store,
    verify_tenant,
)
from engine.model.payloads import RunAccepted, StepCompleted
from engine.model.records import RecordKind
from engine.model.runs import RunSummary
from engine.wire import journal as wire
from tests.faults.damage import flip, largest_table, log_of
from tests.histories import history
from tests.journal.harness import ACME, NOW_US, OTHER, files_as_they_are, journal_at, run_number
from tests.journal.sound import Sound, batch_of, resources, sound_directory

RUN = run_number(1)
NEW = run_number(77)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return trio.run(lambda: sound_directory(tmp_path_factory.mktemp("origin"), in_tables=0.5))


@pytest.fixture
def sound(origin: Sound, tmp_path: Path) -> Sound:
    return origin._replace(path=shutil.copytree(origin.path, tmp_path / "data"))


def change(
    sound: Sound,
    pairs: Iterable[tuple[bytes, bytes]] = (),
    rows: Iterable[tuple[bytes, bytes | None]] = (),
    *,
    without: tuple[bytes, bytes] | None = None,
) -> None:
    """Write to the store itself what no journal would."""
    store = Store(sound.store(), resources(), OpenMode.READ_WRITE)
    batch = batch_of(list(pairs), list(rows))
    if without is not None:
        batch.ranges.append(without)
    store.write(store.prepare(batch), sync=True)
    store.close()


def step(run: RunId, offset: int, *, says: int | None = None, kind: int = 3) -> tuple[bytes, bytes]:
    said = offset if says is None else says
    payload = wire.encode(StepCompleted(position=offset, name="step"))
    return record_key(run, offset), encode_record(kind, 0, said, NOW_US, payload)


# ---- sound ----


def test_a_sound_journal(sound: Sound) -> None:
    report = verify(sound.path)
    assert report.is_sound
    assert [store.tenant_id for store in report.stores] == [None, "acme", "other"]
    for store in report.stores[1:]:
        assert store.tenant_id is not None
        tenant = TenantId(store.tenant_id)
        assert (store.runs, store.problems) == (len(sound.runs(tenant)), ())
        assert store.records == len(sound.acknowledged[tenant])
        assert store.rows == len(sound.runs(tenant)), "each run has its state row"
        assert store.wal is not None
        assert store.wal.records > 0


def test_one_tenant(sound: Sound) -> None:
    assert [store.tenant_id for store in verify(sound.path, OTHER).stores] == ["other"]


async def test_trimmed_and_sealed_runs_are_sound(tmp_path: Path) -> None:
    async with journal_at(tmp_path / "origin") as journal, journal.use(ACME) as acme:
        for number, before in [(1, 0), (2, 3), (3, None)]:
            segment = acme.open_segment(run_number(number))
            await segment.append_many(history(number))
            await segment.seal()
            await segment.trim(segment.next_offset if before is None else before)
        await acme.open_segment(NEW).seal()
        report = verify_tenant(files_as_they_are(journal.path, tmp_path / "data"), ACME)
    assert report.problems == ()
    assert report.runs == 4


async def test_beside_a_runtime_that_writes(tmp_path: Path) -> None:
    """Everything that was acknowledged before is there; what is being written is no damage."""
    records = history(3, 30)
    async with journal_at(tmp_path) as journal, journal.use(ACME) as acme:
        written = 0

        async def write() -> None:
            nonlocal written
            # Not for ever: the reader would never catch up with a writer that is quicker.
            for number in range(1, 400):
                await trio.lowlevel.checkpoint_if_cancelled()
                await acme.open_segment(run_number(number)).append_many(records)
                written += 1
                if number % 40 == 0:
                    acme.compact()  # replaces tables and logs under the reader

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for _ in range(4):
                await trio.testing.wait_all_tasks_blocked()
                before = written
                report = await trio.to_thread.run_sync(verify, tmp_path, ACME)
                (store,) = report.stores
                assert store.problems == ()
                assert store.runs >= before
                assert store.records == store.runs * len(records)
            nursery.cancel_scope.cancel()
        assert written > 4


def test_a_data_directory_that_is_none(tmp_path: Path) -> None:
    for look in (verify, stats, lambda path: list(dump(path))):
        with pytest.raises(InvalidSettings, match="is not a data directory"):
            look(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_tenant_that_is_none(sound: Sound) -> None:
    with pytest.raises(TenantUnknown, match="nobody"):
        verify(sound.path, TenantId("nobody"))


def test_looking_changes_nothing(sound: Sound) -> None:
    def files() -> dict[Path, bytes]:
        return {
            file: file.read_bytes()
            for file in sorted(sound.path.rglob("*"))
            if file.is_file() and file.name != "rocksdict-config.json"
        }

    before = files()
    verify(sound.path)
    stats(sound.path)
    list(dump(sound.path))
    assert files() == before


# ---- not sound ----


HURTS: dict[str, tuple[Callable[[Sound], None], str, int | None]] = {
    "a gap": (
        lambda sound: change(sound, without=(record_key(RUN, 3), record_key(RUN, 5))),
        "records 3 to 4 are missing",
        3,
    ),
    "no beginning": (
        lambda sound: change(sound, without=(record_key(RUN, 0), record_key(RUN, 2))),
        "records 0 to 1 are missing",
        0,
    ),
    "before its beginning": (
        lambda sound: change(sound, [step(NEW, 0)], [head_row(NEW, 5, 5)]),
        "record 0 lies before the first that is kept",
        5,
    ),
    "no end": (
        lambda sound: change(sound, [step(NEW, 0)], [head_row(NEW, 0, 4)]),
        "records 1 to 3 are missing",
        1,
    ),
    "all of a sealed run": (
        lambda sound: change(sound, rows=[head_row(NEW, 0, 4, sealed=True)]),
        "records 0 to 3 are missing",
        0,
    ),
    "a record moved": (
        lambda sound: change(sound, [step(NEW, 0), step(NEW, 1, says=9)]),
        "says it is at offset 9",
        1,
    ),
    "a header": (
        lambda sound: change(sound, [(record_key(NEW, 0), b"\x09" * 20)]),
        "record version 9",
        0,
    ),
    "a payload": (
        lambda sound: change(sound, [(record_key(NEW, 0), encode_record(3, 0, 0, 1, b"\xff"))]),
        "not protobuf",
        0,
    ),
    "after the end": (
        lambda sound: change(sound, [step(NEW, 0, kind=RecordKind.RUN_COMPLETED), step(NEW, 1)]),
        "follows the run's terminal one",
        1,
    ),
    "behind the seal": (
        lambda sound: change(
            sound, [step(NEW, 0), step(NEW, 1)], [head_row(NEW, 0, 1, sealed=True)]
        ),
        "records follow the seal",
        1,
    ),
    "a key": (lambda sound: change(sound, [(NEW + b"\x00", b"")]), "24 bytes", 0),
    "a short key": (lambda sound: change(sound, [(b"\x00", b"")]), "not begin with a run id", None),
    "a head": (lambda sound: change(sound, rows=[(head_key(NEW), b"?")]), "the head row", None),
    "a state": (
        lambda sound: change(
            sound, rows=[(run_key(RUN), msgspec.msgpack.encode(RunSummary(next_offset=1)))]
        ),
        "the state row is not what the records lead to",
        None,
    ),
    "a state of nothing": (
        lambda sound: change(
            sound, rows=[(run_key(NEW), msgspec.msgpack.encode(RunSummary(attempt=5)))]
        ),
        "the state row is not what the records lead to",
        None,
    ),
}


def head_row(
    run: RunId, first_offset: int, next_offset: int, *, sealed: bool = False
) -> tuple[bytes, bytes]:
    return head_key(run), encode_head(SegmentHead(run, first_offset, next_offset, sealed))


@pytest.mark.parametrize("hurt", HURTS)
def test_what_is_not_sound_is_named(sound: Sound, hurt: str) -> None:
    do, says, offset = HURTS[hurt]
    do(sound)
    report = verify(sound.path)
    assert not report.is_sound
    assert [store.is_sound for store in report.stores] == [True, False, True]
    (problem,) = report.stores[1].problems
    assert says in problem.what
    assert problem.offset == offset
    assert problem.run_id is not None
    if hurt not in ("a short key",):
        assert problem.run_id in (run_id_text(RUN), run_id_text(NEW))


def test_a_state_of_another_form_is_left_alone(sound: Sound) -> None:
    """How a layer above keeps its state is for that layer to check."""
    change(sound, rows=[(run_key(RUN), b"\x93\x01\xa1x\x02"), (open_run_key(RUN), b"other")])
    assert verify(sound.path).is_sound


class CountStates:
    """A layer above whose state is how many records there are, of every run."""

    is_complete = True

    def recognizes(self, row: bytes) -> bool:
        return row.isdigit()

    def rows_of(self, run: RunId, values: Iterable[bytes]) -> dict[bytes, bytes]:
        count = 0
        for value in values:
            count += 1
            if value.endswith(b"refused"):
                raise MalformedRecord("this layer reads more of a record")
        return {open_run_key(run): b"%d" % count}


async def test_the_states_of_a_layer_above(tmp_path: Path) -> None:
    states = CountStates()
    async with journal_at(tmp_path / "origin") as journal, journal.use(ACME) as acme:
        records = history(1, 9)
        for run in (RUN, run_number(2)):
            rows = [(open_run_key(run), b"%d" % len(records))]
            await acme.open_segment(run).append_many(records, rows=rows)
        path = files_as_they_are(journal.path, tmp_path / "data")
    sound = Sound(path, {})
    assert verify(path, states=states).is_sound
    for rows_now, says in [
        ((open_run_key(RUN), b"3"), "not what the records lead to"),
        ((open_run_key(RUN), None), "not what the records lead to"),
        ((run_key(RUN), b"9"), "not what the records lead to"),
    ]:
        change(sound, rows=[rows_now])
        (problem,) = verify(path, ACME, states=states).stores[0].problems
        assert says in problem.what
    payload = wire.encode(StepCompleted(name="refused"))
    change(sound, [(record_key(NEW, 0), encode_record(3, 0, 0, 1, payload))])
    problems = verify(path, ACME, states=states).stores[0].problems
    assert ("this layer reads more of a record", 0) in [
        (problem.what, problem.offset) for problem in problems
    ]


# ---- damaged ----


def problem_files(report: StoreReport) -> set[str | None]:
    return {problem.file for problem in report.problems}


def test_a_damaged_log_is_named_and_the_next_tenant_looked_at(sound: Sound) -> None:
    log = log_of(sound.store())
    flip(log, log.stat().st_size // 2)
    before = log.read_bytes()
    report = verify(sound.path)
    assert [store.is_sound for store in report.stores] == [True, False, True]
    assert problem_files(report.stores[1]) == {str(log)}
    assert "at byte" in report.stores[1].problems[0].what
    assert report.stores[2].records == len(sound.acknowledged[OTHER])
    assert log.read_bytes() == before


async def test_every_damaged_place_of_a_table_is_named(tmp_path: Path) -> None:
    """And what lies between and behind them is read."""
    sound = await sound_directory(tmp_path, tenants=[ACME], runs=80, in_tables=1.0)
    table = largest_table(sound.store())
    size = table.stat().st_size
    places = [size // 8, size // 2, size * 3 // 4]
    for at in places:
        flip(table, at)
    report = verify_tenant(sound.path, ACME)
    damages = [problem.what for problem in report.problems if problem.file is not None]
    assert problem_files(report) == {str(table), None}
    assert len(damages) == len(places)
    gaps = [problem for problem in report.problems if problem.file is None]
    assert all("are missing" in gap.what or "state row" in gap.what for gap in gaps)
    assert len(sound.acknowledged[ACME]) // 2 < report.records < len(sound.acknowledged[ACME])


def test_a_damaged_system_store_is_named(sound: Sound) -> None:
    (system_path(sound.path) / "CURRENT").unlink()
    (system_path(sound.path) / "000009.sst").touch()
    report = verify(sound.path)
    assert [store.is_sound for store in report.stores] == [False, True, True]


def test_at_most_so_many_problems_are_told_and_all_are_counted(sound: Sound) -> None:
    change(sound, [step(run_number(1_000 + number), 1) for number in range(150)])
    report = verify_tenant(sound.path, ACME)
    assert (len(report.problems), report.problem_count) == (100, 150)


def test_a_store_that_nothing_was_written_to(tmp_path: Path) -> None:
    report = verify_store(tmp_path / "records.rocksdb", ACME, states=CountStates())
    assert report.is_sound


# ---- stats ----


def test_stats(sound: Sound) -> None:
    found = {store.tenant_id: store for store in stats(sound.path)}
    assert set(found) == {None, "acme", "other"}
    acme = found["acme"]
    assert acme.tables == len(list(sound.store().glob("*.sst")))
    assert acme.log_files == 1
    assert acme.log_bytes == log_of(sound.store()).stat().st_size
    assert acme.disk_bytes > acme.table_bytes + acme.log_bytes
    assert acme.sequence_number >= len(sound.acknowledged[ACME])
    assert acme.entries_estimated > 0
    assert acme.trouble is None


def test_stats_of_a_damaged_store(sound: Sound) -> None:
    flip(log_of(sound.store()), 100)
    found = {store.tenant_id: store for store in stats(sound.path)}
    assert "is damaged" in (found["acme"].trouble or "")
    assert found["acme"].disk_bytes > 0
    assert found["other"].trouble is None


# ---- dump ----


def test_dump_gives_every_record_decoded(sound: Sound) -> None:
    dumped = list(dump(sound.path))
    assert [record.tenant_id for record in dumped] == sorted(record.tenant_id for record in dumped)
    ours = [record for record in dumped if record.tenant_id == "acme"]
    assert len(ours) == len(sound.acknowledged[ACME])
    for run in sound.runs(ACME):
        records = [record for record in ours if record.run_id == run_id_text(run)]
        assert [record.offset for record in records] == list(range(len(records)))
        for record, new in zip(records, history(int.from_bytes(run), 30), strict=True):
            assert record.kind == new.kind.name
            assert record.timestamp_us == new.timestamp_us
            assert record.payload == wire.decode(new.kind, new.payload)
            assert record.payload_bytes == len(new.payload)
    assert isinstance(ours[0].payload, RunAccepted)
    assert msgspec.json.encode(ours)


def test_dump_of_one_run_from_an_offset(sound: Sound) -> None:
    records = list(dump(sound.path, OTHER, run=RUN, from_offset=2))
    assert [record.offset for record in records] == list(range(2, len(sound.of_run(OTHER, RUN))))
    assert {(record.tenant_id, record.run_id) for record in records} == {
        ("other", run_id_text(RUN))
    }


def test_dump_says_what_cannot_be_decoded(sound: Sound) -> None:
    change(
        sound,
        [
            (record_key(NEW, 0), b"\x09" * 20),
            (record_key(NEW, 1), encode_record(1, 0, 1, 1, b"\xff")),
        ],
    )
    first, second = dump(sound.path, ACME, run=NEW)
    assert (first.payload, first.kind) == (None, "?")
    assert "version 9" in (first.trouble or "")
    assert (second.payload, second.kind) == (None, "RUN_ACCEPTED")
    assert "RUN_ACCEPTED" in (second.trouble or "")


async def test_dump_never_ends_early_in_silence(tmp_path: Path) -> None:
    sound = await sound_directory(tmp_path, tenants=[ACME], runs=60, in_tables=1.0)
    table = largest_table(sound.store())
    flip(table, table.stat().st_size // 2)
    with pytest.raises(StorageDamaged, match=table.name):
        list(dump(sound.path))
