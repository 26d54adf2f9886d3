"""Queries through the clients: what is sent, and what a result is to a program or a notebook."""

from __future__ import annotations

import datetime
import decimal
import sys
import threading

import pyarrow as pa
import pytest

from engine.base.errors import InvalidQuery
from engine.sdk import Client, MissingPackage, QueryResult
from engine.sdk.client.query_result import QueryBytes
from tests.sdk.fake_gateway import FakeGateway, serving
from tests.sdk.test_client import Ask, asking

__all__ = ["asking"]  # the fixture: every kind of client against the small gateway

SQL = "SELECT component, sum(cost) FROM runs GROUP BY 1"


def stream_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def result_of(**columns: pa.Array) -> QueryResult:
    return QueryResult(QueryBytes(body=stream_of(pa.table(columns))))


TABLE = pa.table({"component": ["checkout", "Größe"], "runs": [3, None]})


# ---- over HTTP ----


def test_a_query_gives_its_rows(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    gateway.found[SQL] = stream_of(TABLE)
    result = ask("query", SQL, rows_max=7)
    assert (gateway.last.method, gateway.last.path) == ("POST", "/v1/query")
    assert gateway.last.body == {"sql": SQL, "rows_max": 7}
    assert gateway.last.headers["accept"] == "application/vnd.apache.arrow.stream"
    assert gateway.last.headers["content-type"] == "application/json"
    assert result.rows == [("checkout", 3), ("Größe", None)]
    assert (result.truncated, result.skipped, result.elapsed_ms) == (False, (), 0.0)


def test_what_is_beside_the_rows(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    gateway.found[SQL] = stream_of(TABLE)
    gateway.query_facts = {
        "x-query-truncated": "true",
        "x-query-skipped": '["a.parquet: \\u00fcbel"]',
        "x-query-elapsed-ms": "12.5",
    }
    result = ask("query", SQL)
    assert gateway.last.body == {"sql": SQL}
    assert (result.truncated, result.elapsed_ms) == (True, 12.5)
    assert result.skipped == ("a.parquet: übel",)
    assert repr(result) == (
        "<QueryResult of 2 rows: component, runs, truncated, 1 objects skipped>"
    )


def test_a_query_as_bytes(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    gateway.found[SQL] = b"component,runs\n"
    assert ask("query_bytes", SQL, "csv") == QueryBytes(body=b"component,runs\n")
    assert gateway.last.headers["accept"] == "text/csv"


def test_a_query_that_is_wrong(asking: tuple[FakeGateway, Ask]) -> None:
    _, ask = asking
    with pytest.raises(InvalidQuery, match="no FROM") as caught:
        ask("query", "SELECT")
    assert caught.value.details["field"] == "sql"


def test_a_query_that_is_not_waited_for() -> None:
    with serving() as (gateway, url), Client(url) as client:
        never = threading.Event()
        gateway.answer = lambda asked: (200, never.wait(1))  # type: ignore[method-assign]
        with pytest.raises(TimeoutError, match="the query is stopped"):
            client.query(SQL, timeout=0.01)
        never.set()


def test_analytics(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    found = ask("analytics", "tokens", since="7d", until=1_767_225_600_000, project="shop")
    assert gateway.last.path == "/v1/analytics/tokens"
    assert gateway.last.query == {
        "from": "7d",
        "to": "1767225600000",
        "project": "shop",
        "limit": "1000",
    }
    assert (list(found), len(found)) == ([{"model": "m", "tokens_in": 5}], 1)
    assert (found.name, found.truncated) == ("tokens", True)


def test_the_archive(asking: tuple[FakeGateway, Ask]) -> None:
    _, ask = asking
    status = ask("archive_status")
    assert (status.url, status.waiting_runs, status.reachable) == ("s3://engine", 3, False)
    assert ask("archive_flush").bytes == 300
    assert ask("archive_verify").problems == ("one is short",)


def test_the_filters_of_a_list(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    ask("list", kind="tool", error_code="declined", tags={"team": "a"}, since="7d", status=None)
    assert gateway.last.query == {
        "kind": "tool",
        "error_code": "declined",
        "tag.team": "a",
        "since": "7d",
    }


# ---- a result ----


def test_a_result_is_rows_and_dicts() -> None:
    result = QueryResult(QueryBytes(body=stream_of(TABLE)))
    assert result.columns == ("component", "runs")
    assert list(result) == [
        {"component": "checkout", "runs": 3},
        {"component": "Größe", "runs": None},
    ]
    assert len(result) == 2
    assert result.arrow().equals(TABLE)
    assert pa.ipc.open_stream(result.stream).read_all().equals(TABLE)
    assert repr(result) == "<QueryResult of 2 rows: component, runs>"


def test_a_result_without_rows() -> None:
    result = QueryResult(QueryBytes(body=stream_of(TABLE.slice(0, 0))))
    assert (result.columns, result.rows, list(result), len(result)) == (
        ("component", "runs"),
        [],
        [],
        0,
    )


def test_values_are_pythons_own() -> None:
    result = result_of(
        total=pa.array([decimal.Decimal(7)], pa.decimal128(38, 0)),
        huge=pa.array([decimal.Decimal(2**70)], pa.decimal128(38, 0)),
        price=pa.array([decimal.Decimal("1.50")], pa.decimal128(5, 2)),
        tags=pa.array([[("team", "a")]], pa.map_(pa.string(), pa.string())),
        at=pa.array([datetime.datetime(2026, 1, 31)], pa.timestamp("us")),
        parts=pa.array([[{"a": 1}]]),
    )
    ((total, huge, price, tags, at, parts),) = result.rows
    assert (total, type(total)) == (7, int)
    assert huge == 2**70
    assert price == decimal.Decimal("1.50")
    assert (tags, parts) == ({"team": "a"}, [{"a": 1}])
    assert at == datetime.datetime(2026, 1, 31)


@pytest.mark.parametrize(
    ("ask", "module", "package"),
    [
        ("arrow", "pyarrow.ipc", "pyarrow"),
        ("pandas", "pandas", "pandas"),
        ("polars", "polars", "polars"),
    ],
)
def test_a_library_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, ask: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = QueryResult(QueryBytes(body=stream_of(TABLE)))
    with pytest.raises(MissingPackage, match=f"pip install {package}") as caught:
        getattr(result, ask)()
    assert caught.value.details["package"] == package
