"""A row whose bytes are made when its batch is written, and not with each transition in the batch
that changes it: of a large state that many transitions of one commit change, one copy is written.

Knows no state; whoever makes the row sees to it that it says what the records of its batch, and of
no later one, lead to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class LateRow:
    """Its length is an estimate until it is made."""

    __slots__ = ("_bytes_expected", "_made", "_make")

    def __init__(self, make: Callable[[], bytes], bytes_expected: int) -> None:
        self._make: Callable[[], bytes] | None = make
        self._made = b""
        self._bytes_expected = bytes_expected

    def __len__(self) -> int:
        return self._bytes_expected if self._make is not None else len(self._made)

    @property
    def is_made(self) -> bool:
        return self._make is None

    def made(self) -> bytes:
        """The bytes, from now on the same ones."""
        if self._make is not None:
            self._made, self._make = self._make(), None
        return self._made


# What a transition writes under a key; None deletes the row.
RowValue = bytes | LateRow | None


def made(rows: Iterable[tuple[bytes, RowValue]]) -> list[tuple[bytes, bytes | None]]:
    """As a store writes them."""
    return [(key, row.made() if isinstance(row, LateRow) else row) for key, row in rows]
