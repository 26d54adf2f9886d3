"""Ways to hurt the files of a store. Knows which files there are, nothing of what is in them."""

from __future__ import annotations

from pathlib import Path


def flip(file: Path, at: int, bit: int = 0x10) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= bit
    file.write_bytes(content)


def truncate(file: Path, size: int) -> None:
    with file.open("r+b") as stream:
        stream.truncate(size)


def zero(file: Path, begin: int, end: int) -> None:
    content = bytearray(file.read_bytes())
    content[begin:end] = bytes(end - begin)
    file.write_bytes(content)


def log_of(store: Path) -> Path:
    """The only log file of a store that has one."""
    (log,) = store.glob("*.log")
    return log


def largest_table(store: Path) -> Path:
    return max(store.glob("*.sst"), key=lambda table: table.stat().st_size)


def smallest_table(store: Path) -> Path:
    return min(store.glob("*.sst"), key=lambda table: table.stat().st_size)
