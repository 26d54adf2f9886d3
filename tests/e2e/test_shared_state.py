"""Shared state with real processes: killed in the middle, every change counts exactly once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.e2e.processes import Processes, processes

SHARING = "tests.e2e.sharing"
TIMES = 60


def made_so_far(engine: Processes, runs: list[str]) -> int:
    kinds = Counter(entry["kind"] for run in runs for entry in engine.journal_of(run))
    return kinds["STATE_CHANGED"]


def test_two_runs_count_to_their_sum_whoever_is_killed(tmp_path: Path) -> None:
    """REPLAY_NEVER_REEXECUTES for shared state, under optimistic retry: no increment is lost, and
    none counts twice, with a worker and then the runtime killed in between."""
    with processes(tmp_path) as engine:
        engine.start(workers=2, module=SHARING)
        runs = [engine.submit("count_up", TIMES, f"run-{number}") for number in range(2)]
        engine.wait_until(lambda: made_so_far(engine, runs) >= TIMES // 4, "they are counting")
        engine.kill_worker(engine._workers[0])
        engine.start_worker(SHARING)
        engine.wait_until(lambda: made_so_far(engine, runs) >= TIMES // 2, "they count again")
        assert any(engine.status_of(run) == "RUNNING" for run in runs), "it was in the middle"
        engine.kill_runtime()
        engine.start_runtime()
        made = [engine.output_of(run) for run in runs]
        assert sorted(made[0] + made[1]) == list(range(1, 2 * TIMES + 1))
        assert engine.output_of(engine.submit("counted", None, "after")) == [2 * TIMES, 2 * TIMES]
        kinds = Counter(entry["kind"] for run in runs for entry in engine.journal_of(run))
        assert kinds["STATE_CHANGED"] == 2 * TIMES
        assert kinds["STATE_CONFLICTED"] > 0, "they did get in each other's way"


def test_a_session_and_an_entity_outlive_their_runs(tmp_path: Path) -> None:
    with processes(tmp_path) as engine:
        engine.start(workers=1, module=SHARING)

        def remembered(name: str, session: str) -> str:
            answer = engine.client.post(
                "/v1/workflows/remember/run", json=name, headers={"X-Session-ID": session}
            )
            return str(answer.json()["output"])

        assert remembered("ann", "s1") == "nobody"
        engine.kill_runtime()
        engine.start_runtime()
        engine.wait_until(lambda: engine.workers_connected() == 1, "the worker is back")
        assert (remembered("bob", "s1"), remembered("eve", "s2")) == ("ann", "nobody")
        without = engine.client.post("/v1/workflows/remember/run", json="x").json()
        assert without["error"]["code"] == "no_state_scope"
        assert "X-Session-ID" in without["error"]["message"]

        payments = [
            engine.submit("pay", {"people": ["ann", "bob"], "amount": 5}, f"pay-{number}")
            for number in range(10)
        ]
        balances = [engine.output_of(payment) for payment in payments]
        for person in (0, 1):
            assert sorted(balance[person] for balance in balances) == list(range(5, 55, 5))
