"""Scenarios for a process whose data directory is on a disk that becomes full.

`python -m tests.faults.small_disk SCENARIO DIR DISK NOTES`, where DISK is a file system of
DISK_BYTES that DIR, or one tenant of it, is on, and NOTES a folder elsewhere. Each scenario is a
function below, runs in a process of its own and asserts for itself; afterwards another process
opens the directory with room again and finds what was acknowledged.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
import trio

from engine.base.errors import StorageFull
from engine.base.ids import RunId, tenant_id
from engine.base.limits import KIB, MIB
from engine.config.settings import JournalSettings
from engine.journal.keepers import resume_tenants
from engine.journal.segment import Segment
from engine.journal.tenants import Journal, open_journal
from engine.model.records import Record, RecordKind
from tests.faults.processes import in_child
from tests.faults.waiting import wait_until, wait_until_resumed

DISK_BYTES: Final = 96 * MIB
SMALL: Final = tenant_id("small")
ELSEWHERE: Final = tenant_id("elsewhere")
RUN: Final = RunId(b"\x01" * 16)
KIND: Final = RecordKind.STATE_CHANGED

Acknowledged = dict[str, list[tuple[int, int]]]  # tenant -> (seed, length) of each payload


def payload(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)  # does not compress


class Disk:
    """The small disk, and the file that fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def fill(self, *, leave_bytes: int) -> None:
        with self._ballast.open("ab") as ballast:
            while (missing := self.free_bytes - leave_bytes) > 0:
                ballast.write(bytes(min(missing, MIB)))
                ballast.flush()

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)


