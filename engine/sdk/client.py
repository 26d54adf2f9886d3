"""The client: starts runs and asks about them, over HTTP. Blocking; `async_client.py` is its twin.

    client = Client()
    receipt = client.run("checkout", {"items": ["book"]})

What is asked and how answers are read is in `requests.py`; here it is sent, and waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, TypeVar, Unpack

import httpx

from engine.base.clock import Clock, system_clock
from engine.base.errors import EngineError
from engine.model.views import RunPage, RunView
from engine.sdk import limits, requests
from engine.sdk.errors import ConnectionLost
from engine.sdk.problems import error_of_problem
from engine.sdk.requests import AnyComponent, JournalRecord, Request, StartKeywords, StartOptions
from engine.sdk.sse import Event, EventParser

T = TypeVar("T")

BASE_URL_DEFAULT: Final = "http://127.0.0.1:34181"


class Client:
    """Talks to the gateway at `base_url`. Errors of the engine are raised as they are named there:
    UnknownComponent, InvalidInput, UnknownRun and so on, each with a `code` and what to do."""

    def __init__(
        self,
        base_url: str = BASE_URL_DEFAULT,
        *,
        api_key: str | None = None,
        clock: Clock = system_clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._clock = clock
        self._http = httpx.Client(
            base_url=requests.checked_base_url(base_url),
            # Loading certificates takes longer than all the rest, and plain HTTP needs none.
            verify=base_url.startswith("https://"),
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

    def list(
        self,
        *,
        status: str | None = None,
        component: str | None = None,
        project_id: str | None = None,
        created_from_ms: int | None = None,
        created_to_ms: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> RunPage:
        """Runs, newest first; `cursor=page.next_cursor` gives the next page."""
        return self._ask(
            requests.list_runs(
                status=status,
                component=component,
                project_id=project_id,
                created_from_ms=created_from_ms,
                created_to_ms=created_to_ms,
                limit=limit,
                cursor=cursor,
            )
        )

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
            raise translated(error, self._http.base_url) from error
        return request.read(response.status_code, response.content)

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


def translated(error: httpx.HTTPError, base_url: httpx.URL) -> ConnectionLost | TimeoutError:
    if isinstance(error, httpx.ReadTimeout):
        return TimeoutError(f"{base_url} did not answer in time; a run that it started goes on")
    return lost(error, base_url)


def lost(error: httpx.HTTPError, base_url: httpx.URL) -> ConnectionLost:
    return ConnectionLost(
        f"{base_url} cannot be reached: {type(error).__name__} {error}; is the engine running?",
        endpoint=str(base_url),
    )
