"""What the archive costs and what it saves: ended runs through Parquet into a local directory.

On one core: the process, and the program that makes files for it, are bound to it while it
archives. The hot tier is measured after all runs
have passed through it in rounds, beside a journal that only ever had the live ones. The p99 of
workflows with and without archiving is measured over the real processes of `bench workflows`.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from bench.ended import BEGIN_US, EndedRuns
from bench.workflows import Failed, Stage
from engine.archive.archive import Archive, open_archive
from engine.base.clock import ManualClock
from engine.base.ids import TenantId
from engine.config.archive import ArchiveSettings
from engine.config.settings import JournalSettings
from engine.journal.tenant import TenantJournal
from engine.journal.tenants import open_journal

TENANT = TenantId("bench")
LIVE = 2_000
ROUNDS = 10
HOUR_US = 3_600_000_000
P99_TURNS = 7
SETTLE_S = 3.0
# Sooner than by default, so that a short measurement has flushes and deletions in it.
_SETTINGS = {
    False: "[archive]\nenabled = false\n",
    True: "[archive]\nflush_interval_ms = 2_000\nhot_retention_s = 1\n",
}


def measure(scratch: Path, *, long: bool) -> dict[str, object]:
    runs = 1_000_000 if long else 100_000
    figures: dict[str, object] = {"runs": runs}
    figures |= trio.run(_archiving, scratch / "rate", min(runs, 200_000))
    figures |= trio.run(_passing_through, scratch / "hot", runs)
    figures |= _workflows(scratch / "workflows", 8.0 if long else 3.0)
    return figures


@asynccontextmanager
async def _house(data_dir: Path) -> AsyncIterator[tuple[TenantJournal, Archive, ManualClock]]:
    clock = ManualClock(BEGIN_US + 24 * HOUR_US)
    settings = ArchiveSettings(hot_retention_s=0)
    async with (
        open_journal(data_dir, JournalSettings(), clock=clock) as journals,
        journals.use(TENANT) as journal,
        open_archive(settings, data_dir, clock, services=False) as archive,
    ):
        await archive.check()
        archive.tenant_opened(journal)
        yield journal, archive, clock
        await archive.tenant_closing(TENANT)


async def _archiving(data_dir: Path, runs: int) -> dict[str, object]:
    async with _house(data_dir) as (journal, archive, _):
        EndedRuns().write(journal, runs)
        journal.flush()
        await trio.to_thread.run_sync(journal.compact)
        journal_bytes = _bytes_in(data_dir / "segments")
        with _one_core():
            began, began_cpu = time.perf_counter(), time.process_time()
            flushed = await archive.flush_now(TENANT)
            took, took_cpu = time.perf_counter() - began, time.process_time() - began_cpu
        took_cpu += _cpu_s(archive.tenant(TENANT).builder.pid)
        assert flushed.runs == runs
        archived_bytes = _bytes_in(data_dir / "archive")
    return {
        "archive_runs_per_s": round(runs / took),
        "archive_runs_per_cpu_s": round(runs / took_cpu),
        "bytes_per_archived_run": round(archived_bytes / runs, 1),
        "journal_bytes_per_run": round(journal_bytes / runs, 1),
        "bytes_ratio_to_journal": round(archived_bytes / journal_bytes, 3),
    }


async def _passing_through(data_dir: Path, runs: int) -> dict[str, object]:
    """Live runs that stay, and many more that end, are archived and leave the hot tier."""
    async with _house(data_dir / "all") as (journal, archive, clock):
        made = EndedRuns()
        made.write(journal, LIVE, ended=False)
        deleted = 0
        for _ in range(ROUNDS):
            made.write(journal, runs // ROUNDS)
            await archive.flush_now(TENANT)
            clock.advance_us(HOUR_US)
            deleted += (await archive.retain_now(TENANT)).hot_runs
        assert deleted == runs, f"{deleted} of {runs} runs left the hot tier"
        journal.flush()
        hot_bytes = _hot_bytes_in(data_dir / "all" / "segments")
    async with _house(data_dir / "live") as (journal, _, _):
        EndedRuns().write(journal, LIVE, ended=False)
        journal.flush()
        live_bytes = _hot_bytes_in(data_dir / "live" / "segments")
    began = time.perf_counter()
    async with _house(data_dir / "all") as (journal, _, _):
        reopen_s = time.perf_counter() - began
    return {
        "hot_bytes": hot_bytes,
        "hot_live_bytes": live_bytes,
        "hot_bytes_ratio": round(hot_bytes / live_bytes, 2),
        "hot_reopen_s": round(reopen_s, 3),
    }


def _workflows(scratch: Path, seconds: float) -> dict[str, object]:
    """In turns, and each turn in the other order, so that what the machine does meanwhile is in
    both: the ratio is the median of the turns' ratios. What one has left to archive is done before
    the other begins."""
    scratch.mkdir()
    found: dict[bool, list[float]] = {False: [], True: []}
    stages = {archived: Stage(scratch / str(archived), _SETTINGS[archived]) for archived in found}
    try:
        for stage in stages.values():
            stage.start_runtime()
            stage.start_worker()
            stage.load("closed", component="steps3", clients=16, seconds=1.0)  # warm
        for turn in range(P99_TURNS):
            for archived in (False, True) if turn % 2 else (True, False):
                stage = stages[archived]
                told = stage.load("closed", component="steps3", clients=16, seconds=seconds)
                found[archived].append(told["p99_ms"])
                time.sleep(SETTLE_S if archived else 0.0)
    except Failed as error:
        return {"workflow_p99_ratio": None, "workflow_p99_ratio_reason": str(error)}
    finally:
        for stage in stages.values():
            stage.close()
    without, with_archive = (statistics.median(found[archived]) for archived in (False, True))
    ratios = [after / before for before, after in zip(found[False], found[True], strict=True)]
    return {
        "workflow_p99_ms_without": without,
        "workflow_p99_ms_with": with_archive,
        "workflow_p99_ratio": round(statistics.median(ratios), 3),
    }


def _cpu_s(pid: int | None) -> float:
    """Of a process of ours and all its threads, since it was begun."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _bytes_in(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # RocksDB deletes what it has compacted
            size += path.stat().st_size if path.is_file() else 0
    return size


def _hot_bytes_in(folder: Path) -> int:
    """Tables and write-ahead logs; what RocksDB notes about itself has a bound of its own."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".sst", ".log"))


@contextmanager
def _one_core() -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
