"""Group commit: what goes into one commit, on which lane, what is released when, and what happens
to everyone who waits when a commit fails. On a store in memory, with a gate before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from engine.base import limits
from engine.base.clock import Clock, ManualClock
from engine.base.errors import EngineError, JournalClosed, StorageDamaged, StorageFailed
from engine.ext.append import PendingQueue, SegmentHead
from engine.journal.committer import Committer, Durability
from engine.journal.lanes import LoopBudget
from engine.journal.threads import CommitThreads
from tests.journal.harness import NOW_US, RUN, STEP, Effects, ForwardClock, eventually
from tests.journal.stores import Gate, MemoryStore


class Bench:
    """A committer on a store in memory, and a segment's head to append with."""

    def __init__(
        self,
        gate: Gate,
        durability: Durability,
        threads: CommitThreads,
        budget: LoopBudget,
        clock: Clock,
    ) -> None:
        self.gate = gate
        self.threads = threads
        self.store = MemoryStore(self.gate)
        self.effects = Effects()
        self.stops: list[EngineError] = []
        self.head = SegmentHead(RUN)
        self.committer = Committer(
            self.store,
            durability=durability,
            release=self.effects.release,
            threads=threads,
            budget=budget,
            clock=clock,
            on_stop=self.stops.append,
        )

    def put(self, effect: object = None, payload: bytes = b"") -> int:
        offset = self.committer.pending.append(self.head, None, STEP, payload, NOW_US, effect)
        self.committer.wake()
        return offset

    async def append(self, payload: bytes = b"") -> int:
        task = trio.lowlevel.current_task()
        offset = self.committer.pending.append(self.head, None, STEP, payload, NOW_US, None, task)
        self.committer.wake()
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        return offset

    @property
    def sizes(self) -> list[int]:
        return [len(written.keys) for written in self.store.written]


