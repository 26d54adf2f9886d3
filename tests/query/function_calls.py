"""A call of each function that the sandbox lets through, over the columns of `runs`.

What a function can be called with is found by trying on a plain database.
"""

from __future__ import annotations

import itertools
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
