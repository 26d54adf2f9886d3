"""What a client can ask of the gateway, as values: a request, and how its answer is read.

One function for each question. Nothing is sent here; `client.py` and `async_client.py` do that,
each in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypedDict, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from engine.base.errors import EngineError, InvalidEndpoint
from engine.model.payloads import Error
from engine.model.query import ArchiveFlushed, ArchiveStatus, ArchiveVerified
from engine.model.views import RunPage, RunView
from engine.sdk import limits, problems, values
from engine.sdk.authoring.components import Component
from engine.sdk.client.query_result import Analytics, QueryBytes, QueryForm
from engine.sdk.errors import RunFailed

T = TypeVar("T")


class Request(msgspec.Struct, Generic[T], frozen=True):
    method: str
    path: str
    read: Callable[[int, bytes], T]
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    # How long the answer may take; None: as long as the run.
    timeout_s: float | None = limits.request_timeout_s
    # Adds what the answer's headers say to what was read of its body.
    note: Callable[[T, Mapping[str, str]], T] | None = None

    def answered(self, status: int, headers: Mapping[str, str], body: bytes) -> T:
        """What the answer says; raises if it is an error."""
        found = self.read(status, body)
        return found if self.note is None else self.note(found, headers)


class StartKeywords(TypedDict, total=False):
    """What can be said about a run besides its input; see `StartOptions`."""

    kind: str
    idempotency_key: str
    deployment_id: str
    session_id: str
    user_id: str
    correlation_id: str
    entity_key: str
    prompt_version: str
    start_at_ms: int
    tags: Mapping[str, str]


class StartOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same as a value. With an idempotency key a second start gives the first one's run. The
    kind is "workflow" unless a component is given that is of another one."""

    kind: str | None = None
    idempotency_key: str | None = None
    deployment_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    correlation_id: str | None = None
    entity_key: str | None = None
    prompt_version: str | None = None
    start_at_ms: int | None = None
    tags: Mapping[str, str] = {}


class RunFilters(TypedDict, total=False):
    """Which runs a list has; what is left out does not matter. `since` is a time span back from now
    (`7d`), a date, or milliseconds since 1970; `tags` all have to be on the run."""

    status: str | None
    component: str | None
    kind: str | None
    project_id: str | None
    error_code: str | None
    parent: str | None
    tags: Mapping[str, str] | None
    since: str | None
    created_from_ms: int | None
    created_to_ms: int | None
    limit: int
    cursor: str | None


class JournalRecord(msgspec.Struct, frozen=True):
    """One record of a run, as people read it."""

    offset: int
    kind: str
    timestamp_us: int
    payload: dict[str, Any]


class _Answer(msgspec.Struct):
    run_id: str
    status: str
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: Error | None = None


class _RunId(msgspec.Struct):
    run_id: str


class _Status(msgspec.Struct):
    status: str


class _Why(msgspec.Struct):
    why: str


class _Page(msgspec.Struct):
    entries: list[JournalRecord]
    next_offset: int


NOT_YET: Final[Any] = object()
QUERY_PATH: Final = "/v1/query"
_MEDIA_TYPES: Final[Mapping[QueryForm, str]] = {
    "arrow": "application/vnd.apache.arrow.stream",
    "csv": "text/csv",
    "json": "application/json",
}

AnyComponent = Component[..., Any]


def checked_base_url(url: str) -> str:
    parts = urlsplit(url) if "://" in url else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        rest = url.rpartition("://")[2] or "127.0.0.1:34181"
        raise InvalidEndpoint(
            f"base_url {url!r} has no scheme http:// or https://: write http://{rest}", endpoint=url
        )
    return url.rstrip("/")


def auth_headers(api_key: str | None) -> dict[str, str]:
    return {"x-api-key": api_key} if api_key else {}


def reconnect_s(failures: int) -> float:
    """How long to wait before an event stream is opened again."""
    return min(limits.reconnect_ms_initial << failures, limits.reconnect_ms_max) / 1_000


def as_json(value: Any) -> bytes:
    return msgspec.json.encode(value)


# ---- starting ----


