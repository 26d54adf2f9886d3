"""Who waits for a run to end, and who listens to what it says while it runs.

Both are facts of the process: a waiter that is gone is forgotten, an event that nobody hears is not
kept.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from engine.base import limits
from engine.base.errors import EngineError
from engine.base.ids import RunId
from engine.model.views import RunEvent
from engine.runtime.writer.live import Ending

# What an event takes beside its name and its data.
_EVENT_BYTES: Final = 256


class _Waiter:
    __slots__ = ("ending", "event", "failure")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.ending: Ending | None = None
        self.failure: EngineError | None = None


class Listener:
    """What one listener has not taken yet; the oldest go when it does not keep up, or when all
    listeners of the tenant together hold too much."""

    def __init__(self, held: _Held) -> None:
        self._events: deque[RunEvent] = deque()
        self._bytes = 0
        self._held = held
        self._arrived = trio.Event()

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: RunEvent) -> None:
        size = _size(event)
        while self._events and not self._has_room(size):
            self.pop()
        if not self._has_room(size):
            return
        self._events.append(event)
        self._count(size)
        self._arrived.set()

    def pop(self) -> RunEvent:
        event = self._events.popleft()
        self._count(-_size(event))
        if not self._events:
            self._arrived = trio.Event()
        return event

    def clear(self) -> None:
        while self._events:
            self.pop()

    async def wait_arrived(self) -> None:
        await self._arrived.wait()

    def _has_room(self, size: int) -> bool:
        return (
            len(self._events) < limits.live_events_buffered_max
            and self._bytes + size <= limits.live_events_bytes_max
            and self._held.bytes + size <= limits.live_events_tenant_bytes_max
        )

    def _count(self, size: int) -> None:
        self._bytes += size
        self._held.bytes += size


class _Held:
    """By all listeners of a tenant; what two of them hold counts twice."""

    def __init__(self) -> None:
        self.bytes = 0


def _size(event: RunEvent) -> int:
    return _EVENT_BYTES + len(event.name) + len(event.data)


class Waiters:
    def __init__(self) -> None:
        self._waiters: dict[RunId, list[_Waiter]] = {}
        self._listeners: dict[RunId, list[Listener]] = {}
        self._held = _Held()

    async def wait_ending(self, run: RunId) -> Ending:
        """Until the run has ended and its last record is durable."""
        waiter = _Waiter()
        self._waiters.setdefault(run, []).append(waiter)
        try:
            await waiter.event.wait()
        finally:
            if waiter.ending is None:
                self._leave(run, waiter)
        if waiter.failure is not None:
            raise waiter.failure.again()
        assert waiter.ending is not None
        return waiter.ending

    def tell(self, run: RunId, ending: Ending) -> None:
        for waiter in self._waiters.pop(run, ()):
            waiter.ending = ending
            waiter.event.set()

    def fail(self, error: EngineError) -> None:
        """The tenant is stopped: nobody can say when a run of it ends."""
        waiting, self._waiters = self._waiters, {}
        for waiters in waiting.values():
            for waiter in waiters:
                waiter.failure = error
                waiter.event.set()

    def is_waited_for(self, run: RunId) -> bool:
        return run in self._waiters

    @property
    def is_anybody_there(self) -> bool:
        return bool(self._waiters or self._listeners)

    def _leave(self, run: RunId, waiter: _Waiter) -> None:
        waiters = self._waiters.get(run)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[run]

    def listen(self, run: RunId) -> Listener:
        """Hears what the run emits from now on, until `ignore`."""
        listener = Listener(self._held)
        self._listeners.setdefault(run, []).append(listener)
        return listener

    def ignore(self, run: RunId, listener: Listener) -> None:
        listener.clear()
        listeners = self._listeners[run]
        listeners.remove(listener)
        if not listeners:
            del self._listeners[run]

    def emit(self, run: RunId, event: RunEvent) -> None:
        for listener in self._listeners.get(run, ()):
            listener.put(event)
