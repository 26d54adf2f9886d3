"""The port to where objects are kept; `opening.py` knows which one the settings name.

An object is written whole or not at all, under a key with `/` in it, and never changed to other
content. Calls block; callers choose the thread. What goes wrong is typed: `ArchiveUnreachable` may
pass by itself, `ArchiveRefused` needs an operator, `ArchiveDamaged` names an object. Knows no
Parquet and no batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

DEFAULT_PREFIX = "engine"


class FoundObject(msgspec.Struct, frozen=True):
    key: str
    bytes: int


class S3Access(msgspec.Struct, frozen=True, kw_only=True):
    """How another library gets at the same bucket. Holds secrets: never shown, never logged."""

    endpoint: str  # host:port
    secure: bool
    access_key: str
    secret_key: str = ""
    session_token: str = ""
    region: str = ""
    path_style: bool = True
    ca_file: str = ""

    def __repr__(self) -> str:
        return f"S3Access({self.endpoint})"


class ObjectStore(Protocol):
    """Thread-safe. Keys are relative to the prefix that the settings name."""

    @property
    def shown_url(self) -> str:
        """Where it is, without credentials."""
        ...

    @property
    def access(self) -> S3Access | None: ...

    def ensure_ready(self) -> None:
        """It can be reached and written to; makes the folder, or the bucket if it may."""
        ...

    def put(self, key: str, path: Path) -> None:
        """Store a file's bytes. Once this returns they survive a crash."""
        ...

    def size(self, key: str) -> int | None:
        """In bytes; None if there is no such object."""
        ...

    def read(self, key: str, begin: int, length: int) -> bytes:
        """Exactly so many bytes, or an error."""
        ...

    def list(self, prefix: str) -> Iterator[FoundObject]:
        """Every object whose key begins with the prefix."""
        ...

    def list_folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders right under `prefix/`."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Those that are there. Being asked again is fine."""
        ...

    def uri(self, key: str) -> str:
        """As DuckDB names it: a path or s3://bucket/key."""
        ...

    def close(self) -> None: ...
