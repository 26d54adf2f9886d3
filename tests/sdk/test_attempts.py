"""A run that is tried again as a whole: what was recorded is not repeated and goes to whom it
belongs to, whichever way the branches of the new attempt take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from engine.base.errors import LimitExceeded
from engine.model.payloads import StateScope
from engine.sdk import Context, StepError, limits, workflow
from engine.sdk.replay.paths import branch_number, operation_count, position_of
from tests.sdk.bench_host import BenchWorker
from tests.sdk.fake_engine import FakeEngine, FakeRun
from tests.sdk.play import Play, step

COUNT = int(StateScope.GLOBAL), "count"


class Scene:
    """Steps that note what they are called with, and fail when the scene says so."""

    def __init__(self, *fails: str) -> None:
        self.done: Counter[str] = Counter()
        self.fails = Counter(fails)
        self.engine = FakeEngine()
        self.engine.attempts_max = 5

    async def work(self, what: str) -> str:
        if self.fails[what]:
            self.fails[what] -= 1
            raise OSError(what)
        self.done[what] += 1
        return f"{what} {self.done.total()}"

    def play(self, body: Callable[..., Any]) -> FakeRun:
        self.worker = BenchWorker(self.engine, [workflow(name="flow")(body)])
        return self.worker.run("flow")


def test_a_branch_that_goes_on_does_not_take_from_the_others() -> None:
    """In the first attempt `left 1` fails while the others go on; in the second it succeeds, and
    its branch asks for more, which is where the others had asked for theirs."""
    scene = Scene("left 1")

    async def branch(ctx: Context, name: str, count: int) -> list[str]:
        return [await ctx.step(scene.work, f"{name} {number}") for number in range(1, count + 1)]

    async def flow(ctx: Context) -> list[list[str]]:
        branches = [branch(ctx, name, 4) for name in ("left", "middle", "right")]
        done = await ctx.parallel(*branches, return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result
        return done

    run = scene.play(flow)
    assert run.kinds().count("RUN_RETRYING") == 1
    for name, results in zip(("left", "middle", "right"), run.result(), strict=True):
        assert [text.rpartition(" ")[0] for text in results] == [f"{name} {n}" for n in range(1, 5)]
    assert set(scene.done.values()) == {1}, "nothing was done twice"


def test_a_step_of_the_other_way_with_other_arguments_is_another_step() -> None:
    scene = Scene("ship")

    async def flow(ctx: Context) -> str:
        try:
            await ctx.step(scene.work, "ship")
        except StepError:
            await ctx.step(scene.work, "tell of failure")
            raise
        return await ctx.step(scene.work, "tell of success")

    run = scene.play(flow)
    assert run.result() == "tell of success 3"
    assert scene.done == {"ship": 1, "tell of failure": 1, "tell of success": 1}


def test_a_value_of_the_other_way_is_not_the_value() -> None:
    scene = Scene("ship")

    async def flow(ctx: Context) -> str:
        try:
            await ctx.step(scene.work, "ship")
        except StepError:
            await ctx.state.set("status", "failed")
            await ctx.step(scene.work, "apologize")
            raise
        await ctx.state.set("status", "shipped")
        return str(await ctx.state.get("status"))

    assert scene.play(flow).result() == "shipped"


def test_shared_state_that_has_answered_is_not_asked_again() -> None:
    """Its answer is in the journal, and comes before the step that is run again."""
    scene = Scene("late")

    async def count(ctx: Context) -> None:
        await ctx.step(scene.work, "before")
        now, revision = await ctx.state.read("count", 0, scope="global")
        await ctx.state.set("count", now + 1, scope="global", if_revision=revision)

    async def flow(ctx: Context) -> int:
        done = await ctx.parallel(ctx.step(scene.work, "late"), count(ctx), return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result
        return 1

    run = scene.play(flow)
    assert run.result() == 1
    assert scene.engine.shared[COUNT] == (1, b"1")


def test_an_item_of_a_map_is_not_done_again_by_whoever_takes_it() -> None:
    scene = Scene("0", "last")

    async def flow(ctx: Context) -> list[Any]:
        done = await ctx.map(
            scene.work, [str(n) for n in range(6)], limit=2, return_exceptions=True
        )
        await ctx.step(scene.work, "last")
        return [isinstance(result, str) for result in done]

    run = scene.play(flow)
    assert run.result() == [True] * 6
    assert set(scene.done.values()) == {1}


def test_code_that_knows_its_attempt_may_go_another_way() -> None:
    scene = Scene("last")

    async def flow(ctx: Context) -> list[str]:
        first = await ctx.step(scene.work, "first")
        if ctx.attempt > 1:
            await ctx.step(scene.work, "prepare")
        again = await ctx.step(scene.work, f"attempt {ctx.attempt}")
        return [first, again, await ctx.step(scene.work, "last")]

    run = scene.play(flow)
    assert run.result() == ["first 1", "attempt 2 4", "last 5"]
    assert scene.done["first"] == 1


def test_what_is_drawn_by_chance_is_a_branch_s_own() -> None:
    scene = Scene("left")
    drawn: list[tuple[float, float]] = []

    async def draw(ctx: Context, name: str) -> float:
        try:
            await ctx.step(scene.work, name)
        except StepError:
            ctx.random()
            raise
        return ctx.random()

    async def flow(ctx: Context) -> None:
        left, right = await ctx.parallel(
            draw(ctx, "left"), draw(ctx, "right"), return_exceptions=True
        )
        drawn.append((left, right))
        if isinstance(left, BaseException):
            raise left

    scene.play(flow)
    (_, before), (left, right) = drawn
    assert before == right
    assert left != right


# ---- the machine ----


def test_a_step_with_another_input_is_shown_beside_the_recorded_one() -> None:
    first = Play()
    first.ask(step("charge", given=b'["anna",' + b" " * 300 + b"5]"))
    first.settle()
    first.step_gives(1, 42)
    first.settle()
    second = first.again()
    second.ask(step("charge", given=b'["anna",' + b" " * 300 + b"7]"))
    assert second.settle() == ["report 1: RUN_FAILED"]
    assert second.machine.broken is not None
    had, asked = second.machine.broken.message.splitlines()[1:3]
    assert had.startswith("    the journal has     step 'charge' with input …")
    assert had.endswith(" 5]")
    assert asked.startswith("    the code asked for  step 'charge' with input …")
    assert asked.endswith(" 7]")


def test_a_disagreement_in_a_branch_names_the_branch() -> None:
    first = Play()
    position = first.machine.ask(step("a"), branch="2.1")
    first.settle()
    first.step_gives(position, 1)
    first.settle()
    second = first.again()
    second.machine.ask(step("b"), branch="2.1")
    assert second.machine.broken is not None
    assert "at position 1 of branch 2.1\n" in second.machine.broken.message
    third = first.again()
    assert third.returns() == ["report 1: RUN_FAILED"]
    assert third.machine.broken is not None
    assert "at position 1 of a branch that was not started" in third.machine.broken.message


def test_each_branch_counts_for_itself() -> None:
    play = Play()
    asked = ["", "1", "", "2", "1", "1.1", "1.1"]
    positions = [play.machine.ask(step("s"), branch=path) for path in asked]
    assert positions[:5] == [1, position_of(1, 1), 2, position_of(2, 1), position_of(1, 2)]
    assert branch_number(positions[5]) == branch_number(positions[6]) > 2
    assert [operation_count(position) for position in positions[5:]] == [1, 2]
    assert max(positions) < 2**53, "a number that JSON readers say exactly"


def test_two_branches_with_one_number_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.sdk.replay.positions._number_of", lambda path: 2**33 - 1)
    play = Play()
    positions = [play.machine.ask(step("s"), branch=path) for path in ("1.1", "2.1", "1.1")]
    assert len({*positions}) == 3
    assert branch_number(positions[0]) == branch_number(positions[2]) != branch_number(positions[1])


def test_a_branch_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "branch_operations_max", 3)
    play = Play()
    assert play.ask(step("a"), step("a"), step("a")) == [1, 2, 3]
    with pytest.raises(LimitExceeded, match="at most 3 operations; start child runs"):
        play.ask(step("a"))
