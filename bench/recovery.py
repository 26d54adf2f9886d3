"""Coming back and staying small: reopening after a SIGKILL, many open tenants, memory over time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import trio

from bench.machine import fsync_p50_ms, resident_mb
from bench.records import PAYLOAD
from engine.base.ids import TenantId, new_run_id
from engine.config.settings import JournalSettings
from engine.journal.segment import Segment
from engine.journal.tenants import Journal, open_journal
from engine.model.records import RecordKind

TENANTS = 300


def _flood_and_kill(scratch: Path, records: int) -> dict[str, float]:
    """Write in another process, SIGKILL it; what it said of its memory."""
    said: dict[str, float] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "bench.flood", str(scratch), str(records)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            word, megabytes = line.split()
            said[word] = float(megabytes)
            if word == "end":
                process.kill()
    return said


async def _reopen_s(scratch: Path) -> float:
    began = time.perf_counter()
    async with (
        open_journal(scratch, JournalSettings()) as journal,
        journal.use(TenantId("bench"), create=False),
    ):
        return time.perf_counter() - began


async def _commits_per_s(segments: list[Segment], rounds: int) -> float:
    """One append in flight per segment: each commit is a tenant's own fsync."""

    async def append_each(segment: Segment) -> None:
        for _ in range(rounds):
            await segment.append(RecordKind.STEP_COMPLETED, PAYLOAD, timestamp_us=1)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for segment in segments:
            nursery.start_soon(append_each, segment)
    return len(segments) * rounds / (time.perf_counter() - began)


async def _segment_of(journal: Journal, name: str) -> Segment:
    tenant = await journal.pin(TenantId(name))
    return tenant.new_segment(new_run_id())


async def _many_tenants(scratch: Path) -> dict[str, object]:
    async with open_journal(scratch, JournalSettings()) as journal:
        alone = await _commits_per_s([await _segment_of(journal, "alone")], 1_000)
        before_mb = resident_mb()
        began = time.perf_counter()
        segments = [await _segment_of(journal, f"tenant-{i}") for i in range(TENANTS)]
        open_ms = (time.perf_counter() - began) / TENANTS * 1e3
        together = await _commits_per_s(segments, 20)
        return {
            "open_tenants": TENANTS,
            "open_tenant_ms": round(open_ms, 2),
            "open_tenants_rss_mb": round(resident_mb() - before_mb, 1),
            "commits_per_s_one_tenant": round(alone),
            "commits_per_s_all_tenants": round(together),
            "commits_all_vs_one": round(together / alone, 2),
        }


def measure(scratch: Path, *, long: bool) -> dict[str, object]:
    records = 10_000_000 if long else 5_000_000
    memory = _flood_and_kill(scratch / "flood", records)
    reopen_s = trio.run(_reopen_s, scratch / "flood")
    return {
        "fsync_p50_ms": round(fsync_p50_ms(scratch), 3),
        "records": records,
        "reopen_s": round(reopen_s, 3),
        "rss_mb": memory["end"],
        "rss_growth_mb": round(memory["end"] - memory["fifth"], 1),
        **trio.run(_many_tenants, scratch / "tenants"),
    }
