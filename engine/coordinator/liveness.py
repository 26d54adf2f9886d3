"""When a stream has been silent, deaf or undecided for too long.

One deadline per stream, never per run: a worker that holds a thousand runs sends one heartbeat.
`overdue` decides from values; the service asks it of every stream and cuts those off. What happens
to the runs of a worker that was cut off is the runtime's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import msgspec
import trio

from engine.base.clock import Clock
from engine.config.coordinator import CoordinatorSettings


class Pulse(msgspec.Struct):
    """What a stream notes about itself, in the clock's monotonic microseconds."""

    heard_us: int  # the latest message that came in; at first, when the stream was opened
    registered: bool = False
    held_up: bool = False  # by this process, which does not read just now: silence means nothing
    sending_since_us: int | None = None  # a message that the worker has not made room for


@contextmanager
def held_up(pulse: Pulse, clock: Clock) -> Iterator[None]:
    """What came in meanwhile has not been read."""
    pulse.held_up = True
    try:
        yield
    finally:
        pulse.heard_us = clock.monotonic_us()
        pulse.held_up = False


class Watched(Protocol):
    @property
    def pulse(self) -> Pulse: ...

    def cut(self, reason: str) -> None: ...


def overdue(pulse: Pulse, now_us: int, settings: CoordinatorSettings) -> str | None:
    """Why the stream is to be cut off now, or None."""
    silent_ms = 0 if pulse.held_up else (now_us - pulse.heard_us) // 1_000
    if not pulse.registered:
        if silent_ms <= settings.register_ms:
            return None
        return f"no registration within {settings.register_ms} ms"
    if silent_ms > settings.lease_ms:
        return (
            f"no heartbeat for {silent_ms} ms; one is due every {settings.heartbeat_ms} ms and "
            f"the lease is {settings.lease_ms} ms"
        )
    if pulse.sending_since_us is not None:
        sending_ms = (now_us - pulse.sending_since_us) // 1_000
        if sending_ms > settings.send_ms:
            return f"it has not read what was sent to it for {sending_ms} ms"
    return None


class LivenessService:
    """Looks at every stream a few times in a heartbeat."""

    def __init__(
        self,
        streams: Callable[[], Iterable[Watched]],
        clock: Clock,
        settings: CoordinatorSettings,
    ) -> None:
        self._streams: Final = streams
        self._clock: Final = clock
        self._settings: Final = settings
        shortest_ms = min(settings.heartbeat_ms, settings.register_ms, settings.send_ms)
        self._interval_us: Final = max(shortest_ms * 1_000 // 4, 1_000)
        self._looked_us = clock.monotonic_us()

    async def run(self) -> None:
        while True:
            await trio.sleep(self._interval_us / 1e6)
            self.run_once()

    def run_once(self) -> list[Watched]:
        """The streams that were cut off.

        A look that comes much too late measures this process's own standstill (it was stopped, or
        the machine was asleep): what the workers sent meanwhile has not been read yet. They get
        that time back.
        """
        now_us = self._clock.monotonic_us()
        late_us = now_us - self._looked_us - self._interval_us
        self._looked_us = now_us
        cut: list[Watched] = []
        for stream in list(self._streams()):
            if late_us > 3 * self._interval_us:
                _forgive(stream.pulse, late_us, now_us)
            elif (reason := overdue(stream.pulse, now_us, self._settings)) is not None:
                stream.cut(reason)
                cut.append(stream)
        return cut


def _forgive(pulse: Pulse, late_us: int, now_us: int) -> None:
    pulse.heard_us = min(pulse.heard_us + late_us, now_us)
    if pulse.sending_since_us is not None:
        pulse.sending_since_us = min(pulse.sending_since_us + late_us, now_us)
