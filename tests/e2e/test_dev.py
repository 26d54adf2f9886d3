"""`engine dev` as a process: it goes when it is asked to, and its worker goes with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.processes import Processes, processes

STOP_S_MAX = 1.5


@contextmanager
def developing(folder: Path, *options: str) -> Iterator[tuple[Processes, subprocess.Popen[bytes]]]:
    """`engine dev` with a worker that has registered."""
    with processes(folder) as running:
        dev = running.start_dev("tests.e2e.components", *options)
        running.wait_until(running.workers_connected, "the worker is there")
        yield running, dev


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("options", [(), ("--no-reload",)], ids=["reload", "no-reload"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_soon(tmp_path: Path, options: tuple[str, ...], number: signal.Signals) -> None:
    with developing(tmp_path, *options) as (_, dev):
        (worker,) = children_of(dev)
        began = time.monotonic()
        dev.send_signal(number)
        assert dev.wait(10) == 0
        assert time.monotonic() - began < STOP_S_MAX
        assert not is_alive(worker)


def test_it_stops_soon_with_a_step_that_does_not_end(tmp_path: Path) -> None:
    """The runtime has gone: there is nobody to whom the step's outcome could be told."""
    with developing(tmp_path) as (running, dev):
        (worker,) = children_of(dev)
        running.submit("stubborn", 60, "stubborn", kind="functions")
        running.wait_until_marked(1)
        began = time.monotonic()
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(10) == 0
        assert time.monotonic() - began < STOP_S_MAX
        assert not is_alive(worker)


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_a_worker_does_not_outlive_it(tmp_path: Path, is_busy: bool) -> None:
    with developing(tmp_path) as (running, dev):
        (worker,) = children_of(dev)
        if is_busy:
            running.submit("stubborn", 60, "stubborn", kind="functions")
            running.wait_until_marked(1)
        dev.kill()
        dev.wait()
        running.wait_until(lambda: not is_alive(worker), "the worker has gone", patience_s=5)


def test_the_worker_is_started_anew_when_it_dies(tmp_path: Path) -> None:
    with developing(tmp_path) as (running, dev):
        (worker,) = children_of(dev)
        os.kill(worker, signal.SIGKILL)
        running.wait_until(lambda: children_of(dev) not in ([], [worker]), "another worker")
        assert running.output_of(running.submit("tally", 3, "tally")) == 3


def test_a_runtime_says_how_long_its_loop_is_held(tmp_path: Path) -> None:
    with processes(tmp_path) as running:
        running.start_runtime()
        url = f"http://{running.http}/metrics"
        said = httpx.get(url).text
    figures = dict(re.findall(r"^(engine_loop_\w+) ([\d.]+)$", said, re.MULTILINE))
    assert set(figures) == {
        "engine_loop_pass_seconds_max",
        "engine_loop_passes_total",
        "engine_loop_passes_long_total",
    }
    assert float(figures["engine_loop_pass_seconds_max"]) > 0
    assert float(figures["engine_loop_passes_total"]) > 0
