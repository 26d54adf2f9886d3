"""`engine query` and `engine analytics`: ask the runs a runtime has and had, over HTTP.

Owns the commands, and which form an answer is printed or written in. The SQL is the runtime's to
judge; how a table looks is in `rows_view.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeVar, get_args

import click
import msgspec

from engine.base.clock import system_clock
from engine.cli.reaching import moment_option, over_http
from engine.cli.showing import rows_view
from engine.gateway.api.tables import csv_bytes, objects
from engine.model.query import ANALYTICS, QueryAnswer
from engine.sdk.client.client import Client

C = TypeVar("C", bound=Callable[..., object])
Format = Literal["table", "csv", "json", "parquet", "arrow"]

TABLE_ROWS: Final = 1_000  # more do not help in a terminal
ANALYTICS_ROWS: Final = 1_000

_FORMAT_OF_SUFFIX: Final[dict[str, Format]] = {
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".csv": "csv",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}
output_option = click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it there; the name's ending says the format if --format does not.",
)


def format_option(*names: Format) -> Callable[[C], C]:
    return click.option(
        "--format", "form", type=click.Choice(names), help="[default: table, or as FILE ends]"
    )


@click.command()
@click.argument("sql", metavar="SQL")
@format_option(*get_args(Format))
@output_option
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="At most so many rows.")
@over_http
def query(
    client: Client, sql: str, form: Format | None, output: Path | None, rows: int | None
) -> None:
    """Answer one SELECT over the views `runs` and `steps`. SQL may be - for standard input.

    \b
    engine query "SELECT component, count(*) FROM runs WHERE status = 'FAILED' GROUP BY ALL"
    engine query "FROM steps" -o steps.parquet
    """
    chosen = chosen_format(form, output)
    text = sys.stdin.read() if sql == "-" else sql
    if not text.strip():
        raise click.UsageError("there is no SQL: give it as an argument, or - and standard input")
    if chosen in ("table", "json"):
        asked_rows = TABLE_ROWS if chosen == "table" and rows is None else rows
        found = client.query_bytes(text, "json", rows_max=asked_rows)
        answer = msgspec.json.decode(found.body, type=QueryAnswer)
        put(answer, chosen, output)
        return
    came = client.query_bytes(text, "csv" if chosen == "csv" else "arrow", rows_max=rows)
    put_bytes(came.body, output, as_parquet=chosen == "parquet")
    rows_view.say_what_is_missing(came.truncated, came.skipped)


@click.command()
@click.argument("name", type=click.Choice(ANALYTICS))
@click.option("--since", metavar="SPAN|DATE", help="Of runs that ended since: 3h, 7d, 2026-01-31.")
@click.option("--until", metavar="SPAN|DATE", help="Of runs that ended before.")
@click.option("--project", metavar="NAME", help="Of this project only.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=ANALYTICS_ROWS, show_default=True, metavar="N"
)
@format_option("table", "csv", "json")
@output_option
@over_http
def analytics(
    client: Client,
    name: str,
    since: str | None,
    until: str | None,
    project: str | None,
    limit: int,
    form: Format | None,
    output: Path | None,
) -> None:
    """Ready-made questions about ended runs.

    \b
    tokens       tokens and cost by project and model
    errors       failures by signature
    latency      percentiles of durations by component and hour
    leaderboard  scores by prompt version and scorer
    tools        tool calls by model
    """
    chosen = chosen_format(form, output)
    if chosen not in ("table", "csv", "json"):
        raise click.UsageError("analytics are written as table, csv or json")
    now_ms = system_clock.now_ms()
    found = client.analytics(
        name,
        since=moment_option(since, "--since", now_ms),
        until=moment_option(until, "--until", now_ms),
        project=project,
        limit=limit,
    )
    answer = QueryAnswer(
        columns=found.columns,
        types=found.types,
        rows=tuple(tuple(row[column] for column in found.columns) for row in found),
        truncated=found.truncated,
        skipped=found.skipped,
        elapsed_ms=found.elapsed_ms,
    )
    put(rows_view.with_moments(answer) if chosen == "table" else answer, chosen, output)


def chosen_format(form: Format | None, output: Path | None) -> Format:
    if form is None and output is not None:
        form = _FORMAT_OF_SUFFIX.get(output.suffix.lower())
        if form is None:
            endings = " ".join(_FORMAT_OF_SUFFIX)
            raise click.UsageError(
                f"{output.name} does not say which format: give --format, or one of {endings}"
            )
    if form == "parquet" and output is None:
        raise click.UsageError("parquet is a file: say with --output FILE where it goes")
    if form == "arrow" and output is None and sys.stdout.isatty():
        raise click.UsageError("an Arrow stream is no text: give --output FILE, or pipe it on")
    return form or "table"


def rows_in(form: Format, answer: QueryAnswer, output: Path | None) -> bytes | None:
    """None: it is a table for a terminal."""
    if form == "json":
        return msgspec.json.encode(objects(answer)) + b"\n"
    if form == "csv":
        return csv_bytes(answer.columns, answer.rows)
    return None if output is None else rows_view.as_text(answer).encode()


def put(answer: QueryAnswer, form: Format, output: Path | None) -> None:
    """To the file or to standard output; and what is missing from it to standard error."""
    body = rows_in(form, answer, output)
    if body is None:
        rows_view.show_rows(answer)
    else:
        put_bytes(body, output)
    rows_view.say_what_is_missing(answer.truncated, answer.skipped)


def put_bytes(body: bytes, output: Path | None, *, as_parquet: bool = False) -> None:
    if output is None:
        click.echo(body, nl=False)
    else:
        _write(body, output, as_parquet=as_parquet)


def _write(body: bytes, output: Path, *, as_parquet: bool) -> None:
    try:
        if as_parquet:
            # Imported here: it takes longer than all the rest of the command.
            from engine.archive.files.interchange import arrow_to_parquet

            arrow_to_parquet(body, output)
        else:
            output.write_bytes(body)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise click.ClickException(f"{output} cannot be written: {reason}") from error
