"""One runtime for all tests of the commands that speak to one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.sdk import Client
from tests.cli.running import Running, running


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running("tests.cli.workflows", tmp_path_factory.mktemp("runtime") / "data") as found:
        yield found


@pytest.fixture
def client(runtime: Running) -> Iterator[Client]:
    with Client(runtime.http) as found:
        yield found