def run(
    component: AnyComponent | str, value: Any, options: StartOptions, timeout_s: float | None
) -> Request[Any]:
    return Request(
        "POST",
        _start_path(component, options, "run"),
        _reader_of_outcome(component),
        query=_start_query(options),
        headers=_start_headers(options),
        body=values.encode(value, "the input"),
        timeout_s=timeout_s,
    )


def submit(component: AnyComponent | str, value: Any, options: StartOptions) -> Request[str]:
    return Request(
        "POST",
        _start_path(component, options, "submit"),
        lambda status, body: _typed(_RunId, status, body).run_id,
        query=_start_query(options),
        headers=_start_headers(options),
        body=values.encode(value, "the input"),
    )


# ---- asking ----


def result(run_id: str, wait_s: float, component: AnyComponent | str | None = None) -> Request[Any]:
    """The output, or NOT_YET."""
    read = _reader_of_outcome(component)
    return Request(
        "GET",
        f"/v1/result/{quote(run_id, safe='')}",
        lambda status, body: NOT_YET if status == 202 else read(status, body),
        query={"wait_s": f"{wait_s:g}"},
        timeout_s=wait_s + limits.request_timeout_s,
    )


def status(run_id: str) -> Request[str]:
    return Request(
        "GET",
        f"/v1/status/{quote(run_id, safe='')}",
        lambda code, body: _typed(_Status, code, body).status,
    )


def get(run_id: str) -> Request[RunView]:
    return Request("GET", _run_path(run_id), lambda code, body: _typed(RunView, code, body))


def why(run_id: str) -> Request[str]:
    return Request("GET", _run_path(run_id, "why"), lambda code, body: _typed(_Why, code, body).why)


def journal(run_id: str, from_offset: int, limit: int) -> Request[list[JournalRecord]]:
    return Request(
        "GET",
        _run_path(run_id, "journal"),
        lambda code, body: _typed(_Page, code, body).entries,
        query={"from_offset": str(from_offset), "limit": str(limit)},
    )


def list_runs(filters: RunFilters) -> Request[RunPage]:
    named: dict[str, Any] = {**filters}
    tags = named.pop("tags", None) or {}
    query = {name: str(value) for name, value in named.items() if value is not None}
    query.update(_tag_query(tags))
    return Request("GET", "/v1/runs", lambda code, body: _typed(RunPage, code, body), query=query)


def events(run_id: str, after: int | None) -> Request[None]:
    """Its answer is a stream, which `sse.py` reads."""
    headers = {"accept": "text/event-stream"}
    if after is not None:
        headers["last-event-id"] = str(after)
    return Request("GET", _run_path(run_id, "events"), _done, headers=headers)


# ---- the tiers ----


def query(
    sql: str, form: QueryForm, rows_max: int | None, timeout_s: float | None
) -> Request[QueryBytes]:
    asked = {"sql": sql} if rows_max is None else {"sql": sql, "rows_max": rows_max}
    return Request(
        "POST",
        QUERY_PATH,
        _query_bytes,
        headers={"accept": _MEDIA_TYPES[form]},
        body=msgspec.json.encode(asked),
        timeout_s=limits.query_timeout_s if timeout_s is None else timeout_s,
        note=_query_facts,
    )


def analytics(
    name: str, since: str | int | None, until: str | int | None, project: str | None, limit: int
) -> Request[Analytics]:
    named = {"from": since, "to": until, "project": project, "limit": limit}
    return Request(
        "GET",
        f"/v1/analytics/{quote(name, safe='')}",
        lambda status, body: _typed(Analytics, status, body),
        query={key: str(value) for key, value in named.items() if value is not None},
        timeout_s=limits.query_timeout_s,
    )


def archive_status() -> Request[ArchiveStatus]:
    return Request("GET", "/v1/archive", lambda code, body: _typed(ArchiveStatus, code, body))


def archive_flush() -> Request[ArchiveFlushed]:
    return Request(
        "POST",
        "/v1/archive/flush",
        lambda code, body: _typed(ArchiveFlushed, code, body),
        timeout_s=limits.archive_timeout_s,
    )


