"""What commands share: where the runtime is that they ask over HTTP, or the data directory that
they work on, and how times are given.

Owns the options --url and --api-key, --data-dir and --config, and what is said when nobody answers.
What is asked goes through the SDK's `Client`, as a user's program would ask it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click

from engine.base.moments import HOW_TO_WRITE, moment_ms
from engine.config.settings import Settings, load_settings
from engine.sdk.client.client import BASE_URL_DEFAULT, Client
from engine.sdk.errors import ConnectionLost

P = ParamSpec("P")


def over_http(
    command: Callable[Concatenate[Client, P], None],
) -> Callable[..., None]:
    """Gives the command a client for the runtime at --url, and says so if none is there."""

    @click.option(
        "--url",
        default=BASE_URL_DEFAULT,
        envvar="ENGINE_URL",
        show_default=True,
        show_envvar=True,
        help="Where the runtime is.",
    )
    @click.option(
        "--api-key",
        metavar="KEY",
        envvar="ENGINE_API_KEY",
        show_envvar=True,
        help="If it needs one (sk_...).",
    )
    @click.option(
        "--ca-file",
        metavar="FILE",
        envvar="ENGINE_CA_FILE",
        show_envvar=True,
        type=click.Path(exists=True, dir_okay=False),
        help="Certificates to trust at https://, as PEM.",
    )
    @functools.wraps(command)
    def reached(
        *args: Any, url: str, api_key: str | None, ca_file: str | None, **named: Any
    ) -> None:
        with Client(url, api_key=api_key, ca_file=ca_file) as client:
            try:
                command(client, *args, **named)
            except ConnectionLost as error:
                if "certificate" in error.message:
                    raise  # somebody answers, who is not trusted
                raise ConnectionLost(
                    f"no runtime answers at {url}: start one with `engine dev` or `engine serve`, "
                    "or say with --url (ENGINE_URL) where it is",
                    **error.details,
                ) from error
            except TimeoutError as error:
                raise click.ClickException(str(error)) from error

    return reached


def on_disk(command: Callable[P, None]) -> Callable[P, None]:
    """The options of a command on a data directory whose runtime is not up."""
    data_dir = click.option("--data-dir", metavar="DIR", help="Where everything is kept.")
    config = click.option(
        "--config",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Settings, as TOML; the archive's are among them.",
    )
    return data_dir(config(command))


def settings_on_disk(data_dir: str | None, config: Path | None) -> Settings:
    return load_settings(file=config, environment=os.environ, flags={"data_dir": data_dir})


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def moment_option(text: str | None, option: str, now_ms: int) -> int | None:
    """When that is; None if the option was not given."""
    if text is None:
        return None
    found = moment_ms(text, now_ms)
    if found is None:
        raise click.BadParameter(f"{text!r} is no time: write {HOW_TO_WRITE}", param_hint=option)
    return found


def tags_given(tags: tuple[str, ...]) -> dict[str, str]:
    if not all("=" in tag for tag in tags):
        raise click.UsageError("a tag has the form NAME=TEXT")
    return dict(tag.split("=", 1) for tag in tags)
