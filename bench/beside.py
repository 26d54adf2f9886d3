"""What questions cost those who ask none: workflows of one tenant, alone and beside many analytics.

Seven tenants have a month of archived runs; 32 clients ask about them, SQL, ready-made analytics
and lists in turns, and one of the seven runs workflows meanwhile, so that its hot rows change with
each question. Runtime, worker and both generators of load share the processors. Alone and beside
are measured in turns: the figures are the medians of the turns' ratios.
"""

from __future__ import annotations

import concurrent.futures
import json
import statistics
import time
from pathlib import Path
from typing import Any

import trio

from bench.lake import DAY_MS, DAYS, MONTH_MS, tenant_name, write_month
from bench.workflows import Failed, Stage
from engine.archive.archive import open_archive
from engine.base.ids import TenantId
from engine.config.archive import ArchiveSettings
from engine.config.settings import JournalSettings
from engine.journal.tenants import open_journal

TENANTS = 7
CLIENTS = 32
WORKFLOW_CLIENTS = 8
RUNS_PER_DAY = 1_000
TURNS = 5
SETTLE_S = 3.0

_MONTH = f"from={MONTH_MS}&to={MONTH_MS + DAYS * DAY_MS}"
_WEEK = f"from={MONTH_MS + 7 * DAY_MS}&to={MONTH_MS + 14 * DAY_MS}"
_SQL = (
    "SELECT component, count(*), sum(cost_usd) FROM runs GROUP BY ALL",
    "SELECT day, count(*) FILTER (status = 'FAILED') FROM runs GROUP BY day ORDER BY day",
    "SELECT s.name, count(*) FROM runs r JOIN steps s USING (run_id) WHERE r.status = 'FAILED' "
    "AND r.day = DATE '2026-01-09' GROUP BY ALL",
)


def _questions() -> list[list[str]]:
    ready = [f"/v1/analytics/{name}?{_MONTH}" for name in ("tokens", "errors", "tools")]
    ready.append(f"/v1/analytics/latency?{_WEEK}")
    lists = ["/v1/runs?status=FAILED&limit=50", "/v1/runs?component=component-3&limit=50"]
    return [
        *(["GET", path, ""] for path in (*ready, *lists)),
        *(["POST", "/v1/query", json.dumps({"sql": sql})] for sql in _SQL),
    ]


def _key(number: int) -> str:
    return f"sk_bench_of_tenant_{number:04}"


def measure(scratch: Path, *, long: bool) -> dict[str, object]:
    scratch.mkdir()
    data_dir = scratch / "data"
    write_month(data_dir / "archive", tenants=TENANTS, runs_per_day=RUNS_PER_DAY)
    trio.run(_adopt, data_dir)
    keys = [
        f'[[auth.keys]]\nkey = "{_key(number)}"\ntenant_id = "{tenant_name(number)}"\n'
        for number in range(TENANTS)
    ]
    stage = Stage(scratch, "".join(keys), _key(0))
    try:
        stage.start_runtime()
        stage.start_worker()
        return _turns(stage, 8.0 if long else 4.0)
    except Failed as error:
        return {
            "workflow_rate_beside_queries": None,
            "workflow_rate_beside_queries_reason": str(error),
        }
    finally:
        stage.close()


async def _adopt(data_dir: Path) -> None:
    """The tenants' files, which nobody has archived here, into their manifests."""
    async with (
        open_journal(data_dir, JournalSettings()) as journals,
        open_archive(ArchiveSettings(), data_dir, services=False) as archive,
    ):
        for tenant in map(TenantId, map(tenant_name, range(TENANTS))):
            async with journals.use(tenant) as journal:
                archive.tenant_opened(journal)
                adopted = await archive.rehydrate(tenant)
                assert adopted.runs == RUNS_PER_DAY * DAYS, adopted
                await archive.tenant_closing(tenant)


def _turns(stage: Stage, seconds: float) -> dict[str, object]:
    alone: list[dict[str, float]] = []
    beside: list[dict[str, float]] = []
    asked: list[dict[str, float]] = []
    _workflows(stage, 1.0)  # warm
    for _ in range(TURNS):
        alone.append(_workflows(stage, seconds))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asking = pool.submit(_ask, stage, seconds + 3.0)
            time.sleep(1.0)  # until all of them ask
            beside.append(_workflows(stage, seconds))
            asked.append(asking.result())
        time.sleep(SETTLE_S)
    return {
        "workflows_per_s_alone": _median(alone, "per_s"),
        "workflows_per_s_beside_queries": _median(beside, "per_s"),
        "workflow_rate_beside_queries": _ratio(beside, alone, "per_s"),
        "workflow_rate_beside_queries_of_each_turn": _ratios(beside, alone, "per_s"),
        "workflow_p99_ms_alone": _median(alone, "p99_ms"),
        "workflow_p99_ms_beside_queries": _median(beside, "p99_ms"),
        "workflow_p99_beside_queries_ratio": _ratio(beside, alone, "p99_ms"),
        "queries_per_s_beside_workflows": _median(asked, "per_s"),
        "query_p50_ms_beside_workflows": _median(asked, "p50_ms"),
        "query_p99_ms_beside_workflows": _median(asked, "p99_ms"),
        "queries_refused": sum(one["busy"] for one in asked),
        "queries_timed_out": sum(one["timed_out"] for one in asked),
    }


def _workflows(stage: Stage, seconds: float) -> dict[str, float]:
    told: dict[str, float] = stage.load(
        "closed", component="steps3", clients=WORKFLOW_CLIENTS, seconds=seconds, key=_key(0)
    )
    return told


def _ask(stage: Stage, seconds: float) -> dict[str, Any]:
    told: dict[str, Any] = stage.load(
        "mixed",
        keys=[_key(number) for number in range(TENANTS)],
        clients=CLIENTS,
        seconds=seconds,
        questions=_questions(),
    )
    return told


def _median(turns: list[dict[str, float]], name: str) -> float:
    return round(statistics.median(turn[name] for turn in turns), 1)


def _ratios(turns: list[dict[str, float]], of: list[dict[str, float]], name: str) -> list[float]:
    return [round(one[name] / other[name], 3) for one, other in zip(turns, of, strict=True)]


def _ratio(turns: list[dict[str, float]], of: list[dict[str, float]], name: str) -> float:
    return statistics.median(_ratios(turns, of, name))
