"""A host without an event loop, and a worker on it that talks to a `FakeEngine` directly.

Jobs run when the test lets them: at once, or held until it finishes them. Functions that wait for
something of an event loop do not run here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from engine.base.clock import ManualClock
from engine.model.worker_frames import Registered
from engine.sdk.authoring.registry import AnyComponent, Registry
from engine.sdk.replay.loop import ScriptLoop
from engine.sdk.worker.hosts import Done
from engine.sdk.worker.jobs import Job
from engine.sdk.worker.session import Session
from engine.sdk.worker.transport import script_is_running
from tests.sdk.fake_engine import FakeEngine, FakeRun


class ManualTimer:
    def __init__(self, due_us: int, callback: Callable[[], object]) -> None:
        self.due_us = due_us
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class ManualHost:
    def __init__(self, turn: Callable[[], None], clock: ManualClock) -> None:
        self._turn = turn
        self._clock = clock
        self.is_wanted = False
        self.holds_jobs = False
        self.jobs: deque[tuple[Job, Done]] = deque()
        self.timers: list[ManualTimer] = []

    def schedule(self) -> None:
        self.is_wanted = True

    def hurry(self) -> None:
        """Not here: the test takes the turns."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> ManualTimer:
        timer = ManualTimer(self._clock.monotonic_us() + int(delay_s * 1_000_000), callback)
        self.timers.append(timer)
        return timer

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        callback()

    def start(self, job: Job, done: Done) -> None:
        self.jobs.append((job, done))

    def run_script(self, loop: ScriptLoop) -> None:
        # As under Trio: once trio-asyncio is loaded, by whichever test, asyncio asks it.
        with script_is_running(loop):
            loop.run()

    def close(self) -> None:
        self.jobs.clear()

    def finish(self, index: int = 0) -> None:
        """Run a held job to its end."""
        job, done = self.jobs[index]
        del self.jobs[index]
        if job.is_stopped:
            return
        if job.is_async:
            _run_through(job)
        else:
            job.run_blocking()
        done(job)

    def step(self) -> bool:
        if self.is_wanted:
            self.is_wanted = False
            self._turn()
            return True
        for timer in [timer for timer in self.timers if timer.due_us <= self._clock.monotonic_us()]:
            self.timers.remove(timer)
            if not timer.is_cancelled:
                timer.callback()
            return True
        if self.jobs and not self.holds_jobs:
            self.finish()
            return True
        return False


def _run_through(job: Job) -> None:
    coroutine = job.run(lambda _, call: call, lambda *_: False)
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration:
        return
    raise AssertionError("this job waits for an event loop; hold it or use a real host")


class BenchWorker:
    """A session whose stream is a function call."""

    def __init__(self, engine: FakeEngine, components: Iterable[AnyComponent]) -> None:
        self.engine = engine
        self.registry = Registry(components)
        self.connect()

    def connect(self) -> None:
        self.hosts: list[ManualHost] = []

        def make_host(turn: Callable[[], None]) -> ManualHost:
            self.hosts.append(ManualHost(turn, self.engine.clock))
            return self.hosts[0]

        self.session = Session(self.registry, self.engine.clock, wake=lambda: None, host=make_host)
        self.session.registered = Registered()

    @property
    def host(self) -> ManualHost:
        return self.hosts[0]

    def crash(self) -> None:
        """Everything in the worker is lost; another one takes its place."""
        self.session.close()
        self.engine.lose_worker()
        self.connect()

    def step(self) -> bool:
        """One thing happens; False if nothing can."""
        if self.host.step():
            return True
        message = self.session.take()
        if message is not None:
            self.engine.receive(message)
            return True
        message = self.engine.take()
        if message is not None:
            self.session.receive(message)
            return True
        return False

    def settle(self, steps_max: int = 100_000) -> None:
        """Until nothing moves any more."""
        for _ in range(steps_max):
            if not self.step():
                return
        raise AssertionError("the worker does not come to rest")

    def run(self, component: AnyComponent | str, value: object = None) -> FakeRun:
        name = component if isinstance(component, str) else component.name
        run = self.engine.start(name, value)
        self.settle()
        return run
