"""A run's segment: append, read, tail, seal, trim, and that what is not durable is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.base import limits
from engine.base.errors import (
    AppendConflict,
    JournalBusy,
    JournalClosed,
    LimitExceeded,
    StorageFailed,
)
from engine.ext.append import PendingQueue
from engine.journal.layout import RUN_TAG, head_key, run_key
from engine.journal.tenant import TenantJournal
from engine.model.payloads import StepCompleted
from engine.model.records import NewRecord, Record, RecordKind
from engine.wire import journal
from tests.journal.harness import (
    NOW_US,
    RUN,
    STEP,
    Effects,
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


def expect_nothing(tenant: TenantJournal) -> None:
    assert tenant.committer.pending.is_empty
    assert list(tenant.runs()) == []
    assert list(tenant.rows(b"")) == []


# ---- append and read ----


async def test_records_are_read_as_they_were_appended(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    assert await segment.append(RecordKind.RUN_ACCEPTED, b"first", timestamp_us=1) == 0
    second = NewRecord(RecordKind.RUN_STARTED, b"second", 2, flags=7)
    third = NewRecord(RecordKind.STEP_COMPLETED, b"", 3)
    assert await segment.append_many([second, third]) == 1
    assert segment.read() == [
        Record(0, RecordKind.RUN_ACCEPTED, 1, b"first"),
        Record(1, RecordKind.RUN_STARTED, 2, b"second", flags=7),
        Record(2, RecordKind.STEP_COMPLETED, 3, b""),
    ]
    assert (segment.first_offset, segment.durable_offset, segment.next_offset) == (0, 3, 3)


async def test_a_segment_addresses_its_own_run_only(opened: Opened) -> None:
    tenant, _ = opened
    neighbours = [run_number(7), run_number(8), run_number(9), run_number(2**128 - 1)]
    said = [journal.encode(StepCompleted(position=number)) for number in range(4)]
    for number, run in enumerate(neighbours):
        await append(tenant.open_segment(run), *[said[number]] * (number + 1))
    for number, run in enumerate(neighbours):
        segment = tenant.open_segment(run)
        assert payloads_of(segment.read()) == [said[number]] * (number + 1)
        assert segment.fold().steps_completed == number + 1
    assert list(tenant.runs()) == neighbours


async def test_two_views_of_a_run_are_of_one_segment(opened: Opened) -> None:
    left, right = opened[0].open_segment(RUN), opened[0].open_segment(RUN)
    await append(left, b"a")
    await append(right, b"b")
    assert left.next_offset == right.next_offset == 2
    assert payloads_of(left.read()) == [b"a", b"b"]


async def test_a_run_that_has_nothing(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    assert segment.read() == []
    assert segment.next_offset == 0
    assert segment.fold().status == 0
    expect_nothing(opened[0])


async def test_a_new_segment_is_like_an_opened_one(opened: Opened) -> None:
    segment = opened[0].new_segment(RUN)
    await append(segment, b"a")
    assert payloads_of(opened[0].open_segment(RUN).read()) == [b"a"]


async def test_pages(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    await segment.append_many(new_records(*[bytes([number]) for number in range(10)]))
    assert [record.offset for record in segment.read(3)] == list(range(3, 10))
    assert [record.offset for record in segment.read(3, records_max=4)] == [3, 4, 5, 6]
    assert [record.offset for record in segment.read(9)] == [9]
    assert segment.read(10) == []
    assert segment.read(2**40) == []
    with pytest.raises(LimitExceeded):
        segment.read(0, records_max=0)


async def test_a_page_is_bounded_in_bytes(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = opened[0].open_segment(RUN)
    await segment.append_many(new_records(b"x" * 84, b"y" * 84, b"z" * 84))  # 100 with the header
    monkeypatch.setattr(limits, "read_page_bytes_max", 200)
    assert [record.offset for record in segment.read()] == [0, 1]
    monkeypatch.setattr(limits, "read_page_bytes_max", 10)
    assert [record.offset for record in segment.read(1)] == [1]  # else nobody would get past it


async def test_a_page_has_a_bound_that_the_caller_cannot_raise(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    count = limits.read_page_records_max
    await segment.append_many(new_records(*[b""] * count))
    await append(segment, b"one more")
    assert len(segment.read()) == count
    assert len(segment.read(records_max=count + 1)) == count


# ---- what is not durable is not there ----


async def test_an_append_returns_after_the_commit(opened: Opened) -> None:
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    gate.shut()
    returned: list[int] = []

    async def append_one() -> None:
        returned.append(await segment.append(STEP, b"a", timestamp_us=NOW_US))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(append_one)
        await gate.wait_for_arrival()
        assert returned == []
        assert (segment.next_offset, segment.durable_offset) == (1, 0)
        assert segment.read() == []
        gate.open()
    assert returned == [0]
    assert payloads_of(segment.read()) == [b"a"]


async def test_an_effect_is_released_after_the_commit(tmp_path: Path) -> None:
    effects = Effects()
    async with gated_tenant(tmp_path, release=effects.release) as (tenant, gate):
        segment = tenant.open_segment(RUN)
        gate.shut()
        assert segment.append_nowait(STEP, b"a", timestamp_us=NOW_US, effect="one") == 0
        offset = segment.append_many_nowait(new_records(b"b", b"c"), effects=["two", "three"])
        assert offset == 1
        await gate.wait_for_arrival()
        assert effects.released == []
        assert segment.read() == []
        gate.open()
        assert await effects.wait_for(3) == ["one", "two", "three"]
        assert payloads_of(segment.read()) == [b"a", b"b", b"c"]


async def test_an_effect_that_appends_is_in_the_next_commit(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    seen: list[int] = []
    done = trio.Event()

    def follow() -> None:
        seen.append(segment.durable_offset)
        if segment.next_offset < 4:
            segment.append_nowait(STEP, b"", timestamp_us=NOW_US, effect=follow)
        else:
            done.set()

    segment.append_nowait(STEP, b"", timestamp_us=NOW_US, effect=follow)
    await done.wait()
    assert seen == [1, 2, 3, 4]


async def test_a_cancelled_append_is_durable_and_cancelled_afterwards(opened: Opened) -> None:
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    gate.shut()
    returned: list[int] = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def append_one() -> None:
                returned.append(await segment.append(STEP, b"a", timestamp_us=NOW_US))
                await trio.lowlevel.checkpoint()
                returned.append(-1)

            nursery.start_soon(append_one)
            with trio.CancelScope(shield=True):
                await gate.wait_for_arrival()
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                assert returned == []
                gate.open()
    assert scope.cancelled_caught
    assert returned == [0]
    assert payloads_of(segment.read()) == [b"a"]


# ---- conflicts, and transitions whole or not at all ----


async def test_a_conflict_changes_nothing(opened: Opened) -> None:
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    await append(segment, b"a")
    writes = gate.writes_synced
    with pytest.raises(AppendConflict) as caught:
        await segment.append(STEP, b"b", timestamp_us=NOW_US, expected=0)
    assert caught.value.details == {"expected": 0, "next_offset": 1}
    with pytest.raises(AppendConflict):
        await segment.append_many(new_records(b"b"), rows=[(run_key(RUN), b"row")], expected=2)
    with pytest.raises(AppendConflict):
        segment.append_nowait(STEP, b"b", timestamp_us=NOW_US, effect=pytest.fail, expected=0)
    with pytest.raises(AppendConflict):
        segment.append_many_nowait(new_records(b"b"), effects=[pytest.fail], expected=0)
    assert segment.next_offset == 1
    assert tenant.row(run_key(RUN)) is None
    assert gate.writes_synced == writes
    assert await segment.append(STEP, b"b", timestamp_us=NOW_US, expected=1) == 1


async def test_of_two_that_expect_the_same_offset_one_wins(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    outcomes: list[object] = []

    async def try_to_append(payload: bytes) -> None:
        try:
            outcomes.append(await segment.append(STEP, payload, timestamp_us=1, expected=0))
        except AppendConflict as conflict:
            outcomes.append(conflict.code)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(try_to_append, bytes([number]))
    assert sorted(map(str, outcomes)) == ["0"] + ["append_conflict"] * 4
    assert len(segment.read()) == 1


async def test_a_transition_with_one_bad_record_is_not_there_at_all(opened: Opened) -> None:
    tenant, _ = opened
    segment = tenant.open_segment(RUN)
    too_large = new_records(b"a", bytes(limits.record_payload_bytes_max + 1))
    rows = [(run_key(RUN), b"row")]
    with pytest.raises(LimitExceeded, match="reference"):
        await segment.append_many(too_large, rows=rows)
    with pytest.raises(LimitExceeded, match="row key"):
        await segment.append_many(new_records(b"a"), rows=[*rows, (b"", b"")])
    assert segment.next_offset == 0
    expect_nothing(tenant)


async def test_the_largest_record_there_may_be(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    largest = bytes(limits.record_payload_bytes_max)
    await append(segment, largest)
    assert payloads_of(segment.read()) == [largest]


async def test_a_transitions_rows_and_records_are_one_write(tmp_path: Path) -> None:
    async with gated_tenant(tmp_path) as (tenant, gate):
        segment = tenant.open_segment(RUN)
        rows = [(run_key(RUN), b"state"), (b"timer", b"due")]
        await segment.append_many(new_records(b"a", b"b"), rows=rows)
        assert gate.writes_synced == 1
        assert tenant.row(run_key(RUN)) == b"state"
        await segment.append_many(new_records(b"c"), rows=[(b"timer", None)])
        assert list(tenant.rows(b"")) == [(run_key(RUN), b"state")]
        assert list(tenant.rows(RUN_TAG)) == [(run_key(RUN), b"state")]


async def test_a_transition_of_nothing_returns(opened: Opened) -> None:
    segment = opened[0].open_segment(RUN)
    released = trio.Event()
    segment.append_many_nowait([], effects=[released.set])
    await released.wait()
    assert await segment.append_many([]) == 0
    assert await segment.append_many([], rows=[(run_key(RUN), b"state")]) == 0
    assert opened[0].row(run_key(RUN)) == b"state"


async def test_head_rows_are_the_journals_own(opened: Opened) -> None:
    tenant, _ = opened
    with pytest.raises(AssertionError):
        await tenant.open_segment(RUN).append_many([], rows=[(head_key(RUN), b"")])
    with pytest.raises(AssertionError):
        await tenant.write_rows([(head_key(RUN), None)])


# ---- many at once ----


async def test_contiguous_sequence(tmp_path: Path) -> None:
    """CONTIGUOUS_SEQUENCE: whoever appends to whatever, a run's offsets are 0, 1, 2 ... in the
    order of the calls, each given to one record, before and after a restart."""
    runs = [run_number(number) for number in range(3)]
    given: dict[bytes, list[tuple[int, bytes]]] = {run: [] for run in runs}

    async def appends(tenant: TenantJournal, worker: int) -> None:
        for number in range(20):
            segment = tenant.open_segment(runs[(worker + number) % 3])
            payload = f"{worker}.{number}".encode()
            if number % 5 == 4:
                stale = segment.next_offset - 1
                with pytest.raises(AppendConflict):
                    await segment.append(STEP, b"stale", timestamp_us=NOW_US, expected=stale)
            if number % 2:
                offset = await segment.append(STEP, payload, timestamp_us=NOW_US)
                given[segment.run_id].append((offset, payload))
            else:
                first = await segment.append_many(new_records(payload, payload + b"+"))
                given[segment.run_id] += [(first, payload), (first + 1, payload + b"+")]

    async with gated_tenant(tmp_path) as (tenant, _), trio.open_nursery() as nursery:
        for worker in range(16):
            nursery.start_soon(appends, tenant, worker)

    async with gated_tenant(tmp_path) as (tenant, _):
        for run in runs:
            acknowledged = sorted(given[run])
            assert [offset for offset, _ in acknowledged] == list(range(len(acknowledged)))
            records = tenant.open_segment(run).read()
            assert [(record.offset, record.payload) for record in records] == acknowledged
            assert tenant.open_segment(run).next_offset == len(acknowledged)


# ---- when more waits than may ----


async def test_an_append_waits_for_room_and_a_nowait_is_refused(opened: Opened) -> None:
    tenant, gate = opened
    tenant.committer.pending = PendingQueue(pending_records_max=3, batch_records_max=2)
    segment = tenant.open_segment(RUN)
    gate.shut()
    segment.append_nowait(STEP, b"0", timestamp_us=NOW_US, effect=int)
    await gate.wait_for_arrival()
    for payload in (b"1", b"2", b"3"):
        segment.append_nowait(STEP, payload, timestamp_us=NOW_US, effect=int)
    await trio.testing.wait_all_tasks_blocked()
    while tenant.committer.pending.has_room:  # the committer may have taken a full batch
        segment.append_nowait(STEP, b"more", timestamp_us=NOW_US, effect=int)
    count = segment.next_offset
    with pytest.raises(JournalBusy):
        segment.append_nowait(STEP, b"x", timestamp_us=NOW_US, effect=pytest.fail)
    with pytest.raises(JournalBusy):
        segment.append_many_nowait(new_records(b"x"), effects=[pytest.fail])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(append, segment, b"waits", b"and goes on")
        await trio.testing.wait_all_tasks_blocked()
        assert segment.next_offset == count
        gate.open()
    assert payloads_of(segment.read(count)) == [b"waits", b"and goes on"]


async def test_a_transition_waits_for_room_for_all_of_it(opened: Opened) -> None:
    tenant, gate = opened
    tenant.committer.pending = PendingQueue(pending_records_max=4)
    segment = tenant.open_segment(RUN)
    gate.shut()
    segment.append_nowait(STEP, b"0", timestamp_us=NOW_US, effect=int)
    await gate.wait_for_arrival()
    for payload in (b"1", b"2"):
        segment.append_nowait(STEP, payload, timestamp_us=NOW_US, effect=int)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(segment.append_many, new_records(b"3", b"4", b"5"))
        await trio.testing.wait_all_tasks_blocked()
        assert segment.next_offset == 3
        gate.open()
    assert payloads_of(segment.read()) == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_waiting_for_room_can_be_cancelled(opened: Opened) -> None:
    tenant, gate = opened
    tenant.committer.pending = PendingQueue(pending_records_max=1)
    segment = tenant.open_segment(RUN)
    gate.shut()
    segment.append_nowait(STEP, b"0", timestamp_us=NOW_US, effect=int)
    await gate.wait_for_arrival()
    segment.append_nowait(STEP, b"1", timestamp_us=NOW_US, effect=int)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, segment, b"never")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert segment.next_offset == 2


# ---- a stopped tenant and a closed one ----


async def test_a_closed_tenants_segments_say_so(tmp_path: Path) -> None:
    async with gated_tenant(tmp_path) as (tenant, _):
        segment = tenant.open_segment(RUN)
        await append(segment, b"a")
    with pytest.raises(JournalClosed):
        await append(segment, b"b")
    with pytest.raises(JournalClosed):
        segment.append_nowait(STEP, b"b", timestamp_us=NOW_US, effect=pytest.fail)
    with pytest.raises(JournalClosed):
        segment.read()
    with pytest.raises(JournalClosed):
        segment.fold()
    with pytest.raises(JournalClosed):
        await segment.seal()


async def test_a_stopped_tenant_goes_on_reading(opened: Opened) -> None:
    tenant, gate = opened
    segment = tenant.open_segment(RUN)
    await append(segment, b"a")
    gate.fail_with(StorageFailed("the disk is gone"))
    with pytest.raises(StorageFailed):
        await append(segment, b"b")
    gate.fail_with(None)
    for _ in range(2):
        with pytest.raises(StorageFailed, match="the disk is gone"):
            await append(segment, b"c")
        with pytest.raises(StorageFailed):
            segment.append_nowait(STEP, b"c", timestamp_us=NOW_US, effect=pytest.fail)
        with pytest.raises(StorageFailed):
            await segment.seal()
    assert payloads_of(segment.read()) == [b"a"]
    assert not segment.is_sealed
