"""Listings over both tiers: filters, pages that stay right, and as few files as possible."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.static_store import StaticStore, static_store
from engine.archive.files.interchange import stream_of
from engine.archive.rows.schema import RUNS
from engine.base.errors import ArchiveUnreachable, InvalidName
from engine.model.runs import ComponentKind, RunStatus
from engine.model.views import RunFilter, RunPage, RunView
from engine.query import listing
from engine.query.pool import open_pool
from engine.query.ports import StoreAccess
from engine.query.query import QueryTier
from tests.query.conftest import SETTINGS, Reports, tier_over
from tests.query.lake import DAY_MS, JANUARY_MS, OTHER, TENANT, Lake, Row, day_of, new_id, run

HOUR_MS = 3_600_000
EMPTY = RunPage(())


def hot_page(rows: list[Row], chosen: RunFilter) -> RunPage:
    """As the runtime lists its own tier: by id, newest first, from the cursor on."""
    newest = sorted((row["run_id"] for row in rows), reverse=True)
    wanted = [one for one in newest if chosen.cursor is None or one < chosen.cursor]
    views = tuple(hot_view(one) for one in wanted[: chosen.limit])
    return RunPage(views, views[-1].run_id if len(wanted) > chosen.limit else None)


def hot_view(run_id: str) -> RunView:
    return RunView(
        run_id=run_id,
        status="RUNNING",
        component="greet",
        kind="workflow",
        project_id="default",
        deployment_id="default",
    )


async def ids(tier: QueryTier, lake: Lake, chosen: RunFilter) -> list[str]:
    page = await tier.list_runs(TENANT, chosen, EMPTY, lake.snapshot())
    return [view.run_id for view in page.runs]


async def test_a_run_is_shown_with_everything_that_its_row_says(
    tier: QueryTier, lake: Lake
) -> None:
    row = run(
        JANUARY_MS,
        status="FAILED",
        error_code="boom",
        error_message="it went off",
        tags=[("team", "a")],
        model="m",
        tokens_in=5,
        cost_usd=0.5,
        parent_run_id="p",
    )
    lake.add_runs([row])
    page = await tier.list_runs(TENANT, RunFilter(), EMPTY, lake.snapshot())
    assert page.next_cursor is None
    assert page.runs == (
        RunView(
            run_id=row["run_id"],
            status="FAILED",
            component="greet",
            kind="workflow",
            project_id="default",
            deployment_id="default",
            attempt=1,
            created_ms=JANUARY_MS,
            started_ms=JANUARY_MS,
            completed_ms=JANUARY_MS + 1_000,
            updated_ms=JANUARY_MS + 1_000,
            duration_ms=1_000,
            next_offset=4,
            model="m",
            tokens_in=5,
            cost_usd=0.5,
            error_code="boom",
            error_message="it went off",
            parent_run_id="p",
            tags={"team": "a"},
        ),
    )


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"status": "FAILED"}, RunFilter(status=RunStatus.FAILED)),
        ({"component": "other"}, RunFilter(component="other")),
        ({"kind": "scorer"}, RunFilter(kind=ComponentKind.SCORER)),
        ({"project_id": "p'; DROP"}, RunFilter(project_id="p'; DROP")),
        ({"error_code": "boom"}, RunFilter(error_code="boom")),
        ({"parent_run_id": "x"}, RunFilter(parent_run_id="x")),
        ({"tags": [("a", "1"), ("b", "2")]}, RunFilter(tags={"a": "1", "b": "2"})),
        ({"created_ms": JANUARY_MS + 9}, RunFilter(created_from_ms=JANUARY_MS + 9)),
        ({"created_ms": JANUARY_MS - 1}, RunFilter(created_to_ms=JANUARY_MS)),
    ],
)
async def test_each_filter_lets_its_runs_through_and_no_others(
    tier: QueryTier, lake: Lake, columns: Row, chosen: RunFilter
) -> None:
    wanted = run(JANUARY_MS, **columns)
    almost = run(JANUARY_MS, tags=[("a", "1"), ("b", "3")])
    lake.add_runs([run(JANUARY_MS), wanted, almost])
    assert await ids(tier, lake, chosen) == [wanted["run_id"]]


async def test_old_files_list_without_the_columns_that_they_lack(
    tier: QueryTier, lake: Lake
) -> None:
    names = ("run_id", "status", "component", "kind", "project_id", "deployment_id")
    old = pa.schema([RUNS.field(name) for name in (*names, "completed_ms")])
    row = run(JANUARY_MS)
    lake.add_runs([{name: row[name] for name in old.names}], schema=old)
    assert await ids(tier, lake, RunFilter()) == [row["run_id"]]
    assert await ids(tier, lake, RunFilter(tags={"a": "b"})) == []


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5 * DAY_MS),  # begins
            st.sampled_from([1, HOUR_MS, DAY_MS, 3 * DAY_MS, None]),  # takes; None: still open
            st.booleans(),  # archived, and still in the hot tier as well
        ),
        max_size=25,
    ),
    st.integers(1, 7),
)
def test_pages_are_the_sorted_whole_cut_in_pieces(
    runs: list[tuple[int, int | None, bool]], limit: int
) -> None:
    """However long runs took and wherever they are now. The reading of files is played by a list,
    so that Hypothesis can try many; how much is read is part of what is checked."""
    rows = [(run(JANUARY_MS + at, took_ms=took), both) for at, took, both in runs]
    hot = [row for row, both in rows if row["completed_ms"] is None or both]
    cold = [row for row, _ in rows if row["completed_ms"] is not None]
    by_file: dict[str, list[Row]] = {}
    for row in cold:
        file = f"/runs/tenant=acme/day={day_of(row['completed_ms'])}/runs-1.parquet"
        by_file.setdefault(file, []).append(row)
    seen: list[str] = []
    cursor = None
    while not seen or cursor is not None:
        chosen = RunFilter(limit=limit, cursor=cursor)
        page = listing.read_page(
            partial(newest_of, by_file, chosen),
            chosen,
            hot_page(hot, chosen),
            listing.files_to_look_at(sorted(by_file), chosen),
        )
        seen += [view.run_id for view in page.runs]
        cursor = page.next_cursor
        assert cursor is None or len(page.runs) == limit
        if not page.runs:
            break
    assert seen == sorted((row["run_id"] for row, _ in rows), reverse=True)


def newest_of(
    by_file: dict[str, list[Row]], chosen: RunFilter, files: Sequence[str]
) -> list[RunView]:
    """What is in some files, as DuckDB would find it."""
    found = [row["run_id"] for file in files for row in by_file[file]]
    wanted = [one for one in found if chosen.cursor is None or one < chosen.cursor]
    return [hot_view(one) for one in sorted(wanted, reverse=True)[: chosen.limit + 1]]


async def test_pages_of_both_tiers_meet_without_gap_or_repetition(
    tier: QueryTier, lake: Lake
) -> None:
    """With real files, a run that took three days, and runs that are in both tiers."""
    chance = random.Random(4)
    rows = [run(JANUARY_MS + chance.randrange(5 * DAY_MS)) for _ in range(120)]
    rows += [run(JANUARY_MS + HOUR_MS, took_ms=3 * DAY_MS), run(JANUARY_MS, took_ms=None)]
    lake.add_runs([row for row in rows if row["completed_ms"]])
    hot = [row for row in rows if row["completed_ms"] is None] + rows[:10]
    seen: list[str] = []
    cursor = None
    while True:
        chosen = RunFilter(limit=7, cursor=cursor)
        page = await tier.list_runs(TENANT, chosen, hot_page(hot, chosen), lake.snapshot())
        seen += [view.run_id for view in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == sorted((row["run_id"] for row in rows), reverse=True)


async def test_a_cursor_that_is_none_is_refused(tier: QueryTier, lake: Lake) -> None:
    lake.add_runs([run(JANUARY_MS)])
    with pytest.raises(InvalidName):
        await ids(tier, lake, RunFilter(cursor="' OR true --"))


async def test_a_damaged_file_is_left_out_and_reported(
    tier: QueryTier, lake: Lake, reports: Reports
) -> None:
    rows = [run(JANUARY_MS + day * DAY_MS) for day in range(3)]
    lake.add_runs(rows)
    lake.path(lake.run_files[1]).write_bytes(b"PAR1 not really PAR1")
    assert await ids(tier, lake, RunFilter()) == [rows[2]["run_id"], rows[0]["run_id"]]
    assert [file for _, file, _ in reports] == [lake.run_files[1]]


@pytest.mark.parametrize("status", [one for one in RunStatus if not one.is_terminal])
def test_runs_that_go_on_are_looked_for_in_no_file(status: RunStatus) -> None:
    """Otherwise the shortest list, of what waits now, would be the one that reads every file."""
    files = [f"/lake/runs/tenant=acme/day={day_of(JANUARY_MS)}/runs-1.parquet"]
    assert not listing.files_to_look_at(files, RunFilter(status=status))
    assert listing.files_to_look_at(files, RunFilter(status=RunStatus.FAILED))


async def test_a_full_page_of_newer_hot_runs_reads_no_file(lake: Lake) -> None:
    """The archive may even be gone."""
    lake.root = "s3://nowhere/engine"
    lake.run_files = [f"{lake.root}/runs/tenant=acme/day=2026-01-01/runs-1.parquet"]
    access = StoreAccess(root=lake.root, endpoint="127.0.0.1:9", secure=False)
    async with open_pool(SETTINGS, access) as pool:
        tier = QueryTier(pool, SETTINGS, Reports(), stream_of)
        hot = [run(JANUARY_MS + 2 * DAY_MS + at, took_ms=None) for at in range(10)]
        chosen = RunFilter(limit=5)
        page = await tier.list_runs(TENANT, chosen, hot_page(hot, chosen), lake.snapshot())
        assert page == hot_page(hot, chosen)
        assert pool.statistics().opened == 0
        # A page that the hot tier cannot fill needs the archive, and says that it is not there.
        with pytest.raises(ArchiveUnreachable):
            await tier.list_runs(TENANT, chosen, hot_page(hot[:2], chosen), lake.snapshot())


# ---- requests to a store -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StaticStore, Lake]]:
    """Thirty days of a hundred runs, one file a day; every tenth has failed. The last has one
    that took three days."""
    directory = tmp_path_factory.mktemp("store")
    lake = Lake(directory / "bucket" / "engine", "s3://bucket/engine")
    days = range(30)
    rows = [
        run(
            JANUARY_MS + day * DAY_MS + 2 * HOUR_MS + at * 60_000,
            status="FAILED" if at % 10 == 0 else "COMPLETED",
        )
        for day in days
        for at in range(100)
    ]
    rows.append(run(JANUARY_MS + 26 * DAY_MS, took_ms=3 * DAY_MS, status="FAILED"))
    lake.add_runs(rows)
    lake.add_runs([run(JANUARY_MS + 9 * DAY_MS)], tenant=OTHER)
    with static_store(directory) as store:
        yield store, lake


@pytest.fixture
async def s3_tier(bucket: tuple[StaticStore, Lake]) -> AsyncIterator[QueryTier]:
    store, lake = bucket
    store.take_requests()
    async with tier_over(access_of(store, lake)) as tier:
        yield tier


def access_of(store: StaticStore, lake: Lake) -> StoreAccess:
    return StoreAccess(
        root=lake.root, endpoint=store.endpoint, access_key="a", secret_key="b", secure=False
    )


def days_read(requests: list[str]) -> list[str]:
    assert all("/runs/tenant=acme/" in one for one in requests), requests
    return sorted({one.partition("day=")[2][:10] for one in requests}, reverse=True)


@pytest.mark.parametrize(
    ("chosen", "days"),
    [
        # A page that the newest day fills.
        (RunFilter(limit=50), ["2026-01-30"]),
        # Ten failed a day: 30 and, doubling, 29 and 28, then 27 to 24.
        (
            RunFilter(status=RunStatus.FAILED, limit=50),
            [f"2026-01-{day}" for day in range(30, 23, -1)],
        ),
        # What was created from then on cannot have ended before.
        (
            RunFilter(component="nobody", created_from_ms=JANUARY_MS + 27 * DAY_MS + HOUR_MS),
            ["2026-01-30", "2026-01-29", "2026-01-28"],
        ),
        # A run that was created in the window may have ended at any time after it.
        (
            RunFilter(
                created_from_ms=JANUARY_MS + 25 * DAY_MS + HOUR_MS,
                created_to_ms=JANUARY_MS + 26 * DAY_MS + HOUR_MS,
                status=RunStatus.FAILED,
            ),
            [f"2026-01-{day}" for day in range(30, 25, -1)],
        ),
    ],
)
async def test_no_more_files_are_opened_than_the_page_needs(
    s3_tier: QueryTier, bucket: tuple[StaticStore, Lake], chosen: RunFilter, days: list[str]
) -> None:
    store, lake = bucket
    page = await s3_tier.list_runs(TENANT, chosen, EMPTY, lake.snapshot())
    requests = store.take_requests()
    assert days_read(requests) == days
    assert len(requests) <= 4 * len(days)  # a HEAD, the footer, and the columns in two reads
    # Again, and nothing is asked of the store.
    assert await s3_tier.list_runs(TENANT, chosen, EMPTY, lake.snapshot()) == page
    assert store.take_requests() == []


async def test_a_run_that_took_days_is_found_where_it_began(
    s3_tier: QueryTier, bucket: tuple[StaticStore, Lake]
) -> None:
    _, lake = bucket
    chosen = RunFilter(
        created_from_ms=JANUARY_MS + 26 * DAY_MS,
        created_to_ms=JANUARY_MS + 26 * DAY_MS + HOUR_MS,
    )
    page = await s3_tier.list_runs(TENANT, chosen, EMPTY, lake.snapshot())
    assert [view.duration_ms for view in page.runs] == [3 * DAY_MS]


async def test_small_files_of_one_day_are_read_newest_batch_first(
    tmp_path: Path, tier: QueryTier
) -> None:
    """Before a day is compacted it has a file for each flush; their names say when."""
    files = []
    for hour in range(24):
        batch = new_id(JANUARY_MS + hour * HOUR_MS).replace("-", "")
        files.append(f"/runs/tenant=acme/day=2026-01-01/runs-{batch}.parquet")
    read: list[int] = []

    def read_views(some: Sequence[str]) -> list[RunView]:
        read.extend(files.index(file) for file in some)
        # Ten runs, made in the quarter of an hour before their batch.
        return [
            hot_view(new_id(JANUARY_MS + files.index(file) * HOUR_MS - at * 90_000))
            for file in some
            for at in range(10)
        ]

    chosen = RunFilter(limit=25)
    looked_at = listing.files_to_look_at(files, chosen)
    page = listing.read_page(read_views, chosen, EMPTY, looked_at)
    assert len(page.runs) == 25
    assert read == [23, 22, 21]
