"""How values of SQL become values of JSON.

Half of it is SQL, since DuckDB knows its types best: each column is projected to something plain.
Text for what JSON has no form for (timestamps and dates in ISO 8601, intervals, blobs in base64),
numbers for numbers unless they would lose digits, null for NaN and infinity. Knows no driver: it is
given the names of types.
"""

from __future__ import annotations

import decimal
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
_DOUBLE_DIGITS: Final = 15  # as many digits survive the way through a double

_AS_IT_IS: Final = frozenset(
    {
        "boolean",
        "tinyint",
        "smallint",
        "integer",
        "bigint",
        "utinyint",
        "usmallint",
        "uinteger",
        "ubigint",
        "hugeint",
        "uhugeint",
        "float",
        "double",
        "decimal",
        "varchar",
    }
)
_MOMENTS: Final = frozenset({"timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"})
_NESTED: Final = frozenset({"list", "array", "struct", "map", "union", "variant"})


def projection(types: Sequence[tuple[str, str]]) -> str:
    """The SELECT list that makes columns of these types (family, full name) plain."""
    return ", ".join(_plain(f"#{index}", *names) for index, names in enumerate(types, start=1))


def _plain(column: str, family: str, name: str) -> str:
    if name == "JSON" or family in _AS_IT_IS:
        return column
    if family in _NESTED:
        return f"CAST(to_json({column}) AS VARCHAR)"
    if family == "blob":
        return f"base64({column})"
    if family in _MOMENTS:
        return f"replace(CAST({column} AS VARCHAR), ' ', 'T')"
    if family == "timestamp with time zone":
        # The databases' time zone is UTC.
        return f"replace(replace(CAST({column} AS VARCHAR), ' ', 'T'), '+00', 'Z')"
    return f"CAST({column} AS VARCHAR)"


def readers(types: Sequence[tuple[str, str]]) -> tuple[Callable[[Any], Any], ...]:
    """For each column, what makes the driver's value one that JSON can carry."""
    return tuple(_reader(*names) for names in types)


def _reader(family: str, name: str) -> Callable[[Any], Any]:
    if name == "JSON" or family in _NESTED:
        return _nested
    if family in ("float", "double"):
        return _real
    if family in ("hugeint", "uhugeint"):
        return _whole
    return _decimal if family == "decimal" else _same


def _same(value: Any) -> Any:
    return value


def _real(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _whole(value: int | None) -> int | str | None:
    """A sum of counts is a number; what no 64 bits hold is text, with every digit."""
    return value if value is None or _INT_MIN <= value <= _INT_MAX else str(value)


def _decimal(value: decimal.Decimal | None) -> float | str | None:
    if value is None:
        return None
    return float(value) if len(value.as_tuple().digits) <= _DOUBLE_DIGITS else str(value)


def _nested(value: str | None) -> Any:
    if value is None:
        return None
    try:
        return json.loads(value, parse_constant=lambda _: None, parse_int=_parsed_int)
    except (ValueError, RecursionError):
        return value  # a text that was declared to be JSON, and is not


def _parsed_int(digits: str) -> int | str | None:
    return _whole(int(digits)) if len(digits) <= len(str(_INT_MIN)) else digits


def size_of(value: Any) -> int:
    """Roughly the bytes that a value takes in an answer."""
    if isinstance(value, str):
        return len(value) + 2
    if isinstance(value, dict):
        return 2 + sum(len(str(key)) + 4 + size_of(item) for key, item in value.items())
    if isinstance(value, list):
        return 2 + sum(size_of(item) + 1 for item in value)
    return 8
