"""SQL that tries to leave its tenant. Two walls, each tested alone: the check of the statement's
tree, and the locked database behind it, which must hold even if the first one had a hole."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from engine.archive.files.interchange import stream_of
from engine.base.errors import ArchiveUnreachable, InvalidQuery, QueryRefused
from engine.query.child.database import Databases, Session
from engine.query.child.failures import ReadingFailed
from engine.query.child.statements import REFUSED_FUNCTIONS
from engine.query.ports import StoreAccess
from engine.query.query import QueryTier
from tests.query.conftest import SETTINGS, tier_over
from tests.query.lake import JANUARY_MS, OTHER, TENANT, Lake, run

PASSWD = "/etc/passwd"


@pytest.fixture
def places(lake: Lake) -> dict[str, str]:
    """What the attempts below speak of: {own}, {other} and so on."""
    (own,) = lake.add_runs([run(JANUARY_MS)])
    (other,) = lake.add_runs([run(JANUARY_MS, component="secret")], tenant=OTHER)
    inside = other.removeprefix(f"{lake.root}/runs/tenant={OTHER}/")
    return {
        "own": own,
        "other": other,
        "dotted": f"{lake.root}/runs/tenant={TENANT}/../tenant={OTHER}/{inside}",
        "all": f"{lake.root}/runs/*/*/*.parquet",
        "beside": f"{lake.root}/runs/tenant={TENANT}x/a.parquet",
        "root": lake.root,
        "home": str(Path.home()),
    }


# Whoever reads what is not a view of ours, by every function and way of writing that we know.
LEAVES = [
    "FROM '{other}'",
    'SELECT * FROM "{other}"',
    "FROM '{own}'",
    "FROM '{dotted}'",
    "FROM '{all}'",
    "FROM read_parquet('{other}')",
    "FROM read_parquet(['{own}', '{other}'])",
    "FROM parquet_scan('{other}')",
    "FROM read_parquet('{dotted}')",
    "FROM parquet_metadata('{other}')",
    "FROM parquet_schema('{other}')",
    "FROM parquet_file_metadata('{other}')",
    "FROM parquet_kv_metadata('{other}')",
    "FROM parquet_full_metadata('{other}')",
    "FROM parquet_bloom_probe('{other}', 'run_id', 'x')",
    "FROM read_csv('/etc/passwd')",
    "FROM read_csv_auto('/etc/passwd')",
    "FROM sniff_csv('/etc/passwd')",
    "FROM read_json('/etc/passwd')",
    "FROM read_ndjson_objects('/etc/passwd')",
    "FROM read_text('/etc/passwd')",
    "FROM read_blob('/etc/passwd')",
    "FROM read_duckdb('/tmp/x.db')",
    "FROM glob('{all}')",
    "FROM glob('/etc/*')",
    "FROM '/etc/passwd'",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT * FROM runs WHERE component IN (SELECT content FROM read_text('/etc/passwd'))",
    "WITH a AS (FROM read_text('/etc/passwd')) SELECT * FROM a, runs",
    "WITH a AS (SELECT 1) SELECT * FROM (WITH b AS (FROM '{other}') FROM b)",
    "WITH RECURSIVE a AS (SELECT 1 UNION ALL FROM '{other}') FROM a",
    "SELECT * FROM runs, LATERAL (FROM read_text('/etc/passwd'))",
    "SELECT * FROM runs JOIN '{other}' USING (run_id)",
    "(SELECT 1) UNION ALL (SELECT component FROM '{other}')",
    "PIVOT '{other}' ON status IN ('FAILED') USING count(*)",
    "DESCRIBE FROM '{other}'",
    "SUMMARIZE '{other}'",
    "SELECT 1 /* */ FROM /* runs */ read_text/**/('/etc/passwd') -- runs",
    "FROM 'https://example.org/x.parquet'",
    "FROM 's3://bucket/engine/runs/tenant=umbra/day=2026-01-01/runs-1.parquet'",
]
# What tells about the database, or runs SQL that the tree does not show.
MACHINERY = [
    "FROM query('SELECT 42')",
    "FROM query_table('runs')",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 42'))",
    "FROM duckdb_secrets()",
    "FROM which_secret('{own}', 's3')",
    "FROM duckdb_settings()",
    "FROM duckdb_views()",
    "FROM duckdb_views",
    "FROM duckdb_databases()",
    "FROM duckdb_external_file_cache()",
    "FROM duckdb_temporary_files()",
    "FROM duckdb_logs",
    "FROM duckdb_prepared_statements()",
    "FROM duckdb_variables()",
    "FROM information_schema.tables",
    "FROM pg_catalog.pg_settings",
    "FROM sqlite_master",
    "FROM main.runs",
    "FROM temp.main.runs",
    "FROM hot_runs",
    "FROM pragma_table_info('runs')",
    "FROM pragma_database_size()",
    "FROM enable_logging()",
    "FROM checkpoint()",
    "FROM arrow_scan(1, 2, 3)",
    "FROM pandas_scan(1)",
    "FROM seq_scan(1)",
    "FROM histogram('{own}', 'a')",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "SHOW DATABASES",
    "SELECT current_setting('allowed_directories')",
    "SELECT CURRENT_SETTING('s3_secret_access_key')",
    "SELECT \"current_setting\"('temp_directory')",
    "SELECT getvariable('x')",
    "SELECT write_log('x')",
    "SELECT sleep_ms(1)",
    "SELECT length(repeat('x', 1000000000))",
    "SELECT len(range(5000000000))",
    "FROM unnest(generate_series(1, 5000000000))",
    "SELECT lpad('x', 1000000000, 'y')",
    "SELECT format('{{:1000000000}}', 1)",
    "SELECT list_resize([1], 1000000000)",
    "SELECT levenshtein(a.input, b.input) FROM runs a, runs b",
    "SELECT length(replace(input, 'a', (SELECT string_agg(input) FROM runs))) FROM runs",
    "SELECT replace(replace(input, 'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa') FROM runs",
    "SELECT regexp_replace(input, '', input, 'g') FROM runs",
    "SELECT input.replace('a', output) FROM runs",
]
# What is no SELECT, or more than one.
STATEMENTS = [
    "COPY (SELECT 1) TO '{root}/runs/tenant=acme/x.csv'",
    "COPY runs FROM '/etc/passwd'",
    "COPY (SELECT 1) TO '/tmp/x.csv'",
    "EXPORT DATABASE '/tmp/x'",
    "IMPORT DATABASE '/tmp/x'",
    "ATTACH '/tmp/x.db' AS x",
    "DETACH memory",
    "USE memory",
    "INSTALL spatial",
    "LOAD httpfs",
    "LOAD '/tmp/x.duckdb_extension'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET lock_configuration",
    "SET VARIABLE x = 1",
    "PRAGMA threads = 1",
    "PRAGMA table_info('runs')",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CALL enable_logging()",
    "CREATE SECRET x (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE OR REPLACE SECRET archive (TYPE s3)",
    "DROP SECRET archive",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP VIEW runs AS SELECT 1",
    "CREATE MACRO a() AS TABLE FROM read_text('/etc/passwd')",
    "CREATE FUNCTION a() AS 1",
    "INSERT INTO runs VALUES (1)",
    "UPDATE runs SET status = 'x'",
    "DELETE FROM runs",
    "DROP VIEW runs",
    "ALTER VIEW runs RENAME TO x",
    "PREPARE a AS SELECT 1",
    "EXECUTE a",
    "DEALLOCATE a",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE FROM '{other}'",
    "BEGIN",
    "COMMIT",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW runs",
    "SELECT 1;; SET threads = 1 --",
    "SELECT ';'; COPY runs TO 'x'",
    "PIVOT runs ON status USING count(*)",
]


@pytest.mark.parametrize("attempts", [LEAVES, MACHINERY, STATEMENTS])
async def test_the_first_wall_refuses_and_says_so(
    tier: QueryTier,
    lake: Lake,
    places: dict[str, str],
    attempts: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "engine.query")
    for sql in attempts:
        caplog.clear()
        with pytest.raises(QueryRefused) as caught:
            await tier.run(TENANT, sql.format_map(places), lake.snapshot)
        assert "secret\n" not in caught.value.message, sql
        (record,) = caplog.records
        assert record.__dict__["tenant_id"] == TENANT, sql
        assert record.__dict__["reason"] == caught.value.message, sql


@pytest.mark.parametrize("sql", [sql for sql in LEAVES if "'{own}'" not in sql or "other" in sql])
async def test_the_second_wall_holds_alone(
    databases: Databases, places: dict[str, str], sql: str
) -> None:
    """The same, straight to the database: DuckDB itself refuses every file that is not the
    tenant's."""

    def attempt(session: Session) -> object:
        session.execute("CREATE TEMP VIEW runs AS SELECT 'x' AS run_id, 'y' AS component")
        return session.execute(sql.format_map(places))

    with (
        databases.session(TENANT) as session,
        pytest.raises((QueryRefused, InvalidQuery, ReadingFailed)) as caught,
    ):
        attempt(session)
    if not isinstance(caught.value, QueryRefused):
        # Nothing was refused because nothing was found: no protocol, no table of that name.
        assert re.search("s3://|https://|FROM '/etc/passwd'|bloom_probe", sql), caught.value


