"""A program of ours beside the engine, as the engine sees it: begun, spoken to in frames, ended.

It is a program and not a copy of this one: nothing of the engine's memory is in it, and it ends
with the engine. Knows no kinds of frames.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import trio

import engine
from engine.base import limits
from engine.base.errors import EngineError
from engine.processes import frames

_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Pools of memory that threads of their own tend, or that keep what they have: not here.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
}


class Begun(NamedTuple):
    process: subprocess.Popen[bytes]
    stream: trio.SocketStream
    scratch: Path


def begin(module: str, scratch: Path) -> Begun:
    """`python -m MODULE SOCKET PARENT`, in a folder of its own. Not in a thread: it ends with the
    thread that began it."""
    scratch.mkdir(mode=0o700)
    ours, theirs = socket.socketpair()
    root = Path(engine.__file__).parent.parent
    environment = {"PYTHONPATH": str(root), "HOME": str(scratch), "TMPDIR": str(scratch)}
    with theirs, (scratch / "said").open("wb") as said:
        number = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(number), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            cwd=scratch,
            env=_ENVIRONMENT | environment,
            pass_fds=[number],
            start_new_session=True,  # a Ctrl-C is for the engine
        )
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    return Begun(process, stream, scratch)


class ChildProcess:
    """Owned by one task at a time. What its end, or nonsense from it, means to who waits for it is
    said by who derives from this: `_ended_error`, `_broken`."""

    def __init__(self, begun: Begun) -> None:
        self._process = begun.process
        self._stream = begun.stream
        self.scratch: Final = begun.scratch
        self._received = bytearray()
        self.is_ended = False

    def _ended_error(self, code: int) -> EngineError:
        raise NotImplementedError

    def _broken(self, said: str) -> EngineError:
        """It sent what is no frame of ours."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """At once; whoever waits for its answer hears why."""
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

    async def _died(self) -> EngineError:
        self.end()
        with trio.CancelScope(shield=True):
            code = await self._exited()
        return self._ended_error(code)

    # ---- frames ----

    async def _send(self, kind: int, data: bytes | memoryview = b"") -> None:
        """Whole, or the process is of no use any more."""
        try:
            await self._stream.send_all(frames.head(kind, len(data)) + bytes(data))
        except trio.BrokenResourceError as error:
            raise await self._died() from error
        except trio.Cancelled:
            self.end()
            raise

    async def _frame(self) -> tuple[int, bytes]:
        await self._fill(frames.HEAD.size)
        try:
            size, kind = frames.parsed_head(self._received)
        except frames.BadFrame as error:
            raise self._broken(str(error)) from error
        await self._fill(frames.HEAD.size + size)
        data = bytes(self._received[frames.HEAD.size : frames.HEAD.size + size])
        del self._received[: frames.HEAD.size + size]
        return kind, data

    async def _fill(self, size: int) -> None:
        """What has come stays where it is, whoever is cancelled."""
        while len(self._received) < size:
            try:
                some = await self._stream.receive_some(limits.process_part_bytes_max)
            except trio.BrokenResourceError:
                some = b""
            if not some:
                raise await self._died()
            self._received += some
