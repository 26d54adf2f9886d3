"""The ready-made tables, over runs in files and hot ones, with windows and projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from engine.base.errors import InvalidInput
from engine.model.query import ANALYTICS, AnalyticsFilter, Window
from engine.query.query import QueryTier
from tests.query.lake import DAY_MS, JANUARY_MS, TENANT, Lake, LakeSnapshot, as_dicts, run

ALL = AnalyticsFilter()


async def shown(
    tier: QueryTier, lake: Lake, name: str, chosen: AnalyticsFilter = ALL
) -> list[Mapping[str, Any]]:
    answer = await tier.analytics(TENANT, name, chosen, lake.snapshot)
    return as_dicts(answer.columns, answer.rows)


def used(model: str, tokens_in: int, tokens_out: int, cost_usd: float, tools: int) -> object:
    return {
        "model": model,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cost_usd": cost_usd,
        "tool_calls": tools,
    }


@pytest.fixture
def spending(lake: Lake) -> Lake:
    lake.add_runs(
        [
            run(JANUARY_MS, usage=[used("big", 10, 20, 3.0, 2), used("small", 1, 2, 0.5, 0)]),
            run(JANUARY_MS, usage=[used("big", 30, 40, 4.0, 1), used("big", 1, 1, 1.0, 0)]),
            run(JANUARY_MS, project_id="other", usage=[used("small", 5, 5, 1.0, 9)]),
            # Sums without a list, as a run reports them that called one model.
            run(JANUARY_MS + DAY_MS, model="big", tokens_in=100, tokens_out=0, cost_usd=1.5),
            run(JANUARY_MS),
        ]
    )
    lake.hot = [
        run(JANUARY_MS + 2 * DAY_MS, usage=[used("small", 7, 0, 0.25, 1)]),
        run(JANUARY_MS + 2 * DAY_MS, took_ms=None, usage=[used("small", 1_000, 0, 9.0, 1)]),
    ]
    return lake


async def test_tokens_are_attributed_to_projects_and_models(
    tier: QueryTier, spending: Lake
) -> None:
    def row(project: str, model: str, *counts: float) -> dict[str, object]:
        names = ("runs", "tokens_in", "tokens_out", "cost_usd")
        return {"project_id": project, "model": model, **dict(zip(names, counts, strict=True))}

    assert await shown(tier, spending, "tokens") == [
        row("default", "big", 3, 141, 61, 9.5),
        row("other", "small", 1, 5, 5, 1.0),
        row("default", "small", 2, 8, 2, 0.75),
    ]
    assert await shown(tier, spending, "tokens", AnalyticsFilter(project_id="other")) == [
        row("other", "small", 1, 5, 5, 1.0)
    ]
    second = AnalyticsFilter(from_ms=JANUARY_MS + DAY_MS, to_ms=JANUARY_MS + 2 * DAY_MS)
    assert await shown(tier, spending, "tokens", second) == [row("default", "big", 1, 100, 0, 1.5)]


async def test_tool_calls_are_counted_by_model(tier: QueryTier, spending: Lake) -> None:
    def row(model: str, runs: int, calls: int) -> dict[str, object]:
        each = calls / runs
        return {"model": model, "runs": runs, "tool_calls": calls, "tool_calls_per_run": each}

    assert await shown(tier, spending, "tools") == [row("small", 2, 10), row("big", 2, 3)]


async def test_errors_are_grouped_by_what_they_have_in_common(tier: QueryTier, lake: Lake) -> None:
    def failed(at: int, number: int, component: str) -> dict[str, Any]:
        return run(
            JANUARY_MS + at,
            status="FAILED",
            component=component,
            error_code="not_found",
            error_message=f"no order {number}",
            error_signature="no order #",
        )

    first, last = failed(0, 17, "a"), failed(DAY_MS, 4, "b")
    other = run(JANUARY_MS, status="FAILED", error_code="boom", error_message="boom")
    lake.add_runs([first, other, run(JANUARY_MS)])
    lake.hot = [last]
    assert await shown(tier, lake, "errors") == [
        {
            "error_signature": "no order #",
            "error_code": "not_found",
            "failures": 2,
            "components": 2,
            "first_seen_ms": first["completed_ms"],
            "last_seen_ms": last["completed_ms"],
            "last_component": "b",
            "last_run_id": last["run_id"],
            "last_message": "no order 4",
        },
        {
            "error_signature": "boom",
            "error_code": "boom",
            "failures": 1,
            "components": 1,
            "first_seen_ms": other["completed_ms"],
            "last_seen_ms": other["completed_ms"],
            "last_component": "greet",
            "last_run_id": other["run_id"],
            "last_message": "boom",
        },
    ]


async def test_latency_is_by_component_and_hour(tier: QueryTier, lake: Lake) -> None:
    lake.add_runs([run(JANUARY_MS, took_ms=took) for took in range(101)])
    lake.add_runs([run(JANUARY_MS + 3_600_000, took_ms=7, status="FAILED", component="slow")])
    assert await shown(tier, lake, "latency") == [
        {
            "component": "slow",
            "hour_ms": JANUARY_MS + 3_600_000,
            "runs": 1,
            "failures": 1,
            "p50_ms": 7.0,
            "p90_ms": 7.0,
            "p99_ms": 7.0,
            "max_ms": 7,
        },
        {
            "component": "greet",
            "hour_ms": JANUARY_MS,
            "runs": 101,
            "failures": 0,
            "p50_ms": 50.0,
            "p90_ms": 90.0,
            "p99_ms": 99.0,
            "max_ms": 100,
        },
    ]


async def test_the_leaderboard_ranks_prompts_for_each_scorer(tier: QueryTier, lake: Lake) -> None:
    """The version stands in the scorer's run, or in that of the run it scored."""
    scored = run(JANUARY_MS, prompt_version="v2")

    def score(value: float, **columns: Any) -> dict[str, Any]:
        return run(JANUARY_MS, kind="scorer", component="accuracy", score=value, **columns)

    lake.add_runs(
        [
            scored,
            score(0.9, parent_run_id=scored["run_id"]),
            score(0.7, parent_run_id=scored["run_id"], prompt_version=""),
            score(0.5, prompt_version="v1"),
            score(0.1, prompt_version="v1", status="FAILED"),
            score(float("nan"), prompt_version="v1"),
            score(0.6),
        ]
    )
    found = await shown(tier, lake, "leaderboard")
    assert [
        (row["prompt_version"], row["scorer"], row["scores"], round(row["score_avg"], 3))
        for row in found
    ] == [("v2", "accuracy", 2, 0.8), ("", "accuracy", 1, 0.6), ("v1", "accuracy", 1, 0.5)]


