"""Who listens to a run and does not read: what waits for him is bounded by its bytes, for one
listener and for all of a tenant, and the newest of it is kept."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
import trio

from engine.base import limits
from engine.base.ids import RunId
from engine.model.views import RunEvent
from engine.runtime.handle import Handle
from engine.runtime.writer.waiters import Waiters
from tests.runtime.conftest import CONTEXT
from tests.runtime.test_runs import connected, request

RUN = RunId(bytes(16))


def event(number: int, size: int) -> RunEvent:
    return RunEvent(None, "output.delta", b"%d" % number + b" " * size)


def number_of(found: RunEvent) -> int:
    return int(found.data)


@pytest.mark.parametrize("size", [0, 1_000, 100_000, limits.emit_bytes_max])
def test_the_newest_are_kept_that_fit(size: int) -> None:
    waiters = Waiters()
    listener = waiters.listen(RUN)
    for number in range(5_000):
        waiters.emit(RUN, event(number, size))
    kept = [listener.pop() for _ in range(len(listener))]
    room = limits.live_events_bytes_max
    assert room * 0.6 < sum(len(e.data) for e in kept) <= room or len(kept) == 1_000
    assert len(kept) <= limits.live_events_buffered_max
    assert [number_of(e) for e in kept] == list(range(5_000 - len(kept), 5_000))


def test_what_is_taken_makes_room() -> None:
    waiters = Waiters()
    listener = waiters.listen(RUN)
    for number in range(1_000):
        waiters.emit(RUN, event(number, 200_000))
        assert number_of(listener.pop()) == number


def test_all_listeners_of_a_tenant_hold_so_much_and_give_it_back() -> None:
    waiters = Waiters()
    listeners = [waiters.listen(RUN) for _ in range(200)]
    for number in range(20):
        waiters.emit(RUN, event(number, 200_000))
    held = sum(len(listener) for listener in listeners) * 200_000
    most = limits.live_events_tenant_bytes_max
    assert most * 0.9 < held <= most
    for listener in listeners:
        waiters.ignore(RUN, listener)
    late = waiters.listen(RUN)
    waiters.emit(RUN, event(7, 200_000))
    assert number_of(late.pop()) == 7


async def test_a_reader_that_does_not_read_costs_little(handle: Handle) -> None:
    worker = await connected(handle)
    started = await handle.start(CONTEXT, request())
    held = await worker.wait_held(started.run_id)
    assert worker.session is not None
    async with handle.events(CONTEXT, started.run_id, None) as events:
        assert [(await anext(events)).name for _ in range(2)] == ["run.queued", "run.started"]
        with trio.move_on_after(0):
            await anext(events)
        tracemalloc.start()
        try:
            for number in range(400):
                text = msgspec.json.encode(f"{number} " + "x" * (limits.emit_bytes_max - 100))
                worker.session.emit(held.run, held.epoch, "output.delta", text)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 4 * limits.live_events_bytes_max
