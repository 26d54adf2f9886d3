"""The client for asyncio and Trio. `client.py` has the same methods, and says what each does.

    async with AsyncClient() as client:
        receipt = await client.run("checkout", {"items": ["book"]})

Sends the same requests (`requests.py`); knows nothing of how an answer is read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

import anyio
import httpx

from engine.base.clock import Clock, system_clock
from engine.base.errors import EngineError
from engine.model.query import ArchiveFlushed, ArchiveStatus, ArchiveVerified
from engine.model.views import RunPage, RunView
from engine.sdk import limits
from engine.sdk.client import requests
from engine.sdk.client.client import (
    BASE_URL_DEFAULT,
    Deadline,
    lost,
    refusal_of,
    timeout_of,
    translated,
)
from engine.sdk.client.query_result import Analytics, QueryBytes, QueryForm, QueryResult
from engine.sdk.client.requests import (
    AnyComponent,
    JournalRecord,
    Request,
    RunFilters,
    StartKeywords,
    StartOptions,
)
from engine.sdk.client.sse import Event, EventParser
from engine.sdk.errors import ConnectionLost
from engine.sdk.tls import client_context

T = TypeVar("T")


class AsyncClient:
    """As `Client`, to be awaited."""

    def __init__(
        self,
        base_url: str = BASE_URL_DEFAULT,
        *,
        api_key: str | None = None,
        ca_file: str | Path | None = None,
        clock: Clock = system_clock,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._clock = clock
        self._http = httpx.AsyncClient(
            base_url=requests.checked_base_url(base_url),
            verify=client_context(base_url, ca_file) or False,  # plain HTTP has nothing to verify
            headers=requests.auth_headers(api_key),
            transport=transport,
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    # ---- starting ----

    async def run(
        self,
        component: AnyComponent | str,
        value: Any = None,
        *,
        timeout: float | None = None,
        **options: Unpack[StartKeywords],
    ) -> Any:
        return await self._ask(requests.run(component, value, StartOptions(**options), timeout))

    async def submit(
        self, component: AnyComponent | str, value: Any = None, **options: Unpack[StartKeywords]
    ) -> str:
        return await self._ask(requests.submit(component, value, StartOptions(**options)))

    # ---- asking ----

    async def result(
        self,
        run_id: str,
        *,
        timeout: float | None = None,
        component: AnyComponent | str | None = None,
    ) -> Any:
        deadline = Deadline(self._clock, timeout)
        while True:
            found = await self._ask(requests.result(run_id, deadline.wait_s(), component))
            if found is not requests.NOT_YET:
                return found
            deadline.check(run_id)

    async def status(self, run_id: str) -> str:
        return await self._ask(requests.status(run_id))

    async def get(self, run_id: str) -> RunView:
        return await self._ask(requests.get(run_id))

    async def why(self, run_id: str) -> str:
        return await self._ask(requests.why(run_id))

    async def journal(self, run_id: str, *, from_offset: int = 0) -> AsyncIterator[JournalRecord]:
        while page := await self._ask(
            requests.journal(run_id, from_offset, limits.journal_page_records)
        ):
            for record in page:
                yield record
            from_offset = page[-1].offset + 1

    async def list(self, **filters: Unpack[RunFilters]) -> RunPage:
        return await self._ask(requests.list_runs(filters))

    async def events(self, run_id: str, *, after: int | None = None) -> AsyncIterator[Event]:
        failures = 0
        while True:
            try:
                # Read to its end, which is after the last event: a generator that is left in the
                # middle stays open until it is collected.
                async with aclosing(self._stream(requests.events(run_id, after))) as events:
                    async for event in events:
                        failures = 0
                        after = after if event.id is None else event.id
                        yield event
                if (await self.get(run_id)).completed_ms:
                    return
            except ConnectionLost:
                failures += 1
                if failures > limits.event_reconnects_max:
                    raise
            await _sleep(requests.reconnect_s(failures))

    # ---- the tiers ----

    async def query(
        self, sql: str, *, rows_max: int | None = None, timeout: float | None = None
    ) -> QueryResult:
        return QueryResult(await self.query_bytes(sql, "arrow", rows_max=rows_max, timeout=timeout))

    async def query_bytes(
        self,
        sql: str,
        form: QueryForm,
        *,
        rows_max: int | None = None,
        timeout: float | None = None,
    ) -> QueryBytes:
        return await self._ask(requests.query(sql, form, rows_max, timeout))

    async def analytics(
        self,
        name: str,
        *,
        since: str | int | None = None,
        until: str | int | None = None,
        project: str | None = None,
        limit: int = 1_000,
    ) -> Analytics:
        return await self._ask(requests.analytics(name, since, until, project, limit))

    async def archive_status(self) -> ArchiveStatus:
        return await self._ask(requests.archive_status())

    async def archive_flush(self) -> ArchiveFlushed:
        return await self._ask(requests.archive_flush())

    async def archive_verify(self) -> ArchiveVerified:
        return await self._ask(requests.archive_verify())

    # ---- changing ----

    async def cancel(self, run_id: str, reason: str = "") -> None:
        await self._ask(requests.cancel(run_id, reason))

    async def signal(
        self, run_id: str, name: str, value: Any = None, *, signal_id: str | None = None
    ) -> None:
        await self._ask(requests.signal(run_id, name, value, signal_id))

    async def resolve_wait(self, run_id: str, wait_id: str, value: Any) -> None:
        await self._ask(requests.resolve_wait(run_id, wait_id, value))

    # ---- inside ----

    async def _ask(self, request: Request[T]) -> T:
        try:
            response = await self._http.request(
                request.method,
                request.path,
                params=dict(request.query),
                headers={"content-type": "application/json", **request.headers},
                content=request.body,
                timeout=timeout_of(request),
            )
        except httpx.HTTPError as error:
            raise translated(error, self._http.base_url, request) from error
        return request.answered(response.status_code, response.headers, response.content)

    async def _stream(self, request: Request[None]) -> AsyncGenerator[Event, None]:
        parser = EventParser()
        try:
            async with self._http.stream(
                request.method,
                request.path,
                headers={"accept-encoding": "identity", **request.headers},
                timeout=httpx.Timeout(limits.request_timeout_s, read=limits.event_silence_s),
            ) as response:
                if response.status_code != 200:
                    request.read(response.status_code, await response.aread())
                    return
                refusal: EngineError | None = None
                async for data in response.aiter_raw():
                    for event in parser.feed(data):
                        refusal = refusal or refusal_of(event)
                        if refusal is None:
                            yield event
                if refusal is not None:
                    raise refusal
        except httpx.HTTPError as error:
            raise lost(error, self._http.base_url) from error


async def _sleep(duration_s: float) -> None:
    """On whichever of the two libraries runs."""
    await anyio.sleep(duration_s)