@pytest.mark.parametrize("name", ANALYTICS)
async def test_nothing_is_a_table_too(tier: QueryTier, lake: Lake, name: str) -> None:
    answer = await tier.analytics(TENANT, name, AnalyticsFilter(project_id="'"), lake.snapshot)
    assert answer.rows == ()
    assert len(answer.columns) > 3


@pytest.mark.parametrize("name", ANALYTICS)
async def test_only_the_days_of_the_window_are_asked_for(
    tier: QueryTier, lake: Lake, name: str
) -> None:
    asked: list[Window] = []

    def snapshot_of(window: Window) -> LakeSnapshot:
        asked.append(window)
        return lake.snapshot()

    chosen = AnalyticsFilter(from_ms=JANUARY_MS, to_ms=JANUARY_MS + DAY_MS)
    await tier.analytics(TENANT, name, chosen, snapshot_of)
    # A scorer and what it scored may have ended on two days.
    slack = DAY_MS if name == "leaderboard" else 0
    assert asked == [Window(JANUARY_MS - slack, JANUARY_MS + DAY_MS + slack)]


async def test_a_limit_is_kept_and_said(tier: QueryTier, lake: Lake) -> None:
    lake.add_runs([run(JANUARY_MS, component=f"c{index}") for index in range(5)])
    answer = await tier.analytics(TENANT, "latency", AnalyticsFilter(limit=3), lake.snapshot)
    assert len(answer.rows) == 3
    assert answer.truncated


async def test_an_unknown_name_lists_the_known(tier: QueryTier, lake: Lake) -> None:
    with pytest.raises(InvalidInput, match="tokens, errors"):
        await tier.analytics(TENANT, "weather", ALL, lake.snapshot)
