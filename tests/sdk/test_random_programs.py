"""Random workflows on a worker that is lost at random: the result is the model's, what is recorded
is not run again, and the journal replays to the same end.

A program is a tree; `expected` says what it returns, `perform` runs it as a workflow would. What
happens in between (which step ends first, when acknowledgements arrive, when the worker is lost,
when time passes) comes from the seed, which a failure prints. In half of the programs something
fails until the run is tried again as a whole, in the midst of branches too.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from engine.base.ids import child_run_id
from engine.model.payloads import ChildStarted, StateScope, StepCompleted, WaitCreated, WaitKind
from engine.model.runs import RunStatus
from engine.sdk import (
    Context,
    RetryPolicy,
    StateConflict,
    StepContext,
    StepError,
    function,
    workflow,
)
from tests.sdk.bench_host import BenchWorker
from tests.sdk.fake_engine import FakeEngine, FakeRun

Program = list[Any]

SEEDS = range(150)
RETRY = RetryPolicy(attempts_max=3, initial_ms=40, jitter=0)
SIGNAL_VALUE = 7
BRANCHED = ("parallel", "gather", "tasks", "all", "child")
ATTEMPTS_MAX = 200


def random_program(chance: random.Random, depth: int = 0, *, retried: bool = False) -> Program:
    simple = ["step", "step", "flaky", "fails", "sleep", "nap", "signal", "state", "usage", "draw"]
    simple += ["shared", "shared"]
    if retried:
        simple += ["trips", "stumbles", "fails", "either", "either"]
    nested = ["parallel", "gather", "map", "tasks", "race", "child"] if depth < 2 else []
    if retried and depth < 2:
        nested += ["all", "all", "all"]
    program: Program = []
    for _ in range(chance.randint(1, 4)):
        kind = chance.choice(simple + nested)
        if kind in BRANCHED:
            count = 1 if kind == "child" else chance.randint(2, 3)
            parts = [random_program(chance, depth + 1, retried=retried) for _ in range(count)]
            program.append([kind, parts])
        else:
            program.append([kind, chance.randint(1, 5)])
    return program


def expected(program: Program) -> int:
    total = 0
    for kind, rest in program:
        match kind:
            case "step" | "flaky" | "state" | "stumbles" | "either":
                total += rest * 2
            case "fails":
                total += 100
            case "signal":
                total += SIGNAL_VALUE
            case "map":
                total += sum(2 * item for item in range(rest))
            case "race":
                total += 1
            case "parallel" | "gather" | "tasks" | "all" | "child":
                total += sum(expected(part) for part in rest)
            case _:
                pass
    return total


@function
def double(x: int) -> int:
    return 2 * x


@function
def flaky(ctx: StepContext, x: int) -> int:
    ctx.usage(model="m", tokens_in=1)
    if ctx.attempt < 3:
        raise OSError("not yet")
    return 2 * x


@function
async def fails(x: int) -> None:
    raise ValueError(str(x))


_STUMBLED: set[str] = set()


@function
async def stumbles(ctx: StepContext, x: int) -> int:
    """Fails when it is run for the first time, which is the run's to try again."""
    if ctx.idempotency_key not in _STUMBLED:
        _STUMBLED.add(ctx.idempotency_key)
        raise OSError("not yet")
    return 2 * x


def shared_total(program: Program) -> int:
    """What the program adds to the counter that all its runs share."""
    total = 0
    for kind, rest in program:
        if kind == "shared":
            total += rest
        elif kind in BRANCHED:
            total += sum(shared_total(part) for part in rest)
    return total


async def add_shared(ctx: Context, amount: int) -> None:
    while True:
        count, revision = await ctx.state.read("count", 0, scope="global")
        await ctx.step(double, count)
        try:
            await ctx.state.set("count", count + amount, scope="global", if_revision=revision)
        except StateConflict:
            continue
        return


async def perform(ctx: Context, program: Program) -> int:
    total = 0
    for kind, rest in program:
        total += await _perform_one(ctx, kind, rest)
    return total


async def _perform_one(ctx: Context, kind: str, rest: Any) -> int:
    match kind:
        case "step":
            return await ctx.step(double, rest)
        case "flaky":
            return await ctx.step(flaky, rest, retry=RETRY)
        case "fails":
            try:
                await ctx.step(fails, rest)
            except StepError:
                return 100
            return 0
        case "stumbles":
            return await ctx.step(stumbles, rest)
        case "either":
            return await _either(ctx, rest)
        case "trips":
            await ctx.step(double, rest)
            if ctx.attempt <= min(rest, 2):
                raise RuntimeError("the run has to be tried again")
            return 0
        case "sleep":
            await ctx.sleep(rest)
            return 0
        case "nap":
            await ctx.sleep(rest / 100)
            return 0
        case "signal":
            value: int = await ctx.signal("go")
            return value
        case "state":
            await ctx.state.set("n", rest)
            return 2 * int(await ctx.state.get("n"))
        case "shared":
            await add_shared(ctx, rest)
            return 0
        case "usage":
            ctx.usage(model="m", tokens_in=rest)
            return 0
        case "draw":
            await ctx.step("odd" if ctx.random() < 0.5 else "even", lambda: None)
            return 0
        case _:
            return await _perform_several(ctx, kind, rest)


async def _perform_several(ctx: Context, kind: str, rest: Any) -> int:
    match kind:
        case "map":
            return sum(await ctx.map(double, range(rest), limit=2))
        case "race":
            return await _race(ctx, rest)
        case "parallel":
            return sum(await ctx.parallel(*(perform(ctx, part) for part in rest)))
        case "gather":
            named = {f"branch{at}": perform(ctx, part) for at, part in enumerate(rest)}
            return sum((await ctx.gather(**named)).values())
        case "all":
            return await _all(ctx, rest)
        case "tasks":
            return sum(await asyncio.gather(*(perform(ctx, part) for part in rest)))
        case "child":
            result: int = await ctx.call(program_run, rest[0])
            return result
    raise AssertionError(kind)


