"""`engine serve`: one runtime process, until a signal asks it to stop."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
import trio
from rich.console import Console

from engine.base.errors import InvalidSettings
from engine.cli.composing.serving import Runtime, run_runtime
from engine.config.settings import Settings, load_settings

C = TypeVar("C", bound=Callable[..., object])


def runtime_options(command: C) -> C:
    """The options that `serve` and `dev` share."""
    for option in (
        click.option("--data-dir", metavar="DIR", help="Where everything is kept."),
        click.option("--http", metavar="HOST:PORT", help="Where clients connect."),
        click.option("--grpc", metavar="HOST:PORT", help="Where workers connect."),
        click.option(
            "--config",
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Settings, as TOML.",
        ),
    ):
        command = option(command)
    return command


def settings_of(
    data_dir: str | None, http: str | None, grpc: str | None, config: Path | None
) -> Settings:
    return load_settings(
        file=config,
        environment=os.environ,
        flags={"data_dir": data_dir, "http": http, "grpc": grpc},
    )


def _refuse_parts(target: str) -> None:
    """A part alone would have nobody to talk to: see docs/decisions/0024."""
    if target != "all":
        raise InvalidSettings(
            f"--target {target} cannot run by itself in this version: a door reaches the engine by "
            "a call within one process, and there is no network between them yet. Run `engine "
            "serve` (--target all) on one machine; to spread the work, start more workers, which "
            "can run anywhere: engine worker MODULE --endpoint http://HOST:PORT",
            setting="target",
        )


@click.command()
@click.option(
    "--target",
    type=click.Choice(["all", "gateway", "engine", "coordinator"]),
    default="all",
    show_default=True,
    help="Which part this process is. Only `all` can run so far: one process is a whole runtime.",
)
@runtime_options
def serve(
    target: str, data_dir: str | None, http: str | None, grpc: str | None, config: Path | None
) -> None:
    """Start the runtime: gateway, engine and coordinator in one process."""
    _refuse_parts(target)
    settings = settings_of(data_dir, http, grpc, config)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    data_dir = str(Path(settings.data_dir).resolve())

    async def say_ready(runtime: Runtime) -> None:
        console.print(
            f"[bold]engine[/] is up: clients at {runtime.http}, workers at {runtime.grpc}, data in "
            f"{data_dir}, {runtime.open_runs} open runs taken up"
        )

    trio.run(functools.partial(run_runtime, settings, on_ready=say_ready))
    console.print("engine has stopped; everything that was acknowledged is on the disk")
