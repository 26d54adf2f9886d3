"""What a worker with a valid key may report, made of each field's edges: whatever it is, it is
taken, or it is refused with a typed error, and the tenant beside it works on.

The fields come from the protocol's sources, so a new one is tried as soon as it is declared.
Minutes of it with ENGINE_FUZZ_SECONDS, another course with ENGINE_TEST_SEED; a failure names its
seed.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]

from engine.archive.columns import TableBuilder
from engine.base.errors import EngineError, MalformedRecord, StorageFailed
from engine.base.ids import ProjectId, RunId, TenantId, child_run_id
from engine.config.settings import JournalSettings
from engine.ext.offsets import record_key
from engine.journal.layout import OPEN_RUN_TAG, RUN_TAG
from engine.model.context import AuthMode, RequestContext
from engine.model.payloads import PAYLOAD_TYPES
from engine.model.records import RecordKind
from engine.model.runs import RunStatus
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.wire.rules import RULES
from tests.runtime.conftest import CONTEXT, TENANT
from tests.runtime.test_runs import DONE, request, step
from tests.runtime.worker import Held, ScriptedWorker
from tests.wire import google_messages

SEED: Final = int(os.environ.get("ENGINE_TEST_SEED", "1"))
LASTS_S: Final = float(os.environ.get("ENGINE_FUZZ_SECONDS", "0"))
ROUNDS: Final = 6
REPORTS: Final = 150
OTHER: Final = RequestContext(TenantId("globex"), ProjectId("shop"), AuthMode.LOOPBACK)

NUMBERS: Final = (
    0, 1, 2, 3, 7, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 - 1, 2**53, 2**53 + 1,
    2**63 - 1, 2**63, 2**64 - 1,
    253_402_300_799_999, 253_402_300_800_000,
)  # fmt: skip
DOUBLES: Final = (
    0.0, -0.0, 1.0, -1.0, 1e-308, 5e-324, 1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
TEXTS: Final = (
    b"", b"a", b"checkout", b"\x00", b"\r\n", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xe2\x80\xae",
    b"x" * 64, b"x" * 129, b"x" * 4_097, b"x" * 70_000, b"\xf0\x9f\x98\x80" * 300,
)  # fmt: skip
VALUES: Final = (
    b"", b"null", b"1", b'"\\ud800"', b"{}", b"[1,2]", b"NaN", b"1 2", b"{", b"\x00", b'"\xff"',
    b"[" * 5_000 + b"]" * 5_000, b"1e999", b"-", b'"' + b"x" * 100_000 + b'"',
    b'{"a":1,"a":2}', b'"\r\rdata: x"',
)  # fmt: skip
REPORTED: Final = [kind for kind, struct_type in PAYLOAD_TYPES.items() if struct_type in RULES]
IDS: Final = (b"", b"x", b"x" * 15, b"x" * 16, b"x" * 17, b"x" * 1_000)


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def tagged(number: int, wire_type: int, value: bytes) -> bytes:
    head = varint(number << 3 | wire_type)
    return head + varint(len(value)) + value if wire_type == 2 else head + value


class Course:
    """One course of values, by its seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.positions = 0

    def message(self, message: Any, run: RunId, epoch: int) -> bytes:
        parts = [
            self.field(field, run, epoch)
            for field in message.fields
            for _ in range(self.random.choice((1, 1, 1, 1, 0, 2)))
        ]
        if self.random.random() < 0.1:
            self.random.shuffle(parts)
        made = b"".join(parts)
        if self.random.random() < 0.04:
            made = made[: self.random.randrange(len(made) + 1)]
        if self.random.random() < 0.04:
            made += self.random.choice((b"\x0b\x0c", b"\x00\x01", b"\xff" * 11, b"\xf8\x3f\x01"))
        return made

    def field(self, field: Any, run: RunId, epoch: int) -> bytes:
        wire_type, value = self.usual(field, run, epoch)
        if self.random.random() < 0.15:
            wire_type, value = self.edge(field, run, epoch)
        if self.random.random() < 0.02:
            wire_type, value = self.random.choice(((0, b"\x01"), (1, b"8" * 8), (2, b"\x01")))
        return tagged(field.number, wire_type, value)

    def usual(self, field: Any, run: RunId, epoch: int) -> tuple[int, bytes]:
        """What a worker that means well might say there."""
        match field.name:
            case "position":
                self.positions += 1
                return 0, varint(self.positions)
            case "lease_epoch":
                return 0, varint(epoch)
            case "child_run_id":
                return 2, child_run_id(run, self.positions)
            case "wait_id":
                return 2, str(self.positions).encode()
            case "component":
                return 2, b"checkout"
            case "non_retryable":
                return 0, b"\x01"
        if field.message_type is not None:
            return 2, self.message(field.message_type, run, epoch)
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return 1, struct.pack("<d", self.random.choice((0.0, 0.5, 1.0)))
        if field.type == FieldDescriptor.TYPE_STRING:
            return 2, self.random.choice((b"a", b"b", b"text"))
        if field.type == FieldDescriptor.TYPE_BYTES:
            return 2, self.random.choice((b"1", b'"x"', b"{}"))
        return 0, varint(self.random.choice((0, 1, 2)))

    def edge(self, field: Any, run: RunId, epoch: int) -> tuple[int, bytes]:
        if field.message_type is not None:
            error = self.message(google_messages.messages()["Error"], run, epoch)
            return 2, self.random.choice((b"", b"\xff", error))
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return 1, struct.pack("<d", self.random.choice(DOUBLES))
        if field.type == FieldDescriptor.TYPE_STRING:
            return 2, self.random.choice(TEXTS)
        if field.type == FieldDescriptor.TYPE_BYTES:
            known = (run, child_run_id(run, 1)) if field.name == "child_run_id" else VALUES
            return 2, self.random.choice((*known, *IDS))
        return 0, varint(self.random.choice(NUMBERS))

    def entry(self, run: RunId, epoch: int) -> tuple[int, bytes]:
        kind = self.random.choice(REPORTED if self.random.random() < 0.95 else [*PAYLOAD_TYPES])
        if kind in (RecordKind.RUN_COMPLETED, RecordKind.RUN_FAILED) and self.random.random() < 0.7:
            kind = RecordKind.STEP_COMPLETED  # the run shall live a little
        message = google_messages.messages()[PAYLOAD_TYPES[kind].__name__]
        payload = self.message(message, run, epoch)
        number = int(kind)
        if self.random.random() < 0.01:
            number = self.random.choice((0, 20, 255, 2**32 - 1))
        return number, payload


