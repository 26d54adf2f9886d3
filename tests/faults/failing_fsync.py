"""Scenarios for a process in which fsync fails on demand (failing_fsync.c is preloaded).

`python -m tests.faults.failing_fsync SCENARIO DIR` plays one in a process of its own, which asserts
for itself, and then looks from another process for what was acknowledged, as after a restart.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
import trio
import trio.testing

from engine.base import limits
from engine.base.errors import EngineError, StorageFailed, StorageFull
from engine.base.ids import RunId, tenant_id
from engine.config.settings import JournalSettings
from engine.journal.keepers import resume_tenants
from engine.journal.segment import Segment
from engine.journal.tenants import Journal, open_journal
from engine.model.records import NewRecord, RecordKind
from tests.faults.processes import in_child
from tests.faults.waiting import wait_until, wait_until_resumed

BROKEN: Final = tenant_id("broken")
SOUND: Final = tenant_id("sound")
RUN: Final = RunId(b"\x01" * 16)
OTHER_RUN: Final = RunId(b"\x02" * 16)
KIND: Final = RecordKind.STATE_CHANGED

Acknowledged = dict[str, list[bytes]]  # tenant -> payloads, in the order of their offsets


@contextmanager
def syncs_fail(pattern: str, number: int) -> Iterator[None]:
    orders = Path(os.environ["FAILING_FSYNC"])
    orders.write_text(f"{number} {pattern}\n", encoding="utf-8")
    try:
        yield
    finally:
        orders.unlink()


async def append(segment: Segment, payload: bytes, acknowledged: Acknowledged) -> int:
    offset = await segment.append(KIND, payload, timestamp_us=1)
    acknowledged.setdefault(segment.tenant_id, []).append(payload)
    return offset


async def append_batch(segment: Segment, count: int, name: str, acknowledged: Acknowledged) -> None:
    payloads = [b"%s %d" % (name.encode(), number) for number in range(count)]
    await segment.append_many([NewRecord(KIND, payload, 1) for payload in payloads])
    acknowledged.setdefault(segment.tenant_id, []).extend(payloads)


def check(segment: Segment, acknowledged: Acknowledged) -> None:
    """What was acknowledged is there, in place; what was not may follow it."""
    expected = acknowledged[segment.tenant_id]
    assert segment.durable_offset >= len(expected)
    assert [record.payload for record in segment.read()][: len(expected)] == expected


async def expect(error: type[EngineError], call: Awaitable[object]) -> None:
    with pytest.raises(error) as caught:
        await call
    assert type(caught.value) is error
    assert caught.value.code == error.code


# ---- scenarios ----


async def commit_fails(journal: Journal, acknowledged: Acknowledged) -> None:
    """A failed fsync of the WAL, met by a single append on the event loop's thread."""
    await _stops_for_good(journal, acknowledged, in_flight=1, pattern="*/tenant=broken/*.log")


async def commit_fails_with_many_in_flight(journal: Journal, acknowledged: Acknowledged) -> None:
    """The same on a commit thread, with several batches behind the one that fails."""
    count = 3 * limits.batch_records_max
    await _stops_for_good(journal, acknowledged, in_flight=count, pattern="*/tenant=broken/*.log")


async def whole_disk_fails(journal: Journal, acknowledged: Acknowledged) -> None:
    await _stops_for_good(journal, acknowledged, in_flight=2, pattern="*/tenant=broken/*")


async def _stops_for_good(
    journal: Journal, acknowledged: Acknowledged, *, in_flight: int, pattern: str
) -> None:
    broken, sound = await journal.pin(BROKEN), await journal.pin(SOUND)
    segment, other = broken.open_segment(RUN), sound.open_segment(RUN)
    await append_batch(segment, 20, "before", acknowledged)
    await append_batch(other, 20, "before", acknowledged)
    released: list[int] = []
    told = 0

    async def append_in_vain() -> None:
        nonlocal told
        await expect(StorageFailed, segment.append(KIND, b"lost", timestamp_us=1))
        told += 1

    async def tail() -> None:
        nonlocal told
        await expect(StorageFailed, segment.wait_beyond(20))
        told += 1

    with syncs_fail(pattern, errno.EIO):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tail)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(in_flight):
                nursery.start_soon(append_in_vain)
            segment.append_nowait(KIND, b"lost", timestamp_us=1, effect=lambda: released.append(1))
        assert told == in_flight + 1
        await append_batch(other, 20, "meanwhile", acknowledged)
    await _refuses_everything(journal, segment)
    assert not released, "an effect left although its record is not durable"
    check(segment, acknowledged)
    assert broken.open_segment(OTHER_RUN).read() == []
    await append_batch(other, 20, "after", acknowledged)
    check(other, acknowledged)
    assert broken.statistics().stopped_by == StorageFailed.code
    assert sound.statistics().stopped_by is None


