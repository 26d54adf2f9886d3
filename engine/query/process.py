"""One process of queries as the engine sees it: begun, asked one thing at a time, ended.

It is a program of its own (`engine/query/child`), not a copy of this one: nothing of the engine's
memory is in it, and it ends with the engine. What it says is checked as what a stranger says. Knows
no SQL and not whose turn it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

import engine
from engine.base import errors, limits
from engine.base.errors import EngineError, InvalidQuery, QueryTooLarge
from engine.base.ids import TenantId
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
_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Pools of memory that threads of their own tend, or that keep what they have: not here.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
}


def begin(scratch: Path) -> QueryProcess:
    """Not in a thread: the process ends with the thread that began it."""
    scratch.mkdir(mode=0o700)
    ours, theirs = socket.socketpair()
    root = Path(engine.__file__).parent.parent
    environment = {"PYTHONPATH": str(root), "HOME": str(scratch), "TMPDIR": str(scratch)}
    with theirs, (scratch / "said").open("wb") as said:
        number = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.query.child", str(number), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            cwd=scratch,
            env=_ENVIRONMENT | environment,
            pass_fds=[number],
            start_new_session=True,  # a Ctrl-C is for the engine
        )
    return QueryProcess(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)), scratch)


class Answered:
    """What came: the parts, and the answer that they belong to."""

    def __init__(self, answer: Answer, parts: Sequence[bytes]) -> None:
        self.answer: Final = answer
        self.parts: Final = parts


class QueryProcess:
    """Owned by one task at a time."""

    def __init__(
        self, process: subprocess.Popen[bytes], connected: trio.SocketStream, scratch: Path
    ) -> None:
        self._process = process
        self._stream = connected
        self.scratch: Final = scratch
        self._received = bytearray()
        self.tenant: TenantId | None = None
        # The directories that it may read, as they were when it was begun.
        self.places: tuple[tuple[int, int] | None, ...] = ()
        self.served: TenantId | None = None  # lately
        self.walls: tuple[str, ...] = ()
        self.is_ended = False
        self.is_stale = False  # it remembers what is not so any more
        self.used_us = 0  # when it was last given back
        self._too_large = False

    @property
    def pid(self) -> int:
        return self._process.pid

    # ---- its life ----

    async def prepare(self, prepared: messages.Prepare) -> None:
        await self._send(Kind.PREPARE, messages.encode(prepared))
        self.walls = (await self._ready()).walls

    async def open(self, tenant: TenantId | None) -> None:
        """From now on, and until its end, it is this tenant's."""
        self.tenant = tenant
        await self._send(Kind.OPEN, messages.encode(messages.Open(tenant)))
        await self._ready()

    def end(self, *, too_large: bool = False) -> None:
        """At once; whoever waits for its answer hears why."""
        self._too_large = self._too_large or too_large
        self.is_ended = True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def aclose(self) -> None:
        """Ends it and waits until it is gone, with all that it held."""
        self.end()
        with trio.CancelScope(shield=True):
            await self._exited()
            await self._stream.aclose()

    async def _exited(self) -> int:
        if self._process.returncode is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        return self._process.wait()

    def _said(self) -> str:
        """The end of what it had to say about its end."""
        with contextlib.suppress(OSError):
            said = (self.scratch / "said").read_bytes()
            return said[-limits.query_message_characters_max :].decode(errors="replace")
        return ""

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
                    for piece in messages.pieces(some):
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
            kind, data = await self._frame()
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
        kind, data = await self._frame()
        if kind is not Kind.READY:
            raise self._broken(f"a frame {kind.name}")
        return self._decoded(messages.decode_ready, data)

    # ---- frames ----

    async def _send(self, kind: Kind, data: bytes | memoryview = b"") -> None:
        """Whole, or the process is of no use any more."""
        try:
            await self._stream.send_all(messages.head(kind, len(data)) + bytes(data))
        except trio.BrokenResourceError as error:
            raise await self._died() from error
        except trio.Cancelled:
            self.end()
            raise

    async def _frame(self) -> tuple[Kind, bytes]:
        await self._fill(messages.HEAD.size)
        try:
            size, kind = messages.parsed_head(self._received)
        except messages.BadFrame as error:
            raise self._broken(str(error)) from error
        await self._fill(messages.HEAD.size + size)
        data = bytes(self._received[messages.HEAD.size : messages.HEAD.size + size])
        del self._received[: messages.HEAD.size + size]
        return kind, data

    async def _fill(self, size: int) -> None:
        """What has come stays where it is, whoever is cancelled."""
        while len(self._received) < size:
            try:
                some = await self._stream.receive_some(limits.query_part_bytes_max)
            except trio.BrokenResourceError:
                some = b""
            if not some:
                raise await self._died()
            self._received += some

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

    async def _died(self) -> EngineError:
        self.end()
        with trio.CancelScope(shield=True):
            code = await self._exited()
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
