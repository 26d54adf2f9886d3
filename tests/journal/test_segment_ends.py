"""The two ends of a segment: tailing what comes, sealing the end, trimming the beginning."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.base.errors import (
    JournalClosed,
    LimitExceeded,
    OffsetTrimmed,
    SegmentSealed,
    StorageFailed,
)
from engine.journal.segment import Segment
from engine.journal.tenant import TenantJournal
from tests.journal.harness import (
    NOW_US,
    RUN,
    STEP,
    append,
    gated_tenant,
    new_records,
    payloads_of,
    run_number,
)
from tests.journal.stores import Gate

Opened = tuple[TenantJournal, Gate]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    async with gated_tenant(tmp_path / "store") as opened:
        yield opened


# ---- tailing ----


async def test_a_tail_returns_at_once_for_what_is_there(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    await append(segment, b"a", b"b")
    assert await segment.wait_beyond(0) == 2
    assert await segment.wait_beyond(1) == 2


async def test_a_tail_wakes_when_the_record_is_durable(opened: Opened) -> None:
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    gate.shut()
    seen: list[int] = []

    async def tail(offset: int) -> None:
        seen.append(await segment.wait_beyond(offset))

    async with trio.open_nursery() as nursery:
        for offset in (0, 0, 1):
            nursery.start_soon(tail, offset)
        await trio.testing.wait_all_tasks_blocked()
        segment.append_nowait(STEP, b"a", timestamp_us=NOW_US, effect=int)
        await gate.wait_for_arrival()
        assert seen == []
        gate.open()
        assert await segment.wait_beyond(0) == 1
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [1, 1]
        await append(segment, b"b")
    assert seen == [1, 1, 2]


async def test_a_tail_sees_every_record_of_a_busy_segment(opened: Opened) -> None:
    tenant, _ = opened
    segment = tenant.open_segment(RUN)
    seen: list[bytes] = []

    async def follow() -> None:
        while len(seen) < 100:
            await segment.wait_beyond(len(seen))
            seen.extend(payloads_of(segment.read(len(seen))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for number in range(100):
            segment.append_nowait(STEP, bytes([number]), timestamp_us=NOW_US, effect=int)
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
    assert seen == [bytes([number]) for number in range(100)]


async def test_a_tail_of_another_run_is_not_woken(opened: Opened) -> None:
    tenant, _ = opened
    quiet = tenant.open_segment(run_number(1))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(quiet.wait_beyond, 0)
            await append(tenant.open_segment(run_number(2)), b"a")
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            scope.cancel()
    assert scope.cancelled_caught


async def test_a_cancelled_tail_leaves_the_others(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    seen: list[int] = []

    async def tail() -> None:
        seen.append(await segment.wait_beyond(0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tail)
        async with trio.open_nursery() as doomed:
            doomed.start_soon(tail)
            await trio.testing.wait_all_tasks_blocked()
            doomed.cancel_scope.cancel()
        await append(segment, b"a")
    assert seen == [1]


async def test_a_tail_is_told_when_the_tenant_stops(opened: Opened) -> None:
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    gate.fail_with(StorageFailed("the disk is gone"))

    async def tail() -> None:
        with pytest.raises(StorageFailed, match="the disk is gone"):
            await segment.wait_beyond(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tail)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StorageFailed):
            await append(segment, b"a")


async def test_a_tail_is_told_when_the_tenant_is_closed(tmp_path: Path) -> None:
    async def tail(segment: Segment) -> None:
        with pytest.raises(JournalClosed):
            await segment.wait_beyond(0)

    async with trio.open_nursery() as nursery, gated_tenant(tmp_path) as (tenant, _):
        nursery.start_soon(tail, tenant.open_segment(RUN))
        await trio.testing.wait_all_tasks_blocked()


# ---- sealing ----


async def test_nothing_follows_a_seal(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    await append(segment, b"a", b"b")
    assert await segment.seal() == 2
    assert segment.is_sealed
    with pytest.raises(SegmentSealed) as caught:
        await append(segment, b"c")
    assert caught.value.details == {"next_offset": 2}
    with pytest.raises(SegmentSealed):
        segment.append_nowait(STEP, b"c", timestamp_us=NOW_US, effect=pytest.fail)
    with pytest.raises(SegmentSealed):
        await segment.append_many(new_records(b"c"))
    assert payloads_of(segment.read()) == [b"a", b"b"]
    assert await segment.seal() == 2


async def test_a_seal_survives_a_restart(tmp_path: Path) -> None:
    async with gated_tenant(tmp_path) as (tenant, _):
        await append(tenant.open_segment(RUN), b"a")
        await tenant.open_segment(RUN).seal()
        await tenant.open_segment(run_number(5)).seal()
    async with gated_tenant(tmp_path) as (tenant, _):
        for run, length in ((RUN, 1), (run_number(5), 0)):
            segment = tenant.open_segment(run)
            assert segment.is_sealed
            assert segment.next_offset == len(segment.read()) == length
            with pytest.raises(SegmentSealed):
                await append(segment, b"b")


async def test_a_seal_comes_after_what_was_appended_before_it(opened: Opened) -> None:
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    gate.shut()
    ends: list[int] = []

    async def seal() -> None:
        ends.append(await segment.seal())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(append, segment, b"a")
        await gate.wait_for_arrival()
        segment.append_nowait(STEP, b"b", timestamp_us=NOW_US, effect=int)
        nursery.start_soon(seal)
        await trio.testing.wait_all_tasks_blocked()
        assert ends == []
        with pytest.raises(SegmentSealed):
            await append(segment, b"c")
        gate.open()
    assert ends == [2]
    assert payloads_of(segment.read()) == [b"a", b"b"]


async def test_a_second_seal_also_returns_when_it_is_durable(opened: Opened) -> None:
    """Else a crash after its return would leave a segment open that it called sealed."""
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    await append(segment, b"a")
    gate.shut()
    ends: list[int] = []

    async def seal() -> None:
        ends.append(await segment.seal())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(seal)
        await gate.wait_for_arrival()
        nursery.start_soon(seal)
        await trio.testing.wait_all_tasks_blocked()
        before_the_commit = list(ends)
        gate.open()
    assert before_the_commit == []
    assert ends == [1, 1]


# ---- trimming ----


async def test_what_was_trimmed_is_gone_and_offsets_stay(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    await append(segment, b"a", b"b", b"c", b"d")
    await segment.trim(2)
    assert (segment.first_offset, segment.durable_offset, segment.next_offset) == (2, 4, 4)
    with pytest.raises(OffsetTrimmed) as caught:
        segment.read()
    assert caught.value.details == {"first_offset": 2}
    with pytest.raises(OffsetTrimmed):
        segment.read(1)
    with pytest.raises(OffsetTrimmed):
        segment.fold()
    assert [(record.offset, record.payload) for record in segment.read(2)] == [
        (2, b"c"),
        (3, b"d"),
    ]
    assert await segment.append(STEP, b"e", timestamp_us=NOW_US, expected=4) == 4


async def test_a_trim_survives_a_restart(tmp_path: Path) -> None:
    whole, empty = run_number(1), run_number(2)
    async with gated_tenant(tmp_path) as (tenant, _):
        for run, before_offset in ((whole, 2), (empty, 3)):
            await append(tenant.open_segment(run), b"a", b"b", b"c")
            await tenant.open_segment(run).trim(before_offset)
    async with gated_tenant(tmp_path) as (tenant, _):
        segment = tenant.open_segment(whole)
        assert (segment.first_offset, segment.next_offset) == (2, 3)
        assert payloads_of(segment.read(2)) == [b"c"]
        segment = tenant.open_segment(empty)
        assert (segment.first_offset, segment.next_offset) == (3, 3)
        assert segment.read(3) == []
        assert await segment.append(STEP, b"d", timestamp_us=NOW_US) == 3
    async with gated_tenant(tmp_path) as (tenant, _):
        assert payloads_of(tenant.open_segment(empty).read(3)) == [b"d"]
        assert tenant.open_segment(empty).next_offset == 4


async def test_a_trim_leaves_the_neighbours(opened: Opened) -> None:
    tenant, _ = opened
    segments = [tenant.open_segment(run_number(number)) for number in (6, 7, 8)]
    for segment in segments:
        await append(segment, b"a", b"b")
    await segments[1].trim(2)
    assert payloads_of(segments[0].read()) == payloads_of(segments[2].read()) == [b"a", b"b"]
    assert list(tenant.runs()) == [run_number(6), run_number(8)]


@pytest.mark.parametrize("before_offset", [-1, 0, 4, 2**64])
async def test_a_trim_outside_the_segment_is_refused(opened: Opened, before_offset: int) -> None:
    segment = opened[0].open_segment(RUN)
    await append(segment, b"a", b"b", b"c")
    await segment.trim(1)
    with pytest.raises(LimitExceeded) as caught:
        await segment.trim(before_offset)
    assert caught.value.details == {"first_offset": 1, "durable_offset": 3}
    assert payloads_of(segment.read(1)) == [b"b", b"c"]


async def test_a_trim_of_nothing_writes_nothing(opened: Opened) -> None:
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    await append(segment, b"a", b"b")
    await segment.trim(1)
    writes = gate.writes_synced
    await segment.trim(1)
    assert gate.writes_synced == writes


async def test_what_is_not_durable_cannot_be_trimmed(opened: Opened) -> None:
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    gate.shut()
    segment.append_nowait(STEP, b"a", timestamp_us=NOW_US, effect=int)
    await gate.wait_for_arrival()
    with pytest.raises(LimitExceeded):
        await segment.trim(1)


async def test_a_sealed_segment_can_be_trimmed_and_stays_sealed(tmp_path: Path) -> None:
    async with gated_tenant(tmp_path) as (tenant, _):
        segment = tenant.open_segment(RUN)
        await append(segment, b"a", b"b")
        await segment.seal()
        await segment.trim(2)
    async with gated_tenant(tmp_path) as (tenant, _):
        segment = tenant.open_segment(RUN)
        assert segment.is_sealed
        assert (segment.first_offset, segment.next_offset) == (2, 2)


async def test_a_second_trim_also_returns_when_it_is_durable(opened: Opened) -> None:
    """Who forgets a trim that has returned relies on it."""
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    await append(segment, b"a", b"b")
    gate.shut()
    returned: list[int] = []

    async def trim() -> None:
        await segment.trim(1)
        returned.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trim)
        await gate.wait_for_arrival()
        nursery.start_soon(trim)
        await trio.testing.wait_all_tasks_blocked()
        before_the_commit = list(returned)
        gate.open()
    assert before_the_commit == []
    assert returned == [1, 1]


async def test_a_trim_under_a_reader_does_not_look_like_damage(opened: Opened) -> None:
    """A page that was asked for before the trim is read after it: the reader is told that it was
    trimmed or gets the records, and the tenant goes on."""
    segment = opened[0].open_segment(RUN)
    await append(segment, b"a", b"b", b"c")
    values = segment.read_values()
    await segment.trim(2)
    with contextlib.suppress(OffsetTrimmed):
        assert len(list(values)) == 3
    await append(segment, b"d")
