"""A tenant that stopped because the disk was full: when it tries again, and what it knows then.

The disk is a gate that says it is full; tests/faults fills real ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from engine.base import limits
from engine.base.clock import ManualClock
from engine.base.errors import EngineError, StorageFailed, StorageFull
from engine.journal.store import OpenMode, Store
from engine.journal.tenant import TenantJournal
from tests.journal.harness import NOW_US, RUN, STEP, append, gated_tenant, payloads_of
from tests.journal.stores import Gate

INTERVAL_US = limits.resume_interval_ms * 1_000


class Full:
    """A tenant on a full disk, with a record on it from before."""

    def __init__(self, tenant: TenantJournal, gate: Gate, clock: ManualClock) -> None:
        self.tenant = tenant
        self.gate = gate
        self.clock = clock
        self.segment = tenant.open_segment(RUN)

    async def fill(self, error: EngineError | None = None) -> None:
        self.gate.fail_with(error or StorageFull("no room"))
        with pytest.raises(EngineError):
            await append(self.segment, b"refused")
        self.clock.advance_us(INTERVAL_US)


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Full]:
    clock = ManualClock()
    clock.advance_us(INTERVAL_US)
    async with gated_tenant(tmp_path, clock=clock) as (tenant, gate):
        full = Full(tenant, gate, clock)
        await append(full.segment, b"before")
        yield full


async def test_an_append_after_there_is_room_again_resumes(full: Full) -> None:
    await full.fill()
    assert payloads_of(full.segment.read()) == [b"before"]
    await append(full.segment, b"after")
    assert payloads_of(full.segment.read()) == [b"before", b"after"]
    assert full.tenant.statistics().stopped_by is None


async def test_what_was_refused_is_not_there_and_has_no_offset(full: Full) -> None:
    await full.fill()
    assert await full.tenant.try_resume()
    assert (full.segment.durable_offset, full.segment.next_offset) == (1, 1)
    assert await full.segment.append(STEP, b"after", timestamp_us=NOW_US, expected=1) == 1


async def test_what_is_on_the_disk_although_its_commit_failed_is_there(full: Full) -> None:
    """It was not acknowledged, so it may be; but it must have the offset it was given."""
    full.gate.fail_late_with(StorageFull("no room to say that it was done"))
    with pytest.raises(StorageFull):
        await append(full.segment, b"written")
    full.clock.advance_us(INTERVAL_US)
    assert await full.tenant.try_resume()
    assert (full.segment.durable_offset, full.segment.next_offset) == (2, 2)
    await append(full.segment, b"after")
    assert payloads_of(full.segment.read()) == [b"before", b"written", b"after"]


async def test_a_seal_that_was_refused_is_none(full: Full) -> None:
    full.gate.fail_with(StorageFull("no room"))
    with pytest.raises(StorageFull):
        await full.segment.seal()
    full.clock.advance_us(INTERVAL_US)
    assert await full.tenant.try_resume()
    assert not full.segment.is_sealed
    await append(full.segment, b"after")


async def test_a_trim_that_was_refused_is_none(full: Full) -> None:
    full.gate.fail_with(StorageFull("no room"))
    with pytest.raises(StorageFull):
        await full.segment.trim(1)
    full.clock.advance_us(INTERVAL_US)
    assert await full.tenant.try_resume()
    assert payloads_of(full.segment.read()) == [b"before"]


async def test_it_does_not_try_all_the_time(full: Full) -> None:
    await full.fill()
    assert await full.tenant.try_resume()
    full.tenant.committer.stop(StorageFull("again"))
    full.clock.advance_us(INTERVAL_US - 1)
    assert not await full.tenant.try_resume()
    full.clock.advance_us(1)
    assert await full.tenant.try_resume()


async def test_it_does_not_try_without_room(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    await full.fill()
    monkeypatch.setattr(limits, "resume_free_bytes_min", 2**62)
    assert not await full.tenant.try_resume()
    monkeypatch.undo()
    assert await full.tenant.try_resume()


async def test_a_tenant_that_stopped_for_another_reason_stays_stopped(full: Full) -> None:
    await full.fill(StorageFailed("fsync: EIO"))
    full.gate.fail_with(None)
    assert not await full.tenant.try_resume()
    with pytest.raises(StorageFailed, match="EIO"):
        await append(full.segment, b"after")
    assert payloads_of(full.segment.read()) == [b"before"]


async def test_many_who_ask_resume_it_once(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    await full.fill()
    opened = store_that_fails(monkeypatch, lambda _: False)
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(append, full.segment, bytes([number]))
    assert opened == [OpenMode.READ_ONLY, OpenMode.READ_WRITE]
    assert len(full.segment.read()) == 11


def store_that_fails(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[OpenMode], bool]
) -> list[OpenMode]:
    """The modes in which a store was to be opened; some of them fail."""
    tried: list[OpenMode] = []

    def open_again(store: Store, resources: object, mode: OpenMode) -> Store:
        tried.append(mode)
        if fails(mode):
            raise StorageFull("still no room")
        return Store(store.path, resources, mode)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "open_again", open_again)
    return tried


@pytest.mark.parametrize(
    "unusable",
    [
        pytest.param({OpenMode.READ_WRITE}, id="for writing"),
        pytest.param(set(OpenMode), id="for writing and for reading"),
    ],
)
async def test_a_reopen_that_fails_is_tried_again(
    full: Full, monkeypatch: pytest.MonkeyPatch, unusable: set[OpenMode]
) -> None:
    await full.fill()
    for _ in range(2):
        with monkeypatch.context() as patch:
            store_that_fails(patch, lambda mode: mode in unusable)
            assert not await full.tenant.try_resume()
            with pytest.raises(StorageFull):
                await append(full.segment, b"still refused")
        if unusable == {OpenMode.READ_WRITE}:
            assert payloads_of(full.segment.read()) == [b"before"]
        full.clock.advance_us(INTERVAL_US)
    await append(full.segment, b"after")
    assert payloads_of(full.segment.read()) == [b"before", b"after"]


async def test_a_store_that_cannot_be_closed_is_opened_anew_all_the_same(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing writes the memory out, and the disk is full."""
    await full.fill()
    store = full.tenant.store
    close = store.close

    def close_and_say_so() -> None:
        close()
        raise StorageFull("cannot be flushed")

    monkeypatch.setattr(store, "close", close_and_say_so)
    await full.tenant.try_resume()
    full.clock.advance_us(INTERVAL_US)
    await append(full.segment, b"after")
    assert payloads_of(full.segment.read()) == [b"before", b"after"]


async def test_a_resume_that_is_cancelled_leaves_a_tenant_that_can_be_resumed(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full.fill()
    with trio.CancelScope() as scope, monkeypatch.context() as patch:

        def cancel_and_fail(mode: OpenMode) -> bool:
            trio.from_thread.run_sync(scope.cancel)
            return mode is OpenMode.READ_WRITE

        store_that_fails(patch, cancel_and_fail)
        await full.tenant.try_resume()
    assert payloads_of(full.segment.read()) == [b"before"]
    full.clock.advance_us(INTERVAL_US)
    await append(full.segment, b"after")
    assert payloads_of(full.segment.read()) == [b"before", b"after"]
