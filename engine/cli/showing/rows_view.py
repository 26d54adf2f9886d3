"""How rows of a query look in a terminal: a table, and below it what is missing.

Whatever is in the values (users wrote them) reaches the terminal without its control characters.
Knows neither the client nor the arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.cli.showing.readable import moment_text, plain, value_text
from engine.cli.showing.run_views import console
from engine.model.query import QueryAnswer

CELL_CHARACTERS: Final = 2_000
COLUMN_CHARACTERS: Final = 8  # a column that has fewer is not readable
_FILE_COLUMNS: Final = 10_000
_MOMENT_MS: Final = 100_000_000_000  # as a moment this is in 1973, as a duration three years
_NUMBERS: Final = ("INT", "DOUBLE", "FLOAT", "REAL", "DECIMAL")


def show_rows(answer: QueryAnswer) -> None:
    """As a table; where that has no room for its columns, row by row with a line for each value."""
    shown = console()
    is_wide = len(answer.columns) * COLUMN_CHARACTERS > shown.width
    for part in _row_by_row(answer) if is_wide else [_table(answer)]:
        shown.print(part)
    rows = len(answer.rows)
    click.echo(f"{rows:,} {'row' if rows == 1 else 'rows'}, {answer.elapsed_ms:.0f} ms", err=True)


def with_moments(answer: QueryAnswer) -> QueryAnswer:
    """The same with its moments written out. What is so large a number of milliseconds, and called
    so, is no duration."""
    is_moment = [name.endswith("_ms") for name in answer.columns]
    rows = tuple(
        tuple(
            moment_text(value) if told and isinstance(value, int) and value > _MOMENT_MS else value
            for value, told in zip(row, is_moment, strict=True)
        )
        for row in answer.rows
    )
    return msgspec.structs.replace(answer, rows=rows)


def as_text(answer: QueryAnswer) -> str:
    """The same for a file: without colours, as wide as it is."""
    shown = Console(width=_FILE_COLUMNS, color_system=None, force_terminal=False)
    with shown.capture() as captured:
        shown.print(_table(answer))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _table(answer: QueryAnswer) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, sql_type in zip(answer.columns, answer.types, strict=True):
        is_number = _is_number(sql_type)
        table.add_column(plain(name), justify="right" if is_number else "left", overflow="fold")
    for row in answer.rows:
        table.add_row(*map(_cell, row))
    return table


def _row_by_row(answer: QueryAnswer) -> Iterator[Table | Text]:
    for number, row in enumerate(answer.rows, start=1):
        yield Text(f"row {number:,}", style="bright_black")
        values = Table(box=None, pad_edge=False, show_header=False)
        values.add_column(style="bold", no_wrap=True)
        values.add_column(overflow="fold")
        for name, value in zip(answer.columns, row, strict=True):
            values.add_row(plain(name), _cell(value))
        yield values


def _is_number(sql_type: str) -> bool:
    name = sql_type.upper()
    is_single = not name.endswith("]") and not name.startswith(("STRUCT", "MAP", "INTERVAL"))
    return is_single and any(word in name for word in _NUMBERS)


def _cell(value: object) -> Text:
    if value is None:
        return Text("NULL", style="bright_black")
    if isinstance(value, str):
        return Text(plain(value)[:CELL_CHARACTERS])
    if isinstance(value, float):
        return Text(f"{value:.10g}")
    return Text(value_text(value, CELL_CHARACTERS))


def say_what_is_missing(truncated: bool, skipped: Sequence[str]) -> None:
    if truncated:
        click.echo("there are more rows: narrow the query, or say --rows N", err=True)
    for one in skipped:
        click.echo(f"left out, because it could not be read: {plain(one)}", err=True)
