"""What the machine can do by itself, to be read beside every figure."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path


def fsync_p50_ms(scratch: Path, *, payload_bytes: int = 240, rounds: int = 300) -> float:
    """The median time of one fdatasync after a small append."""
    descriptor = os.open(scratch / "fsync", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        took: list[float] = []
        for _ in range(rounds):
            os.write(descriptor, b"x" * payload_bytes)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
    return statistics.median(took) * 1e3


def resident_mb() -> float:
    """This process's resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
