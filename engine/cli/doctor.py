"""`engine doctor`: looks at this machine as the runtime would meet it, and says what to do.

Owns the command and its output, and the two checks that come before everything else: the Python
and the compiled extensions. The other checks are in `checks.py`, which is imported once these two
are passed, because it imports the engine, and the engine cannot be imported without them.
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.text import Text

from engine import __version__
from engine.cli.checking.check import Check, Verdict

PYTHON_MIN: Final = (3, 11)
EXTENSIONS: Final = ("append", "fields", "frames", "json_scan", "offsets", "protobuf", "replay")

_COLOURS: Final[Mapping[Verdict, str]] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


class Diagnosis(msgspec.Struct, frozen=True):
    is_healthy: bool
    version: str
    checks: tuple[Check, ...]


@click.command()
@click.option("--data-dir", metavar="DIR", help="Where everything is kept.")
@click.option("--http", metavar="HOST:PORT", help="Where clients connect.")
@click.option("--grpc", metavar="HOST:PORT", help="Where workers connect.")
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings, as TOML.",
)
@click.option(
    "--api-key",
    default="",
    envvar="ENGINE_API_KEY",
    help="For the runtime that is up (sk_...); by default one of its settings.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(
    context: click.Context,
    data_dir: str | None,
    http: str | None,
    grpc: str | None,
    config: Path | None,
    api_key: str,
    as_json: bool,
) -> None:
    """Check that a runtime can work here, and how the one that is up is doing.

    Takes the same options as `engine serve`. Exit code 1 if something has to be changed first.
    """
    checks: list[Check] = []
    for check in examine(config, {"data_dir": data_dir, "http": http, "grpc": grpc}, api_key):
        checks.append(check)
        if not as_json:
            show(check)
    is_healthy = all(check.verdict != "fail" for check in checks)
    if as_json:
        click.echo(msgspec.json.encode(Diagnosis(is_healthy, __version__, tuple(checks))))
    context.exit(0 if is_healthy else 1)


def examine(config: Path | None, flags: Mapping[str, object], api_key: str) -> Iterator[Check]:
    """Every check, in the order in which one leads to the next."""
    first = (check_python(sys.version_info[:3]), check_extensions(EXTENSIONS))
    yield from first
    if all(check.verdict == "ok" for check in first):
        from engine.cli.checking import checks

        yield from checks.examine_machine(config, flags, api_key)


def check_python(version: tuple[int, ...]) -> Check:
    found = f"{platform.python_implementation()} {'.'.join(map(str, version))}"
    if version < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        return Check("python", "fail", found, f"use Python {wanted} or newer")
    return Check("python", "ok", found)


def check_extensions(names: tuple[str, ...]) -> Check:
    advice = "in a checkout run `make build`; otherwise install the package again where gcc is"
    try:
        modules = [importlib.import_module(f"engine.ext.{name}") for name in names]
    except ImportError as error:
        return Check("extensions", "fail", str(error.__cause__ or error), advice)
    stale = [module.__name__ for module in modules if _is_stale(Path(module.__file__ or ""))]
    if stale:
        found = f"the source is newer than the build: {', '.join(stale)}"
        return Check("extensions", "warn", found, "run `make build`")
    return Check("extensions", "ok", ", ".join(names))


def _is_stale(built: Path) -> bool:
    source = built.with_name(f"{built.name.partition('.')[0]}.pyx")
    return source.exists() and source.stat().st_mtime > built.stat().st_mtime


def show(check: Check) -> None:
    line = Text(f"{check.verdict:<4}  ", style=_COLOURS[check.verdict])
    line.append(f"{check.name:<15} ", style="bold").append(check.found, style="not bold default")
    if check.advice:
        line.append(f"\n{'':<22}{check.advice}", style="not bold default")
    Console(highlight=False, soft_wrap=True).print(line)
