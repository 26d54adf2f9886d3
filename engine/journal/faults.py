"""What a driver's message means: translates RocksDB's error strings, once, into typed errors.

RocksDB's binding raises plain exceptions whose text begins with the status; nothing outside this
file reads that text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from engine.base.errors import (
    DirectoryInUse,
    EngineError,
    StorageDamaged,
    StorageFailed,
    StorageFull,
)

_FULL: Final = re.compile(r"No space left|Disk quota exceeded|NoSpace|Space limit reached", re.I)
# Damage shows as a failed checksum, or as a file that is shorter than the catalogue says.
_DAMAGED: Final = re.compile(
    r"^Corruption|file is too short|No such file|While open a file for random read", re.I
)
_LOCKED: Final = re.compile(r"lock hold by|While lock file|Resource temporarily unavailable", re.I)
_FILE: Final = re.compile(r"(/[^\s:\"']*?(?:\d{6}\.(?:sst|log|blob)|MANIFEST-\d+|CURRENT))")


class StoreStalled(Exception):
    """RocksDB would have blocked the caller; the same write is welcome from another thread."""


def is_stall(error: BaseException) -> bool:
    text = str(error)
    return "Write stall" in text or text.startswith("Result incomplete")


def way_out(place: Path) -> str:
    name = place.parent.name
    which = name.removeprefix("tenant=") if name.startswith("tenant=") else "--system"
    return (
        "Restore a backup with `engine journal restore`, or keep what can still be read with "
        f"`engine journal salvage {which}`; `engine journal verify` lists every damaged place"
    )


def damaged(place: Path, what: str, file: str | None = None) -> StorageDamaged:
    named = file or str(place)
    return StorageDamaged(f"{named} is damaged: {what}. {way_out(place)}.", file=named)


def translate(error: BaseException, place: Path) -> EngineError:
    """The typed error for a driver's exception about the store at `place`."""
    text = str(error)
    if _LOCKED.search(text):
        return DirectoryInUse(
            f"{place} is open in another process; stop it, or use another --data-dir",
            path=str(place),
        )
    if _FULL.search(text):
        return StorageFull(
            f"no room on the disk of {place}: nothing was acknowledged, reads go on, and writing "
            "resumes by itself once there is room; read what is there before appending again, "
            "since the last of it may have been written",
            path=str(place),
        )
    if _DAMAGED.search(text):
        found = _FILE.search(text)
        return damaged(place, text, found.group(1) if found else None)
    return StorageFailed(
        f"writing to {place} failed: {text}. The tenant is stopped, since memory may be ahead of "
        "the disk; check the disk (dmesg, smartctl) and restart the runtime",
        path=str(place),
        cause=text,
    )
