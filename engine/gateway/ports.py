"""What the gateway needs of the rest of the engine. The runtime has a `Handle`; who a request is
for, and whether the process is ready, is decided by whoever composes the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from engine.base.errors import EngineError
from engine.base.ids import RunId
from engine.model.context import RequestContext
from engine.model.query import (
    AnalyticsFilter,
    ArchiveFlushed,
    ArchiveStatus,
    ArchiveVerified,
    ArrowAnswer,
    QueryAnswer,
)
from engine.model.views import (
    ComponentView,
    JournalEntry,
    Outcome,
    RunEvent,
    RunFilter,
    RunPage,
    RunView,
    Started,
    StartRequest,
)


class Handle(Protocol):
    """All of it on the event loop's thread. What returns is durable."""

    async def start(self, context: RequestContext, request: StartRequest) -> Started: ...

    async def start_many(
        self, context: RequestContext, requests: Sequence[StartRequest]
    ) -> Sequence[Started | EngineError]:
        """In one commit; an answer for each, in order."""

    async def wait_outcome(self, context: RequestContext, run_id: RunId) -> Outcome:
        """Returns once the run has ended. May be cancelled and called again."""

    async def get_run(self, context: RequestContext, run_id: RunId) -> RunView: ...

    async def get_status(self, context: RequestContext, run_id: RunId) -> RunView:
        """As `get_run`, without what only the journal says: cheap, for who asks again and again."""

    async def read_journal(
        self, context: RequestContext, run_id: RunId, from_offset: int, limit: int
    ) -> Sequence[JournalEntry]: ...

    def events(
        self, context: RequestContext, run_id: RunId, after_offset: int | None
    ) -> AbstractAsyncContextManager[AsyncIterator[RunEvent]]:
        """Journaled events after the offset (None: from the first), then live ones, then the
        iterator ends behind the terminal event. Entering raises `UnknownRun` and `Gone`. Holds a
        bounded amount for a reader that does not keep up."""

    async def cancel(self, context: RequestContext, run_id: RunId, reason: str) -> None: ...

    async def signal(
        self,
        context: RequestContext,
        run_id: RunId,
        name: str,
        payload: bytes,
        signal_id: str | None,
    ) -> None: ...

    async def resolve_wait(
        self, context: RequestContext, run_id: RunId, wait_id: str, value: bytes
    ) -> None: ...

    async def list_runs(self, context: RequestContext, run_filter: RunFilter) -> RunPage: ...

    async def why(self, context: RequestContext, run_id: RunId) -> str: ...

    def components(self, context: RequestContext) -> Sequence[ComponentView]: ...

    async def query(
        self, context: RequestContext, sql: str, *, rows_max: int | None = None
    ) -> QueryAnswer:
        """What one SELECT over the tenant's runs finds; cancelling stops it. None: as many rows as
        the settings allow. Raises `InvalidQuery`, `QueryRefused`, `QueryTimeout`."""

    async def query_arrow(
        self, context: RequestContext, sql: str, *, rows_max: int | None = None
    ) -> ArrowAnswer: ...

    async def analytics(
        self, context: RequestContext, name: str, chosen: AnalyticsFilter
    ) -> QueryAnswer:
        """One of `engine.model.query.ANALYTICS`."""

    async def archive_status(self, context: RequestContext) -> ArchiveStatus: ...

    async def archive_flush(self, context: RequestContext) -> ArchiveFlushed:
        """Everything that had ended when it was called is in the archive when it returns. Raises
        `ArchiveUnreachable`."""

    async def archive_verify(self, context: RequestContext) -> ArchiveVerified:
        """Compares the archive with what is known of it; what differs is in the answer."""


class Authenticate(Protocol):
    def __call__(self, headers: Mapping[str, str], peer: str | None) -> RequestContext:
        """Whose request this is; header names are in lower case, `peer` is the address of the
        other end. Raises `Unauthorized`."""


class Readiness(Protocol):
    def __call__(self) -> str | None:
        """Why the process cannot serve yet, or None when it can."""


class MoreMetrics(Protocol):
    def __call__(self) -> str:
        """What other parts of the process measure, in Prometheus' text format."""