@asynccontextmanager
async def benches(
    count: int,
    *,
    durability: Durability = Durability.COMMIT,
    clock: Clock | None = None,
    gate: Gate | None = None,
) -> AsyncIterator[list[Bench]]:
    threads, budget = CommitThreads(), LoopBudget()
    trio.lowlevel.add_instrument(budget)
    clock = clock or ManualClock()
    made = [Bench(gate or Gate(), durability, threads, budget, clock) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for bench in made:
            nursery.start_soon(bench.committer.run)
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield made
        finally:
            for bench in made:
                bench.gate.open()
                await bench.committer.aclose()
            threads.close()
            trio.lowlevel.remove_instrument(budget)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with benches(1) as (bench,):
        yield bench


# ---- what goes into one commit ----


async def test_all_that_is_appended_in_one_pass_is_one_commit(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(bench.append)
    assert bench.sizes == [50]
    assert bench.head.durable_offset == 50
    statistics = bench.committer.statistics()
    assert (statistics.commits, statistics.records) == (1, 50)
    assert (statistics.pending_records, statistics.pending_bytes) == (0, 0)


async def test_a_lone_append_does_not_wait_for_company(bench: Bench) -> None:
    for number in range(5):
        assert await bench.append() == number
    assert bench.sizes == [1, 1, 1, 1, 1]


async def test_while_a_commit_is_under_way_the_next_one_fills(bench: Bench) -> None:
    bench.gate.shut()
    bench.put("first")
    await bench.gate.wait_for_arrival()
    for number in range(30):
        bench.put(number)
        await trio.lowlevel.checkpoint()
    bench.gate.open()
    assert await bench.effects.wait_for(31) == ["first", *range(30)]
    assert bench.sizes == [1, 30]


async def test_more_than_one_batch_is_committed_in_order(bench: Bench) -> None:
    bench.committer.pending = PendingQueue(batch_records_max=4)
    for number in range(30):
        bench.put(number)
    assert await bench.effects.wait_for(30) == list(range(30))
    assert bench.sizes == [4] * 7 + [2]
    keys = [key for written in bench.store.written for key in written.keys]
    assert keys == sorted(keys)


async def test_a_batch_is_released_only_when_those_before_it_are_durable(bench: Bench) -> None:
    bench.committer.pending = PendingQueue(batch_records_max=2)
    bench.gate.shut()
    for number in range(6):
        bench.put(number)
    await bench.gate.wait_for_arrival()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.effects.released == []
    assert bench.head.durable_offset == 0
    bench.gate.open()
    await bench.effects.wait_for(6)
    assert bench.effects.released == list(range(6))


async def test_rows_without_a_record_are_committed(bench: Bench) -> None:
    bench.committer.pending.change_rows([(b"k", b"v")], [], trio.lowlevel.current_task())
    bench.committer.wake()
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
    assert bench.store.written[0].rows == [(b"k", b"v")]


# ---- durability modes ----


@pytest.mark.parametrize(
    ("durability", "synced", "unsynced"),
    [(Durability.COMMIT, 3, 0), (Durability.INTERVAL, 0, 3), (Durability.OS, 0, 3)],
)
@pytest.mark.parametrize("lane", ["inline", "thread"])
async def test_which_commits_wait_for_the_disk(
    durability: Durability, synced: int, unsynced: int, lane: str
) -> None:
    async with benches(1, durability=durability) as (bench,):
        for _ in range(3):
            if lane == "thread":
                bench.gate.shut()
                bench.put()
                await bench.gate.wait_for_arrival()
                bench.gate.open()
            await bench.append() if lane == "inline" else await eventually(
                lambda: bench.head.durable_offset == bench.head.next_offset
            )
        assert (bench.gate.writes_synced, bench.gate.writes_unsynced) == (synced, unsynced)
        assert bench.gate.wal_syncs == 0
        assert bench.store.on_loop_thread == [lane == "inline"] * 3


async def test_a_sync_makes_durable_what_was_only_written() -> None:
    async with benches(1, durability=Durability.INTERVAL) as (bench,):
        committer = bench.committer
        await committer.sync()
        assert bench.gate.wal_syncs == 0
        await bench.append()
        await bench.append()
        assert committer.unsynced
        await committer.sync()
        assert bench.gate.wal_syncs == 1
        assert not committer.unsynced
        await committer.sync()
        assert bench.gate.wal_syncs == committer.statistics().syncs == 1


async def test_what_is_written_during_a_sync_is_for_the_next_one() -> None:
    async with benches(1, durability=Durability.INTERVAL) as (bench,), trio.open_nursery() as other:
        await bench.append()
        bench.gate.shut()
        other.start_soon(bench.committer.sync)
        await bench.gate.wait_for_arrival()
        bench.put("later")
        bench.gate.open()
        await bench.effects.wait_for(1)
        assert bench.committer.unsynced


async def test_a_failed_sync_stops_the_tenant() -> None:
    async with benches(1, durability=Durability.INTERVAL) as (bench,):
        await bench.append()
        bench.gate.fail_with(StorageFailed("fsync: EIO"))
        await bench.committer.sync()
        assert [error.message for error in bench.stops] == ["fsync: EIO"]
        with pytest.raises(StorageFailed, match="EIO"):
            bench.committer.raise_if_stopped()


# ---- when a commit fails ----


async def test_a_failed_commit_tells_every_waiter_and_releases_nothing(bench: Bench) -> None:
    bench.committer.pending = PendingQueue(batch_records_max=3)
    bench.gate.shut()
    told: list[EngineError] = []

    async def waiter() -> None:
        with pytest.raises(StorageFailed, match="gone") as caught:
            await bench.append()
        told.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(waiter)
            bench.put("never")
        await bench.gate.wait_for_arrival()
        bench.gate.fail_with(StorageFailed("the disk is gone", path="/dev/sda"))
        bench.gate.open()
    assert len(told) == len({id(error) for error in told}) == 10
    assert all(error.details == {"path": "/dev/sda"} for error in told)
    assert bench.effects.released == []
    assert bench.head.durable_offset == 0
    assert bench.committer.pending.is_empty
    assert [error.message for error in bench.stops] == ["the disk is gone"]


async def test_a_failed_inline_commit_stops_as_well(bench: Bench) -> None:
    await bench.append()
    bench.gate.fail_with(StorageFailed("gone"))
    with pytest.raises(StorageFailed):
        await bench.append()
    assert bench.sizes == [1]
    assert len(bench.stops) == 1
    with pytest.raises(StorageFailed):
        bench.committer.raise_if_stopped()


async def test_nothing_is_written_behind_a_batch_that_failed(bench: Bench) -> None:
    """Else a later record would be on the disk without the one before it."""
    bench.committer.pending = PendingQueue(batch_records_max=2)
    bench.gate.shut()
    for number in range(8):
        bench.put(number)
    await bench.gate.wait_for_arrival()
    await trio.testing.wait_all_tasks_blocked()
    bench.gate.fail_once_with(StorageFailed("gone"))
    bench.gate.open()
    await eventually(lambda: bench.committer.stopped_by is not None)
    bench.threads.close()  # whatever they still have to do, they have done
    assert bench.store.written == []
    assert bench.effects.released == []


async def test_a_batch_that_was_durable_before_the_failure_is_released(bench: Bench) -> None:
    bench.committer.pending = PendingQueue(batch_records_max=2)
    await bench.append()
    await bench.append()
    bench.put("kept")
    await bench.effects.wait_for(1)
    bench.gate.fail_with(StorageFailed("gone"))
    bench.put("lost")
    await eventually(lambda: bench.committer.stopped_by is not None)
    assert bench.effects.released == ["kept"]
    assert bench.head.durable_offset == 3


async def test_a_stop_from_elsewhere_lets_the_commit_under_way_end(bench: Bench) -> None:
    bench.gate.shut()
    bench.put("under way")
    await bench.gate.wait_for_arrival()
    bench.put("behind it")
    bench.committer.stop(StorageDamaged("a record is missing"))
    bench.committer.stop(StorageFailed("too late: the first reason stays"))
    bench.gate.open()
    assert await bench.effects.wait_for(1) == ["under way"]
    await trio.testing.wait_all_tasks_blocked()
    assert bench.sizes == [1]
    assert bench.effects.released == ["under way"]
    with pytest.raises(StorageDamaged):
        bench.committer.raise_if_stopped()


async def test_a_resumed_committer_goes_on_with_the_new_store(bench: Bench) -> None:
    bench.gate.fail_with(StorageFailed("gone"))
    with pytest.raises(StorageFailed):
        await bench.append()
    bench.head.next_offset = bench.head.durable_offset = 0  # as it is on the disk
    reopened = MemoryStore(Gate())
    bench.committer.resume(reopened)
    assert await bench.append() == 0
    assert len(reopened.written) == 1
    assert bench.store.written == []


async def test_an_effect_that_raises_is_a_defect_and_goes_up() -> None:
    async def commit_one() -> None:
        async with benches(1) as (bench,):
            bench.effects.fail_with(RuntimeError("a defect"))
            bench.put("x")
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await commit_one()
    assert caught.group_contains(RuntimeError, match="a defect")


# ---- closing ----


async def test_closing_commits_what_is_pending() -> None:
    async with benches(1) as (bench,):
        bench.committer.pending = PendingQueue(batch_records_max=3)
        bench.gate.shut()
        async with trio.open_nursery() as nursery:
            for number in range(8):
                bench.put(number)
            await bench.gate.wait_for_arrival()
            nursery.start_soon(bench.committer.aclose)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(JournalClosed):
                bench.committer.raise_if_stopped()
            assert bench.effects.released == []
            bench.gate.open()
        assert bench.effects.released == list(range(8))
        assert sum(bench.sizes) == bench.head.durable_offset == 8


async def test_a_cancelled_close_still_commits(bench: Bench) -> None:
    bench.gate.shut()
    bench.put("pending")
    await bench.gate.wait_for_arrival()
    with trio.CancelScope() as scope:
        scope.cancel()
        bench.gate.open()
        await bench.committer.aclose()
    assert bench.effects.released == ["pending"]


async def test_cancelling_everything_around_it_does_not_lose_what_was_put() -> None:
    async with benches(1) as (bench,):
        with trio.CancelScope() as scope:
            bench.put("kept")
            scope.cancel()
            await trio.lowlevel.checkpoint()
        await bench.effects.wait_for(1)
    assert bench.sizes == [1]


# ---- tenants beside each other ----


async def test_a_slow_tenant_does_not_hold_up_another() -> None:
    async with benches(2) as (slow, quick):
        slow.gate.shut()
        slow.put("slow")
        await slow.gate.wait_for_arrival()
        for _ in range(3):
            await quick.append()
        assert slow.effects.released == []
        slow.gate.open()
        await slow.effects.wait_for(1)


async def test_there_are_no_more_threads_than_the_bound() -> None:
    gate = Gate()
    async with benches(limits.commit_threads_max + 4, gate=gate) as all_benches:
        gate.shut()
        for bench in all_benches:
            bench.put("x")
        for _ in range(limits.commit_threads_max):
            await gate.wait_for_arrival()
        await trio.testing.wait_all_tasks_blocked()
        assert gate.standing == limits.commit_threads_max
        gate.open()
        for bench in all_benches:
            await bench.effects.wait_for(1)


async def test_many_quick_tenants_do_not_hold_the_loop_for_longer_than_a_pass() -> None:
    """Each commit takes 600 us: inline until the pass has used its budget up, then on threads."""
    clock = ForwardClock()
    async with benches(8, clock=clock) as all_benches:
        clock.step_us = 600
        for bench in all_benches:
            bench.put("x")
        for bench in all_benches:
            await bench.effects.wait_for(1)
        inline = sum(bench.committer.statistics().inline for bench in all_benches)
    assert inline == -(-limits.inline_pass_us_max // 600)
