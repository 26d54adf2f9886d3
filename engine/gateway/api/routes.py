"""Everything that can be asked over HTTP, as one table.

The router, the Quart application and the OpenAPI document are made from it. A route that is hot is
a function over an Exchange in `handlers/hot.py` and beside it; the others are views of the same
name, behind Quart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from engine.gateway.api import exchange, shapes
from engine.gateway.api.problems import MalformedRequest, UnknownRoute
from engine.model.query import ArchiveFlushed, ArchiveStatus, ArchiveVerified, QueryAnswer
from engine.model.runs import ComponentKind
from engine.model.views import RunPage, RunView

JSON: Final = exchange.JSON_TYPE.decode()
NDJSON: Final = exchange.NDJSON_TYPE.decode()
EVENT_STREAM: Final = exchange.EVENT_STREAM_TYPE.decode()
TEXT: Final = "text/plain"


class Route(NamedTuple):
    name: str
    method: str
    pattern: str
    summary: str
    is_hot: bool = False
    is_open: bool = False  # answered without asking who asks
    query: type = shapes.NoQuery
    body: tuple[str, Any] | None = None  # media type and type
    answer: tuple[int, str, Any] = (200, JSON, None)
    problems: tuple[str, ...] = ()


_QUERY: Final = (
    "invalid_query",
    "query_refused",
    "query_timeout",
    "query_too_large",
    "query_busy",
    "not_acceptable",
)
_ARCHIVE: Final = ("archive_unreachable", "archive_refused", "archive_damaged")
_START: Final = ("unknown_component", "invalid_input", "idempotency_conflict", "journal_busy")
_RUN: Final = ("unknown_run", "invalid_name")

ROUTES: Final[Sequence[Route]] = (
    Route(
        "run",
        "POST",
        "/v1/{kind}/{component}/run",
        "Start a run and wait until it has ended; the body is its input",
        is_hot=True,
        query=shapes.StartOptions,
        body=(JSON, Any),
        answer=(200, JSON, shapes.RunAnswer),
        problems=_START,
    ),
    Route(
        "submit",
        "POST",
        "/v1/{kind}/{component}/submit",
        "Start a run; answers once it is durable",
        is_hot=True,
        query=shapes.StartOptions,
        body=(JSON, Any),
        answer=(202, JSON, shapes.StartedAnswer),
        problems=_START,
    ),
    Route(
        "stream",
        "POST",
        "/v1/{kind}/{component}/stream",
        "Start a run and stream its events",
        is_hot=True,
        query=shapes.StartOptions,
        body=(JSON, Any),
        answer=(200, EVENT_STREAM, shapes.EventAnswer),
        problems=_START,
    ),
    Route(
        "batch",
        "POST",
        "/v1/{kind}/{component}/batch",
        "Start one run for each input",
        query=shapes.StartOptions,
        body=(JSON, shapes.BatchBody),
        answer=(202, JSON, shapes.BatchAnswer),
        problems=_START,
    ),
    Route(
        "runs_batch",
        "POST",
        "/v1/runs:batch",
        "Start many runs of any components, one JSON object a line; answered in order, a line each",
        is_hot=True,
        body=(NDJSON, shapes.StartLine),
        answer=(200, NDJSON, shapes.StartedAnswer),
        problems=("body_too_large", "malformed_json", "journal_busy"),
    ),
    Route(
        "list_runs",
        "GET",
        "/v1/runs",
        "Runs, newest first",
        query=shapes.RunsQuery,
        answer=(200, JSON, RunPage),
        problems=("invalid_input", *_ARCHIVE),
    ),
    Route(
        "get_run",
        "GET",
        "/v1/runs/{run_id}",
        "A run and what it waits for",
        answer=(200, JSON, RunView),
        problems=_RUN,
    ),
    Route(
        "journal",
        "GET",
        "/v1/runs/{run_id}/journal",
        "The records of a run",
        query=shapes.JournalQuery,
        answer=(200, JSON, shapes.JournalAnswer),
        problems=(*_RUN, "offset_trimmed"),
    ),
    Route(
        "events",
        "GET",
        "/v1/runs/{run_id}/events",
        "Stream a run's events, from the first or behind Last-Event-ID; ends with the run. "
        "204 if the run has ended and there is nothing behind that id",
        is_hot=True,
        query=shapes.EventsQuery,
        answer=(200, EVENT_STREAM, shapes.EventAnswer),
        problems=(*_RUN, "gone"),
    ),
    Route(
        "why",
        "GET",
        "/v1/runs/{run_id}/why",
        "Why a run is not progressing",
        answer=(200, JSON, shapes.WhyAnswer),
        problems=_RUN,
    ),
    Route(
        "status",
        "GET",
        "/v1/status/{run_id}",
        "The status of a run",
        is_hot=True,
        answer=(200, JSON, shapes.StatusAnswer),
        problems=_RUN,
    ),
    Route(
        "result",
        "GET",
        "/v1/result/{run_id}",
        "How a run ended; 202 with its status if it has not",
        is_hot=True,
        query=shapes.ResultQuery,
        answer=(200, JSON, shapes.RunAnswer),
        problems=_RUN,
    ),
    Route(
        "cancel",
        "POST",
        "/v1/runs/{run_id}/cancel",
        "Cancel a run",
        body=(JSON, shapes.CancelBody),
        answer=(202, JSON, shapes.DoneAnswer),
        problems=(*_RUN, "run_terminal"),
    ),
    Route(
        "signal",
        "POST",
        "/v1/runs/{run_id}/signals/{name}",
        "Send a run a signal; the body is its payload, an Idempotency-Key its id",
        is_hot=True,
        body=(JSON, Any),
        answer=(202, JSON, shapes.DoneAnswer),
        problems=(*_RUN, "run_terminal"),
    ),
    Route(
        "resolve_wait",
        "POST",
        "/v1/runs/{run_id}/waits/{wait_id}/resolve",
        "Answer what a run waits for; the body is the value",
        body=(JSON, Any),
        answer=(202, JSON, shapes.DoneAnswer),
        problems=(*_RUN, "unknown_wait", "run_terminal"),
    ),
    Route(
        "components",
        "GET",
        "/v1/components",
        "What can be started, and how many workers serve it",
        answer=(200, JSON, shapes.ComponentsAnswer),
    ),
    Route(
        "query",
        "POST",
        "/v1/query",
        "One SELECT over `runs` and `steps`; JSON, CSV or an Arrow stream, by Accept",
        query=shapes.QueryOptions,
        body=(JSON, shapes.QueryBody),
        answer=(200, JSON, QueryAnswer),
        problems=(*_QUERY, *_ARCHIVE, "invalid_input"),
    ),
    Route(
        "analytics",
        "GET",
        "/v1/analytics/{analysis}",
        "Tokens and cost, errors, latency, scores, tool calls; JSON or CSV, by Accept",
        query=shapes.AnalyticsQuery,
        answer=(200, JSON, shapes.AnalyticsAnswer),
        problems=(*_QUERY, *_ARCHIVE, "invalid_input", "unknown_analysis"),
    ),
    Route(
        "archive",
        "GET",
        "/v1/archive",
        "How the archive is doing",
        answer=(200, JSON, ArchiveStatus),
    ),
    Route(
        "archive_flush",
        "POST",
        "/v1/archive/flush",
        "Put everything that has ended into the archive now; answers once it is there",
        answer=(200, JSON, ArchiveFlushed),
        problems=_ARCHIVE,
    ),
    Route(
        "archive_verify",
        "POST",
        "/v1/archive/verify",
        "Compare the objects of the archive with what is known of them",
        answer=(200, JSON, ArchiveVerified),
        problems=_ARCHIVE,
    ),
    Route(
        "webhook",
        "POST",
        "/v1/webhooks/{name}",
        "For other servers: a signed body starts a run or signals one, as the settings say",
        is_hot=True,
        is_open=True,
        body=(JSON, Any),
        answer=(202, JSON, shapes.DoneAnswer),
        problems=("invalid_signature", "rate_limited", *_START, *_RUN, "run_terminal"),
    ),
    Route(
        "healthz",
        "GET",
        "/healthz",
        "The process answers",
        is_hot=True,
        is_open=True,
        answer=(200, JSON, shapes.HealthAnswer),
    ),
    Route(
        "readyz",
        "GET",
        "/readyz",
        "The process can take work",
        is_hot=True,
        is_open=True,
        answer=(200, JSON, shapes.HealthAnswer),
        problems=("not_ready",),
    ),
    Route(
        "metrics",
        "GET",
        "/metrics",
        "Measurements, as Prometheus reads them",
        is_hot=True,
        is_open=True,
        answer=(200, TEXT, str),
    ),
    Route(
        "openapi", "GET", "/openapi.json", "This document", is_open=True, answer=(200, JSON, Any)
    ),
)
ROUTE_BY_NAME: Final[Mapping[str, Route]] = MappingProxyType({r.name: r for r in ROUTES})
assert len(ROUTE_BY_NAME) == len(ROUTES), "a route's name is its own"

# `POST /v1/workflow/...` and `POST /v1/workflows/...` are the same.
KINDS: Final[Mapping[str, ComponentKind]] = MappingProxyType(
    {kind.name.lower(): kind for kind in ComponentKind}
    | {f"{kind.name.lower()}s": kind for kind in ComponentKind if kind is not ComponentKind.ENTITY}
    | {"entities": ComponentKind.ENTITY}
)


class Found(NamedTuple):
    route: Route
    parameters: tuple[str, ...]


class _Candidate(NamedTuple):
    route: Route
    literals: tuple[tuple[int, str], ...]
    holes: tuple[int, ...]


def _candidates() -> Mapping[tuple[str, int], tuple[_Candidate, ...]]:
    table: dict[tuple[str, int], list[_Candidate]] = {}
    for route in ROUTES:
        parts = route.pattern.split("/")
        holes = tuple(index for index, part in enumerate(parts) if part.startswith("{"))
        # From the end, where the patterns of one length differ.
        literals = tuple(
            (index, part)
            for index, part in reversed(list(enumerate(parts)))
            if index not in holes and part
        )
        table.setdefault((route.method, len(parts)), []).append(_Candidate(route, literals, holes))
    return {key: tuple(candidates) for key, candidates in table.items()}


_TABLE: Final = _candidates()
_METHODS: Final = tuple(sorted({route.method for route in ROUTES}))


def find(method: str, path: str) -> Found | None:
    """The route for a path as it was sent; its parameters come decoded."""
    parts = path.split("/")
    for candidate in _TABLE.get((method, len(parts)), ()):
        for index, literal in candidate.literals:
            if parts[index] != literal:
                break
        else:
            parameters = tuple([parts[index] for index in candidate.holes])
            if "" in parameters:
                return None
            return Found(candidate.route, _decoded(parameters) if "%" in path else parameters)
    return None


def methods_of(path: str) -> list[str]:
    return [method for method in _METHODS if find(method, path) is not None]


def kind_named(name: str) -> ComponentKind:
    kind = KINDS.get(name)
    if kind is None:
        singular = ", ".join(kind.name.lower() for kind in ComponentKind)
        raise UnknownRoute(f"there is no kind of component {name!r}; use one of {singular}")
    return kind


def _decoded(parameters: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(unquote(parameter, errors="strict") for parameter in parameters)
    except UnicodeDecodeError as error:
        raise MalformedRequest(
            f"the path is not UTF-8 when percent-decoded: {error}", field="path"
        ) from error
