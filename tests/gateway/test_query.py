"""SQL, analytics and the archive over HTTP: the forms of a question and of its answer, what is
refused and how, and that nobody computes for a client that has left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote

import pyarrow as pa
import pytest
import trio

from engine.base.errors import QueryTimeout
from engine.gateway.api.tables import TABLE_TYPES, chosen_type
from engine.model.query import ANALYTICS, AnalyticsFilter
from engine.model.runs import ComponentKind, RunStatus
from tests.gateway.client import NOT_PLAIN, Answer, Client
from tests.gateway.conftest import OTHER_KEY, Connect, RunningGateway
from tests.gateway.fake_handle import ASK, ECHO, FAIL
from tests.gateway.fake_tiers import ENDLESS
from tests.gateway.test_problems import check_problem

NOW_MS = 1_767_225_600_000  # where the clock of the tests stands
DAY_MS = 86_400_000
ARROW = "application/vnd.apache.arrow.stream"
COUNTED = "SELECT status, count(*) AS runs FROM runs GROUP BY status ORDER BY status"
COUNTS = [["COMPLETED", 2], ["FAILED", 1]]
JSON_HEADERS = {"Content-Type": "application/json"}


async def three_runs(client: Client) -> None:
    for component in (ECHO, ECHO, FAIL):
        assert (await client.post(f"/v1/workflows/{component}/run", {})).status == 200


async def ask_sql(client: Client, sql: str, **headers: str) -> Answer:
    return await client.ask("POST", "/v1/query", sql.encode(), headers)


# ---- SQL ----


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("", json.dumps({"sql": COUNTED}), JSON_HEADERS),
        ("", json.dumps({"sql": COUNTED, "rows_max": 2}), {}),
        ("", COUNTED, {"Content-Type": "text/plain"}),
        ("?rows_max=2", COUNTED, {"Content-Type": "application/sql; charset=utf-8"}),
        ("", f"  {COUNTED};\n", {"Content-Type": "application/x-www-form-urlencoded"}),
        ("", f"-- {{\n{COUNTED}", {"Accept": "text/html, */*;q=0.1"}),
    ],
)
async def test_a_query_is_json_or_plain_sql(
    connect: Connect, path: str, body: str, headers: Mapping[str, str]
) -> None:
    async with connect() as client:
        await three_runs(client)
        answer = await client.ask("POST", f"/v1/query{path}", body.encode(), headers)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json["columns"] == ["status", "runs"]
    assert answer.json["types"] == ["VARCHAR", "BIGINT"]
    assert answer.json["rows"] == COUNTS
    assert (answer.json["truncated"], answer.json["skipped"]) == (False, [])
    assert answer.json["elapsed_ms"] == 1.5


async def test_a_query_sees_its_tenant_only(gateway: RunningGateway) -> None:
    async with gateway.client() as client:
        await three_runs(client)
        answer = await ask_sql(client, COUNTED, X_API_Key=OTHER_KEY)
    assert answer.json["rows"] == []


async def test_more_rows_than_may_be_answered(connect: Connect) -> None:
    async with connect() as client:
        await three_runs(client)
        body = {"sql": "SELECT run_id FROM runs", "rows_max": 2}
        answer = await client.post("/v1/query", body)
        as_csv = await client.post("/v1/query", body, Accept="text/csv")
    assert (len(answer.json["rows"]), answer.json["truncated"]) == (2, True)
    assert as_csv.headers["x-query-truncated"] == "true"
    assert as_csv.body.count(b"\n") == 3


async def test_an_arrow_stream(gateway: RunningGateway, connect: Connect) -> None:
    gateway.handle.tiers.skipped = ("runs/tag=übel.parquet: no Parquet", "x" * 1_000)
    async with connect() as client:
        await three_runs(client)
        answer = await ask_sql(client, f"{COUNTED} LIMIT 1", Accept=ARROW)
    assert (answer.status, answer.headers["content-type"]) == (200, ARROW)
    table = pa.ipc.open_stream(answer.body).read_all()
    assert table.to_pylist() == [{"status": "COMPLETED", "runs": 2}]
    assert answer.headers["x-query-truncated"] == "false"
    assert answer.headers["x-query-elapsed-ms"] == "2.5"
    skipped = json.loads(answer.headers["x-query-skipped"])
    assert skipped == ["runs/tag=übel.parquet: no Parquet", "x" * 200]


async def test_csv_keeps_every_value(connect: Connect) -> None:
    sql = "SELECT 'a\"b,c\nd' AS t, NULL AS n, true AS b, [1, 2] AS l, 1.5::DOUBLE AS d, 'é' AS u"
    async with connect() as client:
        answer = await ask_sql(client, sql, Accept="text/csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.body.decode() == 't,n,b,l,d,u\n"a""b,c\nd",,true,"[1,2]",1.5,é\n'


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("text/*", "text/csv"),
        ("text/html, text/csv;q=0.2", "text/csv"),
        (f"application/json;q=0.5, {ARROW}", ARROW),
        (f"application/json;q=x, {ARROW.upper()};q=0.1", ARROW),
        ("*/*, application/json;q=0", ARROW),
    ],
)
def test_accept_chooses(accept: str | None, chosen: str) -> None:
    assert chosen_type(accept, TABLE_TYPES).decode() == chosen


async def test_a_form_that_is_not_there(connect: Connect) -> None:
    async with connect() as client:
        answer = await ask_sql(client, COUNTED, Accept="application/xml")
        check_problem(answer, 406, "not_acceptable")
        assert answer.json["errors"][0]["field"] == "Accept"
        assert "text/csv" in answer.json["detail"]
        answer = await client.get("/v1/analytics/tokens", Accept=ARROW)
        check_problem(answer, 406, "not_acceptable")


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "field"),
    [
        (b"", {}, 422, "invalid_input", "sql"),
        (b"  \n", {"Content-Type": "text/plain"}, 422, "invalid_input", "sql"),
        (b'{"sql":""}', {}, 422, "invalid_input", "sql"),
        (b"{}", JSON_HEADERS, 422, "invalid_input", "sql"),
        (b'{"sql":1}', JSON_HEADERS, 422, "invalid_input", "sql"),
        (b'{"sql":"SELECT 1","rows_max":0}', {}, 422, "invalid_input", "rows_max"),
        (b'{"sql":"SELECT 1","rows":1}', {}, 422, "invalid_input", "rows"),
        (b"SELECT '\xff'", {}, 422, "invalid_input", "sql"),
        (b"SELECT '\xff'", JSON_HEADERS, 400, "malformed_json", None),
        (b"SELECT", {}, 400, "invalid_query", "sql"),
        (b"SELECT nothing FROM runs", {}, 400, "invalid_query", "sql"),
        (b"DROP TABLE runs", {}, 403, "query_refused", "sql"),
        (b"SELECT 1; SELECT 2", {}, 403, "query_refused", "sql"),
    ],
)
async def test_what_is_no_query(
    connect: Connect,
    body: bytes,
    headers: Mapping[str, str],
    status: int,
    code: str,
    field: str | None,
) -> None:
    async with connect() as client:
        answer = await client.ask("POST", "/v1/query", body, headers)
    check_problem(answer, status, code)
    if field is not None:
        assert answer.json["errors"][0]["field"] == field


@pytest.mark.parametrize("path", ["/v1/query?rows_max=all", "/v1/query?rowsmax=1"])
async def test_a_wrong_parameter_of_a_query(connect: Connect, path: str) -> None:
    async with connect() as client:
        answer = await client.ask("POST", path, COUNTED.encode())
    check_problem(answer, 422, "invalid_input")
    assert answer.json["errors"][0]["field"].startswith("rows")


async def test_a_query_that_takes_too_long(gateway: RunningGateway, connect: Connect) -> None:
    gateway.handle.next_failure = QueryTimeout("the query took longer than 30 s; narrow it")
    async with connect() as client:
        check_problem(await ask_sql(client, COUNTED), 504, "query_timeout")


@pytest.mark.parametrize("headers", [(), (NOT_PLAIN,)], ids=["plain", "hypercorn"])
@pytest.mark.parametrize("accept", ["application/json", ARROW])
async def test_a_query_ends_when_its_client_leaves(
    gateway: RunningGateway, headers: tuple[tuple[str, str], ...], accept: str
) -> None:
    async with gateway.client(*headers) as client:
        await client.send("POST", "/v1/query", ENDLESS.encode(), {"Accept": accept})
        await until(gateway, querying=1)
    await until(gateway, querying=0)


async def until(gateway: RunningGateway, *, querying: int) -> None:
    while gateway.handle.tiers.querying != querying:
        await trio.lowlevel.checkpoint()


# ---- analytics ----


@pytest.mark.parametrize("name", ANALYTICS)
async def test_analytics_are_objects(gateway: RunningGateway, connect: Connect, name: str) -> None:
    path = f"/v1/analytics/{name}?from=7d&to=2026-01-01T12:00&project=shop&limit=5"
    async with connect() as client:
        await three_runs(client)
        answer = await client.get(path)
    chosen = AnalyticsFilter(
        from_ms=NOW_MS - 7 * DAY_MS, to_ms=NOW_MS + DAY_MS // 2, project_id="shop", limit=5
    )
    assert gateway.handle.tiers.analytics_asked == [(name, chosen)]
    assert answer.json == {
        "name": name,
        "from_ms": chosen.from_ms,
        "to_ms": chosen.to_ms,
        "columns": ["component", "tokens_in", "runs"],
        "types": ["VARCHAR", "BIGINT", "BIGINT"],
        "rows": [
            {"component": ECHO, "tokens_in": 4, "runs": 2},
            {"component": FAIL, "tokens_in": 2, "runs": 1},
        ],
        "truncated": False,
        "skipped": [],
        "elapsed_ms": 1.5,
    }


async def test_analytics_without_bounds(gateway: RunningGateway, connect: Connect) -> None:
    async with connect() as client:
        answer = await client.get("/v1/analytics/tokens", Accept="text/csv")
    assert answer.body == b"component,tokens_in,runs\n"
    assert gateway.handle.tiers.analytics_asked == [("tokens", AnalyticsFilter())]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=soon", "from"),
        ("to=2026-02-30", "to"),
        ("from=1d&to=2d", "from"),
        ("from=1d&to=1d", "from"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("project=", "project"),
        ("since=7d", "since"),
    ],
)
async def test_wrong_bounds_of_analytics(connect: Connect, query: str, field: str) -> None:
    async with connect() as client:
        answer = await client.get(f"/v1/analytics/tokens?{query}")
    check_problem(answer, 422, "invalid_input")
    assert answer.json["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("name", "near", "said"),
    [
        ("token", ["tokens"], "did you mean tokens?"),
        ("Errors", ["errors"], "did you mean errors?"),
        ("x", list(ANALYTICS), "there are tokens, errors, latency, leaderboard, tools"),
    ],
)
async def test_unknown_analytics(connect: Connect, name: str, near: list[str], said: str) -> None:
    async with connect() as client:
        answer = await client.get(f"/v1/analytics/{name}")
    check_problem(answer, 404, "unknown_analysis")
    assert answer.json["facts"]["nearest"] == near
    assert answer.json["detail"].endswith(said)


# ---- the archive ----


async def test_the_archive_tells_flushes_and_is_verified(connect: Connect) -> None:
    async with connect() as client:
        await three_runs(client)
        before = (await client.get("/v1/archive")).json
        flushed = (await client.ask("POST", "/v1/archive/flush")).json
        after = (await client.get("/v1/archive")).json
        verified = (await client.ask("POST", "/v1/archive/verify")).json
    assert (before["waiting_runs"], before["archived_runs"]) == (3, 0)
    assert flushed == {"runs": 3, "batches": 1, "bytes": 300, "took_ms": 3.5}
    assert (after["waiting_runs"], after["archived_runs"]) == (0, 3)
    assert verified == {"batches": 1, "runs": 3, "problems": []}


async def test_a_store_that_is_down(gateway: RunningGateway, connect: Connect) -> None:
    gateway.handle.tiers.is_store_down = True
    async with connect() as client:
        status = await client.get("/v1/archive")
        answer = await client.ask("POST", "/v1/archive/flush")
    assert (status.status, status.json["reachable"]) == (200, False)
    check_problem(answer, 503, "archive_unreachable")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/archive?x=1"),
        ("POST", "/v1/archive/flush?x=1"),
        ("POST", "/v1/archive/verify?x=1"),
    ],
)
async def test_a_parameter_that_the_archive_has_not(
    connect: Connect, method: str, path: str
) -> None:
    async with connect() as client:
        answer = await client.ask(method, path)
    check_problem(answer, 422, "invalid_input")
    assert answer.json["errors"][0]["field"] == "x"


# ---- which runs ----


async def listed(client: Client, query: str) -> list[str]:
    answer = await client.get(f"/v1/runs?{query}")
    assert answer.status == 200, answer
    return [run["component"] for run in answer.json["runs"]]


async def test_runs_by_kind_error_tag_and_time(gateway: RunningGateway, connect: Connect) -> None:
    async with connect() as client:
        await client.post(f"/v1/workflows/{ECHO}/run?tag.team=a&tag.city=%C3%85s", {})
        await client.post(f"/v1/tools/{ECHO}/run?tag.team=b", {})
        await client.post(f"/v1/workflows/{FAIL}/run?tag.team=a", {})
        gateway.clock.advance_us(2 * DAY_MS * 1_000)
        await client.post(f"/v1/workflows/{ASK}/submit", {})
        assert await listed(client, "kind=tool") == [ECHO]
        assert await listed(client, "error_code=declined") == [FAIL]
        assert await listed(client, "tag.team=a") == [FAIL, ECHO]
        assert await listed(client, f"tag.team=a&tag.city={quote('Ås')}") == [ECHO]
        assert await listed(client, "tag.team=c") == []
        assert await listed(client, "since=1d") == [ASK]
        assert await listed(client, "since=2026-01-03") == [ASK]
        assert await listed(client, "status=FAILED&since=7d") == [FAIL]


async def test_the_filter_of_a_list_says_all_of_it(gateway: RunningGateway) -> None:
    parent = "01890A5D-ac96-774b-bcce-b302099a8057"
    async with gateway.client() as client:
        query = f"status=FAILED&kind=scorer&error_code=e&parent={parent}&since=3h&limit=7"
        assert await listed(client, query) == []
    (asked,) = gateway.handle.filters
    assert (asked.status, asked.kind) == (RunStatus.FAILED, ComponentKind.SCORER)
    assert (asked.error_code, asked.parent_run_id) == ("e", parent.lower())
    assert (asked.created_from_ms, asked.limit) == (NOW_MS - DAY_MS // 8, 7)


async def test_of_two_moments_to_begin_at_the_later_counts(gateway: RunningGateway) -> None:
    async with gateway.client() as client:
        for from_ms in (5, NOW_MS - DAY_MS):
            await client.get(f"/v1/runs?since=7d&created_from_ms={from_ms}")
    found = [asked.created_from_ms for asked in gateway.handle.filters]
    assert found == [NOW_MS - 7 * DAY_MS, NOW_MS - DAY_MS]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("kind=workflows", "kind"),
        ("parent=mine", "parent"),
        ("since=monday", "since"),
        ("tag.=x", "tag."),
        ("tag=x", "tag"),
        (f"error_code={'e' * 513}", "error_code"),
    ],
)
async def test_a_wrong_filter_is_named(connect: Connect, query: str, field: str) -> None:
    async with connect() as client:
        answer = await client.get(f"/v1/runs?{query}")
    check_problem(answer, 422, "invalid_input")
    assert answer.json["errors"][0]["field"] == field
