"""Runtime and workers killed with SIGKILL, and stopped with SIGSTOP, while runs are under way."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.processes import processes

SEED = int(os.environ.get("ENGINE_TEST_SEED", "7"))
KILLS = int(os.environ.get("ENGINE_TEST_E2E_KILLS", "6"))


def test_every_run_ends_right_whatever_is_killed(tmp_path: Path) -> None:
    """EVENTUAL_PROGRESS and REPLAY_NEVER_REEXECUTES: nothing acknowledged is lost, nothing
    recorded is done again, and every result is the model's."""
    draw = random.Random(SEED)
    with processes(tmp_path) as engine:
        engine.start_runtime()
        workers = [engine.start_worker(), engine.start_worker()]
        engine.wait_until(
            lambda: (engine.get("/v1/components") or {}).get("components"), "a worker is there"
        )
        expected: dict[str, int] = {}
        recorded: dict[str, int] = {}
        for kill in range(KILLS):
            for number in range(20):
                count = draw.randint(1, 12)
                run = engine.submit("tally", count, f"tally-{kill}-{number}")
                expected[run] = sum(range(count))
            run = engine.submit("family", 3, f"family-{kill}")
            expected[run] = sum(sum(range(count)) for count in range(1, 4))
            time.sleep(draw.uniform(0.0, 0.3))
            before = engine.times_done()
            for run in draw.sample(sorted(expected), 5):
                for entry in engine.journal_of(run):
                    if entry["kind"] == "STEP_COMPLETED":
                        step = f"{run} {entry['payload'].get('output', 0)}"
                        recorded[step] = max(recorded.get(step, 0), before.get(step, 0))
            if draw.random() < 0.6:
                engine.kill_runtime()
                engine.start_runtime()
            else:
                engine.kill_worker(workers.pop(draw.randrange(len(workers))))
                workers.append(engine.start_worker())
        results = {run: engine.output_of(run) for run in expected}
        assert results == expected, f"seed {SEED}"
        done = engine.times_done()
        again = {step: done[step] for step, times in recorded.items() if times == 1 < done[step]}
        assert again == {}, f"seed {SEED}: recorded steps were done again"


def test_a_stopped_worker_that_comes_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_STALE_FENCE_WRITE: a worker is stopped beyond its lease and then continued."""
    monkeypatch.setenv("ENGINE_COORDINATOR__HEARTBEAT_MS", "200")
    monkeypatch.setenv("ENGINE_COORDINATOR__LEASE_MS", "800")
    with processes(tmp_path) as engine:
        engine.start_runtime()
        sleeper = engine.start_worker()
        engine.wait_until(
            lambda: (engine.get("/v1/components") or {}).get("components"), "a worker"
        )
        runs = [engine.submit("tally", 400, f"run-{number}") for number in range(4)]
        engine.wait_until(lambda: len(engine.times_done()) > 20, "steps are being done")
        sleeper.send_signal(signal.SIGSTOP)
        engine.start_worker()
        assert [engine.output_of(run) for run in runs] == [sum(range(400))] * 4
        journals = {run: engine.journal_of(run) for run in runs}
        sleeper.send_signal(signal.SIGCONT)
        late = engine.submit("tally", 50, "late")
        assert engine.output_of(late) == sum(range(50))
        assert {run: engine.journal_of(run) for run in runs} == journals
        for journal in journals.values():
            kinds = [entry["kind"] for entry in journal]
            assert kinds.count("STEP_COMPLETED") == 400
            assert kinds.count("RUN_COMPLETED") == 1


def test_signals_survive_restarts(tmp_path: Path) -> None:
    """SIGNAL_FIFO_NO_LOSS over a kill: sent early, sent twice, sent while nobody serves."""
    with processes(tmp_path) as engine:
        engine.start_runtime()
        worker = engine.start_worker()
        engine.wait_until(
            lambda: (engine.get("/v1/components") or {}).get("components"), "a worker"
        )
        run = engine.submit("patient", "x", "patient-1")
        engine.kill_worker(worker)
        for signal_id, value in (("a", 1), ("a", 1), ("b", 20)):
            answer = engine.client.post(
                f"/v1/runs/{run}/signals/go",
                json=value,
                headers={"Idempotency-Key": signal_id},
            )
            assert answer.status_code < 300, answer.text
        engine.kill_runtime()
        engine.start_runtime()
        engine.start_worker()
        assert engine.output_of(run) == 21
