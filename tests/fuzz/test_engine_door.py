"""An engine that is broken or hostile, at the other end of a real worker's connection: it sends
each frame it has words for, with values from their fields' edges, whole and cut, in any order. The
worker goes on, or says what happened and comes back, or ends with an error that says it; it runs
only what it was given, and serves the next engine that behaves.

A failure names its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from grpclib.server import Stream

from engine.base.errors import EngineError, MalformedRecord
from engine.base.ids import RunId, parse_run_id
from engine.ext import frames
from engine.model.payloads import PAYLOAD_TYPES
from engine.model.records import RecordKind
from engine.sdk import Context, StepContext, Worker, function, limits, workflow
from tests.fuzz.courses import IDS, NUMBERS, SEED, Course, Given, seeds, tagged, varint
from tests.sdk.fake_coordinator import FakeCoordinator, listening
from tests.sdk.on_asyncio import on_asyncio

SESSIONS: Final = 30
MESSAGES: Final = 12
COMPONENTS: Final = (b"double", b"plain", b"twice", b"waits", b"unknown")
ENGINE_FRAMES: Final = [field.message_type.name for field in Course.frames_of("EngineFrame")]

ran: list[str] = []


@function
async def double(ctx: StepContext, x: int) -> int:
    ran.append(ctx.run_id)
    await asyncio.sleep(0)
    return 2 * x


@function
def plain(ctx: StepContext, x: int) -> int:
    ran.append(ctx.run_id)
    return x


@workflow
async def twice(ctx: Context, x: int) -> int:
    return await ctx.step(double, await ctx.step(double, x))


@workflow
async def waits(ctx: Context, x: int) -> Any:
    first, signal = await ctx.gather(ctx.step(plain, x), ctx.signal("paid", timeout=60))
    await ctx.state.set("seen", first)
    await ctx.state.set("known", x, scope="session")
    return await ctx.call(double, x), signal


class HostileEngine(FakeCoordinator):
    """Hostile for as long as it has a course; without one it is the small engine of the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.course: Course | None = None
        self.given: set[bytes] = set()
        self._epochs: dict[bytes, int] = {}
        self._reports: dict[bytes, tuple[int, int]] = {}

    async def _talk(self, stream: Stream[bytes, bytes]) -> None:
        if self.course is None:
            await super()._talk(stream)
            return
        assert await stream.recv_message()
        hearing = asyncio.create_task(self._hear(stream))
        try:
            await self._say(stream, self.course)
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _hear(self, stream: Stream[bytes, bytes]) -> None:
        async for message in stream:
            for frame in frames.scan_worker_frames(message):
                if frame[0] == "report":
                    self._reports[frame[1]] = frame[2], frame[3]

    async def _say(self, stream: Stream[bytes, bytes], course: Course) -> None:
        course.edges = course.random.choice((0, 0, 0, 0.05))
        registered = course.frame("EngineFrame", "Registered", {"heartbeat_ms": 3_000})
        await stream.send_message(course.batch([registered] * (not course.has(0.05))))
        for _ in range(course.random.choice((0, MESSAGES, MESSAGES))):
            count = course.random.choice((0, 1, 1, 2, 5, 20))
            message = course.batch([self._frame(course) for _ in range(count)])
            if course.has(0.02):
                length = course.random.choice((0, len(message) + 1, 2**24, 2**32 - 1))
                kind = course.random.choice((0, 0, 1, 255))
                await stream._stream.send_data(bytes([kind]) + length.to_bytes(4, "big") + message)
            else:
                self.given |= _given_by(message)
                await stream.send_message(message)
            await asyncio.sleep(0.001)
        if course.has(0.2):
            stream._stream.connection.close()

    # ---- what it says ----

    def _frame(self, course: Course) -> bytes:
        kind = course.random.choice((*ENGINE_FRAMES, "Dispatch", "Dispatch", "Ack", "Deliver"))
        if kind in ("Registered", "Refused", "Draining") and course.has(0.9):
            kind = "Dispatch"
        given = {
            "Dispatch": self._dispatch,
            "Ack": self._ack,
            "Deliver": self._deliver,
            "Revoke": self._revoke,
            "Refused": self._refused,
        }
        course.edges = course.random.choice((0, 0, 0.02, 0.1))
        said = given[kind](course) if kind in given else {}
        course.edges = course.random.choice((0, 0, 0, 0.02))
        return course.frame("EngineFrame", kind, said)

    def _dispatch(self, course: Course) -> Given:
        if self._epochs and course.has(0.3):
            course.run = RunId(course.random.choice([*self._epochs]))
        else:
            course.run = RunId(course.random.randbytes(16))
        if course.has(0.02):
            course.run = RunId(course.random.choice(IDS))
        course.epoch = self._epochs.get(course.run, 0) + course.random.choice((0, 1, 1, 1))
        if course.has(0.03):
            course.epoch = course.random.choice(NUMBERS)
        self._epochs[course.run] = course.epoch
        name = course.random.choice(COMPONENTS)
        course.positions = 0
        accepted = course.record(RecordKind.RUN_ACCEPTED, {"component": name, "input": b"3"})
        journal = [] if course.has(0.03) else [_entry(RecordKind.RUN_ACCEPTED, accepted, 0)]
        more = course.random.choice((0, 0, 1, 2, 3, 8))
        journal += [self._recorded(course, offset) for offset in range(1, 1 + more)]
        return {
            "run_id": course.run,
            "lease_epoch": course.epoch,
            "attempt": 1,
            "component": name,
            "kind": course.random.choice((1, 2)),
            "journal": journal,
            "more": int(course.has(0.05)),
        }

    def _recorded(self, course: Course, offset: int) -> bytes:
        """Half of the time what the code would have asked for."""
        if course.has(0.5):
            step: Given = {"name": b"double", "key": b"", "input": b"3", "output": b"6"}
            return _entry(
                RecordKind.STEP_COMPLETED, course.record(RecordKind.STEP_COMPLETED, step), offset
            )
        kind = course.random.choice([*PAYLOAD_TYPES])
        return _entry(kind, course.record(kind), offset)

    def _about_a_run(self, course: Course) -> None:
        if self._epochs:
            course.run = RunId(course.random.choice([*self._epochs]))
            course.epoch = self._epochs[course.run]

    def _ack(self, course: Course) -> Given:
        self._about_a_run(course)
        if self._reports and course.has(0.7):
            course.run = RunId(course.random.choice([*self._reports]))
            course.epoch = self._reports[course.run][0]
        return {"sequence": self._reports.get(course.run, (0, course.random.choice((1, 2, 9))))[1]}

    def _deliver(self, course: Course) -> Given:
        self._about_a_run(course)
        first = course.random.choice((0, 1, 5, 100))
        count = course.random.choice((0, 1, 1, 3))
        return {"entries": [self._recorded(course, first + more) for more in range(count)]}

    def _revoke(self, course: Course) -> Given:
        self._about_a_run(course)
        return {}

    def _refused(self, course: Course) -> Given:
        code = course.random.choice((b"internal_error", b"rate_limited", b"stale_fence", b"new"))
        return {"code": code, "fatal": int(course.has(0.1))}


