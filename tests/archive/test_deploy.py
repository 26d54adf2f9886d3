"""What stands in deploy/ fits the engine: it cannot be started here, so what can be checked is."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from engine.archive.store.s3 import S3Store
from engine.cli.main import engine
from engine.config.settings import load_settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SETTINGS = load_settings(file=DEPLOY / "engine.toml", environment={}, flags={})


def options_of(arguments: list[str]) -> dict[str, Any]:
    """What the engine's command understands of them; raises if it does not."""
    command = engine.get_command(click.Context(engine), arguments[0])
    assert command is not None
    rest = [one for one in arguments[1:] if one != "/etc/engine.toml"]
    if len(rest) < len(arguments[1:]):
        rest.append(str(DEPLOY / "engine.toml"))  # where compose mounts it
    return dict(command.make_context(arguments[0], rest).params)


@pytest.mark.parametrize("service", ["runtime", "worker"])
def test_the_commands_exist(service: str) -> None:
    options_of(COMPOSE["services"][service]["command"])


def test_the_worker_finds_the_runtime_and_may_in() -> None:
    worker = COMPOSE["services"]["worker"]
    options = options_of(worker["command"])
    assert options["endpoint"] == f"http://runtime:{SETTINGS.grpc.rpartition(':')[2]}"
    key = SETTINGS.auth.keys[0].key
    assert worker["environment"]["ENGINE_API_KEY"] == key
    assert not any(key in argument for argument in worker["command"])
    importlib.import_module(options["module"])


def test_the_runtime_finds_the_store_and_may_in() -> None:
    store = S3Store(SETTINGS.archive)
    minio = COMPOSE["services"]["minio"]["environment"]
    assert store.access.endpoint == "minio:9000"
    assert store.access.access_key == minio["MINIO_ROOT_USER"]
    assert store.access.secret_key == minio["MINIO_ROOT_PASSWORD"]
    assert store.access.path_style
    assert SETTINGS.archive.create_bucket


def test_ports_are_those_of_the_settings_and_of_this_machine_only() -> None:
    for service in ("runtime", "minio"):
        for port in COMPOSE["services"][service]["ports"]:
            assert port.startswith("127.0.0.1:")
    assert COMPOSE["services"]["runtime"]["ports"] == [
        f"127.0.0.1:{address.rpartition(':')[2]}:{address.rpartition(':')[2]}"
        for address in (SETTINGS.http, SETTINGS.grpc)
    ]


def test_what_is_mounted_and_built_is_there() -> None:
    for service in COMPOSE["services"].values():
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / "setup.py").exists()
            dockerfile = DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]
            assert 'ENTRYPOINT ["engine"]' in dockerfile.read_text()
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            assert source in COMPOSE["volumes"] or (DEPLOY / source).exists()
            assert target in ("/data", "/etc/engine.toml")
    assert SETTINGS.data_dir == "/data"
