"""SQL over both tiers: the views, values as JSON, Arrow, limits, and files that are not well."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
import trio

from engine.archive.files.interchange import stream_of
from engine.archive.rows.schema import RUNS
from engine.base.clock import ManualClock
from engine.base.errors import InvalidInput, InvalidQuery, QueryTimeout, QueryTooLarge
from engine.config.query import QuerySettings
from engine.model.views import RunFilter, RunPage
from engine.query.pool import QueryPool
from engine.query.ports import StoreAccess
from engine.query.query import QueryTier
from tests.query.conftest import Reports, tier_over
from tests.query.lake import DAY_MS, JANUARY_MS, OTHER, TENANT, Lake, run, step


async def rows(tier: QueryTier, lake: Lake, sql: str) -> list[tuple[object, ...]]:
    return list((await tier.run(TENANT, sql, lake.snapshot)).rows)


async def test_runs_are_those_of_the_files_and_the_hot_ones(tier: QueryTier, lake: Lake) -> None:
    archived = [run(JANUARY_MS + day * DAY_MS) for day in range(3)]
    lake.add_runs(archived)
    lake.hot = [run(JANUARY_MS + 3 * DAY_MS, took_ms=5), run(JANUARY_MS, took_ms=None)]
    found = await rows(tier, lake, "SELECT run_id, day, tenant FROM runs ORDER BY day")
    assert found == [
        (archived[0]["run_id"], "2026-01-01", "acme"),
        (archived[1]["run_id"], "2026-01-02", "acme"),
        (archived[2]["run_id"], "2026-01-03", "acme"),
        (lake.hot[0]["run_id"], "2026-01-04", "acme"),
        (lake.hot[1]["run_id"], None, "acme"),
    ]


async def test_with_no_files_at_all_the_views_have_every_column(
    tier: QueryTier, lake: Lake
) -> None:
    answer = await tier.run(TENANT, "FROM runs", lake.snapshot)
    assert answer.rows == ()
    assert answer.columns == (*RUNS.names, "tenant", "day")
    types = dict(zip(answer.columns, answer.types, strict=True))
    assert types["created_ms"] == "BIGINT"
    assert types["tags"] == "MAP(VARCHAR, VARCHAR)"
    assert types["usage"].startswith("STRUCT(model VARCHAR, tokens_in BIGINT")
    assert await rows(tier, lake, "SELECT count(*), sum(tokens_in) FROM steps") == [(0, None)]


async def test_files_of_older_engines_answer_null_for_newer_columns(
    tier: QueryTier, lake: Lake
) -> None:
    """Three generations of the schema, and a column that only the newest rows have."""
    first = pa.schema([RUNS.field(name) for name in ("run_id", "status", "completed_ms")])
    second = pa.schema([*first, RUNS.field("model"), pa.field("tokens_in", pa.int32())])
    keep = lambda row, schema: {name: row.get(name) for name in schema.names}  # noqa: E731
    lake.add_runs([keep(run(JANUARY_MS), first)], schema=first)
    lake.add_runs([keep(run(JANUARY_MS + DAY_MS, model="m", tokens_in=7), second)], schema=second)
    lake.add_runs([run(JANUARY_MS + 2 * DAY_MS, model="m", tokens_in=2**40, score=0.5)])
    assert await rows(
        tier, lake, "SELECT day, status, model, tokens_in, score FROM runs ORDER BY day"
    ) == [
        ("2026-01-01", "COMPLETED", None, None, None),
        ("2026-01-02", "COMPLETED", "m", 7, None),
        ("2026-01-03", "COMPLETED", "m", 2**40, 0.5),
    ]
    assert (await rows(tier, lake, "SELECT count(*) FROM runs WHERE score IS NULL")) == [(2,)]


async def test_columns_of_a_newer_engine_are_not_in_the_way(tier: QueryTier, lake: Lake) -> None:
    newer = pa.schema([*RUNS, pa.field("mood", pa.string())])
    lake.add_runs([run(JANUARY_MS, mood="calm")], schema=newer)
    lake.add_runs([run(JANUARY_MS + DAY_MS)])
    assert await rows(tier, lake, "SELECT mood FROM runs ORDER BY day") == [("calm",), (None,)]


async def test_hot_runs_that_were_too_many_are_said_to_be_missing(
    tier: QueryTier, lake: Lake
) -> None:
    lake.hot_left_out = 12
    answer = await tier.run(TENANT, "FROM runs", lake.snapshot)
    assert answer.skipped == ("12 runs that ended and wait to be archived: too many to read",)
    assert (await tier.run(TENANT, "SELECT 1", lake.snapshot)).skipped == ()


async def test_queries_at_once_see_each_their_own_moment(tier: QueryTier, lake: Lake) -> None:
    """One database, one view of the name `runs` for each connection."""
    lake.add_runs([run(JANUARY_MS)])
    moments = [Lake(lake.directory, run_files=lake.run_files) for _ in range(12)]
    seen: dict[int, object] = {}

    async def ask(number: int) -> None:
        moments[number].hot = [run(JANUARY_MS + at) for at in range(number)]
        answer = await tier.run(TENANT, "SELECT count(*) FROM runs", moments[number].snapshot)
        seen[number] = answer.rows[0][0]

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(ask, number)
    assert seen == {number: number + 1 for number in range(12)}


async def test_steps_are_joined_with_runs(tier: QueryTier, lake: Lake) -> None:
    archived, hot = run(JANUARY_MS, component="a"), run(JANUARY_MS, took_ms=None, component="b")
    lake.add_runs([archived])
    lake.add_steps([step(archived, 0), step(archived, 1)])
    lake.hot, lake.hot_steps = [hot], [step(hot, 0)]
    sql = """SELECT runs.component, count(*) AS steps FROM runs JOIN steps USING (run_id)
             GROUP BY ALL ORDER BY ALL"""
    assert await rows(tier, lake, sql) == [("a", 2), ("b", 1)]


async def test_hot_steps_are_built_only_for_those_who_ask(tier: QueryTier, lake: Lake) -> None:
    lake.hot = [run(JANUARY_MS)]
    await rows(tier, lake, "SELECT count(*) FROM runs")
    await rows(tier, lake, "SELECT 'steps', steps.run_id FROM runs AS steps")
    assert lake.hot_steps_built == 0
    await rows(tier, lake, "SELECT 1 FROM runs WHERE run_id IN (SELECT run_id FROM steps)")
    assert lake.hot_steps_built == 1


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("TRUE", True),
        ("NULL", None),
        ("9223372036854775807", 2**63 - 1),
        ("18446744073709551615::UBIGINT", 2**64 - 1),
        ("170141183460469231731687303715884105727", "170141183460469231731687303715884105727"),
        ("sum(9223372036854775807) FROM range(2)", 2**64 - 2),
        ("'nan'::DOUBLE", None),
        ("'-inf'::FLOAT", None),
        ("1.50", 1.5),
        ("12345678901234567890.123", "12345678901234567890.123"),
        ("DATE '2026-02-03'", "2026-02-03"),
        ("TIMESTAMP '2026-02-03 04:05:06.789'", "2026-02-03T04:05:06.789"),
        ("TIMESTAMPTZ '2026-02-03 04:05:06+02'", "2026-02-03T02:05:06Z"),
        ("'infinity'::TIMESTAMP", "infinity"),
        ("TIME '04:05'", "04:05:00"),
        ("INTERVAL 400 DAYS", "400 days"),
        (r"'\xFF\x00'::BLOB", "/wA="),
        ("uuid '55f18bbb-ee7c-4857-ab7a-d72b79edae7b'", "55f18bbb-ee7c-4857-ab7a-d72b79edae7b"),
        ("[1, NULL, 3]", [1, None, 3]),
        ("MAP {'a': 1}", {"a": 1}),
        ("{'n': 'nan'::DOUBLE, 'deep': [{'x': 'ü\"'}]}", {"n": None, "deep": [{"x": 'ü"'}]}),
        ("[170141183460469231731687303715884105727]", ["170141183460469231731687303715884105727"]),
        ("""'{"a": [1, "b"]}'::JSON -> 'a'""", [1, "b"]),
        ("'a'::ENUM('a', 'b')", "a"),
        ("'Ελλάδα 漢字 🐍 ‮'", "Ελλάδα 漢字 🐍 ‮"),
    ],
)
async def test_values_are_what_json_can_carry(
    tier: QueryTier, lake: Lake, sql: str, value: object
) -> None:
    answer = await tier.run(TENANT, f"SELECT {sql}", lake.snapshot)
    assert answer.rows == ((value,),)
    assert type(answer.rows[0][0]) is type(value)
    assert msgspec.json.decode(msgspec.json.encode(answer))["rows"] == [[value]]


async def test_types_are_named_and_columns_may_share_a_name(tier: QueryTier, lake: Lake) -> None:
    answer = await tier.run(TENANT, "SELECT 1 AS a, now() AS a, 'x' AS b", lake.snapshot)
    assert answer.columns == ("a", "a", "b")
    assert answer.types == ("INTEGER", "TIMESTAMP WITH TIME ZONE", "VARCHAR")
    assert math.isfinite(answer.elapsed_ms)


async def test_order_and_trailing_comments_survive_the_limits(tier: QueryTier, lake: Lake) -> None:
    sql = "SELECT i FROM range(50000) t(i) ORDER BY i DESC -- newest first\n;"
    answer = await tier.run(TENANT, sql, lake.snapshot, rows_max=5_000)
    assert [row[0] for row in answer.rows] == list(range(49_999, 44_999, -1))
    assert answer.truncated
    whole = await tier.run(TENANT, "SELECT i FROM range(50) t(i)", lake.snapshot, rows_max=50)
    assert len(whole.rows) == 50
    assert not whole.truncated


async def test_an_answer_is_cut_at_its_bytes(pool: QueryPool, lake: Lake) -> None:
    settings = QuerySettings(answer_bytes_max=100_000)
    tier = QueryTier(pool, settings, Reports(), stream_of)
    sql = f"SELECT '{'x' * 1_000}' FROM range(1000)"
    answer = await tier.run(TENANT, sql, lake.snapshot)
    assert answer.truncated
    assert 90 <= len(answer.rows) < 100


async def test_a_row_limit_that_makes_no_sense_is_refused(tier: QueryTier, lake: Lake) -> None:
    with pytest.raises(InvalidInput):
        await tier.run(TENANT, "SELECT 1", lake.snapshot, rows_max=0)


async def test_arrow_has_the_same_rows_with_their_own_types(tier: QueryTier, lake: Lake) -> None:
    lake.add_runs([run(JANUARY_MS, tags=[("a", "b")], cost_usd=0.25)])
    lake.hot = [run(JANUARY_MS + DAY_MS)]
    sql = "SELECT run_id, tags, cost_usd, day, now() AS at FROM runs ORDER BY day"
    answer = await tier.run_arrow(TENANT, sql, lake.snapshot, rows_max=1)
    read = pa.ipc.open_stream(answer.stream).read_all()
    assert answer.truncated
    assert read.num_rows == 1
    assert read.column("tags")[0].as_py() == [("a", "b")]
    assert read.schema.field("day").type == pa.date32()
    assert read.schema.field("at").type == pa.timestamp("us", tz="UTC")


@pytest.mark.parametrize(
    ("sql", "line", "hint"),
    [
        ("SELECT run_id,\n  nope FROM runs", "LINE 2:   nope", "nope"),
        ("SELEC 1", "LINE 1: SELEC 1", "syntax error"),
        ("SELECT nofunction(1)", "LINE 1: SELECT nofunction(1)", "nofunction"),
        ("", "", "one SELECT"),
        ("-- nothing", "", "one SELECT"),
        ("SELECT ?", "", "parameters"),
        ("SELECT CAST(component AS INTEGER) FROM runs", "", "greet"),
    ],
)
async def test_wrong_sql_is_told_where(
    tier: QueryTier, lake: Lake, sql: str, line: str, hint: str
) -> None:
    lake.add_runs([run(JANUARY_MS)])
    with pytest.raises(InvalidQuery) as caught:
        await tier.run(TENANT, sql, lake.snapshot)
    assert line in caught.value.message
    assert hint in caught.value.message
    assert "hot_runs" not in caught.value.message
    assert lake.root not in caught.value.message


@pytest.mark.parametrize("depth", [200, 400, 5_000])
async def test_endless_nesting_is_an_error_and_no_crash(
    tier: QueryTier, lake: Lake, depth: int
) -> None:
    sums = "SELECT " + " + ".join(["1"] * depth)
    queries = "SELECT * FROM " + "(SELECT * FROM " * depth + "runs" + ")" * depth
    for sql in (sums, queries):
        with pytest.raises(InvalidQuery):
            await tier.run(TENANT, sql, lake.snapshot)
    with contextlib.suppress(InvalidQuery):
        await tier.run(TENANT, "SELECT " + "(" * depth + "1" + ")" * depth, lake.snapshot)
    assert await rows(tier, lake, "SELECT 1") == [(1,)]


async def test_a_long_list_of_conditions_is_not_deep(tier: QueryTier, lake: Lake) -> None:
    alternatives = " OR ".join(f"component = 'c{number}'" for number in range(500))
    assert await rows(tier, lake, f"SELECT count(*) FROM runs WHERE {alternatives}") == [(0,)]


async def test_sql_has_a_length(tier: QueryTier, lake: Lake) -> None:
    with pytest.raises(InvalidQuery, match="characters"):
        await tier.run(TENANT, "SELECT '" + "x" * 300_000 + "'", lake.snapshot)


async def test_a_query_that_takes_too_long_is_stopped(lake: Lake) -> None:
    settings = QuerySettings(time_limit_ms=150)
    async with tier_over(StoreAccess(root=lake.root), settings=settings) as impatient:
        with pytest.raises(QueryTimeout, match="150 ms"):
            await impatient.run(TENANT, "SELECT count(*) FROM range(1000000000000)", lake.snapshot)
        # The tenant's database is well, and asks for no patience.
        assert (await impatient.run(TENANT, "SELECT 1", lake.snapshot)).rows == ((1,),)


async def test_a_query_that_needs_too_much_is_stopped_and_harms_nobody(
    lake: Lake, tmp_path: Path
) -> None:
    settings = QuerySettings(
        instances_max=1,
        running_max=1,
        memory_bytes=32 * 2**20,
        temporary_bytes=8 * 2**20,
        temporary_directory=str(tmp_path),
    )
    sql = "SELECT count(*) FROM (SELECT DISTINCT i, md5(i::VARCHAR) FROM range(5000000) t(i))"
    async with tier_over(StoreAccess(root=lake.root), settings=settings) as tier:
        with pytest.raises(QueryTooLarge, match="memory"):
            await tier.run(TENANT, sql, lake.snapshot)
        assert (await tier.run(OTHER, "SELECT 1", lake.snapshot)).rows == ((1,),)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("engine-query-")]


@pytest.mark.parametrize("damage", ["short", "empty", "garbage", "body", "gone"])
async def test_a_file_that_cannot_be_read_is_named_and_the_others_answer(
    tier: QueryTier, lake: Lake, reports: Reports, clock: ManualClock, damage: str
) -> None:
    for day in range(3):
        lake.add_runs([run(JANUARY_MS + day * DAY_MS + at, output=f"{at}" * 9) for at in range(99)])
    bad = lake.run_files[1]
    path = lake.path(bad)
    whole = path.read_bytes()
    damaged = {
        "short": whole[: len(whole) // 2],
        "empty": b"",
        "garbage": b"\x00" * len(whole),
        "body": whole[:100] + bytes(len(whole) // 2) + whole[100 + len(whole) // 2 :],
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    sql = "SELECT count(*), count(COLUMNS(*)) FROM runs"
    answer = await tier.run(TENANT, sql, lake.snapshot)
    assert answer.rows[0][0] == 198
    (skipped,) = answer.skipped
    assert skipped.startswith("runs/tenant=acme/day=2026-01-02/runs-00000002.parquet: ")
    assert [(tenant, file) for tenant, file, _ in reports] == [(TENANT, bad)]
    # It is left out at once from now on, and said so, and tried again after a while.
    again = await tier.run(TENANT, sql, lake.snapshot)
    assert again.skipped == answer.skipped
    assert len(reports) == 1
    path.write_bytes(whole)
    clock.advance_us(61_000_000)
    mended = await tier.run(TENANT, sql, lake.snapshot)
    assert mended.rows[0][0] == 297
    assert mended.skipped == ()


async def test_a_users_error_that_reads_like_a_damaged_file_is_the_users(
    tier: QueryTier, lake: Lake, reports: Reports
) -> None:
    lake.add_runs([run(JANUARY_MS)])
    with pytest.raises(InvalidQuery):
        await tier.run(
            TENANT,
            f"SELECT error('No magic bytes in \"{lake.run_files[0]}\"') FROM runs",
            lake.snapshot,
        )
    assert reports == []


async def test_files_that_come_after_the_first_query_are_read(tier: QueryTier, lake: Lake) -> None:
    """What a process may read is settled when it is begun, and the tenant had nothing then."""
    sql = "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM steps)"
    assert await rows(tier, lake, sql) == [(0, 0)]
    assert (await tier.list_runs(TENANT, RunFilter(), RunPage(()), lake.snapshot())).runs == ()
    archived = run(JANUARY_MS)
    lake.add_runs([archived])
    assert await rows(tier, lake, sql) == [(1, 0)]
    lake.add_steps([step(archived, 0)])
    assert await rows(tier, lake, sql) == [(1, 1)]
    page = await tier.list_runs(TENANT, RunFilter(), RunPage(()), lake.snapshot())
    assert [view.run_id for view in page.runs] == [archived["run_id"]]


async def test_joins_of_hot_and_cold_runs_with_a_filter_are_right(
    tier: QueryTier, lake: Lake
) -> None:
    """DuckDB pushes a filter of the join into the scan of the hot rows: they have to stand in a
    table, that can carry it out."""
    archived = [
        run(JANUARY_MS + at, status="FAILED" if at % 2 else "COMPLETED") for at in range(400)
    ]
    lake.add_runs(archived)
    lake.add_steps([step(one, position) for one in archived for position in range(3)])
    lake.hot = [run(JANUARY_MS + at, status="FAILED", took_ms=5) for at in range(400, 410)]
    lake.hot_steps = [step(one, 0) for one in lake.hot]
    for sql, expected in (
        ("SELECT count(*) FROM steps s JOIN runs r USING (run_id) WHERE r.status = 'FAILED'", 610),
        (
            "SELECT count(*) FROM steps WHERE run_id IN "
            "(SELECT run_id FROM runs WHERE status = 'FAILED')",
            610,
        ),
        (
            "SELECT count(*) FROM (SELECT r.run_id, s.name FROM runs r JOIN steps s "
            "USING (run_id) WHERE r.status = 'FAILED' LIMIT 5)",
            5,
        ),
    ):
        assert await rows(tier, lake, sql) == [(expected,)], sql
