"""The system calls of a process, in the order in which the kernel saw them begin and end.

Runs a command under strace and reads what it wrote. Knows no journal.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
_LINE: Final = re.compile(r"(?P<thread>\d+) +(?P<time>\d+\.\d+) (?P<rest>.*)")
_BEGUN: Final = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)", re.DOTALL)
_RESUMED: Final = re.compile(r"<\.\.\. (?P<name>\w+) resumed>")
_RESULT: Final = re.compile(r"\)\s+= (?P<result>-?\d+)(?:<[^>]*>)?(?: E[A-Z]+ .*)?$")
_DESCRIPTOR: Final = re.compile(r"\d+<(?P<path>[^>]*)>")
_UNFINISHED: Final = " <unfinished ...>"


@dataclass
class Call:
    name: str
    arguments: str
    began_s: float
    result: int | None = None  # None: has not returned yet

    @property
    def path(self) -> str:
        """The file that the call's first argument, a descriptor, stands for."""
        found = _DESCRIPTOR.match(self.arguments)
        return found["path"] if found else ""


def trace(command: list[str], calls: str, output: Path) -> subprocess.CompletedProcess[str]:
    """Run the command; `read_trace(output)` afterwards says what it did."""
    if shutil.which("strace") is None:
        pytest.skip("strace is missing: apt-get install strace")
    strace = ["strace", "-f", "-y", "-ttt", "-s", "10000000", "-o", str(output)]
    return subprocess.run(
        [*strace, "-e", f"trace={calls}", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def read_trace(output: Path) -> Iterator[tuple[Call, bool]]:
    """Each call twice: when it begins (False) and when it has returned (True)."""
    under_way: dict[str, Call] = {}
    for line in output.read_text(encoding="ascii").splitlines():
        matched = _LINE.fullmatch(line)
        assert matched is not None, f"strace wrote a line that is not understood: {line[:200]}"
        thread, rest = matched["thread"], matched["rest"]
        if _RESUMED.match(rest):
            call = under_way.pop(thread)
        elif begun := _BEGUN.match(rest):
            arguments = begun["arguments"].removesuffix(_UNFINISHED)
            call = Call(begun["name"], arguments, float(matched["time"]))
            yield call, False
            if rest.endswith(_UNFINISHED):
                under_way[thread] = call
                continue
        else:
            continue  # a signal, or the end of a thread
        if result := _RESULT.search(rest):
            call.result = int(result["result"])
            yield call, True
