"""Workflows as users write them, on a worker without an event loop and a small engine."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from engine.model.payloads import (
    ChildStarted,
    StateChanged,
    StepCompleted,
    StepFailed,
    UsageReported,
    WaitCreated,
)
from engine.model.runs import RunStatus
from engine.sdk import (
    ChildError,
    Component,
    Context,
    NonRetryable,
    RetryPolicy,
    StateConflict,
    StepContext,
    StepError,
    WaitTimedOut,
    function,
    tool,
    workflow,
)
from engine.sdk.errors import NotInWorkflow
from tests.sdk.bench_host import BenchWorker
from tests.sdk.fake_engine import FakeEngine, FakeRun

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@function
def double(x: int) -> int:
    ran.append(x)
    return 2 * x


@function
async def fail(message: str) -> None:
    ran.append(message)
    raise ValueError(message)


def of(
    body: Callable[..., Any], value: Any = None, *more: Component[..., Any]
) -> tuple[BenchWorker, FakeRun]:
    """A worker that serves this workflow, and a run of it, as far as it gets by itself."""
    component = body if isinstance(body, Component) else workflow(name="flow")(body)
    worker = BenchWorker(FakeEngine(), [component, double, fail, *more])
    return worker, worker.run(component, value)


# ---- steps ----


def test_steps_one_after_another() -> None:
    async def flow(ctx: Context, n: int) -> int:
        n = await ctx.step(double, n)
        return await ctx.step(double, n)

    _, run = of(flow, 5)
    assert run.result() == 20
    assert run.kinds()[2:] == ["STEP_COMPLETED", "STEP_COMPLETED", "RUN_COMPLETED"]
    assert run.reports == 2, "the last step and the end are one report"
    first = run.of(StepCompleted)[0]
    assert (first.name, first.input, first.output) == ("double", b"[5]", b"10")


def test_what_can_be_a_step() -> None:
    async def flow(ctx: Context) -> list[Any]:
        return [
            await ctx.step(double, 1),
            await ctx.step("double", 2),
            await ctx.step("named", lambda: 3),
            await ctx.step(lambda x: x + 1, 3, key="k"),
            await ctx.step(int, "5"),
        ]

    _, run = of(flow)
    assert run.result() == [2, 4, 3, 4, 5]
    steps = [(step.name, step.key) for step in run.of(StepCompleted)]
    assert steps == [("double", ""), ("double", ""), ("named", ""), ("<lambda>", "k"), ("int", "")]


def test_a_step_gets_a_context_if_it_asks_for_one() -> None:
    async def wants(ctx: StepContext, x: int) -> str:
        return f"{ctx.name} {ctx.key} {x} {ctx.attempt} {ctx.idempotency_key}"

    async def flow(ctx: Context) -> list[str]:
        return [await ctx.step(wants, 1, key="a"), await ctx.step(wants, ctx, 2)]

    _, run = of(flow)
    run_id = uuid.UUID(bytes=run.run_id)
    assert run.result() == [f"wants a 1 1 {run_id}:1", f"wants  2 1 {run_id}:2"]


def test_a_tool_is_counted_as_one() -> None:
    @tool
    def search(text: str) -> str:
        return text

    async def flow(ctx: Context) -> None:
        await ctx.step(search, "x")

    _, run = of(flow)
    assert run.of(StepCompleted)[0].tool


def test_the_code_sees_what_a_replay_would_see() -> None:
    """A tuple is a list in JSON; without the round trip the code would see a tuple once."""

    async def flow(ctx: Context) -> str:
        return type(await ctx.step("pair", lambda: (1, 2))).__name__

    _, run = of(flow)
    assert run.result() == "list"


def test_a_typed_result_is_of_its_type() -> None:
    class Order(msgspec.Struct):
        id: int

    def load() -> Order:
        return Order(7)

    def lies() -> Order:
        return "no order"  # type: ignore[return-value]

    load.__annotations__["return"] = lies.__annotations__["return"] = Order

    async def flow(ctx: Context) -> list[Any]:
        order = await ctx.step(load)
        try:
            await ctx.step(lies)
        except StepError as error:
            return [order.id, error.type, error.message]
        return []

    _, run = of(flow)
    assert run.result()[:2] == [7, "InvalidOutput"]
    assert "the result of step 'lies' is not what its annotation says" in run.result()[2]


def test_a_failed_step_is_raised_with_its_type_and_message() -> None:
    async def flow(ctx: Context) -> list[str]:
        try:
            await ctx.step(fail, "no")
        except StepError as error:
            return [error.step, error.type, error.message, str(error)]
        return []

    _, run = of(flow)
    assert run.result() == ["fail", "ValueError", "no", "step 'fail' failed: ValueError: no"]
    failed = run.of(StepFailed)[0]
    assert "raise ValueError(message)" in failed.error.traceback


def test_a_step_that_nobody_catches_fails_the_run_with_its_error() -> None:
    async def flow(ctx: Context) -> None:
        await ctx.step(fail, "no")

    _, run = of(flow)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error.code, run.error.type) == ("ValueError", "ValueError")
    assert run.error.message == "step 'fail' failed: ValueError: no"
    assert run.kinds()[-2:] == ["STEP_FAILED", "RUN_FAILED"]
    assert run.reports == 1


def test_whatever_a_step_raises_is_its_failure() -> None:
    def leaves() -> None:
        raise SystemExit(3)

    def interrupts() -> None:
        raise KeyboardInterrupt

    async def flow(ctx: Context) -> list[str]:
        failures = await ctx.parallel(
            ctx.step(leaves), ctx.step(interrupts), return_exceptions=True
        )
        return [failure.type for failure in failures]

    _, run = of(flow)
    assert run.result() == ["SystemExit", "KeyboardInterrupt"]


def test_a_result_that_cannot_be_stored_names_the_part() -> None:
    async def flow(ctx: Context) -> None:
        await ctx.step("load", lambda: {"items": [1, {"socket": object()}]})

    _, run = of(flow)
    assert run.error is not None
    assert run.error.code == "not_serializable"
    assert (
        "the result of step 'load' cannot be stored as JSON: $.items[1].socket is of type object"
        in (run.error.message)
    )
    assert run.error.non_retryable


def test_arguments_that_cannot_be_stored_are_named_by_type() -> None:
    async def flow(ctx: Context) -> int:
        return await ctx.step(lambda client, x: x, object(), 2)

    _, run = of(flow)
    assert run.result() == 2
    assert run.of(StepCompleted)[0].input == b'["<object>",2]'


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda ctx: ctx.step(asyncio.sleep(0)), "write ctx.step(sleep, ...)"),
        (lambda ctx: ctx.step(5), "takes a function or a component's name, not 5"),
        (lambda ctx: ctx.sleep(-1), "cannot be waited for"),
        (lambda ctx: ctx.sleep(float("inf")), "has an end"),
        (lambda ctx: ctx.wait_for_user("?", input_type="colour"), "'colour' is not one of text"),
        (lambda ctx: ctx.wait_for_user("?", input_type="select"), "needs options"),
        (lambda ctx: ctx.wait_for_user("?", options=["a"]), "has no options"),
        (lambda ctx: ctx.call(5), "a component or its name, not of 5"),
        (lambda ctx: ctx.call("c", 1, x=2), "not both"),
        (lambda ctx: ctx.emit("run.completed", 1), "begins with output. or progress. or log."),
        (lambda ctx: ctx.usage(tokens_in=-1), "not negative"),
        (lambda ctx: ctx.step(double, 1, key="k" * 300), "at most 256 characters"),
    ],
)
def test_a_call_that_cannot_be_meant_says_what_to_do(
    wrong: Callable[[Context], Any], words: str
) -> None:
    async def flow(ctx: Context) -> None:
        wrong(ctx)

    _, run = of(flow)
    assert run.error is not None
    assert words in run.error.message


# ---- retries ----


def test_a_step_is_tried_again_by_its_policy() -> None:
    async def flaky(ctx: StepContext) -> int:
        ran.append(ctx.attempt)
        if ctx.attempt < 3:
            raise OSError("not yet")
        return ctx.attempt

    async def flow(ctx: Context) -> int:
        return await ctx.step(flaky, retry=RetryPolicy(attempts_max=5, initial_ms=100, jitter=0))

    worker, run = of(flow)
    assert (ran, run.status) == ([1], RunStatus.RUNNING)
    worker.engine.advance(0.099)
    worker.settle()
    assert ran == [1]
    worker.engine.advance(0.001)
    worker.settle()
    assert ran == [1, 2]
    worker.engine.advance(0.2)
    worker.settle()
    assert run.result() == 3
    tries = [(step.attempt, step.retry_at_ms > 0) for step in run.of(StepFailed)]
    assert tries == [(1, True), (2, True)]


def test_a_policy_that_is_used_up_is_final_for_the_run_as_well() -> None:
    async def flow(ctx: Context) -> None:
        await ctx.step(fail, "no", retry=RetryPolicy(attempts_max=2, initial_ms=0))

    worker, run = of(flow)
    worker.engine.advance(0.001)
    worker.settle()
    assert ran == ["no", "no"]
    assert run.error is not None
    assert run.error.non_retryable


@pytest.mark.parametrize("named", [ValueError, "ValueError"])
def test_what_the_policy_excludes_is_not_tried_again(named: Any) -> None:
    async def flow(ctx: Context) -> None:
        await ctx.step(fail, "no", retry=RetryPolicy(non_retryable=[named]))

    _, run = of(flow)
    assert ran == ["no"]
    assert run.status is RunStatus.FAILED


def test_non_retryable_is_not_tried_again() -> None:
    class Declined(NonRetryable):
        code = "card_declined"

    def charge() -> None:
        raise Declined("no money")

    async def flow(ctx: Context) -> None:
        await ctx.step(charge, retry=RetryPolicy())

    _, run = of(flow)
    assert run.error is not None
    assert (run.error.code, run.error.non_retryable) == ("card_declined", True)


def test_a_run_that_is_tried_again_repeats_only_the_step_that_failed() -> None:
    def unlucky() -> str:
        ran.append("unlucky")
        if ran.count("unlucky") < 2:
            raise OSError("once")
        return "done"

    async def flow(ctx: Context) -> str:
        await ctx.step(double, 1)
        return await ctx.step(unlucky)

    worker = BenchWorker(FakeEngine(), [workflow(name="flow")(flow), double])
    worker.engine.attempts_max = 3
    run = worker.run("flow")
    assert run.result() == "done"
    assert ran == [1, "unlucky", "unlucky"]
    assert run.attempt == 2


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
        seen.append(await ctx.state.set("n", 2, revision=1))
        try:
            await ctx.state.set("n", 3, revision=1)
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


def test_state_of_other_scopes_is_not_there_yet() -> None:
    async def flow(ctx: Context) -> None:
        await ctx.state.get("n", scope="session")

    _, run = of(flow)
    assert run.error is not None
    assert run.error.code == "not_supported"
    assert "cannot keep state of scope 'session' yet" in run.error.message


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
