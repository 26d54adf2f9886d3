"""A thousand event streams of runs that are under way, in a client process of its own."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ROOT, Processes, processes

STREAMS = 1_000
RUNS = 200
STEPS = 8
FILES = 8_192


@pytest.fixture(autouse=True)
def enough_files() -> Iterator[None]:
    """For this process and those that it starts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = max(before[0], min(FILES, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_thousand_streams_without_a_lost_or_repeated_event(tmp_path: Path) -> None:
    """Every stream sees exactly the run's journal. Every fifth reader hangs up in the middle,
    anywhere, and resumes where it was."""
    with processes(tmp_path) as engine:
        engine.start(workers=1)
        runs = engine.submit_many("on_cue", [STEPS] * RUNS)
        draw = random.Random(7)
        plan = [
            (runs[number % RUNS], draw.randint(2, 2 * STEPS) if number % 5 == 0 else 0)
            for number in range(STREAMS)
        ]
        found = _listen(engine, plan, runs)
        journals = {run: [entry["offset"] for entry in engine.journal_of(run)] for run in runs}
        for (run, leaves_after), stream in zip(plan, found, strict=True):
            offsets = [offset for offset, _ in stream["seen"]]
            assert offsets == journals[run]
            assert stream["connections"] == (2 if leaves_after else 1)
            names = [name for _, name in stream["seen"]]
            assert names.count("workflow.step.completed") == STEPS
            assert names[-1] == "run.completed"


def _listen(engine: Processes, plan: list[tuple[str, int]], runs: list[str]) -> list[Any]:
    """What each stream saw. The runs get their cue when all are listening."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.listeners", engine.http],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(json.dumps(plan) + "\n")
            client.stdin.flush()
            assert client.stdout.readline() == "ready\n"
            for run in runs:
                engine.signal(run, "go", None, run)
            out, _ = client.communicate(timeout=60)
        finally:
            client.kill()
    found: list[Any] = json.loads(out)
    return found
