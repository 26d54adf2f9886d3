"""`engine tenants`: the tenants of a data directory and its archive, and deleting one for good.

Works on a data directory whose runtime is not up. Owns the commands and what they print.
"""

from __future__ import annotations

from pathlib import Path

import click
import trio

from engine.cli.reaching import json_option, on_disk, settings_on_disk
from engine.cli.showing.run_views import print_json


@click.group()
def tenants() -> None:
    """See which tenants there are, and delete one with everything it has."""


@tenants.command("ls")
@on_disk
@json_option
def list_tenants(data_dir: str | None, config: Path | None, as_json: bool) -> None:
    """Say which tenants there are, and where they have something."""
    # Imported here: it loads the journal and the archive, which `--help` does without.
    from engine.cli.deleting import find_tenants

    found = trio.run(find_tenants, settings_on_disk(data_dir, config))
    if as_json:
        print_json(found)
        return
    for one in found:
        places = [
            place
            for place, is_there in (("journal", one.in_journal), ("archive", one.in_archive))
            if is_there
        ]
        click.echo(f"{one.tenant_id}: {' and '.join(places)}")
    if not found:
        click.echo("there are no tenants yet")


@tenants.command()
@click.argument("tenant")
@click.option("--yes", is_flag=True, help="Do not ask.")
@on_disk
@json_option
def delete(
    tenant: str, yes: bool, data_dir: str | None, config: Path | None, as_json: bool
) -> None:
    """Delete everything that TENANT has: its runs, open and ended, and its objects in the archive.

    No runtime may be up on the data directory. There is no way back but a backup.
    """
    from engine.cli.deleting import delete_tenant

    settings = settings_on_disk(data_dir, config)
    if not yes:
        click.confirm(f"Delete tenant {tenant} with all its runs, for good?", abort=True, err=True)
    deleted = trio.run(delete_tenant, settings, tenant)
    if as_json:
        print_json(deleted)
    else:
        hot = "its journal and " if deleted.had_journal else ""
        click.echo(f"{deleted.tenant_id}: {hot}{deleted.objects:,} objects of the archive deleted")
