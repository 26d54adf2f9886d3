"""How often a step was really done: each execution writes a line, with the time, into one file.

A step may be done twice when its worker was lost before its outcome was recorded. Once it is
recorded it may not: a mark that is younger than the record of its step shows a recorded step that
was run again. Worker and runtime have one clock in these tests.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from engine.sdk import StepContext
from tests.e2e.processes import Processes

FILE: Final = "E2E_MARKS"


class Tried(NamedTuple):
    """One try of one step."""

    run: str
    position: int
    attempt: int


def leave_mark(ctx: StepContext) -> None:
    line = f"{ctx.idempotency_key} {ctx.attempt} {ctx.name} {time.time_ns() // 1_000}\n"
    # One write of a few bytes at the end of the file: marks of many processes do not mix.
    file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)


class Marks:
    def __init__(self, path: Path) -> None:
        self.times_us: defaultdict[Tried, list[int]] = defaultdict(list)
        self.names: dict[Tried, str] = {}
        for line in path.read_text().splitlines():
            key, attempt, name, time_us = line.split(" ")
            run, position = key.split(":")
            tried = Tried(run, int(position), int(attempt))
            self.times_us[tried].append(int(time_us))
            self.names[tried] = name

    def __len__(self) -> int:
        """How many steps were done; one that was done again counts once."""
        return len({(tried.run, tried.position) for tried in self.times_us})

    def steps_by_name(self) -> Counter[str]:
        """How many steps of each name were done, each counted once."""
        steps = {(tried.run, tried.position): name for tried, name in self.names.items()}
        return Counter(steps.values())

    def done_again(self, engine: Processes) -> list[str]:
        """The steps that were run although they were recorded. Only what has two marks can be."""
        suspects: defaultdict[str, list[Tried]] = defaultdict(list)
        for tried, times_us in self.times_us.items():
            if len(times_us) > 1:
                suspects[tried.run].append(tried)
        return [
            f"{self.names[tried]} {tried}"
            for run, of_run in suspects.items()
            for tried in _recorded_before(self.times_us, of_run, engine.journal_of(run))
        ]


def _recorded_before(
    times_us: Mapping[Tried, list[int]], suspects: list[Tried], journal: list[dict[str, Any]]
) -> list[Tried]:
    recorded_us = {
        (entry["payload"]["position"], entry["payload"].get("attempt", 1)): entry["timestamp_us"]
        for entry in journal
        if entry["kind"] in ("STEP_COMPLETED", "STEP_FAILED")
    }
    return [
        tried for tried in suspects if max(times_us[tried]) > recorded_us.get(tried[1:], math.inf)
    ]
