"""The processes of queries: whose they are, whose turn it is, and that what is left stops."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from engine.base import limits
from engine.base.clock import ManualClock
from engine.base.errors import EngineError, InvalidSettings, QueryBusy, QueryTimeout, QueryTooLarge
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.config.settings import load_settings
from engine.query import messages
from engine.query.child.database import Databases
from engine.query.pool import QueryPool, Turn, open_pool
from engine.query.ports import StoreAccess
from tests.query.lake import OTHER, TENANT

ENDLESS = "SELECT count(*) FROM range(1000000000000000)"
# Bound for minutes, and deaf meanwhile: each doubles what the last one is.
DEAF = "WITH a0 AS (SELECT 1 AS x)" + "".join(
    f", a{n} AS (SELECT 1 AS x FROM a{n - 1} p, a{n - 1} q)" for n in range(1, 40)
)
DEAF += " SELECT * FROM a39"


@asynccontextmanager
async def pool_of(tmp_path: Path, **settings: int) -> AsyncIterator[QueryPool]:
    async with open_pool(QuerySettings(**settings), StoreAccess(root=str(tmp_path))) as pool:
        yield pool


async def rows(turn: Turn, sql: str) -> messages.Rows:
    request = messages.Select(sql=sql, views=(), unreadable={}, rows_max=10, bytes_max=10_000)
    answered = await turn.read(request, parts_bytes_max=100_000)
    return tuple(row for part in answered.parts for row in messages.decode_rows(part))


async def ask(pool: QueryPool, sql: str, tenant: TenantId = TENANT) -> messages.Rows:
    async with pool.use(tenant) as turn:
        return await rows(turn, sql)


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not is_so():
            await trio.lowlevel.checkpoint()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_caller_who_leaves_stops_the_query(tmp_path: Path) -> None:
    async with pool_of(tmp_path) as pool:
        with trio.move_on_after(1):
            await ask(pool, ENDLESS)
        assert pool.statistics().running == 0
        assert await ask(pool, "SELECT 1") == ((1,),)
        # It heard, and remembers what it knew of the files.
        assert pool.statistics().opened == 1


async def test_a_query_that_does_not_hear_is_ended_with_its_process(tmp_path: Path) -> None:
    async with pool_of(tmp_path, time_limit_ms=500) as pool:
        async with pool.use(TENANT) as turn:
            pid = turn.process.pid
        with trio.fail_after(2), pytest.raises((QueryTimeout, QueryTooLarge)):
            await ask(pool, DEAF)
        await until(lambda: not is_alive(pid))
        assert await ask(pool, "SELECT 1") == ((1,),)
        assert pool.statistics().opened == 2


async def test_a_process_of_one_tenant_never_serves_another(tmp_path: Path) -> None:
    async with pool_of(tmp_path, instances_max=2, running_max=2) as pool:
        served: dict[int, set[str]] = {}
        for name in ("a", "b", "a", "c", "b", "a", "c"):
            async with pool.use(TenantId(name)) as turn:
                served.setdefault(turn.process.pid, set()).add(name)
                await rows(turn, "SELECT 1")
            await until(lambda: pool.statistics().open <= 2)
        assert all(len(tenants) == 1 for tenants in served.values()), served


async def test_the_process_used_longest_ago_makes_room(tmp_path: Path) -> None:
    async with pool_of(tmp_path, instances_max=2, running_max=2) as pool:
        for name in ("a", "b", "a", "c"):
            await ask(pool, "SELECT 1", TenantId(name))
        assert pool.statistics().opened == 3
        await ask(pool, "SELECT 1", TenantId("a"))
        assert pool.statistics().opened == 3
        await ask(pool, "SELECT 1", TenantId("b"))
        assert pool.statistics().opened == 4


async def test_queries_at_once_have_a_process_each(tmp_path: Path) -> None:
    async with (
        pool_of(tmp_path) as pool,
        pool.use(TENANT) as one,
        pool.use(TENANT) as two,
    ):
        assert one.process.pid != two.process.pid
        os.kill(one.process.pid, signal.SIGKILL)
        with pytest.raises(QueryTooLarge):
            await rows(one, "SELECT 1")
        assert await rows(two, "SELECT 2") == ((2,),)


async def test_a_crash_is_an_answer_and_the_next_query_has_a_new_process(tmp_path: Path) -> None:
    async with pool_of(tmp_path) as pool:

        async def crash() -> None:
            (process,) = pool.queries.processes
            await until(lambda: process not in pool.queries.idle)
            os.kill(process.pid, signal.SIGSEGV)

        await ask(pool, "SELECT 1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            with pytest.raises(EngineError, match="SIGSEGV"):
                await ask(pool, ENDLESS)
        assert await ask(pool, "SELECT 1") == ((1,),)


async def test_no_process_outlives_the_pool(tmp_path: Path) -> None:
    async with pool_of(tmp_path) as pool:
        async with pool.use(TENANT) as one, pool.use(OTHER, pool.lists) as two:
            pids = [one.process.pid, two.process.pid]
        assert all(map(is_alive, pids))
    assert not any(map(is_alive, pids))


async def test_lists_do_not_wait_for_queries(tmp_path: Path) -> None:
    async with pool_of(tmp_path, running_max=1, instances_max=1) as pool, pool.use(TENANT):
        with trio.fail_after(30):
            async with pool.use(TENANT, pool.lists) as turn:
                assert turn.process.tenant is None


async def test_one_process_of_lists_stays_however_long_nobody_lists(tmp_path: Path) -> None:
    """So that who lists after a pause waits for the page alone."""
    clock = ManualClock()
    settings, access = QuerySettings(), StoreAccess(root=str(tmp_path))
    async with open_pool(settings, access, clock) as pool:
        async with pool.use(TENANT, pool.lists), pool.use(OTHER, pool.lists), pool.use(TENANT):
            pass
        assert pool.statistics().open == 3
        clock.advance_us(limits.query_process_idle_ms * 2_000)
        pool.end_the_unused()
        assert len(pool.lists.processes) == 1
        assert not pool.queries.processes


async def test_the_process_of_lists_runs_no_sql_of_users(tmp_path: Path) -> None:
    async with pool_of(tmp_path) as pool, pool.use(TENANT, pool.lists) as turn:
        with pytest.raises(EngineError, match="broke"):
            await rows(turn, "SELECT 1")


async def test_a_tenant_with_many_queries_leaves_room_for_others(tmp_path: Path) -> None:
    settings = {"running_max": 2, "running_per_tenant_max": 1, "instances_max": 2}
    async with pool_of(tmp_path, **settings) as pool:
        release = trio.Event()

        async def hold() -> None:
            async with pool.use(TENANT):
                await release.wait()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(hold)
                await until(lambda: pool.statistics().waiting == 19)
                assert pool.statistics().running == 1
                assert await ask(pool, "SELECT 1", OTHER) == ((1,),)
                release.set()
        assert pool.statistics()[1:] == (0, 0, 2)


async def test_a_full_line_says_when_to_come_again(tmp_path: Path) -> None:
    async with pool_of(tmp_path, running_max=1, waiting_max=1, instances_max=1) as pool:

        async def wait() -> None:
            async with pool.use(OTHER):
                pass

        async with trio.open_nursery() as nursery, pool.use(TENANT):
            nursery.start_soon(wait)
            await until(lambda: pool.statistics().waiting == 1)
            with pytest.raises(QueryBusy) as caught:
                await wait()
            retry_after_s = caught.value.details["retry_after_s"]
            assert isinstance(retry_after_s, int)
            assert retry_after_s >= 1
            nursery.cancel_scope.cancel()
        assert pool.statistics().waiting == 0


async def test_a_query_has_the_settings_that_the_database_was_given(tmp_path: Path) -> None:
    """DuckDB's SET is, for most settings, of one connection: queries run on others."""
    access = StoreAccess(
        root="s3://bucket/p", endpoint="127.0.0.1:9", access_key="a", secret_key="b", ca_file="/c"
    )
    settings = QuerySettings(store_timeout_s=7, store_retries=1, threads=3)
    databases = Databases(settings, access, tmp_path, open_max=1)
    asked = {
        "TimeZone": "UTC",
        "parquet_metadata_cache": "true",
        "enable_http_metadata_cache": "true",
        "httpfs_connection_caching": "true",
        "enable_server_cert_verification": "true",
        "enable_curl_server_cert_verification": "true",
        "ca_cert_file": "/c",
        "http_timeout": "7",
        "http_retries": "1",
        "threads": "3",
        "enable_external_access": "false",
        "lock_configuration": "true",
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    with databases.session(TENANT) as session:
        values = dict(session.execute("SELECT name, value FROM duckdb_settings()"))
    databases.close()
    # The client's switch is of the connection and not shown; tests/query/test_walls.py tries it.
    del asked["python_enable_replacements"]
    assert {name: values[name] for name in asked} == asked


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"instances_max": 2, "running_max": 3}, "instances_max"),
        ({"instances_max": 100, "memory_bytes": 100 * 2**20}, "memory_bytes"),
    ],
)
def test_settings_that_contradict_each_other_say_so(settings: dict[str, int], hint: str) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError), match=hint):
        QuerySettings(**settings)


def test_query_settings_are_a_group_of_the_settings() -> None:
    loaded = load_settings(environment={"ENGINE_QUERY__ROWS_MAX": "5"}, flags={})
    assert loaded.query.rows_max == 5
    with pytest.raises(InvalidSettings):
        load_settings(environment={"ENGINE_QUERY__ROWS_MAX": "0"}, flags={})