class Appender:
    """Appends to one segment and knows what was acknowledged."""

    def __init__(self, segment: Segment, acknowledged: Acknowledged) -> None:
        self.segment = segment
        self.acknowledged = acknowledged.setdefault(segment.tenant_id, [])
        self._sent = 0

    async def append(self, length: int = 100) -> None:
        self._sent += 1
        offset = await self.segment.append(KIND, payload(self._sent, length), timestamp_us=1)
        # What was refused may be there in the end: its place is taken and counts as unknown.
        self.acknowledged += [(0, 0)] * (offset - len(self.acknowledged))
        self.acknowledged.append((self._sent, length))

    async def append_until_full(self, length: int) -> None:
        async def append_all() -> None:
            for _ in range(DISK_BYTES // length):
                await self.append(length)

        await expect_full(append_all())

    def check(self) -> None:
        check(self.segment, self.acknowledged)


def check(segment: Segment, acknowledged: list[tuple[int, int]]) -> None:
    assert segment.durable_offset >= len(acknowledged)
    records = read_all(segment)
    assert [record.offset for record in records] == list(range(segment.durable_offset))
    for record, (seed, length) in zip(records, acknowledged, strict=False):
        assert seed == 0 or record.payload == payload(seed, length), f"other bytes: {record.offset}"


def read_all(segment: Segment) -> list[Record]:
    records: list[Record] = []
    while len(records) < segment.durable_offset:
        records += segment.read(len(records))
    return records


@contextmanager
def disk_is_full(disk: Disk) -> Iterator[None]:
    disk.fill(leave_bytes=0)
    yield
    disk.make_room()


async def expect_full(call: Awaitable[object]) -> None:
    with pytest.raises(StorageFull) as caught:
        await call
    assert caught.value.code == "storage_full"


# ---- scenarios ----


async def log_is_full(journal: Journal, disk: Disk, acknowledged: Acknowledged) -> None:
    """No room for the WAL."""
    opened = await journal.pin(SMALL)
    appender = Appender(opened.open_segment(RUN), acknowledged)
    for _ in range(20):
        await appender.append()
    disk.fill(leave_bytes=2 * MIB)
    await appender.append_until_full(100 * KIB)
    await _stays_full(journal, appender)
    disk.make_room()
    await wait_until_resumed(journal)
    appender.check()
    for _ in range(20):
        await appender.append(10 * KIB)
    appender.check()


async def _stays_full(journal: Journal, appender: Appender) -> None:
    segment = appender.segment
    for _ in range(3):
        await expect_full(appender.append())
        await expect_full(segment.wait_beyond(segment.next_offset))
        with pytest.raises(StorageFull):
            segment.append_nowait(KIND, b"", timestamp_us=1, effect=lambda: None)
        assert await resume_tenants(journal) == 0
        appender.check()


async def full_again_and_again(journal: Journal, disk: Disk, acknowledged: Acknowledged) -> None:
    opened = await journal.pin(SMALL)
    appender = Appender(opened.open_segment(RUN), acknowledged)
    for _ in range(2):
        disk.fill(leave_bytes=MIB)
        await appender.append_until_full(70 * KIB)
        appender.check()
        disk.make_room()
        await wait_until_resumed(journal)
        await appender.append()
        appender.check()


async def table_is_full(journal: Journal, disk: Disk, acknowledged: Acknowledged) -> None:
    """Room for the WAL, none for the table that is written from memory in the background."""
    opened = await journal.pin(SMALL)
    appender = Appender(opened.open_segment(RUN), acknowledged)
    disk.fill(leave_bytes=24 * MIB)
    await appender.append_until_full(200 * KIB)
    await _stays_full(journal, appender)
    disk.make_room()
    await wait_until_resumed(journal)
    await appender.append()
    appender.check()


async def others_go_on(journal: Journal, disk: Disk, acknowledged: Acknowledged) -> None:
    """The small disk holds one tenant; another one's is elsewhere."""
    small = Appender((await journal.pin(SMALL)).open_segment(RUN), acknowledged)
    other = Appender((await journal.pin(ELSEWHERE)).open_segment(RUN), acknowledged)
    await small.append()
    disk.fill(leave_bytes=MIB)
    await small.append_until_full(100 * KIB)
    for _ in range(20):
        await other.append()
        await expect_full(small.append())
    journal.system.put("keys", "name", b"1")
    disk.make_room()
    await wait_until_resumed(journal)
    await small.append()
    small.check()
    other.check()


async def reads_go_on_while_it_resumes(
    journal: Journal, disk: Disk, acknowledged: Acknowledged
) -> None:
    opened = await journal.pin(SMALL)
    appender = Appender(opened.open_segment(RUN), acknowledged)
    for _ in range(5):
        await appender.append()
    disk.fill(leave_bytes=MIB)
    await appender.append_until_full(100 * KIB)
    async with trio.open_nursery() as nursery:

        async def read_on() -> None:
            while True:
                appender.check()
                # A thousand times a second: a loop that spins keeps the interpreter from the
                # thread that opens the store.
                await trio.sleep(0.001)

        nursery.start_soon(read_on)
        disk.make_room()
        await wait_until_resumed(journal)
        nursery.cancel_scope.cancel()
    await appender.append()
    appender.check()


async def new_tenant_while_full(journal: Journal, disk: Disk, acknowledged: Acknowledged) -> None:
    with disk_is_full(disk):
        await expect_full(journal.pin(SMALL))
    appender = Appender((await journal.pin(SMALL)).open_segment(RUN), acknowledged)
    await appender.append()


async def close_while_full(journal: Journal, disk: Disk, acknowledged: Acknowledged) -> None:
    appender = Appender((await journal.pin(SMALL)).open_segment(RUN), acknowledged)
    await appender.append()
    disk.fill(leave_bytes=MIB)
    await appender.append_until_full(100 * KIB)
    disk.fill(leave_bytes=0)


async def idle_close_while_full(journal: Journal, disk: Disk, acknowledged: Acknowledged) -> None:
    """Closing writes out what is in memory, for which there is no room; it is in the WAL."""
    opened = await journal.pin(SMALL)
    await Appender(opened.open_segment(RUN), acknowledged).append(MIB)
    disk.fill(leave_bytes=0)
    journal.unpin(opened)
    await wait_until(lambda: opened not in journal.open_tenants())
    disk.make_room()
    async with journal.use(SMALL) as opened:
        check(opened.open_segment(RUN), acknowledged[SMALL])


async def killed_while_full(journal: Journal, disk: Disk, acknowledged: Acknowledged) -> None:
    await close_while_full(journal, disk, acknowledged)
    note(acknowledged, NOTES)
    os.kill(os.getpid(), signal.SIGKILL)


async def open_while_full(directory: Path, disk: Disk) -> None:
    """Opens or says why not; either way nothing is lost."""
    disk.fill(leave_bytes=0)
    try:
        async with open_journal(directory, JournalSettings()) as journal:
            await journal.pin(SMALL)
    except* StorageFull:
        pass


async def find_everything(directory: Path, acknowledged: Acknowledged) -> None:
    async with open_journal(directory, JournalSettings()) as journal:
        for tenant, expected in acknowledged.items():
            segment = (await journal.pin(tenant_id(tenant), create=False)).open_segment(RUN)
            check(segment, expected)
            await segment.append(KIND, b"after the restart", timestamp_us=1)


# ---- the processes ----


def note(acknowledged: Acknowledged, notes: Path) -> None:
    (notes / "acknowledged").write_bytes(msgspec.msgpack.encode(acknowledged))


async def play(scenario: str, directory: Path, disk: Disk) -> None:
    acknowledged: Acknowledged = {}
    async with open_journal(directory, JournalSettings(tenant_idle_close_s=1)) as journal:
        await globals()[scenario](journal, disk, acknowledged)
    note(acknowledged, NOTES)


def main(scenario: str, directory: Path, disk: Disk) -> None:
    exit_code = in_child(trio.run, play, scenario, directory, disk)
    assert exit_code == (-signal.SIGKILL if scenario == "killed_while_full" else 0)
    acknowledged = msgspec.msgpack.decode((NOTES / "acknowledged").read_bytes(), type=Acknowledged)
    assert acknowledged
    for opened in [directory, disk.path / "never-opened-before"]:
        assert in_child(trio.run, open_while_full, opened, disk) == 0
    disk.make_room()
    assert in_child(trio.run, find_everything, directory, acknowledged) == 0


if __name__ == "__main__":
    _, scenario_text, directory_text, disk_text, notes_text = sys.argv
    NOTES = Path(notes_text)
    main(scenario_text, Path(directory_text), Disk(Path(disk_text)))
