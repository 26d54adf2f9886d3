"""An engine with its tiers under it, an archive in a directory and a real DuckDB, for a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from engine.base.clock import Clock, system_clock
from engine.cli.composing.tiers import open_tiers
from engine.config.archive import ArchiveSettings
from engine.config.settings import Settings
from engine.model.payloads import RunCompleted, StepCompleted
from engine.runtime.engine import Engine, open_engine
from engine.runtime.handle import Handle
from engine.runtime.reading.tiers import Tiers
from tests.runtime.conftest import TENANT
from tests.runtime.worker import Held, ScriptedWorker


@asynccontextmanager
async def opened(
    data_dir: Path, archive: ArchiveSettings, clock: Clock = system_clock
) -> AsyncIterator[tuple[Engine, Tiers]]:
    settings = Settings(data_dir=str(data_dir), archive=archive)
    async with (
        open_tiers(settings, clock) as tiers,
        open_engine(data_dir, settings.journal, clock=clock, followers=[tiers]) as engine,
    ):
        yield engine, tiers


async def worker_at(handle: Handle) -> ScriptedWorker:
    """It charges, and ends what it gets at once."""
    worker = ScriptedWorker()
    await worker.connect(handle, TENANT, "checkout")

    def charge_and_end(held: Held) -> None:
        charged = StepCompleted(position=1, name="charge", input=b"[7]", output=b"42")
        worker.report(held, charged, RunCompleted(output=b'"paid"'))

    worker.on_dispatch = charge_and_end
    return worker