async def _either(ctx: Context, x: int) -> int:
    """The first attempt that comes here goes one way, the next one may go another: it has more to
    do, and asks for the same by name, with other arguments."""
    try:
        result = await ctx.step(stumbles, x)
    except StepError:
        assert await ctx.step(double, x + 10) == 2 * x + 20
        raise
    assert await ctx.step(double, x + 20) == 2 * x + 40
    assert await ctx.step(double, x + 30) == 2 * x + 60
    return result


async def _all(ctx: Context, parts: list[Program]) -> int:
    """Whoever fails, the others go on to their end; then the run fails."""
    done = await ctx.parallel(*(perform(ctx, part) for part in parts), return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return sum(done)


async def _race(ctx: Context, x: int) -> int:
    """The loser is given up, whichever it is."""
    tasks = [asyncio.ensure_future(ctx.step(double, x)), asyncio.ensure_future(ctx.sleep(x))]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return len(done)


@workflow
async def program_run(ctx: Context, program: list[Any]) -> int:
    return await perform(ctx, program)


COMPONENTS = [program_run, double, flaky, fails, stumbles]


class Fate:
    """Decides what happens next, until the run has ended; then lets everything come to rest."""

    def __init__(self, seed: int, program: Program) -> None:
        self.chance = random.Random(seed)
        self.engine = FakeEngine()
        self.engine.attempts_max = ATTEMPTS_MAX
        self.engine.page_entries = self.chance.choice([3, 10_000])
        self.worker = BenchWorker(self.engine, COMPONENTS)
        self.run = self.engine.start("program_run", program)
        self.losses = 0

    def play(self) -> FakeRun:
        for _ in range(20_000):
            if all(run.status.is_terminal for run in self.engine.runs.values()):
                return self.run
            self._happens()
        raise AssertionError(f"no progress: {self.run.kinds()[-10:]} {self.run.status}")

    def _happens(self) -> None:
        chance = self.chance
        host = self.worker.host
        host.holds_jobs = True
        self.engine.holds_acks = chance.random() < 0.3
        for _ in range(chance.randint(1, 6)):
            self.worker.step()
        if host.jobs and chance.random() < 0.7:
            self._check_not_recorded()
            host.finish(chance.randrange(len(host.jobs)))
        if chance.random() < 0.5:
            self.engine.release_acks()
        if chance.random() < 0.3:
            self.engine.advance(chance.choice([0.01, 0.1, 0.3, 2]))
        if chance.random() < 0.2:
            self._signal()
        if chance.random() < 0.02 and self.losses < 20:
            self.losses += 1
            self.worker.crash()

    def _signal(self) -> None:
        for run in list(self.engine.runs.values()):
            asked = sum(wait.kind == WaitKind.SIGNAL for wait in run.waits.values())
            if asked > len(run.signals):
                self.engine.signal(run, "go", SIGNAL_VALUE)

    def _check_not_recorded(self) -> None:
        """No job runs a step of a run whose outcome is in the journal."""
        running = self.worker.session._runs
        for run_id, held in running.items():
            positions = {step.position for step in self.engine.runs[run_id].of(StepCompleted)}
            begun = set(getattr(held, "_running", ()))
            assert not begun & positions, f"{begun & positions} run again"


@pytest.fixture(autouse=True)
def nothing_has_stumbled() -> None:
    _STUMBLED.clear()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_result_is_the_models_whatever_happens(seed: int) -> None:
    program = random_program(random.Random(seed), retried=seed % 2 == 1)
    fate = Fate(seed, program)
    run = fate.play()
    assert run.status is RunStatus.COMPLETED, (program, run.error and run.error.message)
    assert run.result() == expected(program), program
    _, count = fate.engine.shared.get((int(StateScope.GLOBAL), "count"), (0, b"0"))
    assert count == b"%d" % shared_total(program), program
    _check_the_journal(run)


def _check_the_journal(run: FakeRun) -> None:
    positions = [step.position for step in run.of(StepCompleted)]
    assert len(positions) == len(set(positions)), "a step completed twice"
    assert run.kinds().count("RUN_COMPLETED") == 1
    assert run.kinds()[-1] == "RUN_COMPLETED"
    for started in run.of(ChildStarted):
        assert started.child_run_id == child_run_id(run.run_id, started.position)
    for wait in run.of(WaitCreated):
        assert wait.wait_id == str(wait.position)


@pytest.mark.parametrize("seed", range(20))
def test_every_prefix_of_a_journal_replays(seed: int) -> None:
    """Whatever part of it was durable when the worker was lost, a new worker goes on from there
    and asks for nothing else than was asked for."""
    program = random_program(random.Random(1_000 + seed), retried=seed % 2 == 1)
    fate = Fate(seed, program)
    whole = fate.play()
    for length in range(1, len(whole.journal)):
        worker = BenchWorker(FakeEngine(), COMPONENTS)
        worker.engine.attempts_max = ATTEMPTS_MAX
        run = worker.engine.start("program_run", program)
        del run.journal[:]
        run.journal.extend(whole.journal[:length])
        worker.engine.runs[whole.run_id] = worker.engine.runs.pop(run.run_id)
        run.run_id = whole.run_id
        run.attempt = 1 + run.kinds().count("RUN_RETRYING")
        for _ in range(50):
            worker.step()
        assert run.error is None, (length, run.error)
        worker.crash()
