"""Workers that cannot be served leave at once, and what they say tells their user what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine as distribution
from tests.e2e.processes import PATIENCE_S, ROOT, Processes, processes

GREET = """
from engine.sdk import function, workflow

@function
def greet(name: str) -> str:
    return name
"""
TWINS = (
    GREET
    + """
@workflow(name="greet")
async def greet_twice(ctx, name: str) -> str:
    return name
"""
)
OTHER_KIND = """
from engine.sdk import workflow

@workflow
async def add(ctx, a: int) -> int:
    return a
"""
# What the registration says is the version of the installed distribution.
OTHER_SDK = f"import engine\nengine.__version__ = '9.0.0'\n{GREET}"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(tmp_path_factory.mktemp("refusing")) as running:
        running.start(workers=1, module="tests.e2e.sharing")
        yield running


def said_by(folder: Path, code: str, endpoint: str) -> str:
    """What a worker that serves this code says before it leaves by itself."""
    module = folder / "served.py"
    module.write_text(code)
    command = [sys.executable, "-m", "engine.cli.main", "worker", str(module)]
    ended = subprocess.run(
        [*command, "--endpoint", endpoint],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode not in (0, -9), ended
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_two_components_of_one_name(engine: Processes, tmp_path: Path) -> None:
    said = said_by(tmp_path, TWINS, f"http://{engine.grpc}")
    assert "error [duplicate_component]: two components are named 'greet': function" in said
    assert f"{tmp_path}/served.py:" in said, "it says where they are"
    assert "give one of them another with name=" in said


def test_one_name_for_two_kinds_on_two_workers(engine: Processes, tmp_path: Path) -> None:
    said = said_by(tmp_path, OTHER_KIND, f"http://{engine.grpc}")
    assert "error [duplicate_component]: 'add' is a workflow here and a function in worker" in said
    assert "rename one of them, or give this worker another deployment" in said


def test_an_sdk_of_another_version(engine: Processes, tmp_path: Path) -> None:
    said = said_by(tmp_path, OTHER_SDK, f"http://{engine.grpc}")
    assert "error [unsupported_sdk]: the worker's SDK is version '9.0.0'" in said
    assert f"this engine is {distribution.__version__}" in said
    assert "run `pip install 'durable-engine==" in said


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:34180", "localhost:34180", "grpc://127.0.0.1:34180"]
)
def test_an_endpoint_that_is_no_url(tmp_path: Path, endpoint: str) -> None:
    said = said_by(tmp_path, GREET, endpoint)
    rest = endpoint.rpartition("://")[2]
    assert f"error [invalid_endpoint]: endpoint '{endpoint}' has no scheme http:// or" in said
    assert f"write http://{rest}, or https://{rest} where the engine is behind TLS" in said
