"""SQL that takes a database down, or all memory, or all time: a typed refusal within the limit and
a second, and the process that asked is as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from engine.base.errors import EngineError
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.query.ports import StoreAccess
from engine.query.query import QueryTier
from tests.query.conftest import tier_over
from tests.query.lake import JANUARY_MS, OTHER, TENANT, Lake, run

LIMIT_MS = 500
SETTINGS = QuerySettings(
    time_limit_ms=LIMIT_MS,
    instances_max=4,
    running_max=4,
    memory_bytes=4 * 64 * 2**20,
    temporary_bytes=64 * 2**20,
)


def doubled(count: int, body: str, first: str = "a0 AS (SELECT 1 AS x)") -> str:
    steps = [first, *(f"a{n} AS ({body.format(n - 1)})" for n in range(1, count))]
    return f"WITH {', '.join(steps)} SELECT * FROM a{count - 1}"


def nested(function: str, depth: int) -> str:
    return f"SELECT length({function * depth}'abcdefghijklmnopqrstuvwxyz'{')' * depth})"


def deep(depth: int, inside: str) -> str:
    return "[" * depth + inside + "]" * depth


BOMBS = {
    "json_from_deep": f"""SELECT from_json('[]', '{deep(12_000, '"INT"')}')""",
    "json_from_8000": f"""SELECT from_json('[]', '{deep(8_000, '"INT"')}')""",
    "variant_deep": f"SELECT ('{deep(20_000, '1')}'::JSON)::VARIANT",
    "json_structure_deep": f"SELECT json_structure('{deep(20_000, '1')}')",
    "with_exp": doubled(40, "SELECT 1 AS x FROM a{0} p, a{0} q"),
    "sub_exp": doubled(25, "SELECT x FROM a{0} WHERE x IN (SELECT x FROM a{0})"),
    "union_exp": doubled(30, "FROM a{0} UNION ALL FROM a{0}"),
    "scalar_exp": doubled(30, "SELECT (SELECT max(x) FROM a{0}) + (SELECT min(x) FROM a{0}) AS x"),
    "one_row_cpu": "SELECT list_transform(l, lambda x: x * 2) FROM (SELECT list(i) AS l FROM "
    "range(3000000) t(i)), range(200)",
    "approx_q": "SELECT quantile_cont(i, 0.5), mode(i), histogram(i) FROM range(100000000) t(i)",
    "hex_x30": nested("hex(", 30),
    "bin_x12": nested("bin(", 12),
    "list_x_list": "SELECT sum(len(list_concat(l, m))) FROM (SELECT list(i) l FROM "
    "range(1000000) t(i)), (SELECT list(i) m FROM range(1000000) t(i)), range(1000)",
    "comments": "SELECT 1 " + "/*" * 15_000 + "*/" * 15_000,
    "comments_open": "SELECT " + "/*" * 30_000,
    "cross": "SELECT count(*) FROM range(1000000) a, range(1000000) b",
    "cross_text": "SELECT max(a.i::VARCHAR || b.i::VARCHAR) FROM range(1000000) a(i), "
    "range(1000000) b(i)",
    "recursion": "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) "
    "SELECT count(*) FROM t",
    "recursion_wide": "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + j FROM t, "
    "range(10) r(j)) SELECT max(i) FROM t",
    "string_agg": "SELECT length(string_agg(i::VARCHAR, ',')) FROM range(1000000000) t(i)",
    "list_all": "SELECT len(list(i)) FROM range(1000000000) t(i)",
    "sorted_list": "SELECT list_sort(list(i)) FROM range(100000000) t(i)",
    "distinct": "SELECT count(DISTINCT md5(i::VARCHAR)) FROM range(1000000000) t(i)",
    "window": "SELECT sum(x) FROM (SELECT median(i) OVER (ORDER BY i ROWS 100000 PRECEDING) AS x "
    "FROM range(10000000) t(i))",
    "sort": "SELECT i FROM range(1000000000) t(i) ORDER BY md5(i::VARCHAR) LIMIT 1 OFFSET 9999999",
    "regexp": "SELECT count(*) FROM range(100000000) t(i) WHERE regexp_matches(i::VARCHAR, "
    "'(1|2|3)*(4|5|6)*(7|8)*9')",
    "split": "SELECT len(string_split_regex(s, '')) FROM (SELECT string_agg('x', '') AS s FROM "
    "range(50000000))",
    "map_all": "SELECT cardinality(map(list(i), list(i))) FROM range(50000000) t(i)",
    "power": "SELECT sum(gamma(i % 100) * power(i, 3.3)) FROM range(100000000000) t(i)",
    "nested_unnest": "SELECT count(*) FROM (SELECT unnest(l) FROM (SELECT list(i) l FROM "
    "range(100000) t(i)), range(1000000))",
    "reduce": "SELECT list_reduce(list(i), lambda x, y: x + y) FROM range(30000000) t(i)",
    "to_base": "SELECT count(to_base(i, 2)) FROM range(10000000000) t(i)",
    "bit_string": "SELECT bit_count(bitstring_agg(i)) FROM range(1000000000) t(i)",
    "histogram": "SELECT histogram(i::VARCHAR) FROM range(100000000) t(i)",
    "mad": "SELECT mad(i) FROM range(1000000000) t(i)",
    "entropy": "SELECT entropy(i) FROM range(1000000000) t(i)",
    "json_group": "SELECT length(json_group_array(i)::VARCHAR) FROM range(1000000000) t(i)",
    "json_each": "SELECT count(*) FROM (SELECT json_group_array(i) AS j FROM "
    "range(10000000) t(i)), json_each(j)",
    "pivot": "PIVOT (SELECT i % 7 AS k, i FROM range(10000000000) t(i)) ON k IN (1, 2) "
    "USING list(i)",
    "asof": "SELECT count(*) FROM range(100000000) a(i) ASOF JOIN range(100000000) b(i) "
    "ON a.i >= b.i",
    "long_in": "SELECT count(*) FROM range(100000000000) t(i) WHERE i IN "
    f"({','.join(map(str, range(9_000)))})",
    "cube": "SELECT count(*) FROM (SELECT a, b, c, d, e, f, g, h FROM (SELECT i a, i b, i c, "
    "i d, i e, i f, i g, i h FROM range(1000000) t(i)) GROUP BY CUBE (a, b, c, d, e, f, g, h))",
    "summarize": "SUMMARIZE SELECT i, md5(i::VARCHAR) FROM range(1000000000) t(i)",
    "concat": "SELECT max(length(" + "||".join(["s"] * 60) + ")) FROM (SELECT string_agg('x', '') "
    "AS s FROM range(30000000)), range(1000)",
}


def resident_mib() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


async def test_every_bomb_is_refused_in_time_and_harms_nobody(lake: Lake) -> None:
    """Two tenants send them, each one half, so that both processors have something to do."""
    lake.add_runs([run(JANUARY_MS)])
    late: dict[str, float] = {}
    answered: list[str] = []
    rest = list(BOMBS.items())

    async def send(tier: QueryTier, tenant: TenantId) -> None:
        while rest:
            name, sql = rest.pop()
            await tier.run(tenant, "SELECT 1", lake.snapshot)  # begins a process if there is none
            began = trio.current_time()
            try:
                await tier.run(tenant, sql, lake.snapshot)
                answered.append(name)
            except EngineError:
                pass
            took_ms = (trio.current_time() - began) * 1e3
            if took_ms > LIMIT_MS + 1_000:
                late[name] = took_ms

    async with tier_over(StoreAccess(root=lake.root), settings=SETTINGS) as tier:
        await tier.run(OTHER, "SELECT 1", lambda _: Lake(lake.directory).snapshot())
        before = resident_mib()
        async with trio.open_nursery() as nursery:
            for tenant in (TENANT, OTHER):
                nursery.start_soon(send, tier, tenant)
        assert (await tier.run(OTHER, "SELECT 7", lake.snapshot)).rows == ((7,),)
        assert late == {}
        assert resident_mib() - before < 50
    # Some are quick enough, or small enough, to be answered on a machine like this one.
    assert len(answered) < len(BOMBS) // 3, answered


def test_the_engine_does_not_load_the_driver() -> None:
    code = (
        "import engine.cli.composing.serving, engine.cli.composing.tiers, sys; "
        "sys.exit('duckdb' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("sql", ["SELECT 1", "FROM runs"])
async def test_asking_does_not_load_it_either(lake: Lake, sql: str) -> None:
    code = f"""
import sys, trio
from engine.archive.files.interchange import stream_of
from engine.archive.rows.schema import RUNS
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.query.pool import open_pool
from engine.query.ports import StoreAccess
from engine.query.query import QueryTier
class Snapshot:
    run_files = step_files = ()
    hot_left_out = 0
    def hot_runs(self): return RUNS.empty_table()
    def hot_steps(self): return RUNS.empty_table()
async def main():
    async with open_pool(QuerySettings(), StoreAccess(root={lake.root!r})) as pool:
        tier = QueryTier(pool, QuerySettings(), print, stream_of)
        await tier.run(TenantId("a"), {sql!r}, lambda _: Snapshot())
trio.run(main)
sys.exit("duckdb" in sys.modules)
"""
    await trio.run_process([sys.executable, "-c", code])
