"""What a program beside the engine asks of the kernel for itself: to end with the engine, and to
come behind it where the processors are fought for.

Knows no sockets.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_AUTOGROUP_AGAIN_S: Final = 0.11
_AUTOGROUP_TRIES_MAX: Final = 5

_libc: Final = ctypes.CDLL(None, use_errno=True)


def end_with_parent(parent: int) -> None:
    """The kernel ends this process when the thread that began it is gone, however it went."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the engine has ended before this process had begun")


def step_back(niceness: int) -> None:
    with contextlib.suppress(OSError):
        os.nice(niceness)
    _step_back_as_a_session(niceness)
    # If memory is short the kernel takes it here, and not from the engine.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _step_back_as_a_session(niceness: int) -> None:
    """Where the kernel puts each session into a group of its own, a process is nice to its session
    alone, which here is itself: the groups share the processors as if nobody were nice."""
    if os.getsid(0) != os.getpid():
        return  # others are in it
    for _ in range(_AUTOGROUP_TRIES_MAX):
        try:
            Path("/proc/self/autogroup").write_text(f"{niceness}", encoding="ascii")
        except BlockingIOError:
            time.sleep(_AUTOGROUP_AGAIN_S)  # one such change at a time, for all of the machine
        except OSError:
            return  # it has no such groups
        else:
            return
