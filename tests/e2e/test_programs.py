"""Seeded random workflows while the runtime and the workers are killed at random: in the end every
result and every count of side effects is the model's.

`ENGINE_TEST_PROGRAMS_S=600` goes on for ten minutes; `ENGINE_TEST_SEED` chooses another course.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.e2e.marks import Marks
from tests.e2e.processes import Processes, processes
from tests.e2e.programs import SIGNAL_VALUE, expected_counts, expected_marks, signals_wanted
from tests.sdk.test_random_programs import expected, random_program

SEED: Final = int(os.environ.get("ENGINE_TEST_SEED", "11"))
LASTS_S: Final = float(os.environ.get("ENGINE_TEST_PROGRAMS_S", "10"))
MODULE: Final = "tests.e2e.programs"
RUNS_PER_ROUND: Final = 25


class Course:
    """What happens, in rounds: runs are started, and something is killed under them."""

    def __init__(self, engine: Processes, draw: random.Random) -> None:
        self._engine = engine
        self._draw = draw
        self._workers = [engine.start_worker(MODULE) for _ in range(2)]
        self.programs: dict[str, list[Any]] = {}
        self._signalled: Counter[str] = Counter()

    def round(self, number: int) -> None:
        for at in range(RUNS_PER_ROUND):
            program = random_program(self._draw)
            run = self._engine.submit("program_run", program, f"program-{number}-{at}")
            self.programs[run] = program
            for _ in range(signals_wanted(program)):
                self._signal(run)
        time.sleep(self._draw.uniform(0.0, 0.4))
        killed = self._draw.choice(["runtime", "worker", "both"])
        if killed != "worker":
            self._engine.kill_runtime()
        if killed != "runtime":
            self._engine.kill_worker(self._workers.pop(self._draw.randrange(2)))
            self._workers.append(self._engine.start_worker(MODULE))
        if killed != "worker":
            self._engine.start_runtime()

    def _signal(self, run: str) -> None:
        self._signalled[run] += 1
        self._engine.signal(run, "go", SIGNAL_VALUE, f"signal-{self._signalled[run]}")

    def signal_children(self) -> None:
        """Children are found when they have been started; what they wait for comes then."""
        for run in self._engine.runs_in("program_run", "WAITING"):
            if run not in self.programs:
                journal = self._engine.journal_of(run)
                wanted = signals_wanted(journal[0]["payload"]["input"])
                for _ in range(wanted - self._signalled[run]):
                    self._signal(run)


def test_random_programs_under_kills(tmp_path: Path) -> None:
    with processes(tmp_path) as engine:
        engine.start_runtime()
        course = Course(engine, random.Random(SEED))
        engine.wait_until(engine.workers_connected, "a worker is there")
        began = time.monotonic()
        number = 0
        while time.monotonic() - began < LASTS_S or number < 3:
            course.round(number)
            course.signal_children()
            number += 1
        _wait_until_all_have_ended(engine, course)
        results = {run: engine.output_of(run) for run in course.programs}
        assert results == {run: expected(program) for run, program in course.programs.items()}, (
            f"seed {SEED}"
        )
        counts = sum((expected_counts(program) for program in course.programs.values()), Counter())
        run = engine.submit("shared_counts", sorted(counts), "counts")
        assert engine.output_of(run) == dict(counts), f"seed {SEED}"
        marks = Marks(engine.marks)
        model = sum((expected_marks(program) for program in course.programs.values()), Counter())
        assert marks.steps_by_name() == model, f"seed {SEED}"
        assert marks.done_again(engine) == [], f"seed {SEED}"


def _wait_until_all_have_ended(engine: Processes, course: Course) -> None:
    def have_ended() -> bool:
        course.signal_children()
        statuses = set(engine.statuses("program_run"))
        assert "FAILED" not in statuses, f"seed {SEED}: {_why(engine)}"
        return statuses == {"COMPLETED"}

    engine.wait_until(have_ended, lambda: f"all runs of seed {SEED} have ended: {_why(engine)}")


def _why(engine: Processes) -> list[Any]:
    return [
        (engine.get(f"/v1/runs/{run}/why"), engine.journal_of(run))
        for status in ("QUEUED", "RUNNING", "WAITING", "RETRYING", "FAILED")
        for run in engine.runs_in("program_run", status)
    ]
