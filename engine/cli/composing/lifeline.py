"""A child process that does not outlive its parent, however the parent ends.

The parent holds one end of a pipe and writes nothing into it; when it is gone, even by SIGKILL, the
child reads the end of the file. Owns the pipe on both sides. Knows neither what the child does nor
how it was started. The kernel's own way, `PR_SET_PDEATHSIG`, looks at the thread that started the
child and not at the process, and Trio starts processes from threads that do not stay.
"""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType
from typing import Final

_LEAVE_S: Final = 1.0


class Lifeline:
    """The parent's side; `end` is the file descriptor that a child is to inherit."""

    def __init__(self) -> None:
        self.end, self._held = os.pipe()

    def __enter__(self) -> Lifeline:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._held)
        os.close(self.end)


def leave_when_cut(end: int) -> None:
    """The child's side: when the parent is gone this process is asked to stop, and made to if it
    does not."""
    threading.Thread(target=_wait_until_cut, args=(end,), name="lifeline", daemon=True).start()


def _wait_until_cut(end: int) -> None:
    while os.read(end, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_LEAVE_S)
    os._exit(1)
