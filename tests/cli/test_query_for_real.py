"""Queries against a runtime that is a process of its own: what ran is found, before and after it
has gone to the archive, and in the list as well."""

from __future__ import annotations

import uuid
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from engine.base.errors import InvalidQuery, QueryRefused
from engine.cli.main import engine
from engine.sdk import Client, RunFailed
from tests.cli.running import Running


def said(runtime: Running, *words: str) -> str:
    result = CliRunner().invoke(engine, [*words, "--url", runtime.http], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def team(client: Client) -> str:
    """The tag of three runs that have ended, one of them badly."""
    name = uuid.uuid4().hex
    for who in ("Ann", "Bob"):
        client.run("greet", who, tags={"team": name})
    with pytest.raises(RunFailed):
        client.run("fail", "no money", tags={"team": name})
    return name


def test_a_query_finds_what_ran_in_either_tier(runtime: Running, client: Client, team: str) -> None:
    sql = (
        "SELECT component, status, count(*) AS runs, sum(steps_completed) AS steps FROM runs "
        f"WHERE tags['team'] = '{team}' GROUP BY ALL ORDER BY component"
    )
    expected = [("fail", "FAILED", 1, 0), ("greet", "COMPLETED", 2, 2)]
    assert client.query(sql).rows == expected
    assert "ended runs" in said(runtime, "archive", "status")
    said(runtime, "archive", "flush")  # perhaps of nothing: the runtime does it by itself as well
    archived = client.archive_status()
    assert archived.archived_runs >= 3
    assert archived.waiting_runs == 0
    assert client.query(sql).rows == expected
    assert said(runtime, "archive", "verify").startswith("as they must be: ")


def test_every_form_has_the_same_rows(runtime: Running, tmp_path: Path, team: str) -> None:
    sql = f"SELECT run_id, component FROM runs WHERE tags['team'] = '{team}' ORDER BY run_id"
    rows = msgspec.json.decode(said(runtime, "query", sql, "--format", "json"))
    assert [row["component"] for row in rows] == ["greet", "greet", "fail"]
    lines = said(runtime, "query", sql, "--format", "csv").splitlines()
    assert lines[1:] == [f"{row['run_id']},{row['component']}" for row in rows]
    file = tmp_path / "runs.parquet"
    said(runtime, "query", sql, "-o", str(file))
    assert pq.read_table(file).to_pylist() == rows


def test_steps_are_there_as_well(client: Client, team: str) -> None:
    found = client.query(
        "SELECT s.name, s.status, s.output FROM steps s JOIN runs r USING (run_id) "
        f"WHERE r.tags['team'] = '{team}' AND s.kind = 'step' ORDER BY s.output"
    )
    assert found.rows[:2] == [
        ("say_hello", "completed", '"Hello, Ann"'),
        ("say_hello", "completed", '"Hello, Bob"'),
    ]


def test_more_rows_than_are_asked_for(client: Client, team: str) -> None:
    sql = f"SELECT run_id FROM runs WHERE tags['team'] = '{team}'"
    for rows_max, rows in ((1, 1), (3, 3), (10, 3)):
        found = client.query(sql, rows_max=rows_max)
        assert (len(found), found.truncated) == (rows, rows_max < 3)
        assert len(client.query_bytes(sql, "csv", rows_max=rows_max).body.splitlines()) == rows + 1


def test_what_a_query_may_not(client: Client) -> None:
    with pytest.raises(InvalidQuery, match="nothing"):
        client.query("SELECT nothing FROM runs")
    with pytest.raises(QueryRefused):
        client.query("COPY runs TO '/tmp/runs.csv'")


@pytest.mark.parametrize("name", ["tokens", "errors", "latency", "leaderboard", "tools"])
def test_every_one_of_the_analytics(runtime: Running, client: Client, team: str, name: str) -> None:
    found = client.analytics(name, since="1d", limit=10)
    assert found.columns
    assert all(tuple(row) == found.columns for row in found)
    said(runtime, "analytics", name, "--since", "1d")


def test_errors_are_counted_by_signature(runtime: Running, client: Client, team: str) -> None:
    rows = [row for row in client.analytics("errors", since="1d") if "money" in row["last_message"]]
    assert rows
    assert all(row["failures"] >= 1 for row in rows)
    year = said(runtime, "analytics", "errors").splitlines()[1]
    assert " UTC " in year, "moments are written for people"


def test_a_list_by_tag_kind_error_and_time(runtime: Running, client: Client, team: str) -> None:
    def listed(*words: str) -> list[str]:
        page = msgspec.json.decode(
            said(runtime, "runs", "ls", "--tag", f"team={team}", "--json", *words)
        )
        return [run["component"] for run in page["runs"]]

    everything = ["fail", "greet", "greet"]
    for _ in range(2):  # hot, then archived
        assert listed() == everything
        assert listed("--failed", "--since", "7d") == ["fail"]
        assert listed("--kind", "workflow") == everything
        assert listed("--kind", "tool") == []
        (code,) = {run.error_code for run in client.list(tags={"team": team}, status="FAILED").runs}
        assert listed("--error-code", code) == ["fail"]
        assert listed("--since", "2999-01-01") == []
        client.archive_flush()
