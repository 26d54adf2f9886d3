"""The ready-made tables: what tokens cost, what fails, how long it takes, which prompt is best.

Each is one SELECT over the view `runs`, with the window and the project as parameters. They speak
of runs that have ended, by the time at which they did. Knows no files and no driver.
"""

from __future__ import annotations

from typing import Final

from engine.base.moments import DAY_MS
from engine.model.query import AnalyticsFilter, Window

_ENDED: Final = """
    completed_ms IS NOT NULL
    AND ($from_ms IS NULL OR completed_ms >= $from_ms)
    AND ($to_ms IS NULL OR completed_ms < $to_ms)
    AND ($project_id IS NULL OR project_id = $project_id)
"""

# One row per run and model. A run that reported its sums alone has them under its one model.
_SPENT: Final = f"""
    SELECT project_id, run_id, unnest(
        CASE WHEN len(usage) > 0 THEN usage ELSE [struct_pack(
            model := model, tokens_in := tokens_in, tokens_out := tokens_out,
            cost_usd := cost_usd, tool_calls := tool_calls)] END
    ) AS used
    FROM runs WHERE {_ENDED}
"""

_TOKENS: Final = f"""
WITH spent AS ({_SPENT})
SELECT project_id,
       coalesce(used.model, '') AS model,
       count(DISTINCT run_id) AS runs,
       CAST(coalesce(sum(used.tokens_in), 0) AS BIGINT) AS tokens_in,
       CAST(coalesce(sum(used.tokens_out), 0) AS BIGINT) AS tokens_out,
       coalesce(sum(used.cost_usd), 0) AS cost_usd
FROM spent
WHERE used.tokens_in > 0 OR used.tokens_out > 0 OR used.cost_usd > 0
GROUP BY ALL
ORDER BY cost_usd DESC, tokens_in + tokens_out DESC, project_id, model
"""

_ERRORS: Final = f"""
SELECT coalesce(error_signature, error_message, '') AS error_signature,
       coalesce(error_code, '') AS error_code,
       count(*) AS failures,
       count(DISTINCT component) AS components,
       min(completed_ms) AS first_seen_ms,
       max(completed_ms) AS last_seen_ms,
       arg_max(component, (completed_ms, run_id)) AS last_component,
       arg_max(run_id, (completed_ms, run_id)) AS last_run_id,
       arg_max(error_message, (completed_ms, run_id)) AS last_message
FROM runs
WHERE status = 'FAILED' AND {_ENDED}
GROUP BY 1, 2
ORDER BY failures DESC, last_seen_ms DESC, 1, 2
"""

_LATENCY: Final = f"""
WITH timed AS (
    SELECT component, completed_ms // 3600000 * 3600000 AS hour_ms, status, duration_ms
    FROM runs WHERE {_ENDED}
)
SELECT component,
       hour_ms,
       count(*) AS runs,
       count(*) FILTER (status = 'FAILED') AS failures,
       quantile_cont(duration_ms, 0.5) AS p50_ms,
       quantile_cont(duration_ms, 0.9) AS p90_ms,
       quantile_cont(duration_ms, 0.99) AS p99_ms,
       max(duration_ms) AS max_ms
FROM timed
GROUP BY ALL
ORDER BY hour_ms DESC, component
"""

# A scorer is often a child of what it scores: then the parent knows the version of the prompt.
_LEADERBOARD: Final = f"""
WITH scored AS (
    SELECT component, parent_run_id, prompt_version, score
    FROM runs WHERE kind = 'scorer' AND status = 'COMPLETED' AND isfinite(score) AND {_ENDED}
)
SELECT coalesce(nullif(scored.prompt_version, ''), parent.prompt_version, '') AS prompt_version,
       scored.component AS scorer,
       count(*) AS scores,
       avg(score) AS score_avg,
       median(score) AS score_p50,
       min(score) AS score_min,
       max(score) AS score_max
FROM scored
LEFT JOIN (SELECT run_id, prompt_version FROM runs) AS parent
       ON parent.run_id = scored.parent_run_id
GROUP BY 1, 2
ORDER BY scorer, score_avg DESC, prompt_version
"""

_TOOLS: Final = f"""
WITH spent AS ({_SPENT})
SELECT coalesce(used.model, '') AS model,
       count(DISTINCT run_id) AS runs,
       CAST(sum(used.tool_calls) AS BIGINT) AS tool_calls,
       sum(used.tool_calls) / count(DISTINCT run_id) AS tool_calls_per_run
FROM spent
WHERE used.tool_calls > 0
GROUP BY ALL
ORDER BY tool_calls DESC, model
"""

_STATEMENTS: Final = {
    "tokens": _TOKENS,
    "errors": _ERRORS,
    "latency": _LATENCY,
    "leaderboard": _LEADERBOARD,
    "tools": _TOOLS,
}


def statement(name: str, chosen: AnalyticsFilter) -> tuple[str, dict[str, object]]:
    """The SQL and its parameters."""
    return _STATEMENTS[name], {
        "from_ms": chosen.from_ms,
        "to_ms": chosen.to_ms,
        "project_id": chosen.project_id,
    }


def window(name: str, chosen: AnalyticsFilter) -> Window:
    """The days whose files are read. A parent may have ended the day before or after."""
    slack_ms = DAY_MS if name == "leaderboard" else 0
    return Window(
        None if chosen.from_ms is None else chosen.from_ms - slack_ms,
        None if chosen.to_ms is None else chosen.to_ms + slack_ms,
    )
