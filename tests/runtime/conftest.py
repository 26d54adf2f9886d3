"""An engine over a temporary directory, with the real journal under it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.base.ids import ProjectId, TenantId
from engine.config.settings import JournalSettings
from engine.model.context import AuthMode, RequestContext
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle

TENANT = TenantId("acme")
CONTEXT = RequestContext(TENANT, ProjectId("shop"), AuthMode.LOOPBACK)


@pytest.fixture
async def handle(tmp_path: Path) -> AsyncIterator[Handle]:
    async with open_engine(tmp_path, JournalSettings()) as engine:
        yield Handle(engine)
