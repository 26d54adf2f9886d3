"""The client: starts runs and asks about them, over HTTP. Blocking; `async_client.py` is its twin.

    client = Client()
    receipt = client.run("checkout", {"items": ["book"]})

What is asked and how answers are read is in `requests.py`; here it is sent, and waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar, Unpack

import httpx

from engine.base.clock import Clock, system_clock
from engine.base.errors import EngineError
from engine.model.query import ArchiveFlushed, ArchiveStatus, ArchiveVerified
from engine.model.views import RunPage, RunView
from engine.sdk import limits
from engine.sdk.client import requests
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
from engine.sdk.problems import error_of_problem
from engine.sdk.tls import client_context

T = TypeVar("T")

BASE_URL_DEFAULT: Final = "http://127.0.0.1:34181"


class Client:
    """Talks to the gateway at `base_url`. Errors of the engine are raised as they are named there:
    UnknownComponent, InvalidInput, UnknownRun and so on, each with a `code` and what to do.

    At `https://` the certificate and its name are verified, against what the system trusts or what
    is in `ca_file`."""

    def __init__(
        self,
        base_url: str = BASE_URL_DEFAULT,
        *,
        api_key: str | None = None,
        ca_file: str | Path | None = None,
        clock: Clock = system_clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._clock = clock
        self._http = httpx.Client(
            base_url=requests.checked_base_url(base_url),
            verify=client_context(base_url, ca_file) or False,  # plain HTTP has nothing to verify
            headers=requests.auth_headers(api_key),
            transport=transport,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ---- starting ----

    def run(
        self,
        component: AnyComponent | str,
        value: Any = None,
        *,
        timeout: float | None = None,
        **options: Unpack[StartKeywords],
    ) -> Any:
        """Start a run, wait for it, and return what it returned; RunFailed if it did not complete.

        After `timeout` seconds TimeoutError is raised and the run goes on; to find it again, start
        it with an idempotency key, or use `submit`.
        """
        return self._ask(requests.run(component, value, StartOptions(**options), timeout))

    def submit(
        self, component: AnyComponent | str, value: Any = None, **options: Unpack[StartKeywords]
    ) -> str:
        """Start a run and return its id, once it is durable."""
        return self._ask(requests.submit(component, value, StartOptions(**options)))

    # ---- asking ----

    def result(
        self,
        run_id: str,
        *,
        timeout: float | None = None,
        component: AnyComponent | str | None = None,
    ) -> Any:
        """Wait for a run and return what it returned. With `component=`, typed as it says."""
        deadline = Deadline(self._clock, timeout)
        while True:
            found = self._ask(requests.result(run_id, deadline.wait_s(), component))
            if found is not requests.NOT_YET:
                return found
            deadline.check(run_id)

    def status(self, run_id: str) -> str:
        return self._ask(requests.status(run_id))

    def get(self, run_id: str) -> RunView:
        """Everything about a run, what it waits for included."""
        return self._ask(requests.get(run_id))

    def why(self, run_id: str) -> str:
        """In a sentence, why it is not progressing."""
        return self._ask(requests.why(run_id))

    def journal(self, run_id: str, *, from_offset: int = 0) -> Iterator[JournalRecord]:
        """The records that there are."""
        while page := self._ask(requests.journal(run_id, from_offset, limits.journal_page_records)):
            yield from page
            from_offset = page[-1].offset + 1

    def list(self, **filters: Unpack[RunFilters]) -> RunPage:
        """Runs, newest first; `cursor=page.next_cursor` gives the next page."""
        return self._ask(requests.list_runs(filters))

    def events(self, run_id: str, *, after: int | None = None) -> Iterator[Event]:
        """What happens to a run, from its beginning or behind the event with the id `after`, until
        it ends. Goes on by itself where a connection breaks; recorded events come once each."""
        failures = 0
        while True:
            try:
                for event in self._stream(requests.events(run_id, after)):
                    failures = 0
                    after = after if event.id is None else event.id
                    yield event
                if self.get(run_id).completed_ms:
                    return
            except ConnectionLost:
                failures += 1
                if failures > limits.event_reconnects_max:
                    raise
            time.sleep(requests.reconnect_s(failures))

    # ---- the tiers ----

    def query(
        self, sql: str, *, rows_max: int | None = None, timeout: float | None = None
    ) -> QueryResult:
        """What one SELECT over `runs` and `steps` finds: iterate it, or take it as `.arrow()`,
        `.pandas()` or `.polars()`."""
        return QueryResult(self.query_bytes(sql, "arrow", rows_max=rows_max, timeout=timeout))

    def query_bytes(
        self,
        sql: str,
        form: QueryForm,
        *,
        rows_max: int | None = None,
        timeout: float | None = None,
    ) -> QueryBytes:
        """The same as a file would have it: an Arrow stream, CSV, or JSON."""
        return self._ask(requests.query(sql, form, rows_max, timeout))

    def analytics(
        self,
        name: str,
        *,
        since: str | int | None = None,
        until: str | int | None = None,
        project: str | None = None,
        limit: int = 1_000,
    ) -> Analytics:
        """The ready-made ones: tokens, errors, latency, leaderboard, tools. `since` and `until` are
        about when runs ended: a time span back from now (`7d`), a date, or milliseconds."""
        return self._ask(requests.analytics(name, since, until, project, limit))

    def archive_status(self) -> ArchiveStatus:
        """Where ended runs are kept, and how many are not there yet."""
        return self._ask(requests.archive_status())

    def archive_flush(self) -> ArchiveFlushed:
        """Returns once every run that has ended is in the archive."""
        return self._ask(requests.archive_flush())

    def archive_verify(self) -> ArchiveVerified:
        """Compares what is in the archive with what should be."""
        return self._ask(requests.archive_verify())

    # ---- changing ----

    def cancel(self, run_id: str, reason: str = "") -> None:
        self._ask(requests.cancel(run_id, reason))

    def signal(
        self, run_id: str, name: str, value: Any = None, *, signal_id: str | None = None
    ) -> None:
        """Send a signal; the same `signal_id` twice counts once."""
        self._ask(requests.signal(run_id, name, value, signal_id))

    def resolve_wait(self, run_id: str, wait_id: str, value: Any) -> None:
        """Answer a question; `get(run_id).waits` has the open ones."""
        self._ask(requests.resolve_wait(run_id, wait_id, value))

    # ---- inside ----

    def _ask(self, request: Request[T]) -> T:
        try:
            response = self._http.request(
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

    def _stream(self, request: Request[None]) -> Iterator[Event]:
        parser = EventParser()
        try:
            with self._http.stream(
                request.method,
                request.path,
                headers={"accept-encoding": "identity", **request.headers},
                timeout=httpx.Timeout(limits.request_timeout_s, read=limits.event_silence_s),
            ) as response:
                if response.status_code != 200:
                    request.read(response.status_code, response.read())
                    return
                for data in response.iter_raw():
                    for event in parser.feed(data):
                        refusal = refusal_of(event)
                        if refusal is not None:
                            raise refusal
                        yield event
        except httpx.HTTPError as error:
            raise lost(error, self._http.base_url) from error


class Deadline:
    """How long to wait in one request, of a time that may be longer than a request should be."""

    def __init__(self, clock: Clock, timeout_s: float | None) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._end_us = None if timeout_s is None else clock.monotonic_us() + timeout_s * 1_000_000

    def wait_s(self) -> float:
        if self._end_us is None:
            return limits.result_wait_s
        left_s = (self._end_us - self._clock.monotonic_us()) / 1_000_000
        return max(0.0, min(left_s, limits.result_wait_s))

    def check(self, run_id: str) -> None:
        if self._end_us is not None and self._clock.monotonic_us() >= self._end_us:
            raise TimeoutError(f"run {run_id} has not ended within {self._timeout_s:g} s")


def timeout_of(request: Request[Any]) -> httpx.Timeout:
    return httpx.Timeout(limits.request_timeout_s, read=request.timeout_s)


def refusal_of(event: Event) -> EngineError | None:
    """The engine says in the stream when it cannot go on."""
    if event.name != "error":
        return None
    return error_of_problem(200, requests.as_json(event.data))


def translated(
    error: httpx.HTTPError, base_url: httpx.URL, request: Request[Any]
) -> ConnectionLost | TimeoutError:
    if isinstance(error, httpx.ReadTimeout):
        is_query = request.path == requests.QUERY_PATH
        begun = "the query is stopped" if is_query else "a run that it started goes on"
        return TimeoutError(f"{base_url} did not answer in time; {begun}")
    return lost(error, base_url)


def lost(error: httpx.HTTPError, base_url: httpx.URL) -> ConnectionLost:
    return ConnectionLost(
        f"{base_url} cannot be reached: {type(error).__name__} {error}; is the engine running?",
        endpoint=str(base_url),
    )
