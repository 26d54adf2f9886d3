"""The journal against a model of it: per tenant and run a list, a first offset and a flag.

Hypothesis makes up programs of appends, reads, trims, seals, restarts and kills; an interpreter
runs each on a journal and on the model and compares what they say after every step. A kill is the
files as they are at that moment (tests/faults kills processes): what was acknowledged must be
there, and of what was under way a beginning.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.errors import EngineError, LimitExceeded
from engine.base.ids import TenantId
from engine.journal.segment import Segment
from engine.journal.tenant import TenantJournal
from engine.journal.tenants import Journal
from tests.journal.harness import (
    ACME,
    NOW_US,
    OTHER,
    STEP,
    files_as_they_are,
    journal_at,
    new_records,
    run_number,
)

# ---- programs ----

Place = tuple[TenantId, int]


class Operation(msgspec.Struct, frozen=True):
    place: Place


class Append(Operation, frozen=True):
    """As one transition, one by one, or without waiting; `behind` is how stale `expected` is."""

    how: str
    payloads: tuple[bytes, ...]
    behind: int | None


class Read(Operation, frozen=True):
    from_offset: int
    records_max: int


class Trim(Operation, frozen=True):
    before_offset: int


class Seal(Operation, frozen=True):
    pass


class Reopen(Operation, frozen=True):
    """The tenant's store, or the whole journal."""

    whole: bool


class Kill(Operation, frozen=True):
    """With records under way, after so many passes of the event loop."""

    under_way: tuple[bytes, ...]
    passes: int


PLACES = st.tuples(st.sampled_from([ACME, OTHER]), st.integers(0, 2))
PAYLOADS = st.lists(
    st.binary(max_size=6) | st.integers(0, 3000).map(bytes), min_size=1, max_size=4
).map(tuple)
APPENDS = st.builds(
    Append,
    PLACES,
    st.sampled_from(["many", "one", "nowait"]),
    PAYLOADS,
    st.none() | st.sampled_from([0, 0, 0, 1, -1]),
)
OPERATIONS = st.one_of(
    APPENDS,
    APPENDS,
    APPENDS,
    st.builds(Read, PLACES, st.integers(0, 12), st.integers(1, 12)),
    st.builds(Trim, PLACES, st.integers(0, 12)),
    st.builds(Seal, PLACES),
    st.builds(Reopen, PLACES, st.booleans()),
    st.builds(Kill, PLACES, PAYLOADS, st.integers(0, 3)),
)


# ---- the model ----


class Run:
    def __init__(self) -> None:
        self.payloads: list[bytes] = []  # from offset 0, trimmed ones included
        self.first_offset = 0
        self.sealed = False

    @property
    def next_offset(self) -> int:
        return len(self.payloads)

    def append(self, operation: Append) -> int | str:
        first = self.next_offset
        if self.sealed:
            return "segment_sealed"
        if operation.behind:  # neither None nor 0
            return "append_conflict"
        self.payloads.extend(operation.payloads)
        return first

    def read(self, operation: Read) -> list[tuple[int, bytes]] | str:
        if operation.from_offset < self.first_offset:
            return "offset_trimmed"
        records = list(enumerate(self.payloads))
        return records[operation.from_offset :][: operation.records_max]

    def trim(self, before_offset: int) -> str | None:
        if not self.first_offset <= before_offset <= self.next_offset:
            return "limit_exceeded"
        self.first_offset = before_offset
        return None


# ---- the interpreter ----


