"""Runs that the worker holds: what all sorts of them share, and the ones without a replay.

A run hears of acknowledgements and deliveries, marks itself touched, and does what follows in its
`turn`. Knows frames by their builders, and no stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from engine.base.clock import Clock
from engine.base.ids import RunId
from engine.ext import frames
from engine.model.payloads import Error, RunCompleted, RunFailed
from engine.sdk import failures
from engine.sdk.authoring.components import Component
from engine.sdk.authoring.facts import RunFacts
from engine.sdk.authoring.registry import AnyComponent, Registry
from engine.sdk.authoring.step_context import Emit, StepContext
from engine.sdk.replay import entries as entry_of
from engine.sdk.replay.history import Entry
from engine.sdk.replay.reports import ReportQueue
from engine.sdk.worker.hosts import Host
from engine.sdk.worker.jobs import Job


class Worksite(msgspec.Struct, frozen=True):
    """What every run of a session works with."""

    registry: Registry
    host: Host
    clock: Clock
    send: Callable[[bytes], None]  # one encoded frame
    touched: Callable[[HeldRun], None]  # the run wants a turn


class HeldRun(Protocol):
    run_id: RunId
    lease_epoch: int

    def acknowledge(self, sequence: int) -> None: ...
    def deliver(self, entries: list[Entry]) -> None: ...
    def turn(self) -> None:
        """Do what there is to do."""

    def drop(self) -> None:
        """The run is somebody else's: stop, and say nothing more."""

    @property
    def is_done(self) -> bool:
        """The worker has nothing more to do with it."""


def emitter(site: Worksite, run_id: RunId, lease_epoch: int, *, from_thread: bool) -> Emit:
    """What a step says while it runs goes out at once: it is not recorded."""

    def emit(event: str, data: bytes) -> None:
        frame = frames.build_emit(run_id, lease_epoch, event, data)
        if from_thread:
            site.host.call_from_thread(lambda: site.send(frame))
        else:
            site.send(frame)

    return emit


class FunctionRun:
    """A run of a function: one call, and its outcome is the run's. A run that cannot even begin is
    one too: it has an error from the start."""

    def __init__(
        self, site: Worksite, facts: RunFacts, lease_epoch: int, *, error: Error | None = None
    ) -> None:
        self.run_id = facts.id
        self.lease_epoch = lease_epoch
        self._site = site
        self._facts = facts
        self._reports = ReportQueue()
        self._job: Job | None = None
        self._over_at: int | None = None
        if error is not None:
            self._fail(error)

    def start(self, component: AnyComponent) -> None:
        try:
            self._job = self._make_job(component)
        except Exception as error:  # noqa: BLE001 - the input, the signature: the run's error
            self._fail(failures.recorded(error))
            return
        self._site.host.start(self._job, self._ended)

    def acknowledge(self, sequence: int) -> None:
        self._reports.acknowledge(sequence)
        self._site.touched(self)

    def deliver(self, entries: list[Entry]) -> None:
        """Nothing that the engine writes concerns a function."""

    def turn(self) -> None:
        for report in self._reports.take():
            self._site.send(
                frames.build_report(self.run_id, self.lease_epoch, report.sequence, report.entries)
            )

    def drop(self) -> None:
        if self._job is not None:
            self._job.cancel()

    @property
    def is_done(self) -> bool:
        return self._over_at is not None and self._reports.acknowledged >= self._over_at

    # ---- inside ----

    def _make_job(self, component: Component[..., object]) -> Job:
        args, named = component.signature.arguments(self._facts.accepted.input)
        context = None
        if component.takes_context:
            context = StepContext(
                self._facts,
                attempt=self._facts.attempt,
                position=0,
                emit=emitter(
                    self._site, self.run_id, self.lease_epoch, from_thread=not component.is_async
                ),
                clock=self._site.clock,
                name=component.name,
            )
            args = (context, *args)
        return Job(
            component.function,
            args,
            what=f"the result of {component.describe()}",
            is_async=component.is_async,
            clock=self._site.clock,
            named=named,
            decoder=component.output_decoder,
            timeout_s=component.timeout_s,
            context=context,
        )

    def _ended(self, job: Job) -> None:
        for position, usage in enumerate(job.context.usages if job.context else (), start=1):
            self._reports.add(entry_of.usage_reported(position, usage, self.lease_epoch))
        if job.error is not None:
            self._fail(failures.recorded(job.error))
            return
        self._end(RunCompleted(output=job.output, lease_epoch=self.lease_epoch))

    def _fail(self, error: Error) -> None:
        self._end(RunFailed(error=error, lease_epoch=self.lease_epoch))

    def _end(self, ending: RunCompleted | RunFailed) -> None:
        self._reports.add(ending)
        self._over_at = self._reports.added
        self._site.touched(self)
