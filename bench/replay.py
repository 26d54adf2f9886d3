"""Folding runs back from the disk: records a second, beside bare iteration and the plain twin."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from bench.records import PAYLOAD, header_and_payload
from engine.base.ids import RunId, TenantId, new_run_id
from engine.config.settings import JournalSettings
from engine.ext.replay import RunFold
from engine.journal.store import Store
from engine.journal.tenant import TenantJournal
from engine.journal.tenants import open_journal
from engine.model.records import NewRecord, RecordKind
from tests.twins import replay as twin

RECORDS_PER_RUN = 1_000


async def _write_runs(tenant: TenantJournal, run_count: int) -> list[RunId]:
    record = NewRecord(RecordKind.STEP_COMPLETED, PAYLOAD, 1)
    runs = [new_run_id() for _ in range(run_count)]
    for run in runs:
        await tenant.new_segment(run).append_many([record] * RECORDS_PER_RUN)
    return runs


def _bare_per_s(store: Store) -> float:
    """The driver's own iterator over every value, doing nothing with them."""
    began = time.perf_counter()
    count = sum(1 for _ in store.record_values(b"\x00", b"\xff" * 25))
    return count / (time.perf_counter() - began)


def _replay_per_s(tenant: TenantJournal, runs: list[RunId]) -> float:
    began = time.perf_counter()
    count = sum(tenant.open_segment(run).fold().steps_completed for run in runs)
    assert count == len(runs) * RECORDS_PER_RUN
    return count / (time.perf_counter() - began)


def _fold_ns(fold: object, values: list[bytes]) -> float:
    began = time.perf_counter()
    assert fold.feed_all(values) == len(values)  # type: ignore[attr-defined]
    return (time.perf_counter() - began) / len(values) * 1e9


def _fold_figures() -> dict[str, object]:
    values = [header_and_payload(offset) for offset in range(20_000)]
    ours = min(_fold_ns(RunFold(), values) for _ in range(5))
    theirs = min(_fold_ns(twin.RunFold(), values) for _ in range(3))
    return {"fold_ns": round(ours), "fold_vs_twin": round(theirs / ours, 1)}


async def _replay_figures(scratch: Path, run_count: int, rounds: int) -> dict[str, object]:
    settings = JournalSettings(durability="os")
    async with (
        open_journal(scratch, settings) as journal,
        journal.use(TenantId("bench")) as tenant,
    ):
        runs = await _write_runs(tenant, run_count)
        tenant.flush()
        measured = list(_alternate(tenant, runs, rounds))
    bare = statistics.median(pair[0] for pair in measured)
    replay = statistics.median(pair[1] for pair in measured)
    return {
        "iteration_per_s": round(bare),
        "replay_per_s": round(replay),
        "replay_vs_iteration": round(statistics.median(pair[1] / pair[0] for pair in measured), 3),
    }


def _alternate(
    tenant: TenantJournal, runs: list[RunId], rounds: int
) -> Iterator[tuple[float, float]]:
    for _ in range(rounds):
        yield _bare_per_s(tenant.store), _replay_per_s(tenant, runs)


def measure(scratch: Path, *, long: bool) -> dict[str, object]:
    run_count, rounds = (2_000, 7) if long else (400, 5)
    return {
        **_fold_figures(),
        **trio.run(_replay_figures, scratch / "replay", run_count, rounds),
    }
