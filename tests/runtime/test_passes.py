"""No message that a worker may send holds the event loop for long: the largest of each sort."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from engine.base import limits
from engine.base.ids import RunId, child_run_id
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    Error,
    Payload,
    RunCompleted,
    RunFailed,
    StateChanged,
    StateRead,
    StateScope,
    StepCompleted,
    StepFailed,
    UsageReported,
    WaitCreated,
    WaitKind,
)
from engine.model.views import RunView
from engine.runtime.handle import Handle
from engine.runtime.writer.live import LiveRun
from engine.wire.journal import encode, kind_of
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.held import ALLOWED_US, QuietWorker, Steps, hold, measured, quiet
from tests.runtime.test_runs import request

EXPECTED = "expected"
ENTRIES = limits.report_entries_max
BYTES = limits.report_bytes_max


def array(size: int, piece: bytes = b"1,") -> bytes:
    """JSON of about this size, of as many values as fit."""
    return b"[" + piece * ((size - 2) // len(piece) - 1) + piece[:-1] + b"]"


def batched(payloads: Iterable[Payload], size: int) -> Iterator[list[Payload]]:
    rest = iter(payloads)
    while part := list(itertools.islice(rest, size)):
        yield part


@dataclasses.dataclass
class Holding:
    """A run in a worker's hands."""

    handle: Handle
    worker: QuietWorker
    run: RunId
    sequence: int = 0

    @classmethod
    async def begun(cls, handle: Handle, *, capacity: int = 1_000) -> Holding:
        worker = QuietWorker(capacity=capacity)
        await worker.connect(handle, TENANT, "checkout")
        started = await handle.start(CONTEXT, request(session_id="s"))
        holding = cls(handle, worker, started.run_id)
        await holding.settle()
        return holding

    async def settle(self) -> None:
        await quiet(await self.handle._engine.tenant(TENANT))

    def report(self, entries: Sequence[tuple[int, bytes]]) -> None:
        self.sequence += 1
        assert self.worker.session is not None
        self.worker.session.report(self.run, 1, self.sequence, entries)

    async def reported(self, payloads: Sequence[Payload]) -> Steps:
        """The steps of a report, and of all that follows from it."""
        entries = [(int(kind_of(payload)), encode(payload)) for payload in payloads]
        before = await self._run_now()
        async with measured() as steps:
            self.report(entries)
            await self.settle()
        after = await self._run_now()
        assert after.next_offset >= before.next_offset + len(entries)
        assert after.error_code in ("", EXPECTED), f"refused: {after.error_message}"
        return steps

    async def filled(self, payloads: Iterable[Payload], per_report: int = 100) -> None:
        """The run has reported them all, in reports of so many."""
        for part in batched(payloads, per_report):
            self.report([(int(kind_of(payload)), encode(payload)) for payload in part])
            await self.settle()

    def live(self) -> LiveRun:
        return self.handle._engine.open_tenants()[0].look(self.run)

    async def _run_now(self) -> RunView:
        return await self.handle.get_status(CONTEXT, self.run)


def many(make: Callable[[int], Payload], count: int = ENTRIES) -> list[Payload]:
    return [make(position) for position in range(1, count + 1)]


def child(run: RunId, position: int, **fields: object) -> ChildStarted:
    return ChildStarted(
        position=position,
        child_run_id=child_run_id(run, position),
        component="checkout",
        mode=ChildMode.JOIN,
        input=b"1",
        **fields,
    )


def question(position: int) -> WaitCreated:
    return WaitCreated(
        position=position,
        wait_id=str(position),
        kind=WaitKind.USER,
        options=("",) * limits.wait_options_max,
    )


SHARE = BYTES // ENTRIES - 256
REPORTS: dict[str, Callable[[RunId], list[Payload]]] = {
    "steps": lambda _: many(lambda n: StepCompleted(position=n, name="charge", output=b"1")),
    "steps of all the bytes": lambda _: many(
        lambda n: StepCompleted(
            position=n, name="a", input=array(SHARE // 2), output=array(SHARE // 2)
        )
    ),
    "failed steps": lambda _: many(
        lambda n: StepFailed(position=n, name="a", error=Error(code=EXPECTED, message="m" * SHARE))
    ),
    "waits for signals": lambda _: many(
        lambda n: WaitCreated(
            position=n, wait_id=str(n), kind=WaitKind.SIGNAL, name=f"s{n}", parks=n == ENTRIES
        )
    ),
    "timers that are over": lambda _: many(
        lambda n: WaitCreated(position=n, wait_id=str(n), kind=WaitKind.TIMER, due_ms=n)
    ),
    "questions of many options": lambda _: many(
        lambda n: question(n), limits.report_waits_bytes_max // len(encode(question(1)))
    ),
    "one question": lambda _: [question(1)],
    "children": lambda run: many(lambda n: child(run, n), limits.report_children_max),
    "children of all the bytes": lambda run: [
        ChildStarted(
            position=n,
            child_run_id=child_run_id(run, n),
            component="checkout",
            mode=ChildMode.DETACH,
            input=array(BYTES // limits.report_children_max - 1_024),
        )
        for n in range(1, limits.report_children_max + 1)
    ],
    "children and their waits": lambda run: [
        *many(lambda n: child(run, n), limits.report_children_max),
        *[
            WaitCreated(position=n, wait_id=str(n), kind=WaitKind.CHILD)
            for n in range(1, limits.report_children_max + 1)
        ],
        *many(
            lambda n: StepCompleted(position=1_000 + n, name="a", output=b"1"),
            ENTRIES - 2 * limits.report_children_max,
        ),
    ],
    "state of its own": lambda _: many(
        lambda n: StateChanged(position=n, scope=StateScope.RUN, name=f"n{n}", value=b"1")
    ),
    "state of a session": lambda _: many(
        lambda n: StateChanged(position=n, scope=StateScope.SESSION, name=f"n{n}", value=b"1")
    ),
    "state of all the bytes": lambda _: many(
        lambda n: StateChanged(
            position=n,
            scope=StateScope.SESSION,
            name=f"n{n}",
            value=array(limits.state_value_bytes_max - 1_024),
        ),
        BYTES // limits.state_value_bytes_max,
    ),
    "state read": lambda _: many(
        lambda n: StateRead(position=n, scope=StateScope.SESSION, name=f"n{n}")
    ),
    "usage": lambda _: many(lambda n: UsageReported(position=n, model="m", tokens_in=1)),
    "the largest output of a step": lambda _: [
        StepCompleted(position=1, name="a", output=array(limits.output_bytes_max))
    ],
    "the largest output of the run": lambda _: [
        RunCompleted(output=array(limits.output_bytes_max))
    ],
    "the largest error": lambda _: [
        RunFailed(error=Error(code=EXPECTED, message="é" * (limits.error_bytes_max // 2 - 100)))
    ],
}


@pytest.mark.parametrize("name", REPORTS)
async def test_a_report(tmp_path: Path, name: str) -> None:
    async def scene(handle: Handle) -> Steps:
        holding = await Holding.begun(handle)
        return await holding.reported(REPORTS[name](holding.run))

    assert await hold(tmp_path, scene) <= ALLOWED_US
