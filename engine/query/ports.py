"""What the query tier needs of others: a tenant's runs at one moment, and where the files lie.

The archive's classes fit these by their shape; the runtime puts the two together. Knows neither
DuckDB nor how a file comes to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from engine.base.ids import TenantId
from engine.model.query import Window

EVERYTHING = Window()


class Snapshot(Protocol):
    """One tenant's runs at one moment, each exactly once: in the files or in the hot tables."""

    @property
    def run_files(self) -> Sequence[str]:
        """Local paths or s3:// addresses of acknowledged batches, oldest day first."""

    @property
    def step_files(self) -> Sequence[str]: ...

    def hot_runs(self) -> object:
        """An Arrow table, with every column of today's schema even when it is empty. Blocks."""

    def hot_steps(self) -> object: ...

    @property
    def hot_left_out(self) -> int:
        """How many ended runs were too many for the hot tables; known once they are built."""


class FileList(Protocol):
    """The part of a snapshot that a listing reads."""

    @property
    def run_files(self) -> Sequence[str]: ...


SnapshotOf = Callable[[Window], Snapshot]
ReportUnreadable = Callable[[TenantId, str, str], None]  # tenant, file, reason

# An Arrow table as the pieces of an IPC stream.
StreamOf = Callable[[object], Sequence[bytes]]


class StoreAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Where the files are and how to get at them: plain values. Holds secrets: never shown.

    `root` is what comes before the data set: an absolute directory or `s3://bucket/prefix`. The
    files of a snapshot begin with it, letter by letter.
    """

    root: str
    endpoint: str = ""  # host:port; "" is AWS itself
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    region: str = "us-east-1"
    path_style: bool = True
    secure: bool = True
    ca_file: str = ""

    def __repr__(self) -> str:
        return f"StoreAccess({self.root})"

    @property
    def is_s3(self) -> bool:
        return self.root.startswith("s3://")

    def directories(self, tenant: TenantId) -> tuple[str, ...]:
        """All that the tenant's database may read."""
        return tuple(
            f"{self.root.rstrip('/')}/{name}/tenant={tenant}/" for name in ("runs", "steps")
        )

    def inside(self, file: str) -> str:
        """The file as it is named to people: without the place that it lies in."""
        return file.removeprefix(self.root).lstrip("/")
