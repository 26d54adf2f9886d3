"""Makes files and folders durable: what is written is on the disk when a call here returns.

A new file is durable only with the folder that names it.
"""

from __future__ import annotations

import os
from pathlib import Path


def sync_file(file: Path) -> None:
    _sync(file, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """The names in a folder, not what they name."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Everything below a folder and the folder itself, the innermost first."""
    for entry in folder.iterdir():
        if entry.is_dir():
            sync_tree(entry)
        else:
            sync_file(entry)
    sync_folder(folder)


def make_durable_folder(path: Path) -> None:
    """The folder and those above it; what was made is durable when this returns."""
    if path.is_dir():
        return
    make_durable_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
