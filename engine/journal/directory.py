"""The data directory: who holds it, and whether this engine can read it.

One process writes to a data directory at a time. The lock is the kernel's (`flock`), so it goes
with the process that held it, however that one ended; the text in the file only serves the
message that a second process prints.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Final

from engine.base.errors import DirectoryInUse, EngineError, StorageFailed, StorageFull
from engine.journal.durable import make_durable_folder, sync_folder
from engine.journal.layout import lock_path, segments_path, system_path

FORMAT: Final = "1"

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_log = logging.getLogger(__name__)


class DataDirectory:
    """A data directory that this process holds until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            for folder in (segments_path(path), system_path(path).parent):
                make_durable_folder(folder)
            self._lock = os.open(lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._take()
            _close_to_others(path)
            self._check_format()
        except OSError as error:
            os.close(self._lock)
            raise self._unusable(error) from error
        except BaseException:
            os.close(self._lock)
            raise

    def _unusable(self, error: OSError) -> EngineError:
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
        return kind(
            f"the data directory {self.path} cannot be used: {error.strerror}. Give --data-dir a "
            "directory that this user may write to",
            path=str(self.path),
        )

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 200, 0).decode(errors="replace").strip()
            raise DirectoryInUse(
                f"the data directory {self.path} is in use by {holder or 'another process'}; "
                "stop it, or give this one another --data-dir",
                path=str(self.path),
                holder=holder,
            ) from error
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:120]
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} ({command})\n".encode(), 0)

    def _check_format(self) -> None:
        file = self.path / "FORMAT"
        if not file.exists():
            # Renamed into place, so that it is never seen half written.
            draft = file.with_suffix(".new")
            with draft.open("w") as text:
                text.write(FORMAT + "\n")
                text.flush()
                os.fsync(text.fileno())
            draft.rename(file)
            sync_folder(self.path)
            return
        found = file.read_text(errors="replace").strip()
        if found != FORMAT:
            raise StorageFailed(
                f"the data directory {self.path} has format {found[:20]!r}, this engine reads "
                f"{FORMAT!r}; use the version of the engine that wrote it",
                path=str(self.path),
            )

    def close(self) -> None:
        os.close(self._lock)


def _close_to_others(path: Path) -> None:
    """What tenants entrusted to the engine is not for the other users of the machine. A directory
    of another owner is left as its owner wants it."""
    found = path.stat()
    if found.st_uid != os.geteuid() or not found.st_mode & _OTHERS:
        return
    path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
    _log.info("%s was open to other users of this machine, and is not any more", path)