async def test_dots_in_an_s3_address_pass_the_second_wall(
    s3_access: StoreAccess, lake: Lake, tmp_path: Path
) -> None:
    """DuckDB resolves `..` in a path before it compares, and not in an address: what keeps these
    out is the first wall, and that an object store has keys and no directories. If this fails,
    DuckDB has learned it: then move the address to the test below and drop the sentence in the
    decision record."""
    dotted = "s3://bucket/engine/runs/tenant=acme/../tenant=umbra/a.parquet"
    databases = Databases(SETTINGS, s3_access, tmp_path, open_max=1)
    async with tier_over(s3_access) as tier:
        for sql in (f"FROM '{dotted}'", f"FROM read_parquet('{dotted}')"):
            with pytest.raises(QueryRefused):
                await tier.run(TENANT, sql, lake.snapshot)
    with (
        databases.session(TENANT) as session,
        pytest.raises(ReadingFailed, match="Could not connect"),
    ):
        session.execute(f"FROM read_parquet('{dotted}')")
    databases.close()


@pytest.mark.parametrize(
    "sql",
    [
        # Not the WITH, but the catalog, is asked inside of it, before it and outside of it.
        'WITH "{name}" AS (FROM "{name}") FROM "{name}"',
        'WITH a AS (FROM "{name}"), "{name}" AS (SELECT 1) FROM a',
        'FROM "{name}" WHERE 1 IN (WITH "{name}" AS (SELECT 1 AS x) SELECT x FROM "{name}")',
    ],
)
async def test_a_name_that_a_with_gives_opens_no_other_door(
    tier: QueryTier, lake: Lake, places: dict[str, str], sql: str
) -> None:
    connection = duckdb.connect()
    internal = connection.execute("SELECT view_name FROM duckdb_views() WHERE internal").fetchall()
    assert len(internal) > 20
    dotted = "s3://bucket/engine/runs/tenant=acme/../tenant=umbra/a.parquet"
    # Those of information_schema and of pg_catalog alone need their schema before them.
    own = {name for (name,) in internal if _is_found(connection, name)}
    for name in {places["other"], places["dotted"], dotted, "hot_runs", "HOT_STEPS", *own}:
        with pytest.raises(QueryRefused, match="a WITH cannot be named"):
            await tier.run(TENANT, sql.format(name=name), lake.snapshot)


