"""The JSON of the public API: what bodies and query strings may hold, and what is answered.

The OpenAPI document is generated from these types, so their docstrings are read by users.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from engine.base.limits import (
    idempotency_key_bytes_max,
    key_length_max,
    list_runs_max,
    name_length_max,
    query_rows_max,
    time_ms_max,
)
from engine.base.moments import MILLISECONDS_PATTERN, SPAN_PATTERN
from engine.gateway.settings import (
    analytics_rows_max,
    batch_inputs_max,
    page_entries_max,
    tags_max,
)
from engine.model.views import ComponentView, KindName, StatusName

KeyText = Annotated[str, msgspec.Meta(min_length=1, max_length=idempotency_key_bytes_max)]
OptionalText = Annotated[str, msgspec.Meta(max_length=key_length_max)]
NameText = Annotated[str, msgspec.Meta(min_length=1, max_length=name_length_max)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=time_ms_max)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# What a document cannot say of a text in one word.
RunIdText = Annotated[str, msgspec.Meta(min_length=1, extra_json_schema={"format": "uuid"})]
Moment = Annotated[
    str,
    msgspec.Meta(
        extra_json_schema={
            "anyOf": [
                {"pattern": f"^{SPAN_PATTERN}$"},
                {"format": "date"},
                {"format": "date-time"},
                {"pattern": f"^{MILLISECONDS_PATTERN}$"},
            ]
        }
    ),
]
RowsMax = Annotated[int, msgspec.Meta(ge=1, le=query_rows_max)]


class StartOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query parameters of a start; `tag.NAME=VALUE` puts a tag on the run."""

    start_at_ms: Milliseconds = 0
    entity_key: OptionalText = ""
    correlation_id: OptionalText = ""
    prompt_version: OptionalText = ""


class StartLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of `runs:batch`. What is left out is taken from the request's headers."""

    component: Annotated[str, msgspec.Meta(min_length=1)]
    kind: KindName | None = None
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    idempotency_key: KeyText | None = None
    deployment_id: NameText | None = None
    session_id: OptionalText | None = None
    user_id: OptionalText | None = None
    trace_id: OptionalText | None = None
    correlation_id: OptionalText = ""
    tags: Annotated[dict[OptionalText, OptionalText], msgspec.Meta(max_length=tags_max)] = {}
    prompt_version: OptionalText = ""
    start_at_ms: Milliseconds = 0
    entity_key: OptionalText = ""


class BatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inputs for many runs of one component. With an Idempotency-Key header each run has the key
    `{key}#{index}`."""

    inputs: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=batch_inputs_max)]


class CancelBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """May be left out."""

    reason: OptionalText = ""


class RunsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which runs; newest first. `tag.NAME=VALUE` asks for runs with that tag, `since=7d` (or a
    date) for runs created since then (and since `created_from_ms`), `parent` for the child runs of
    a run."""

    status: StatusName | None = None
    component: str | None = None
    kind: KindName | None = None
    project_id: NameText | None = None
    error_code: OptionalText | None = None
    parent: RunIdText | None = None
    since: Moment | None = None
    created_from_ms: Milliseconds | None = None
    created_to_ms: Milliseconds | None = None
    cursor: RunIdText | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=list_runs_max)] = 100


class JournalQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which records."""

    from_offset: Offset = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=page_entries_max)] = 100


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to go on, for clients that cannot send the header Last-Event-ID."""

    after: Offset | None = None


class ResultQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to wait for a run that has not ended; 0 answers at once."""

    wait_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class QueryOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many rows at most; a body of JSON can say it too, and better."""

    rows_max: RowsMax | None = None


class QueryBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One SELECT over the views `runs` and `steps`."""

    sql: str
    rows_max: RowsMax | None = None


class AnalyticsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Over which runs. `from` and `to` are about when they ended: a time span back from now (`7d`),
    a date, or milliseconds since 1970."""

    from_: Moment | None = msgspec.field(default=None, name="from")
    to: Moment | None = None
    project: NameText | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=analytics_rows_max)] = 1_000


class NoQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This route takes no query parameters."""


class RunError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run failed."""

    code: str
    message: str
    type: str = ""


class RunAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a run ended (`output` or `error`), or the status it has so far."""

    run_id: str
    status: StatusName
    output: Any = None
    error: RunError | None = None


class StartedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The run is durable. Not new: the idempotency key had started it before."""

    run_id: str
    is_new: bool


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    status: StatusName


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """For each input, in order, a StartedAnswer or a Problem."""

    runs: list[Any]


class EntryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a run's journal."""

    offset: int
    kind: str
    timestamp_us: int
    payload: dict[str, Any]


class JournalAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Records of a run, and the offset at which the next ones begin."""

    entries: list[EntryAnswer]
    next_offset: int


class WhyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Why the run is not progressing, in a sentence."""

    run_id: str
    why: str


class ComponentsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    components: list[ComponentView]


class DoneAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for is durable."""

    run_id: str
    done: Literal["cancelled", "signalled", "resolved", "started"]


class AnalyticsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An object for each row; the columns with their SQL types, in order."""

    name: str
    from_ms: int | None
    to_ms: int | None
    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[dict[str, Any]]
    truncated: bool
    skipped: tuple[str, ...]
    elapsed_ms: float


class EventAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One of a stream of server-sent events: its id is the offset of a record, if it has one, its
    data is JSON."""

    event: str
    data: str
    id: str = ""


class HealthAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    status: Literal["ok"]