class Interpreter:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._data_dir = folder / "data"
        self._stack = AsyncExitStack()
        self._journal: Journal
        self._model: dict[Place, Run] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Interpreter]:
        await self._open()
        try:
            yield self
        finally:
            await self._stack.aclose()

    async def _open(self) -> None:
        self._journal = await self._stack.enter_async_context(journal_at(self._data_dir))

    async def step(self, operation: Operation) -> None:
        run = self._model.setdefault(operation.place, Run())
        match operation:
            case Append():
                assert await self._append(operation) == run.append(operation)
            case Read():
                assert await self._read(operation) == run.read(operation)
            case Trim(before_offset=before_offset):
                assert await self._trim(operation) == run.trim(before_offset)
            case Seal():
                run.sealed = True
                async with self._journal.use(operation.place[0]) as tenant:
                    end = await self._segment_of(tenant, operation).seal()
                    assert end == run.next_offset
            case Reopen(whole=True):
                await self._stack.aclose()
                await self._open()
            case Reopen():
                for opened in self._journal.open_tenants():
                    if opened.tenant_id == operation.place[0]:
                        await self._journal.close_tenant(opened)
            case Kill():
                await self._kill(operation, run)
        await self._compare()

    def _segment_of(self, tenant: TenantJournal, operation: Operation) -> Segment:
        return tenant.open_segment(run_number(operation.place[1]))

    async def _append(self, operation: Append) -> int | str:
        async with self._journal.use(operation.place[0]) as tenant:
            segment = self._segment_of(tenant, operation)
            behind = operation.behind
            expected = None if behind is None else segment.next_offset - behind
            if expected is not None and expected < 0:
                expected = segment.next_offset + 1  # as wrong, and a number that can be said
            try:
                return await APPEND[operation.how](segment, operation.payloads, expected)
            except EngineError as error:
                return error.code

    async def _read(self, operation: Read) -> list[tuple[int, bytes]] | str:
        async with self._journal.use(operation.place[0]) as tenant:
            segment = self._segment_of(tenant, operation)
            try:
                records = segment.read(operation.from_offset, records_max=operation.records_max)
            except EngineError as error:
                return error.code
            return [(record.offset, record.payload) for record in records]

    async def _trim(self, operation: Trim) -> str | None:
        async with self._journal.use(operation.place[0]) as tenant:
            try:
                await self._segment_of(tenant, operation).trim(operation.before_offset)
            except LimitExceeded as error:
                return error.code
            return None

    async def _kill(self, operation: Kill, run: Run) -> None:
        """Copy the files while records are under way, and go on with the copy."""
        under_way: list[bytes] = []
        acknowledged: list[bytes] = []
        async with self._journal.use(operation.place[0]) as tenant:
            segment = self._segment_of(tenant, operation)
            for payload in operation.under_way if not run.sealed else ():
                segment.append_nowait(
                    STEP,
                    payload,
                    timestamp_us=NOW_US,
                    effect=lambda payload=payload: acknowledged.append(payload),
                )
                under_way.append(payload)
            for _ in range(operation.passes):
                await trio.lowlevel.checkpoint()
            told = len(acknowledged)
            copy = files_as_they_are(self._data_dir, self._folder / f"killed-{next(self._numbers)}")
        await self._stack.aclose()
        self._data_dir = copy
        await self._open()
        async with self._journal.use(operation.place[0]) as tenant:
            survived = self._segment_of(tenant, operation).next_offset - run.next_offset
        assert told <= survived <= len(under_way)
        run.payloads.extend(under_way[:survived])

    async def _compare(self) -> None:
        for (tenant_id, number), run in self._model.items():
            async with self._journal.use(tenant_id) as tenant:
                segment = tenant.open_segment(run_number(number))
                assert segment.first_offset == run.first_offset
                assert segment.next_offset == segment.durable_offset == run.next_offset
                assert segment.is_sealed == run.sealed
                found = [record.payload for record in segment.read(run.first_offset)]
                assert found == run.payloads[run.first_offset :]


async def _append_many(segment: Segment, payloads: tuple[bytes, ...], expected: int | None) -> int:
    return await segment.append_many(new_records(*payloads), expected=expected)


async def _append_one_by_one(
    segment: Segment, payloads: tuple[bytes, ...], expected: int | None
) -> int:
    first = await segment.append(STEP, payloads[0], timestamp_us=NOW_US, expected=expected)
    for payload in payloads[1:]:
        await segment.append(STEP, payload, timestamp_us=NOW_US, expected=segment.next_offset)
    return first


async def _append_nowait(
    segment: Segment, payloads: tuple[bytes, ...], expected: int | None
) -> int:
    released = trio.Event()
    first = segment.append_many_nowait(
        new_records(*payloads), effects=[released.set], expected=expected
    )
    await released.wait()
    return first


APPEND = {"many": _append_many, "one": _append_one_by_one, "nowait": _append_nowait}


@settings(max_examples=30)
@given(program=st.lists(OPERATIONS, min_size=4, max_size=20))
def test_the_journal_is_its_model(program: list[Operation]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with Interpreter(Path(folder)).running() as interpreter:
                for operation in program:
                    await interpreter.step(operation)

    trio.run(run)
