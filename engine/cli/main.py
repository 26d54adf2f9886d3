"""The `engine` command: its groups, its version, and how an error reaches the terminal.

Exit codes: 0 all is well, 1 something is wrong with the data or the machine, 2 with the command.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import click

from engine import __version__
from engine.base.errors import (
    EngineError,
    InvalidName,
    InvalidQuery,
    InvalidSettings,
    QueryRefused,
    TenantUnknown,
)

_COMMANDS: Final = {
    "analytics": "engine.cli.query",
    "archive": "engine.cli.archive",
    "dev": "engine.cli.dev",
    "doctor": "engine.cli.doctor",
    "journal": "engine.cli.journal",
    "query": "engine.cli.query",
    "runs": "engine.cli.runs",
    "serve": "engine.cli.serve",
    "tenants": "engine.cli.tenants",
    "worker": "engine.cli.worker",
}
_USAGE_ERRORS: Final = (InvalidName, InvalidQuery, InvalidSettings, QueryRefused, TenantUnknown)


class Refused(click.ClickException):
    """A typed error of the engine on its way to the terminal."""

    def show(self, file: Any = None) -> None:
        click.echo(self.message, err=True)


class Misused(Refused):
    """What was asked for cannot be meant so."""

    exit_code = 2


class EngineGroup(click.Group):
    """Shows the engine's own errors as one line; anything else is a defect and has a traceback.

    A command's module is imported when the command is used: a worker does not load the runtime, and
    `engine journal dump` loads neither.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(module), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EngineError as error:
            raise refused(error) from error
        except BaseExceptionGroup as group:
            inner = only_engine_error(group)
            if inner is None:
                raise
            raise refused(inner) from group


def refused(error: EngineError) -> Refused:
    kind = Misused if isinstance(error, _USAGE_ERRORS) else Refused
    return kind(f"error [{error.code}]: {error.message}")


def only_engine_error(group: BaseExceptionGroup[BaseException]) -> EngineError | None:
    """The error in a nursery's wrapping, if it holds nothing else."""
    matching, rest = group.split(EngineError)
    if matching is None or rest is not None:
        return None
    inner: BaseException = matching
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    assert isinstance(inner, EngineError)
    return inner


@click.group(cls=EngineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="engine")
def engine() -> None:
    """A durable execution runtime: every step is journaled before it counts."""


def main() -> None:
    engine()


if __name__ == "__main__":
    main()