def _given_by(message: bytes) -> set[bytes]:
    """The runs that a message hands out; one that cannot be read hands out none."""
    try:
        sent = frames.scan_engine_frames(message)
    except MalformedRecord:
        return set()
    return {frame[1] for frame in sent if frame[0] == "dispatch"}


def _entry(kind: int, payload: bytes, offset: int) -> bytes:
    values = ((1, 0, varint(kind)), (2, 2, payload), (3, 0, varint(offset)), (4, 0, varint(10**15)))
    return b"".join(tagged(*each) for each in values)


class Log(logging.Handler):
    """What the worker says of itself: sentences, and nothing from inside."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            raise AssertionError("a traceback from inside") from record.exc_info[1]
        self.sentences.append(record.getMessage())


@contextlib.contextmanager
def heard() -> Iterator[Log]:
    log, logger = Log(), logging.getLogger("engine.worker")
    logger.addHandler(log)
    try:
        yield log
    finally:
        logger.removeHandler(log)


@asynccontextmanager
async def kept_alive(address: str) -> AsyncIterator[None]:
    """A worker is served, and another one when it ends with an error of the engine's: which is a
    sentence, and not what Python says of something inside."""

    async def serve() -> None:
        while True:
            with contextlib.suppress(EngineError):
                await Worker("fuzzed", [double, plain, twice, waits], endpoint=address).serve()

    serving = asyncio.create_task(serve())
    try:
        yield
    finally:
        if serving.done():
            serving.result()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def course_of(seed: int) -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    with heard() as log:
        hostile = HostileEngine()
        hostile.course = Course(seed)
        async with listening(hostile):
            ran.clear()
            async with kept_alive(hostile.address):
                async with asyncio.timeout(60):
                    while hostile.connections < SESSIONS:
                        assert not failures, failures
                        await asyncio.sleep(0.001)
                assert {parse_run_id(run) for run in ran} <= hostile.given
                hostile.course = None
                hostile.cut()
                assert (await hostile.run("twice", 5)).result() == 20
            assert log.sentences
    assert not failures, failures


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "reconnect_ms_initial", 1)
    monkeypatch.setattr(limits, "reconnect_ms_max", 1)
    monkeypatch.setattr(limits, "register_timeout_s", 0.2)


def test_whatever_the_engine_says_the_worker_goes_on_or_says_why_not() -> None:
    """For a few seconds, or as long as ENGINE_FUZZ_SECONDS says."""
    for seed in seeds(SEED, 3):
        try:
            on_asyncio(lambda: course_of(seed), limit_s=120)  # noqa: B023
        except BaseException as error:
            error.add_note(f"ENGINE_TEST_SEED={seed}")
            raise
