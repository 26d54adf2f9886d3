"""An S3 server for tests of commands: moto, as a process of its own on a port of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def s3_server() -> Iterator[str]:
    """Its URL. It begins empty, and takes any credentials."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while not (found := re.search(r"Running on (http://[\d.]+:\d+)", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        # Whatever else it says must not fill the pipe.
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        try:
            yield found[1]
        finally:
            process.kill()
            reader.join()
