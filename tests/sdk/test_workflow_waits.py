"""Workflows as users write them: waiting, child runs, state and what a run may know, on a worker
without an event loop and a small engine."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.model.payloads import (
    ChildStarted,
    StateChanged,
    UsageReported,
    WaitCreated,
)
from engine.model.runs import RunStatus
from engine.sdk import (
    ChildError,
    Context,
    StateConflict,
    StepContext,
    WaitTimedOut,
    workflow,
)
from engine.sdk.errors import NotInWorkflow
from tests.sdk.bench_host import BenchWorker
from tests.sdk.fake_engine import FakeEngine
from tests.sdk.flows import double, nothing_ran, of, ran

__all__ = ["nothing_ran"]


# ---- waiting ----


def test_sleeping_takes_no_worker() -> None:
    async def flow(ctx: Context) -> float:
        before = ctx.now()
        await ctx.sleep(timedelta(hours=1))
        return (ctx.now() - before).total_seconds()

    worker, run = of(flow)
    assert run.status is RunStatus.WAITING
    assert worker.session.runs_held == 0
    worker.engine.advance(3_600)
    worker.settle()
    assert 3_600 <= run.result() < 3_601


def test_signals() -> None:
    async def flow(ctx: Context) -> list[Any]:
        first = await ctx.signal("go")
        second = await ctx.signal("go", timeout=60)
        return [first, second]

    worker, run = of(flow)
    worker.engine.signal(run, "other", 0)
    worker.engine.signal(run, "go", {"a": 1})
    worker.engine.signal(run, "go", 2)
    worker.settle()
    assert run.result() == [{"a": 1}, 2]


def test_a_signal_that_does_not_come() -> None:
    async def flow(ctx: Context) -> list[Any]:
        late = await ctx.signal("go", timeout=1, default="late")
        try:
            await ctx.signal("go", timeout=timedelta(seconds=2))
        except WaitTimedOut as error:
            return [late, str(error)]
        return []

    worker, run = of(flow)
    worker.engine.advance(1)
    worker.settle()
    worker.engine.advance(2)
    worker.settle()
    assert run.result() == ["late", "a wait for signal 'go' timed out after 2 s"]


@pytest.mark.parametrize(
    ("options", "answer", "seen"),
    [
        ({}, "blue", "blue"),
        ({"input_type": "approval"}, True, True),
        ({"input_type": "approval"}, False, False),
        ({"input_type": "approval"}, "Approve", True),
        ({"input_type": "approval"}, "no", False),
        ({"input_type": "approval"}, {"approved": True}, False),
        ({"input_type": "select", "options": ["a", "b"]}, "b", "b"),
        ({"input_type": "multiselect", "options": ["a", "b"]}, ["a", "b"], ["a", "b"]),
        ({"input_type": "multiselect", "options": ["a", "b"]}, "a", ["a"]),
        ({"input_type": "multiselect", "options": ["a", "b"]}, None, []),
    ],
)
def test_questions(options: dict[str, Any], answer: Any, seen: Any) -> None:
    async def flow(ctx: Context) -> Any:
        return await ctx.wait_for_user("Which?", **options)

    worker, run = of(flow)
    (wait,) = run.of(WaitCreated)
    assert (wait.question, wait.options) == ("Which?", tuple(options.get("options", ())))
    worker.engine.answer(run, wait.wait_id, answer)
    worker.settle()
    assert run.result() == seen


# ---- child runs ----


@workflow
async def child(ctx: Context, x: int) -> int:
    if x < 0:
        raise ValueError("negative")
    return await ctx.step(double, x)


def test_child_runs() -> None:
    async def flow(ctx: Context) -> list[Any]:
        called = await ctx.call(child, 1)
        stepped = await ctx.step(child, 2)
        named = await ctx.call("child", x=3)
        started = await ctx.start(child, 4)
        return [called, stepped, named, await started.result(), started.run_id]

    _, run = of(flow, None, child)
    *results, run_id = run.result()
    assert results == [2, 4, 6, 8]
    ids = [uuid.UUID(bytes=started.child_run_id) for started in run.of(ChildStarted)]
    assert str(ids[3]) == run_id
    assert len(set(ids)) == 4
    assert [started.input for started in run.of(ChildStarted)] == [b"1", b"2", b'{"x":3}', b"4"]


def test_a_child_run_that_fails() -> None:
    async def flow(ctx: Context) -> list[str]:
        try:
            await ctx.call(child, -1)
        except ChildError as error:
            return [error.component, error.status, error.type, error.message]
        return []

    _, run = of(flow, None, child)
    assert run.result() == ["child", "FAILED", "ValueError", "negative"]


def test_a_detached_child_has_no_result() -> None:
    async def flow(ctx: Context) -> str:
        detached = ctx.start(child, 1, detach=True)
        try:
            await detached.result()
        except NotInWorkflow as error:
            return str(error)
        return ""

    worker, run = of(flow, None, child)
    assert "is detached and has no result" in run.result()
    assert [other.status for other in worker.engine.runs.values()] == [RunStatus.COMPLETED] * 2


def test_a_step_of_another_worker_is_a_child_run() -> None:
    async def flow(ctx: Context) -> Any:
        return await ctx.step("elsewhere", {"a": 1})

    worker = BenchWorker(FakeEngine(), [workflow(name="flow")(flow)])
    run = worker.engine.start("flow")
    while worker.step():
        if any(other.component == "elsewhere" for other in worker.engine.runs.values()):
            worker.engine.serves = False
    assert run.of(ChildStarted)[0].component == "elsewhere"


# ---- state, usage, events, time and chance ----


def test_state() -> None:
    async def flow(ctx: Context) -> list[Any]:
        seen = [await ctx.state.get("n"), await ctx.state.get("n", 5)]
        seen.append(await ctx.state.set("n", [1]))
        seen.append(await ctx.state.get("n"))
        seen.append(await ctx.state.set("n", 2, if_revision=1))
        try:
            await ctx.state.set("n", 3, if_revision=1)
        except StateConflict as error:
            seen.append(str(error))
        await ctx.state.delete("n")
        await ctx.state.delete("never set")
        return [*seen, await ctx.state.get("n"), await ctx.state.revision("n")]

    _, run = of(flow)
    conflict = "state 'n' is at revision 2, not 1: read it again"
    assert run.result() == [None, 5, 1, [1], 2, conflict, None, 3]
    changes = [(one.value, one.revision, one.deleted) for one in run.of(StateChanged)]
    assert changes == [(b"[1]", 1, False), (b"2", 2, False), (b"", 3, True)]


def test_usage() -> None:
    async def ask(ctx: StepContext) -> None:
        ctx.usage(model="small", tokens_in=3, cost_usd=0.5)

    async def flow(ctx: Context) -> None:
        ctx.usage(model="large", tokens_in=1, tokens_out=2)
        await ctx.step(ask)

    _, run = of(flow)
    reports = [(one.position, one.model, one.tokens_in) for one in run.of(UsageReported)]
    assert reports == [(1, "large", 1), (2, "small", 3)]


def test_events_are_said_once_and_not_before_what_they_rest_on() -> None:
    async def tells(ctx: StepContext) -> None:
        ctx.emit("progress.update", "in the step")

    async def flow(ctx: Context) -> None:
        ctx.emit("progress.update", "before")
        await ctx.step(tells)
        ctx.emit("output.delta", {"after": True})
        await ctx.sleep(60)
        ctx.emit("log.info", "woken")

    component = workflow(name="flow")(flow)
    worker = BenchWorker(FakeEngine(), [component])
    worker.engine.holds_acks = True
    worker.run(component)
    assert [data for _, data in worker.engine.emitted] == ["before", "in the step"]
    worker.engine.release_acks()
    worker.settle()
    assert worker.engine.emitted[2] == ("output.delta", {"after": True})
    worker.engine.holds_acks = False
    worker.engine.advance(60)
    worker.settle()
    assert [name for name, _ in worker.engine.emitted[3:]] == ["log.info"]


def test_time_and_chance_are_the_same_in_a_replay() -> None:
    async def flow(ctx: Context) -> list[Any]:
        drawn = [ctx.now().isoformat(), ctx.random(), str(ctx.uuid()), ctx.random()]
        await ctx.sleep(60)
        return [*drawn, ctx.now().isoformat(), ctx.random()]

    async def twice(ctx: Context) -> None:
        ran.append([ctx.now(), ctx.random(), ctx.uuid()])
        await ctx.sleep(60)
        ran.append([ctx.now(), ctx.random(), ctx.uuid()])

    worker, run = of(twice)
    worker.engine.advance(60)
    worker.settle()
    assert ran[0] == ran[1]
    assert ran[1] != ran[2]
    worker, run = of(flow)
    worker.engine.advance(60)
    worker.settle()
    _, first, drawn, second, later, third = run.result()
    assert len({first, second, third}) == 3
    assert 0 <= first < 1
    assert uuid.UUID(drawn).version == 4
    assert datetime.fromisoformat(later).tzinfo == UTC


def test_what_can_be_known_about_the_run() -> None:
    async def flow(ctx: Context) -> list[Any]:
        return [ctx.run_id, ctx.attempt, ctx.component, ctx.session_id, dict(ctx.tags)]

    component = workflow(name="flow")(flow)
    worker = BenchWorker(FakeEngine(), [component])
    run = worker.engine.start("flow", session_id="s", tags={"a": "b"})
    worker.settle()
    assert run.result() == [str(uuid.UUID(bytes=run.run_id)), 1, "flow", "s", {"a": "b"}]


def test_a_run_parks_sooner_once_its_children_are_there() -> None:
    async def flow(ctx: Context) -> Any:
        await ctx.parallel(*(ctx.call(child, number) for number in range(5)))
        return await ctx.sleep(0.05)

    component = workflow(name="flow")(flow)
    worker = BenchWorker(FakeEngine(), [component, child, double])
    run = worker.run(component)
    assert run.status is RunStatus.RUNNING
    timers = [timer for timer in worker.host.timers if not timer.is_cancelled]
    assert len(timers) == 1
    worker.engine.clock.advance_us(250_000)
    worker.settle()
    assert run.status is RunStatus.WAITING
    worker.engine.advance(0)
    worker.settle()
    assert run.status is RunStatus.COMPLETED
