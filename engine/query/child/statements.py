"""What a tenant's SQL may be: one SELECT over the tenant's views, decided on DuckDB's own parse.

The text is never searched: the parser says how many statements there are and of what kind, and
hands out the tree of the one. In the tree, what is read from must be one of our views, a name that
the query gives itself, or a function that makes rows out of nothing. This is the first of two
walls; the second is the locked database, which refuses other files whatever the tree says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from engine.base import limits
from engine.base.errors import InvalidQuery, QueryRefused

VIEWS: Final = frozenset({"runs", "steps"})
# Functions that may stand where a table stands. They read nothing.
TABLE_FUNCTIONS: Final = frozenset(
    {"unnest", "range", "generate_series", "repeat", "json_each", "json_tree"}
)
# What these make out of a few characters is not counted into the database's memory limit, or cannot
# be interrupted: one call would hold a thread, or all memory of the process.
_OVERSIZED: Final = frozenset(
    {
        "array_resize",
        "bitstring",
        "damerau_levenshtein",
        "editdist3",
        "format",
        "generate_series",  # as a list; as a table it is made piece by piece
        "jaccard",
        "jaro_similarity",
        "jaro_winkler_similarity",
        "levenshtein",
        "list_resize",
        "lpad",
        "printf",
        "range",
        "repeat",
        "rpad",
    }
)
# Functions that tell about the machine, write to its log, or only pass the time.
_TELLING: Final = frozenset(
    {
        "current_setting",
        "getvariable",
        "inet_client_addr",
        "inet_client_port",
        "inet_server_addr",
        "inet_server_port",
        "pg_conf_load_time",
        "pg_get_viewdef",
        "pg_sleep",
        "sleep_ms",
        "write_log",
    }
)
REFUSED_FUNCTIONS: Final = _OVERSIZED | _TELLING
# These may make a text longer by a factor, which is not counted into the limit either and
# multiplies where they are nested: the factor has to be seen beforehand.
_REPLACING: Final = frozenset({"regexp_replace", "replace"})
_TABLES: Final = "`runs` and `steps`"
# What a WITH may name. Inside its own text, and wherever it does not reach, the name means what the
# catalog has by it: a file for one that looks like a path, or a table of the machinery.
_NAMED: Final = re.compile(r"(?!duckdb_|pg_|pragma_|sqlite_|hot_(?:runs|steps)$)\w+")


class Parsed(NamedTuple):
    """One statement as the driver's parser sees it."""

    kind: str
    parameters: int


class Checked(NamedTuple):
    """A statement that may run."""

    views: frozenset[str]  # those of ours that it reads


def check(
    sql: str, parse: Callable[[str], Sequence[Parsed]], tree: Callable[[str], str]
) -> Checked:
    """`parse` and `tree` are the driver's: the statements of a text, and the JSON of their tree."""
    if len(sql) > limits.query_sql_characters_max:
        raise InvalidQuery(
            f"the SQL has {len(sql)} characters, it can have {limits.query_sql_characters_max}"
        )
    statements = parse(sql)
    if not statements:
        raise InvalidQuery("there is no statement; send one SELECT, for example: FROM runs LIMIT 5")
    if len(statements) > 1:
        raise QueryRefused(
            f"there are {len(statements)} statements, and a query is one SELECT. A PIVOT counts as "
            "two unless its values are listed: PIVOT runs ON status IN ('FAILED', 'COMPLETED') ..."
        )
    if statements[0].kind != "SELECT":
        raise QueryRefused(
            f"{statements[0].kind} is not for queries: the archive is read with one SELECT"
        )
    if statements[0].parameters:
        raise InvalidQuery("the SQL has parameters; write the values into it")
    return _check_tree(_decoded(tree(sql)))


def _decoded(text: str) -> Any:
    try:
        decoded = msgspec.json.decode(text)
    except RecursionError as error:
        raise InvalidQuery("the SQL is nested too deeply; take it apart with WITH") from error
    except msgspec.DecodeError as error:  # the tree of 1e400 has an Infinity, which is no JSON
        raise InvalidQuery("the SQL has a number that is too large for a DOUBLE") from error
    if decoded["error"]:
        # A SELECT that has no tree is a PRAGMA in disguise, or too deep for the parser.
        raise QueryRefused(f"this is not a plain SELECT: {decoded['error_message']}")
    return decoded["statements"]


