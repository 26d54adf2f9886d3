"""A runtime and a worker for a test: `engine dev`, on ports of its own.

They are killed in the end, together, since a clean stop is not what these tests are about.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

import httpx

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = (sys.executable, "-m", "engine.cli.main")
READY_S_MAX: Final = 60
_ASK_EVERY_S: Final = 0.05


class Running(NamedTuple):
    http: str
    grpc: str
    data_dir: Path

    @property
    def options(self) -> list[str]:
        """What `engine doctor` has to know to find it."""
        http, grpc = (url.removeprefix("http://") for url in (self.http, self.grpc))
        return ["--http", http, "--grpc", grpc, "--data-dir", str(self.data_dir)]


@contextmanager
def running(module: str | None, data_dir: Path, *options: str) -> Iterator[Running]:
    """With a module, returns when its worker has registered."""
    command = [*PROGRAM, "dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--no-reload"]
    with subprocess.Popen(
        [*command, "--data-dir", str(data_dir), *options, *([module] if module else [])],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        try:
            http, grpc = _addresses(process.stderr)
            # Whatever else it says must not fill the pipe.
            reader = threading.Thread(target=process.stderr.read)
            reader.start()
            if module:
                _wait_until_served(http, process)
            yield Running(http, grpc, data_dir)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            reader.join()


def _addresses(said: IO[str]) -> tuple[str, str]:
    found: list[str] = []
    lines: list[str] = []
    while len(found) < 2:
        line = said.readline()
        assert line, "".join(lines)
        lines.append(line)
        found += re.findall(r"http://[\d.]+:\d+", line)
    return found[0], found[1]


def _wait_until_served(http: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while not httpx.get(f"{http}/v1/components").json()["components"]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(_ASK_EVERY_S)
