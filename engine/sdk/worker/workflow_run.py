"""A run of a workflow: holds the user's code, the replay machine and the steps that run.

The machine decides, this carries out: it resumes the code, starts steps, sends reports. Everything
happens in `turn`, except that steps begin and end when they do. Knows no stream.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from engine.base.ids import RunId, child_run_id
from engine.ext import frames
from engine.model.payloads import Error
from engine.model.runs import ComponentKind
from engine.sdk import failures, values
from engine.sdk.authoring.asked import Asked
from engine.sdk.authoring.calls import StepCall
from engine.sdk.authoring.context import Context
from engine.sdk.authoring.facts import RunFacts
from engine.sdk.authoring.registry import AnyComponent
from engine.sdk.authoring.retry import next_try_ms
from engine.sdk.authoring.step_context import StepContext
from engine.sdk.errors import NotInWorkflow
from engine.sdk.replay import outcomes
from engine.sdk.replay.entries import StepTry
from engine.sdk.replay.history import Entry
from engine.sdk.replay.loop import ScriptLoop
from engine.sdk.replay.machine import Begin, Machine
from engine.sdk.replay.operations import ChangeState, Operation, Outcome, ReportUsage, Step, Wait
from engine.sdk.worker.hosts import Timer
from engine.sdk.worker.jobs import Job
from engine.sdk.worker.runs import Worksite, emitter

T = TypeVar("T")


class _Running(msgspec.Struct):
    """A step that was begun: its job, or the timer until its next try."""

    begin: Begin
    call: StepCall
    job: Job | None = None
    timer: Timer | None = None


class WorkflowRun:
    def __init__(
        self, site: Worksite, facts: RunFacts, machine: Machine, component: AnyComponent
    ) -> None:
        self.run_id = facts.id
        self.lease_epoch = machine.lease_epoch
        self.facts = facts
        self._site = site
        self._machine = machine
        self._component = component
        self._loop = ScriptLoop(self._code_is_ready, self._now_s)  # type: ignore[abstract]
        self._code: asyncio.Task[Any] | None = None
        self._asked: dict[int, Asked[Any]] = {}
        self._calls: dict[int, StepCall] = {}
        self._running: dict[int, _Running] = {}
        self._values: dict[int, Any] = {}  # results of steps as the code will see them
        self._emits: deque[tuple[int, bytes]] = deque()
        self._look_again: Timer | None = None
        self._look_again_at_ms = 0
        self._is_taking_turn = False
        self._is_dropped = False

    # ---- for the session ----

    def start(self) -> None:
        self._touch()
        try:
            args, named = self._component.signature.arguments(self.facts.accepted.input)
        except Exception as error:  # noqa: BLE001 - the input, the signature: the run's error
            self._machine.fail(failures.recorded(error))
            return
        context = (Context(self),) if self._component.takes_context else ()
        self._code = self._loop.start(self._component.function(*context, *args, **named))

    def acknowledge(self, sequence: int) -> None:
        self._machine.acknowledge(sequence)
        durable = self._machine.entries_acknowledged
        while self._emits and self._emits[0][0] <= durable:
            self._site.send(self._emits.popleft()[1])
        self._touch()

    def deliver(self, entries: list[Entry]) -> None:
        self._machine.deliver(entries)
        self._touch()

    def turn(self) -> None:
        if self._is_dropped:
            return
        self._is_taking_turn = True
        self._resume_code()
        self._is_taking_turn = False
        turn = self._machine.settle(self._site.clock.now_ms())
        for begin in turn.begin:
            self._begin(begin)
        for report in turn.reports:
            self._site.send(
                frames.build_report(self.run_id, self.lease_epoch, report.sequence, report.entries)
            )
        self._look_again_in(turn.look_again_ms)
        if self._machine.is_over:
            self._stop()

    def drop(self) -> None:
        self._is_dropped = True
        self._emits.clear()
        self._stop()

    @property
    def is_done(self) -> bool:
        return self._machine.is_done

    # ---- for the context ----

    @property
    def is_of_entity(self) -> bool:
        """By the code, since who started the run may not have known."""
        return self._component.kind is ComponentKind.ENTITY

    @property
    def now_us(self) -> int:
        return self._machine.now_us

    @property
    def is_replaying(self) -> bool:
        return self._machine.is_replaying

    def tell_attempt(self) -> int:
        self._machine.tell_attempt()
        return self.facts.attempt

    def draw(self) -> bytes:
        """Other bytes each time, the same ones when the branch comes here again."""
        branch = self._loop.branch
        branch.draws += 1
        taken = self._machine.positions_taken(branch.path)
        return b"%b/%b/%d/%d" % (self.run_id, branch.path.encode(), taken, branch.draws)

    def ask(self, operation: Operation, convert: Callable[[Outcome], T]) -> Asked[T]:
        self._check_inside(operation)
        now_ms = self._site.clock.now_ms() if isinstance(operation, Wait) else 0
        position = self._machine.ask(operation, now_ms, self._loop.branch.path)
        asked = self._asked[position] = Asked(self, operation, position, convert)
        return asked

    def ask_step(self, call: StepCall) -> Asked[Any]:
        given = values.encode_shown(call.arguments)
        step = Step(call.name, call.key, call.is_tool, given)
        asked = self.ask(step, functools.partial(outcomes.of_step, call.name, call.traits.decoder))
        self._calls[asked.position] = call
        return asked

    def change_state(self, change: ChangeState) -> tuple[bytes | None, int]:
        self._check_inside(change)
        return self._machine.change_state(change, self._loop.branch.path)

    def report_usage(self, usage: ReportUsage) -> None:
        self._check_inside(usage)
        self._machine.ask(usage, branch=self._loop.branch.path)

    def emit(self, event: str, data: bytes) -> None:
        """What rests on a record that is not durable yet waits for it."""
        machine = self._machine
        if machine.is_replaying or machine.is_over:
            return
        frame = frames.build_emit(self.run_id, self.lease_epoch, event, data)
        if machine.rests_on > machine.entries_acknowledged:
            self._emits.append((machine.rests_on, frame))
        else:
            self._site.send(frame)

    def find_component(self, name: str) -> AnyComponent | None:
        return self._site.registry.get(name)

    def child_run_id(self, position: int) -> RunId:
        return child_run_id(self.run_id, position)

    def new_future(self) -> asyncio.Future[None]:
        return self._loop.create_future()

    def abandon(self, position: int) -> None:
        self._asked.pop(position, None)
        self._calls.pop(position, None)
        if self._machine.abandon(position):
            self._cancel_step(position)

    # ---- inside: the code ----

    def _code_is_ready(self) -> None:
        if not self._is_taking_turn:
            self._touch()

    def _now_s(self) -> float:
        return self._machine.now_us / 1_000_000

    def _touch(self) -> None:
        self._site.touched(self)

    def _check_inside(self, operation: Operation) -> None:
        # By this module's name for it, so that Trio's border (hosts) is respected.
        if asyncio._get_running_loop() is not self._loop:
            raise NotInWorkflow(
                f"{operation.describe()} was asked for outside of the workflow's own code, in a "
                "step or a thread, where a replay could not find it again; return what is needed "
                "to the workflow and ask there"
            )

    def _resume_code(self) -> None:
        """Hand out the outcomes that are there, one at a time; see the machine's one rule."""
        machine = self._machine
        host = self._site.host
        if not self._loop.is_idle:
            host.run_script(self._loop)
        while not self._has_ended():
            resume = machine.next_resume()
            if resume is None:
                return
            asked = self._asked.pop(resume.position, None)
            self._calls.pop(resume.position, None)
            if asked is not None:
                if resume.position in self._values:
                    asked.resolve(resume.outcome, self._values.pop(resume.position))
                else:
                    asked.resolve(resume.outcome)
                host.run_script(self._loop)

    def _has_ended(self) -> bool:
        machine = self._machine
        if machine.is_over or machine.broken is not None or self._code is None:
            return True
        if not self._code.done():
            return False
        try:
            what = f"the result of {self._component.describe()}"
            decoder = self._component.output_decoder
            output, _ = values.settle(self._code.result(), decoder, what)
        except BaseException as error:  # noqa: BLE001 - it is the run's outcome, whatever it is
            machine.fail(failures.recorded(error))
        else:
            machine.complete(output)
        return True

    def _stop(self) -> None:
        """The code and the steps go; what was reported stays to be acknowledged."""
        self._loop.abandon()
        for position in list(self._running):
            self._cancel_step(position)
        self._asked.clear()
        self._calls.clear()
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None

    def _look_again_in(self, delay_ms: int | None) -> None:
        """One timer is enough: when it fires too early, it is set again."""
        if delay_ms is None:
            return
        at_ms = self._site.clock.now_ms() + delay_ms
        if self._look_again is not None:
            if self._look_again_at_ms <= at_ms:
                return
            self._look_again.cancel()

        def look() -> None:
            self._look_again = None
            self._touch()

        self._look_again_at_ms = at_ms
        self._look_again = self._site.host.call_later(delay_ms / 1_000, look)

    # ---- inside: steps ----

    def _begin(self, begin: Begin) -> None:
        call = self._calls[begin.position]
        running = _Running(begin, call)
        self._running[begin.position] = running
        delay_ms = begin.due_ms - self._site.clock.now_ms() if begin.due_ms else 0
        if delay_ms > 0:
            start = functools.partial(self._start_job, running)
            running.timer = self._site.host.call_later(delay_ms / 1_000, start)
        else:
            self._start_job(running)

    def _start_job(self, running: _Running) -> None:
        call = running.call
        context, arguments = self._with_context(running)
        running.timer = None
        running.job = Job(
            call.function,
            arguments,
            what=f"the result of {call.describe()}",
            is_async=call.traits.is_async,
            clock=self._site.clock,
            decoder=call.traits.decoder,
            timeout_s=call.timeout_s,
            context=context,
        )
        done = functools.partial(self._step_ended, running)
        self._site.host.start(running.job, done)

    def _with_context(self, running: _Running) -> tuple[StepContext | None, tuple[Any, ...]]:
        call = running.call
        if not call.traits.takes_context:
            return None, call.arguments
        context = StepContext(
            self.facts,
            attempt=running.begin.attempt,
            position=running.begin.position,
            emit=emitter(
                self._site,
                self.run_id,
                self.lease_epoch,
                from_thread=not call.traits.is_async,
            ),
            clock=self._site.clock,
            name=call.name,
            key=call.key,
        )
        arguments = call.arguments
        if arguments and isinstance(arguments[0], Context):
            arguments = arguments[1:]  # the workflow's own was passed along
        return context, (context, *arguments)

    def _step_ended(self, running: _Running, job: Job) -> None:
        begin = running.begin
        if self._running.pop(begin.position, None) is None or self._is_dropped:
            return
        tried = StepTry(job.started_ms, job.finished_ms)
        if job.error is None:
            self._values[begin.position] = job.value
            self._machine.step_completed(begin.position, tried, job.output)
        else:
            error, retry_at_ms = self._judge(running, job.error, tried)
            self._machine.step_failed(begin.position, tried, error, retry_at_ms)
        for usage in job.context.usages if job.context is not None else ():
            self._machine.step_used(begin.position, usage)
        self._touch()

    def _judge(self, running: _Running, raised: BaseException, tried: StepTry) -> tuple[Error, int]:
        """The error to record, and when to try again; 0: not at all."""
        error = failures.recorded(raised)
        policy = running.call.retry
        if policy is None:
            return error, 0
        retry_at_ms = next_try_ms(
            policy,
            error,
            attempt=running.begin.attempt,
            first_started_ms=running.begin.first_started_ms or tried.started_ms,
            now_ms=tried.finished_ms,
            seed=b"%b/%d" % (self.run_id, running.begin.position),
        )
        if retry_at_ms is None:
            # The policy for this very step has been followed to its end; the run's is not to
            # start all over.
            return msgspec.structs.replace(error, non_retryable=True), 0
        return error, max(retry_at_ms, 1)

    def _cancel_step(self, position: int) -> None:
        running = self._running.pop(position, None)
        if running is None:
            return
        if running.timer is not None:
            running.timer.cancel()
        if running.job is not None:
            running.job.cancel()
