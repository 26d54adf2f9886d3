"""Server-sent events: bytes in, events out. Pure; knows no connection.

Only what the engine sends is read: `id`, `event` and `data`. A comment is a heartbeat and says
nothing. An event without an id was never recorded, so it cannot be resumed from.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from engine.base.errors import LimitExceeded
from engine.sdk import limits, values

# With one of these a run's stream ends.
LAST_EVENTS: Final = frozenset({"run.completed", "run.failed", "run.cancelled"})


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a run. `id` is its place in the journal; without one it was only
    shown, as `output.delta` and `progress.update` are."""

    name: str
    data: Any = None
    id: int | None = None

    @property
    def is_last(self) -> bool:
        return self.name in LAST_EVENTS


class EventParser:
    def __init__(self) -> None:
        self._buffer = b""
        self._id: int | None = None
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now; the rest waits for more."""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > limits.event_line_bytes_max:
            raise LimitExceeded(
                f"a line of the event stream is longer than {limits.event_line_bytes_max} bytes"
            )
        events = []
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                events.append(event)
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode()
        elif field == b"id" and value.isdigit():
            self._id = int(value)
        return None

    def _dispatch(self) -> Event | None:
        if not self._name and not self._data:
            return None
        data = b"\n".join(self._data)
        event = Event(self._name or "message", values.decode(data), self._id)
        self._id, self._name, self._data = None, "", []
        return event
