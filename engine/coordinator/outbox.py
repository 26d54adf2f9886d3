"""Frames on their way to one worker, bounded in bytes.

Says when the worker should get nothing more (`pause`), when it may again (`resume`), and when it
is past saving (`push` refuses). Frames can also be left to be made later, when there is room for
them. Plain data: whoever takes frames out awakens itself.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from typing import Final

from engine.base import limits


class Level(enum.Enum):
    """What a frame that was put in has led to."""

    UNCHANGED = enum.auto()
    PAUSE = enum.auto()  # passed the mark: no new work for this worker
    OVERFLOW = enum.auto()  # the frame does not fit; from now on nothing is taken in


class Outbox:
    def __init__(self) -> None:
        self._waiting: Final[deque[bytes | Iterator[bytes]]] = deque()
        self.bytes_waiting = 0
        self.is_paused = False
        self.is_sealed = False

    def push(self, frame: bytes) -> Level:
        assert len(frame) < limits.stream_message_bytes_max, "send a long journal in pages"
        if self.is_sealed:
            return Level.UNCHANGED  # the worker is gone or going: nobody misses it
        if self.bytes_waiting + len(frame) > limits.stream_outgoing_bytes_max:
            self.seal()
            return Level.OVERFLOW
        self._waiting.append(frame)
        self.bytes_waiting += len(frame)
        if self.bytes_waiting > limits.stream_outgoing_bytes_pause and not self.is_paused:
            self.is_paused = True
            return Level.PAUSE
        return Level.UNCHANGED

    def push_each(self, frames: Iterator[bytes]) -> None:
        """Frames that are made when it is their turn. They take no room until then."""
        if not self.is_sealed:
            self._waiting.append(frames)

    def push_first(self, frame: bytes) -> None:
        self._waiting.appendleft(frame)
        self.bytes_waiting += len(frame)

    def take(self) -> list[bytes]:
        """What goes into the next message, in order: as much as it aims at, at least one frame."""
        taken: list[bytes] = []
        size = 0
        while (frame := self._next()) is not None:
            if taken and size + len(frame) > limits.stream_message_bytes_aim:
                self.push_first(frame)
                break
            taken.append(frame)
            size += len(frame)
        return taken

    def resumes(self) -> bool:
        """True once, when what waits has fallen below the mark again."""
        if not self.is_paused or self.bytes_waiting > limits.stream_outgoing_bytes_resume:
            return False
        self.is_paused = False
        return True

    def seal(self) -> None:
        """What is in still leaves; nothing comes in any more."""
        self.is_sealed = True

    def clear(self) -> None:
        self._waiting.clear()
        self.bytes_waiting = 0

    def _next(self) -> bytes | None:
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, bytes):
                del self._waiting[0]
                self.bytes_waiting -= len(first)
                return first
            made = next(first, None)
            if made is not None:
                assert len(made) < limits.stream_message_bytes_max, "send it in smaller pages"
                return made
            del self._waiting[0]
        return None