def _check_tree(statements: Any) -> Checked:
    nodes = list(_nodes(statements))
    tables = {id(node["function"]) for node in nodes if node.get("type") == "TABLE_FUNCTION"}
    named = {
        str(entry["key"]).lower()
        for node in nodes
        if isinstance(node.get("cte_map"), dict)
        for entry in node["cte_map"]["map"]
    }
    read: set[str] = set()
    _check_growth([node for node in nodes if _name(node) in _REPLACING])
    for node in nodes:
        kind = node.get("type")
        if kind == "BASE_TABLE":
            read.add(_checked_table(node, named))
        elif kind == "TABLE_FUNCTION":
            _check_table_function(node["function"])
        elif len(node.get("select_list") or ()) > limits.query_columns_max:
            raise too_wide(len(node["select_list"]))
        elif kind == "SHOW_REF" and node.get("query") is None:
            raise QueryRefused("SHOW is not for queries; DESCRIBE runs lists the columns")
        elif (
            node.get("class") == "FUNCTION"
            and id(node) not in tables
            and _name(node) in REFUSED_FUNCTIONS
        ):
            raise QueryRefused(f"the function {_name(node)}() is not for queries")
    return Checked(frozenset(read & VIEWS))


def _check_growth(replacing: Sequence[dict[str, Any]]) -> None:
    """As if all of them were nested."""
    growth = 1.0
    for node in replacing:
        # `a.replace(b, c)` has the receiver where others have a schema.
        has_receiver = node.get("schema") not in ("", "main", "system", "pg_catalog")
        arguments = (node.get("children") or [])[0 if has_receiver else 1 :]
        texts = [_literal(argument) for argument in arguments]
        if None in texts:
            raise QueryRefused(
                f"what {_name(node)}() looks for and puts in have to be literals, such as 'x'"
            )
        old, new = [*(text or "" for text in texts), "", ""][:2]
        is_plain = _name(node) == "replace" and old
        growth *= max(1.0, len(new) / len(old) if is_plain else len(new) + 1)
    if growth > limits.query_text_growth_max:
        raise QueryRefused(
            f"replace() and regexp_replace() could make a text {growth:.0f} times as long here, "
            f"the limit is {limits.query_text_growth_max}: put in shorter texts, or fewer of them"
        )


def _literal(node: dict[str, Any]) -> str | None:
    """The text of a literal; None if it is none."""
    if node.get("class") != "CONSTANT":
        return None
    value = node["value"]
    return "" if value.get("is_null") else str(value.get("value"))


def too_wide(columns: int) -> InvalidQuery:
    return InvalidQuery(
        f"the answer has {columns} columns, it can have {limits.query_columns_max}: name fewer"
    )


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the tree. The driver takes seconds to bind a deep one, and cannot be
    interrupted meanwhile."""
    rest = [(tree, 0)]
    while rest:
        node, depth = rest.pop()
        if depth > limits.query_depth_max:
            raise InvalidQuery("the SQL is nested too deeply; take it apart with WITH")
        if isinstance(node, dict):
            yield node
            rest.extend((below, depth + 1) for below in node.values())
        elif isinstance(node, list):
            rest.extend((below, depth) for below in node)


def _name(function: dict[str, Any]) -> str:
    return str(function.get("function_name", "")).lower()


def _checked_table(node: dict[str, Any], named: set[str]) -> str:
    parts = [node.get("catalog_name"), node.get("schema_name"), node.get("table_name")]
    shown = ".".join(str(part) for part in parts if part)
    table = str(node.get("table_name")).lower()
    if len([part for part in parts if part]) == 1 and (table in VIEWS or table in named):
        if _NAMED.fullmatch(table) is None:
            raise QueryRefused(
                f"a WITH cannot be named {shown[:200]!r}: take letters, digits and _, and not a "
                "name of the database's own"
            )
        return table
    raise QueryRefused(f"there is no table {shown[:200]!r} here: a query reads {_TABLES}")


def _check_table_function(function: dict[str, Any]) -> None:
    name = _name(function)
    if name not in TABLE_FUNCTIONS or function.get("schema") not in ("", "main"):
        raise QueryRefused(
            f"{name}() cannot be read from: a query reads {_TABLES}, and rows can come from "
            f"{', '.join(sorted(TABLE_FUNCTIONS))}"
        )


_LINE: Final = re.compile(r"^LINE (\d+):", re.MULTILINE)


def located(error: InvalidQuery, sql: str, execute: Callable[[str], object]) -> InvalidQuery:
    """The same error with the place in the user's SQL. The driver loses it when we bound and
    project a statement; preparing the statement as it was sent finds it again."""
    reason, _, _ = error.message.partition("\n\nLINE ")
    try:
        execute(f"PREPARE located AS\n{sql}")
    except InvalidQuery as found:
        if found.message.startswith(reason):
            return InvalidQuery(_LINE.sub(lambda line: f"LINE {int(line[1]) - 1}:", found.message))
    return InvalidQuery(reason)
