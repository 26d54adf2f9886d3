"""SQL made by chance: statements over `runs` and `steps` whose answer does not depend on the order
in which rows are read."""

from __future__ import annotations

import random

_TEXTS = ("component", "status", "project_id", "model", "error_code", "prompt_version", "kind")
_NUMBERS = ("duration_ms", "tokens_in", "tokens_out", "attempt", "created_ms", "records")
_STEP_TEXTS = ("name", "status", "kind", "component")


class Statements:
    """One after the other, by a seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._shapes = (
            self._grouped,
            self._joined,
            self._windowed,
            self._pivoted,
            self._with,
            self._recursive,
            self._nested,
            self._sets,
            self._correlated,
            self._page,
            self._laid,
            self._asof,
        )

    def next(self) -> str:
        return self._chance.choice(self._shapes)()

    def _one(self, *some: str) -> str:
        return self._chance.choice(some)

    def _where(self, table: str = "runs") -> str:
        prefix = f"{table}." if table != "runs" else "runs."
        options = [
            f"{prefix}status = '{self._one('FAILED', 'COMPLETED', 'RUNNING')}'",
            f"{prefix}component IN ('greet', 'bill')",
            f"{prefix}component LIKE '%{self._one('i', 'ee', 'x')}%'",
        ]
        if table == "runs":
            day = self._chance.randrange(1, 9)
            options += [
                f"runs.day {self._one('=', '>=', '<', '<>')} DATE '2026-01-0{day}'",
                f"runs.duration_ms > {self._chance.randrange(5_000)}",
                "runs.model IS NOT NULL",
                f"runs.tags['team'] = '{self._one('a', 'b')}'",
                f"runs.created_ms BETWEEN {1767225600000} AND {1767225600000 + day * 86_400_000}",
                f"runs.tenant = '{self._one('acme', 'umbra')}'",
                f"len(runs.usage) >= {self._chance.randrange(3)}",
            ]
        else:
            options += [f"{prefix}position >= {self._chance.randrange(3)}"]
        some = self._chance.sample(options, self._chance.randrange(1, 3))
        return f" {self._one('AND', 'OR')} ".join(some)

    def _measure(self, prefix: str = "") -> str:
        number = prefix + self._one(*_NUMBERS)
        return self._one(
            "count(*)",
            f"sum({number})",
            f"min({number})",
            f"max({number})",
            f"median({number})",
            f"count(DISTINCT {number})",
            f"quantile_cont({number}, 0.9)",
            f"avg({number})",
            f"count(*) FILTER ({number} > 2)",
            f"list_sort(list({number}))",
            f"arg_max({number}, {prefix}run_id)",
            f"bit_xor({number})",
            f"histogram({number} % 5)",
        )

    def _grouped(self) -> str:
        first, second = self._chance.sample(_TEXTS, 2)
        how = self._one(
            f"GROUP BY {first}, {second}",
            f"GROUP BY ROLLUP ({first}, {second})",
            f"GROUP BY CUBE ({first}, {second})",
            f"GROUP BY GROUPING SETS (({first}), ({second}), ())",
        )
        having = self._one("", " HAVING count(*) > 1")
        return (
            f"SELECT {first}, {second}, {self._measure()} AS a, {self._measure()} AS b FROM runs "
            f"WHERE {self._where()} {how}{having}"
        )

    def _joined(self) -> str:
        join = self._one("JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN")
        if self._chance.random() < 0.3:
            kind = self._one("SEMI", "ANTI")
            return (
                f"SELECT runs.run_id, runs.{self._one(*_TEXTS)} FROM runs {kind} JOIN steps "
                f"ON runs.run_id = steps.run_id AND {self._where('steps')} WHERE {self._where()}"
            )
        text = self._one(*_STEP_TEXTS)
        return (
            f"SELECT steps.{text}, runs.{self._one(*_TEXTS)}, {self._measure('runs.')} AS a, "
            f"sum(steps.position) FROM runs {join} steps "
            f"ON runs.run_id = steps.run_id AND {self._where('steps')} WHERE {self._where()} "
            "GROUP BY ALL"
        )

    def _windowed(self) -> str:
        over = f"PARTITION BY {self._one(*_TEXTS)} ORDER BY {self._one(*_NUMBERS)}, run_id"
        frame = self._one(
            "",
            " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
            " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING EXCLUDE CURRENT ROW",
        )
        number = self._one(*_NUMBERS)
        framed = self._one("sum", "min", "max", "count", "list", "first_value", "last_value")
        ranked = self._one("row_number()", "rank()", "ntile(3)", "cume_dist()", "percent_rank()")
        near = self._one(f"lag({number})", f"lead({number}, 2)", f"nth_value({number}, 2)")
        qualify = self._one("", f" QUALIFY row_number() OVER ({over}) <= 3")
        return (
            f"SELECT run_id, {framed}({number}) OVER ({over}{frame}) AS a, {ranked} OVER ({over}) "
            f"AS b, {near} OVER ({over}) AS c FROM runs WHERE {self._where()}{qualify}"
        )

    def _pivoted(self) -> str:
        number = self._one(*_NUMBERS)
        if self._chance.random() < 0.4:
            return (
                f"SELECT name, {self._one('sum', 'max', 'count')}(value) FROM (UNPIVOT (SELECT "
                f"run_id, tokens_in, tokens_out FROM runs WHERE {self._where()}) "
                "ON tokens_in, tokens_out INTO NAME name VALUE value) GROUP BY name"
            )
        return (
            f"PIVOT (SELECT status, component, {number} FROM runs WHERE {self._where()}) "
            f"ON status IN ('FAILED', 'COMPLETED') USING {self._one('sum', 'max', 'count')}"
            f"({number}) GROUP BY component"
        )

    def _with(self) -> str:
        kept = self._one("", "MATERIALIZED ", "NOT MATERIALIZED ")
        text = self._one(*_TEXTS)
        return (
            f"WITH a AS {kept}(SELECT * FROM runs WHERE {self._where()}), b AS (SELECT {text} AS "
            f"name, {self._measure()} AS found FROM a GROUP BY 1), runs AS (FROM b) "
            f"SELECT x.name, x.found, count(*) FROM runs x LEFT JOIN a ON x.name = a.{text} "
            "GROUP BY ALL"
        )

    def _recursive(self) -> str:
        return (
            "WITH RECURSIVE up(run_id, parent, depth) AS (SELECT run_id, parent_run_id, 0 FROM runs"
            f" WHERE {self._where()} UNION ALL SELECT runs.run_id, runs.parent_run_id, depth + 1 "
            "FROM up JOIN runs ON runs.run_id = up.parent WHERE depth < 5) "
            "SELECT depth, count(*), min(run_id), max(run_id) FROM up GROUP BY depth"
        )

    def _nested(self) -> str:
        return self._one(
            "SELECT used.model, sum(used.tokens_in), count(*) FROM (SELECT unnest(usage) AS used "
            f"FROM runs WHERE {self._where()}) GROUP BY 1",
            "SELECT run_id, list_transform(usage, lambda u: u.tokens_in + u.tool_calls), "
            f"map_keys(tags), usage[1].model, usage FROM runs WHERE {self._where()}",
            "SELECT run_id, list_filter(list_transform(usage, lambda u: u.cost_usd), "
            "lambda c: c > 0.01), list_reduce([attempt, 2, 3], lambda a, b: a + b) FROM runs "
            f"WHERE {self._where()}",
            f"SELECT run_id, unnest(usage, recursive := true) FROM runs WHERE {self._where()}",
            "SELECT run_id, struct_pack(a := component, b := [status, model]) AS packed, "
            f"{{'x': tags, 'y': usage}} AS held FROM runs WHERE {self._where()}",
            "SELECT run_id, input->>'$.order', json_extract(input, '$.items[0]'), "
            f"json_type(input) FROM runs WHERE {self._where()}",
            "SELECT key, count(*) FROM (SELECT unnest(map_entries(tags)).key AS key FROM runs "
            f"WHERE {self._where()}) GROUP BY key",
            "SELECT r.run_id, j.key, j.value FROM runs r, json_each(r.input) j "
            f"WHERE r.attempt <= {self._chance.randrange(1, 4)}",
            f"SELECT component, map(list(run_id ORDER BY run_id), list(attempt ORDER BY run_id)) "
            f"FROM runs WHERE {self._where()} GROUP BY component",
        )

    def _sets(self) -> str:
        text = self._one(*_TEXTS)
        how = self._one("UNION", "UNION ALL", "EXCEPT", "INTERSECT", "EXCEPT ALL", "INTERSECT ALL")
        return (
            f"(SELECT {text}, attempt FROM runs WHERE {self._where()}) {how} "
            f"(SELECT {text}, attempt FROM runs WHERE {self._where()})"
        )

    def _correlated(self) -> str:
        where = self._where("steps")
        inner = f"SELECT 1 FROM steps WHERE steps.run_id = runs.run_id AND {where}"
        return self._one(
            f"SELECT run_id, (SELECT max(name) FROM steps WHERE steps.run_id = runs.run_id) "
            f"FROM runs WHERE {self._where()}",
            f"SELECT run_id FROM runs WHERE {self._one('', 'NOT ')}EXISTS ({inner})",
            f"SELECT run_id FROM runs WHERE run_id {self._one('', 'NOT ')}IN "
            f"(SELECT run_id FROM steps WHERE {where}) AND ({self._where()})",
            "SELECT run_id, duration_ms FROM runs WHERE duration_ms >= ALL (SELECT duration_ms "
            f"FROM runs WHERE duration_ms IS NOT NULL AND {self._where()})",
        )

    def _page(self) -> str:
        """In one order, and so compared."""
        columns = ", ".join(self._chance.sample([*_TEXTS, *_NUMBERS], 4))
        way = self._one("", " DESC", " DESC NULLS LAST", " NULLS FIRST")
        return (
            f"SELECT run_id, {columns} FROM runs WHERE {self._where()} "
            f"ORDER BY {self._one(*_TEXTS, *_NUMBERS)}{way}, run_id "
            f"LIMIT {self._chance.randrange(1, 40)} OFFSET {self._chance.randrange(5)}"
        )

    def _laid(self) -> str:
        return self._one(
            "SELECT r.run_id, l.* FROM runs r, LATERAL (SELECT count(*) AS n, max(position) AS m "
            f"FROM steps s WHERE s.run_id = r.run_id AND s.position < {self._chance.randrange(4)}) "
            "l",
            "SELECT DISTINCT ON (component) component, run_id, duration_ms FROM runs "
            f"WHERE {self._where()} ORDER BY component, duration_ms DESC, run_id",
            f"SELECT COLUMNS('.*_id') FROM runs WHERE {self._where()}",
            f"SELECT * EXCLUDE (input, output) FROM runs WHERE {self._where()}",
            f"SELECT CASE WHEN attempt > 1 THEN 'again' ELSE upper(status) END AS c, count(*) "
            f"FROM runs WHERE {self._where()} GROUP BY ALL",
            "SELECT date_trunc('day', make_timestamp(completed_ms * 1000)) AS d, day, count(*) "
            "FROM runs GROUP BY ALL",
            f"SELECT typeof(COLUMNS(*)) FROM runs WHERE {self._where()}",
            "FROM steps",
            # How far a mean is rounded stands in a text there.
            "SELECT * EXCLUDE (avg, std) FROM (SUMMARIZE SELECT attempt, status, records FROM "
            f"runs WHERE {self._where()})",
        )

    def _asof(self) -> str:
        return (
            "SELECT a.run_id, b.run_id FROM (SELECT * FROM runs WHERE status = 'FAILED') a "
            f"ASOF {self._one('', 'LEFT ')}JOIN (SELECT * FROM runs WHERE {self._where()}) b "
            f"ON a.component = b.component AND a.created_ms {self._one('>=', '>')} b.created_ms"
        )
