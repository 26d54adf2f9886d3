"""SQL that somebody might send to take the runtime from the others, beside that of `test_bombs.py`:
for the parser, the binder, the optimizer, the memory, the processor, and the size of one value.
"""

from __future__ import annotations


def texts_doubled(expression: str, times: int) -> str:
    """A text that each step makes larger, without a function that is refused."""
    steps = ["a0 AS (SELECT 'xxxxxxxxxxxxxxxx' AS s)"]
    steps += [
        f"a{n} AS MATERIALIZED (SELECT {expression} AS s FROM a{n - 1})" for n in range(1, times)
    ]
    return f"WITH {', '.join(steps)} SELECT length(s) FROM a{times - 1}"


def _deep(begin: str, depth: int, inside: str, end: str) -> str:
    return begin * depth + inside + end * depth


_MANY = "FROM range(1000000000) t(i)"
_LISTS = "(SELECT list(i) AS l FROM range(5000000) t(i))"
_DEEP_JSON = _deep("[", 25_000, "1", "]")

MORE_BOMBS = {
    # Of the text alone: before anything runs.
    "parens_open": "SELECT " + "(" * 30_000,
    "parens": "SELECT " + _deep("(", 20_000, "1", ")"),
    "brackets": "SELECT " + _deep("[", 15_000, "1", "]"),
    "structs": "SELECT " + _deep("{'a': ", 5_000, "1", "}"),
    "cases": "SELECT " + _deep("CASE WHEN true THEN ", 2_000, "1", " END"),
    "nots": "SELECT " + "NOT " * 15_000 + "true",
    "minuses": "SELECT " + "- " * 30_000 + "1",
    "ands": "SELECT " + " AND ".join(["1 = 1"] * 8_000),
    "unions": " UNION ALL ".join(["SELECT 1"] * 4_000),
    "subqueries": _deep("SELECT * FROM (", 3_000, "SELECT 1", ") t"),
    "casts": "SELECT 1" + "::BIGINT" * 8_000,
    "comments_15000": "SELECT 1 " + _deep("/*", 15_000, "", "*/"),
    "parens_err": "SELECT /*" + "/*" * 30_000,
    "describe": "DESCRIBE WITH a0 AS (SELECT 1 AS x)"
    + "".join(f", a{n} AS (SELECT 1 AS x FROM a{n - 1} p, a{n - 1} q)" for n in range(1, 40))
    + " FROM a39",
    # Of the planner.
    "joins": "SELECT count(*) FROM " + ", ".join(f"runs r{n}" for n in range(60)),
    "natural": "SELECT count(*) FROM runs "
    + " ".join(f"NATURAL JOIN runs r{n}" for n in range(60)),
    "laterals": "SELECT count(*) FROM range(1000) t0(i0)"
    + "".join(
        f", LATERAL (SELECT i{n - 1} + 1 AS i{n}, j FROM range(1000) r(j)) t{n}"
        for n in range(1, 12)
    ),
    "cube_16": "SELECT count(*) FROM (SELECT "
    + ", ".join(f"i % {n + 2} AS c{n}" for n in range(16))
    + " FROM range(1000) t(i)) GROUP BY CUBE ("
    + ", ".join(f"c{n}" for n in range(16))
    + ")",
    "windows": "SELECT "
    + ", ".join(f"sum(i) OVER (ORDER BY i % {n + 2}) AS c{n}" for n in range(300))
    + " FROM range(1000000) t(i)",
    # Of one value.
    "doubled_text": texts_doubled("s || s", 40),
    "doubled_json": texts_doubled("CAST(to_json([s, s]) AS VARCHAR)", 30),
    "url_encoded": texts_doubled("url_encode(s || '%%')", 40),
    "base64": texts_doubled("base64(encode(s || s))", 30),
    "doubled_rows": "WITH RECURSIVE t(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM t) "
    "SELECT max(length(s)) FROM t",
    "bits": texts_doubled("CAST(CAST(encode(s) AS BIT) AS VARCHAR)", 12),
    "hexes": texts_doubled("to_hex(encode(s))", 40),
    "from_json_5000": f"""SELECT from_json('[]', '{_deep("[", 5_000, '"INT"', "]")}')""",
    "bin_x10": "SELECT length(" + "bin(" * 10 + "'abcdefghijklmnopqrstuvwxyz'" + ")" * 11,
    "json_keys_deep": f"SELECT json_keys('{_DEEP_JSON}'), json_valid('{_DEEP_JSON}')",
    "merge_patch_deep": f"SELECT json_merge_patch('{_DEEP_JSON}', '{_DEEP_JSON}')",
    "strftime_long": f"SELECT max(strftime(to_timestamp(i), '{'%A %B ' * 6_000}')) {_MANY}",
    "lists_of_lists": f"SELECT list_transform(l, lambda x: l) FROM {_LISTS}",
    "list_zips": f"SELECT list_zip(l, l, l, l, l, l, l, l) FROM {_LISTS}, range(1000)",
    "list_filtered": "SELECT len(list_filter(l, lambda x: list_contains(l, -x - 1))) "
    f"FROM {_LISTS}",
    "unpacked": f"SELECT count(*) FROM (SELECT unnest(l) AS x, l FROM {_LISTS}) WHERE len(l) > x",
    # Of aggregates and rows.
    "top_k": f"SELECT max(i, 900000), min(md5(i::VARCHAR), 900000) {_MANY}",
    "approx_top_k": f"SELECT approx_top_k(i, 999999) {_MANY}",
    "reservoir": f"SELECT reservoir_quantile(i, 0.5, 1000000000) {_MANY}",
    "regex_extract_all": "SELECT len(regexp_extract_all(s, '.')) FROM (SELECT string_agg('x', '') "
    "AS s FROM range(50000000))",
    "groups": f"SELECT count(*) FROM (SELECT i, list(i), string_agg(i, '') {_MANY} GROUP BY i)",
    "self_join": "SELECT count(*) FROM range(3000000) a(i) JOIN range(3000000) b(i) "
    "ON a.i % 3 = b.i % 3",
    "sampled": "SELECT count(*) FROM (FROM range(1000000000) USING SAMPLE 100000000 ROWS)",
    "distinct_on": f"SELECT DISTINCT ON (i) i, md5(i::VARCHAR) {_MANY} ORDER BY i, 2 DESC",
    "wide_answer": "SELECT string_agg(i::VARCHAR, ',') FROM range(40000000) t(i)",
    "many_rows": "SELECT i, md5(i::VARCHAR) AS a, md5((i + 1)::VARCHAR) AS b FROM range(10000000) "
    "t(i)",
}
