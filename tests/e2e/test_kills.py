"""Runtime and workers killed with SIGKILL, and stopped with SIGSTOP, while runs are under way."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.base import limits
from tests.e2e.marks import Marks
from tests.e2e.processes import processes

SEED = int(os.environ.get("ENGINE_TEST_SEED", "7"))
KILLS = int(os.environ.get("ENGINE_TEST_E2E_KILLS", "6"))
CROWD = 5_000


def test_every_run_ends_right_whatever_is_killed(tmp_path: Path) -> None:
    """EVENTUAL_PROGRESS and REPLAY_NEVER_REEXECUTES: nothing acknowledged is lost, nothing
    recorded is done again, and every result is the model's."""
    draw = random.Random(SEED)
    with processes(tmp_path) as engine:
        engine.start_runtime()
        workers = [engine.start_worker(), engine.start_worker()]
        engine.wait_until(engine.workers_connected, "a worker is there")
        expected: dict[str, int] = {}
        for kill in range(KILLS):
            for number in range(20):
                count = draw.randint(1, 12)
                run = engine.submit("tally", count, f"tally-{kill}-{number}")
                expected[run] = sum(range(count))
            run = engine.submit("family", 3, f"family-{kill}")
            expected[run] = sum(sum(range(count)) for count in range(1, 4))
            time.sleep(draw.uniform(0.0, 0.3))
            if draw.random() < 0.6:
                engine.kill_runtime()
                engine.start_runtime()
            else:
                engine.kill_worker(workers.pop(draw.randrange(len(workers))))
                workers.append(engine.start_worker())
        results = {run: engine.output_of(run) for run in expected}
        assert results == expected, f"seed {SEED}"
        assert Marks(engine.marks).done_again(engine) == [], f"seed {SEED}"
        # That this would have been seen: a mark that is younger than its record.
        run = next(run for run, total in expected.items() if total)
        with engine.marks.open("a") as marks:
            marks.write(f"{run}:1 1 mark {time.time_ns() // 1_000}\n")
        assert len(Marks(engine.marks).done_again(engine)) == 1


