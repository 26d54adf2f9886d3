"""Durable appends: how many a second, how long one takes, beside bare RocksDB in the same batches.

The bare program is the plainest there is: keys and values made beforehand, one WriteBatch of as
many records as are in flight, one synchronous write, and again.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import rocksdict
import trio

from bench.machine import fsync_p50_ms
from bench.records import PAYLOAD, header_and_payload
from engine.base.ids import TenantId, new_run_id
from engine.config.settings import JournalSettings
from engine.ext.offsets import encode_record, record_key
from engine.journal.segment import Segment
from engine.journal.tenants import open_journal
from engine.model.records import RecordKind
from tests.twins import offsets as twin

IN_FLIGHT = (1, 16, 64, 256, 1024)
RECORDS = {1: 2_000, 16: 24_000, 64: 64_000, 256: 128_000, 1024: 160_000}
KIND = RecordKind.STEP_COMPLETED


def measure_raw(scratch: Path, in_flight: int, total: int) -> float:
    """Records a second of the plainest rocksdict program."""
    path = scratch / "raw"
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    store = rocksdict.Rdict(str(path), options)
    synchronous = rocksdict.WriteOptions()
    synchronous.sync = True
    runs = [new_run_id() for _ in range(in_flight)]
    pairs = [
        (
            runs[i % in_flight] + (i // in_flight).to_bytes(8, "big"),
            header_and_payload(i // in_flight),
        )
        for i in range(total)
    ]
    began = time.perf_counter()
    for start in range(0, total, in_flight):
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in pairs[start : start + in_flight]:
            batch.put(key, value)
        store.write(batch, synchronous)
    took = time.perf_counter() - began
    store.close()
    shutil.rmtree(path)
    return total / took


class _EffectLoop:
    """Keeps a number of appends in flight: each released effect appends once more."""

    def __init__(self, total: int) -> None:
        self.left = total
        self.released = 0
        self.total = total
        self.done = trio.Event()

    def release(self, effects: Sequence[object]) -> None:
        for segment in effects:
            if self.left:
                self.left -= 1
                assert isinstance(segment, Segment)
                segment.append_nowait(KIND, PAYLOAD, timestamp_us=1, effect=segment)
        self.released += len(effects)
        if self.released == self.total:
            self.done.set()


async def _with_effects(scratch: Path, in_flight: int, total: int) -> float:
    loop = _EffectLoop(total)
    async with (
        open_journal(
            scratch / "ours", JournalSettings(), release=lambda _: loop.release
        ) as journal,
        journal.use(TenantId("bench")) as tenant,
    ):
        segments = [tenant.new_segment(new_run_id()) for _ in range(in_flight)]
        began = time.perf_counter()
        loop.left -= in_flight
        for segment in segments:
            segment.append_nowait(KIND, PAYLOAD, timestamp_us=1, effect=segment)
        await loop.done.wait()
        took = time.perf_counter() - began
    shutil.rmtree(scratch / "ours")
    return total / took


async def _with_tasks(
    scratch: Path, in_flight: int, total: int, latencies: list[float] | None = None
) -> float:
    async def appender(segment: Segment, count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            await segment.append(KIND, PAYLOAD, timestamp_us=1)
            if latencies is not None:
                latencies.append(time.perf_counter() - began)

    async with (
        open_journal(scratch / "ours", JournalSettings()) as journal,
        journal.use(TenantId("bench")) as tenant,
    ):
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(appender, tenant.new_segment(new_run_id()), total // in_flight)
        took = time.perf_counter() - began
    shutil.rmtree(scratch / "ours")
    return total // in_flight * in_flight / took


def _throughput(scratch: Path, *, rounds: int, scale: int) -> dict[str, object]:
    """The median of each, measured in turn, so that a slow moment of the disk hits all three."""
    raw: dict[str, float] = {}
    effects: dict[str, float] = {}
    tasks: dict[str, float] = {}
    for in_flight in IN_FLIGHT:
        total = RECORDS[in_flight] * scale
        seen: tuple[list[float], list[float], list[float]] = ([], [], [])
        for _ in range(rounds):
            seen[0].append(measure_raw(scratch, in_flight, total))
            seen[1].append(trio.run(_with_effects, scratch, in_flight, total))
            seen[2].append(trio.run(_with_tasks, scratch, in_flight, total))
        for figures, found in zip((raw, effects, tasks), seen, strict=True):
            figures[str(in_flight)] = round(statistics.median(found))
    crowded = [str(in_flight) for in_flight in IN_FLIGHT if in_flight >= 64]
    return {
        "raw_per_s": raw,
        "append_effects_per_s": effects,
        "append_tasks_per_s": tasks,
        "ratio_effects": round(min(effects[n] / raw[n] for n in crowded), 3),
        "ratio_tasks": round(min(tasks[n] / raw[n] for n in crowded), 3),
    }


def _latency(scratch: Path, *, scale: int) -> dict[str, object]:
    p50: dict[str, float] = {}
    p99: dict[str, float] = {}
    for in_flight in (1, 64):
        latencies: list[float] = []
        trio.run(_with_tasks, scratch, in_flight, 2_000 * scale * min(in_flight, 8), latencies)
        ordered = sorted(latencies)
        p50[str(in_flight)] = round(ordered[len(ordered) // 2] * 1e3, 3)
        p99[str(in_flight)] = round(ordered[len(ordered) * 99 // 100] * 1e3, 3)
    return {"ack_p50_ms": p50, "ack_p99_ms": p99}


def nanoseconds_each(build: Callable[[int], object], count: int) -> float:
    """The best of five runs, of what one call costs."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for i in range(count):
            build(i)
        best = min(best, time.perf_counter() - began)
    return best / count * 1e9


def _record_build() -> dict[str, object]:
    run = new_run_id()

    def compiled(i: int) -> None:
        record_key(run, i)
        encode_record(KIND, 0, i, 1, PAYLOAD)

    def plain(i: int) -> None:
        twin.record_key(run, i)
        twin.encode_record(KIND, 0, i, 1, PAYLOAD)

    def nothing(_: int) -> None:
        """What the loop and the call cost by themselves."""

    empty = nanoseconds_each(nothing, 50_000)
    ours = nanoseconds_each(compiled, 50_000) - empty
    theirs = nanoseconds_each(plain, 50_000) - empty
    return {"record_build_ns": round(ours), "record_build_vs_twin": round(theirs / ours, 2)}


def measure(scratch: Path, *, long: bool) -> dict[str, object]:
    return {
        "fsync_p50_ms": round(fsync_p50_ms(scratch), 3),
        **_record_build(),
        **_throughput(scratch, rounds=5 if long else 3, scale=4 if long else 1),
        **_latency(scratch, scale=4 if long else 1),
    }