def _is_found(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    try:
        connection.execute(f'FROM "{name}" LIMIT 0')
    except duckdb.Error:
        return False
    return True


@pytest.mark.parametrize("columns", [",".join(["1"] * 20_000), ",".join(["*"] * 100)])
async def test_an_answer_is_only_so_wide(tier: QueryTier, lake: Lake, columns: str) -> None:
    """The driver takes the square of it, and hears nothing meanwhile: 20,000 took 40 s."""
    with pytest.raises(InvalidQuery, match=r"columns, it can have 1000"):
        await tier.run(TENANT, f"SELECT {columns} FROM runs", lake.snapshot)


async def test_a_number_beyond_all_doubles_is_the_users_fault(tier: QueryTier, lake: Lake) -> None:
    with pytest.raises(InvalidQuery, match="too large"):
        await tier.run(TENANT, "SELECT 1e400", lake.snapshot)


@pytest.mark.parametrize(
    "sql",
    [
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "RESET lock_configuration",
        "SET allowed_directories = ['/']",
        "SET GLOBAL temp_directory = '/tmp'",
        "SET python_enable_replacements = true",
        "SET autoload_known_extensions = true",
        "ATTACH '/tmp/x.db' AS x",
        "INSTALL spatial",
        "LOAD '/tmp/x.duckdb_extension'",
        "EXPORT DATABASE '/tmp/x'",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "COPY (SELECT 1) TO '{beside}'",
        "CREATE TABLE t AS FROM '{other}'",
    ],
)
async def test_the_lock_is_duckdbs_own(
    databases: Databases, places: dict[str, str], sql: str
) -> None:
    with databases.session(TENANT) as session, pytest.raises((QueryRefused, InvalidQuery)):
        session.execute(sql.format_map(places))
    assert not os.path.exists(places["beside"])  # noqa: ASYNC240


async def test_variables_of_our_frames_are_not_tables(tier: QueryTier, lake: Lake) -> None:
    files = pa.table({"a": [1]})  # a name that stands in frames of ours, and here
    assert files.num_rows == 1
    for name in ("files", "lake", "session", "sql"):
        with pytest.raises(QueryRefused):
            await tier.run(TENANT, f"FROM {name}", lake.snapshot)


async def test_the_second_wall_knows_no_variables(databases: Databases) -> None:
    local_table = pa.table({"a": [1]})

    def attempt(session: Session) -> object:
        inner_table = local_table
        return session.execute(f"FROM {'inner_table' if inner_table else ''}")

    with (
        databases.session(TENANT) as session,
        pytest.raises(InvalidQuery, match="inner_table does not exist"),
    ):
        attempt(session)


async def test_queries_of_one_tenant_do_not_see_each_others_views(databases: Databases) -> None:
    with databases.session(TENANT) as one, databases.session(TENANT) as two:
        one.store("hot_runs", b"".join(stream_of(pa.table({"a": [1]}))))
        assert one.execute("FROM hot_runs") == [(1,)]
        with pytest.raises(InvalidQuery, match="hot_runs does not exist"):
            two.execute("FROM hot_runs")


@pytest.fixture
def s3_access() -> StoreAccess:
    return StoreAccess(
        root="s3://bucket/engine",
        endpoint="127.0.0.1:9",
        access_key="AKIAVISIBLEKEY",
        secret_key="thesecretkey",
        session_token="thesessiontoken",
        secure=False,
    )


HIDDEN = ("AKIAVISIBLEKEY", "thesecretkey", "thesessiontoken", "127.0.0.1:9")


@pytest.mark.parametrize(
    "sql", ["FROM duckdb_secrets()", "FROM duckdb_settings()", "SHOW ALL TABLES", "FROM runs"]
)
async def test_keys_of_the_store_cannot_be_read(
    s3_access: StoreAccess, lake: Lake, sql: str
) -> None:
    lake.run_files = ["s3://bucket/engine/runs/tenant=acme/day=2026-01-01/runs-1.parquet"]
    async with tier_over(s3_access) as tier:
        with pytest.raises((QueryRefused, ArchiveUnreachable)) as caught:
            await tier.run(TENANT, sql, lake.snapshot)
    said = f"{caught.value} {getattr(caught.value, 'details', '')}"
    assert not [hidden for hidden in HIDDEN if hidden in said]


async def test_behind_the_first_wall_secrets_are_still_redacted(
    s3_access: StoreAccess, tmp_path: Path
) -> None:
    """Even SQL of ours cannot get them back: not as settings, not as a secret."""
    databases = Databases(SETTINGS, s3_access, tmp_path, open_max=1)
    with databases.session(TENANT) as session:
        shown = str(
            session.execute("FROM duckdb_secrets()")
            + session.execute("SELECT name, value FROM duckdb_settings()")
        )
        with pytest.raises(InvalidQuery):
            session.execute("SELECT * FROM duckdb_secrets(redact = false)")
    databases.close()
    assert "thesecretkey" not in shown
    assert "thesessiontoken" not in shown


async def test_s3_of_other_tenants_is_refused_before_any_request(
    s3_access: StoreAccess, tmp_path: Path
) -> None:
    databases = Databases(SETTINGS, s3_access, tmp_path, open_max=1)
    others = [
        "s3://bucket/engine/runs/tenant=umbra/day=2026-01-01/a.parquet",
        "s3://bucket/engine/runs/tenant=acmex/a.parquet",
        "s3://bucket/engine/runs/*/day=2026-01-01/a.parquet",
        "s3://other/engine/runs/tenant=acme/a.parquet",
        "https://bucket.s3.amazonaws.com/engine/runs/tenant=acme/a.parquet",
        "/etc/passwd",
        "file:///etc/passwd",
    ]
    with databases.session(TENANT) as session:
        for other in others:
            for function in ("read_parquet", "read_text", "glob"):
                with pytest.raises(QueryRefused):
                    session.execute(f"FROM {function}('{other}')")
    databases.close()


async def test_scratch_of_other_tenants_is_not_readable(lake: Lake, tmp_path: Path) -> None:
    """DuckDB adds its scratch directory to what may be read: each database has its own."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    databases = Databases(SETTINGS, StoreAccess(root=lake.root), scratch, open_max=4)
    with databases.session(TENANT):
        (mine,) = os.listdir(scratch)
        with databases.session(OTHER) as session:
            for place in (f"{scratch}/{mine}/*", f"{scratch}/*"):
                with pytest.raises(QueryRefused):
                    session.execute(f"FROM glob('{place}')")
    databases.close()


async def test_every_refused_function_exists(databases: Databases) -> None:
    """A name that DuckDB has dropped or renamed would be a hole that looks like a wall."""
    with databases.session(TENANT) as session:
        found = session.execute("SELECT DISTINCT lower(function_name) FROM duckdb_functions()")
    assert {name for (name,) in found} >= REFUSED_FUNCTIONS


HONEST = [
    "FROM runs",
    "from RUNS",
    'SELECT * FROM "runs" AS r',
    "TABLE runs",
    "VALUES (1)",
    "WITH a AS (FROM runs), b AS (FROM a) FROM b",
    "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < 5) FROM t",
    "DESCRIBE runs",
    "SUMMARIZE runs",
    "PIVOT runs ON status IN ('FAILED') USING count(*)",
    "UNPIVOT (SELECT tokens_in, tokens_out FROM runs) ON tokens_in, tokens_out",
    "SELECT * FROM range(3), unnest([1]), generate_series(1, 2)",
    "SELECT j.key FROM json_each('{\"a\": 1}') j",
    "SELECT r.* FROM runs r SEMI JOIN steps USING (run_id);",
    "SELECT run_id FROM runs QUALIFY row_number() OVER (PARTITION BY status) = 1",
    "SELECT 'COPY; DROP' AS \"read_text('/etc/passwd')\" -- ATTACH",
    "SELECT list_transform([1], lambda x: x + 1)",
    "(SELECT 1) UNION ALL (SELECT count(*) FROM runs) ORDER BY 1 LIMIT 1",
]


async def test_an_honest_select_is_let_through(tier: QueryTier, lake: Lake) -> None:
    lake.add_runs([run(JANUARY_MS)])
    for sql in HONEST:
        await tier.run(TENANT, sql, lake.snapshot)
