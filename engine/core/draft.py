"""What a transition makes of a large table, beside the table: a copy of thousands of entries for
each of thousands of transitions costs more than all the rest of them. The table itself is changed
when the transition is accepted, and not before. Knows neither runs nor records.
"""

from __future__ import annotations

from typing import Any


class Draft:
    """As much of a dict as `apply` needs of one."""

    __slots__ = ("_gone", "_put", "_table")

    def __init__(self, table: dict[Any, Any]) -> None:
        self._table = table
        self._gone: dict[Any, None] = {}
        self._put: dict[Any, Any] = {}

    def __contains__(self, key: Any) -> bool:
        return key in self._put or (key in self._table and key not in self._gone)

    def pop(self, key: Any, default: Any = None) -> Any:
        if key in self._put:
            # It may stand in the table as well, in whose place it was put.
            value = self._put.pop(key)
        elif key in self:
            value = self._table[key]
        else:
            return default
        self._gone[key] = None
        return value

    def put(self, key: Any, value: Any) -> None:
        self._put[key] = value

    __setitem__ = put

    def settled(self) -> dict[Any, Any]:
        """The table, changed."""
        return self._change(self._table)

    def made(self) -> dict[Any, Any]:
        """Another table, as this one would be."""
        return self._change(type(self._table)(self._table))

    def _change(self, table: dict[Any, Any]) -> dict[Any, Any]:
        for key in self._gone:
            table.pop(key, None)
        put = getattr(table, "put", table.__setitem__)
        for key, value in self._put.items():
            put(key, value)
        return table
