"""Starts writers quickly: a process that has imported everything and opened nothing, and forks.

A fresh interpreter needs a third of a second until it writes; a hundred of them are half a minute
in which nothing is tested. `Zygote` is the side of whoever starts and kills the writers.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from tests.faults import writer

ROOT: Final = Path(__file__).resolve().parents[2]
_MESSAGE_BYTES_MAX: Final = 4_096


class _Start(msgspec.Struct):
    directory: str
    seed: int
    number: int


class Zygote:
    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.zygote", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
            )

    def start_writer(self, this: writer.Round) -> tuple[int, int]:
        """Its process id, and the end of the pipe from which its frames can be read."""
        frames, theirs = os.pipe()
        try:
            message = msgspec.json.encode(_Start(str(this.directory), this.seed, this.number))
            socket.send_fds(self._socket, [message], [theirs])
        finally:
            os.close(theirs)
        return int(self._answer()), frames

    def kill(self, process_id: int) -> None:
        """Returns once the process is gone, and with it its locks."""
        os.kill(process_id, signal.SIGKILL)
        self._socket.send(str(process_id).encode())
        status = int(self._answer())
        assert status == -signal.SIGKILL, f"the writer ended before it was killed: {status}"

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def __enter__(self) -> Zygote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self) -> bytes:
        answer = self._socket.recv(_MESSAGE_BYTES_MAX)
        assert answer, "the process that forks the writers is gone"
        return answer


def serve(control: socket.socket) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES_MAX, 1)
        if not message:
            return
        if not descriptors:
            _, status = os.waitpid(int(message), 0)
            control.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        start = msgspec.json.decode(message, type=_Start)
        process_id = os.fork()
        if process_id == 0:
            control.close()
            this = writer.Round(Path(start.directory), start.seed, start.number)
            writer.main(this, descriptors[0])
            return
        os.close(descriptors[0])
        control.send(str(process_id).encode())


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
