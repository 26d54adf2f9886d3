"""What a run holds and is searched for: its open waits and the signals that came before a wait.

They are dicts, in the order in which things came, and that is what is stored. Beside them is an
index, made when somebody first asks: by name, and by time. It is a hint: each entry counts only
while the dict has that very object, so nobody has to take anything out of it, and a state and the
one that is planned from it share one. Only the state that holds is asked, never one that is not
accepted yet.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, Protocol, Self, TypeVar

import msgspec

from engine.base import limits
from engine.model.payloads import WaitKind

# Entries that do not count any more are dropped when they are this much more than those that do.
_STALE_MAX: Final = 64


class OpenWait(msgspec.Struct, array_like=True):
    """Something the run waits for and that has not come."""

    position: int
    wait_id: str
    kind: int
    name: str = ""
    due_ms: int = 0
    has_default: bool = False
    default: bytes = b""
    question: str = ""
    input_type: str = ""
    options: tuple[str, ...] = ()


class BufferedSignal(msgspec.Struct, array_like=True):
    """A signal that came before its wait; its id is its key."""

    name: str
    payload: bytes


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


class _Index(Generic[N]):
    __slots__ = ("by_due", "by_name", "count")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """It is made anew when somebody asks."""
        self.by_name: dict[str, deque[tuple[str, N]]] | None = None
        self.by_due: list[OpenWait] | None = None
        self.count = 0


class _Held(dict[str, N]):
    # Of the class until there is one: most runs hold next to nothing, and are never searched.
    _index: _Index[N] | None = None

    def __copy__(self) -> Self:
        other = type(self)(self)
        if self._index is not None:
            other._index = self._index
        return other

    def put(self, key: str, value: N) -> None:
        self[key] = value
        index = self._index
        if index is None:
            return
        index.count += 1
        if index.count > 2 * len(self) + _STALE_MAX:
            index.forget()
        self._note(index, key, value)

    def _note(self, index: _Index[N], key: str, value: N) -> None:
        if index.by_name is not None and self._is_named(value):
            index.by_name.setdefault(value.name, deque()).append((key, value))

    def _is_named(self, value: N) -> bool:
        return True

    def _indexed(self) -> _Index[N]:
        if self._index is None:
            self._index = _Index()
            self._index.count = len(self)
        return self._index

    def named(self, name: str) -> Iterator[tuple[str, N]]:
        """Those of this name, the one that came first at the front."""
        index = self._indexed()
        by_name = index.by_name
        if by_name is None:
            by_name = index.by_name = {}
            for key, value in self.items():
                if self._is_named(value):
                    by_name.setdefault(value.name, deque()).append((key, value))
        line = by_name.get(name)
        if line is None:
            return
        while line and self.get(line[0][0]) is not line[0][1]:
            line.popleft()
        if not line:
            del by_name[name]
        for key, value in line:
            if self.get(key) is value:
                yield key, value


class OpenWaits(_Held[OpenWait]):
    """By wait id. Only waits for signals have a name that is asked for."""

    def _is_named(self, value: OpenWait) -> bool:
        return value.kind == WaitKind.SIGNAL

    def _note(self, index: _Index[OpenWait], key: str, value: OpenWait) -> None:
        super()._note(index, key, value)
        if index.by_due is not None and value.due_ms > 0:
            insort(index.by_due, value, key=_due)

    def over(self, now_ms: int) -> tuple[list[OpenWait], bool]:
        """The waits whose time is over, the earliest first, as many as are looked at in one go; and
        whether there are more."""
        by_due = self._by_due()
        over: list[OpenWait] = []
        looked_at = 0  # and of these, those that do not count any more leave
        for wait in by_due:
            if wait.due_ms > now_ms or len(over) == limits.waits_resolved_per_look_max:
                break
            looked_at += 1
            if self.get(wait.wait_id) is wait:
                over.append(wait)
        by_due[:looked_at] = over
        # The next one may not count any more: then it costs a look.
        is_more = len(by_due) > len(over) and by_due[len(over)].due_ms <= now_ms
        return over, is_more

    def next_due_ms(self, after_ms: int) -> int | None:
        """When the first of them is due that is due after this."""
        by_due = self._by_due()
        first = after = bisect_right(by_due, max(after_ms, 0), key=_due_ms)
        while after < len(by_due) and self.get(by_due[after].wait_id) is not by_due[after]:
            after += 1
        del by_due[first:after]
        return by_due[first].due_ms if first < len(by_due) else None

    def _by_due(self) -> list[OpenWait]:
        index = self._indexed()
        if index.by_due is None:
            index.by_due = sorted((wait for wait in self.values() if wait.due_ms > 0), key=_due)
        return index.by_due


class BufferedSignals(_Held[BufferedSignal]):
    """By signal id."""


def _due(wait: OpenWait) -> tuple[int, int]:
    return wait.due_ms, wait.position


def _due_ms(wait: OpenWait) -> int:
    return wait.due_ms
