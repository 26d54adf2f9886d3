"""Child processes of the fault tests: a module of this folder, in an interpreter of its own.

A child asserts for itself; what it printed is the message of the failed test. `in_child` is for
such a child, which forks again so that what it opens is gone with the process that opened it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, ParamSpec

P = ParamSpec("P")

ROOT: Final = Path(__file__).resolve().parents[2]

# A child that hangs is a defect like any other, and must not take the suite with it.
CHILD_S_MAX: Final = 90


def run_child(
    module: str,
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
) -> str:
    """What `python -m tests.faults.MODULE` printed; `inside` is a command to run it with."""
    with subprocess.Popen(
        [*inside, sys.executable, "-m", f"tests.faults.{module}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that its forks can be ended with it
    ) as child:
        try:
            printed, complained = child.communicate(timeout=CHILD_S_MAX)
        except subprocess.TimeoutExpired as error:
            os.killpg(child.pid, signal.SIGKILL)
            raise AssertionError(f"{module} hangs; it said: {child.communicate()}") from error
    assert child.returncode == 0, f"exit {child.returncode}\n{printed}\n{complained}"
    return printed


def in_child(call: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> int:
    """The exit code of a fork that does this; for a process that has no thread and nothing open."""
    process_id = os.fork()
    if process_id == 0:
        exit_code = 1
        try:
            call(*arguments, **named)
            exit_code = 0
        finally:
            if exit_code:
                traceback.print_exc()
            os._exit(exit_code)
    return os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1])
