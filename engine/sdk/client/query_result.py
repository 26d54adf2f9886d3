"""What a query has found, for a program or a notebook: rows, Arrow, pandas, polars.

An answer is kept as it came, an Arrow stream, and is read by whatever library the user has: those
are imported by name when they are asked for, so that a process which only starts runs loads none
of them, and none of their types is part of the SDK.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from engine.sdk.errors import MissingPackage

QueryForm = Literal["arrow", "csv", "json"]


class QueryBytes(msgspec.Struct, frozen=True, kw_only=True):
    """An answer in the form that was asked for, as it came."""

    body: bytes
    truncated: bool = False  # there were more rows than may be answered at once
    skipped: tuple[str, ...] = ()  # objects of the archive that could not be read, and why
    elapsed_ms: float = 0.0


class Analytics(msgspec.Struct, frozen=True, kw_only=True):
    """One of the ready-made analytics: an object for each row."""

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[dict[str, Any]]
    from_ms: int | None = None
    to_ms: int | None = None
    truncated: bool = False
    skipped: tuple[str, ...] = ()
    elapsed_ms: float = 0.0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class QueryResult:
    """The rows of a query. Iterating gives a dict for each; `rows` has them as tuples.

    result = client.query("SELECT component, count(*) AS runs FROM runs GROUP BY component")
    result.pandas()
    """

    def __init__(self, answer: QueryBytes) -> None:
        self._answer = answer
        self._table: Any = None
        self._rows: list[tuple[Any, ...]] | None = None

    @property
    def stream(self) -> bytes:
        """The Arrow IPC stream itself, for any library that reads one."""
        return self._answer.body

    @property
    def truncated(self) -> bool:
        """There were more rows than may be answered at once."""
        return self._answer.truncated

    @property
    def skipped(self) -> tuple[str, ...]:
        """Objects of the archive that could not be read, and why; their runs are missing here."""
        return self._answer.skipped

    @property
    def elapsed_ms(self) -> float:
        return self._answer.elapsed_ms

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.arrow().column_names)

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        if self._rows is None:
            columns = [
                column.to_pylist(maps_as_pydicts="strict") for column in self.arrow().columns
            ]
            self._rows = list(zip(*columns, strict=True))
        return self._rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        columns = self.columns
        return (dict(zip(columns, row, strict=True)) for row in self.rows)

    def __len__(self) -> int:
        return int(self.arrow().num_rows)

    def __repr__(self) -> str:
        more = ", truncated" if self.truncated else ""
        missing = f", {len(self.skipped)} objects skipped" if self.skipped else ""
        return f"<QueryResult of {len(self)} rows: {', '.join(self.columns)}{more}{missing}>"

    def arrow(self) -> Any:
        """A `pyarrow.Table`."""
        if self._table is None:
            ipc = _package("pyarrow.ipc", "pyarrow")
            self._table = _with_whole_numbers(ipc.open_stream(self.stream).read_all())
        return self._table

    def pandas(self) -> Any:
        """A `pandas.DataFrame`."""
        _package("pandas", "pandas")
        return self.arrow().to_pandas()

    def polars(self) -> Any:
        """A `polars.DataFrame`; needs polars alone."""
        return _package("polars", "polars").read_ipc_stream(self.stream)


def _with_whole_numbers(table: Any) -> Any:
    """SQL sums whole numbers into 128 bits, which Arrow has as decimals; where they fit they are
    whole numbers again, as everybody expects of a sum of tokens."""
    for index, field in enumerate(table.schema):
        if getattr(field.type, "scale", None) != 0:
            continue
        try:
            whole = table.column(index).cast("int64")
        except ValueError:
            continue
        table = table.set_column(index, field.name, whole)
    return table


def _package(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackage(
            f"this needs the package {package}, which is not installed here: pip install {package}",
            package=package,
        ) from error
