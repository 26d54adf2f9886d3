"""Objects as files of a directory, in the layout that they would have in a bucket.

A file appears whole: it is written under another name, synced, renamed, and the folder synced.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from engine.archive.store.stores import DEFAULT_PREFIX, FoundObject
from engine.base.errors import (
    ArchiveDamaged,
    ArchiveRefused,
    ArchiveUnreachable,
    EngineError,
    StorageFull,
)
from engine.journal.durable import make_durable_folder, sync_file, sync_folder

_UNFINISHED: Final = ".unfinished-"


class LocalStore:
    """An `ObjectStore`."""

    access = None

    def __init__(self, folder: Path) -> None:
        # In a folder of the prefix's name, so that both sorts of store look alike.
        self._folder = (folder / DEFAULT_PREFIX).absolute()
        self.shown_url = str(self._folder)

    def ensure_ready(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._translated(error) from error
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise ArchiveRefused(
                f"{self._folder} cannot be written to; give the runtime's user the right, or set "
                "archive.url to another directory"
            )

    def put(self, key: str, path: Path) -> None:
        target = self._path(key)
        unfinished = target.with_name(f"{_UNFINISHED}{target.name}")
        try:
            # Durable as well: a folder that is lost takes its files with it.
            make_durable_folder(target.parent)
            shutil.copyfile(path, unfinished)
            sync_file(unfinished)
            unfinished.rename(target)
            sync_folder(target.parent)
        except OSError as error:
            raise self._translated(error) from error

    def size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._translated(error) from error

    def read(self, key: str, begin: int, length: int) -> bytes:
        try:
            with self._path(key).open("rb") as file:
                file.seek(begin)
                data = file.read(length)
        except FileNotFoundError as error:
            raise ArchiveDamaged(f"{self.uri(key)} is missing", key=key) from error
        except OSError as error:
            raise self._translated(error) from error
        if len(data) != length:
            raise ArchiveDamaged(f"{self.uri(key)} is shorter than it must be", key=key)
        return data

    def list(self, prefix: str) -> Iterator[FoundObject]:
        begin, _, name_begin = prefix.rpartition("/")
        folder = self._folder / begin
        try:
            for path in sorted(folder.glob(f"{name_begin}*")):
                for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                    if file.is_file() and not file.name.startswith(_UNFINISHED):
                        key = file.relative_to(self._folder).as_posix()
                        yield FoundObject(key, file.stat().st_size)
        except OSError as error:
            raise self._translated(error) from error

    def list_folders(self, prefix: str) -> Iterator[str]:
        folder = self._folder / prefix
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            if entry.is_dir():
                yield entry.name

    def delete(self, keys: Sequence[str]) -> None:
        try:
            for key in keys:
                path = self._path(key)
                path.unlink(missing_ok=True)
                path.with_name(f"{_UNFINISHED}{path.name}").unlink(missing_ok=True)
                self._drop_empty(path.parent)
        except OSError as error:
            raise self._translated(error) from error

    def _drop_empty(self, folder: Path) -> None:
        while folder != self._folder and folder.is_dir():
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return
                raise
            folder = folder.parent

    def uri(self, key: str) -> str:
        return str(self._path(key))

    def close(self) -> None:
        pass

    def _path(self, key: str) -> Path:
        assert not {"", ".."} & set(key.split("/")), key
        return self._folder / key

    def _translated(self, error: OSError) -> EngineError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageFull(
                f"no room for the archive in {self._folder}; ended runs stay in the hot tier until "
                "there is"
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            return ArchiveRefused(
                f"{self._folder} cannot be used as the archive: {error.strerror}; give the "
                "runtime's user the right, or set archive.url to another directory"
            )
        return ArchiveUnreachable(f"the archive in {self._folder} failed: {error}")
