"""What the doors ask of the tiers and what they are shown, as values: answers of queries and of the
ready-made analytics, and how the archive is doing.

`QueryAnswer` and the archive's types are written as JSON as they stand, so their field names are
the public API's. Knows no SQL, no Parquet and no object store.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

# The analytics that can be asked for by name; `engine/query/analytics.py` says what each shows.
ANALYTICS: Final = ("tokens", "errors", "latency", "leaderboard", "tools")


class Window(msgspec.Struct, frozen=True):
    """When the runs ended that may matter: from, and before. Runs that have not ended always do."""

    from_ms: int | None = None
    to_ms: int | None = None

    def touches(self, from_ms: int, to_ms: int) -> bool:
        return (self.to_ms is None or from_ms < self.to_ms) and (
            self.from_ms is None or to_ms >= self.from_ms
        )


class QueryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of values that JSON can carry."""

    columns: tuple[str, ...]
    types: tuple[str, ...]  # as SQL names them
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False  # there were more rows than may be answered at once
    skipped: tuple[str, ...] = ()  # objects that could not be read, each with its reason
    elapsed_ms: float = 0.0


class ArrowAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The same as an Arrow IPC stream."""

    stream: bytes
    truncated: bool = False
    skipped: tuple[str, ...] = ()
    elapsed_ms: float = 0.0


class AnalyticsFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Over which runs; None: no bound on that side, or every project."""

    from_ms: int | None = None  # completed then or later
    to_ms: int | None = None  # completed before
    project_id: str | None = None
    limit: int = 1_000


class ArchiveStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the archive of one tenant is doing."""

    url: str = ""  # where the objects are; never with credentials
    reachable: bool = True
    last_error: str = ""
    last_flush_ms: int = 0
    waiting_runs: int = 0  # ended, and in no acknowledged batch
    waiting_oldest_ms: int = 0  # for how long the oldest of them has: an age, not a moment
    batches_planned: int = 0
    batches_acknowledged: int = 0
    archived_runs: int = 0
    archived_bytes: int = 0
    # While it catches up after an outage.
    backfilling: bool = False
    backfill_done: int = 0
    backfill_total: int = 0


class ArchiveFlushed(msgspec.Struct, frozen=True, kw_only=True):
    runs: int = 0
    batches: int = 0
    bytes: int = 0
    took_ms: float = 0.0


class ArchiveVerified(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared, and everything that is not as it must be."""

    batches: int = 0
    runs: int = 0
    problems: tuple[str, ...] = ()
