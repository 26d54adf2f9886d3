"""SQL made by chance: statements over `runs` and `steps` whose answer does not depend on the order
in which rows are read, and a call of each function that the sandbox lets through.

What a function can be called with is found by trying on a plain database.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import duckdb

from engine.query.child.statements import REFUSED_FUNCTIONS

# What each type of argument is tried with, a column first.
ARGUMENTS = {
    "VARCHAR": ("component", "'day'", "'%Y'", "'2026-01-02'", "'$.a'", "'1'", "'UTC'"),
    "BIGINT": ("duration_ms", "2", "1"),
    "INTEGER": ("attempt", "1"),
    "DOUBLE": ("cost_usd", "0.5"),
    "DATE": ("CAST(make_timestamp(created_ms * 1000) AS DATE)",),
    "TIMESTAMP": ("make_timestamp(created_ms * 1000)",),
    "TIMESTAMP WITH TIME ZONE": ("to_timestamp(created_ms / 1000)",),
    "TIME": ("CAST(make_timestamp(created_ms * 1000) AS TIME)",),
    "BLOB": ("encode(component)",),
    "INTERVAL": ("to_milliseconds(duration_ms)", "INTERVAL 1 DAY"),
    "DECIMAL": ("CAST(cost_usd AS DECIMAL(18, 3))",),
    "BOOLEAN": ("status = 'FAILED'", "true"),
    "BIT": ("CAST(attempt AS BIT)",),
    "JSON": ("CAST(input AS JSON)",),
    "ANY": ("duration_ms", "component", "[attempt, 2]", "usage[1]", "tags", "1", "0.5"),
    "T": ("component", "duration_ms"),
    "K": ("'team'",),
    "V": ("'a'",),
    "ANY[]": ("[duration_ms, attempt]", "[component, status]", "[[component]]"),
    "T[]": ("[component, status]", "[duration_ms, attempt]"),
    "T[][]": ("[[component], [status]]",),
    "VARCHAR[]": ("[component, status]", "['$.a', '$.b']"),
    "DOUBLE[]": ("[cost_usd, 0.5]", "[0.25, 0.5]"),
    "FLOAT[]": ("CAST([cost_usd, 0.5] AS FLOAT[])",),
    "BIGINT[]": ("[2, 1]",),
    "FLOAT[ANY]": ("array_value(CAST(attempt AS FLOAT), 1::FLOAT, 2::FLOAT)",),
    "DOUBLE[ANY]": ("array_value(attempt::DOUBLE, 1.0::DOUBLE, 2.0::DOUBLE)",),
    "FLOAT[3]": ("array_value(CAST(attempt AS FLOAT), 1::FLOAT, 2::FLOAT)",),
    "DOUBLE[3]": ("array_value(attempt::DOUBLE, 1.0::DOUBLE, 2.0::DOUBLE)",),
    "LAMBDA": ("lambda x: x", "lambda x: x IS NOT NULL", "lambda x, y: x"),
    "MAP(K, V)": ("tags",),
    "STRUCT": ("usage[1]",),
    "STRUCT(K, V)[]": ("map_entries(tags)",),
    "K[]": ("['a', 'b']",),
    "V[]": ("[1, 2]",),
    "VARIANT": ("CAST(component AS VARIANT)",),
    "UUID": ("CAST(run_id AS UUID)",),
    "UNION": ("union_value(a := component)",),
}
# What no trying finds: arguments that depend on each other, or have to be of one form.
_OVER = "OVER (PARTITION BY status ORDER BY run_id)"
BY_HAND = {
    "ago": "ago(to_milliseconds(0)) IS NOT NULL",
    "array_aggr": "array_aggr([attempt, 2], 'sum')",
    "array_aggregate": "array_aggregate([attempt, 2], 'max')",
    "aggregate": "aggregate([attempt, 2], 'min')",
    "array_slice": "array_slice([attempt, 2, 3], 1, 2)",
    "array_to_json": "array_to_json([attempt, 2])",
    "array_to_string": "array_to_string([component, status], '+')",
    "array_to_string_comma_default": "array_to_string_comma_default([component, status])",
    "array_where": "array_where([attempt, 2], [true, false])",
    "cardinality": "cardinality(tags)",
    "constant_or_null": "constant_or_null(1, model)",
    "create_sort_key": "create_sort_key(component, 'DESC NULLS LAST')",
    "cume_dist": f"cume_dist() {_OVER}",
    "days_in_month": "days_in_month(DATE '2026-02-01' + attempt)",
    "dense_rank": f"dense_rank() {_OVER}",
    "enum_code": "enum_code(CAST('a' AS ENUM ('a', 'b')))",
    "enum_first": "enum_first(CAST('a' AS ENUM ('a', 'b')))",
    "enum_last": "enum_last(CAST('a' AS ENUM ('a', 'b')))",
    "enum_range": "enum_range(CAST('a' AS ENUM ('a', 'b')))",
    "enum_range_boundary": "enum_range_boundary(NULL, CAST('b' AS ENUM ('a', 'b')))",
    "fill": "fill(duration_ms) OVER (ORDER BY created_ms)",
    "first_value": f"first_value(component) {_OVER}",
    "from_base64": "from_base64(to_base64(encode(component)))",
    "from_json": 'from_json(input, \'{"order": "BIGINT"}\')',
    "from_json_strict": 'from_json_strict(input, \'{"order": "BIGINT"}\')',
    "json_transform": 'json_transform(input, \'{"order": "BIGINT"}\')',
    "json_transform_strict": 'json_transform_strict(input, \'{"order": "BIGINT"}\')',
    "json_quote": "json_quote(component)",
    # Macros, that take no order.
    "json_group_array": "(SELECT json_group_array(x) FROM (SELECT unnest([attempt, 2]) AS x))",
    "json_group_object": "(SELECT json_group_object(x, x) FROM (SELECT unnest([attempt]) AS x))",
    "lag": f"lag(component) {_OVER}",
    "last_value": f"last_value(component) {_OVER}",
    "lead": f"lead(component) {_OVER}",
    "list_aggr": "list_aggr([attempt, 2], 'sum')",
    "list_aggregate": "list_aggregate([attempt, 2], 'avg')",
    "list_slice": "list_slice([attempt, 2, 3], 1, 2)",
    "list_where": "list_where([attempt, 2], [true, false])",
    "map_contains_entry": "map_contains_entry(tags, 'team', 'a')",
    "nth_value": f"nth_value(component, 2) {_OVER}",
    "ntile": f"ntile(3) {_OVER}",
    "parse_formatted_bytes": "parse_formatted_bytes('16 KiB')",
    "percent_rank": f"percent_rank() {_OVER}",
    "rank": f"rank() {_OVER}",
    "rank_dense": f"rank_dense() {_OVER}",
    "regexp_replace": "regexp_replace(component, 'e+', '3')",
    "replace": "replace(component, 'ee', 'e')",
    "row_number": f"row_number() {_OVER}",
    "row_to_json": "row_to_json({'a': component})",
    "split_part": "split_part(component, 'e', 2)",
    "struct_concat": "struct_concat({'a': attempt}, {'b': component})",
    "struct_contains": "struct_contains(row(attempt, 2), 2)",
    "struct_extract": "struct_extract({'a': component}, 'a')",
    "struct_has": "struct_has(row(attempt, 2), 2)",
    "struct_indexof": "struct_indexof(row(attempt, 2), 2)",
    "struct_position": "struct_position(row(attempt, 2), 2)",
    "list_bool_and": "list_bool_and([attempt > 1, true])",
    "list_bool_or": "list_bool_or([attempt > 1, false])",
    "timetz_byte_comparable": "timetz_byte_comparable(CAST('10:00:00+01' AS TIMETZ))",
    "to_base": "to_base(attempt, 2)",
    "to_json": "to_json({'a': component, 'b': usage})",
    "union_extract": "union_extract(union_value(a := component), 'a')",
    "union_value": "union_value(a := component)",
    "variant_extract": "CAST(variant_extract(CAST({'a': component} AS VARIANT), 'a') AS VARCHAR)",
}
# Those with which nobody can do anything here: of other schemas, of states, of types' machinery.
UNCALLED = frozenset(
    {
        "combine",
        "currval",
        "error",
        "finalize",
        "get_type",
        "json_deserialize_sql",
        "make_type",
        "nextval",
        "parse_duckdb_log_message",
        "remap_struct",
        "st_aswkb",
        "st_aswkt",
        "st_geomfromwkb",
        "st_intersects_extent",
        "st_setcrs",
        "switch",
        "st_asbinary",
        "st_astext",
        "sum_no_overflow",
        "variant_bytes_to_variant",
        "variant_normalize",
    }
)
_INTERNAL = ("__internal_compress_", "__internal_decompress_")
_TRIES_MAX = 40
# Other answers each time, or by what is asked and not by the rows: no table's matter.
OF_THE_MOMENT = frozenset(
    {
        "age",  # with one argument, from today
        "current_connection_id",
        "current_query",
        "current_query_id",
        "current_transaction_id",
        "gen_random_uuid",
        "get_current_time",
        "get_current_timestamp",
        "now",
        "random",
        "stats",
        "transaction_timestamp",
        "txid_current",
        "uuid",
        "uuidv4",
        "uuidv7",
        "current_localtime",
        "current_localtimestamp",
        "pg_postmaster_start_time",
        "today",
        "current_date",
    }
)
# By chance, or by how the rows were divided among threads and files: an estimate may differ.
ESTIMATES = frozenset(
    {"approx_quantile", "approx_top_k", "reservoir_quantile", "approx_count_distinct"}
)
# These have more than one name, and a sign instead of parentheses.
_SIGN = frozenset("+-*/%&|<>=!~@^#")


class Call:
    """One that works, of a function."""

    def __init__(self, name: str, text: str, *, is_aggregate: bool) -> None:
        self.name = name
        self.text = text
        self.is_aggregate = is_aggregate


def names_let_through(plain: duckdb.DuckDBPyConnection) -> set[str]:
    found = plain.execute(
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
        "WHERE function_type IN ('scalar', 'aggregate', 'macro')"
    ).fetchall()
    named = {name for (name,) in found if not name.startswith(_INTERNAL)}
    return named - REFUSED_FUNCTIONS - OF_THE_MOMENT - ESTIMATES


def calls(plain: duckdb.DuckDBPyConnection, *, of_each: int) -> list[Call]:
    """At most so many of each function that is let through, of different types."""
    wanted = names_let_through(plain)
    rows = plain.execute(
        "SELECT DISTINCT lower(function_name), function_type, parameter_types, varargs "
        "FROM duckdb_functions() WHERE function_type IN ('scalar', 'aggregate', 'macro') "
        "ORDER BY ALL"
    ).fetchall()
    found: list[Call] = []
    for name, forms in itertools.groupby(rows, key=lambda row: row[0]):
        if name in wanted:
            found += itertools.islice(_calls_of(plain, name, list(forms)), of_each)
    return found


def _calls_of(
    plain: duckdb.DuckDBPyConnection, name: str, forms: list[tuple[str, str, list[str], str]]
) -> Iterator[Call]:
    if name in BY_HAND:
        call = _working(plain, name, BY_HAND[name])
        assert call is not None, BY_HAND[name]
        yield call
        return
    for _, kind, types, varargs in forms:
        some = [*types, *([varargs] * 2 if varargs else [])]
        choices = [ARGUMENTS.get(one or "ANY", (f"CAST(attempt AS {one})",)) for one in some]
        for arguments in itertools.islice(itertools.product(*choices), _TRIES_MAX):
            call = _working(plain, name, _text(name, arguments, kind))
            if call is not None:
                yield call
                break


def _working(plain: duckdb.DuckDBPyConnection, name: str, text: str) -> Call | None:
    """Of each row, or of some rows together, as some of the macros are too."""
    for is_aggregate in (False, True):
        call = Call(name, text, is_aggregate=is_aggregate)
        try:
            plain.execute(together([call])).to_arrow_table()
        except duckdb.Error:
            continue
        return call
    return None


def together(calls: Sequence[Call]) -> str:
    """One statement for calls that are all aggregates, or none of them."""
    columns = ", ".join(f"{call.text} AS c{index}" for index, call in enumerate(calls))
    if calls[0].is_aggregate:
        return f"SELECT component, {columns} FROM runs GROUP BY component"
    return f"SELECT run_id, {columns} FROM runs"


def _text(name: str, arguments: tuple[str, ...], kind: str) -> str:
    listed = ", ".join(arguments)
    if kind == "aggregate":
        # In one order: what comes first, and how sums are rounded, is a matter of it.
        return f'"{name}"({listed} ORDER BY run_id)'
    if set(name) <= _SIGN and len(arguments) == 2:
        return f"(({arguments[0]}) {name} ({arguments[1]}))"
    if set(name) <= _SIGN:
        return f"({name} {listed})"
    return f'"{name}"({listed})'


# ---- statements ----

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