async def poison(handle: Handle, worker: ScriptedWorker, course: Course) -> None:
    assert worker.session is not None
    started = await handle.start(CONTEXT, request())
    held: Held | None = await worker.wait_held(started.run_id)
    for _ in range(REPORTS):
        if held is None or worker.held.get(held.run) is not held:
            held = await another(handle, worker)
        count = course.random.choice((0, 1, 1, 1, 2, 5))
        entries = [course.entry(held.run, held.epoch) for _ in range(count)]
        held.sequence += 1
        epoch = course.random.choice(NUMBERS) if course.random.random() < 0.02 else held.epoch
        run: bytes = course.random.choice(IDS) if course.random.random() < 0.02 else held.run
        refused = tried(
            lambda: worker.session.report(run, epoch, held.sequence, entries)  # type: ignore[union-attr] # noqa: B023
        )
        tried(
            lambda: worker.session.emit(  # type: ignore[union-attr]
                held.run,  # type: ignore[union-attr] # noqa: B023
                held.epoch,  # type: ignore[union-attr] # noqa: B023
                course.random.choice(TEXTS).decode(errors="replace"),
                course.random.choice(VALUES),
            )
        )
        await trio.lowlevel.checkpoint()
        view = await handle.get_run(CONTEXT, held.run)
        if refused or view.status != "RUNNING" or (run, epoch) != (held.run, held.epoch):
            worker.held.pop(held.run, None)
            held = None


async def another(handle: Handle, worker: ScriptedWorker) -> Held:
    """A run in its hands: its children, and those that came again, are among them."""
    started = await handle.start(CONTEXT, request())
    return await worker.wait_held(started.run_id)


def tried(what: Callable[[], None]) -> bool:
    """Whether it was refused. A tenant that stops is a defect that was contained."""
    try:
        what()
    except StorageFailed:
        raise
    except EngineError:
        return True
    return False


async def check_all_can_be_read(handle: Handle) -> int:
    """By whoever asks, and by the archive."""
    tenant = await handle._engine.tenant(TENANT)
    assert tenant.journal.committer.stopped_by is None
    count = 0
    for run in runs_of(tenant.journal):
        await handle.get_run(CONTEXT, run)
        for _ in await handle.read_journal(CONTEXT, run, 0, 1_000):
            count += 1
        values = list(tenant.journal.store.record_values(record_key(run, 0), run + b"\xff" * 9))
        builder = TableBuilder(with_journal=True)
        try:
            builder.add(run, values)
        except MalformedRecord as error:
            pytest.fail(f"a run that cannot be archived was taken: {error.message}")
        builder.tables()
    return count


def runs_of(journal: Any) -> Iterator[RunId]:
    for tag in (OPEN_RUN_TAG, RUN_TAG):
        for key, _ in journal.rows(tag):
            yield RunId(key[-16:])


async def course_of(seed: int, folder: Path) -> None:
    async with open_engine(folder, JournalSettings()) as engine:
        handle = Handle(engine)
        neighbour = ScriptedWorker("neighbour")
        await neighbour.connect(handle, OTHER.tenant_id, "checkout")
        worker = ScriptedWorker("poisoner", capacity=10_000)
        await worker.connect(handle, TENANT, "checkout")
        await poison(handle, worker, Course(seed))
        theirs = await neighbour.wait_held((await handle.start(OTHER, request())).run_id)
        neighbour.report(theirs, step(1), DONE)
        outcome = await handle.wait_outcome(OTHER, theirs.run)
        assert outcome.status is RunStatus.COMPLETED
        assert await check_all_can_be_read(handle) > REPORTS


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
async def test_whatever_is_reported_is_taken_or_refused(seed: int, tmp_path: Path) -> None:
    with trio.fail_after(60):
        await course_of(seed, tmp_path)


async def test_for_as_long_as_is_asked_for(tmp_path: Path) -> None:
    """Once at least; ENGINE_FUZZ_SECONDS says how long."""
    until, seed = time.monotonic() + LASTS_S, SEED + 1_000
    while True:
        await course_of(seed, tmp_path / str(seed))
        seed += 1
        if time.monotonic() >= until:
            break