def test_a_restart_under_five_thousand_runs(tmp_path: Path) -> None:
    """The runtime is killed twice with the crowd in flight: some asleep, some waiting for a signal,
    some in the middle of their steps, some not begun."""
    with processes(tmp_path) as engine:
        engine.start(workers=2)
        runs = engine.submit_many("mixed", range(CROWD))
        waiting = runs[1::4]
        for run in waiting[::2]:
            engine.signal(run, "go", None, run)
        engine.wait_until(lambda: len(Marks(engine.marks)) > CROWD // 4, "a part is done")
        engine.kill_runtime()
        engine.start_runtime()
        engine.wait_until(lambda: len(Marks(engine.marks)) > CROWD, "more is done")
        engine.kill_runtime()
        engine.start_runtime()
        for run in waiting[1::2]:
            engine.signal(run, "go", None, run)
        engine.wait_until(
            lambda: engine.statuses("mixed") == {"COMPLETED": CROWD}, "all runs have ended"
        )
        marks = Marks(engine.marks)
        assert len(marks) == 2 * CROWD
        assert marks.done_again(engine) == []
        assert [engine.output_of(run) for run in runs[::50]] == list(range(0, CROWD, 50))


def test_a_stopped_worker_that_comes_back_changes_nothing(tmp_path: Path) -> None:
    """NO_STALE_FENCE_WRITE: a worker is stopped beyond its lease and then continued."""
    short_lease = {
        "ENGINE_COORDINATOR__HEARTBEAT_MS": "200",
        "ENGINE_COORDINATOR__LEASE_MS": "800",
    }
    with processes(tmp_path, short_lease) as engine:
        engine.start_runtime()
        sleeper = engine.start_worker()
        engine.wait_until(engine.workers_connected, "a worker is there")
        runs = [engine.submit("tally", 400, f"run-{number}") for number in range(4)]
        engine.wait_until(lambda: len(Marks(engine.marks)) > 20, "steps are being done")
        sleeper.send_signal(signal.SIGSTOP)
        engine.start_worker()
        assert [engine.output_of(run) for run in runs] == [sum(range(400))] * 4
        journals = {run: engine.journal_of(run) for run in runs}
        sleeper.send_signal(signal.SIGCONT)
        engine.wait_until(lambda: engine.workers_connected() == 2, "the worker is back")
        late = engine.submit("tally", 50, "late")
        assert engine.output_of(late) == sum(range(50))
        assert {run: engine.journal_of(run) for run in runs} == journals
        for journal in journals.values():
            kinds = [entry["kind"] for entry in journal]
            assert kinds.count("STEP_COMPLETED") == 400
            assert kinds.count("RUN_COMPLETED") == 1


def test_a_worker_survives_every_restart_of_its_runtime(tmp_path: Path) -> None:
    """Stopped in order or killed, idle or in the middle of steps: the worker comes back, and says
    in a line what it has lost."""
    with processes(tmp_path) as engine:
        engine.start_runtime()
        worker = engine.start_worker()
        engine.wait_until(engine.workers_connected, "a worker is there")
        runs = [engine.submit("tally", 3_000, f"run-{number}") for number in range(3)]
        for stop in (engine.stop_runtime, engine.kill_runtime) * 2:
            marks = len(engine.marks.read_bytes())
            engine.wait_until(
                lambda before=marks: len(engine.marks.read_bytes()) > before + 500, "it works"
            )
            stop()
            engine.start_runtime()
            engine.wait_until(engine.workers_connected, "the worker is back")
        for run in runs:
            engine.client.post(f"/v1/runs/{run}/cancel", json={"reason": "enough"})
        engine.stop_runtime()
        engine.start_runtime()
        engine.wait_until(engine.workers_connected, "the worker is back")
        assert worker.poll() is None
        assert not engine.has_said("Traceback")
        assert Marks(engine.marks).done_again(engine) == []


def test_who_is_waiting_when_the_runtime_is_stopped_is_still_answered(tmp_path: Path) -> None:
    with processes(tmp_path) as engine, ThreadPoolExecutor(1) as threads:
        engine.start(workers=1)
        asked = threads.submit(engine.client.post, "/v1/workflows/nap/run", json=2.0)
        engine.wait_until(lambda: engine.statuses("nap"), "its run is under way")
        engine.stop_runtime()
        answer = asked.result()
        assert (answer.status_code, answer.json()["output"]) == (200, 2.0)


def test_signals_survive_restarts(tmp_path: Path) -> None:
    """SIGNAL_FIFO_NO_LOSS over a kill: sent early, sent twice, sent while nobody serves."""
    with processes(tmp_path) as engine:
        engine.start_runtime()
        worker = engine.start_worker()
        engine.wait_until(engine.workers_connected, "a worker is there")
        run = engine.submit("patient", "x", "patient-1")
        engine.kill_worker(worker)
        for signal_id, value in (("a", 1), ("a", 1), ("b", 20)):
            engine.signal(run, "go", value, signal_id)
        engine.kill_runtime()
        engine.start_runtime()
        engine.start_worker()
        assert engine.output_of(run) == 21


def test_a_run_that_takes_its_workers_down_is_isolated(tmp_path: Path) -> None:
    """It fails after so many dispatches with nothing to show, and neither the runs that its workers
    held nor those that came after it pay for it."""
    with processes(tmp_path) as engine:
        engine.start(workers=2)
        before = [engine.submit("tally", 40, f"before-{number}") for number in range(10)]
        crashing = engine.submit("crashes", "x", "crashes")
        after = [engine.submit("tally", 40, f"after-{number}") for number in range(10)]
        deaths = 0
        while engine.status_of(crashing) != "FAILED":
            deaths += engine.revive_workers()
            assert deaths < 20
        engine.revive_workers()
        assert [engine.output_of(run) for run in before + after] == [sum(range(40))] * 20
        run = engine.get(f"/v1/runs/{crashing}")
        assert run["error_code"] == "worker_crashed"
        dispatches = [
            entry for entry in engine.journal_of(crashing) if entry["kind"] == "RUN_STARTED"
        ]
        assert len(dispatches) == limits.fruitless_starts_max


def test_whoever_was_beside_it_does_not_fail_with_it(tmp_path: Path) -> None:
    """Each time the worker goes down it holds runs that had no time to record anything."""
    with processes(tmp_path) as engine:
        engine.start_runtime()
        worker = engine.start_worker()
        engine.wait_until(engine.workers_connected, "a worker is there")
        engine.kill_worker(worker)
        crashing = engine.submit("crashes", "x", "crashes")
        beside = engine.submit_many("slow", range(5))
        engine.start_worker()
        while engine.status_of(crashing) != "FAILED":
            engine.revive_workers()
        engine.revive_workers()
        assert [engine.output_of(run) for run in beside] == list(range(5))