def archive_verify() -> Request[ArchiveVerified]:
    return Request(
        "POST",
        "/v1/archive/verify",
        lambda code, body: _typed(ArchiveVerified, code, body),
        timeout_s=limits.archive_timeout_s,
    )


def _query_bytes(status: int, body: bytes) -> QueryBytes:
    _refuse_problem(status, body)
    return QueryBytes(body=body)


def _query_facts(answer: QueryBytes, headers: Mapping[str, str]) -> QueryBytes:
    """What the two forms that are only rows have beside them."""
    return QueryBytes(
        body=answer.body,
        truncated=headers.get("x-query-truncated") == "true",
        skipped=tuple(msgspec.json.decode(headers.get("x-query-skipped", "[]"), type=list[str])),
        elapsed_ms=float(headers.get("x-query-elapsed-ms", 0.0)),
    )


# ---- changing ----


def cancel(run_id: str, reason: str) -> Request[None]:
    return Request(
        "POST", _run_path(run_id, "cancel"), _done, body=msgspec.json.encode({"reason": reason})
    )


def signal(run_id: str, name: str, value: Any, signal_id: str | None) -> Request[None]:
    return Request(
        "POST",
        _run_path(run_id, "signals", name),
        _done,
        headers={"idempotency-key": signal_id} if signal_id else {},
        body=values.encode(value, f"the payload of signal {name!r}"),
    )


def resolve_wait(run_id: str, wait_id: str, value: Any) -> Request[None]:
    return Request(
        "POST",
        _run_path(run_id, "waits", wait_id, "resolve"),
        _done,
        body=values.encode(value, f"the answer to wait {wait_id!r}"),
    )


# ---- inside ----


def _start_path(component: AnyComponent | str, options: StartOptions, verb: str) -> str:
    if isinstance(component, Component):
        kind, name = options.kind or component.kind.name.lower(), component.name
    else:
        kind, name = options.kind or "workflow", component
    return f"/v1/{quote(kind, safe='')}/{quote(name, safe='')}/{verb}"


def _start_query(options: StartOptions) -> dict[str, str]:
    names = ("correlation_id", "entity_key", "prompt_version", "start_at_ms")
    query = {name: str(value) for name in names if (value := getattr(options, name)) is not None}
    query.update(_tag_query(options.tags))
    return query


def _tag_query(tags: Mapping[str, str]) -> dict[str, str]:
    return {f"tag.{name}": text for name, text in tags.items()}


def _start_headers(options: StartOptions) -> dict[str, str]:
    named = {
        "idempotency-key": options.idempotency_key,
        "x-deployment-id": options.deployment_id,
        "x-session-id": options.session_id,
        "x-user-id": options.user_id,
    }
    return {name: value for name, value in named.items() if value is not None}


def _run_path(run_id: str, *more: str) -> str:
    return "/".join(("/v1/runs", quote(run_id, safe=""), *(quote(part, safe="") for part in more)))


def _reader_of_outcome(component: AnyComponent | str | None) -> Callable[[int, bytes], Any]:
    decoder = component.output_decoder if isinstance(component, Component) else None

    def read(status: int, body: bytes) -> Any:
        answer = _typed(_Answer, status, body)
        if answer.status != "COMPLETED":
            error = answer.error or Error(code=answer.status.lower())
            raise RunFailed(answer.run_id, answer.status, error)
        return values.decode_as(decoder, bytes(answer.output), f"the output of run {answer.run_id}")

    return read


def _typed(answer_type: type[T], status: int, body: bytes) -> T:
    _refuse_problem(status, body)
    try:
        return msgspec.json.decode(body, type=answer_type)
    except msgspec.MsgspecError as error:
        raise _unexpected(status, body) from error


def _done(status: int, body: bytes) -> None:
    _refuse_problem(status, body)


def _refuse_problem(status: int, body: bytes) -> None:
    if not 200 <= status < 300:
        raise problems.error_of_problem(status, body)


def _unexpected(status: int, body: bytes) -> EngineError:
    return problems.error_of_problem(status, b"" if body[:1] in (b"{", b"[") else body)
