"""One process of queries as the engine sees it: asked one thing at a time.

What it says is checked as what a stranger says, and its end is an answer like another. Knows no SQL
and not whose turn it is.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

from engine.base import errors, limits
from engine.base.errors import EngineError, InvalidQuery, QueryTooLarge
from engine.base.ids import TenantId
from engine.processes import frames, process
from engine.processes.process import Begun, ChildProcess
from engine.query import messages
from engine.query.messages import Answer, Kind

_log: Final = logging.getLogger(__name__)
Result = TypeVar("Result")
Hot = Mapping[Kind, Sequence[bytes]]  # the hot rows of a view, as an Arrow stream in pieces

# What a process may say about a question; anything else is a fault of ours.
_ERRORS: Final = {
    error.code: error
    for error in (
        errors.InvalidQuery,
        errors.InvalidName,
        errors.QueryRefused,
        errors.QueryTooLarge,
        errors.QueryTimeout,
        errors.ArchiveUnreachable,
        errors.ArchiveRefused,
        errors.ArchiveDamaged,
    )
}
_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")
_RESIDENT: Final = 1  # the place of it in statm
_SHARED: Final = 2
_DATA: Final = 5


_TOO_LARGE: Final = (
    "the query needs more memory than a query may take; aggregate sooner, or read fewer days and "
    "columns"
)
_MODULE: Final = "engine.query.child"


def begin(scratch: Path) -> QueryProcess:
    return QueryProcess(process.begin(_MODULE, scratch))


class Answered:
    """What came: the parts, and the answer that they belong to."""

    def __init__(self, answer: Answer, parts: Sequence[bytes]) -> None:
        self.answer: Final = answer
        self.parts: Final = parts


class QueryProcess(ChildProcess):
    """Owned by one task at a time."""

    def __init__(self, begun: Begun) -> None:
        super().__init__(begun)
        self.tenant: TenantId | None = None
        # The directories that it may read, as they were when it was begun.
        self.places: tuple[tuple[int, int] | None, ...] = ()
        self.served: TenantId | None = None  # lately
        self.walls: tuple[str, ...] = ()
        self.is_stale = False  # it remembers what is not so any more
        self.used_us = 0  # when it was last given back
        self._too_large = False

    # ---- its life ----

    async def prepare(self, prepared: messages.Prepare) -> None:
        await self._send(Kind.PREPARE, messages.encode(prepared))
        self.walls = (await self._ready()).walls

    async def open(self, tenant: TenantId | None) -> None:
        """From now on, and until its end, it is this tenant's."""
        self.tenant = tenant
        await self._send(Kind.OPEN, messages.encode(messages.Open(tenant)))
        await self._ready()

    def end_as_too_large(self) -> None:
        self._too_large = True
        self.end()

    def taken_bytes(self) -> int:
        """Its own memory, without what it has in common with others of its kind."""
        fields = self._memory()
        return (fields[_RESIDENT] - fields[_SHARED]) * _PAGE_BYTES

    def reserved_bytes(self) -> int:
        """What counts towards its limit, whether it is used or not."""
        return self._memory()[_DATA] * _PAGE_BYTES

    def _memory(self) -> list[int]:
        try:
            return [*map(int, Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split())]
        except OSError:
            return [0] * (_DATA + 1)  # it is gone

    # ---- asking ----

    async def ask(
        self,
        request: messages.Request,
        hot: Hot | None = None,
        *,
        parts_bytes_max: int = 0,
    ) -> Answered:
        """Whoever is cancelled here leaves the process well if it hears that it is to stop, and
        ended if it does not."""
        assert not self.is_ended
        try:
            for kind, stream in (hot or {}).items():
                for some in stream:
                    for piece in frames.pieces(some):
                        await self._send(kind, piece)
            await self._send(Kind.ASK, messages.encode(request))
            return await self._answered(parts_bytes_max)
        except trio.Cancelled:
            await self._stop()
            raise

    async def _stop(self) -> None:
        with trio.CancelScope(shield=True):
            with trio.move_on_after(limits.query_stop_ms / 1_000):
                try:
                    if not self.is_ended:
                        await self._send(Kind.STOP)
                        await self._answered(None)
                        return
                except (EngineError, trio.BrokenResourceError):
                    return
            self.end()

    async def _answered(self, parts_bytes_max: int | None) -> Answered:
        """`None`: the answer is not wanted, only its end."""
        parts: list[bytes] = []
        pieces: list[bytes] = []
        size = 0
        while True:
            kind, data = await self._kind_and_frame()
            if kind in (Kind.PIECE, Kind.PART) and parts_bytes_max is not None:
                size += len(data)
                if size > parts_bytes_max:
                    raise self._broken(f"more than {parts_bytes_max} bytes of an answer")
                pieces.append(data)
                if kind is Kind.PART:
                    parts.append(b"".join(pieces))
                    pieces = []
            elif kind is Kind.RESTART:
                parts, pieces, size = [], [], 0
            elif kind is Kind.DONE:
                return Answered(self._decoded(messages.decode_answer, data), parts)
            elif kind is Kind.FAILED:
                raise self._error(self._decoded(messages.decode_failed, data))
            elif kind not in (Kind.PIECE, Kind.PART):
                raise self._broken(f"a frame {kind.name}")

    async def _ready(self) -> messages.Ready:
        kind, data = await self._kind_and_frame()
        if kind is not Kind.READY:
            raise self._broken(f"a frame {kind.name}")
        return self._decoded(messages.decode_ready, data)

    async def _kind_and_frame(self) -> tuple[Kind, bytes]:
        number, data = await self._frame()
        try:
            return Kind(number), data
        except ValueError as error:
            raise self._broken(f"a frame of kind {number}") from error

    # ---- what may go wrong ----

    def _decoded(self, decode: Callable[[bytes], Result], data: bytes) -> Result:
        try:
            return decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._broken(f"what cannot be decoded: {error}") from error

    def _error(self, failed: messages.Failed) -> EngineError:
        if failed.is_broken:
            self.end()
        kind = _ERRORS.get(failed.code)
        if kind is not None:
            return kind(failed.message[: 2 * limits.query_message_characters_max])
        _log.error("a process of queries failed: %s", failed.message)
        return InvalidQuery("the query broke the process that it ran in; it cannot be answered")

    def _broken(self, said: str) -> EngineError:
        self.end()
        _log.error("the process of queries %d of tenant %s sent %s", self.pid, self.tenant, said)
        return InvalidQuery("the query broke the process that it ran in; it cannot be answered")

    def _ended_error(self, code: int) -> EngineError:
        if self._too_large:
            return QueryTooLarge(_TOO_LARGE)
        _log.warning(
            "the process of queries %d of tenant %s ended by itself: %s %s",
            *(self.pid, self.tenant, code, self._said()),
        )
        if code == -signal.SIGXCPU:
            return errors.QueryTimeout("the query took more of the processor than a query may")
        if code == -signal.SIGKILL:
            # Not by us: the kernel, that had no memory left.
            return QueryTooLarge(_TOO_LARGE)
        name = signal.Signals(-code).name if code < 0 else f"code {code}"
        return InvalidQuery(f"the query ended the process that it ran in ({name}): take it apart")
