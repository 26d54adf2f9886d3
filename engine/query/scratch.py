"""The scratch folder of the processes of queries: made at the start, removed at the end, and those
that a killed engine has left behind removed at the next start.

A folder belongs to whoever holds the lock on the file in it; the kernel gives that up with the
process, however it ended, and no number of a process that came later can be taken for it. Knows no
processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PREFIX: Final = "engine-query-"
_LOCK: Final = "LOCK"


@contextlib.contextmanager
def scratch_of_ours(inside: Path) -> Iterator[Path]:
    """A folder that nobody else may look into; gone in the end."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=inside))
    try:
        with _locked(folder, os.O_CREAT | os.O_EXCL):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(inside: Path) -> int:
    """The folders of those that have ended; how many. Blocking. What is somebody else's, or was
    made this moment and has no lock yet, stays."""
    removed = 0
    for folder in inside.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with _locked(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
    return removed


@contextlib.contextmanager
def _locked(folder: Path, flags: int = 0) -> Iterator[None]:
    """Raises OSError if another holds it, or there is nothing to hold. The descriptor is not for
    the processes that are begun meanwhile: it is closed in them as they begin."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
