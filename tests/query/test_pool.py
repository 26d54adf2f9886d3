"""The pool: how many databases, whose turn it is, and that what is left stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from engine.base.errors import InvalidSettings, QueryBusy
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.config.settings import load_settings
from engine.query.child.database import QueryPool, Session
from engine.query.ports import StoreAccess
from tests.query.lake import OTHER, TENANT

ENDLESS = "SELECT count(*) FROM range(1000000000000000)"


def pool_of(tmp_path: Path, **settings: int) -> QueryPool:
    return QueryPool(QuerySettings(**settings), StoreAccess(root=str(tmp_path)))


async def test_a_caller_who_leaves_stops_the_query(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    began = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def endless(session: Session) -> None:
        token.run_sync_soon(began.set)
        session.execute(ENDLESS)

    async def ask() -> None:
        async with pool.use(TENANT) as turn:
            await turn.run(endless)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await began.wait()
            nursery.cancel_scope.cancel()
    assert pool.statistics().running == 0
    async with pool.use(TENANT) as turn:
        assert await turn.run(lambda session: session.execute("SELECT 1")) == [(1,)]
    await pool.aclose()


async def test_only_the_query_that_was_left_is_stopped(tmp_path: Path) -> None:
    """Two queries of one tenant share a database and not their fate."""
    pool = pool_of(tmp_path, running_max=4)
    began = trio.Event()
    token = trio.lowlevel.current_trio_token()
    answers: list[object] = []

    def endless(session: Session) -> None:
        token.run_sync_soon(began.set)
        session.execute(ENDLESS)

    async def ask(scope: trio.CancelScope) -> None:
        with scope:
            async with pool.use(TENANT) as turn:
                await turn.run(endless)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, pool.use(TENANT) as turn:
            scope = trio.CancelScope()
            nursery.start_soon(ask, scope)
            await began.wait()
            scope.cancel()
            sql = "SELECT count(*) FROM range(20000000) t(i) WHERE i % 3 = 0"
            answers += await turn.run(lambda session: session.execute(sql))
    assert answers == [(6_666_667,)]
    assert pool.statistics().opened == 1
    await pool.aclose()


async def test_stopping_between_two_statements_is_heard_too(tmp_path: Path) -> None:
    """An interrupt in the gap before a statement would be forgotten by it."""
    pool = pool_of(tmp_path)
    began = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def many(session: Session) -> None:
        while True:
            session.execute("SELECT 1")
            token.run_sync_soon(began.set)

    async def ask() -> None:
        async with pool.use(TENANT) as turn:
            await turn.run(many)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await began.wait()
            nursery.cancel_scope.cancel()
    assert pool.statistics().running == 0
    await pool.aclose()


async def test_the_database_used_longest_ago_makes_room(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, instances_max=2, running_max=2)

    async def touch(name: str) -> None:
        async with pool.use(TenantId(name)) as turn:
            await turn.run(lambda session: session.execute("SELECT 1"))

    for name in ("a", "b", "a", "c"):
        await touch(name)
    assert pool.statistics()[:1] == (2,)
    assert pool.statistics().opened == 3
    await touch("a")
    assert pool.statistics().opened == 3
    await touch("b")
    assert pool.statistics().opened == 4
    await pool.aclose()
    assert pool.statistics().open == 0


async def test_a_database_in_use_is_not_closed(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, instances_max=2, running_max=2)
    async with pool.use(TENANT) as turn:
        for name in ("a", "b", "c"):
            async with pool.use(TenantId(name)):
                assert pool.statistics().open == 2
        assert await turn.run(lambda session: session.execute("SELECT 7")) == [(7,)]
        await pool.retire(TENANT)
        assert await turn.run(lambda session: session.execute("SELECT 8")) == [(8,)]
    await pool.aclose()


async def test_first_queries_of_a_tenant_share_one_opening(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)

    async def touch() -> None:
        async with pool.use(TENANT) as turn:
            await turn.run(lambda session: session.execute("SELECT 1"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(touch)
    assert pool.statistics().opened == 1
    await pool.aclose()


async def test_a_tenant_with_many_queries_leaves_room_for_others(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, running_max=2, running_per_tenant_max=1, instances_max=2)
    release = trio.Event()
    asking = 0

    async def hold() -> None:
        nonlocal asking
        asking += 1
        async with pool.use(TENANT):
            await release.wait()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(hold)
            await _until(lambda: asking == 20 and pool.statistics().waiting == 19)
            assert pool.statistics().running == 1
            async with pool.use(OTHER) as turn:
                assert await turn.run(lambda session: session.execute("SELECT 1")) == [(1,)]
            release.set()
    assert pool.statistics() == (2, 0, 0, 2)
    await pool.aclose()


async def test_a_full_queue_says_so(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, running_max=1, waiting_max=1, instances_max=1)

    async def wait() -> None:
        async with pool.use(OTHER):
            pass

    async with trio.open_nursery() as nursery, pool.use(TENANT):
        nursery.start_soon(wait)
        await _until(lambda: pool.statistics().waiting == 1)
        with pytest.raises(QueryBusy):
            await wait()
        nursery.cancel_scope.cancel()
    assert pool.statistics().waiting == 0
    await pool.aclose()


async def _until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await trio.lowlevel.checkpoint()


async def test_a_query_has_the_settings_that_the_database_was_given(tmp_path: Path) -> None:
    """DuckDB's SET is, for most settings, of one connection: queries run on others."""
    access = StoreAccess(
        root="s3://bucket/p", endpoint="127.0.0.1:9", access_key="a", secret_key="b", ca_file="/c"
    )
    pool = QueryPool(QuerySettings(store_timeout_s=7, store_retries=1, threads=3), access)
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
    async with pool.use(TENANT) as turn:
        found = await turn.run(
            lambda session: session.execute("SELECT name, value FROM duckdb_settings()")
        )
    await pool.aclose()
    values = dict(found)
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
