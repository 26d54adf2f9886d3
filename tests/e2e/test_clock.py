"""TIMER_NEVER_EARLY_NEVER_LOST where the wall clock of the machine jumps, with real processes: a
library that is preloaded into runtime and workers shifts the time that they see."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.processes import Processes, processes
from tests.faults.conftest import compile_shared

HOUR_S: Final = 3_600
SOURCE: Final = Path(__file__).parent / "shifted_clock.c"


class WallClock:
    """What the processes take for the time."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)

    def shift_to(self, seconds: int) -> None:
        """From the true time, not from where it was."""
        self._page[:] = struct.pack("<q", seconds * 1_000_000_000)

    def now_s(self) -> float:
        return time.time() + struct.unpack("<q", self._page[:])[0] / 1e9


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path / "shift")


@pytest.fixture
def running(tmp_path: Path, clock: WallClock) -> Iterator[Processes]:
    environment = {
        "LD_PRELOAD": str(compile_shared(SOURCE, tmp_path)),
        "SHIFTED_CLOCK": str(tmp_path / "shift"),
        "PATH": os.environ["PATH"],
    }
    with processes(tmp_path, environment) as engine:
        engine.start(workers=1)
        yield engine


def started_napping(running: Processes, seconds: float, key: str) -> str:
    """A run that is asleep by its journal."""
    run = running.submit("nap", seconds, key)
    running.wait_until(lambda: running.status_of(run) == "WAITING", "it sleeps")
    return run


def test_a_jump_forward_wakes_what_is_due_and_nothing_else(
    running: Processes, clock: WallClock
) -> None:
    soon = started_napping(running, HOUR_S / 2, "soon")
    later = started_napping(running, 2 * HOUR_S, "later")
    clock.shift_to(HOUR_S)
    assert running.output_of(soon) == HOUR_S / 2
    # A nap that was begun after the jump and is over: whatever the jump made due has been seen.
    assert running.output_of(running.submit("nap", 1.5, "short")) == 1.5
    assert running.status_of(later) == "WAITING"
    clock.shift_to(2 * HOUR_S + 60)
    assert running.output_of(later) == 2 * HOUR_S


def test_a_jump_back_wakes_nothing_early_and_loses_nothing(
    running: Processes, clock: WallClock
) -> None:
    """What slept until a time that is an hour away again goes on sleeping, over a restart, too."""
    due_s = clock.now_s() + 1.0
    asleep = started_napping(running, 1.0, "asleep")
    clock.shift_to(-HOUR_S)
    # Begun later and for longer: when it is over, the other's second has passed by any clock that
    # did not jump.
    assert running.output_of(running.submit("nap", 1.5, "short")) == 1.5
    assert clock.now_s() < due_s
    assert running.status_of(asleep) == "WAITING"
    running.kill_runtime()
    running.start_runtime()
    running.wait_until(running.workers_connected, "the worker is back")
    assert running.output_of(running.submit("nap", 0.3, "another")) == 0.3
    assert running.status_of(asleep) == "WAITING"
    clock.shift_to(0)
    assert running.output_of(asleep) == 1.0
    woken = [e for e in running.journal_of(asleep) if e["kind"] == "WAIT_RESOLVED"]
    assert len(woken) == 1
    assert woken[0]["timestamp_us"] >= due_s * 1e6
