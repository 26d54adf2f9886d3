"""`engine worker MODULE`: a process that serves the components of a module."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType

import click

from engine.cli.composing.lifeline import leave_when_cut
from engine.sdk.worker.worker import Worker


@click.command()
@click.argument("module")
@click.option(
    "--endpoint",
    default="http://127.0.0.1:34180",
    envvar="ENGINE_ENDPOINT",
    show_default=True,
    help="The runtime's address for workers, with http:// or https://.",
)
@click.option("--token", default="", envvar="ENGINE_API_KEY", help="The API key (sk_...).")
@click.option(
    "--ca-file",
    envvar="ENGINE_CA_FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Certificates to trust at https://, as PEM, instead of the system's.",
)
@click.option("--deployment", default="default", show_default=True, help="Which deployment.")
@click.option("--capacity", default=100, show_default=True, help="Runs held at a time.")
@click.option("--worker-id", default=None, help="A name that stays over restarts.")
@click.option("--lifeline", type=int, default=None, hidden=True)
def worker(
    module: str,
    endpoint: str,
    token: str,
    ca_file: str | None,
    deployment: str,
    capacity: int,
    worker_id: str | None,
    lifeline: int | None,
) -> None:
    """Serve the workflows and functions of MODULE (examples.shop, or a path to a .py file)."""
    if lifeline is not None:
        leave_when_cut(lifeline)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    served = load_module(module)
    Worker(
        served.__name__.rpartition(".")[2],
        served,
        endpoint=endpoint,
        token=token,
        ca_file=ca_file,
        deployment_id=deployment,
        capacity=capacity,
        worker_id=worker_id,
    ).run()


def load_module(name: str) -> ModuleType:
    """A module by its name, or by the path of its file, as seen from the current folder."""
    sys.path.insert(0, str(Path.cwd()))
    if name.endswith(".py"):
        path = Path(name)
        sys.path.insert(0, str(path.parent.resolve()))
        name = path.stem
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise  # something that the module itself imports
        raise click.BadParameter(
            f"there is no module {name!r} in {Path.cwd()}; give a module (examples.shop) or a file "
            "(shop.py)",
            param_hint="MODULE",
        ) from error