async def _refuses_everything(journal: Journal, segment: Segment) -> None:
    """The disk is well again; the tenant stays stopped, since nobody knows what it has lost."""
    broken = journal.open_tenants()[0]
    assert broken.tenant_id == BROKEN
    assert await resume_tenants(journal) == 0
    assert not await broken.try_resume()
    await expect(StorageFailed, segment.append(KIND, b"lost", timestamp_us=1))
    await expect(StorageFailed, segment.append_many([NewRecord(KIND, b"lost", 1)]))
    await expect(StorageFailed, segment.seal())
    await expect(StorageFailed, segment.trim(1))
    await expect(StorageFailed, segment.wait_beyond(10_000))
    await expect(StorageFailed, broken.write_rows([(b"r", b"lost")]))
    await expect(StorageFailed, broken.open_segment(OTHER_RUN).append(KIND, b"", timestamp_us=1))
    with pytest.raises(StorageFailed):
        segment.append_nowait(KIND, b"lost", timestamp_us=1, effect=lambda: None)
    with pytest.raises(StorageFailed):
        segment.append_many_nowait([NewRecord(KIND, b"lost", 1)], effects=[lambda: None])


async def table_fails(journal: Journal, acknowledged: Acknowledged) -> None:
    """A table that cannot be synced when memory is written out: found at the next commit."""
    opened = await journal.pin(BROKEN)
    segment = opened.open_segment(RUN)
    await append_batch(segment, 20, "before", acknowledged)
    with syncs_fail("*/tenant=broken/*.sst", errno.EIO), pytest.raises(StorageFailed):
        opened.flush()
    await expect(StorageFailed, segment.append(KIND, b"lost", timestamp_us=1))
    check(segment, acknowledged)


async def flush_tick_fails(journal: Journal, acknowledged: Acknowledged) -> None:
    """In mode `interval` the fsync belongs to no append; the tenant stops all the same."""
    opened = await journal.pin(BROKEN)
    segment = opened.open_segment(RUN)
    with syncs_fail("*/tenant=broken/*.log", errno.EIO):
        await append_batch(segment, 20, "before", acknowledged)
        await expect(StorageFailed, segment.wait_beyond(20))
    await expect(StorageFailed, segment.append(KIND, b"lost", timestamp_us=1))
    check(segment, acknowledged)


async def sync_finds_no_room(journal: Journal, acknowledged: Acknowledged) -> None:
    """A file system that allocates late says only at the fsync that it is full."""
    opened = await journal.pin(BROKEN)
    segment = opened.open_segment(RUN)
    await append_batch(segment, 20, "before", acknowledged)
    with syncs_fail("*/tenant=broken/*", errno.ENOSPC):
        await expect(StorageFull, segment.append(KIND, b"lost", timestamp_us=1))
        check(segment, acknowledged)
    await wait_until_resumed(journal)
    before = segment.next_offset
    assert before in (20, 21), "what was refused may be there, and nothing else"
    assert await segment.append(KIND, b"after", timestamp_us=1) == before
    check(segment, acknowledged)


async def new_folder_fails(journal: Journal, acknowledged: Acknowledged) -> None:
    """A tenant whose folder could not be made durable is not written to, at no later try either."""
    with syncs_fail("*/segments", errno.EIO):
        for _ in range(2):
            await expect(StorageFailed, journal.pin(BROKEN))
    opened = await journal.pin(BROKEN)
    await append_batch(opened.open_segment(RUN), 1, "after", acknowledged)


async def stopped_tenant_is_closed_when_idle(journal: Journal, acknowledged: Acknowledged) -> None:
    """Closing a store that met a fault meets it again, which must concern nobody else."""
    opened, sound = await journal.pin(BROKEN), await journal.pin(SOUND)
    await append_batch(opened.open_segment(RUN), 20, "before", acknowledged)
    with syncs_fail("*/tenant=broken/*", errno.EIO):
        await expect(StorageFailed, opened.open_segment(RUN).append(KIND, b"lost", timestamp_us=1))
        journal.unpin(opened)
        await wait_until(lambda: opened not in journal.open_tenants())
        await append_batch(sound.open_segment(RUN), 20, "after", acknowledged)


async def system_store_fails(journal: Journal, acknowledged: Acknowledged) -> None:
    journal.system.put("keys", "before", b"1")
    with syncs_fail("*/system/*.log", errno.EIO), pytest.raises(StorageFailed):
        journal.system.put("keys", "lost", b"2")
    with pytest.raises(StorageFailed):
        journal.system.put("keys", "lost", b"3")
    assert journal.system.get("keys", "before") == b"1"
    await append_batch((await journal.pin(SOUND)).open_segment(RUN), 20, "after", acknowledged)


# ---- after the restart ----


async def restart(journal: Journal, acknowledged: Acknowledged) -> None:
    for tenant in list(acknowledged):
        async with journal.use(tenant_id(tenant), create=False) as opened:
            segment = opened.open_segment(RUN)
            check(segment, acknowledged)
            await segment.append(KIND, b"after the restart", timestamp_us=1)


async def play(scenario: str, directory: Path) -> None:
    notes = directory / "acknowledged"
    acknowledged: Acknowledged = {}
    if notes.exists():
        acknowledged = msgspec.msgpack.decode(notes.read_bytes(), type=Acknowledged)
    durability = "interval" if scenario == "flush_tick_fails" else "commit"
    settings = msgspec.convert(
        {"durability": durability, "tenant_idle_close_s": 1}, JournalSettings
    )
    async with open_journal(directory / "data", settings) as journal:
        await globals()[scenario](journal, acknowledged)
    notes.write_bytes(msgspec.msgpack.encode(acknowledged))


if __name__ == "__main__":
    _, scenario_text, directory_text = sys.argv
    for act in (scenario_text, "restart"):
        assert in_child(trio.run, play, act, Path(directory_text)) == 0, act
