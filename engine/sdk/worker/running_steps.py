"""The steps of a workflow that run: each has a job, or a timer until its next try.

What comes of one goes to the replay machine, and its value stays here until the code takes it.
Knows neither the code that asked nor why.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from engine.model.payloads import Error
from engine.sdk import failures
from engine.sdk.authoring.calls import StepCall
from engine.sdk.authoring.context import Context
from engine.sdk.authoring.facts import RunFacts
from engine.sdk.authoring.retry import next_try_ms
from engine.sdk.authoring.step_context import StepContext
from engine.sdk.replay.entries import StepTry
from engine.sdk.replay.machine import Begin, Machine
from engine.sdk.worker.hosts import Timer
from engine.sdk.worker.jobs import Job
from engine.sdk.worker.runs import Worksite, emitter


class _Running(msgspec.Struct):
    begin: Begin
    call: StepCall
    job: Job | None = None
    timer: Timer | None = None


class RunningSteps:
    def __init__(
        self, site: Worksite, facts: RunFacts, machine: Machine, on_end: Callable[[], None]
    ) -> None:
        self.run_id = facts.id
        self.lease_epoch = machine.lease_epoch
        self._site = site
        self._facts = facts
        self._machine = machine
        self._on_end = on_end
        self._running: dict[int, _Running] = {}
        self.values: dict[int, Any] = {}  # results as the code will see them, by position

    def begin(self, begin: Begin, call: StepCall) -> None:
        running = _Running(begin, call)
        self._running[begin.position] = running
        delay_ms = begin.due_ms - self._site.clock.now_ms() if begin.due_ms else 0
        if delay_ms > 0:
            start = functools.partial(self._start_job, running)
            running.timer = self._site.host.call_later(delay_ms / 1_000, start)
        else:
            self._start_job(running)

    def cancel(self, position: int) -> None:
        running = self._running.pop(position, None)
        if running is None:
            return
        if running.timer is not None:
            running.timer.cancel()
        if running.job is not None:
            running.job.cancel()

    def cancel_all(self) -> None:
        for position in list(self._running):
            self.cancel(position)

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
        done = functools.partial(self._ended, running)
        self._site.host.start(running.job, done)

    def _with_context(self, running: _Running) -> tuple[StepContext | None, tuple[Any, ...]]:
        call = running.call
        if not call.traits.takes_context:
            return None, call.arguments
        context = StepContext(
            self._facts,
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

    def _ended(self, running: _Running, job: Job) -> None:
        begin = running.begin
        if self._running.pop(begin.position, None) is None:
            return  # nobody wants to know
        tried = StepTry(job.started_ms, job.finished_ms)
        if job.error is None:
            self.values[begin.position] = job.value
            self._machine.step_completed(begin.position, tried, job.output)
        else:
            error, retry_at_ms = self._judge(running, job.error, tried)
            self._machine.step_failed(begin.position, tried, error, retry_at_ms)
        for usage in job.context.usages if job.context is not None else ():
            self._machine.step_used(begin.position, usage)
        self._on_end()

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
