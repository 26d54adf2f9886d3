"""One example from start to end in one terminal.

    python -m examples shop         or approval, fanout, sleeper

Does what a user does in two terminals: `engine dev examples.shop`, in a directory that is thrown
away afterwards, and `python -m examples.shop` once its worker is there.
"""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from engine.sdk import Client

EXAMPLES = ("shop", "approval", "fanout", "sleeper")
READY_S_MAX = 60.0


def free_address() -> str:
    """Not the usual ports, where a runtime of yours may be."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return "127.0.0.1:{1}".format(*listener.getsockname())


@contextmanager
def runtime_with(module: str) -> Iterator[str]:
    """A runtime and a worker of the module, until the block ends; where clients find it."""
    http = free_address()
    command = [sys.executable, "-m", "engine.cli.main", "dev", module, "--no-reload"]
    with tempfile.TemporaryDirectory(prefix="engine-example-") as folder:
        options = ["--data-dir", str(Path(folder, "data")), "--http", http, "--grpc"]
        with subprocess.Popen([*command, *options, free_address()]) as runtime:
            try:
                wait_until_served(f"http://{http}", runtime)
                yield f"http://{http}"
            finally:
                runtime.terminate()


def wait_until_served(url: str, runtime: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline and runtime.poll() is None:
        try:
            if httpx.get(f"{url}/v1/components").json()["components"]:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    sys.exit(f"the runtime of the example does not answer at {url}")


def main() -> None:
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in EXAMPLES:
        sys.exit(f"usage: python -m examples {'|'.join(EXAMPLES)}")
    with runtime_with(f"examples.{name}") as url, Client(url) as client:
        importlib.import_module(f"examples.{name}").main(client)


if __name__ == "__main__":
    main()
