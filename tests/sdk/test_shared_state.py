"""State that is shared with other runs: the engine is asked, and a replay asks nobody. Scenes with
the machine, then workflows as users write them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.base.limits import state_value_bytes_max
from engine.model.payloads import StateChanged, StateConflicted, StateRead, StateScope
from engine.model.runs import RunStatus
from engine.sdk import Context, StateConflict, entity, workflow
from engine.sdk.replay import records
from engine.sdk.replay.operations import ChangeState, ReadState
from tests.sdk.bench_host import BenchWorker
from tests.sdk.fake_engine import FakeEngine, FakeRun
from tests.sdk.flows import double, fail, nothing_ran, of, ran
from tests.sdk.play import Play, signal_go, step

__all__ = ["nothing_ran"]

GLOBAL = StateScope.GLOBAL
read_n = ReadState("n", GLOBAL)


def change_n(value: bytes | None, expected: int | None = None) -> ChangeState:
    return ChangeState("n", value, GLOBAL, expected)


def found(position: int, value: bytes, revision: int) -> StateRead:
    return StateRead(
        position=position, scope=GLOBAL, name="n", value=value, revision=revision, found=True
    )


def changed(position: int, value: bytes, revision: int) -> StateChanged:
    return StateChanged(position=position, scope=GLOBAL, name="n", value=value, revision=revision)


def lost(position: int, expected: int, revision: int) -> StateConflicted:
    return StateConflicted(
        position=position, scope=GLOBAL, name="n", expected_revision=expected, revision=revision
    )


class Asking(Play):
    """A scene in which the engine writes its answers in the place of the questions."""

    def settle(self) -> list[str]:
        lines = super().settle()
        self.journal = [entry for entry in self.journal if not self._is_question(entry)]
        return lines

    @staticmethod
    def _is_question(entry: tuple[int, bytes, int, int]) -> bool:
        payload = records.decode(entry[0], entry[1])
        return isinstance(payload, StateRead | StateChanged) and payload.revision == 0


# ---- the machine ----


def test_a_read_asks_the_engine_and_the_run_stays_for_the_answer() -> None:
    play = Play()
    play.ask(read_n)
    assert play.settle() == ["report 1: STATE_READ 1"]
    play.acknowledge()
    assert play.resumes() == [], "the acknowledgement is not the answer"
    assert play.settle() == [], "it does not park: the answer comes at once"
    play.engine_writes(found(1, b"7", 3))
    assert play.resumes() == ["1 is 7 at 3"]


def test_a_change_says_what_it_expects_and_may_lose() -> None:
    play = Play()
    play.ask(change_n(b"8", expected=3))
    assert play.settle() == ["report 1: STATE_CHANGED 1"]
    play.engine_writes(lost(1, 3, 5))
    assert play.resumes() == ["1 lost: 5, not 3"]


def test_a_run_with_an_open_wait_does_not_park_while_it_asks() -> None:
    play = Play()
    play.ask(signal_go)
    play.ask(read_n)
    assert play.settle() == ["report 1: WAIT_CREATED 1, STATE_READ 2"]
    play.acknowledge()
    assert play.settle() == []
    play.engine_writes(found(2, b"7", 3))
    assert play.resumes() == ["2 is 7 at 3"]
    assert play.settle() == ["report 2: WAIT_CREATED 1 parks"]


def test_a_replay_asks_nobody() -> None:
    first = Asking()
    first.ask(read_n)
    first.settle()
    first.engine_writes(found(1, b"7", 3))
    first.resumes()
    first.ask(change_n(b"8", expected=3))
    first.settle()
    first.engine_writes(changed(2, b"8", 4))
    second = first.again()
    second.ask(read_n)
    assert second.resume() == "1 is 7 at 3"
    second.ask(change_n(b"8", expected=3))
    assert second.resume() == "2 is 8 at 4"
    assert second.returns() == ["report 1: RUN_COMPLETED"]


def test_an_answer_that_the_worker_did_not_live_to_see_counts_once() -> None:
    """REPLAY_NEVER_REEXECUTES for a change: it was decided, and the next worker hears of it."""
    first = Asking()
    first.ask(change_n(b"8"))
    first.settle()
    first.engine_writes(changed(1, b"8", 4), deliver=False)
    second = first.again()
    second.ask(change_n(b"8"))
    assert second.resumes() == ["1 is 8 at 4"]
    second.ask(step("next"))
    assert second.settle() == ["begin 2"], "nothing is asked again"


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        (read_n, change_n(b"1"), ("a read of state 'n' of scope global", "a change of state 'n'")),
        (read_n, ReadState("m", GLOBAL), ("a read of state 'n'", "a read of state 'm'")),
        (
            read_n,
            ReadState("n", StateScope.USER),
            ("of scope global", "a read of state 'n' of scope user"),
        ),
    ],
)
def test_another_question_than_the_recorded_one_is_not_deterministic(
    was: ReadState, now: Any, words: tuple[str, str]
) -> None:
    first = Asking()
    first.ask(was)
    first.settle()
    first.engine_writes(found(1, b"7", 3))
    second = first.again()
    second.ask(now)
    error = second.machine.broken
    assert error is not None
    assert all(word in error.message for word in words), error.message


def test_steps_that_end_while_it_asks_keep_the_order_of_the_journal() -> None:
    """What a step gives must not overtake an answer that stands before it in the journal."""
    play = Play()
    play.ask(step("a"))
    assert play.settle() == ["begin 1"]
    play.ask(read_n)
    play.settle()
    play.step_gives(1, 5)
    assert play.resumes() == [], "not before it is durable"
    play.settle()
    play.engine_writes(found(2, b"7", 3))
    play.acknowledge()
    assert play.resumes() == ["2 is 7 at 3", "1 gave 5"]


def test_an_attempt_that_ended_on_a_conflict_reads_and_changes_anew() -> None:
    first = Asking()
    first.ask(read_n)
    first.settle()
    first.engine_writes(found(1, b"7", 3))
    first.resumes()
    first.ask(change_n(b"8", expected=3))
    first.settle()
    first.engine_writes(lost(2, 3, 4))
    first.resumes()
    first.retries("state_conflict")
    second = first.again()
    second.ask(read_n)
    assert second.settle() == ["report 1: STATE_READ 1"]
    second.engine_writes(found(1, b"9", 4))
    assert second.resumes() == ["1 is 9 at 4"]
    second.ask(change_n(b"10", expected=4))
    assert second.settle() == ["report 2: STATE_CHANGED 2"]


def test_a_conflict_that_was_caught_is_not_asked_again_by_the_next_attempt() -> None:
    """Else the change that followed it would count twice."""
    first = Asking()
    first.ask(change_n(b"1", expected=0))
    first.settle()
    first.engine_writes(lost(1, 0, 4))
    first.resumes()
    first.ask(change_n(b"5", expected=4))
    first.settle()
    first.engine_writes(changed(2, b"5", 5))
    first.resumes()
    first.retries()
    second = first.again()
    second.ask(change_n(b"1", expected=0))
    assert second.resume() == "1 lost: 4, not 0"
    second.ask(change_n(b"5", expected=4))
    assert second.resume() == "2 is 5 at 5"


# ---- workflows ----


def test_a_session_keeps_what_its_runs_know() -> None:
    async def flow(ctx: Context, name: str) -> list[Any]:
        before = await ctx.state.get("name", "nobody", scope="session")
        return [before, await ctx.state.set("name", name, scope="session")]

    component = workflow(name="flow")(flow)
    engine = FakeEngine()
    worker = BenchWorker(engine, [component])
    first = engine.start("flow", "ann", session_id="s1")
    worker.settle()
    second = engine.start("flow", "bob", session_id="s1")
    worker.settle()
    assert (first.result(), second.result()) == (["nobody", 1], ["ann", 2])
    assert second.kinds().count("STATE_READ") == 1


def count_up() -> Any:
    async def flow(ctx: Context) -> int:
        while True:
            count, revision = await ctx.state.read("count", 0, scope="global")
            await ctx.step(double, count)
            try:
                await ctx.state.set("count", count + 1, scope="global", if_revision=revision)
            except StateConflict as conflict:
                if not conflict.expected == revision < conflict.revision:
                    raise
            else:
                return int(count)

    return workflow(name="flow")(flow)


def test_two_runs_count_without_losing_one() -> None:
    engine = FakeEngine()
    worker = BenchWorker(engine, [count_up(), double])
    runs = [engine.start("flow") for _ in range(3)]
    worker.settle()
    assert sorted(run.result() for run in runs) == [0, 1, 2]
    assert engine.shared[int(GLOBAL), "count"] == (3, b"3")
    conflicts = [run.kinds().count("STATE_CONFLICTED") for run in runs]
    assert sum(conflicts) == 3, "all three had read the same, and then two of them"


def test_a_value_that_was_deleted_keeps_its_revision() -> None:
    async def flow(ctx: Context) -> list[Any]:
        state, seen = ctx.state, []
        seen.append(await state.revision("n", scope="global"))
        seen.append(await state.set("n", 1, scope="global", if_revision=0))
        await state.delete("n", scope="global", if_revision=1)
        seen.append(await state.read("n", "gone", scope="global"))
        try:
            await state.set("n", 2, scope="global", if_revision=0)
        except StateConflict as error:
            seen.append(str(error))
        seen.append(await state.revision("n", scope="global"))
        return seen

    _, run = of(flow)
    conflict = "state 'n' of scope global is at revision 2, not 0: read it again"
    assert run.result() == [0, 1, ["gone", 2], conflict, 2]


def test_the_revision_is_of_what_the_run_has_seen() -> None:
    """Asked for anew it would cover a change that the code has not seen, and that would be lost."""
    engine = FakeEngine()

    async def flow(ctx: Context) -> str:
        value = await ctx.state.get("n", 0, scope="global")
        engine.shared[int(GLOBAL), "n"] = (7, b"70")  # another run's
        try:
            revision = await ctx.state.revision("n", scope="global")
            await ctx.state.set("n", value + 1, scope="global", if_revision=revision)
        except StateConflict:
            return "conflict"
        return "lost update"

    component = workflow(name="flow")(flow)
    worker = BenchWorker(engine, [component])
    assert worker.run(component).result() == "conflict"


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("session", "it has no session: start it with session_id="),
        ("user", "it has no user: start it with user_id="),
        ("entity", "it has no entity key: start it with entity_key="),
    ],
)
def test_a_run_without_the_id_is_told_so(scope: str, said: str) -> None:
    async def flow(ctx: Context) -> None:
        await ctx.state.get("n", scope=scope)

    _, run = of(flow)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error.code, run.error.non_retryable) == ("no_state_scope", True)
    assert said in run.error.message


def failing(run: FakeRun) -> tuple[str, str]:
    assert run.error is not None
    return run.error.code, run.error.message


def test_values_and_names_have_bounds() -> None:
    async def too_large(ctx: Context) -> None:
        await ctx.state.set("mine", "x" * state_value_bytes_max)
        await ctx.state.set("n", "x" * state_value_bytes_max, scope="global")

    async def nameless(ctx: Context) -> None:
        await ctx.state.get("", scope="global")

    async def elsewhere(ctx: Context) -> None:
        await ctx.state.get("n", scope="planet")

    code, message = failing(of(too_large)[1])
    assert code == "limit_exceeded"
    assert f"the limit is {state_value_bytes_max}" in message
    assert failing(of(nameless)[1])[0] == "invalid_input"
    assert "scope 'planet' is not one of run, session" in failing(of(elsewhere)[1])[1]


def test_an_entity_keeps_its_own_state_by_default() -> None:
    async def flow(ctx: Context, amount: int) -> int:
        balance = await ctx.state.get("balance", 0) + amount
        await ctx.state.set("balance", balance)
        return int(balance)

    engine = FakeEngine()
    worker = BenchWorker(engine, [entity(name="flow")(flow)])
    runs = [engine.start("flow", amount, entity_key="ann") for amount in (5, 7)]
    for _ in runs:
        worker.settle()
    assert engine.shared[int(StateScope.ENTITY), "balance"][0] == 2
    assert runs[0].of(StateRead)[0].scope == StateScope.ENTITY


def test_an_attempt_after_an_uncaught_conflict_gets_through() -> None:
    engine = FakeEngine()
    engine.attempts_max = 3

    async def flow(ctx: Context) -> int:
        count, revision = await ctx.state.read("n", 0, scope="global")
        if ctx.attempt == 1 and not ctx.is_replaying:
            engine.shared[int(GLOBAL), "n"] = (7, b"70")  # another run's
        return await ctx.state.set("n", count + 1, scope="global", if_revision=revision)

    component = workflow(name="flow")(flow)
    worker = BenchWorker(engine, [component, fail])
    run = worker.run(component)
    worker.settle()
    assert run.result() == 8
    assert engine.shared[int(GLOBAL), "n"] == (8, b"71")
    assert ran == []
