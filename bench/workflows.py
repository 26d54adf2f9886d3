"""Workflows end to end: a runtime, a worker and a load generator as three processes on loopback.

Every record is synced before it counts (durability `commit`), and every result is checked. What
has a size that is not the one of its key in a default run says so beside it: `children10000_s`
is the time of `children_count` child runs, and nothing is extrapolated. A case that fails prints
null, and why under its key with `_reason`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.machine import fsync_p50_ms

ROOT = Path(__file__).resolve().parent.parent
COMPONENTS = "bench.workflow_components"
CLOSED = (
    ("noop_c1", "noop", 1),
    ("noop_c64", "noop", 64),
    ("steps3_c1", "steps3", 1),
    ("steps3_c64", "steps3", 64),
    ("steps10_c64", "steps10", 64),
)
CLOSED_KEYS = ("workflows_per_s", "p50_ms", "p99_ms", "runtime_cpu_us", "worker_cpu_us")
START_S_MAX = 60.0
STOP_S_MAX = 15.0
STEPS = 500
QUEUED = 100_000
FIB_10 = 55


class Failed(Exception):
    """A case could not be measured; the text is the reason."""


class Process:
    """One of ours, with what it says in a file; its memory and its time on a processor."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        # No variable of the caller's may change what is measured, and lines are not to be broken.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ENGINE_")}
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdout=said,
                stderr=said,
                cwd=ROOT,
                env=environment | {"COLUMNS": "1000"},
            )

    def await_text(self, pattern: str) -> re.Match[str]:
        until = time.monotonic() + START_S_MAX
        while time.monotonic() < until:
            found = re.search(pattern, self.log.read_text(errors="replace"))
            if found is not None:
                return found
            self.check()
            time.sleep(0.01)
        raise Failed(f"{self.name} did not say {pattern!r} in {START_S_MAX} s: {self.tail()}")

    def check(self) -> None:
        code = self.process.poll()
        if code is not None:
            raise Failed(f"{self.name} ended with {code}: {self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-400:]

    @property
    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def cpu_s(self) -> float:
        """Of all its threads; from the scheduler, which counts in nanoseconds."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def stop(self, *, kill: bool = False) -> None:
        if self.process.poll() is None:
            self.process.kill() if kill else self.process.terminate()
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Stage:
    """A data directory, two ports, and the processes that are up."""

    def __init__(self, scratch: Path, settings: str = "", key: str = "") -> None:
        scratch.mkdir(exist_ok=True)
        self._key = key
        self._settings = scratch / "engine.toml"
        self._settings.write_text(settings)
        self._scratch = scratch
        self._logs = itertools.count()
        self.http_port, self.grpc_port = _free_ports()
        self.runtime: Process
        self.worker: Process | None = None

    def start_runtime(self) -> tuple[float, int]:
        """The seconds until it was ready, and how many open runs it has taken up."""
        began = time.perf_counter()
        self.runtime = self._start(
            "the runtime",
            [
                *("engine.cli.main", "serve", "--data-dir", str(self._scratch / "data")),
                *("--config", str(self._settings)),
                *("--http", f"127.0.0.1:{self.http_port}"),
                *("--grpc", f"127.0.0.1:{self.grpc_port}"),
            ],
        )
        while not self._is_ready():
            self.runtime.check()
            if time.perf_counter() > began + START_S_MAX:
                raise Failed(f"the runtime was not ready in {START_S_MAX} s")
            time.sleep(0.005)
        took_s = time.perf_counter() - began
        return took_s, int(self.runtime.await_text(r"(\d+) open runs")[1])

    def start_worker(self) -> None:
        endpoint = f"http://127.0.0.1:{self.grpc_port}"
        self.worker = self._start(
            "the worker",
            [
                *("engine.cli.main", "worker", COMPONENTS, "--endpoint", endpoint),
                *(("--token", self._key) if self._key else ()),
            ],
        )
        self.worker.await_text("is connected")

    def stop_worker(self) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def load(self, task: str, **given: Any) -> Any:
        """What the load generator measured; its process ends with the task."""
        asked = json.dumps({"do": task, "port": self.http_port, **given})
        done = subprocess.run(
            [sys.executable, "-m", "bench.load", asked],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(f"{task}: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout)

    def close(self) -> None:
        self.stop_worker()
        if hasattr(self, "runtime"):
            self.runtime.stop()

    def _start(self, name: str, arguments: list[str]) -> Process:
        return Process(name, arguments, self._scratch / f"log-{next(self._logs)}")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/readyz", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


@contextlib.contextmanager
def _stage(scratch: Path, name: str) -> Iterator[Stage]:
    stage = Stage(scratch / name)
    try:
        yield stage
    finally:
        stage.close()


class Figures(dict[str, Any]):
    """What was measured; a case that failed is null, with its reason."""

    def take(self, keys: tuple[str, ...], measure: Callable[[], dict[str, Any]]) -> None:
        try:
            self.update(measure())
        except (Failed, AssertionError) as error:
            self.update(dict.fromkeys(keys), **{f"{keys[0]}_reason": str(error)})


# ---- with an idle machine and few runs ----


def _closed(stage: Stage, figures: Figures, seconds: float) -> None:
    for key in CLOSED_KEYS:
        figures[key] = dict.fromkeys(case for case, _, _ in CLOSED)
    for case, component, clients in CLOSED:
        try:
            found = _closed_case(stage, component, clients, seconds)
        except (Failed, AssertionError) as error:
            figures[f"{case}_reason"] = str(error)
        else:
            for key in CLOSED_KEYS:
                figures[key][case] = found[key]


def _closed_case(stage: Stage, component: str, clients: int, seconds: float) -> dict[str, float]:
    """The processor's time is that of a workflow, warming up included: it tells more than the rate
    does on a machine that others use."""
    assert stage.worker is not None
    runtime_s, worker_s = stage.runtime.cpu_s, stage.worker.cpu_s
    found = stage.load("closed", component=component, clients=clients, seconds=seconds)
    return {
        "workflows_per_s": round(found["per_s"]),
        "p50_ms": round(found["p50_ms"], 2),
        "p99_ms": round(found["p99_ms"], 2),
        "runtime_cpu_us": round((stage.runtime.cpu_s - runtime_s) / found["runs"] * 1e6),
        "worker_cpu_us": round((stage.worker.cpu_s - worker_s) / found["runs"] * 1e6),
    }


def _fib40(stage: Stage) -> dict[str, Any]:
    found = stage.load("once", component="fib40", given=10, rounds=12)
    assert found["outputs"] == [40 * FIB_10] * 12, found["outputs"]
    return {"fib40_s": round(statistics.median(found["took_s"][2:]), 4)}


def _step_to_step(stage: Stage, component: str, prefix: str) -> dict[str, Any]:
    """From a step's start to the next one's, as the worker sees it: report, commit, answer."""
    (numbers,) = stage.load("once", component=component, given=STEPS, rounds=1)["outputs"]
    assert len(numbers) == STEPS
    gaps = sorted((b - a) / 1e6 for a, b in itertools.pairwise(numbers))
    assert gaps[0] > 0, "steps are not in order"
    return {
        f"{prefix}_p50_ms": round(statistics.median(gaps), 3),
        f"{prefix}_p99_ms": round(gaps[int(len(gaps) * 0.99)], 3),
    }


def _fanout(stage: Stage) -> dict[str, Any]:
    found = stage.load("once", component="fanout", given=1000, rounds=5)
    assert found["outputs"] == [500_500] * 5, found["outputs"]
    return {"fanout1000_s": round(statistics.median(found["took_s"][1:]), 3)}


def _children(stage: Stage, count: int) -> dict[str, Any]:
    (took_s,), (output,) = stage.load("once", component="children", given=count, rounds=1).values()
    assert output == count * (count - 1) // 2, output
    return {"children10000_s": round(took_s, 3), "children_count": count}


def _events(stage: Stage) -> dict[str, Any]:
    first = stage.load("first_event", component="steps3", rounds=200)
    return {
        "sse_first_event_ms": round(first["p50_ms"], 2),
        "sse_first_event_p99_ms": round(first["p99_ms"], 2),
    }


def _streams(stage: Stage, streams: int) -> dict[str, Any]:
    found = stage.load("many_streams", component="steps3", streams=streams)
    return {
        "sse_streams_count": found["streams"],
        "sse_streams_records": found["records"],
        "sse_streams_s": round(found["elapsed_s"], 3),
    }


def _idle(stage: Stage, seconds: float) -> dict[str, Any]:
    """With a worker connected, which sends its heartbeats."""
    time.sleep(1.0)
    assert stage.worker is not None
    before, worker_before = stage.runtime.cpu_s, stage.worker.cpu_s
    time.sleep(seconds)
    return {
        "idle_cpu_percent": round((stage.runtime.cpu_s - before) / seconds * 100, 2),
        "idle_worker_cpu_percent": round((stage.worker.cpu_s - worker_before) / seconds * 100, 2),
    }


# ---- with many open runs ----


def _waiting(stage: Stage, count: int) -> dict[str, Any]:
    before_mb = stage.runtime.rss_mb
    began = time.perf_counter()
    stage.load("batch", component="waiting", count=count)
    stage.load("until_waiting", component="waiting", count=count)
    took_s = time.perf_counter() - began
    return {
        "waiting_200k_rss_mb": round(stage.runtime.rss_mb, 1),
        "waiting_count": count,
        "waiting_rss_before_mb": round(before_mb, 1),
        "waiting_parked_per_s": round(count / took_s),
    }


def _batch(stage: Stage, count: int) -> dict[str, Any]:
    """Nobody is there to take them, so that the starts are what is measured."""
    stage.stop_worker()
    before_s = stage.runtime.cpu_s
    found = stage.load("batch", component="noop", count=count)
    return {
        "batch_starts_per_s": round(found["per_s"]),
        "batch_count": count,
        "batch_runtime_cpu_us": round((stage.runtime.cpu_s - before_s) / count * 1e6, 1),
        "queued_rss_mb": round(stage.runtime.rss_mb, 1),
    }


def _ready(stage: Stage, open_runs: int, empty_s: float) -> dict[str, Any]:
    stage.runtime.stop(kill=True)
    took_s, taken_up = stage.start_runtime()
    assert taken_up == open_runs, f"{taken_up} open runs were taken up, not {open_runs}"
    return {
        "ready_100k_s": round(took_s, 3),
        "ready_count": taken_up,
        "ready_empty_s": round(empty_s, 3),
        "ready_rss_mb": round(stage.runtime.rss_mb, 1),
    }


def _after(stage: Stage, waiting: int) -> dict[str, Any]:
    """What waited through the SIGKILL of the runtime still answers."""
    stage.runtime.stop(kill=True)
    took_s, taken_up = stage.start_runtime()
    assert taken_up == waiting, f"{taken_up} open runs were taken up, not {waiting}"
    found = stage.load("count_status", component="waiting", status="WAITING")
    woken = stage.load("wake", runs=found["some"])["woken"]
    return {"woken_after_kill": woken, "ready_waiting_s": round(took_s, 3)}


def _busy_percent(seconds: float = 1.0) -> float:
    """Of all processors, before anything of ours runs: what is measured shares them with this."""

    def spent() -> tuple[int, int]:
        ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]

    total, idle = spent()
    time.sleep(seconds)
    total_after, idle_after = spent()
    return round((1 - (idle_after - idle) / (total_after - total)) * 100, 1)


def measure(scratch: Path, *, long: bool) -> dict[str, object]:
    figures = Figures(
        fsync_p50_ms=round(fsync_p50_ms(scratch), 3), machine_busy_percent=[_busy_percent()]
    )
    with _stage(scratch, "few") as stage:
        empty_s, _ = stage.start_runtime()
        stage.start_worker()
        _closed(stage, figures, 10.0 if long else 3.0)
        figures.take(("fib40_s",), lambda: _fib40(stage))
        for component, prefix in (
            ("stamps", "step_to_step"),
            ("stamps_in_threads", "step_to_step_in_threads"),
        ):
            keys = (f"{prefix}_p50_ms", f"{prefix}_p99_ms")
            figures.take(keys, lambda c=component, p=prefix: _step_to_step(stage, c, p))
        figures.take(("fanout1000_s",), lambda: _fanout(stage))
        children = 10_000 if long else 2_000
        figures.take(("children10000_s",), lambda: _children(stage, children))
        figures.take(("sse_first_event_ms",), lambda: _events(stage))
        figures.take(("sse_streams_s",), lambda: _streams(stage, 1_000 if long else 200))
        figures.take(("idle_cpu_percent",), lambda: _idle(stage, 10.0 if long else 3.0))
    with _stage(scratch, "queued") as stage:
        stage.start_runtime()
        stage.start_worker()
        figures.take(("batch_starts_per_s",), lambda: _batch(stage, QUEUED))
        figures.take(("ready_100k_s",), lambda: _ready(stage, QUEUED, empty_s))
    with _stage(scratch, "waiting") as stage:
        stage.start_runtime()
        stage.start_worker()
        waiting = 200_000 if long else 5_000
        figures.take(("waiting_200k_rss_mb",), lambda: _waiting(stage, waiting))
        figures.take(("woken_after_kill",), lambda: _after(stage, waiting))
    figures["machine_busy_percent"].append(_busy_percent())
    return dict(figures)
