"""`engine journal`: look at the journal on disk, copy it, and save what can be saved of it.

Owns arguments and output; what is done is done by `engine/journal`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import outcome
import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.base.errors import DirectoryInUse
from engine.base.ids import TenantId, parse_run_id, tenant_id
from engine.config.settings import Settings, load_settings
from engine.journal.tenants import open_journal
from engine.journal.upkeep import backup as backups
from engine.journal.upkeep import inspect
from engine.journal.upkeep.salvage import SalvageReport
from engine.journal.upkeep.salvage import salvage as salvage_store
from engine.runtime.reading.rebuild import JournaledStates

_SYSTEM: Final = "(system)"
_PIPE_COLUMNS: Final = 200  # lines of a table are not wrapped where nobody looks at them

data_dir_option = click.option(
    "--data-dir",
    metavar="DIR",
    help="The data directory; by default ENGINE_DATA_DIR or ./engine-data.",
)
tenant_option = click.option("--tenant", metavar="TENANT", help="Only this tenant.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def journal() -> None:
    """Look at the journal on disk, copy it, and save what can be saved of it."""


@journal.command()
@data_dir_option
@tenant_option
@json_option
@click.pass_context
def verify(context: click.Context, data_dir: str | None, tenant: str | None, as_json: bool) -> None:
    """Check every record. Works beside a running runtime; exit code 1 if something is wrong."""
    report = inspect.verify(_data_dir(data_dir), _tenant(tenant), states=JournaledStates())
    if as_json:
        _print_json(report)
    else:
        _show_verified(report)
    context.exit(0 if report.is_sound else 1)


@journal.command()
@data_dir_option
@tenant_option
@json_option
@click.pass_context
def stats(context: click.Context, data_dir: str | None, tenant: str | None, as_json: bool) -> None:
    """How much each store holds."""
    found = inspect.stats(_data_dir(data_dir), _tenant(tenant))
    if as_json:
        _print_json(found)
    else:
        _show_stats(found)
    context.exit(1 if any(each.trouble for each in found) else 0)


@journal.command()
@data_dir_option
@tenant_option
@json_option
@click.option("--run", "run", metavar="RUN_ID", help="Only this run.")
@click.option("--from-offset", type=click.IntRange(min=0), default=0, help="Of --run: from here.")
def dump(
    data_dir: str | None, tenant: str | None, as_json: bool, run: str | None, from_offset: int
) -> None:
    """Print every record, decoded, a line each."""
    if run is not None and tenant is None:
        raise click.UsageError("--run needs --tenant: a run is known by both")
    if from_offset and run is None:
        raise click.UsageError("--from-offset needs --run")
    records = inspect.dump(
        _data_dir(data_dir),
        _tenant(tenant),
        run=None if run is None else parse_run_id(run),
        from_offset=from_offset,
    )
    for record in records:
        click.echo(msgspec.json.encode(record) if as_json else _record_line(record))


@journal.command()
@click.argument("destination", type=click.Path(path_type=Path))
@data_dir_option
@json_option
@click.pass_context
def backup(context: click.Context, destination: Path, data_dir: str | None, as_json: bool) -> None:
    """Copy the whole journal to a new folder, DESTINATION, while no runtime is up.

    A runtime that is up makes its backups itself, without stopping (`write_backup`).
    """
    settings = _settings(data_dir)
    inspect.require_data_dir(Path(settings.data_dir))
    manifest = trio.run(_backup, settings, destination)
    if as_json:
        _print_json(manifest)
    else:
        _show_backup(destination, manifest)
    context.exit(1 if manifest.left_out else 0)


async def _backup(settings: Settings, destination: Path) -> backups.BackupManifest:
    try:
        async with open_journal(Path(settings.data_dir), settings.journal) as opened:
            # Carried out of the nursery by hand, which would wrap an error.
            written = await outcome.acapture(backups.write_backup, opened, destination)
    except DirectoryInUse as error:
        raise DirectoryInUse(
            f"{error.message}. A runtime that is up makes its backups itself, without stopping",
            **error.details,
        ) from error
    return written.unwrap()


@journal.command()
@click.argument("source", type=click.Path(path_type=Path))
@data_dir_option
@json_option
@click.pass_context
def restore(context: click.Context, source: Path, data_dir: str | None, as_json: bool) -> None:
    """Fill a new data directory from the backup SOURCE, and verify it."""
    target = Path(_settings(data_dir).data_dir)
    report = backups.restore_backup(source, target, states=JournaledStates())
    if as_json:
        _print_json(report)
    else:
        click.echo(f"restored {source} to {report.data_dir}")
        _show_verified(report)
    context.exit(0 if report.is_sound else 1)


@journal.command()
@click.argument("name", metavar="TENANT", required=False)
@data_dir_option
@click.option("--tenant", metavar="TENANT", help="As the argument.")
@click.option("--system", is_flag=True, help="The system store instead of a tenant's.")
@json_option
@click.pass_context
def salvage(
    context: click.Context,
    name: str | None,
    data_dir: str | None,
    tenant: str | None,
    system: bool,
    as_json: bool,
) -> None:
    """Keep what can be read of TENANT's damaged store, while no runtime is up.

    The damaged store stays where it is, under another name. Exit code 1 if anything is or may be
    lost.
    """
    if (name is not None) + (tenant is not None) + system != 1:
        raise click.UsageError("name one tenant, or --system")
    which = None if system else _tenant(name or tenant)
    report = salvage_store(_data_dir(data_dir), which, states=JournaledStates())
    if as_json:
        _print_json(report)
    else:
        _show_salvaged(report)
    context.exit(1 if report.may_have_lost else 0)


# ---- arguments ----


def _settings(data_dir: str | None) -> Settings:
    return load_settings(environment=os.environ, flags={"data_dir": data_dir})


def _data_dir(data_dir: str | None) -> Path:
    return Path(_settings(data_dir).data_dir)


def _tenant(name: str | None) -> TenantId | None:
    return None if name is None else tenant_id(name)


# ---- output ----


def _print_json(value: object) -> None:
    click.echo(msgspec.json.encode(value))


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_COLUMNS)


def _show_table(title: str, columns: dict[str, Callable[[Any], object]], items: Any) -> None:
    """A table of what each column makes of each item; numbers to the right."""
    table = Table(title=title, title_justify="left")
    rows = [[column(item) for column in columns.values()] for item in items]
    for position, name in enumerate(columns):
        is_number = bool(rows) and all(isinstance(row[position], int) for row in rows)
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        # As Text, so that no name is taken for markup.
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    _console().print(table)


def _show_verified(report: inspect.VerifyReport) -> None:
    columns: dict[str, Callable[[inspect.StoreReport], object]] = {
        "store": lambda store: store.tenant_id or _SYSTEM,
        "runs": lambda store: store.runs,
        "records": lambda store: store.records,
        "rows": lambda store: store.rows,
        "log bytes": lambda store: store.wal.bytes if store.wal else 0,
        "cut off": lambda store: store.wal.cut_bytes if store.wal else 0,
        "result": lambda store: "sound" if store.is_sound else f"{store.problem_count} problems",
    }
    _show_table(f"Journal of {report.data_dir}", columns, report.stores)
    for store in report.stores:
        for problem in store.problems:
            where = store.tenant_id or _SYSTEM
            if problem.run_id is not None:
                where += f" run {problem.run_id}"
            if problem.offset is not None:
                where += f" offset {problem.offset}"
            click.echo(f"{where}: {problem.what}")


def _show_stats(found: tuple[inspect.StoreStats, ...]) -> None:
    columns: dict[str, Callable[[inspect.StoreStats], object]] = {
        "store": lambda store: store.tenant_id or _SYSTEM,
        "disk bytes": lambda store: store.disk_bytes,
        "tables": lambda store: store.tables,
        "table bytes": lambda store: store.table_bytes,
        "logs": lambda store: store.log_files,
        "log bytes": lambda store: store.log_bytes,
        "entries, about": lambda store: store.entries_estimated,
        "sequence": lambda store: store.sequence_number,
    }
    _show_table("Stores", columns, found)
    for store in found:
        if store.trouble is not None:
            click.echo(f"{store.tenant_id or _SYSTEM}: {store.trouble}")


def _record_line(record: inspect.DumpedRecord) -> str:
    at = datetime.fromtimestamp(record.timestamp_us / 1e6, UTC).isoformat(timespec="milliseconds")
    # JSON, so that nothing a user wrote reaches the terminal as a control character.
    content = (
        f"! {record.trouble}"
        if record.payload is None
        else msgspec.json.encode(_said(record.payload)).decode()
    )
    return f"{record.tenant_id} {record.run_id} {record.offset:>6} {at} {record.kind:<16} {content}"


def _said(payload: msgspec.Struct) -> dict[str, object]:
    """The fields that say something; bytes that are text as text."""
    fields = {
        field.name: value
        for field in msgspec.structs.fields(payload)
        if (value := getattr(payload, field.name)) != field.default
    }
    return {
        name: value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        for name, value in fields.items()
    }


def _show_backup(destination: Path, manifest: backups.BackupManifest) -> None:
    columns: dict[str, Callable[[backups.BackupStore], object]] = {
        "store": lambda store: store.tenant_id or _SYSTEM,
        "records": lambda store: store.records,
        "sequence": lambda store: store.sequence_number,
        "files": lambda store: len(store.files),
        "bytes": lambda store: sum(file.bytes for file in store.files),
    }
    _show_table(f"Backup {destination} of {manifest.created}", columns, manifest.stores)
    for left_out in manifest.left_out:
        click.echo(f"left out: {left_out.tenant_id}: {left_out.message}")


def _show_salvaged(report: SalvageReport) -> None:
    if report.damaged_store is None:
        click.echo(f"{report.store} is sound: nothing was changed")
        return
    click.echo(
        f"kept {report.records:,} records of {report.runs:,} runs and {report.rows:,} rows in "
        f"{report.store}\nmade {report.states_made_anew:,} states anew\n"
        f"the damaged store is now {report.damaged_store}"
    )
    for damage in report.damages:
        click.echo(f"damage: {damage.what}")
    for loss in report.losses:
        click.echo(
            f"run {loss.run_id}: kept {loss.first_offset} to {loss.next_offset - 1}"
            if loss.next_offset > loss.first_offset
            else f"run {loss.run_id}: nothing kept",
            nl=False,
        )
        click.echo(
            f", dropped {loss.records_dropped} records behind the gap, state {loss.state}: "
            f"{loss.why}"
        )
    if report.loss_count > len(report.losses):
        click.echo(f"and {report.loss_count - len(report.losses):,} more runs")
    if report.may_have_lost:
        click.echo(
            "runs whose last records are lost together with their state cannot be told from whole "
            "ones"
        )
