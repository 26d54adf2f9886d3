"""A server that speaks S3, in a process of its own: moto's, or the one that ENGINE_TEST_S3_ENDPOINT
names (with ENGINE_TEST_S3_ACCESS_KEY and ENGINE_TEST_S3_SECRET_KEY), so that the same suite runs
against MinIO.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from engine.config.archive import ArchiveSettings

START_S_MAX = 30


class S3Server(NamedTuple):
    endpoint: str
    access_key: str
    secret_key: str

    def settings(self, *, endpoint: str = "", **changes: object) -> ArchiveSettings:
        """Of a bucket that nobody else uses."""
        settings = {
            "url": f"s3://test-{uuid.uuid4().hex}/archive/one",
            "endpoint": endpoint or self.endpoint,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "create_bucket": True,
            "request_timeout_ms": 5_000,
        }
        return ArchiveSettings(**(settings | changes))  # type: ignore[arg-type]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    named = os.environ.get("ENGINE_TEST_S3_ENDPOINT")
    if named:
        yield S3Server(
            named,
            os.environ.get("ENGINE_TEST_S3_ACCESS_KEY", ""),
            os.environ.get("ENGINE_TEST_S3_SECRET_KEY", ""),
        )
        return
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until_listening(port, server)
            yield S3Server(f"http://127.0.0.1:{port}", "access", "secret-key")
        finally:
            server.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_listening(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        assert server.poll() is None, "the S3 server ended by itself"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"no S3 server on port {port} after {START_S_MAX} s")
