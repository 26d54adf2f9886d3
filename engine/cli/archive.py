"""`engine archive`: how the archive of a runtime is doing, and what an operator does with it.

`status`, `flush` and `verify` ask a runtime that is up, over HTTP; `rehydrate` works on a data
directory whose runtime is not. Owns the commands and what they
print; what an object is, and what it has to hold, is known in `engine/archive`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from engine.base.clock import system_clock
from engine.cli.reaching import json_option, on_disk, over_http, settings_on_disk
from engine.cli.showing.readable import age_text, bytes_text, duration_text, plain
from engine.cli.showing.run_views import console, print_json
from engine.model.query import ArchiveStatus
from engine.sdk.client.client import Client

WATCH_EVERY_S: Final = 0.5


@click.group()
def archive() -> None:
    """Look after the archive, where ended runs are kept as Parquet files."""


@archive.command()
@click.option("--watch", is_flag=True, help="Show how it catches up, until it has.")
@json_option
@over_http
def status(client: Client, watch: bool, as_json: bool) -> None:
    """Say where the archive is, what is in it, and what is not there yet.

    Exit code 1 if the store cannot be reached.
    """
    found = caught_up(client) if watch else client.archive_status()
    if as_json:
        print_json(found)
    else:
        show_status(found, system_clock.now_ms())
    click.get_current_context().exit(0 if found.reachable else 1)


def caught_up(client: Client) -> ArchiveStatus:
    """Asks until it has caught up after an outage, or cannot go on."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        task = progress.add_task("runs archived", total=None)
        while True:
            found = client.archive_status()
            progress.update(task, completed=found.backfill_done, total=found.backfill_total or None)
            if not found.backfilling or not found.reachable:
                return found
            time.sleep(WATCH_EVERY_S)


def show_status(found: ArchiveStatus, now_ms: int) -> None:
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(found, now_ms):
        facts.add_row(name, value)
    console().print(facts)


def _facts(found: ArchiveStatus, now_ms: int) -> Iterable[tuple[str, Text]]:
    reached = ("reached", "green") if found.reachable else ("cannot be reached", "bold red")
    yield "archive", Text(plain(found.url))
    yield "store", Text(*reached)
    if found.last_error:
        yield "last error", Text(plain(found.last_error), style="red")
    size = bytes_text(found.archived_bytes)
    yield (
        "archived",
        Text(f"{found.archived_runs:,} runs in {found.batches_acknowledged:,} batches, {size}"),
    )
    waiting = f"{found.waiting_runs:,} ended runs"
    if found.waiting_oldest_ms:
        waiting += f", the oldest for {duration_text(found.waiting_oldest_ms)}"
    yield "waiting", Text(waiting)
    if found.batches_planned:
        yield "under way", Text(f"{found.batches_planned:,} batches")
    if found.backfilling:
        done = f"{found.backfill_done:,} of {found.backfill_total:,} runs"
        yield "catching up", Text(f"{done}; engine archive status --watch")
    flushed = age_text(found.last_flush_ms, now_ms) if found.last_flush_ms else "never"
    yield "last flush", Text(flushed)


@archive.command()
@json_option
@over_http
def flush(client: Client, as_json: bool) -> None:
    """Put every run that has ended into the archive now, and wait until it is there."""
    found = client.archive_flush()
    if as_json:
        print_json(found)
    elif found.runs:
        took = duration_text(int(found.took_ms))
        size = bytes_text(found.bytes)
        click.echo(f"{found.runs:,} runs in {found.batches:,} batches, {size}, in {took}")
    else:
        click.echo("nothing was waiting")


@archive.command()
@json_option
@over_http
def verify(client: Client, as_json: bool) -> None:
    """Compare the objects in the store with what the runtime knows of them. Exit code 1 if one is
    not as it must be."""
    found = client.archive_verify()
    if as_json:
        print_json(found)
    else:
        for problem in found.problems:
            click.echo(plain(problem), err=True)
        said = f"{len(found.problems):,} problems in " if found.problems else "as they must be: "
        click.echo(f"{said}{found.batches:,} batches with {found.runs:,} runs")
    click.get_current_context().exit(1 if found.problems else 0)


@archive.command()
@on_disk
@click.option("--tenant", "tenants", multiple=True, metavar="TENANT", help="May be repeated.")
@json_option
def rehydrate(
    data_dir: str | None, config: Path | None, tenants: tuple[str, ...], as_json: bool
) -> None:
    """Let a data directory know again what its archive holds: a new one, or one from a backup.

    No runtime may be up on it. Where the archive is, the settings say (ENGINE_ARCHIVE__URL, ...).
    Exit code 1 if something in the archive cannot be used.
    """
    # Imported here: it loads the journal and the archive, which the other commands do without.
    from engine.cli.rehydrating import rehydrate as rehydrate_tenants

    found = trio.run(rehydrate_tenants, settings_on_disk(data_dir, config), tenants)
    problems = [problem for one in found for problem in one.problems]
    if as_json:
        print_json(found)
    else:
        for problem in problems:
            click.echo(plain(problem), err=True)
        for one in found:
            click.echo(f"{one.tenant_id}: {one.batches:,} more batches with {one.runs:,} runs")
        if not found:
            click.echo("there is nothing in the archive")
    click.get_current_context().exit(1 if problems else 0)
