"""A tenant and its archive in a directory of the test, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine.archive.store.opening import open_store
from engine.archive.store.stores import ObjectStore
from engine.base.clock import ManualClock
from engine.config.archive import ArchiveSettings
from tests.archive.faulty_proxy import FaultyProxy, faulty_proxy
from tests.archive.house import House, open_house
from tests.archive.s3_server import S3Server, s3_server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def house(tmp_path: Path, clock: ManualClock) -> AsyncIterator[House]:
    async with open_house(tmp_path, clock) as opened:
        yield opened


@pytest.fixture(scope="session")
def server() -> Iterator[S3Server]:
    with s3_server() as started:
        yield started


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(server.endpoint) as started:
        yield started


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """One suite for both sorts."""
    settings = ArchiveSettings()
    if request.param == "s3":
        settings = request.getfixturevalue("server").settings()
    opened = open_store(settings, tmp_path)
    opened.ensure_ready()
    yield opened
    opened.close()
